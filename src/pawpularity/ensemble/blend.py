"""Cross-fitted blends: the weights of a row never saw its fold, nor a near-duplicate of it.

As in all stacking, the members' predictions of the other folds come from networks that trained on the row; only its target
stays out of the weights. Scores of weights fitted on the same rows are kept for comparison: on 9,912 rows they make
eight members look 0.015 points better.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.data.duplicates import numbered
from pawpularity.data.folds import BINS, deal, read_folds
from pawpularity.ensemble.methods import Floats, Weights, fit
from pawpularity.errors import UserError
from pawpularity.evaluation.bootstrap import DRAWS
from pawpularity.evaluation.compare import compare
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.predictions import Predictions, joined_groups, open_several

DEALT_FOLDS = 5
MOST_FOLDS = 100  # a fold column with more values is taken for something else, such as row numbers

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Partition:
    """The folds by which weights are fitted."""

    fold: Rows
    """(n,) 0..k-1"""
    groups: Rows | None
    """(n,) near-duplicates share a number; None = unknown, every row is its own group"""
    own: bool
    """True for the fold column that all members share"""
    why: str

    @property
    def k(self) -> int:
        """Number of folds."""
        return int(self.fold.max()) + 1

    def known_for(self, fold: int) -> NDArray[np.bool_]:
        """(n,) the rows whose targets the weights of `fold` may see: of other folds, without near-duplicates in it."""
        known: NDArray[np.bool_] = self.fold != fold
        if self.groups is not None:
            known &= ~np.isin(self.groups, self.groups[~known])
        return known

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Counts groups of two rows or more, and those of them that lie in more than one fold."""
        groups = np.arange(len(self.fold)) if self.groups is None else self.groups
        sizes = np.unique(groups, return_counts=True)[1]
        pairs = np.unique(np.stack([groups, self.fold]), axis=1)
        return {"k": self.k, "own": self.own, "why": self.why, "groups_known": self.groups is not None,
                "groups": int((sizes > 1).sum()), "rows_in_groups": int(sizes[sizes > 1].sum()),
                "groups_spanning": pairs.shape[1] - len(sizes)}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Blend:
    """One method fitted on some members."""

    method: str
    weights: Weights
    """fitted on all rows, for new photos"""
    prediction: Floats
    """(n,) cross-fitted scores"""
    same_rows: Floats
    """(n,) scores by `weights`, which were fitted on these very rows: optimistic"""


def open_members(words: Sequence[str], scale: float | None = None) -> list[Predictions]:
    """The members that `words` name, sorted by name, so that their order on the command line cannot move a digit.

    Raises UserError for fewer than two, a blend, a leaky run, and as `open_several` does.
    """
    if len(words) < 2:
        raise UserError(f"ensemble: a blend needs two members or more, {len(words)} given; name runs or CSVs")
    sources = open_several(words, scale=scale)
    for run in (source.run for source in sources if source.run is not None):
        if run.kind == "ensemble":
            members = " ".join(run.record["members"])
            raise UserError(
                f"{run.folder}: is a blend, whose weights saw targets of other folds; name {members} instead"
            )
        if run.leaky:
            raise UserError(f"{run.folder}: is leaky by design (train.split=leaky), it saw the answers; leave it out")
    return sorted(sources, key=lambda source: source.name)


def groups_of(sources: Sequence[Predictions], folds: Path | None = None) -> Rows | None:
    """(n,) near-duplicates known to the sources or to the folds file `folds`, joined; None if none are known."""
    known = [source.groups for source in sources if source.groups is not None]
    if folds is not None:
        known.append(read_folds(folds).groups_of(sources[0].table["Id"]))
    return joined_groups(known)


def partition_of(sources: Sequence[Predictions], groups: Rows | None, seed: int = 0) -> Partition:
    """The partition that all `sources` share (fold names may differ), else five folds dealt with `seed`.

    Raises UserError where the near-duplicates leave too few rows to fit on.
    """
    first, target = sources[0], sources[0].target
    column = numbered(first.fold.tolist())
    other = next((s for s in sources if not np.array_equal(numbered(s.fold.tolist()), column)), None)
    k = int(max(column)) + 1
    if other is None and 2 <= k <= MOST_FOLDS:
        fold = np.unique(first.fold, return_inverse=True)[1]
        partition = Partition(fold, groups, True, "the fold column that all members share")
    else:
        unlike = f"{first.name} and {other.name} have different folds" if other else f"the members have {k} fold(s)"
        labels = numbered(range(len(target)) if groups is None else groups.tolist())
        count = int(max(labels)) + 1
        if count < 2:
            raise UserError(f"{first.path}: {len(target)} near-duplicate row(s) of one photo are too few to blend")
        parts = min(DEALT_FOLDS, count)
        fold = deal(np.array(labels), target, k=parts, seed=seed, bins=max(1, min(BINS, count // parts)))
        partition = Partition(fold, groups, False, f"dealt with seed {seed}, because {unlike}")
    for one in range(partition.k):
        if (left := int(partition.known_for(one).sum())) < 2:
            raise UserError(
                f"fold {one}: only {left} row(s) of other folds have no near-duplicate in it, too few to fit weights on; "
                "train the members by folds that keep near-duplicates together (make folds)"
            )
    return partition


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
    target: Floats, blends: Sequence[Blend], groups: Rows | None, *, draws: int = DRAWS, seed: int = 0
) -> list[dict[str, Any]]:
    """One row a blend: RMSEs in score points and the paired difference to the first blend (below 0: better), all on the
    same resamples of whole groups.
    """
    compared = compare(target, blends[0].prediction, [(blend.method, blend.prediction) for blend in blends], groups,
                       draws=draws, seed=seed)  # fmt: skip
    return [
        {"method": row.name, "rmse": row.rmse, "low": row.rmse_low, "high": row.rmse_high,
         "same_rows_rmse": rmse(target, blend.same_rows),
         "difference": row.difference, "difference_low": row.low, "difference_high": row.high}
        for row, blend in zip(compared, blends, strict=True)
    ]  # fmt: skip
