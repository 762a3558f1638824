"""What can be measured of a photo file without a network: its size, its bytes, how sharp and how bright it is, its date.

A column each, named with its unit. File size and sharpness are spread over decades, so they are natural logarithms.
Sharpness is taken at 256 x 256 pixels: it would measure the size otherwise.
"""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pawpularity.data.dataset import Rows
from pawpularity.data.photo_cache import CachedRows
from pawpularity.data.photos import DECODER, FORMATS, PhotoError, decode, fault, orientation, read_photo
from pawpularity.files import text_hash

# Properties that may go with a share of the error; the other two are of the file alone.
PROPERTIES = ("width, px", "height, px", "width / height", "megapixels", "log file size", "log sharpness", "mean luma")
QUANTISATION, DATE = "JPEG quantisation", "date"
_COLUMNS = (*PROPERTIES, QUANTISATION, DATE)
_RULE = "facts-1"  # in the cache's name: other rules make other files
_MEASURED_AT = 256
_EXIF, _TAKEN, _CHANGED = 0x8769, 0x9003, 0x0132
_EARLIEST = datetime(1995, 1, 1, tzinfo=UTC)  # an earlier date is that of a camera whose clock was never set


def displayed_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels as the photo is shown, turned as its EXIF says. Raises PhotoError."""
    return _header(path, read_photo(path))[0]


def photo_facts(rows: Rows) -> pd.DataFrame:
    """The properties of every photo of `rows`, in row order, float64: PROPERTIES, QUANTISATION and DATE.

    QUANTISATION is the mean of a JPEG's luma table (higher = coarser), NaN for other files. DATE is the day (since 1970)
    that EXIF says the photo was taken or, failing that, changed on; NaN where it says neither. Kept in the cache folder's
    `photos-measured/`. Raises UserError listing the photos that cannot be decoded.
    """
    file = rows.cache_folder / "photos-measured" / f"{rows.photo_key}-{text_hash(_RULE, DECODER)}.npy"
    shape = (8 * len(_COLUMNS),)
    packed = CachedRows(file, rows.paths, lambda path: facts_of(path).view(np.uint8), shape, "measuring photos")
    return pd.DataFrame(np.ascontiguousarray(packed.open()).view(np.float64), columns=list(_COLUMNS))


def facts_of(path: Path) -> NDArray[np.float64]:
    """One photo's properties, in the order of `photo_facts`. Raises PhotoError."""
    data = read_photo(path)
    grey = cv2.cvtColor(decode(path, _MEASURED_AT, "squash"), cv2.COLOR_RGB2GRAY)
    (width, height), quantisation, date = _header(path, data)
    sharpness = cv2.Laplacian(grey, cv2.CV_64F).var()
    values = (width, height, width / height, width * height / 1e6, np.log(len(data)), np.log1p(sharpness), grey.mean(),
              quantisation, date)  # fmt: skip
    return np.array(values, dtype=np.float64)


def exif_day(texts: Sequence[object]) -> float:
    """Days since 1970 of the first of EXIF's texts ("2019:05:01 12:00:00") that is a date, else NaN."""
    for text in texts:
        try:
            when = datetime.strptime(str(text).strip("\0 ")[:19], "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
        except ValueError:
            continue
        if when >= _EARLIEST:
            return when.timestamp() / 86400.0
    return float("nan")


def _header(path: Path, data: bytes) -> tuple[tuple[int, int], float, float]:
    """Displayed size, mean of the luma quantisation table, day. The pixels of a JPEG are not decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.format != "JPEG":  # a PNG may end with its EXIF, and Pillow turns a TIFF while it loads
                image.load()
            tables = getattr(image, "quantization", None)
            quantisation = float(np.mean(tables[min(tables)])) if tables else float("nan")
            width, height = image.size
            size = (height, width) if 5 <= orientation(image) <= 8 else (width, height)
            try:
                exif = image.getexif()
                day = exif_day([exif.get_ifd(_EXIF).get(_TAKEN), exif.get(_CHANGED)])
            except Exception:  # broken metadata around good pixels is common
                day = float("nan")
    except Exception as error:  # Pillow's plugins raise dozens of types on broken files
        raise PhotoError(path, fault(error, data)) from None
    return size, quantisation, day
