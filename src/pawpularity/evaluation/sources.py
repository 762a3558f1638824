"""Predictions to look at, wherever they come from: a run of ours by its name, or anybody's `Id,fold,target,prediction` CSV.

A word that ends in `.csv` or names a file is a file; anything else is a run below `oof/`. A file's rows are taken as
declared: that its predictions are out of fold nobody can see from the outside (`leakcheck` looks for signs).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pawpularity.data.duplicates import numbered
from pawpularity.data.folds import read_folds
from pawpularity.errors import UserError
from pawpularity.evaluation.oof import constant_predictions, read_fold, read_oof, read_run, run_folds
from pawpularity.files import text_hash
from pawpularity.runs import OOF, Run


@dataclass(frozen=True, eq=False)
class Source:
    """One set of predictions, its rows sorted by Id."""

    name: str
    table: pd.DataFrame
    """Id (str), fold (int64), target and prediction (float64, score points)"""
    groups: NDArray[np.int64] | None
    """(n,) near-duplicates share a number; None = not known, every row its own"""
    constant: NDArray[np.float64]
    """(n,) what answering without looking says: the mean target of each row's training rows"""
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
        """12 hex digits of every Id, target and prediction, to six decimals: findings about it keep them, and tell others by it."""
        rows = zip(self.table["Id"], self.target.tolist(), self.prediction.tolist(), strict=True)
        return text_hash(*(f"{name},{target:.6f},{prediction:.6f}" for name, target, prediction in rows))

    @property
    def folder_name(self) -> str:
        """What a folder of findings about it is called: a file's keeps `.csv`, so that it never stands for a run's."""
        if self.run is not None:
            return self.name
        return (re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-.") or "file") + ".csv"

    @property
    def constant_words(self) -> str:
        """What `constant` is, for whoever prints it: with one fold there are no other rows to take a mean of."""
        if self.run is None and len(np.unique(self.fold)) < 2:
            return "these rows' own mean: there is one fold only, so no training rows are known"
        return "the training rows' mean"

    @property
    def complete(self) -> bool:
        """Whether every fold of a run is there; a file is what it is."""
        return self.run is None or not self.run.has_folds or len(self.run.trained_folds()) == self.run.k


def is_file_word(word: str) -> bool:
    """Whether a word on the command line means a file rather than a run."""
    return word.lower().endswith(".csv") or Path(word).is_file() or "/" in word


def open_source(word: str, *, scale: float | None = None, folds: Path | None = None, partly: bool = False) -> Source:
    """The predictions that `word` names.

    `scale`: what predictions on a 0-1 scale are multiplied by (100); tables in score points are left as they are.
    `folds`: a folds file whose groups a CSV's rows belong to. `partly`: take a run whose folds are not all there.

    Raises UserError for a word that names nothing, a bad table, an unfinished run, or a 0-1 scale without `scale`.
    """
    if scale is not None and not 0 < scale <= 1000:  # NaN is refused too
        raise UserError(f"--scale {scale:g}: must be above 0 and 1000 at most; 100 turns a 0-1 scale into score points")
    if is_file_word(word):
        path = Path(word)
        if path.is_dir():
            raise UserError(f"{word}: is a folder; name a CSV, or a run below {OOF}/ by its name alone")
        if not path.exists():
            raise UserError(
                f"{word}: there is no such file; name a CSV with Id,fold,target,prediction, or a run below oof/"
            )
        table = _in_points(read_oof(path), str(path), scale)
        groups = None if folds is None else read_folds(folds).groups_of(table["Id"])
        return Source(path.stem, table, groups, constant_predictions(table), None, path)
    run = Run.open(OOF / word)
    found, split = read_run(run), run_folds(run)
    if found is not None:
        return Source(run.name, found, split.groups_of(found["Id"]), constant_predictions(found), run, run.oof_file)
    there = run.trained_folds()
    if not there or not partly:
        raise UserError(f"{run.folder}: {len(there)} of {run.k} folds are there; run: {run.remedy()}")
    some = pd.concat([read_fold(run, fold, split) for fold in there]).sort_values("Id", ignore_index=True)
    means = {fold: run.metrics(fold)["training_mean"] for fold in there}
    constant = some["fold"].map(means).to_numpy(dtype=np.float64)
    return Source(run.name, some, split.groups_of(some["Id"]), constant, run, run.folder)


def open_sources(words: Sequence[str], *, scale: float | None = None, folds: Path | None = None) -> list[Source]:
    """Several, of the same rows and targets. Raises UserError for one given twice, and naming the first difference."""
    sources: list[Source] = []
    for word in words:
        source = open_source(word, scale=scale, folds=folds)
        for other in sources:
            if source.path.resolve() == other.path.resolve():
                raise UserError(f"{word}: is given twice; name each once")
            _require_same(other, source)
            if np.array_equal(other.prediction, source.prediction):
                raise UserError(f"{other.path} and {source.path} hold the same predictions; give one of them")
        sources.append(source)
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        # Files of the same name in several folders are told apart by the folder.
        sources = [Source(f"{s.path.resolve().parent.name}-{s.name}" if s.run is None and names.count(s.name) > 1 else s.name,
                          s.table, s.groups, s.constant, s.run, s.path) for s in sources]  # fmt: skip
        names = [source.name for source in sources]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"two sources are called {repeated}; rename one of the files")
    return sources


