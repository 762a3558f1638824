"""Cross-fitted blends: the weights for a row are fitted without its fold and without its near-duplicates.

As in all stacking, the members' predictions of the other folds come from networks that trained on the row; only its target
stays out of the weights. The RMSE of weights fitted on the same rows is reported for comparison: on 9,912 rows it makes a
blend of eight members look 0.015 points better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.data.duplicates import numbered
from pawpularity.data.folds import BINS, deal
from pawpularity.ensemble.methods import Floats, Weights, fit
from pawpularity.errors import UserError, listed
from pawpularity.evaluation.bootstrap import DRAWS
from pawpularity.evaluation.compare import compare
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.predictions import Predictions, groups_of_all, open_several

DEALT_FOLDS = 5
MOST_FOLDS = 100  # a fold column with more values holds something else, such as row numbers

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Partition:
    """The folds by which weights are fitted."""

    fold: Rows
    """(n,) 0..k-1"""
    groups: Rows
    """(n,) near-duplicates share a number"""
    groups_known: bool
    """False: every row is its own group"""
    own: bool
    """True for the fold column that all members share"""
    why: str

    @property
    def k(self) -> int:
        """Number of folds."""
        return int(self.fold.max()) + 1

    def known_for(self, fold: int) -> NDArray[np.bool_]:
        """(n,) the rows on which the weights of `fold` are fitted: of other folds, without near-duplicates in `fold`."""
        known: NDArray[np.bool_] = ~np.isin(self.groups, self.groups[self.fold == fold])
        return known

    def to_dict(self) -> dict[str, Any]:
        """For JSON. `groups` are those of two rows or more, `groups_spanning` those that lie in more than one fold."""
        sizes = np.unique(self.groups, return_counts=True)[1]
        pairs = np.unique(np.stack([self.groups, self.fold]), axis=1)
        return {"k": self.k, "own": self.own, "why": self.why, "groups_known": self.groups_known,
                "groups": int((sizes > 1).sum()), "groups_spanning": pairs.shape[1] - len(sizes)}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Blend:
    """One method fitted on some members."""

    method: str
    weights: Weights
    """fitted on all rows, for new photos"""
    prediction: Floats
    """(n,) cross-fitted scores"""
    same_rows: Floats
    """(n,) scores by `weights`, which were fitted on these same rows: optimistic"""


def open_members(words: Sequence[str], scale: float | None = None, folds: Path | None = None) -> list[Predictions]:
    """The members that `words` name, sorted by name, so that their order on the command line changes nothing."""
    if len(words) < 2:
        raise UserError(f"ensemble: a blend needs two members or more, {len(words)} given; name runs or CSVs")
    sources = open_several(words, scale=scale, folds=folds)
    for run in (source.run for source in sources if source.run is not None):
        if run.kind == "ensemble":
            raise UserError(f"{run.folder}: is a blend; name its members instead: {listed(run.record['members'], ' ')}")
        if run.leaky:
            raise UserError(
                f"{run.folder}: is leaky by design (train.split=leaky), it trained on the answers; leave it out"
            )
    return sorted(sources, key=lambda source: source.name)


def partition_of(sources: Sequence[Predictions], seed: int = 0) -> Partition:
    """The partition that all `sources` share (fold names may differ), else five folds dealt with `seed`."""
    first, known = sources[0], groups_of_all(sources)
    groups = np.arange(len(first.table)) if known is None else known
    column = numbered(first.fold.tolist())
    other = next((s for s in sources if not np.array_equal(numbered(s.fold.tolist()), column)), None)
    k = int(max(column)) + 1
    if other is None and 2 <= k <= MOST_FOLDS:
        fold = np.unique(first.fold, return_inverse=True)[1]
        partition = Partition(fold, groups, known is not None, True, "the fold column that all members share")
    else:
        unlike = f"{first.name} and {other.name} have different folds" if other else f"the members have {k} fold(s)"
        why = f"dealt with seed {seed}, because {unlike}"
        partition = Partition(_dealt(groups, first, seed), groups, known is not None, False, why)
    for one in range(partition.k):
        if partition.known_for(one).sum() < 2:
            raise UserError(f"fold {one}: too few rows of other folds have no near-duplicate in it; train the members by "
                            "folds that keep near-duplicates together (make folds)")  # fmt: skip
    return partition


def _dealt(groups: Rows, first: Predictions, seed: int) -> Rows:
    count = len(np.unique(groups))
    if count < 2:
        raise UserError(f"{first.path}: {len(groups)} near-duplicate row(s) of one photo are too few to blend")
    parts = min(DEALT_FOLDS, count)
    bins = max(1, min(BINS, count // parts))
    return deal(numbered(groups.tolist()), first.target, k=parts, seed=seed, bins=bins)


def cross_fit(method: str, sources: Sequence[Predictions], partition: Partition) -> Blend:
    """Fit `method` without each fold in turn, to score that fold, and on all rows, for new photos."""
    predictions, target = np.stack([source.prediction for source in sources], axis=1), sources[0].target
    blended = np.empty(len(target))
    for fold in range(partition.k):
        known, scored = partition.known_for(fold), partition.fold == fold
        blended[scored] = fit(method, predictions[known], target[known])(predictions[scored])
    weights = fit(method, predictions, target)
    return Blend(method, weights, blended, weights(predictions))


def figures(
    target: Floats, blends: Sequence[Blend], groups: Rows, *, draws: int = DRAWS, seed: int = 0
) -> list[dict[str, Any]]:
    """One row a blend: RMSEs in score points and the paired difference to the first (below 0: better), on the same resamples."""
    named = [(blend.method, blend.prediction) for blend in blends]
    return [
        {"method": row.name, "rmse": row.rmse, "low": row.rmse_low, "high": row.rmse_high,
         "same_rows_rmse": rmse(target, blend.same_rows),
         "difference": row.difference, "difference_low": row.low, "difference_high": row.high}
        for row, blend in zip(compare(target, named[0][1], named, groups, draws=draws, seed=seed), blends, strict=True)
    ]  # fmt: skip
