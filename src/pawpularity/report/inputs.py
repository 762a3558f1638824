"""The sets of predictions a report is about: runs below `oof/` and anybody's CSVs, with everything `oof` says of each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pawpularity.console import make_word
from pawpularity.errors import UserError
from pawpularity.evaluation.leaderboard import details, run_row
from pawpularity.evaluation.leak_detection import CONTEST_KIND, DRAWN_KIND
from pawpularity.evaluation.predictions import Predictions, is_file_word, open_predictions
from pawpularity.runs import OOF, Run, run_names

CELLS = "table1-"  # runs that are cells of Table 1 begin so
STUDIES = OOF / "studies"
LEAKY = "leaky by design"
_SAME = 2e-6  # six decimals are written
_CSVS = {CONTEST_KIND: "CSVs of the contest's data", DRAWN_KIND: "CSVs of a drawn shelter"}


@dataclass(frozen=True, eq=False)
class Subject:
    """One set of predictions."""

    word: str
    """what named it: a run's name, a file's path"""
    row: dict[str, Any]
    """what `oof RUN` says of it; of a run without a trained fold `run_row`, whose score is None"""
    source: Predictions | None
    run: Run | None

    @property
    def name(self) -> str:
        """The run's or the file's name."""
        return str(self.row["run"])

    @property
    def data(self) -> str:
        """The data set it is of; of CSVs, and of a blend that no data folder is kept of, what their rows tell."""
        if self.run is not None and not (self.run.kind == "ensemble" and "folder" not in self.run.record["data"]):
            return str(self.row["data"])
        return _CSVS.get(self.row["kind_of_data"], "CSVs whose data are not known here")

    @property
    def flag(self) -> str:
        """Why it must not be compared with others: leaky by design, or a leak alarm; empty for an honest one."""
        if self.row["leaky"]:
            return LEAKY
        alarms = self.row.get("alarms") or []
        return f"leak alarm: {', '.join(alarms)}" if alarms else ""

    @property
    def label(self) -> str:
        """Its name with its warning, for pictures."""
        return f"{self.name} ({self.flag})" if self.flag else self.name

    @property
    def kind(self) -> str:
        """What it is, in a few words."""
        if self.run is None:
            return "file, taken as declared"
        if self.run.kind == "ensemble":
            return "blend, cross-fitted"
        if self.run.kind == "head":
            return "head on frozen features"
        return str(self.run.record["config"].get("model", {}).get("backbone", "network"))

    def holds(self, predictions: Iterable[tuple[str, float, float]]) -> bool:
        """Whether (Id, target, prediction) rows, as a verb wrote them down, are those of the present predictions."""
        if self.source is None:
            return False
        table = self.source.table
        known = {name: pair for name, *pair in zip(table["Id"], table["target"], table["prediction"], strict=True)}
        return all(
            name in known and abs(known[name][0] - target) < _SAME and abs(known[name][1] - prediction) < _SAME
            for name, target, prediction in predictions
        )

    def require_about(self, path: Path, predictions_hash: str, command: str) -> None:
        """Raise UserError unless what `path` says is about the present predictions, whose hash it kept."""
        if self.source is None or self.source.predictions_hash != predictions_hash:
            raise UserError(f"{path}: is about other predictions than {self.name} holds now; run: {command}")

    @property
    def words(self) -> str:
        """RMSE, interval, constant and n in a line, for alt texts and captions."""
        s = self.row["score"]
        if s is None:
            return f"{self.name}: no fold is trained yet"
        few = ", indicative" if s["indicative"] else ""
        flag = f" ({self.flag})" if self.flag else ""
        return (f"{self.name}{flag}: RMSE {s['rmse']:.2f} [{s['low']:.2f}, {s['high']:.2f}{few}], constant "
                f"{s['constant_rmse']:.2f}, n = {s['n']:,}")  # fmt: skip


def gather(
    words: Sequence[str], *, scale: float | None = None, folds: Path | None = None, data: Path | None = None
) -> tuple[list[Subject], list[str]]:
    """The subjects that `words` name (none: all runs below `oof/` but cells of Table 1 and trials of searches), and notes.

    By data set, the best first, what is leaky after everything honest, as `make oof` has them. Raises UserError for a named
    one that cannot be read; of all runs such a one is left out, and noted.
    """
    names, notes = (list(dict.fromkeys(words)), []) if words else _all_runs()
    found: list[Subject] = []
    for name in names:
        try:
            found.append(_subject(name, scale, folds, data))
        except UserError as error:
            if words or len(names) == 1:
                raise
            notes.append(f"left out {name}: {error}")
    if not found:
        raise UserError(notes[0])
    return sorted(_named_apart(found), key=_place), notes


def by_data(subjects: Sequence[Subject]) -> dict[str, list[Subject]]:
    """The subjects by data set, in their order."""
    return {data: [one for one in subjects if one.data == data] for data in dict.fromkeys(s.data for s in subjects)}


def flags_of(subjects: Sequence[Subject]) -> dict[str, str]:
    """The warning of each subject that has one, by its name."""
    return {one.name: one.flag for one in subjects if one.flag}


def command_of(subjects: Sequence[Subject], verb: str = "report", word: str = "RUNS") -> str:
    """`make report RUNS="a b"`, for the subjects of a section."""
    return f"make {verb} {make_word(word, *(one.word for one in subjects))}"


def distinct(subjects: Sequence[Subject]) -> tuple[list[Subject], list[tuple[Subject, Subject]]]:
    """The subjects whose predictions none before them holds, and (copy, the one it is a copy of) of the others."""
    kept: list[Subject] = []
    copies = []
    for one in subjects:
        if (first := next((other for other in kept if _alike(one, other)), None)) is None:
            kept.append(one)
        else:
            copies.append((one, first))
    return kept, copies


def copy_lines(copies: Sequence[tuple[Subject, Subject]]) -> list[str]:
    """A sentence for each of `distinct`'s copies."""
    return [f"{one.label} holds the same predictions as {first.label}." for one, first in copies]


