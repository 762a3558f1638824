"""Cross-fitted blends: the weights that a row is blended with never saw its fold, nor any near-duplicate of it.

(The members' own predictions of the other folds were trained with it, as in all stacking; its target meets no weight.)

`partition_of` says which folds those are, `fit_and_predict` fits every method without them (and on all rows, for new
photos), `figures` scores what came out. The figure fitted and scored on the same rows is given for comparison only: on
9,912 rows it flatters eight members by 0.015 points.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.data.duplicates import numbered
from pawpularity.data.folds import BINS, deal
from pawpularity.ensemble.methods import Floats, KnownRows, Weights, fit
from pawpularity.errors import UserError
from pawpularity.evaluation.bootstrap import DRAWS, bootstrap_sums, interval
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.predictions import Predictions

DEALT_FOLDS = 5
_MOST_FOLDS = 100  # a fold column with more values is no partition worth fitting by

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Partition:
    """The folds that weights are fitted by."""

    fold: Rows
    """(n,) 0..k-1"""
    groups: Rows | None
    """(n,) near-duplicates share a number; None = not known, every row its own"""
    own: bool
    """Whether it is the fold column of the members themselves"""
    why: str

    @property
    def k(self) -> int:
        """Number of folds."""
        return int(self.fold.max()) + 1

    @cached_property
    def spanning(self) -> int:
        """Groups that lie in more than one fold."""
        if self.groups is None:
            return 0
        pairs = np.unique(np.stack([self.groups, self.fold]), axis=1)
        return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())

    def known_for(self, fold: int) -> NDArray[np.bool_]:
        """(n,) the rows whose targets the weights of `fold` may see: of other folds, and of no group with a row in it."""
        known: NDArray[np.bool_] = self.fold != fold
        if self.groups is not None:
            known &= ~np.isin(self.groups, self.groups[~known])
        return known

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        known = self.groups is not None
        return {"k": self.k, "own": self.own, "why": self.why, "groups_known": known, "groups_spanning": self.spanning}


@dataclass(frozen=True, eq=False)
class Fitted:
    """Methods fitted on some members, which are in the order they were given in."""

    methods: tuple[str, ...]
    blended: Floats
    """(n, methods) cross-fitted scores"""
    same_rows: Floats
    """(n, methods) scores by the weights fitted on these very rows: optimistic"""
    weights: list[Weights]
    """of each method, fitted on all rows: for new photos"""


@dataclass(frozen=True)
class Figure:
    """What one method reached; RMSEs in score points, differences to the best member (below 0: the method is better)."""

    method: str
    rmse: float
    low: float
    high: float
    same_rows_rmse: float
    """fitted and scored on the same rows: optimistic"""
    difference: float
    difference_low: float
    difference_high: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def partition_of(sources: Sequence[Predictions], groups: Rows | None, seed: int = 0) -> Partition:
    """The fold column that all `sources` share (whatever its folds are called), else five folds dealt with `seed`.

    Raises UserError where the near-duplicates leave too few rows to fit on.
    """
    first, *others = sorted(sources, key=lambda source: source.name)  # the order they are given in must not matter
    column = np.array(numbered(first.fold.tolist()))
    other = next((s for s in others if not np.array_equal(numbered(s.fold.tolist()), column)), None)
    k = int(column.max()) + 1
    if other is None and 2 <= k <= _MOST_FOLDS:
        # Where the folds are called alike, 0..k-1 in that order, so that they stay what they are called.
        alike = all(np.array_equal(source.fold, first.fold) for source in others)
        fold = np.unique(first.fold, return_inverse=True)[1] if alike else column
        why = "the fold column that all members share"
        return _checked(Partition(fold.astype(np.int64), groups, True, why))
    reason = f"the members share one column of {k} fold(s)"
    if other is not None:
        reason = f"{first.name} and {other.name} have different folds"
    target = first.target
    labels = numbered(range(len(target)) if groups is None else groups.tolist())
    count = int(labels.max()) + 1
    parts = min(DEALT_FOLDS, count)
    if parts < 2:
        raise UserError(
            f"{first.path}: {len(target)} row(s) of {count} group(s) of near-duplicates are too few to blend"
        )
    fold = deal(labels, target, k=parts, seed=seed, bins=max(1, min(BINS, count // parts)))
    return _checked(Partition(fold, groups, False, f"dealt anew with seed {seed}, because {reason}"))


def _checked(partition: Partition) -> Partition:
    for fold in range(partition.k):
        if (left := int(partition.known_for(fold).sum())) < 2:
            raise UserError(
                f"fold {fold}: only {left} row(s) of other folds have no near-duplicate of it in them, too few to fit weights on; "
                "train the members by folds that keep near-duplicates together (make folds)"
            )
    return partition


def fit_and_predict(sources: Sequence[Predictions], partition: Partition, methods: Sequence[str]) -> Fitted:
    """Fit each of `methods` on the other folds of every fold, and on all rows.

    The members are taken in the order of their names, so that the order they were given in cannot move a digit.
    """
    order = sorted(range(len(sources)), key=lambda i: sources[i].name)
    predictions = np.stack([sources[i].prediction for i in order], axis=1)
    target = sources[0].target
    whole = fit(methods, KnownRows(predictions, target))
    same_rows = np.stack([weights(predictions) for weights in whole], axis=1)
    given = np.argsort(order)
    return Fitted(
        tuple(methods),
        cross_fitted(predictions, target, partition, methods),
        same_rows,
        [Weights(weights.intercept, weights.members[given]) for weights in whole],
    )


def cross_fitted(predictions: Floats, target: Floats, partition: Partition, methods: Sequence[str]) -> Floats:
    """Blended scores (n, methods) of `predictions` (n, m): every row by weights that saw neither its fold nor its group."""
    blended = np.empty((len(target), len(methods)))
    for fold in range(partition.k):
        known, scored = partition.known_for(fold), np.flatnonzero(partition.fold == fold)
        for column, weights in enumerate(fit(methods, KnownRows(predictions[known], target[known]))):
            blended[scored, column] = weights(predictions[scored])
    return blended


def figures(
    target: Floats, fitted: Fitted, groups: Rows | None, *, draws: int = DRAWS, seed: int = 0
) -> list[Figure]:  # fmt: skip
    """Score the cross-fitted blends beside the first of them, all on the same resamples of whole groups."""
    errors = (fitted.blended - target[:, None]) ** 2
    sums = bootstrap_sums(np.concatenate([np.ones((len(target), 1)), errors], axis=1), groups, draws=draws, seed=seed)
    drawn = np.sqrt(sums[:, 1:] / sums[:, :1])
    found = []
    for i, method in enumerate(fitted.methods):
        low, high = interval(drawn[:, i])
        difference_low, difference_high = interval(drawn[:, i] - drawn[:, 0])
        value, first = rmse(target, fitted.blended[:, i]), rmse(target, fitted.blended[:, 0])
        same = rmse(target, fitted.same_rows[:, i])
        found.append(Figure(method, value, low, high, same, value - first, difference_low, difference_high))
    return found
