"""What a predicted score means: ranges, chances and the order of two photos, measured on out-of-fold predictions.

    known = Calibration(target, prediction, groups)            # out-of-fold rows of one run
    known.interval(41.0, 0.9)                                  # (12.3, 90.1): nine of ten such photos scored between
    known.chance_above(41.0)                                   # 0.61: the share of such photos that beat the median one
    known.order.reliability(7.0)                               # 0.66: how often 7 points more were truly more

Ranges are split conformal with a local scale (Lei et al. 2018, section 5.2): the size of the residuals is fitted as a rising
function of the prediction, and quantiles of the residuals divided by it give the ends. On the contest's labels a constant +- range
covers 99 % of the lowest fifth of the predictions and 63 % of the highest 5 %; this covers 90 % of each. No range
covers 90 % at every TRUE score: a photo that scored 100 is rarely predicted near 100.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from pawpularity.errors import UserError
from pawpularity.evaluation.bootstrap import Floats, Groups, group_sums

FEWEST = 20  # rows
INDICATIVE_BELOW = 500  # rows: with 600 the true coverage of a nominal 90 % has an sd of 1.3 points
EDGES = np.array([0.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, np.inf])
"""Score points between two predictions: the bands [low, high) of an order."""
FEWEST_PAIRS = 100
_ROWS_A_BIN, _MOST_BINS = 25, 40
_SMALLEST = 0.25  # of the mean |residual|: a few lucky rows at an end must not make a range of width 0


class Calibration:
    """Fitted on true scores and out-of-fold predictions, (n,) each, points. Raises UserError below 20 rows.

    `groups` (n,) are near-duplicates; they count as one pet where two pets are compared. `median` and `top_quarter` are the
    true scores that a half and a quarter of the photos reach.
    """

    def __init__(self, target: ArrayLike, prediction: ArrayLike, groups: Groups = None) -> None:
        y, p = (np.asarray(values, dtype=np.float64) for values in (target, prediction))
        if len(y) < FEWEST:
            raise UserError(f"{len(y)} out-of-fold rows are too few to say what a score is worth; {FEWEST} are needed")
        self.target, self.prediction, self.groups = y, p, groups
        self.n, self.indicative = len(y), len(y) < INDICATIVE_BELOW
        self.median, self.top_quarter = float(np.median(y)), float(np.quantile(y, 0.75))
        error = np.abs(y - p)
        # Means of neighbouring rows, made monotone; a fit row by row would be a step function.
        bins = np.array_split(np.argsort(p, kind="stable"), min(_MOST_BINS, max(1, len(p) // _ROWS_A_BIN)))
        self._knots, means = (np.array([values[rows].mean() for rows in bins]) for values in (p, error))
        rising = _isotonic(np.arange(len(bins)), means, [len(rows) for rows in bins])
        self._sizes = np.maximum(rising, max(_SMALLEST * float(error.mean()), 1e-6))
        self._scaled = np.sort((y - p) / self.size(p))

    def size(self, prediction: ArrayLike) -> Floats:
        """E|residual| of such predictions, points; the shape of `prediction`."""
        return np.asarray(np.interp(np.asarray(prediction, dtype=np.float64), self._knots, self._sizes))

    def interval(self, prediction: ArrayLike, level: float) -> tuple[Floats, Floats]:
        """(low, high), points in 1..100: `level` of the photos predicted so truly scored between them."""
        p, size = np.asarray(prediction, dtype=np.float64), self.size(prediction)
        # The order statistics that make the coverage at least `level` for exchangeable rows, whatever their number.
        below = int(np.floor((self.n + 1) * (1 - level) / 2))
        above = int(np.ceil((self.n + 1) * (1 + level) / 2))
        low = self._scaled[below - 1] if below >= 1 else -np.inf
        high = self._scaled[above - 1] if above <= self.n else np.inf
        return (p + size * low).clip(1, 100), (p + size * high).clip(1, 100)

    def chance_above(self, prediction: ArrayLike, score: float | None = None) -> Floats:
        """The share of photos predicted so whose true score is above `score` (default: the median).

        Isotonic, its steps joined at their centres (Oron and Flournoy 2017). A step of k in n counts as (k + 1) / (n + 2).
        """
        fitted = _isotonic(self.prediction, self.target > (self.median if score is None else score))
        levels, step = np.unique(fitted, return_inverse=True)
        count = np.bincount(step).astype(np.float64)
        shares = np.maximum.accumulate((levels * count + 1.0) / (count + 2.0))
        centres = np.bincount(step, self.prediction) / count
        return np.asarray(np.interp(np.asarray(prediction, dtype=np.float64), centres, shares))

    @cached_property
    def order(self) -> "Order":
        """How reliable the order of two photos is, by how far apart they are predicted."""
        return Order.measure(self.target, self.prediction, self.groups)


def _isotonic(x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """The rising function of `x` nearest to `y` by weighted squares, at `x`."""
    from sklearn.isotonic import IsotonicRegression

    return np.asarray(IsotonicRegression().fit_transform(x, np.asarray(y, dtype=np.float64), sample_weight=weights))


@dataclass(frozen=True)
class PairBand:
    """Pairs of photos whose predictions lie `low` to `high` points apart."""

    low: float
    high: float
    pairs: int
    share: float
    """of pairs in which the higher prediction has the higher score; pairs of equal scores are left out"""
    error: float
    """standard error of `share`, from the influence of each row: rows, not pairs, are independent"""

    @property
    def words(self) -> str:
        """`2 to 5 points`."""
        return f"{self.low:g} to {self.high:g} points" if np.isfinite(self.high) else f"over {self.low:g} points"


@dataclass(frozen=True)
class Order:
    """Of two photos of different pets, how often does the one predicted higher truly score higher?

    It extrapolates for several photos of one pet, which differ less than photos of two pets.
    """

    bands: tuple[PairBand, ...]
    """bands with enough pairs; their shares never fall as the gap grows"""
    whole: PairBand

    @classmethod
    def measure(cls, target: Floats, prediction: Floats, groups: Groups = None) -> "Order":
        """From true scores and out-of-fold predictions (n,). Near-duplicates (equal `groups`) do not count as a pair."""
        won, met = _pairs_by_row(target, prediction, groups)
        merged: list[list[int]] = []
        for number in range(len(EDGES) - 1):
            # A band of few pairs joins the band below it; the first band stays as it is.
            if merged and met[number].sum() / 2 < FEWEST_PAIRS:
                merged[-1].append(number)
            else:
                merged.append([number])
        bands = [_pair_band(numbers, won, met, groups) for numbers in merged]
        shares = _isotonic(
            np.arange(len(bands)), [band.share for band in bands], [max(band.pairs, 1) for band in bands]
        )
        rising = tuple(replace(band, share=float(share)) for band, share in zip(bands, shares, strict=True))
        return cls(rising, _pair_band(list(range(len(EDGES) - 1)), won, met, groups))

    def band(self, gap: float) -> PairBand:
        """The band of two predictions `gap` points apart."""
        return next((band for band in self.bands if band.low <= abs(gap) < band.high), self.bands[-1])

    def reliability(self, gap: float) -> float:
        """The chance, 0 to 1, that of two photos of different pets so far apart the higher one truly is."""
        return self.band(gap).share


def _pairs_by_row(target: Floats, prediction: Floats, groups: Groups) -> tuple[Floats, Floats]:
    """(bands, n) each: pairs of a row that are in the right order, and all its pairs. Pairs of equal scores do not count."""
    order = np.argsort(prediction, kind="stable")
    p, y, place = prediction[order], target[order], np.arange(len(order))
    group = place if groups is None else groups[order]
    # Rows less than each edge away lie between these places of the sorted predictions, (n, bands).
    below = np.searchsorted(p, p[:, None] - EDGES[1:], side="right")
    above = np.searchsorted(p, p[:, None] + EDGES[1:], side="left")
    won, met = np.zeros((2, len(p), len(EDGES) - 1))
    for i in range(len(p)):
        counted = (group != group[i]) & (y != y[i])
        right = counted & ((y > y[i]) == (place > i))
        for found, pairs in ((won, right), (met, counted)):
            total = np.concatenate([[0], np.cumsum(pairs)])
            found[order[i]] = np.diff(total[above[i]] - total[below[i]], prepend=0)
    return won.T, met.T


def _pair_band(numbers: list[int], won: Floats, met: Floats, groups: Groups) -> PairBand:
    right, pairs = won[numbers].sum(axis=0), met[numbers].sum(axis=0)
    twice = pairs.sum()  # every pair is met from both its ends
    share = float(right.sum() / twice) if twice else 0.5
    # The share is a ratio of two U-statistics: its variance is that of the sum of the rows' influences (Hoeffding 1948).
    influence = group_sums(2.0 * (right - share * pairs) / max(twice, 1.0), groups)
    error = float(np.sqrt((influence**2).sum()))
    return PairBand(float(EDGES[numbers[0]]), float(EDGES[numbers[-1] + 1]), int(twice / 2), share, error)
