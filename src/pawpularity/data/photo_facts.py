"""What can be measured of a photo file without a network: its size, its bytes, how sharp and how bright it is, its date.

A column each, named with its unit. The two that are spread over decades, file size and sharpness, are natural logarithms,
so that a mean is not one photo's. Sharpness is taken at 256 x 256 pixels, or it would measure the size again.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from pawpularity.data.dataset import Rows
from pawpularity.data.photo_cache import open_rows
from pawpularity.data.photos import DECODER, FORMATS, PhotoError, Pixels, decode, fault, file_stat
from pawpularity.files import text_hash

# Properties a share of the error may go with; the two below are of the file alone.
PROPERTIES = (
    "width, px",
    "height, px",
    "width / height",
    "megapixels",
    "log file size",
    "log sharpness",
    "mean luma",
)
QUANTISATION, DATE = "JPEG quantisation", "date"
_COLUMNS = (*PROPERTIES, QUANTISATION, DATE)
_RULE = "facts-1"  # in the cache's name: other rules make other files
_MEASURED_AT = 256

_ORIENTATION, _EXIF, _TAKEN, _CHANGED = 0x0112, 0x8769, 0x9003, 0x0132
_EARLIEST = datetime(1995, 1, 1, tzinfo=UTC)  # below it a camera's clock was never set


def displayed_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels as the photo is shown, that is, turned as its EXIF says. Raises PhotoError."""
    return _header(path)[0]


def photo_facts(rows: Rows) -> pd.DataFrame:
    """The properties of every photo of `rows`, in row order, float64: PROPERTIES, QUANTISATION and DATE.

    QUANTISATION is the mean of a JPEG's luma table (higher = coarser), NaN for other files. DATE is the day (since 1970)
    that EXIF says the photo was taken or, failing that, changed on; NaN where it says neither. Kept in the cache folder's
    `photos-measured/`. Raises UserError listing the photos that cannot be decoded.
    """
    file = rows.cache_folder / "photos-measured" / f"{rows.photo_key}-{text_hash(_RULE, DECODER)}.npy"
    packed = open_rows(rows.paths, _packed, shape=(8 * len(_COLUMNS),), file=file, progress="measuring photos")
    return pd.DataFrame(np.ascontiguousarray(packed).view(np.float64), columns=list(_COLUMNS))


def facts_of(path: Path) -> NDArray[np.float64]:
    """One photo's properties, in the order of `photo_facts`. Raises PhotoError."""
    (width, height), quantisation, date = _header(path)
    grey = cv2.cvtColor(decode(path, _MEASURED_AT, "squash"), cv2.COLOR_RGB2GRAY)
    sharpness = cv2.Laplacian(grey, cv2.CV_64F).var()
    values = (width, height, width / height, width * height / 1e6, np.log(file_stat(path).st_size), np.log1p(sharpness),
              grey.mean(), quantisation, date)  # fmt: skip
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


def _packed(path: Path) -> Pixels:
    return facts_of(path).view(np.uint8)


def _header(path: Path) -> tuple[tuple[int, int], float, float]:
    """Displayed size, mean of the luma quantisation table, day: from the file's head, no pixel decoded."""
    file_stat(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            size = image.size
            tables = getattr(image, "quantization", None)
            quantisation = float(np.mean(tables[min(tables)])) if tables else float("nan")
            try:
                exif = image.getexif()
                turned = exif.get(_ORIENTATION) in (5, 6, 7, 8)
                day = exif_day([exif.get_ifd(_EXIF).get(_TAKEN), exif.get(_CHANGED)])
            except Exception:  # broken metadata around good pixels is common
                turned, day = False, float("nan")
    except Exception as error:  # a photo is foreign input: Pillow's plugins raise dozens of types on broken files
        raise PhotoError(path, fault(error, path)) from None
    return (size[1], size[0]) if turned else size, quantisation, day
