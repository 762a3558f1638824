"""A photo's map as it grows: RISE, coarse first, as transparent pictures to be laid over the photo.

Red places raise the score, blue ones lower it, and where the map is zero the picture is clear. The end of the colour scale is in
score points and is said with every picture; it covers 99 % of the map's pixels.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pawpularity.config import Explain
from pawpularity.data.photos import Pixels
from pawpularity.explain.panel import scale_of
from pawpularity.explain.rise import Score, rise
from pawpularity.explain.rise_result import Rise

SIDE = 224
_RAISES, _LOWERS = (178, 24, 43), (33, 102, 172)
_STRONGEST = 217  # of 255: at the scale's end a little of the photo still shows


@dataclass(frozen=True, eq=False)
class Heat:
    """The map so far."""

    picture: Pixels
    """(SIDE, SIDE, 4) RGBA"""
    scale: float
    """score points at the end of the colours"""
    masks: int
    relative_error: float | None
    """None: too few masks to know it, or no signal yet"""
    verdict: str
    """`coarse`, `precise`, `budget spent` or `no signal found`"""
    done: bool

    @property
    def png(self) -> bytes:
        """The picture as a PNG."""
        file = io.BytesIO()
        Image.fromarray(self.picture).save(file, format="PNG")
        return file.getvalue()


def grow(score: Score, x: Tensor, settings: Explain, show: Callable[[Heat], object]) -> Heat:
    """RISE of one photo `x` (C, H, W) by `score`; `show` is given the map after 1, 2, 4, 8, ... blocks of masks.

    It stops at `explain.precision` or `explain.budget`. Whatever `show` raises ends it. Raises UserError as `rise` does.
    """

    def after(found: Rise) -> None:
        if found.blocks & (found.blocks - 1) == 0:
            show(heat_of(found, done=False))

    found = rise(score, x, cells=settings.cells, precision=settings.precision, budget=settings.budget, seed=settings.seed,
                 batch_size=settings.batch_size, on_block=after)  # fmt: skip
    last = heat_of(found, done=True)
    show(last)
    return last


def heat_of(found: Rise, *, done: bool) -> Heat:
    """The picture of a map."""
    scale = scale_of([found.map])
    error = found.relative_error
    known = error if error is not None and np.isfinite(error) else None
    return Heat(coloured(found.map, scale), scale, found.masks, known, found.verdict if done else "coarse", done)


def coloured(values: NDArray[np.floating], scale: float) -> Pixels:
    """(SIDE, SIDE, 4): the colour says the sign of `values` (any size), the opacity how far from zero, full at `scale`."""
    large = cv2.resize(np.asarray(values, dtype=np.float32), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    picture = np.empty((SIDE, SIDE, 4), dtype=np.uint8)
    picture[..., :3] = np.where(large[..., None] > 0, _RAISES, _LOWERS)
    picture[..., 3] = np.rint(np.clip(np.abs(large) / scale, 0.0, 1.0) * _STRONGEST)
    return picture
