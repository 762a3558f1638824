"""How reliable an order is: of two photos of different pets, how often does the one predicted higher truly score higher?

All pairs of out-of-fold rows, by how far apart they are predicted. It is measured between different pets. For several photos
of one pet, which differ in less than two pets do, it is an extrapolation, and whoever shows it must say so.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

EDGES = (0.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, float("inf"))
"""Score points apart, [low, high) of each band."""
FEWEST_PAIRS = 100

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """Pairs whose predictions lie `low` to `high` points apart."""

    low: float
    high: float
    pairs: int
    share: float
    """of pairs in which the higher prediction has the higher score; pairs of equal scores are left out"""
    error: float
    """its standard error, by how much each row moves it: rows, not pairs, are what is independent"""

    @property
    def words(self) -> str:
        """`2 to 5 points`."""
        return f"{self.low:g} to {self.high:g} points" if np.isfinite(self.high) else f"over {self.low:g} points"


@dataclass(frozen=True)
class Order:
    """The bands that have enough pairs, and all pairs together."""

    bands: tuple[Band, ...]
    whole: Band

    @classmethod
    def measure(cls, target: Floats, prediction: Floats, groups: NDArray[np.int64] | None = None) -> "Order":
        """From true scores and out-of-fold predictions (n,). Near-duplicates (equal `groups`) are no pair."""
        wins, pairs = _by_row(target, prediction, groups)
        kept: list[list[int]] = []
        for number in range(len(EDGES) - 1):
            # A band of few pairs goes with the one below it; the first must take what comes.
            if kept and pairs[number].sum() / 2 < FEWEST_PAIRS:
                kept[-1].append(number)
            else:
                kept.append([number])
        found = [_band(kept_, wins, pairs, groups) for kept_ in kept]
        return cls(_rising(found), _band(list(range(len(EDGES) - 1)), wins, pairs, groups))

    def band(self, gap: float) -> Band:
        """The band of two predictions `gap` points apart."""
        return next((band for band in self.bands if band.low <= abs(gap) < band.high), self.bands[-1])

    def reliability(self, gap: float) -> float:
        """The chance, 0 to 1, that of two photos of different pets so far apart the higher one truly is."""
        return self.band(gap).share


def _by_row(target: Floats, prediction: Floats, groups: NDArray[np.int64] | None) -> tuple[Floats, Floats]:
    """(bands, n) each: pairs that a row is part of, and those of them that are in the right order."""
    order = np.argsort(prediction, kind="stable")
    p, y = prediction[order], target[order]
    g = np.arange(len(p)) if groups is None else groups[order]
    n, bands = len(p), len(EDGES) - 1
    wins, pairs = np.zeros((bands, n)), np.zeros((bands, n))
    for i in range(n - 1):
        others = slice(i + 1, n)
        counted = ((g[others] != g[i]) & (y[others] != y[i])).astype(np.float64)
        right = counted * (y[others] > y[i])
        ends = i + 1 + np.searchsorted(p[others] - p[i], EDGES, side="left")
        for band in range(bands):
            start, stop = ends[band], ends[band + 1]
            if start == stop:
                continue
            here = slice(start - i - 1, stop - i - 1)
            pairs[band, start:stop] += counted[here]
            wins[band, start:stop] += right[here]
            pairs[band, i] += counted[here].sum()
            wins[band, i] += right[here].sum()
    back = np.argsort(order, kind="stable")
    return wins[:, back], pairs[:, back]


def _band(numbers: list[int], wins: Floats, pairs: Floats, groups: NDArray[np.int64] | None) -> Band:
    won, met = wins[numbers].sum(axis=0), pairs[numbers].sum(axis=0)
    twice = met.sum()  # every pair is met from both its ends
    share = float(won.sum() / twice) if twice else 0.5
    # The share is a ratio of two U-statistics: its variance is that of the sum of the rows' influences (Hoeffding 1948).
    influence = 2.0 * (won - share * met) / max(twice, 1.0)
    if groups is not None:
        influence = np.bincount(np.unique(groups, return_inverse=True)[1], influence)
    error = float(np.sqrt((influence**2).sum()))
    return Band(EDGES[numbers[0]], EDGES[numbers[-1] + 1], int(twice / 2), share, error)


def _rising(bands: list[Band]) -> tuple[Band, ...]:
    """The same with shares that never fall as the gap grows: what falls between bands is chance."""
    from sklearn.isotonic import IsotonicRegression

    weights = np.array([max(band.pairs, 1) for band in bands], dtype=np.float64)
    shares = np.array([band.share for band in bands])
    model = IsotonicRegression()
    risen = model.fit_transform(np.arange(len(bands)), shares, sample_weight=weights)
    return tuple(replace(band, share=float(share)) for band, share in zip(bands, risen, strict=True))
