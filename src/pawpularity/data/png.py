"""PNG files: the parts that make the picture, and colours of 16 bits that hold 8 to 14.

Pillow refuses a whole PNG for a comment or a colour profile that is too large or damaged. As libpng does, `opened` leaves such
parts out. It moves the orientation, which may stand at the end of the file, to the front, so that it can be read without decoding.
"""

import io
import sys
import zlib
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin, TiffImagePlugin

from pawpularity.errors import BadPhoto

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp\0\0", b"Raw profile type exif\0"
_PACKED_XMP = b"XML:com.adobe.xmp\0\1\0\0\0"
_LONGEST = 1_000_000  # bytes of metadata that Pillow takes
_LOW_BYTES = {
    "RGB;16B": "RGB;16L",
    "RGBA;16B": "RGBA;16L",
    "LA;16B": "RGBA",
    "RGB;16L": "RGB;16B",
    "RGBA;16L": "RGBA;16B",
}
_LOW_BYTES |= {name[:-1] + "N": low for name, low in _LOW_BYTES.items() if name[-1] == sys.byteorder[0].upper()}
"""Pillow reads 16-bit colours by their high bytes; by these names of the same layout it reads the low ones."""


def opened(data: bytes) -> PngImagePlugin.PngImageFile:
    """The picture of a PNG file, not yet decoded. Raises BadPhoto for a file that is cut short or has a damaged header."""
    front, back = [SIGNATURE], list[bytes]()
    for kind, body in _chunks(data):
        if kind in _PICTURE:
            (front if kind == b"IHDR" else back).append(_chunk(kind, body))
        elif kind == b"eXIf":
            front.append(_chunk(kind, body))
        elif (text := _text_of(kind, body)) and len(text) < _LONGEST:
            front.append(_chunk(kind if kind == b"iTXt" else b"tEXt", text))
    return cast("PngImagePlugin.PngImageFile", Image.open(io.BytesIO(b"".join(front + back)), formats=("PNG",)))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, content) of every chunk; those with a wrong checksum only if they hold pixels, which have a checksum of their own."""
    at = len(SIGNATURE)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind, body, check = data[at + 4 : at + 8], data[at + 8 : end - 4], data[end - 4 : end]
        if end > len(data):
            raise BadPhoto("truncated")
        if kind == b"IDAT" or int.from_bytes(check, "big") == zlib.crc32(kind + body):
            yield kind, body
        elif kind in (b"IHDR", b"PLTE"):
            raise BadPhoto(f"damaged (the checksum of its {kind.decode()} is wrong)")
        if kind == b"IEND":
            return
        at = end


def _chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def _text_of(kind: bytes, body: bytes) -> bytes:
    """The content of a text chunk that may hold the orientation, unfolded; empty for all others."""
    if kind == b"iTXt" and body.startswith(_XMP):
        return body
    if kind == b"tEXt" and body.startswith(_RAW_EXIF):
        return body
    if kind == b"iTXt" and body.startswith(_PACKED_XMP):
        return _unfolded(_XMP + bytes(3), body[len(_PACKED_XMP) :])
    if kind == b"zTXt" and body.startswith(_RAW_EXIF):
        return _unfolded(_RAW_EXIF, body[len(_RAW_EXIF) + 1 :])
    return b""


def _unfolded(start: bytes, packed: bytes) -> bytes:
    """`start` and the unpacked text; empty if it is damaged."""
    try:
        return start + zlib.decompressobj().decompress(packed, _LONGEST)
    except zlib.error:
        return b""


def eight_bits(values: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """The upper 8 bits of grey levels (0..65535) that fill 8, 10, 12, 14 or 16 bits, by the largest of them.

    Many programs store what a camera gave, 8 to 14 bits, in 16; by its high byte such a photo is black.
    """
    bits = next(bits for bits in (8, 10, 12, 14, 16) if values.max() < 1 << bits)
    return (values >> (bits - 8)).astype(np.uint8)


def _of_low_bytes(args: Any) -> Any:
    """What Pillow unpacks a part of a PNG (a name) or TIFF (a tuple) by, with the low bytes."""
    return _LOW_BYTES[args] if isinstance(args, str) else (_LOW_BYTES[args[0]], *args[1:])


def rescaled(image: Image.Image, rawmode: str, data: bytes) -> Image.Image:
    """`image`, loaded from `data`, with its colours by `eight_bits` if they are of 16 bits and do not fill them."""
    if rawmode not in _LOW_BYTES or np.asarray(image)[..., :3].max() > 63:
        return image
    with opened(data) if image.format == "PNG" else TiffImagePlugin.TiffImageFile(io.BytesIO(data)) as again:
        make = getattr(type(again.tile[0]), "_make", tuple)  # plain tuples before Pillow 11
        tiles: list[Any] = [make((*tile[:3], _of_low_bytes(tile[3]))) for tile in again.tile]
        again.tile = tiles
        low = np.asarray(again).astype(np.uint16)
    if rawmode == "LA;16B":  # read as four bytes: grey high, grey low, alpha high, alpha low
        low = low[..., [1, 1, 1, 3]]
    values = np.asarray(image).astype(np.uint16) << 8 | low
    parts = [eight_bits(part) for part in np.split(values, [3], axis=2) if part.size]
    return Image.fromarray(np.concatenate(parts, axis=2))
