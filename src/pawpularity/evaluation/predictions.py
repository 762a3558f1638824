"""Predictions to evaluate: a run by its name, or any CSV with `Id,fold,target,prediction`.

A word that ends in `.csv`, holds a slash or names a file is a file; any other is a run below `oof/`. A run's own file,
`oof/RUN/oof.csv`, is the run, so that a leaky or searched one stays marked. Nothing in a file proves that its rows are out of
fold; `leakcheck` looks for signs of a leak.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.folds import read_folds
from pawpularity.data.tables import ID, near_hint, scores_differ
from pawpularity.errors import UserError, listed
from pawpularity.evaluation.foreign import read_foreign
from pawpularity.evaluation.oof import constant_predictions, read_run, run_folds
from pawpularity.files import text_hash
from pawpularity.runs import OOF, Run, findings_name

FEWEST_SEEDS = 3
SEED_SPREAD = (
    "Another seed or machine moves the RMSE of 600 rows by .3 to .5 points where a network is trained from random weights (by .02 "
    'where most of it is frozen): compare means of three seeds or more (make jobs SEEDS="0 1 2").'
)


@dataclass(frozen=True, eq=False)
class Predictions:
    """One set of predictions, its rows sorted by Id."""

    name: str
    table: pd.DataFrame
    """Id (str), fold (int64), target and prediction (float64, score points)"""
    groups: NDArray[np.int64] | None
    """(n,) near-duplicates share a number; None = not known, every row its own"""
    constant: NDArray[np.float64]
    """(n,) the mean target of each row's training rows"""
    run: Run | None
    path: Path

    @property
    def target(self) -> NDArray[np.float64]:
        """(n,) true scores."""
        return self.table["target"].to_numpy(dtype=np.float64)

    @property
    def prediction(self) -> NDArray[np.float64]:
        """(n,) predicted scores."""
        return self.table["prediction"].to_numpy(dtype=np.float64)

    @property
    def fold(self) -> NDArray[np.int64]:
        """(n,) the fold each row was scored in."""
        return self.table["fold"].to_numpy(dtype=np.int64)

    @property
    def predictions_hash(self) -> str:
        """12 hex digits over every Id, target and prediction; a report stores it to tell later whether it is up to date."""
        return text_hash(self.table[[ID, "target", "prediction"]].to_csv(index=False, float_format="%.6f"))

    @property
    def folder_name(self) -> str:
        """The name of a folder of results: the run's, or one that only this file has."""
        return self.name if self.run is not None else findings_name(self.path)

    @property
    def constant_words(self) -> str:
        """What `constant` is, in words."""
        alone = self.run is None and len(np.unique(self.fold)) < 2
        return "these rows' own mean: there is one fold only" if alone else "the training rows' mean"

    @property
    def complete(self) -> bool:
        """Whether every fold of the run is trained; True for a file."""
        return self.run is None or not self.run.has_folds or len(self.run.trained_folds()) == self.run.k


def is_file_word(word: str) -> bool:
    """Whether a word on the command line means a file rather than a run."""
    return word.lower().endswith(".csv") or Path(word).is_file() or "/" in word


def open_predictions(
    word: str, *, scale: float | None = None, folds: Path | None = None, partly: bool = False
) -> Predictions:
    """The predictions that `word` names, checked.

    `scale` brings columns of a file that are on another scale to score points; `folds` is a folds file with the groups of its
    rows; `partly` accepts a run with missing folds.
    """
    if scale is not None and not 0 < scale <= 1000:
        raise UserError(f"--scale {scale:g}: must be above 0 and 1000 at most; 100 turns 0-1 into score points")
    path = Path(word).absolute()
    if path.name == "oof.csv" and path.parent.parent == OOF.absolute() and path.with_name("config.json").is_file():
        return _open_run(path.parent.name, partly)
    return _open_file(word, scale, folds) if is_file_word(word) else _open_run(word, partly)


