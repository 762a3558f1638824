"""Odd photo files: what they are is told by their content; damaged ones are refused, sound ones read, and all stand upright."""

import io
import itertools
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features

from pawpularity.coach.upload import Upload
from pawpularity.data.formats import kind_of
from pawpularity.data.photos import PhotoError, decode, photo_size, photos_in

SIZE = 48


def blobs(width: int = 160, height: int = 100, mode: str = "RGB") -> Image.Image:
    """Soft blobs with noise: like a photo, every part of it takes data."""
    random = np.random.default_rng(0)
    soft = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((width, height), 3)
    noisy = np.asarray(soft) + random.normal(0, 8, (height, width, 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def refused(data: bytes) -> str:
    with pytest.raises(PhotoError) as caught:
        decode(data, SIZE, "squash")
    return caught.value.reason


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def xmp(orientation: int, form: str = 'tiff:Orientation="{}"') -> bytes:
    return f"<x:xmpmeta><rdf:Description {form.format(orientation)}/></x:xmpmeta>".encode()


# --- Orientation ------------------------------------------------------------------------------------------------------

avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
CARRIERS: dict[str, Callable[[Image.Image, int], bytes]] = {
    "JPEG, EXIF": lambda image, turn: saved(image, "JPEG", exif=exif(turn)),
    "JPEG, XMP": lambda image, turn: saved(image, "JPEG", xmp=xmp(turn)),
    "JPEG, XMP element": lambda image, turn: saved(
        image, "JPEG", xmp=xmp(turn, "><tiff:Orientation>{}</tiff:Orientation")
    ),
    "JPEG, XMP with spaces": lambda image, turn: saved(image, "JPEG", xmp=xmp(turn, "tiff:Orientation = '{}'")),
    "WebP, XMP element over lines": lambda image, turn: saved(
        image, "WEBP", xmp=xmp(turn, "><tiff:Orientation a:b='c'>\n {}\n</tiff:Orientation"), lossless=True
    ),
    "PNG, packed XMP": lambda image, turn: with_chunk(
        saved(image, "PNG"), b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(turn))
    ),
    "PNG, EXIF": lambda image, turn: saved(image, "PNG", exif=exif(turn)),
    "PNG, EXIF at the end": lambda image, turn: at_the_end(saved(image, "PNG", exif=exif(turn)), b"eXIf"),
    "PNG, XMP": lambda image, turn: with_chunk(
        saved(image, "PNG"), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(turn)
    ),
    "PNG, old EXIF": lambda image, turn: with_chunk(
        saved(image, "PNG"), b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(old_exif(turn))
    ),
    "WebP, EXIF": lambda image, turn: saved(image, "WEBP", exif=exif(turn), lossless=True),
    "WebP, XMP": lambda image, turn: saved(image, "WEBP", xmp=xmp(turn), lossless=True),
    "TIFF": lambda image, turn: saved(image, "TIFF", exif=exif(turn)),
    "TIFF, packed": lambda image, turn: saved(image, "TIFF", exif=exif(turn), compression="tiff_lzw"),
}


def old_exif(turn: int) -> bytes:
    raw = exif(turn).tobytes()
    return b"\nexif\n" + str(len(raw)).encode() + b"\n" + raw.hex().encode()


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def with_chunk(png: bytes, kind: bytes, body: bytes) -> bytes:
    return png[:33] + chunk(kind, body) + png[33:]


def at_the_end(png: bytes, kind: bytes) -> bytes:
    at = png.index(kind) - 4
    end = at + 12 + int.from_bytes(png[at : at + 4], "big")
    return png[:at] + png[end:-12] + png[at:end] + png[-12:]


STORED = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
"""By orientation, the transposition (of Pillow) that makes the stored picture of the upright one."""


@pytest.mark.parametrize("carrier", CARRIERS)
def test_every_orientation_makes_one_upright_picture(carrier: str) -> None:
    image = blobs()
    for turn, way in STORED.items():
        data = CARRIERS[carrier](image if way is None else image.transpose(Image.Transpose(way)), turn)
        for fit in ("squash", "crop"):
            difference = decode(data, SIZE, fit).astype(int) - decode(saved(image, "PNG"), SIZE, fit)
            assert np.abs(difference).mean() < 3, turn
        upload = Upload.of(data)
        assert (upload.width, upload.height) == photo_size(data) == image.size, turn


# --- Damaged and sound ------------------------------------------------------------------------------------------------

KINDS_OF_JPEG: dict[str, dict[str, object]] = {
    "plain": {}, "own codes": {"optimize": True}, "progressive": {"progressive": True}, "restarts": {"restart_marker_rows": 1},
    "full colour": {"subsampling": 0}, "few restarts": {"restart_marker_rows": 5},
}  # fmt: skip


def jpeg(how: str = "plain", image: Image.Image | None = None) -> bytes:
    return saved(image or blobs(320, 240), "JPEG", quality=90, **KINDS_OF_JPEG[how])


def damaged(data: bytes, start: float, stop: float, filling: bytes | None) -> bytes:
    """The part of a JPEG's pixel data from `start` to `stop` (shares) overwritten with `filling`, or left out."""
    head = data.index(b"\xff\xda")
    a, b = (head + 20 + round(share * (len(data) - head - 22)) for share in (start, stop))
    return data[:a] + (b"" if filling is None else (filling * (b - a))[: b - a]) + data[b:]


@pytest.mark.parametrize("how", KINDS_OF_JPEG)
def test_a_jpeg_whose_data_are_missing_is_refused_though_it_ends_well(how: str) -> None:
    data = jpeg(how)
    for start, stop, filling in ((0.25, 1, None), (0.5, 1, None), (0.3, 0.6, b"\0"), (0.1, 0.3, b"\0"), (0.6, 0.9, b"\0"),
                                 (0.4, 0.7, b"\xff"), (0.3, 0.6, None), (0.85, 1, None), (0.45, 0.6, None)):  # fmt: skip
        assert refused(damaged(data, start, stop, filling)).startswith(("truncated", "damaged")), (start, stop, filling)


def test_what_a_later_scan_hides_is_missed() -> None:
    """A whole scan whose coefficients others refine, and restart intervals by eights, whose markers are numbered from 0 to 7."""
    progressive = saved(blobs(320, 240), "JPEG", quality=90, progressive=True)
    scans = [found.start() for found in re.finditer(rb"\xff\xda", progressive)]
    for this, after in itertools.pairwise(scans):
        assert refused(progressive[:this] + progressive[after:]).startswith(("truncated", "damaged")), scans.index(this)
    every_four = saved(blobs(320, 240), "JPEG", quality=90, progressive=True, restart_marker_blocks=4)
    marks = [
        found.start()
        for found in re.finditer(rb"\xff[\xd0-\xd7]", every_four[: every_four.index(b"\xff\xda", scans[1])])
    ]
    assert refused(every_four[: marks[3]] + every_four[marks[11] :]).startswith("damaged")


def test_sound_jpegs_are_not_refused() -> None:
    """Among them flat ones, whose data are zeros, with the grey that libjpeg puts in the place of missing data."""
    flat = [Image.new("RGB", (400, 600), (level,) * 3) for level in (0, 128, 255)]
    for image in flat[:]:
        image = image.copy()
        image.paste(blobs(400, 200), (0, 200))
        flat.append(image)
    for image in (*flat, blobs(1, 1), blobs(7, 90, "L"), blobs(33, 65, "CMYK")):
        for how in KINDS_OF_JPEG:
            data = jpeg(how, image)
            expected = Image.open(io.BytesIO(data)).convert("RGB").resize((400, 400), Image.Resampling.BICUBIC)
            for behind in (b"", bytes(5000), data):
                np.testing.assert_array_equal(decode(data + behind, 400, "squash"), np.asarray(expected), err_msg=how)
            np.testing.assert_array_equal(
                decode(data[:-2], 400, "squash"), np.asarray(expected)
            ) if how == "plain" else None


@pytest.mark.skipif(shutil.which("cjpeg") is None, reason="needs cjpeg, which writes arithmetic JPEGs")
def test_a_large_arithmetic_jpeg_is_read_whole() -> None:
    """Its decoder takes all data at once or none; Pillow gives it 64 kB."""
    image = blobs(600, 400)
    cjpeg = subprocess.run(
        ["cjpeg", "-arithmetic", "-quality", "97"], input=saved(image, "PPM"), capture_output=True, check=True
    )
    assert len(cjpeg.stdout) > 70_000
    difference = decode(cjpeg.stdout, SIZE, "squash").astype(int) - decode(saved(image, "PNG"), SIZE, "squash")
    assert np.abs(difference).mean() < 3


def test_a_phones_jpeg_with_a_second_picture_is_a_jpeg() -> None:
    first = blobs(400, 300)
    for second in (blobs(200, 150), blobs(40, 30, "L")):
        data = saved(first, "MPO", save_all=True, append_images=[second])
        assert Image.open(io.BytesIO(data)).format == "MPO"
        alone = data[: data.index(b"\xff\xd9\xff\xd8") + 2]
        for cut in (data, data[:-100]):  # an upload often loses the second picture
            np.testing.assert_array_equal(decode(cut, SIZE, "squash"), decode(alone, SIZE, "squash"))
            assert photo_size(cut, {"JPEG": 10**6, "": 1}) == (400, 300)


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("12 bits", lambda data, at: data[: at + 4] + b"\x0c" + data[at + 5 :]),
        ("lossless", lambda data, at: data[: at + 1] + b"\xc3" + data[at + 2 :]),
        (
            "2 channels",
            lambda data, at: (
                data[: at + 2] + b"\0\x0e" + data[at + 4 : at + 9] + b"\2" + data[at + 10 : at + 16] + data[at + 19 :]
            ),
        ),
    ],
)
def test_whole_jpegs_of_a_rare_kind_are_not_called_truncated(word: str, change: Callable[[bytes, int], bytes]) -> None:
    data = jpeg()
    assert word in refused(change(data, data.index(b"\xff\xc0")))


