"""What a predicted score means: ranges, chances and the order of two photos, measured on out-of-fold predictions.

    known = Calibration(target, prediction, groups)            # out-of-fold rows of one run
    known.interval(41.0, 0.9)                                  # (12.6, 75.5): nine of ten such photos scored between
    known.chance_above(41.0)                                   # 0.63: the share of such photos that beat the median one
    known.order.reliability(7.0)                               # 0.63: how often 7 points more were truly more

Ranges and chances are read from one distribution of the true score given the prediction, so they agree:

1. rows are binned by prediction, and each bin's counts of true scores are smoothed towards those of all rows;
2. a higher prediction may not make a low score likelier: the bins' shares are made monotone, weighted by their rows
   (isotonic distributional regression, Henzi, Ziegel and Gneiting 2021), and joined by lines;
3. its levels are corrected by where it placed true scores that it was not fitted on (distributional conformal
   prediction, Chernozhukov, Wuthrich and Zhu 2021), so that a 90 % range covers 90 %.

No range covers 90 % at every TRUE score: a photo that scored 100 is rarely predicted near 100.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pawpularity.errors import UserError
from pawpularity.evaluation.bootstrap import Floats, Groups, group_sums

Cells = NDArray[np.int64]

FEWEST = 20  # rows or groups
INDICATIVE_BELOW = 500  # rows or groups: with 600 the true coverage of a nominal 90 % has an sd of 1.3 points
EDGES = np.array([0.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, np.inf])
"""Score points between two predictions: the bands [low, high) of an order."""
FEWEST_PAIRS = 100
_ROWS_A_BIN, _MOST_BINS = 10, 40
_PRIOR = 0.25  # rows with the distribution of all rows that are added to each bin: no chance is 0 or 1
_PILE = 0.8  # largest pile that a range leaves out, as a share of all that it leaves out
_SHARED = 0.1  # a score that more photos than this share is not cut, as of scores in tens
_MOST_SCORES = 200  # distinct true scores; the contest has 100
_SPLITS = 10
_GOLDEN = (np.sqrt(5) - 1) / 2


class Calibration:
    """Fitted on true scores and out-of-fold predictions, (n,) each, points. Raises UserError below 20 rows or groups.

    `groups` (n,) are near-duplicates; they count as one pet where two pets are compared, and ranges are tested on none of a group
    that they were fitted on. `median` and `top_quarter` are the
    true scores that a half and a quarter of the photos reach.
    """

    def __init__(self, target: ArrayLike, prediction: ArrayLike, groups: Groups = None) -> None:
        y, p = (np.asarray(values, dtype=np.float64) for values in (target, prediction))
        pets = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
        if (count := len(np.unique(pets))) < FEWEST:
            raise UserError(f"{count} out-of-fold rows are too few to say what a score is worth; {FEWEST} are needed "
                            "(near-duplicates count once)")  # fmt: skip
        self.target, self.prediction, self.groups = y, p, groups
        self.n, self.indicative = len(y), count < INDICATIVE_BELOW
        self.median, self.top_quarter = float(np.median(y)), float(np.quantile(y, 0.75))
        scores = np.unique(y)
        self._scores = (
            scores if len(scores) <= _MOST_SCORES else np.unique(np.quantile(y, np.linspace(0, 1, _MOST_SCORES)))
        )
        cells = np.searchsorted(self._scores, y)
        self._piles = [(y == end).sum() > 1 for end in (y.min(), y.max())]  # one photo is no pile
        self._law = self._fit(cells, p)
        ranks = np.sort(self._unseen_ranks(cells, pets))
        self._levels = np.concatenate([[0.0], ranks, [1.0]]), np.arange(self.n + 2) / (self.n + 1)

    def interval(self, prediction: ArrayLike, level: float) -> tuple[Floats, Floats]:
        """(low, high), points in 1..100: `level` of the photos predicted so truly scored between them."""
        shares = self._shares(self._law, np.ravel(prediction))
        low, high = np.full((2, len(shares)), [[1.0], [100.0]])
        # The order statistics that make the coverage at least `level` for exchangeable rows, whatever their number.
        if (outside := int((self.n + 1) * (1 - level) / 2 + 1e-9)) >= 1:
            level = 1 - 2 * outside / (self.n + 1)
            none = np.zeros(len(shares))
            first = shares[:, 0] if self._piles[0] else none
            last = 1 + none if not self._piles[1] else shares[:, -2] if shares.shape[1] > 1 else none
            ends = _whole_ends(level, *(np.interp(edge, *self._levels) for edge in (first, last)))
            levels = [np.interp(end, *self._levels[::-1]) for end in ends]
            # Lines between scores; the lowest score is all of its step.
            steps = np.column_stack([np.zeros(len(shares)), shares])
            scores = np.concatenate([self._scores[:1], self._scores])
            low, high = (np.array([np.interp(*row, scores) for row in zip(end, steps, strict=True)]) for end in levels)
            cut = np.minimum((shares < levels[1][:, None] - 1e-9).sum(axis=1), len(self._scores) - 1)
            whole = np.diff(steps)[np.arange(len(cut)), cut] > _SHARED
            high = np.where(whole, np.maximum(high, self._scores[cut]), high)
        shape = np.shape(prediction)
        return low.clip(1, 100).reshape(shape), high.clip(1, 100).reshape(shape)

    def chance_above(self, prediction: ArrayLike, score: float | None = None) -> Floats:
        """The share of photos predicted so whose true score is above `score` (default: the median), 0 to 1."""
        bar = self.median if score is None else score
        shares = self._shares(self._law, np.ravel(prediction))
        if bar < self._scores[-1]:
            shares = shares[:, :-1]  # the highest score is all of its step
        scores = self._scores[: shares.shape[1]]
        below = np.array([np.interp(bar, scores, row, left=0.0) if len(row) else 0.0 for row in shares])
        return np.asarray(1.0 - np.interp(below, *self._levels)).reshape(np.shape(prediction))

    def _fit(self, cells: Cells, prediction: Floats) -> tuple[Floats, Floats]:
        """The distribution of the true score, by bin: mean prediction (b,), share of rows at or below each score (b, s).

        `cells` (n,) index the true scores; equal predictions share a bin.
        """
        n, width = len(cells), len(self._scores)
        ranks = np.searchsorted(np.sort(prediction), prediction)
        _, bins = np.unique(ranks * min(_MOST_BINS, max(1, n // _ROWS_A_BIN)) // n, return_inverse=True)
        rows = np.bincount(bins).astype(np.float64)
        counts = np.bincount(bins * width + cells, minlength=len(rows) * width).reshape(-1, width).cumsum(axis=1)
        everywhere = counts.sum(axis=0) / n
        smooth = (counts + _PRIOR * everywhere) / (rows[:, None] + _PRIOR)
        return np.bincount(bins, prediction) / rows, -_rising(-smooth, rows)

    def _shares(self, law: tuple[Floats, Floats], prediction: Floats) -> Floats:
        """The share of photos with each prediction (m,) at or below each score, (m, s): lines between the bins."""
        centres, shares = law
        at = np.interp(prediction, centres, np.arange(len(centres)))
        low = np.floor(at).astype(np.int64)
        part = (at - low)[:, None]
        return np.asarray(shares[low] * (1 - part) + shares[np.minimum(low + 1, len(shares) - 1)] * part)

    def _unseen_ranks(self, cells: Cells, pets: Cells) -> Floats:
        """(n,) where each true score lies in its distribution, 0 to 1, fitted on the other splits. Equal scores are spread."""
        ranks = np.empty(self.n)
        spread = (np.arange(self.n) * _GOLDEN) % 1.0  # even, and the same every time
        for split in range(_SPLITS):
            here = pets % _SPLITS == split
            shares = self._shares(self._fit(cells[~here], self.prediction[~here]), self.prediction[here])
            steps, row = np.column_stack([np.zeros(len(shares)), shares]), np.arange(len(shares))
            before, upto = steps[row, cells[here]], steps[row, cells[here] + 1]
            ranks[here] = before + spread[here] * (upto - before)
        return ranks

    @cached_property
    def order(self) -> "Order":
        """How reliable the order of two photos is, by how far apart they are predicted."""
        return Order.measure(self.target, self.prediction, self.groups)


def _rising(values: Floats, weights: ArrayLike) -> Floats:
    """The rising sequence nearest to each column of `values` (b, c) by weighted squares: the max-min of block means."""
    weight = np.concatenate([[0.0], np.cumsum(weights)])
    total = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values * np.diff(weight)[:, None], axis=0)])
    first, last = np.triu_indices(len(values))
    means = np.full((len(values), *values.shape), np.inf)  # of the block first..last; inf where it is empty
    means[first, last] = (total[last + 1] - total[first]) / (weight[last + 1] - weight[first])[:, None]
    least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(np.maximum.accumulate(least, axis=0).diagonal().T)


def _whole_ends(level: float, first: Floats, last: Floats) -> tuple[Floats, Floats]:
    """The ends of a range of `level`, by photo, that hold the lowest and the highest score whole or not at all.

    `first` and `last` are the levels up to which the lowest score and the one below the highest reach. Many photos score 100.
    Where an end would cut them, the other end makes up for it: the range then reaches the end of the scale and all that is
    outside lies on the other side. Only a small pile is left out, so that the range of half of the photos lies in that of 90 %.
    """

    def settled(low: Floats, high: Floats, last: Floats) -> tuple[Floats, Floats]:
        whole = np.where((1 - last > _PILE * (1 - level)) | (high - last > low), 1.0, last)
        cut = high > last
        return np.where(cut, np.maximum(low + whole - high, 0.0), low), np.where(cut, whole, high)

    lows, highs = settled(np.full(len(last), (1 - level) / 2), np.full(len(last), (1 + level) / 2), last)
    below, above = settled(1 - highs, 1 - lows, 1 - first)
    return 1 - above + 1e-9, 1 - below  # just above the lowest score if that is left out


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
        shares = _rising(np.array([[band.share] for band in bands]), [max(band.pairs, 1) for band in bands])[:, 0]
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
