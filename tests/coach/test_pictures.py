"""Uploads, crops and maps as pictures: limits, geometry, colours."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pawpularity.coach.crop import best_crop
from pawpularity.coach.saliency_stream import coloured, stream
from pawpularity.coach.upload import MAX_BYTES, Upload, cropped
from pawpularity.config import Explain
from pawpularity.data.photos import PhotoError

ANYWHERE = (0.5, 0.5, 0.5, 0.5)


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def spot(height=160, width=240):
    """A dark photo with one bright square of 60 px."""
    photo = np.full((height, width, 3), 20, dtype=np.uint8)
    photo[10:70, 150:210] = 240
    return photo


def brightness(pixels):
    return pixels.astype(np.float64).mean(axis=(1, 2, 3)) / 2.55


def test_a_turned_photo_has_its_shown_size():
    exif = Image.Exif()
    exif[0x0112] = 6
    upload = Upload.of(encoded(spot(), "JPEG", exif=exif))
    assert (upload.width, upload.height) == (160, 240)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "empty"),
        (b"hello", "not a JPEG"),
        (encoded(spot(20, 300)), "too small"),
        (encoded(np.zeros((5100, 5000), dtype=np.uint8)), "too large"),
        (b"\xff\xd8\xff" + bytes(MAX_BYTES), "too large"),
        # A head whose pixels never come: it is refused before.
        (b"GIF89a" + (30_000).to_bytes(2, "little") * 2 + bytes(3) + encoded(spot(40, 40), "GIF")[13:], "too large"),
    ],
)
def test_what_cannot_be_used_is_refused(data, word):
    with pytest.raises(PhotoError) as caught:
        Upload.of(data).pixels(32, "squash")
    assert word in caught.value.reason


def test_crops_are_cut_where_they_say():
    photo = np.zeros((100, 100, 3), dtype=np.uint8)
    photo[20:60, 10:90] = 200
    assert (cropped(photo, (0.1, 0.2, 0.9, 0.6), 24) == 200).all()


def test_the_search_finds_the_bright_place():
    found = best_crop(Upload.of(encoded(spot())), brightness, 32, "squash", ANYWHERE)
    left, top, right, bottom = found.box
    assert (left, top) <= (150 / 240, 10 / 160)
    assert right >= 0.85
    assert bottom - top == pytest.approx(right - left, abs=2e-3), "the photo's own shape"
    assert 0.5 < right - left <= 0.6, "as close as windows go: all of the spot on less of the dark"
    share = 60 * 60 / (240 * 160)
    assert found.whole == pytest.approx((20 + 220 * share) / 2.55, abs=0.5)
    assert found.score == pytest.approx((20 + 220 * share / (right - left) ** 2) / 2.55, abs=1.0)
    assert found.gain == found.score - found.whole


def test_nothing_is_cut_away_for_nothing_and_runs_that_see_squares_get_squares():
    found = best_crop(Upload.of(encoded(spot())), lambda pixels: np.full(len(pixels), 40.0), 32, "squash", ANYWHERE)
    assert (found.box, found.gain) == ((0.0, 0.0, 1.0, 1.0), 0.0)
    left, top, right, bottom = best_crop(Upload.of(encoded(spot())), brightness, 32, "crop", ANYWHERE).box
    assert (right - left) * 240 == pytest.approx((bottom - top) * 160, rel=0.01)


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_no_crop_cuts_off_what_must_be_kept(fit):
    """The bright place is at the top right, the subject at the lower left: no crop closer to the light may lose it."""
    for keep in ((0.25, 0.3, 0.6, 0.9), (0.2, 0.4, 0.7, 0.95), (0.0, 0.0, 1.0, 1.0)):
        found = best_crop(Upload.of(encoded(spot(160, 180))), brightness, 32, fit, keep)
        left, top, right, bottom = found.box
        whole = found.box == ((0.0, 0.0, 1.0, 1.0) if fit == "squash" else (0.0556, 0.0, 0.9444, 1.0))
        assert whole or (left <= keep[0] and top <= keep[1] and right >= keep[2] and bottom >= keep[3])
        assert whole == (keep[2] == 1.0)


def test_colours_show_the_sign_and_zero_is_clear():
    values = np.zeros((30, 30), dtype=np.float32)
    values[:10], values[20:] = 5.0, -2.5
    picture = coloured(values, 5.0).astype(int)
    up, zero, down = picture[5, 100], picture[112, 100], picture[-5, 100]
    assert up[0] > up[2] + 50
    assert down[2] > down[0] + 50
    assert (zero[3], up[3]) == (0, 217)
    assert down[3] == pytest.approx(217 / 2, abs=1)


def test_the_map_comes_coarse_first():
    """A score that is known: the mean of the left half less that of the right one."""

    def score(batch):
        return 50 + 10 * (batch[..., :32].mean(dim=(1, 2, 3)) - batch[..., 32:].mean(dim=(1, 2, 3)))

    shown = []
    stream(score, torch.ones(3, 64, 64), Explain(precision=0.02, budget=1024), shown.append)
    assert [frame["masks"] for frame in shown] == [128, 256, 512, 1024, 1024]
    assert [frame["done"] for frame in shown] == [False] * 4 + [True]
    assert shown[0]["relative_error"] is None
    assert shown[-1]["relative_error"] < 0.2
    assert shown[-1]["picture"].startswith("data:image/png;base64,")

    def leave(frame):
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        stream(score, torch.ones(3, 64, 64), Explain(), leave)
