"""Backgrounds of the sample shelter, at the luminance and vividness that a photo's contrast asks for.

Drawn by `pawpularity sample --photos 600 --size 160 --seed 0 --twins 5`. They differ boldly in layout (horizons, windows,
patterns, lamps), so that perceptual hashes confuse no two photos.
"""

import cv2
import numpy as np
import numpy.typing as npt

from pawpularity.sample.canvas import LUMA, Canvas, Mask
from pawpularity.sample.indoors import Indoors
from pawpularity.sample.outdoors import Outdoors

Draws = npt.NDArray[np.float64]


def draw_scene(canvas: Canvas, scene: str, target: float, vivid: float, seen: Mask, draws: Draws) -> None:
    """Fill the canvas with a scene whose mean luminance is `target` (0..255) where the mask `seen` is not 0.

    `vivid` scales the saturation of its colours (1: as painted); `draws` are at least 80 uniform numbers.
    """
    indoors, outdoors = Indoors(canvas, target, draws.tolist()), Outdoors(canvas, target, draws.tolist())
    painters = {
        "room": indoors.room,
        "sofa": indoors.sofa,
        "blanket": indoors.blanket,
        "kennel": indoors.kennel,
        "backdrop": indoors.backdrop,
        "garden": outdoors.garden,
        "beach": outdoors.beach,
        "wood": outdoors.wood,
    }
    painters[scene]()
    # The painters' palettes come near the target; what is left is a share of black or white, exact in the mean.
    grey = np.tensordot(LUMA, canvas.planes, 1)
    canvas.planes -= grey
    canvas.planes *= vivid
    canvas.planes += grey
    mean = sum(float(share) * cv2.mean(plane, seen)[0] for share, plane in zip(LUMA, canvas.planes, strict=True))
    if mean > target:
        canvas.planes *= target / mean
    else:
        share = (target - mean) / (255.0 - mean)
        canvas.planes *= 1.0 - share
        canvas.planes += 255.0 * share
    np.clip(canvas.planes, 0, 255, out=canvas.planes)
