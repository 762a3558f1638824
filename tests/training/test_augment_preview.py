"""The contact sheet of augmentations shows what training feeds."""

import numpy as np
import pytest
from PIL import Image

from pawpularity.config import resolve
from pawpularity.data.photo_cache import Photos
from pawpularity.features.load import PixelInputs
from pawpularity.training import augment_preview


@pytest.mark.parametrize("augment", ["medium", "flip"])
def test_it_shows_what_training_feeds(work, drawn, paw, monkeypatch, augment):
    sheets, draw = [], augment_preview._draw
    monkeypatch.setattr(
        augment_preview, "_draw", lambda path, sheet, *more: (sheets.append(sheet), draw(path, sheet, *more))
    )
    done = paw(
        "augment-preview", "--augment", augment, "--n", 3, "--data", drawn, "--config", "scratch", "photos.size=32"
    )
    assert done.code == 0, done.err
    assert f"train.augment={augment}" in done.err.splitlines()[-1]
    with Image.open(work / "oof" / "augment" / f"{augment}.png") as sheet:
        assert sheet.width > sheet.height
    seen = sheets[0]
    assert [len(row) for row in seen] == [8] * 3
    config = resolve("scratch", ["photos.size=32", f"train.augment={augment}"])
    fed = training_views(config, drawn)
    for row in seen:
        photo, *views = (np.ascontiguousarray(one).tobytes() for one in row)
        assert set(views) <= fed[photo]


def training_views(config, folder):
    """For each photo the views of all epochs, as a network is fed them from photos."""
    from pawpularity.data.dataset import Dataset
    from pawpularity.training.samples import augmented, originals

    dataset = Dataset.load(folder, folder.parent / "cache")
    photos = dataset.photos(32, config.photos.fit)
    pixels = photos.pixels
    rows, views = augmented(config, originals(np.arange(len(photos))))
    found = PixelInputs(Photos("", photos.seeds, pixels), np.arange(len(photos)), config.train.transforms).take(
        rows, views
    )
    by_photo: dict[bytes, set[bytes]] = {}
    for row, one in zip(rows, found.numpy(), strict=True):
        by_photo.setdefault(pixels[row].tobytes(), set()).add(one.tobytes())
    return by_photo


def test_a_wrong_name_is_one_line(work, drawn, paw):
    done = paw("augment-preview", "--augment", "strng", "--data", drawn)
    assert done.code == 2
    assert "strong" in done.err.splitlines()[-1]
