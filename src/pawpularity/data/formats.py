"""Open a photo file by its content, whatever its name: the first picture, not yet decoded, and its upright size.

An allow-list of formats, so that a photo from outside never starts a plugin with side effects (EPS runs Ghostscript). AVIF comes
with Pillow 11.3 or newer, HEIC with the package pi-heif or pillow-heif (the extra `heic`).
"""

import importlib
import io
import re
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image, UnidentifiedImageError

from pawpularity.data import jpeg, png
from pawpularity.errors import BadPhoto

NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"
ENDINGS = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".heif",
)
"""Of files that are named if they are no photos."""
HEAD = 64
"""Bytes from which `kind_of` tells the format."""
_STARTS = {b"\xff\xd8\xff": "JPEG", png.SIGNATURE: "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF",
           b"II+\0": "TIFF", b"MM\0+": "TIFF"}  # fmt: skip
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_ORIENTATION = ExifTags.Base.Orientation
_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation(?:\s*=\s*["']|[^<>]*>)\s*([1-8])\b""")


def kind_of(head: bytes) -> str:
    """The format of a file that begins with `head`, as Pillow calls it; empty for none of ours."""
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124):
        return "BMP"
    if head[4:8] == b"ftyp":
        length = min(int.from_bytes(head[:4], "big"), HEAD)
        brands = {head[at : at + 4] for at in range(8, length, 4) if at != 12}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIC:
            return "HEIF"
    return ""


def opened(data: bytes) -> Image.Image:
    """The first picture of a file, not yet decoded: only its header is read.

    Raises BadPhoto for other files and for formats that this Python cannot read; Pillow's errors for damaged headers.
    """
    kind = kind_of(data[:HEAD])
    if kind == "JPEG":
        return jpeg.opened(data)
    if kind == "PNG":
        return png.opened(data)
    if not kind:
        raise BadPhoto(f"not a {NAMES} image")
    if kind == "HEIF":
        _register_heif()
    elif kind == "AVIF" and not _has_avif():
        raise BadPhoto("AVIF, which this Pillow cannot read; run: pip install --upgrade pillow")
    try:
        image = Image.open(io.BytesIO(data), formats=(kind,))
    except UnidentifiedImageError:
        raise BadPhoto(f"damaged, or cut short ({kind} by its first bytes)") from None
    if kind in ("AVIF", "HEIF"):  # turned by boxes of their own, which the plugins say as EXIF
        image.info.pop("xmp", None)
    if kind == "TIFF":
        _require_readable(image.tag_v2)  # type: ignore[attr-defined]
    return image


def _require_readable(tags: Mapping[int, Any]) -> None:
    """Raise BadPhoto for kinds of TIFF that Pillow reads wrongly without a word."""
    planes, white_is_zero = tags.get(284) == 2, tags.get(262) == 0
    if 16 in tags.get(258, ()) and (planes or white_is_zero):
        raise BadPhoto("a TIFF of 16 bits in planes or with white as 0, which cannot be read here; save it with 8 bits")


def orientation(image: Image.Image) -> int:
    """EXIF or XMP orientation, 1 if there is none. Call it before `load`: Pillow turns TIFFs while it loads them."""
    try:
        value = Image.Image.getexif(image).get(_ORIENTATION)  # the method of PNGs decodes the pixels
    except Exception:  # broken metadata around good pixels is common
        value = None
    if value is None and (found := _XMP_ORIENTATION.search(_xmp(image))):  # Pillow before 11.1 reads it in PNGs only
        value = int(found[1])
    return value if isinstance(value, int) else 1


def _xmp(image: Image.Image) -> bytes:
    text = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp")
    if text is None:
        parts = (content for _, content in getattr(image, "applist", ()))
        text = next((part for part in parts if part.startswith(b"http://ns.adobe.com/xap/")), b"")
    return text.encode() if isinstance(text, str) else bytes(text)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) in pixels once the orientation is applied, without decoding. Call it before `load`."""
    width, height = image.size
    if image.format == "TIFF":  # newer versions of Pillow exchange a TIFF's sides when they open it
        width, height = image.tag_v2[256], image.tag_v2[257]  # type: ignore[attr-defined]
    return (height, width) if 5 <= orientation(image) <= 8 else (width, height)


def _has_avif() -> bool:
    try:
        from PIL import AvifImagePlugin
    except ImportError:  # Pillow before 11.3
        return False
    return AvifImagePlugin.SUPPORTED


def _register_heif() -> None:
    for name in ("pi_heif", "pillow_heif"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        module.register_heif_opener()
        return
    raise BadPhoto("HEIC, which needs the package pi-heif; run: pip install pi-heif (or save it as JPEG)")
