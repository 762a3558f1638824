"""Uploads, crops and maps as pictures: limits, geometry, colours."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pawpularity.coach.crop import best_crop
from pawpularity.coach.saliency_stream import coloured, grow
from pawpularity.coach.upload import MOST_BYTES, Upload, cropped
from pawpularity.data.photos import PhotoError
from pawpularity.config import Explain


def data_of(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def head_of_gif(width, height):
    """A photo of that size whose pixels never come: it is refused before."""
    return (
        b"GIF89a"
        + width.to_bytes(2, "little")
        + height.to_bytes(2, "little")
        + bytes(3)
        + data_of(spot(40, 40), "GIF")[13:]
    )


def spot(height=160, width=240, *, top=10, left=150, size=60):
    """A dark photo with one bright square."""
    photo = np.full((height, width, 3), 20, dtype=np.uint8)
    photo[top : top + size, left : left + size] = 240
    return photo


def brightness(pixels):
    return pixels.astype(np.float64).mean(axis=(1, 2, 3)) / 2.55


def test_a_turned_photo_has_its_shown_size():
    exif = Image.Exif()
    exif[0x0112] = 6
    upload = Upload.of(data_of(spot(), "JPEG", exif=exif))
    assert (upload.width, upload.height) == (160, 240)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not a JPEG, PNG"),
        (data_of(spot())[:40], "truncated"),
        (data_of(spot(20, 300)), "too small"),
        (data_of(np.zeros((5100, 5000), dtype=np.uint8)), "25 Mpx at most for PNG"),
        (b"\xff\xd8\xff" + bytes(MOST_BYTES), "too large a file"),
        (head_of_gif(30_000, 30_000), "64 Mpx at most for JPEG, 25 Mpx for all others"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_few_words(data, reason):
    with pytest.raises(PhotoError) as caught:
        Upload.of(data).pixels(32, "squash")
    assert reason in caught.value.reason


def test_a_large_jpeg_is_no_larger_in_memory():
    upload = Upload.of(data_of(np.zeros((6000, 8000), dtype=np.uint8), "JPEG"))
    assert upload.pixels(64, "squash").shape == (64, 64, 3)


def test_crops_are_cut_where_they_say():
    photo = np.zeros((100, 100, 3), dtype=np.uint8)
    photo[20:60, 10:90] = 200
    assert (cropped(photo, (0.1, 0.2, 0.9, 0.6), 24) == 200).all()


def test_the_search_finds_the_bright_place():
    found = best_crop(Upload.of(data_of(spot())), brightness, 32, "squash")
    left, top, right, bottom = found.box
    assert (left, top) <= (150 / 240, 10 / 160)
    assert right >= 0.85
    assert bottom - top == pytest.approx(right - left, abs=2e-3), "the photo's own shape"
    assert 0.5 < right - left <= 0.6, "as close as windows go: all of the spot on less of the dark"
    assert found.worth
    # The spot's 60 x 60 px in a window of that share of 240 x 160.
    share = 60 * 60 / (240 * 160 * (right - left) ** 2)
    assert found.score == pytest.approx((20 + 220 * share) / 2.55, abs=1.0)
    assert found.whole == pytest.approx((20 + 220 * 60 * 60 / (240 * 160)) / 2.55, abs=0.5)


def test_nothing_is_cut_away_for_nothing():
    found = best_crop(Upload.of(data_of(spot())), lambda pixels: np.full(len(pixels), 40.0), 32, "squash")
    assert found.box == (0.0, 0.0, 1.0, 1.0)
    assert not found.worth


def test_runs_that_see_squares_get_squares():
    found = best_crop(Upload.of(data_of(spot())), brightness, 32, "crop")
    left, top, right, bottom = found.box
    assert (right - left) * 240 == pytest.approx((bottom - top) * 160, rel=0.01)


def test_colours_say_the_sign_and_clear_says_nothing():
    values = np.zeros((30, 30), dtype=np.float32)
    values[:10], values[20:] = 5.0, -2.5
    picture = coloured(values, 5.0).astype(int)
    up, zero, down = picture[5, 100], picture[112, 100], picture[-5, 100]
    assert up[0] > up[2] + 50
    assert down[2] > down[0] + 50
    assert zero[3] == 0
    assert up[3] == 217
    assert down[3] == pytest.approx(217 / 2, abs=1)


def test_the_map_is_shown_coarse_first():
    """A score that is known: the mean of the left half less that of the right one."""

    def score(batch):
        return 50 + 10 * (batch[..., :32].mean(dim=(1, 2, 3)) - batch[..., 32:].mean(dim=(1, 2, 3)))

    shown = []
    last = grow(score, torch.ones(3, 64, 64), Explain(precision=0.02, budget=1024), shown.append)
    assert [heat.masks for heat in shown] == [128, 256, 512, 1024, 1024]
    assert [heat.done for heat in shown] == [False] * 4 + [True]
    assert shown[0].relative_error is None
    assert last.relative_error < 0.2
    picture = np.asarray(Image.open(io.BytesIO(last.png))).astype(int)
    assert picture.shape == (224, 224, 4)
    assert picture[100, 40, 0] > picture[100, 40, 2]
    assert picture[100, 180, 2] > picture[100, 180, 0]

    class Gone(Exception):
        pass

    def leave(heat):
        raise Gone

    with pytest.raises(Gone):
        grow(score, torch.ones(3, 64, 64), Explain(), leave)
