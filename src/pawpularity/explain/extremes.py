"""Which photos to explain: those that were predicted highest and lowest, and those furthest off, all out of fold.

A photo stands in as many lists as it belongs to and is explained once. Of near-duplicates each list takes the first.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pawpularity.evaluation.predictions import Predictions

HIGHEST, LOWEST, OVER, UNDER = "highest", "lowest", "over", "under"
KINDS = {
    HIGHEST: "highest predictions",
    LOWEST: "lowest predictions",
    OVER: "largest over-estimates",
    UNDER: "largest under-estimates",
}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """A photo of the run beside what was predicted for it by the network that never saw it. Score points."""

    id: str
    fold: int
    target: float
    prediction: float
    constant: float
    """what answering without looking says: the mean of the fold's training rows"""
    group: int
    """near-duplicates share a number"""
    kinds: tuple[str, ...] = ()
    """the lists of KINDS it stands in"""

    @property
    def error(self) -> float:
        """Prediction less truth: above zero for an over-estimate."""
        return self.prediction - self.target


def scored_rows(source: Predictions) -> dict[str, Scored]:
    """Every row of `source` by its Id, in the order of Ids."""
    groups = np.arange(len(source.target)) if source.groups is None else source.groups
    cells = (source.table["Id"].tolist(), source.fold.tolist(), source.target.tolist(), source.prediction.tolist(),
             source.constant.tolist(), groups.tolist())  # fmt: skip
    return {cell[0]: Scored(*cell) for cell in zip(*cells, strict=True)}


def extremes(source: Predictions, n: int) -> list[Scored]:
    """The `n` highest and lowest predictions and the `n` largest over- and under-estimates of `source`.

    In the order of KINDS, each list from its most extreme photo on; a photo that stands in several comes where it is
    first. Ties go by Id. Only over-estimates are called so: a list may be shorter than `n`, as may all of few photos.
    """
    rows = scored_rows(source)
    most: dict[str, Callable[[Scored], float]] = {
        HIGHEST: lambda row: row.prediction,
        LOWEST: lambda row: -row.prediction,
        OVER: lambda row: row.error,
        UNDER: lambda row: -row.error,
    }
    kinds: dict[str, list[str]] = {}
    for kind, measure in most.items():
        taken: set[int] = set()
        ranked = sorted(
            (-measure(row), row.id) for row in rows.values() if kind in (HIGHEST, LOWEST) or measure(row) > 0
        )
        for _, name in ranked:
            if len(taken) < n and rows[name].group not in taken:
                taken.add(rows[name].group)
                kinds.setdefault(name, []).append(kind)
    return [replace(rows[name], kinds=tuple(found)) for name, found in kinds.items()]
