"""The crop to try: the window of a photo that the networks score highest, coarse to fine.

Windows keep the photo's own shape (or are squares where the run cuts squares) and are 55 to 95 % of its side. Every one is
scored, the best one's surroundings once more in half steps. The best of about a hundred guesses is flattered by the choice:
on drawn pets, whose scores do not depend on the crop at all, `twins.py` measures by how much.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.coach.upload import Upload, cropped
from pawpularity.data.photos import Pixels

SIDES = (0.95, 0.85, 0.75, 0.65, 0.55)
PLACES = 4  # windows of one size along a side
LEAST_GAIN = 1.0  # score points below which the photo is left as it is
_DETAIL = 2  # pixels decoded for every one the network sees, so that a crop is not drawn up

Box = tuple[float, float, float, float]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Crop:
    """The best window found."""

    box: Box
    """left, top, right, bottom as shares of the photo as shown"""
    score: float
    whole: float
    """the whole photo's score, made in the same way"""
    tried: int
    least: float = LEAST_GAIN
    """gain from which on it is proposed"""

    @property
    def gain(self) -> float:
        """Score points by which the networks prefer it."""
        return self.score - self.whole

    @property
    def worth(self) -> bool:
        """Whether to propose it."""
        return self.gain >= self.least

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"gain": self.gain, "worth": self.worth}


def best_crop(
    upload: Upload, scores: Callable[[Pixels], Floats], size: int, fit: str, *, least: float = LEAST_GAIN
) -> Crop:
    """Search the windows of one photo; `scores` maps pixels (n, size, size, 3) to (n,) points. Raises PhotoError."""
    detail = upload.pixels(_DETAIL * size, "squash")
    widest, highest = 1.0, 1.0
    if fit == "crop":
        side = min(upload.width, upload.height)
        widest, highest = side / upload.width, side / upload.height
    whole = ((1 - widest) / 2, (1 - highest) / 2, (1 + widest) / 2, (1 + highest) / 2)
    tried: dict[Box, float] = {}

    def score(boxes: Iterable[Box]) -> None:
        new = [box for box in dict.fromkeys(boxes) if box not in tried]
        if new:
            found = scores(np.stack([cropped(detail, box, size) for box in new]))
            tried.update(zip(new, found.tolist(), strict=True))

    score([whole, *(box for side in SIDES for box in _windows(side * widest, side * highest))])
    for step in (0.05, 0.025):
        left, top, right, bottom = _best(tried, whole)
        width, height = right - left, bottom - top
        score(_moved(left, top, width, height, step))
        score(_sized(left, top, width, height, step))
    box = _best(tried, whole)
    return Crop(box, tried[box], tried[whole], len(tried), least)


def _best(tried: dict[Box, float], whole: Box) -> Box:
    # Of equal scores the whole photo wins, then the larger window: nothing is cut away for nothing.
    return max(tried, key=lambda box: (tried[box], box == whole, box[2] - box[0], box))


def _windows(width: float, height: float) -> list[Box]:
    return [_box(x * (1 - width), y * (1 - height), width, height)
            for y in np.linspace(0, 1, PLACES) for x in np.linspace(0, 1, PLACES)]  # fmt: skip


def _moved(left: float, top: float, width: float, height: float, step: float) -> list[Box]:
    around = (-step, 0.0, step)
    return [_box(left + dx, top + dy, width, height) for dy in around for dx in around]


def _sized(left: float, top: float, width: float, height: float, step: float) -> list[Box]:
    boxes = []
    for factor in (1 - step, 1 + step):
        wider, higher = width * factor, height * factor
        if wider <= 1 and higher <= 1:
            boxes.append(_box(left + (width - wider) / 2, top + (height - higher) / 2, wider, higher))
    return boxes


def _box(left: float, top: float, width: float, height: float) -> Box:
    left, top = (float(min(max(edge, 0.0), 1.0 - span)) for edge, span in ((left, width), (top, height)))
    left, top, right, bottom = (round(edge, 4) for edge in (left, top, left + width, top + height))
    return left, top, right, bottom
