"""Plain effects: the mean score of the photos that have something, less that of those that do not, and what chance makes of it.

The plain difference is the estimand, stated beforehand. Every effect is a weighted sum of the outcome, so one shuffle of
the scores, or one resample of the groups, serves all columns and all outcomes (true score, prediction, residual) in one
matrix product, and they stay paired.

A number instead of 0/1 (the contrast) is put on the same footing by Gelman (2008): its effect is the least-squares slope
times two standard deviations, which for a balanced 0/1 column is the difference of the means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pawpularity.evaluation.bootstrap import bootstrap_sums, holm, interval, permutations
from pawpularity.evaluation.claims import ALPHA
from pawpularity.evaluation.regression import slope_error

POWER = 0.80
_BATCH = 32  # shuffles at once: 8 MB of shuffled scores for 9,912 photos

Floats = NDArray[np.float64]
Groups = NDArray[np.int64] | None


@dataclass(frozen=True, eq=False)
class Column:
    """Something photos have or have not (0/1), or a number; NaN where it was not measured."""

    name: str
    values: Floats

    @property
    def there(self) -> NDArray[np.bool_]:
        """(n,) where it was measured."""
        return np.isfinite(self.values)

    @property
    def is_number(self) -> bool:
        """Whether it is more than 0/1."""
        return not bool(np.isin(self.values[self.there], (0.0, 1.0)).all())

    @property
    def varies(self) -> bool:
        """Whether there is anything to compare."""
        seen = self.values[self.there]
        return len(seen) > 0 and bool(seen.min() < seen.max())

    @property
    def counts(self) -> tuple[int, int]:
        """Photos with and without; for a number those measured and those not."""
        first = self.there if self.is_number else self.values == 1.0
        return int(first.sum()), int(len(self.values) - first.sum())

    @property
    def unit(self) -> float:
        """What an effect is the effect of, in units of the column: 1, or two standard deviations of a number."""
        return 2.0 * float(np.std(self.values[self.there])) if self.is_number else 1.0

    @property
    def centred(self) -> Floats:
        """(n,) the column less its mean, in `unit`s; 0 where it was not measured."""
        seen = self.values[self.there]
        out = np.zeros(len(self.values))
        out[self.there] = (seen - seen.mean()) / self.unit
        return out

    @property
    def weights(self) -> Floats:
        """(n,) whose product with an outcome is the effect: the least-squares slope per `unit`."""
        centred = self.centred
        return centred / float(centred @ centred)


@dataclass(frozen=True)
class Effect:
    """An effect on one outcome, in score points: 95 % bootstrap interval, permutation p, and that after Holm."""

    effect: float
    low: float
    high: float
    p: float
    corrected_p: float


@dataclass(frozen=True)
class Precision:
    """How well the rows tell an effect on the true score: standard error, and the smallest effect they would have shown."""

    se: float | None
    """Welch's (HC2), points; None where one photo stands alone on a side"""
    smallest: float | None
    """shown with 80 % power at .05"""
    smallest_corrected: float | None
    """shown with 80 % power at .05 / m, as in a family of m"""


def effects(
    columns: Sequence[Column], outcomes: Floats, groups: Groups, *, draws: int, seed: int = 0
) -> list[list[Effect]]:
    """The effect of each of the m varying `columns` on each column of `outcomes` (n, t): a list per outcome, of m.

    `groups` (n,) are near-duplicates (None: every row its own). Holm's correction is over the m columns.
    """
    weights = np.column_stack([column.weights for column in columns])
    # Centred first, as the shuffles are: else rounding makes an effect of 1e-15 of scores that are all alike.
    seen = weights.T @ (outcomes - outcomes.mean(axis=0))
    p = _permutation_p(weights, seen, outcomes, groups, draws, seed)
    drawn = _bootstrap(columns, outcomes, groups, draws, seed)
    found = []
    for t in range(outcomes.shape[1]):
        corrected = holm(p[:, t])
        row = []
        for c in range(len(columns)):
            values = drawn[c][:, t]
            # A resample without a single photo on one side has no difference; only with very rare columns.
            low, high = interval(values[np.isfinite(values)])
            row.append(Effect(float(seen[c, t]), low, high, float(p[c, t]), float(corrected[c])))
        found.append(row)
    return found


def precision(column: Column, outcome: Floats, family: int) -> Precision:
    """What the rows could have shown of `column` in a family of `family` tests, `outcome` (n,) being the true score."""
    there = column.there
    se = slope_error(column.values[there], outcome[there]) * column.unit
    if not np.isfinite(se):
        return Precision(None, None, None)
    one, many = (
        (stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(POWER)) * se for alpha in (ALPHA, ALPHA / max(family, 1))
    )
    return Precision(float(se), float(one), float(many))


def _permutation_p(weights: Floats, seen: Floats, outcomes: Floats, groups: Groups, draws: int, seed: int) -> Floats:
    """Two-sided p (m, t): the share of shuffles at least as far from zero, the one seen counted among them."""
    centred = outcomes - outcomes.mean(axis=0)
    reached = np.ones(seen.shape)
    # A sum in another order differs in its last digits; a tie must count as reached.
    bar = np.abs(seen) - 1e-9 * np.maximum(np.abs(weights).T @ np.abs(centred), 1e-300)
    orders = permutations(len(outcomes), groups, draws=draws, seed=seed)
    while batch := list(islice(orders, _BATCH)):
        shuffled = centred[np.stack(batch)]  # (batch, n, t)
        reached += (np.abs(weights.T @ shuffled) >= bar).sum(axis=0)
    p: Floats = reached / (draws + 1)
    return p


def _bootstrap(columns: Sequence[Column], outcomes: Floats, groups: Groups, draws: int, seed: int) -> list[Floats]:
    """Per column the effects of all resamples, (draws, t); the unit of a number stays the one of the rows seen."""
    t = outcomes.shape[1]
    # Centred outcomes keep the sums small; a difference does not change.
    centred = outcomes - outcomes.mean(axis=0)
    parts = []
    for column in columns:
        there, x = column.there.astype(np.float64)[:, None], column.centred[:, None]
        parts += [there, x, x * x, there * centred, x * centred]
    sums = bootstrap_sums(np.hstack(parts), groups, draws=draws, seed=seed)
    found = []
    for c in range(len(columns)):
        block = sums[:, c * (3 + 2 * t) : (c + 1) * (3 + 2 * t)]
        count, x, xx = block[:, 0:1], block[:, 1:2], block[:, 2:3]
        y, xy = block[:, 3 : 3 + t], block[:, 3 + t :]
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = xx - x * x / count
            slope = (xy - x * y / count) / np.where(spread > 1e-12 * xx, spread, np.nan)
        found.append(slope)
    return found