def test_metadata_never_cost_a_png_its_pixels() -> None:
    plain, huge = saved(blobs(), "PNG"), zlib.compress(bytes(70_000_000), 1)
    expected = decode(plain, SIZE, "squash")
    wrong = chunk(b"pHYs", bytes(9))[:-4] + b"oops"
    for data in (with_chunk(plain, b"zTXt", b"Comment\0\0" + huge), with_chunk(plain, b"iCCP", b"icc\0\0" + huge),
                 with_chunk(plain, b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + huge), plain[:33] + wrong + plain[33:],
                 with_chunk(plain, b"zTXt", b"Raw profile type exif\0\0" + huge), with_chunk(plain, b"gAMA", b""),
                 plain[:-12] + wrong + plain[-12:], with_chunk(plain, b"eXIf", b"MM")):  # fmt: skip
        np.testing.assert_array_equal(decode(data, SIZE, "squash"), expected)
        assert photo_size(data) == (160, 100)
    header = plain[:29] + b"oops" + plain[33:]
    assert "checksum" in refused(header)
    assert refused(plain[: len(plain) // 2]) == "truncated"


# --- Levels -----------------------------------------------------------------------------------------------------------


def png_of(levels: np.ndarray) -> bytes:
    """A PNG of 16-bit `levels` (h, w) or (h, w, channels)."""
    height, width, channels = levels.reshape(*levels.shape[:2], -1).shape
    rows = levels.astype(">u2").reshape(height, -1).tobytes()
    lines = b"".join(b"\0" + rows[i : i + 2 * width * channels] for i in range(0, len(rows), 2 * width * channels))
    header = (
        width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0])
    )
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_sixteen_bits_that_hold_fewer_are_seen_as_bright(mode: str, bits: int) -> None:
    image = blobs(60, 40, mode.rstrip("A") or "L")
    image.putpixel((0, 0), 255 if mode.startswith("L") else (255, 255, 255))
    if mode.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    levels = np.asarray(image).astype(np.uint16) << (bits - 8)
    seen, plain = decode(png_of(levels), SIZE, "squash"), decode(saved(image, "PNG"), SIZE, "squash")
    assert np.abs(seen.astype(int) - plain).max() <= 1