def groups_of_all(sources: Sequence[Source]) -> NDArray[np.int64] | None:
    """(n,) groups that hold two rows together if any of `sources` (of the same rows) does; None where nobody knows any."""
    return joined_groups([source.groups for source in sources if source.groups is not None])


def joined_groups(known: Sequence[NDArray[np.int64]]) -> NDArray[np.int64] | None:
    """(n,) groups that hold two rows together if any of `known` (each (n,)) does; None where nobody knows any."""
    if not known:
        return None
    if all(np.array_equal(one, known[0]) for one in known):
        return known[0]
    n = len(known[0])
    rows, joints, offset = [], [], n
    for one in known:
        _, index = np.unique(one, return_inverse=True)
        rows.append(np.arange(n))
        joints.append(offset + index)
        offset += int(index.max()) + 1
    edges = (np.ones(n * len(known)), (np.concatenate(rows), np.concatenate(joints)))
    labels = connected_components(coo_array(edges, shape=(offset, offset)), directed=False)[1][:n]
    return np.array(numbered(labels.tolist()))


def _require_same(first: Source, second: Source) -> None:
    if first.table["Id"].equals(second.table["Id"]) and np.array_equal(first.target, second.target):
        return
    a, b = set(first.table["Id"]), set(second.table["Id"])
    if a != b:
        odd = min(a ^ b)
        inside, outside = (first, second) if odd in a else (second, first)
        raise UserError(
            f"{inside.path} and {outside.path} score different photos: {odd} is in the former only "
            f"({len(inside.table)} rows and {len(outside.table)}); only the same rows can be compared"
        )
    unequal = np.flatnonzero(~np.isclose(first.target, second.target, rtol=0, atol=1e-6))
    if len(unequal):
        row = int(unequal[0])
        raise UserError(
            f"{first.path} and {second.path} have different targets: {first.table['Id'][row]} is "
            f"{first.target[row]:g} and {second.target[row]:g} ({len(unequal)} rows differ); name files of the same data"
        )


def _in_points(table: pd.DataFrame, where: str, scale: float | None) -> pd.DataFrame:
    """`table` in score points. Scores are 1..100, so a column that never leaves 0..1 is on another scale."""
    for column in ("prediction", "target"):
        values = table[column]
        if not (values.min() >= 0 and values.max() <= 1):
            continue
        if scale is None:
            raise UserError(
                f"{where}: every {column} lies in 0..1, so they are on a 0-1 scale, not 1-100; add --scale 100"
            )
        # 0.07 x 100 is 7.000000000000001, and a whole score must stay one.
        table = table.assign(**{column: np.round(values * scale, 6)})
    return table
