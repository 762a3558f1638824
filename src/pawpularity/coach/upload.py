"""A photo that somebody sent: looked at before it is decoded, and refused where it is too large to be worth the memory.

Nothing is written anywhere: bytes in, pixels out by the project's own decoder.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from pawpularity.data.photo_cache import fingerprint
from pawpularity.data.photos import FORMATS, PhotoError, Pixels, decode, fault

MOST_BYTES = 20_000_000
MOST_PIXELS = {"JPEG": 64_000_000}
"""JPEGs are reduced while they are decoded (photos.py); other formats unfold whole, four bytes a pixel."""
MOST_PIXELS_ELSE = 25_000_000
SMALLEST = 32
"""Pixels of the shorter side: below it nothing can be told apart."""
_ORIENTATION = 0x0112


@dataclass(frozen=True, eq=False)
class Upload:
    """One photo's bytes, whose head was read."""

    data: bytes
    width: int
    """pixels, as shown: turned as its EXIF says"""
    height: int

    @classmethod
    def of(cls, data: bytes) -> "Upload":
        """Look at the head of a photo. Raises PhotoError for what is no photo, too small, or too large."""
        try:
            if not data:
                raise PhotoError(data, "empty")
            if len(data) > MOST_BYTES:
                raise PhotoError(data, f"too large a file ({MOST_BYTES / 1e6:.0f} MB at most)")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                (width, height), kind = image.size, image.format or ""
                turned = _turned(image)
        except PhotoError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limit lies above ours
            raise PhotoError(data, f"too large ({_limits()}); shrink it") from None
        except Exception as error:  # a photo is foreign input: Pillow's plugins raise dozens of types on broken files
            raise PhotoError(data, fault(error, data)) from None
        most = MOST_PIXELS.get(kind, MOST_PIXELS_ELSE)
        if width * height > most:
            raise PhotoError(
                data, f"too large ({width} x {height}; {most / 1e6:.0f} Mpx at most for {kind}); shrink it"
            )
        if min(width, height) < SMALLEST:
            raise PhotoError(data, f"too small ({width} x {height}; {SMALLEST} px a side at least)")
        return cls(data, *((height, width) if turned else (width, height)))

    @property
    def print(self) -> str:
        """Names its content, as the tables of photos do."""
        return fingerprint(self.data)

    def pixels(self, size: int, fit: str) -> Pixels:
        """(size, size, 3) by the project's decoder. Raises PhotoError."""
        return decode(self.data, size, fit)


def _limits() -> str:
    every = "; ".join(f"{most / 1e6:.0f} Mpx at most for {kind}" for kind, most in MOST_PIXELS.items())
    return f"{every}, {MOST_PIXELS_ELSE / 1e6:.0f} Mpx for all others"


def _turned(image: Image.Image) -> bool:
    """Whether EXIF turns the photo on its side."""
    try:
        return image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    except Exception:  # broken metadata around good pixels is common
        return False


def cropped(pixels: Pixels, box: tuple[float, float, float, float], size: int) -> Pixels:
    """The part `box` (left, top, right, bottom as shares) of pixels (s, s, 3), as (size, size, 3)."""
    side = len(pixels)
    left, top, right, bottom = (round(edge * side) for edge in box)
    part = Image.fromarray(pixels[top:bottom, left:right])
    return np.array(part.resize((size, size), Image.Resampling.BICUBIC))