def _alike(one: Subject, other: Subject) -> bool:
    """As `compare` refuses two: the same rows, targets and predictions, to the last digit."""
    a, b = one.source, other.source
    return (
        a is not None
        and b is not None
        and a.table["Id"].equals(b.table["Id"])
        and np.array_equal(a.target, b.target)
        and np.array_equal(a.prediction, b.prediction)
    )


def _all_runs() -> tuple[list[str], list[str]]:
    every = run_names()
    if not every:
        raise UserError(f"{OOF}/ holds no run yet; run: make train FOLD=0")
    studies = [path.name for path in STUDIES.glob("*") if path.is_dir()]
    cells = [name for name in every if name.startswith(CELLS)]
    trials = [name for name in every if any(name.startswith((f"{s}-trial", f"{s}-fold")) for s in studies)]
    kept = [name for name in every if name not in cells and name not in trials]
    if not kept:
        return every, []
    left = [
        f"{len(some)} {what}" for some, what in ((cells, "cells of Table 1"), (trials, "trials of searches")) if some
    ]
    note = f"Left to sections of their own: {' and '.join(left)}; RUNS=... names any of them"
    return kept, [note] if left else []


def _subject(word: str, scale: float | None, folds: Path | None, data: Path | None) -> Subject:
    if is_file_word(word):
        source = open_predictions(word, scale=scale, folds=folds)
        return Subject(word, details(source, data), source, None)
    run = Run.open(OOF / word)
    if run.has_folds and not run.trained_folds():
        return Subject(word, run_row(run), None, run)
    source = open_predictions(word, partly=True)
    return Subject(word, details(source), source, run)


def _named_apart(found: Sequence[Subject]) -> list[Subject]:
    """Files of the same name in several folders are told apart by the folder, as `open_several` does."""
    names = [one.name for one in found]
    apart = []
    for one in found:
        if one.source is not None and one.run is None and names.count(one.name) > 1:
            name = f"{one.source.path.resolve().parent.name}-{one.name}"
            one = replace(one, row=one.row | {"run": name}, source=replace(one.source, name=name))
        apart.append(one)
    return apart


def _place(one: Subject) -> tuple[str, bool, float]:
    return one.data, bool(one.flag), one.row["score"]["rmse"] if one.row["score"] else float("inf")
