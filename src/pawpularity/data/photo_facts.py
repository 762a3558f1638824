"""Simple properties of a photo file, measured without a network: size, bytes, sharpness, brightness.

Each is a column, named with its unit. File size and sharpness span decades, so they are natural logarithms. Sharpness is
measured at 256 x 256 pixels, or it would depend on the photo's size.
"""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.dataset import Rows
from pawpularity.data.photo_cache import CachedRows
from pawpularity.data.photos import DECODER, decode, photo_size, read_photo
from pawpularity.files import text_hash

PROPERTIES = ("width, px", "height, px", "width / height", "megapixels", "log file size", "log sharpness", "mean luma")
_RULE = "facts-3"  # version of the rule, in the cache's name
_MEASURED_AT = 256


def photo_facts(rows: Rows) -> pd.DataFrame:
    """The properties of every photo of `rows`, in row order, float64.

    Cached in the cache folder's `photos-measured/`. Raises UserError listing the photos that cannot be decoded.
    """
    file = rows.cache_folder / "photos-measured" / f"{rows.photo_key}-{text_hash(_RULE, DECODER)}.npy"
    shape = (8 * len(PROPERTIES),)
    packed = CachedRows(file, rows.paths, lambda path: facts_of(path).view(np.uint8), shape, "measuring photos")
    return pd.DataFrame(np.ascontiguousarray(packed.open()).view(np.float64), columns=list(PROPERTIES))


def facts_of(path: Path) -> NDArray[np.float64]:
    """One photo's properties, in the order of `photo_facts`. Raises PhotoError."""
    data = read_photo(path)
    grey = cv2.cvtColor(decode(path, _MEASURED_AT, "squash"), cv2.COLOR_RGB2GRAY)
    width, height = photo_size(data)
    sharpness = cv2.Laplacian(grey, cv2.CV_64F).var()
    values = (width, height, width / height, width * height / 1e6, np.log(len(data)), np.log1p(sharpness), grey.mean())
    return np.array(values, dtype=np.float64)
