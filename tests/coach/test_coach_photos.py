"""Photos as people have them on their disks, given to `coach`: what is legal is scored by its pixels, the rest is named."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    """Soft blobs, 240 x 160."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 4), dtype=np.uint8)
    return Image.fromarray(coarse, "RGBA").resize((240, 160), Image.Resampling.BICUBIC).convert(mode)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


MOVING = {"save_all": True, "append_images": [picture(90), picture(91)]}
LEGAL = {
    "jpeg.jpg": saved(picture(1), "JPEG"),
    "a PNG called.jpg": saved(picture(2), "PNG"),
    "CAPITALS.JPG": saved(picture(3), "JPEG"),
    "cmyk.jpg": saved(picture(4, "CMYK"), "JPEG"),
    "grey.jpeg": saved(picture(5, "L"), "JPEG"),
    "palette.png": saved(picture(6).quantize(32), "PNG"),
    "alpha.png": saved(picture(7, "RGBA"), "PNG"),
    "deep.png": saved(Image.fromarray(np.asarray(picture(8, "L")).astype(np.uint16) * 256), "PNG"),
    "turned.jpg": saved(picture(9), "JPEG", exif=turned(6)),
    "mirrored.png": saved(picture(10), "PNG", exif=turned(5)),
    "moving.gif": saved(picture(11), "GIF", **MOVING),
    "moving.webp": saved(picture(12), "WEBP", lossless=True, **MOVING),
    "scan.tif": saved(picture(13), "TIFF"),
    "paint.bmp": saved(picture(14), "BMP"),
}


def plain(data: bytes) -> bytes:
    """The same pixels by Pillow's own steps, as a PNG of nothing but RGB."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.has_transparency_data:
        over = Image.new("RGBA", image.size, "white")
        over.alpha_composite(image.convert("RGBA"))
        image = over
    return saved(image.convert("RGB"), "PNG")


def scores_of(text: str) -> dict[str, float]:
    return {row["photo"]: float(row["score"]) for row in csv.DictReader(io.StringIO(text)) if row["score"]}


@pytest.mark.slow
def test_legal_photos_score_as_their_pixels(bench, drawn, paw, tmp_path, unharmed):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, data in LEGAL.items():
        (folder / name).write_bytes(data)
        (folder / f"{name}.png").write_bytes(plain(data))
    (tmp_path / "elsewhere").write_bytes(LEGAL["jpeg.jpg"])
    (folder / "link.jpg").symlink_to(tmp_path / "elsewhere")
    with unharmed(tmp_path):
        done = paw("coach", folder, "--run", "toy", "--data", drawn)
    assert done.code == 0, done.err
    scores = {Path(name).name: score for name, score in scores_of(done.out).items()}
    assert len(scores) == 2 * len(LEGAL) + 1
    for name in LEGAL:
        # Over white Pillow's two ways round differently, by one level of 255.
        assert scores[name] == pytest.approx(scores[f"{name}.png"], abs=0.2 if "alpha" in name else 1e-6), name
    assert scores["link.jpg"] == scores["jpeg.jpg"]
    assert len({round(score, 3) for score in scores.values()}) > len(LEGAL) / 2, "the score follows the pixels"


def test_whatever_is_no_photo_is_named(bench, drawn, paw, tmp_path, unharmed):
    folder, good = tmp_path / "mine", LEGAL["jpeg.jpg"]
    folder.mkdir()
    (folder / "good.jpg").write_bytes(good)
    bad = {
        "empty.jpg": (b"", "empty"),
        "cut.jpg": (good[: len(good) // 2], "truncated"),
        "head.jpg": (good[:30], "truncated"),
        "text.jpg": (b"no photo", "not a JPEG, PNG, WebP, GIF, BMP or TIFF image"),
        "bomb.png": (saved(Image.new("1", (30_000, 30_000)), "PNG"), "too large"),
        "wide.png": (saved(Image.new("1", (30_000, 40)), "PNG"), ""),
        "dot.png": (saved(Image.new("RGB", (1, 1)), "PNG"), "too small (1 x 1; 32 px a side at least)"),
        "float.tif": (saved(picture(1, "F"), "TIFF"), "floating-point pixels"),
    }
    for name, (data, _) in bad.items():
        (folder / name).write_bytes(data)
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    (folder / "dead.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    reasons = {name: reason for name, (_, reason) in bad.items() if reason} | {
        "folder.jpg": "a folder, not a photo",
        "pipe.jpg": "not a regular file",
        "device.jpg": "not a regular file",
        "dead.jpg": "a link that leads nowhere",
        "loop.jpg": "cannot be read (Too many levels of symbolic links)",
    }
    with unharmed(tmp_path):
        done = paw("coach", folder, "--run", "toy", "--data", drawn)
    assert done.code == 2
    assert {Path(name).name for name in scores_of(done.out)} == {"good.jpg", "wide.png"}
    line = done.err.splitlines()[-1]
    assert line.startswith(f"pawpularity: {len(reasons)} of {len(reasons) + 2} photos cannot be used (")
    assert line.endswith("; the others are above")
    for name, reason in reasons.items():
        assert f"{name}: {reason}" in line
