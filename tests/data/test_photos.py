"""The decoder against Pillow's own steps, its refusals, and the memory-mapped photos."""

import contextlib
import io
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pawpularity.data import photo_cache, photos
from pawpularity.data.photo_cache import content_print, open_rows, photos_of
from pawpularity.data.photos import PhotoError, decode, in_order
from pawpularity.errors import UserError

RNG = np.random.default_rng(0)


def smooth(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """A picture of soft blobs, uint8 (height, width, channels): like a photo, it survives JPEG."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 4), dtype=np.uint8), "RGBA")
    fine = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(fine[..., :channels])


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def squashed(image: Image.Image, size: int) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


RGB = Image.fromarray(smooth(90, 60))


def test_shape_type_and_kernel() -> None:
    out = decode(encoded(RGB), 40, "squash")
    assert (out.shape, out.dtype) == ((40, 40, 3), np.uint8)
    np.testing.assert_array_equal(out, squashed(RGB, 40))


def test_path_and_bytes_agree(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(encoded(RGB, "JPEG"))
    np.testing.assert_array_equal(decode(path, 33, "crop"), decode(path.read_bytes(), 33, "crop"))


@pytest.mark.parametrize(("size", "box"), [((90, 60), (15, 0, 75, 60)), ((60, 90), (0, 15, 60, 75)), ((60, 60), None)])
def test_crop_takes_the_largest_centred_square(size: tuple[int, int], box: tuple[int, int, int, int] | None) -> None:
    image = Image.fromarray(smooth(*size))
    np.testing.assert_array_equal(decode(encoded(image), 32, "crop"), squashed(image.crop(box), 32))


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.fromarray(smooth(50, 40)).convert("L"), "PNG"),
        (Image.fromarray(smooth(50, 40)).convert("L"), "JPEG"),
        (Image.fromarray(smooth(50, 40)).quantize(32), "PNG"),
        (Image.fromarray(smooth(50, 40)).quantize(32), "GIF"),
        (Image.fromarray(smooth(50, 40)).convert("1"), "PNG"),
        (Image.fromarray(smooth(50, 40)).convert("CMYK"), "TIFF"),
        (Image.fromarray(smooth(50, 40)), "BMP"),
        (Image.fromarray(smooth(50, 40)), "WEBP"),
        (Image.fromarray(smooth(50, 40)).convert("LAB"), "TIFF"),
        (Image.fromarray(smooth(50, 40)).convert("YCbCr"), "JPEG"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.mode,
)
def test_every_opaque_mode_is_pillows_rgb(image: Image.Image, kind: str) -> None:
    data = encoded(image, kind)
    np.testing.assert_array_equal(decode(data, 24, "squash"), squashed(Image.open(io.BytesIO(data)), 24))


def test_cmyk_jpeg_keeps_its_colours() -> None:
    ink = Image.new("CMYK", (40, 40), (0, 255, 255, 0))  # magenta and yellow: red
    assert np.abs(decode(encoded(ink, "JPEG", quality=95), 8, "squash").astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_transparency_is_white(mode: str) -> None:
    options: dict[str, object] = {}
    if mode == "RGBA":
        image = Image.fromarray(smooth(50, 40, 4), "RGBA")
    elif mode == "LA":
        image = Image.fromarray(smooth(50, 40, 4), "RGBA").convert("LA")
    elif mode == "P":
        image, options = Image.fromarray(smooth(50, 40)).quantize(8), {"transparency": 3}
    else:  # one colour is declared transparent
        image = Image.new(mode, (50, 40), 20 if mode == "L" else (20, 30, 40))
        image.paste(90 if mode == "L" else (90, 80, 70), (0, 0, 25, 40))
        options = {"transparency": 20 if mode == "L" else (20, 30, 40)}
    data = encoded(image, "PNG", **options)
    rgba = Image.open(io.BytesIO(data)).convert("RGBA")
    alpha = np.asarray(rgba)[..., 3:].astype(float) / 255
    assert alpha.min() < 1
    expected = np.asarray(rgba)[..., :3] * alpha + 255 * (1 - alpha)
    white = Image.fromarray(np.round(expected).astype(np.uint8))
    difference = decode(data, 24, "squash").astype(int) - squashed(white, 24).astype(int)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_its_high_byte(kind: str) -> None:
    high = smooth(50, 40, 1)[..., 0]
    low = RNG.integers(0, 256, high.shape, dtype=np.uint16)
    image = Image.fromarray((high.astype(np.uint16) << 8) | low)
    assert image.mode == "I;16"
    np.testing.assert_array_equal(decode(encoded(image, kind), 24, "squash"), squashed(Image.fromarray(high), 24))


def test_mode_i_is_sixteen_bit_or_refused() -> None:
    high = smooth(50, 40, 1)[..., 0]
    image = Image.fromarray(high.astype(np.int32) << 8)
    assert image.mode == "I"
    np.testing.assert_array_equal(decode(encoded(image, "TIFF"), 24, "squash"), squashed(Image.fromarray(high), 24))
    for wrong in (-1, 70_000):
        with pytest.raises(PhotoError, match="32-bit grey"):
            decode(encoded(Image.new("I", (9, 9), wrong), "TIFF"), 8, "squash")


def test_float_pixels_are_refused() -> None:
    with pytest.raises(PhotoError, match="floating-point"):
        decode(encoded(Image.new("F", (9, 9), 0.5), "TIFF"), 8, "squash")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, fit: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(RGB, kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright.size == ((60, 90) if orientation > 4 else (90, 60))
    np.testing.assert_array_equal(decode(data, 30, fit), decode(encoded(upright), 30, fit))


def test_orientation_out_of_range_and_broken_exif_are_ignored() -> None:
    plain = decode(encoded(RGB, "JPEG"), 30, "squash")
    exif = Image.Exif()
    exif[0x0112] = 77
    np.testing.assert_array_equal(decode(encoded(RGB, "JPEG", exif=exif), 30, "squash"), plain)
    broken = encoded(RGB, "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40)
    np.testing.assert_array_equal(decode(broken, 30, "squash"), plain)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    out = decode(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options), 8, "squash")
    np.testing.assert_array_equal(out, np.broadcast_to(np.uint8([255, 0, 0]), out.shape))


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_draft_stays_close_to_the_full_decode(fit: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(smooth(1300, 900))
    data = encoded(image, "JPEG", quality=92, exif=exif)
    full = decode(encoded(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))), 100, fit)  # PNG knows no draft
    difference = np.abs(decode(data, 100, fit).astype(int) - full.astype(int))
    assert difference.mean() < 0.8
    assert difference.max() <= 16


def test_draft_never_goes_below_twice_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    original = photos._to_square
    monkeypatch.setattr(photos, "_to_square", lambda image, *rest: seen.append(image.size) or original(image, *rest))
    data = encoded(Image.fromarray(smooth(1000, 410)), "JPEG")
    for size in (16, 50, 51, 100, 102, 103, 205, 206):
        decode(data, size, "crop")
        assert min(seen[-1]) >= min(2 * size, 410)
    assert seen[0] == (125, 52)
    assert seen[-1] == (1000, 410)


def test_real_photos_draft_and_full(real: Path) -> None:
    for path in sorted((real / "pawpularity-100" / "train").glob("*.jpg"))[:20]:
        full = squashed(Image.open(path), 64)
        assert np.abs(decode(path, 64, "squash").astype(int) - full.astype(int)).mean() < 2


def test_pillow_stays_silent(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("1", (9460, 9460))))
    (tmp_path / "b.jpg").write_bytes(encoded(RGB, "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40))
    samples = b"\x15\x01\x03\x00\x01\x00\x00\x00"  # the TIFF's tag SamplesPerPixel, one 16-bit number
    (tmp_path / "c.jpg").write_bytes(encoded(RGB, "TIFF").replace(samples + b"\x03\x00", samples + b"\x00\x08"))
    code = (
        "import sys; from pathlib import Path; from pawpularity.data.photos import PhotoError, decode\n"
        "for path in map(Path, sys.argv[1:]):\n"
        "    try: decode(path, 8, 'crop')\n"
        "    except PhotoError as error: print(error)\n"
    )
    words = [sys.executable, "-c", code, *(str(tmp_path / f"{name}.jpg") for name in "abc")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 2


def test_bytes_have_a_name_too() -> None:
    with pytest.raises(PhotoError, match=r"^the photo: empty$"):
        decode(b"", 8, "squash")


def test_every_cut_of_a_file_is_refused_or_decoded() -> None:
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        data = encoded(Image.fromarray(smooth(40, 30)), kind)
        for length in range(0, len(data), max(1, len(data) // 40)):
            with contextlib.suppress(PhotoError):
                assert decode(data[:length], 8, "squash").shape == (8, 8, 3)


def test_unknown_fit_and_size() -> None:
    with pytest.raises(UserError, match='did you mean "crop"'):
        decode(encoded(RGB), 8, "crp")
    for size in (0, -1, 5000):
        with pytest.raises(UserError, match="1 to 4096"):
            decode(encoded(RGB), size, "crop")


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    """Thirty small JPEGs, train/00.jpg and so on."""
    (tmp_path / "train").mkdir()
    paths = [tmp_path / "train" / f"{i:02d}.jpg" for i in range(30)]
    for i, path in enumerate(paths):
        path.write_bytes(encoded(Image.fromarray(smooth(70, 50, seed=i)), "JPEG"))
    return paths


def opened(paths: list[Path], folder: Path, **options: object) -> np.ndarray:
    prints = [content_print(path.read_bytes() if path.is_file() else b"") for path in paths]
    return photos_of(paths, prints, **({"size": 20, "fit": "squash", "folder": folder, "key": "k"} | options)).pixels


def test_photos_are_the_decoded_rows_read_only(many: list[Path], tmp_path: Path) -> None:
    rows = opened(many, tmp_path / "cache")
    assert isinstance(rows, np.memmap)
    assert not rows.flags.writeable
    np.testing.assert_array_equal(rows, np.stack([decode(path, 20, "squash") for path in many]))
    files = sorted(path.name for path in (tmp_path / "cache" / "photos").iterdir() if path.suffix != ".lock")
    assert len(files) == 1
    assert re.fullmatch(r"k-20-squash-[0-9a-f]{12}\.npy", files[0])


def test_photos_are_decoded_once(many: list[Path], tmp_path: Path) -> None:
    first = np.array(opened(many, tmp_path))
    for path in many:
        path.unlink()
    np.testing.assert_array_equal(opened(many, tmp_path), first)


def test_other_settings_have_other_files(many: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(many, tmp_path)
    opened(many, tmp_path, size=21)
    opened(many, tmp_path, fit="crop")
    opened(many, tmp_path, key="other")
    monkeypatch.setattr(photo_cache, "DECODER", "another rule")
    opened(many, tmp_path)
    assert len(list((tmp_path / "photos").glob("*.npy"))) == 5


@pytest.mark.parametrize("damage", ["cut", "shape", "type", "rubbish", "empty"])
def test_damaged_cache_is_made_again(many: list[Path], tmp_path: Path, damage: str) -> None:
    good = np.array(opened(many, tmp_path))
    file = next((tmp_path / "photos").glob("*.npy"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "shape":
        np.save(file, good[:-1])
    elif damage == "type":
        np.save(file, good.astype(np.int16))
    else:
        file.write_bytes(b"rubbish" if damage == "rubbish" else b"")
    np.testing.assert_array_equal(opened(many, tmp_path), good)


def test_all_bad_photos_are_told_at_once(many: list[Path], tmp_path: Path) -> None:
    many[3].write_bytes(many[3].read_bytes()[:500])
    many[17].unlink()
    with pytest.raises(UserError) as caught:
        opened(many, tmp_path)
    message = str(caught.value)
    assert message.startswith("2 of 30 photos cannot be used (train/03.jpg: truncated; train/17.jpg: missing)")
    assert "\n" not in message
    assert not list((tmp_path / "photos").glob("*.npy"))
    assert not list((tmp_path / "photos").glob("*.part"))


def test_a_long_list_goes_to_a_file(many: list[Path], tmp_path: Path) -> None:
    for path in many[2:]:
        path.write_bytes(b"x")
    with pytest.raises(UserError, match="28 of 30") as caught:
        opened(many, tmp_path)
    found = re.search(r"and 8 more, listed in (.+?)\)", str(caught.value))
    assert found
    assert str(caught.value).count("not a JPEG") == 20
    assert len(Path(found[1]).read_text().splitlines()) == 28


def test_no_photos(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no photos"):
        opened([], tmp_path)


def test_unwritable_and_full_disks(many: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        opened(many, tmp_path / "file")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(photo_cache, "_written_rows", full)
    with pytest.raises(UserError, match="No space left on device"):
        opened(many, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "photos").glob("*.npy"))


def test_space_is_checked_before(many: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(photo_cache, "require_space", lambda folder, needed, *_: asked.append(needed))
    opened(many, tmp_path)
    assert asked == [30 * 20 * 20 * 3]


def test_two_builders_do_the_work_once(many: list[Path], tmp_path: Path) -> None:
    calls: list[Path] = []

    def slow(path: Path) -> np.ndarray:
        calls.append(path)
        time.sleep(0.005)
        return np.zeros(3, np.uint8)

    def build() -> None:
        open_rows(many, slow, shape=(3,), file=tmp_path / "rows.npy", progress="x", threads=1)

    builders = [threading.Thread(target=build) for _ in range(3)]
    for one in builders:
        one.start()
    for one in builders:
        one.join()
    assert sorted(calls) == many


def test_few_rows_are_in_flight() -> None:
    started: list[int] = []

    def work(i: int) -> int:
        started.append(i)
        return i * i

    results = in_order(work, range(1000), 2)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(started) <= 5 + 8
    assert list(results) == [i * i for i in range(5, 1000)]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_photos(many: list[Path], tmp_path: Path) -> None:
    # 2,400 rows of 150 kB are 361 MB; the process may not hold a tenth of them.
    code = (
        "import sys, re, numpy as np; from pathlib import Path; from pawpularity.data.photo_cache import open_rows\n"
        "anonymous = lambda: int(re.search(r'RssAnon:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = anonymous(); peak = [0]\n"
        "def make(path):\n"
        "    peak[0] = max(peak[0], anonymous()); return np.full((224, 224, 3), 7, np.uint8)\n"
        "rows = open_rows([Path('x')] * 2400, make, shape=(224, 224, 3), file=Path(sys.argv[1]), progress='x', threads=2)\n"
        "assert rows[-1, -1, -1, -1] == 7; print(max(peak[0], anonymous()) - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "big.npy")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 36_000
    assert done.stderr == ""  # no bar where standard error is no terminal