def _open_file(word: str, scale: float | None, folds: Path | None) -> Predictions:
    path = Path(word)
    if not path.exists() or path.is_dir():
        fault = "is a folder" if path.is_dir() else "there is no such file"
        raise UserError(f"{word}: {fault}; name a CSV with Id,fold,target,prediction, or a run by its name alone")
    table = read_foreign(path, word, scale)
    groups = None if folds is None else read_folds(folds).groups_of(table[ID])
    return Predictions(path.stem, table, groups, constant_predictions(table), None, path)


def _open_run(name: str, partly: bool) -> Predictions:
    run = Run.open(OOF / name)
    table, constant, path = read_run(run, partly=partly), None, run.oof_file
    if run.has_folds and len(trained := run.trained_folds()) < run.k:
        means = {fold: run.metrics(fold)["training_mean"] for fold in trained}
        constant, path = table["fold"].map(means).to_numpy(dtype=np.float64), run.folder
    groups = run_folds(run).groups_of(table[ID])
    return Predictions(name, table, groups, constant_predictions(table) if constant is None else constant, run, path)


def open_several(words: Sequence[str], *, scale: float | None = None, folds: Path | None = None) -> list[Predictions]:
    """Several sets of predictions of the same rows and targets, else UserError. Files of one name are named after their folders."""
    found: list[Predictions] = []
    for word in words:
        one = open_predictions(word, scale=scale, folds=folds)
        for other in found:
            if one.path.resolve() == other.path.resolve():
                raise UserError(f"{word}: is named twice; name each once")
            _require_same_rows(other, one)
            if np.allclose(other.prediction, one.prediction, rtol=0.0, atol=1e-5):
                raise UserError(f"{other.path} and {one.path} hold the same predictions; name only one of them")
        found.append(one)
    names = [one.name for one in found]
    for place, one in enumerate(found):
        if one.run is None and names.count(one.name) > 1:
            found[place] = replace(one, name=f"{one.path.resolve().parent.name}-{one.name}")
    if len({one.name for one in found}) < len(found):
        raise UserError(f"two of {listed(words, ' ')} would have the same name; rename a file")
    return found


def _require_same_rows(first: Predictions, second: Predictions) -> None:
    if differing := set(first.table[ID]) ^ set(second.table[ID]):
        hint = near_hint(second.table[ID], first.table[ID]) or "; name predictions of the same rows"
        raise UserError(
            f"{first.path} and {second.path} score different photos: {min(differing)} is in only one of them{hint}"
        )
    unequal = np.flatnonzero(scores_differ(first.target, second.target))
    if len(unequal):
        row = int(unequal[0])
        raise UserError(f"{first.path} and {second.path} have different targets: {first.table[ID][row]} is {first.target[row]:g} "
                        f"and {second.target[row]:g} ({len(unequal)} rows differ); name predictions of the same data")  # fmt: skip


def search_note(several: Iterable[Predictions]) -> str | None:
    """A line that names those of `several` whose settings a search chose; None where there is none."""
    found = [f"{one.name} ({one.run.searched})" for one in several if one.run is not None and one.run.searched]
    return (
        f"settings chosen by a search, so a little too good on the rows that it used: {listed(found)}"
        if found
        else None
    )


def groups_of_all(several: Sequence[Predictions]) -> NDArray[np.int64] | None:
    """(n,) groups that join two rows if any of `several` (of the same rows) joins them; None if no groups are known."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    known = [one.groups for one in several if one.groups is not None]
    if not known or all(np.array_equal(one, known[0]) for one in known):
        return known[0] if known else None
    n, rows = len(known[0]), np.tile(np.arange(len(known[0])), len(known))
    parts = [np.unique(one, return_index=True, return_inverse=True) for one in known]
    first_of_group = np.concatenate([first[index] for _, first, index in parts])
    edges = coo_array((np.ones(len(rows)), (rows, first_of_group)), shape=(n, n))
    return np.asarray(connected_components(edges, directed=False)[1], dtype=np.int64)