@pytest.mark.parametrize("compression", [1, 5])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_sixteen_bit_tiffs_that_hold_fewer_are_seen_as_bright(bits: int, compression: int) -> None:
    image = blobs(60, 40)
    image.putpixel((0, 0), (255, 255, 255))
    levels = np.asarray(image)[..., ::-1].astype(np.uint16) << (bits - 8)
    _, data = cv2.imencode(".tiff", levels, [cv2.IMWRITE_TIFF_COMPRESSION, compression])
    seen, plain = decode(data.tobytes(), SIZE, "squash"), decode(saved(image, "PNG"), SIZE, "squash")
    assert np.abs(seen.astype(int) - plain).max() <= 1


def test_a_tiff_that_pillow_reads_as_a_negative_is_refused() -> None:
    data = saved(Image.fromarray(np.asarray(blobs(60, 40, "L")).astype(np.uint16) << 8), "TIFF")
    photometric = struct.pack("<HHIH", 262, 3, 1, 1)
    assert data.count(photometric) == 1
    assert "16 bits" in refused(data.replace(photometric, photometric[:-2] + b"\0\0"))


# --- By content -------------------------------------------------------------------------------------------------------


def test_a_format_is_told_by_its_first_bytes() -> None:
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        assert kind_of(saved(blobs(), kind)[:64]) == kind
    boxes = {b"heic": "HEIF", b"mif1heic": "HEIF", b"avif": "AVIF", b"mif1avif": "AVIF", b"isommp42": "", b"qt  ": ""}
    for brands, kind in boxes.items():
        head = brands[:4] + bytes(4) + brands[4:]
        assert kind_of((8 + len(head)).to_bytes(4, "big") + b"ftyp" + head + b"\0\0\0\x10meta") == kind
    for other in (b"BM is a car maker, and this is text", b"%PDF-1.4", b"Id,Eyes\n", b"", b"\xff\xd8"):
        assert kind_of(other) == ""


