"""The entries of a report: runs below `oof/` and any CSVs of predictions, each with the figures of `pawpularity oof`."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pawpularity.console import make_word
from pawpularity.errors import UserError, printable
from pawpularity.evaluation.leaderboard import details, run_row
from pawpularity.evaluation.leak_detection import CONTEST_KIND, DRAWN_KIND
from pawpularity.evaluation.predictions import Predictions, is_file_word, open_predictions
from pawpularity.runs import OOF, Run, run_names

CELLS = "table1-"  # prefix of runs that are cells of Table 1
STUDIES = OOF / "studies"
LEAKY_FLAG = "leaky by design"
_SAME = 2e-6  # files have six decimals
_CSVS = {CONTEST_KIND: "CSVs of the contest's data", DRAWN_KIND: "CSVs of a drawn sample"}


@dataclass(frozen=True, eq=False)
class Entry:
    """One run or CSV in the report."""

    word: str
    """how the user named it: a run's name, a file's path"""
    row: dict[str, Any]
    """the figures of `oof RUN`; of `run_row`, with score None, for a run without a trained fold"""
    source: Predictions | None
    """None for a run without a trained fold"""
    run: Run | None
    """None for a CSV"""

    @property
    def name(self) -> str:
        """The run's or the file's name."""
        return printable(str(self.row["run"]))

    @property
    def data(self) -> str:
        """Its data set. For CSVs, and for blends without a data folder in their record: what their rows show."""
        if self.run is not None and not (self.run.kind == "ensemble" and "folder" not in self.run.record["data"]):
            return str(self.row["data"])
        return _CSVS.get(self.row["kind_of_data"], "CSVs whose data are not known here")

    @property
    def flag(self) -> str:
        """A warning that it must not be compared with others: leaky by design, or a leak alarm; empty for an honest one."""
        if self.row["leaky"]:
            return LEAKY_FLAG
        alarms = self.row.get("alarms") or []
        return f"leak alarm: {', '.join(alarms)}" if alarms else ""

    @property
    def label(self) -> str:
        """Its name with its warning, and what a search had to do with it, for figures."""
        words = [word for word in (self.flag, self.row["searched"]) if word]
        return f"{self.name} ({'; '.join(words)})" if words else self.name

    @property
    def kind(self) -> str:
        """What it is: a file, a blend, a head on frozen features, or the backbone of a run."""
        if self.run is None:
            return "file, taken as declared"
        if self.run.kind == "ensemble":
            return "blend, cross-fitted"
        if self.run.kind == "head":
            return "head on frozen features"
        backbone = str(self.run.record["config"].get("model", {}).get("backbone", "network"))
        return f"{backbone}, {self.run.searched}" if self.run.searched else backbone

    def holds(self, predictions: Iterable[tuple[str, float, float]]) -> bool:
        """Whether (Id, target, prediction) rows that a command saved are rows of the present predictions."""
        if self.source is None:
            return False
        table = self.source.table
        known = {name: pair for name, *pair in zip(table["Id"], table["target"], table["prediction"], strict=True)}
        return all(
            name in known and abs(known[name][0] - target) < _SAME and abs(known[name][1] - prediction) < _SAME
            for name, target, prediction in predictions
        )

    def require_about(self, path: Path, predictions_hash: str, command: str) -> None:
        """Raise UserError unless `predictions_hash`, saved in `path`, is that of the present predictions."""
        if self.source is None or self.source.predictions_hash != predictions_hash:
            raise UserError(f"{path}: is about other predictions than {self.name} holds now; run: {command}")

    @property
    def words(self) -> str:
        """RMSE, interval, constant and n in a line, for alternative texts and captions."""
        s = self.row["score"]
        if s is None:
            return f"{self.name}: no fold is trained yet"
        few = ", indicative" if s["indicative"] else ""
        flag = f" ({self.flag})" if self.flag else ""
        return (f"{self.name}{flag}: RMSE {s['rmse']:.2f} [{s['low']:.2f}, {s['high']:.2f}{few}], constant "
                f"{s['constant_rmse']:.2f}, n = {s['n']:,}")  # fmt: skip


def gather(
    words: Sequence[str], *, scale: float | None = None, folds: Path | None = None, data: Path | None = None
) -> tuple[list[Entry], list[str]]:
    """The entries that `words` name, and notes. Without words: all runs below `oof/`, except cells of Table 1 and trials.

    Sorted as in `make oof`: by data set, honest before flagged entries, the best first. Raises UserError for a named entry that
    cannot be read. Without words such a run is left out, with a note.
    """
    names, notes = (list(dict.fromkeys(words)), []) if words else _all_runs()
    found: list[Entry] = []
    for name in names:
        try:
            found.append(_entry(name, scale, folds, data))
        except UserError as error:
            if words or len(names) == 1:
                raise
            notes.append(f"left out {name}: {error}")
    if not found:
        raise UserError(notes[0])
    return sorted(_with_distinct_names(found), key=_place), notes


def by_data(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The entries by data set, in the same order."""
    return {data: [one for one in entries if one.data == data] for data in dict.fromkeys(s.data for s in entries)}


