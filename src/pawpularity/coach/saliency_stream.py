"""A photo's RISE map while it is computed, coarse first, as transparent pictures to lay over the photo.

Red places raise the score, blue ones lower it, and where the map is zero the picture is transparent.
"""

import base64
import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pawpularity.config import Explain
from pawpularity.data.photos import Pixels
from pawpularity.explain.panel import LOWERS, RAISES, SIDE, scale_of
from pawpularity.explain.rise import Rise, Score, rise

_STRONGEST = 217  # alpha at the end of the scale: a little of the photo still shows


def stream(score: Score, x: Tensor, settings: Explain, show: Callable[[dict[str, Any]], object]) -> None:
    """Compute RISE of one photo `x` (C, H, W), and call `show` with a `frame` after 1, 2, 4, 8, ... blocks of masks and at the end.

    Errors of `show` and `score` stop it. Raises UserError as `rise` does.
    """

    def on_block(found: Rise) -> None:
        if found.blocks & (found.blocks - 1) == 0:
            show(frame(found, done=False))

    found = rise(score, x, cells=settings.cells, precision=settings.precision, budget=settings.budget, seed=settings.seed,
                 batch_size=settings.batch_size, on_block=on_block)  # fmt: skip
    show(frame(found, done=True))


def frame(found: Rise, *, done: bool) -> dict[str, Any]:
    """The map so far, for JSON: its picture, the score points at the end of its colour scale, and its precision."""
    scale, error, file = scale_of([found.map]), found.relative_error, io.BytesIO()
    Image.fromarray(coloured(found.map, scale)).save(file, format="PNG")
    return {
        "picture": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), "scale": scale, "masks": found.masks,
        "relative_error": error if error is not None and np.isfinite(error) else None,
        "verdict": found.verdict if done else "coarse", "done": done,
    }  # fmt: skip


def coloured(values: NDArray[np.floating], scale: float) -> Pixels:
    """(SIDE, SIDE, 4): the colour shows the sign of `values` (any size), the opacity their size, strongest at `scale`."""
    large = cv2.resize(np.asarray(values, dtype=np.float32), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    picture = np.empty((SIDE, SIDE, 4), dtype=np.uint8)
    picture[..., :3] = np.where(large[..., None] > 0, RAISES, LOWERS)
    picture[..., 3] = np.rint(np.clip(np.abs(large) / scale, 0.0, 1.0) * _STRONGEST)
    return picture
