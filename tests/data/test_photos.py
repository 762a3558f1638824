"""The decoder against Pillow's own steps, and the ordered thread map. `tests/oracles` has every kind of pixels."""

import contextlib
import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pawpularity.data import photos
from pawpularity.data.photos import PhotoError, decode, ordered_map, prefetch

pytestmark = [pytest.mark.filterwarnings("ignore:Corrupt EXIF"), pytest.mark.filterwarnings("ignore:Truncated File")]


def smooth(width: int, height: int) -> Image.Image:
    """A picture of soft blobs: like a photo, it survives JPEG."""
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def squashed(image: Image.Image, size: int) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


RGB = smooth(90, 60)


@pytest.mark.parametrize(("size", "box"), [((90, 60), (15, 0, 75, 60)), ((60, 90), (0, 15, 60, 75)), ((60, 60), None)])
def test_squash_and_crop(size, box, tmp_path: Path) -> None:
    data = encoded(smooth(*size))
    (tmp_path / "x.jpg").write_bytes(data)
    np.testing.assert_array_equal(decode(data, 40, "squash"), squashed(smooth(*size), 40))
    np.testing.assert_array_equal(decode(tmp_path / "x.jpg", 32, "crop"), squashed(smooth(*size).crop(box), 32))
    padded, (width, height) = decode(tmp_path / "x.jpg", 32, "pad"), size
    inside = np.round(32 * np.array([height, width]) / max(size)).astype(int)
    grey = (padded == 128).all(axis=2)
    rows, columns = (~grey).any(axis=1), (~grey).any(axis=0)
    assert (rows.sum(), columns.sum()) == tuple(inside)
    assert abs(int(np.argmax(rows)) - (32 - inside[0]) // 2) <= 1, "in the middle"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 77])
def test_exif_orientation(kind: str, fit: str, orientation: int) -> None:
    data = encoded(RGB, kind, exif=turned(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decode(data, 30, fit), decode(encoded(upright), 30, fit))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_its_high_byte(kind: str) -> None:
    high = np.asarray(smooth(50, 40).convert("L")).astype(np.uint16)
    low = np.random.default_rng(0).integers(0, 256, high.shape, dtype=np.uint16)
    expected = squashed(Image.fromarray(high.astype(np.uint8)), 24)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(high << 8 | low), kind), 24, "squash"), expected)
    wide = Image.fromarray(high.astype(np.int32) << 8)
    np.testing.assert_array_equal(decode(encoded(wide, "TIFF"), 24, "squash"), expected)


@pytest.mark.parametrize("fit", ["squash", "crop"])
def test_reduced_decoding_stays_close_to_the_full_one(fit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    to_square = photos._to_square
    monkeypatch.setattr(photos, "_to_square", lambda image, *rest: seen.append(image.size) or to_square(image, *rest))
    data = encoded(smooth(1300, 900), "JPEG", quality=92)
    full = decode(encoded(Image.open(io.BytesIO(data))), 100, fit)  # a PNG cannot be reduced
    difference = np.abs(decode(data, 100, fit).astype(int) - full.astype(int))
    assert difference.mean() < 0.8
    assert difference.max() <= 16
    for size in (16, 50, 100, 225, 226):
        decode(data, size, fit)
        assert min(seen[-1]) >= min(2 * size, 900), "never below twice the target"
    assert seen[-5] == (163, 113)


def test_every_cut_of_a_file_is_refused_or_decoded() -> None:
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        data = encoded(smooth(40, 30), kind)
        for length in range(0, len(data), max(1, len(data) // 40)):
            with contextlib.suppress(PhotoError):
                assert decode(data[:length], 8, "squash").shape == (8, 8, 3)


def test_the_map_keeps_order_and_few_results() -> None:
    started: list[int] = []

    def work(i: int) -> int:
        started.append(i)
        return i * i

    results = ordered_map(work, range(1000), 2)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(started) <= 5 + 8
    assert list(results) == [i * i for i in range(5, 1000)]


@pytest.mark.parametrize("where", ["function", "items"])
def test_the_map_raises_errors_where_they_belong(where: str) -> None:
    def items():
        yield from range(10)
        if where == "items":
            raise OSError("a bad item")

    def work(i: int) -> int:
        if where == "function" and i == 9:
            raise OSError("a bad result")
        return i

    results = ordered_map(work, items(), 3)
    with pytest.raises(OSError, match="a bad"):
        list(results)


def test_a_closed_map_ends_the_work_and_closes_its_items() -> None:
    drawn, closed = [], threading.Event()

    def items():
        try:
            for i in range(1000):
                drawn.append(threading.current_thread())
                yield i
        finally:
            assert threading.current_thread() is drawn[0], "a lock would be released where it was taken"
            closed.set()

    results = prefetch(items(), 2)
    assert next(results) == 0
    results.close()
    assert closed.is_set()
    assert len(drawn) <= 4
    assert drawn[0] is not threading.current_thread()
    assert not drawn[0].is_alive()
