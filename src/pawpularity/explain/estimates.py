"""Means over photos with 95 % intervals. Photos without a figure (nan) are left out."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pawpularity.evaluation.bootstrap import Groups, bootstrap_sums, interval
from pawpularity.files import plain

DRAWS = 4_000


@dataclass(frozen=True)
class Estimate:
    """The mean of `n` photos' figures and its 95 % interval. The mean of no photo is nan, and so is the interval of one."""

    mean: float
    low: float
    high: float
    n: int

    def text(self, digits: int = 2, sign: bool = True) -> str:
        """`+1.23 [+0.80, +1.60]`; `-` for no photo, `+1.23 [-]` for one."""
        if not self.n:
            return "-"
        number = f"{'+' if sign else ''}.{digits}f"
        bounds = f"[{self.low:{number}}, {self.high:{number}}]" if np.isfinite(self.low) else "[-]"
        return f"{self.mean:{number}} {bounds}"


NONE = Estimate(np.nan, np.nan, np.nan, 0)


def as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table with its Estimates as dictionaries; JSON has no nan."""
    return plain({key: vars(value) if isinstance(value, Estimate) else value for key, value in row.items()})


def estimates(columns: ArrayLike, groups: Groups = None, *, seed: int = 0) -> list[Estimate]:
    """One Estimate for each column of `columns` (photos, c), over the photos where it is a number.

    The interval is the percentile bootstrap over photos, or over whole `groups` (photos,) of near-duplicates. Columns of one call
    are resampled together.
    """
    values = np.asarray(columns, dtype=np.float64)
    known = np.isfinite(values)
    both = np.concatenate([np.where(known, values, 0.0), known], axis=1)
    sums, counts = np.split(bootstrap_sums(both, groups, draws=DRAWS, seed=seed), 2, axis=1)
    found = []
    for column, total, count in zip(values.T, sums.T, counts.T, strict=True):
        inside, usable = column[np.isfinite(column)], count > 0  # a draw may miss every photo that has a figure
        bounds = interval(total[usable] / count[usable]) if len(inside) > 1 else (np.nan, np.nan)
        found.append(Estimate(float(inside.mean()), *bounds, len(inside)) if len(inside) else NONE)
    return found


def proportion(values: ArrayLike, groups: Groups = None, *, seed: int = 0) -> Estimate:
    """The mean of 0s and 1s (photos,). Where all are equal the bootstrap's interval would be a point, so Wilson's (1927) is used,
    counting each group once."""
    column = np.asarray(values, dtype=np.float64)
    found = estimates(column[:, None], groups, seed=seed)[0]
    if found.n < 2 or found.mean not in (0.0, 1.0):
        return found
    count = found.n if groups is None else len(np.unique(groups[np.isfinite(column)]))
    bounds = stats.binomtest(round(found.mean * count), count).proportion_ci(method="wilson")
    return replace(found, low=float(bounds.low), high=float(bounds.high))
