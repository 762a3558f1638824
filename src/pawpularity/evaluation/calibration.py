"""What a predicted score is worth: ranges, chances and orders, measured on photos whose networks never saw them.

    known = Calibration.fit(target, prediction, groups)        # out-of-fold rows of one run
    known.interval(41.0, 0.9)                                  # (12.3, 90.1): nine of ten such photos scored in between
    known.chance_above(41.0)                                   # 0.61: the share of such photos that beat the median one
    known.order.reliability(7.0)                               # 0.66: how often 7 points more were truly more

Residuals of a score that is bounded and skewed are neither of one size nor symmetric. So their size is fitted first, as a
monotone function of the prediction (isotonic regression of mean |residual|), and the signed residuals divided by it give the
ends: split conformal prediction with a local scale (Lei et al. 2018, section 5.2). On the contest's labels a constant +- range
covers 99 % of the lowest fifth of the predictions and 63 % of the highest 5 %; this covers 90 % of each. By TRUE score no range
can: a photo that is truly 100 is rarely predicted so.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pawpularity.coach.order import Order
from pawpularity.errors import UserError

FEWEST = 20
"""Rows below which nothing is said."""
INDICATIVE_BELOW = 500
"""Rows below which ranges and chances are only indicative: of 600 the true coverage of a nominal 90 % has an sd of 1.3 points."""
LOWEST, HIGHEST = 1.0, 100.0
_ROWS_A_BIN, _MOST_BINS = 25, 40
_SMALLEST = 0.25  # of the mean |residual|: a handful of lucky rows at an end must not make a range of nothing

Floats = NDArray[np.float64]
Groups = NDArray[np.int64] | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """Fitted on `n` out-of-fold rows; see the top of this module."""

    target: Floats = field(repr=False)
    prediction: Floats = field(repr=False)
    groups: Groups = field(repr=False)
    knots: Floats = field(repr=False)
    """(m,) ascending predictions between which the size of the residuals is interpolated"""
    sizes: Floats = field(repr=False)
    """(m,) E|residual| at the knots, score points, never falling"""
    scaled: Floats = field(repr=False)
    """(n,) residuals (true - predicted) over their expected size, ascending"""

    @classmethod
    def fit(cls, target: ArrayLike, prediction: ArrayLike, groups: Groups = None) -> "Calibration":
        """From true scores and out-of-fold predictions, (n,) each, points. Raises UserError below 20 rows.

        `groups` (n,) are near-duplicates; they count as one pet where two pets are compared.
        """
        from sklearn.isotonic import IsotonicRegression

        y, p = (np.asarray(values, dtype=np.float64) for values in (target, prediction))
        if len(y) < FEWEST:
            raise UserError(f"{len(y)} out-of-fold rows are too few to say what a score is worth; {FEWEST} are needed")
        size = np.abs(y - p)
        # Means of neighbouring rows, made monotone and joined by straight lines: row by row it would be a stair whose steps
        # two photos of nearly one score may stand on either side of.
        bins = np.array_split(np.argsort(p, kind="stable"), min(_MOST_BINS, max(1, len(p) // _ROWS_A_BIN)))
        counts = np.array([len(rows) for rows in bins], dtype=np.float64)
        knots = np.array([p[rows].mean() for rows in bins])
        means = np.array([size[rows].mean() for rows in bins])
        risen = IsotonicRegression().fit_transform(np.arange(len(bins)), means, sample_weight=counts)
        sizes = np.maximum(risen, max(_SMALLEST * float(size.mean()), 1e-6))
        return cls(y, p, groups, knots, sizes, np.sort((y - p) / np.interp(p, knots, sizes)))

    @property
    def n(self) -> int:
        """Rows behind it."""
        return len(self.target)

    @property
    def indicative(self) -> bool:
        """Whether there are too few rows to promise a coverage."""
        return self.n < INDICATIVE_BELOW

    @property
    def median(self) -> float:
        """The true score of the shelter's middle photo."""
        return float(np.median(self.target))

    @property
    def top_quarter(self) -> float:
        """The true score that a quarter of the shelter's photos reach."""
        return float(np.quantile(self.target, 0.75))

    def size(self, prediction: ArrayLike) -> Floats:
        """How far off predictions of this height are on average, points; the shape of `prediction`."""
        found: Floats = np.interp(np.asarray(prediction, dtype=np.float64), self.knots, self.sizes)
        return found

    def interval(self, prediction: ArrayLike, level: float) -> tuple[Floats, Floats]:
        """(low, high), score points in 1..100, that `level` of photos predicted so truly scored between."""
        p = np.asarray(prediction, dtype=np.float64)
        # The order statistics that make the coverage at least `level` for exchangeable rows, whatever their number.
        below = int(np.floor((self.n + 1) * (1 - level) / 2))
        above = int(np.ceil((self.n + 1) * (1 + level) / 2))
        low = self.scaled[below - 1] if below >= 1 else -np.inf
        high = self.scaled[above - 1] if above <= self.n else np.inf
        size = self.size(p)
        return (p + size * low).clip(LOWEST, HIGHEST), (p + size * high).clip(LOWEST, HIGHEST)

    def chance_above(self, prediction: ArrayLike, score: float | None = None) -> Floats:
        """The share of photos predicted so whose true score is above `score` (default: the shelter's median)."""
        bar = self.median if score is None else score
        if bar not in self._chances:
            self._chances[bar] = _monotone_chance(self.prediction, self.target > bar)
        centres, shares = self._chances[bar]
        found: Floats = np.interp(np.asarray(prediction, dtype=np.float64), centres, shares)
        return found

    @cached_property
    def _chances(self) -> dict[float, tuple[Floats, Floats]]:
        return {}

    @cached_property
    def order(self) -> Order:
        """How reliable the order of two photos is, by how far apart they are predicted."""
        return Order.measure(self.target, self.prediction, self.groups)


def _monotone_chance(prediction: Floats, reached: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Knots (m,) and the share of `reached` at them: isotonic, its steps joined at their centres (Oron and Flournoy 2017).

    A step of k in n counts as (k + 1) / (n + 2), so that nothing is ever called certain.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(out_of_bounds="clip").fit(prediction, reached.astype(np.float64)).predict(prediction)
    levels, step = np.unique(fitted, return_inverse=True)
    count = np.bincount(step).astype(np.float64)
    centres = np.bincount(step, prediction) / count
    shares = (levels * count + 1.0) / (count + 2.0)
    return centres, np.maximum.accumulate(shares)
