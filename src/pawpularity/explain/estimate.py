"""A mean over photos with its interval, where some photos may have no answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from pawpularity.evaluation.bootstrap import Groups, bootstrap_sums, interval

DRAWS = 4_000


@dataclass(frozen=True)
class Estimate:
    """The mean of `n` photos' figures and its 95 % interval; nan where there is none (no photo; one, for an interval)."""

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no nan."""
        return {name: plain(value) for name, value in vars(self).items()}

    def text(self, digits: int = 2, sign: bool = True) -> str:
        """`+1.23 [+0.80, +1.60]`; `-` for no photo, and for the interval of one."""
        number = f"{'+' if sign else ''}.{digits}f"
        if not self.n:
            return "-"
        bounds = f"[{self.low:{number}}, {self.high:{number}}]" if np.isfinite(self.low) else "[-]"
        return f"{self.mean:{number}} {bounds}"


def plain(value: Any) -> Any:
    """`value`, or None for what is not finite: JSON has no nan."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def estimates(columns: ArrayLike, groups: Groups = None, *, seed: int = 0) -> list[Estimate]:
    """One Estimate for each column of `columns` (photos, c), over the photos where it is a number.

    The interval is the percentile bootstrap over photos, or over whole `groups` (photos,) of near-duplicates. Columns of
    one call are resampled together.
    """
    values = np.asarray(columns, dtype=np.float64)
    there = np.isfinite(values)
    counts = there.sum(axis=0)
    sums = np.concatenate([np.where(there, values, 0.0), there], axis=1)
    width = values.shape[1]
    drawn = bootstrap_sums(sums, groups, draws=DRAWS, seed=seed) if len(values) else np.zeros((1, 2 * width))
    found = []
    for c in range(width):
        inside = values[there[:, c], c]
        # A draw may miss every photo that has an answer.
        usable = drawn[:, width + c] > 0
        bounds = (np.nan, np.nan)
        if counts[c] > 1:
            bounds = interval(drawn[usable, c] / drawn[usable, width + c])
        found.append(Estimate(float(inside.mean()) if len(inside) else float("nan"), *bounds, int(counts[c])))
    return found


def proportion(values: ArrayLike, groups: Groups = None, *, seed: int = 0) -> Estimate:
    """`estimate` of 0s and 1s. Where all of them agree, every resample would, and the interval be a point: Wilson's then
    (1927; 5 of 5 are 0.57 to 1), of as many as there are groups."""
    found = estimate(values, groups, seed=seed)
    if found.n < 2 or found.mean not in (0.0, 1.0):
        return found
    there = np.isfinite(np.asarray(values, dtype=np.float64))
    count = found.n if groups is None else len(np.unique(np.asarray(groups)[there]))
    bounds = stats.binomtest(round(found.mean * count), count).proportion_ci(method="wilson")
    return replace(found, low=float(bounds.low), high=float(bounds.high))


def estimate(values: ArrayLike, groups: Groups = None, *, seed: int = 0) -> Estimate:
    """`estimates` of one column (photos,)."""
    return estimates(np.asarray(values, dtype=np.float64)[:, None], groups, seed=seed)[0]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned text, the header first; words (the first and the last column) are flushed left."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    words = (0, len(widths) - 1)
    lines = []
    for row in rows:
        cells = (
            cell.ljust(w) if c in words else cell.rjust(w) for c, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
