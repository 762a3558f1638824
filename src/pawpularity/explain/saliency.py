"""A map of one photo: where its score comes from, signed, with its unit and, where it is sampled, its error."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.files import atomic_file

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Saliency:
    """The map of one photo by one method. Nothing in it is clipped, or scaled to its own maximum."""

    method: str  # `gradient`, `gradcam`, `rise`
    map: Map  # (H, W): positive where the place raises the score
    unit: str  # what one of the map's numbers means, such as `score points from hidden to shown`
    standard_error: Map | None = None  # (H, W), in the map's unit; None where the method has none
    facts: dict[str, Any] = field(default_factory=dict)  # figures that belong beside the map: masks, error, layer, ...
    arrays: dict[str, Map] = field(default_factory=dict)  # other raw arrays: Grad-CAM's cells, the gradient's channels
    warnings: tuple[str, ...] = ()  # what a reader must know before trusting the map, one line each
    effect: Map | None = None
    """(H, W), score points: what showing the place adds, to first order, where the map says something else (a gradient: what
    brightening the place does). Hiding and showing can test this, not the map."""

    @property
    def judged(self) -> Map:
        """(H, W): what hiding and showing places can test: the effect, or the map itself."""
        return self.map if self.effect is None else self.effect

    def about(self) -> dict[str, Any]:
        """All but the arrays, as JSON."""
        return {"unit": self.unit, "facts": self.facts, "warnings": list(self.warnings)}


def write_maps(path: Path, maps: Mapping[str, Saliency]) -> None:
    """Write the raw maps as `.npz`, float32: METHOD, METHOD_standard_error, METHOD_effect, METHOD_NAME (other arrays)."""
    arrays: dict[str, Map] = {}
    for name, saliency in maps.items():
        own = {"": saliency.map, "_standard_error": saliency.standard_error, "_effect": saliency.effect}
        own |= {f"_{key}": value for key, value in saliency.arrays.items()}
        arrays |= {name + end: np.asarray(value, np.float32) for end, value in own.items() if value is not None}
    write_arrays(path, arrays)


def write_arrays(path: Path, arrays: Mapping[str, Map]) -> None:
    """Write arrays as `.npz` without pickle."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_maps(path: Path, methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Saliency]:
    """The maps that `write_maps` wrote; `methods`: each one's `about()`."""
    with np.load(path, allow_pickle=False) as arrays:
        return {
            name: Saliency(
                name, arrays[name], about["unit"], arrays.get(f"{name}_standard_error"), about["facts"],
                effect=arrays.get(f"{name}_effect"), warnings=tuple(about["warnings"]),
            )
            for name, about in methods.items()
        }  # fmt: skip