@avif
def test_avif_is_turned_by_its_own_boxes_alone() -> None:
    data = saved(blobs(96, 64), "AVIF", xmp=xmp(6))
    assert photo_size(data) == (96, 64)
    difference = decode(data, SIZE, "squash").astype(int) - decode(saved(blobs(96, 64), "PNG"), SIZE, "squash")
    assert np.abs(difference).mean() < 6


@avif
def test_avif(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(blobs(96, 64), "AVIF", exif=exif(6))
    assert photo_size(data) == (64, 96)
    upright = decode(saved(blobs(96, 64).transpose(Image.Transpose.ROTATE_270), "PNG"), SIZE, "squash")
    assert np.abs(decode(data, SIZE, "squash").astype(int) - upright).mean() < 6
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    assert "pip install" in refused(data)


@pytest.mark.parametrize("package", ["pi_heif", "pillow_heif"])
def test_heic(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = pytest.importorskip("pillow_heif", reason="pillow-heif, which writes HEIC, is not installed")
    pytest.importorskip(package)
    for other in {"pi_heif", "pillow_heif"} - {package}:
        monkeypatch.setitem(sys.modules, other, None)
    file = encoder.from_pillow(blobs(96, 64))
    out = io.BytesIO()
    file.save(out, exif=exif(6).tobytes())
    assert photo_size(out.getvalue()) == (64, 96)
    upright = decode(saved(blobs(96, 64).transpose(Image.Transpose.ROTATE_270), "PNG"), SIZE, "squash")
    assert np.abs(decode(out.getvalue(), SIZE, "squash").astype(int) - upright).mean() < 6


def test_heic_without_its_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pi_heif", "pillow_heif"):
        monkeypatch.setitem(sys.modules, name, None)
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    assert "pip install pi-heif" in refused(head)


# --- The rest ---------------------------------------------------------------------------------------------------------


def test_a_photo_too_large_is_refused_before_it_is_unfolded(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = saved(Image.new("L", (9000, 3000)), "PNG")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("unfolded"))
    with pytest.raises(PhotoError, match="too large"):
        Upload.of(flat)


def test_real_photos_keep_their_pixels(real: Path) -> None:
    """By Pillow's own steps, as in the first version of the decoder."""
    for path in sorted((real / "pawpularity-100" / "train").glob("*.jpg")):
        with Image.open(path) as image:
            image.draft("RGB", (2 * SIZE, 2 * SIZE))
            expected = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(decode(path, SIZE, "squash"), np.asarray(expected))


def test_photos_in_a_folder_are_told_by_content_or_ending(tmp_path: Path) -> None:
    for name, kind in {
        "a.JPG": "JPEG",
        "b.jfif": "JPEG",
        "c": "PNG",
        "d.dat": "WEBP",
        "raw.dng": "TIFF",
        "e.TIF": "TIFF",
    }.items():
        (tmp_path / name).write_bytes(saved(blobs(), kind))
    for name in ("f.HEIC", "g.avif", "h.jpe"):
        (tmp_path / name).write_bytes(b"damaged")
    (tmp_path / "below").mkdir()
    for name in ("train.csv", "clip.mov", ".DS_Store"):
        (tmp_path / name).write_bytes(b"BM text")
    photos, others = photos_in(tmp_path)
    assert [path.name for path in photos] == ["a.JPG", "b.jfif", "c", "d.dat", "e.TIF", "f.HEIC", "g.avif", "h.jpe"]
    assert [path.name for path in others] == ["clip.mov", "raw.dng", "train.csv"]
