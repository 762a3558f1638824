"""The crop to try: the window of a photo that the networks score highest, searched from coarse to fine.

Windows hold the whole subject, keep the photo's shape (or are squares, if the run crops squares) and are 55 to 95 % of its side.
The score of the best of up to a hundred windows is optimistic. `evaluate_tips` measures by how much, on drawn pets, whose true
scores do not depend on the crop.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pawpularity.coach.upload import Box, Upload, cropped
from pawpularity.data.photos import Pixels

SIDES = (0.95, 0.85, 0.75, 0.65, 0.55)
PLACES = 4  # positions of a window along a side
MIN_GAIN = 1.0  # least gain of a proposed crop, score points
_DETAIL = 2  # decoded side over the network's input side, so that crops are not enlarged


@dataclass(frozen=True)
class Crop:
    """The best window found, and its gain in score points over the whole photo."""

    box: Box
    gain: float
    tried: int
    score: float
    whole: float
    """the whole photo's score"""
    worth: bool = False
    """whether the crop is proposed"""


def best_crop(upload: Upload, score: Callable[[Pixels], NDArray[np.float64]], size: int, fit: str, keep: Box) -> Crop:
    """Search the windows of one photo that hold all of `keep`; `score` maps pixels (n, size, size, 3) to (n,) points.

    Raises PhotoError.
    """
    detail = upload.pixels(_DETAIL * size, "squash")
    side = min(upload.width, upload.height)
    width, height = (side / upload.width, side / upload.height) if fit == "crop" else (1.0, 1.0)
    whole = _window((1 - width) / 2, (1 - height) / 2, width, height)
    tried: dict[Box, float] = {}

    def best_with(boxes: Iterable[Box]) -> Box:
        new = [box for box in dict.fromkeys(boxes) if box not in tried and (box == whole or _holds(box, keep))]
        if new:
            tried.update(zip(new, score(np.stack([cropped(detail, box, size) for box in new])).tolist(), strict=True))
        # Of equal scores the whole photo wins, then the larger window: a crop must gain something.
        return max(tried, key=lambda box: (tried[box], box == whole, box[2] - box[0], box))

    shapes = [(share * width, share * height) for share in SIDES]
    places = list(product(np.linspace(0, 1, PLACES), repeat=2))
    best = best_with([whole, *(_window(x * (1 - w), y * (1 - h), w, h) for w, h in shapes for y, x in places)])
    for step in (0.05, 0.025):
        left, top, right, bottom = best
        w, h = right - left, bottom - top
        near = [_window(left + x, top + y, w, h) for y, x in product((-step, 0.0, step), repeat=2)]
        sizes = [(w * scale, h * scale) for scale in (1 - step, 1 + step) if max(w, h) * scale <= 1]
        best = best_with([*near, *(_window(left + (w - a) / 2, top + (h - b) / 2, a, b) for a, b in sizes)])
    return Crop(best, tried[best] - tried[whole], len(tried), tried[best], tried[whole])


def _holds(box: Box, keep: Box) -> bool:
    return box[0] <= keep[0] and box[1] <= keep[1] and box[2] >= keep[2] and box[3] >= keep[3]


def _window(left: float, top: float, width: float, height: float) -> Box:
    """The window moved inside the photo."""
    left, top = (float(np.clip(edge, 0.0, 1.0 - span)) for edge, span in ((left, width), (top, height)))
    return round(left, 4), round(top, 4), round(left + width, 4), round(top + height, 4)
