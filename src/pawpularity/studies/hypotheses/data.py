"""What the tests are made on: the rows by Id, their groups, the measured contrast, a model's predictions, known effects."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.dataset import Dataset
from pawpularity.data.subject import measure
from pawpularity.data.tables import ID, TARGET
from pawpularity.errors import UserError
from pawpularity.evaluation.effects import CONTRAST
from pawpularity.evaluation.predictions import Predictions
from pawpularity.studies.hypotheses.drawn import true_contrasts, true_effects

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Gathered:
    """Rows sorted by Id, so that no figure depends on the table's order."""

    table: pd.DataFrame
    groups: Rows
    """(n,) near-duplicates share a number"""
    contrast: Floats | str
    """(n,) levels, NaN where it was not measured; or why there are none"""
    prediction: Floats | None
    known: Mapping[str, float]
    notes: list[str]


def gather(
    dataset: Dataset, groups_of: Callable[[Iterable[str]], Rows], cache_folder: Path, source: Predictions | None
) -> Gathered:
    """Everything of `dataset`, in the order of its Ids. Raises UserError where `source` is not of exactly these rows."""
    order = np.argsort(dataset.train[ID].to_numpy(dtype=str), kind="stable")
    table = dataset.train.iloc[order].reset_index(drop=True)
    ids = table[ID].tolist()
    prediction = None if source is None else _matched(source, table, dataset.folder)
    known = true_effects(dataset.folder, ids)
    notes = []
    contrast: Floats | str = f"needs photos, and {dataset.name} has labels only"
    if dataset.has_photos:
        measured = measure(dataset, cache_folder)
        contrast = measured.levels[order]
        seen = np.isfinite(contrast)
        note = f"contrast: measured on {int(seen.sum()):,} of {len(ids):,} photos"
        if measured.failed:
            note += (
                f"; {measured.failed} without a plausible subject are left out of hypothesis 2 and of the regression"
            )
        if known and seen.sum() > 2:
            truth = true_contrasts(dataset.folder, ids)[seen]
            if truth.std() > 0 and contrast[seen].std() > 0:
                fit = float(np.corrcoef(contrast[seen], truth)[0, 1])
                note += (
                    f"; its correlation with the drawn contrast is {fit:.2f}, so {fit:.2f} x {known[CONTRAST]:.2f} = "
                    f"{fit * known[CONTRAST]:+.2f} is to be expected of its effect"
                )
        notes.append(note)
    return Gathered(table, groups_of(ids), contrast, prediction, known, notes)


def _matched(source: Predictions, table: pd.DataFrame, folder: Path) -> Floats:
    """The predictions of `source` for `table`, sorted by Id as both are."""
    ours, theirs = set(table[ID]), set(source.table[ID])
    if ours != theirs:
        odd = min(ours ^ theirs)
        where = f"{source.path} lacks" if odd in ours else f"{folder} lacks"
        raise UserError(
            f"{source.path}: is of other photos than {folder} ({where} {odd}); name a run of these data, or DATA=... of the run"
        )
    unequal = np.flatnonzero(~np.isclose(source.target, table[TARGET], rtol=0, atol=1e-5))
    if len(unequal):
        row = int(unequal[0])
        raise UserError(
            f"{source.path}: has another score than {folder} for {table[ID][row]} ({source.target[row]:g} and "
            f"{table[TARGET][row]:g}; {len(unequal)} rows differ); name a run of these data"
        )
    return source.prediction
