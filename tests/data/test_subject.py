"""The subject's mask and the contrast, against the label maps of a drawn sample; then hypothesis 2 through the command."""

import cv2
import numpy as np
import pandas as pd
import pytest

from pawpularity.cli import main
from pawpularity.data import photo_cache, subject
from pawpularity.data.dataset import Dataset
from pawpularity.data.photos import decode
from pawpularity.data.subject import (
    BACKGROUND,
    OUTSIDE,
    SIZE,
    SUBJECT,
    contrast,
    measure,
    share,
    subject_box,
    subject_map,
)

PET, SECOND = (1, 2, 3, 5, 7), 6  # of the label maps: tongue, eyes, accessory, head, body; a second pet


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A sample other than the one the mask's numbers were chosen on."""
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    words = ("sample", "--photos", "170", "--size", "128", "--seed", "11", "--test-photos", "1", "--into", str(folder))
    assert main(words) == 0
    return folder


def test_a_disc_is_found_and_its_contrast_is_exact():
    photo = np.full((SIZE, SIZE, 3), 170, dtype=np.uint8)
    cv2.circle(photo, (SIZE // 2 + 8, SIZE // 2 + 10), SIZE // 4, (60, 60, 60), -1)
    true = photo[..., 0] == 60
    photo = (photo + np.random.default_rng(0).integers(-3, 4, photo.shape)).astype(np.uint8)
    found = subject_map(photo)
    assert ((found == SUBJECT) & true).sum() / ((found == SUBJECT) | true).sum() > 0.95
    assert contrast(photo, found) == pytest.approx(110, abs=1)
    # White paper around it is no background: 30 px on two sides would make the contrast another.
    framed = np.full_like(photo, 255)
    framed[:, 30:-30] = cv2.resize(photo, (SIZE - 60, SIZE))
    found = subject_map(framed)
    assert (found[:, [*range(30), *range(-30, 0)]] == OUTSIDE).all()
    assert (found[:, 31:-31] != OUTSIDE).all()
    assert contrast(framed, found) == pytest.approx(110, abs=5)


def test_a_photo_without_a_subject_has_no_contrast():
    flat = np.full((SIZE, SIZE, 3), 130, dtype=np.uint8)
    random = np.random.default_rng(0).integers(0, 256, flat.shape, dtype=np.uint8)
    for photo in (flat, random):
        assert np.isnan(contrast(photo, subject_map(photo)))
    assert np.isnan(contrast(flat, np.full((SIZE, SIZE), SUBJECT, dtype=np.uint8)))
    assert share(np.full((SIZE, SIZE), BACKGROUND, dtype=np.uint8)) == 0.0


def test_masks_are_the_drawn_pets(photos):
    """A centred ellipse of a pet's usual size reaches .55; a mask turned upside down less than half of the masks'."""
    overlap, turned = [], []
    for file in sorted((photos / "train").iterdir())[:40]:
        labels = cv2.imread(str(photos / "truth" / "labels" / f"{file.stem}.png"), cv2.IMREAD_UNCHANGED)
        labels = cv2.resize(labels, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
        true = np.isin(labels, (*PET, SECOND) if (labels == SECOND).any() else PET)
        mask = subject_map(decode(file, SIZE, "squash")) == SUBJECT
        for kept, guess in ((overlap, mask), (turned, mask[::-1])):
            kept.append((guess & true).sum() / (guess | true).sum())
    assert np.mean(overlap) > 0.62
    assert np.mean(turned) < np.mean(overlap) - 0.1


@pytest.mark.parametrize("place", [(80, 80), (45, 110), (115, 50)])
@pytest.mark.parametrize("slope", [0, 60])
def test_the_box_holds_a_small_pet_before_smooth_background_with_its_odd_ear(place, slope):
    photo = np.full((SIZE, SIZE, 3), 120, dtype=np.uint8) + np.linspace(0, slope, SIZE).astype(np.uint8)[:, None, None]
    cv2.circle(photo, place, 24, (60, 40, 30), -1)
    cv2.circle(photo, (place[0] - 20, place[1] - 24), 7, (240, 230, 220), -1)  # of another colour than the rest
    left, top, right, bottom = np.array(subject_box(photo)) * SIZE
    assert left <= place[0] - 27
    assert top <= place[1] - 31
    assert right >= place[0] + 24
    assert bottom >= place[1] + 24
    assert right - left < 0.95 * SIZE, "so that a crop is possible"


@pytest.mark.parametrize(
    "dull", [lambda p: p * 0.12, lambda p: 255 - (255 - p) * 0.12, lambda p: 120 + (p - 120) * 0.1]
)
def test_the_box_holds_pets_in_the_dark_in_glaring_light_and_of_the_colour_of_the_wall(dull):
    """The mask keeps the pet in the middle; few levels tell the other one from the wall."""
    photo = np.full((SIZE, SIZE, 3), 120.0) + np.linspace(0, 30, SIZE)[:, None, None]
    for place, radius, coat in (((80, 85), 28, (60, 40, 30)), ((22, 25), 13, (190, 180, 170))):
        cv2.circle(photo, place, radius, coat, -1)
    photo = cv2.GaussianBlur(dull(photo), (0, 0), 1.5) + np.random.default_rng(0).normal(0, 0.3, photo.shape)
    left, top, right, bottom = np.array(subject_box(np.rint(photo.clip(0, 255)).astype(np.uint8))) * SIZE
    assert max(left, top) <= 10
    assert (right >= 108, bottom >= 113) == (True, True)


@pytest.mark.parametrize("sigma", [4, 6])
def test_the_box_holds_the_pets_of_a_blurred_photo(sigma):
    """Blurred, the rim of a pet is many small steps. The mask keeps the one in the middle."""
    photo = np.full((SIZE, SIZE, 3), 120.0) + np.linspace(0, 20, SIZE)[:, None, None]
    cv2.circle(photo, (80, 85), 28, (60, 40, 30), -1)
    cv2.circle(photo, (30, 32), 15, (140, 138, 136), -1)
    left, top, right, bottom = np.array(subject_box(cv2.GaussianBlur(photo, (0, 0), sigma).astype(np.uint8))) * SIZE
    assert (left <= 15, top <= 17) == (True, True)
    assert max(right, bottom) < 140, "so that a crop is possible"


def test_where_a_crop_is_possible_the_box_holds_the_whole_drawn_pet(photos):
    for path in sorted((photos / "train").glob("*.jpg"))[:25]:
        box = subject_box(decode(path, SIZE, "squash"))
        if max(box[2] - box[0], box[3] - box[1]) > 0.95:
            continue
        pet = np.isin(
            cv2.imread(str(photos / "truth" / "labels" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED), (*PET, SECOND)
        )
        rows, columns = (np.flatnonzero(pet.any(axis=axis)) / pet.shape[1 - axis] for axis in (1, 0))
        assert box[0] <= columns[0] + 0.02
        assert box[1] <= rows[0] + 0.02
        assert box[2] >= columns[-1] - 0.02
        assert box[3] >= rows[-1] - 0.02


def test_a_contrast_is_measured_once_whatever_the_threads(shelter, tmp_path, monkeypatch):
    pd.read_csv(shelter / "train.csv").iloc[:8].to_csv(shelter / "train.csv", index=False)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(photo_cache, "thread_count", lambda threads=threads: threads)
        found.append(measure(Dataset.load(shelter, tmp_path / str(threads))).levels)
    assert np.array_equal(*found, equal_nan=True)
    monkeypatch.setattr(subject, "subject_map", None)  # from the cache now
    assert np.array_equal(measure(Dataset.load(shelter, tmp_path / "1")).levels, found[0], equal_nan=True)
    monkeypatch.setattr(subject, "RULE", "another")
    with pytest.raises(TypeError):
        measure(Dataset.load(shelter, tmp_path / "1"))
