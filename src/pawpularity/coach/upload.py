"""An uploaded photo. Its header is checked before it is decoded, and it is never written to disk."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from pawpularity.data.photo_cache import fingerprint
from pawpularity.data.photos import PhotoError, Pixels, decode, photo_size

MAX_BYTES = 20_000_000
MAX_PIXELS = {"JPEG": 64_000_000, "": 25_000_000}
"""By format. JPEGs are shrunk while they are decoded; other formats are decoded at full size, four bytes a pixel."""
MIN_SIDE = 32

Box = tuple[float, float, float, float]
"""left, top, right, bottom, as shares of the upright photo"""


@dataclass(frozen=True, eq=False)
class Upload:
    """A photo's bytes, and the size in pixels of the upright photo (turned as its metadata say)."""

    data: bytes
    width: int
    height: int

    @classmethod
    def of(cls, data: bytes) -> "Upload":
        """Read a photo's header. Raises PhotoError for files that are not photos, too small or too large."""
        if len(data) > MAX_BYTES:
            raise PhotoError(data, f"too large a file ({MAX_BYTES / 1e6:.0f} MB at most)")
        width, height = photo_size(data, MAX_PIXELS)
        if min(width, height) < MIN_SIDE:
            raise PhotoError(data, f"too small ({width} x {height}; {MIN_SIDE} px a side at least)")
        return cls(data, width, height)

    @property
    def fingerprint(self) -> str:
        """The hash of the bytes, as in `Dataset.fingerprints`."""
        return fingerprint(self.data)

    def pixels(self, size: int, fit: str) -> Pixels:
        """(size, size, 3), by the project's decoder. Raises PhotoError."""
        return decode(self.data, size, fit)


def cropped(pixels: Pixels, box: Box, size: int) -> Pixels:
    """The part `box` of pixels (s, s, 3), as (size, size, 3)."""
    left, top, right, bottom = (round(edge * len(pixels)) for edge in box)
    part = Image.fromarray(pixels[top:bottom, left:right])
    return np.array(part.resize((size, size), Image.Resampling.BICUBIC))
