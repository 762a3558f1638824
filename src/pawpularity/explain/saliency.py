"""A map of one photo: where its score comes from, signed, with its unit and, where it is sampled, its error."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Saliency:
    """What one method says of one photo. Nothing in it is clipped or scaled to its own maximum."""

    method: str
    """`gradient`, `gradcam`, `rise`."""
    map: NDArray[np.float32]
    """(H, W): positive where the place raises the score."""
    unit: str
    """What one of the map's numbers means, such as `score points from hidden to shown`."""
    standard_error: NDArray[np.float32] | None = None
    """(H, W), in the map's unit; None where the method has none."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Plain figures that belong beside the map: masks used, relative error, layer, ..."""
    arrays: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """Other raw arrays worth keeping, by name: Grad-CAM's cells, a gradient's channels."""
    warnings: tuple[str, ...] = ()
    """One line each of what a reader must know before trusting the map."""
    effect: NDArray[np.float32] | None = None
    """(H, W), score points: what showing the place adds, to first order, where the map says something else (a gradient: what
    brightening it does). It is judged in the map's stead, by hiding and showing."""

    @property
    def judged(self) -> NDArray[np.float32]:
        """(H, W) what hiding and showing places can bear out: the effect, or the map itself."""
        return self.map if self.effect is None else self.effect