def flags_of(entries: Sequence[Entry]) -> dict[str, str]:
    """The warnings of entries that have one, by their names."""
    return {one.name: one.flag for one in entries if one.flag}


def command_of(entries: Sequence[Entry], command: str = "report", word: str = "RUNS") -> str:
    """`make report RUNS="a b"`, for the entries of a section."""
    return f"make {command} {make_word(word, *(one.word for one in entries))}"


def distinct(entries: Sequence[Entry]) -> tuple[list[Entry], list[tuple[Entry, Entry]]]:
    """(entries whose predictions differ from all before them, (copy, original) for each of the others)."""
    kept: list[Entry] = []
    copies = []
    for one in entries:
        if (first := next((other for other in kept if _same_predictions(one, other)), None)) is None:
            kept.append(one)
        else:
            copies.append((one, first))
    return kept, copies


def copy_lines(copies: Sequence[tuple[Entry, Entry]]) -> list[str]:
    """A sentence for each of `distinct`'s copies."""
    return [f"{one.label} holds the same predictions as {first.label}." for one, first in copies]


def _same_predictions(one: Entry, other: Entry) -> bool:
    """Whether both have exactly the same rows, targets and predictions, which `compare` refuses."""
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
    cells = [name for name in every if name.startswith(CELLS)]
    trials = [name for name in every if re.fullmatch(r".+-trial\d+", name)]
    kept = [name for name in every if name not in cells and name not in trials]
    if not kept:
        return every, []
    left = [
        f"{len(some)} {what}" for some, what in ((cells, "cells of Table 1"), (trials, "trials of searches")) if some
    ]
    note = f"In other sections: {' and '.join(left)}; name any of them with RUNS=..."
    return kept, [note] if left else []


def _entry(word: str, scale: float | None, folds: Path | None, data: Path | None) -> Entry:
    if is_file_word(word):
        source = open_predictions(word, scale=scale, folds=folds)
        return Entry(word, details(source, data), source, None)
    run = Run.open(OOF / word)
    if run.has_folds and not run.trained_folds():
        return Entry(word, run_row(run), None, run)
    source = open_predictions(word, partly=True)
    return Entry(word, details(source), source, run)


def _with_distinct_names(found: Sequence[Entry]) -> list[Entry]:
    """The entries; files with the same name in different folders get the folder's name too, as in `open_several`."""
    names = [one.name for one in found]
    renamed = []
    for one in found:
        if one.source is not None and one.run is None and names.count(one.name) > 1:
            name = f"{one.source.path.resolve().parent.name}-{one.name}"
            one = replace(one, row=one.row | {"run": name}, source=replace(one.source, name=name))
        renamed.append(one)
    return renamed


def _place(one: Entry) -> tuple[str, bool, float]:
    return one.data, bool(one.flag), one.row["score"]["rmse"] if one.row["score"] else float("inf")
