"""Where an answer was read from: files of ours, opened once, and what was taken out of each."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pawpularity.config import resolve
from pawpularity.console import make_word
from pawpularity.data.folds import Folds
from pawpularity.data.tables import ID, TARGET, read_cells
from pawpularity.ensemble.record import blend_command
from pawpularity.errors import UserError
from pawpularity.evaluation.oof import read_fold, read_run, run_folds
from pawpularity.files import read_json
from pawpularity.runs import OOF, Run

STUDIES = OOF / "studies"
ANSWERED, NONE, MISSING = "answered", "does not apply", "not backed"


class NotBacked(Exception):  # an outcome, not a fault
    """No file holds the answer: the file looked for, what of it, and the command that makes it."""

    def __init__(self, file: Path, what: str, command: str) -> None:
        super().__init__(f"{file}: {what}")
        self.file, self.what, self.command = file, what, command


@dataclass(frozen=True)
class Answer:
    """One line of the checklist. `read` names every file and key behind it; `make` is what makes a missing file."""

    section: str
    question: str
    status: str
    text: str
    read: list[str] = field(default_factory=list)
    make: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Backing:
    """A run's files. Whatever is taken is noted in `read`, in order; whatever is not there raises NotBacked."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.read: list[str] = []

    @cached_property
    def command(self) -> str:
        """What makes the run again, with what differs from the configs' files."""
        run, study = self.run, self.study()
        if run.kind == "ensemble":
            return blend_command(run)[0]
        if run.kind == "head":
            return run.remedy()
        if study is not None and run.name != study.name:
            return f"make tune RUN={study.name} {self.data_word}"
        if run.name.startswith("table1-"):
            return f"make table1 {self.data_word}"
        return f"make train RUN={run.name} {self.data_word} {self._settings()}"

    def _settings(self) -> str:
        name = str(self.run.record["config"].get("name", "default"))
        try:
            usual = _leaves(resolve(name).to_dict())
        except UserError:
            return f"with the settings that {self.run.folder}/config.json keeps (there is no configs/{name}.yaml)"
        own = _leaves(self.run.record["config"])
        # A key that this version does not know says nothing; a network's own arguments are known to no schema.
        usual = {key: value for key, value in own.items() if not key.startswith("model.args.")} | usual
        words = [f"{key}={value}" for key, value in own.items() if key != "name" and usual.get(key) != value]
        return f"CONFIG={name}" + (f" {make_word('ARGS', *words)}" if words else "")

    def note(self, file: Path, key: str) -> None:
        """Name a file and key as read."""
        line = f"{file.as_posix()}: {key}"
        if line not in self.read:
            self.read.append(line)

    def of(self, file: Path, key: str, value: Any, command: str) -> Any:
        """`value`'s part at the dotted `key`."""
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise NotBacked(file, f"holds no {key}", command)
            value = value[part]
        self.note(file, key)
        return value

    def json(self, file: Path, key: str, command: str) -> Any:
        """What stands at the dotted `key` of a JSON file."""
        try:
            value = read_json(file, "checklist")
        except UserError as error:
            raise NotBacked(file, str(error).removeprefix("checklist: "), command) from None
        return self.of(file, key, value, command)

    def record(self, key: str) -> Any:
        """What config.json holds at `key`."""
        # A run that stands is never given another record, so one that lacks a key must go before it is made again.
        again = f"mv {self.run.folder} ELSEWHERE; {self.command}"
        return self.of(self.run.folder / "config.json", key, self.run.record, again)

    @cached_property
    def begun(self) -> list[int]:
        """Folds that have a folder: it is written whole, so each must hold all its files."""
        return [fold for fold in range(self.run.k) if self.run.fold(fold).is_dir()]

    def folds_there(self) -> list[int]:
        """`begun`, of which there must be one at least."""
        if not self.begun:
            raise NotBacked(self.run.fold(0) / "metrics.json", "no fold is there yet", self.run.remedy(0))
        return self.begun

    def metric(self, key: str) -> dict[int, Any]:
        """By fold, what metrics.json holds at `key`."""
        files = {fold: self.run.fold(fold) / "metrics.json" for fold in self.folds_there()}
        return {fold: self.json(file, key, self.run.remedy(fold)) for fold, file in files.items()}

    def folds(self) -> Folds:
        """The folds file, checked against the run's record."""
        file = Path(self.record("folds.file"))
        try:
            found = run_folds(self.run)
        except UserError as error:
            command = self.command if self.run.folder in file.parents else self.folds_command
            raise NotBacked(file, str(error), command) from None
        self.note(file, "Id,group,fold")
        return found

    @property
    def folds_command(self) -> str:
        """What makes the folds file again."""
        how = self.run.record["config"].get("folds", {"k": self.run.k})
        return f"make folds {self.data_word} {make_word('ARGS', *(f'folds.{key}={how[key]}' for key in how))}"

    @property
    def data_folder(self) -> str:
        """The data folder as it was named, or the data set's name."""
        return str(self.run.record["data"].get("folder") or self.run.record["data"]["name"])

    @property
    def data_word(self) -> str:
        """`DATA=` for a command."""
        return make_word("DATA", self.data_folder)

    def predictions(self) -> pd.DataFrame:
        """Id, fold, target, prediction of every fold that is there, as training (or the blend) wrote them."""
        run = self.run
        if not run.has_folds:
            try:
                found = read_run(run)
            except UserError as error:
                raise NotBacked(run.oof_file, str(error), self.command) from None
            self.note(run.oof_file, "fold,target,prediction")
            assert found is not None
            return found
        folds, tables = self.folds(), []
        for fold in self.folds_there():
            file = run.predictions_file(fold)
            try:
                tables.append(read_fold(run, fold, folds))
            except UserError as error:
                gone = file if not file.is_file() else run.fold(fold) / "metrics.json"
                raise NotBacked(gone, str(error), run.remedy(fold)) from None
            self.note(file, "fold,target,prediction")
        return pd.concat(tables).sort_values("Id", ignore_index=True)

    def scores(self) -> tuple[pd.Series, str]:
        """The true scores and where they are from: train.csv, or where its place is not kept, the predictions' targets."""
        folder = self.run.record["data"].get("folder")
        if folder is None:
            return self.predictions()["target"], "targets of the predictions: the record keeps no place of the data"
        file = Path(folder) if Path(folder).suffix == ".csv" else Path(folder) / "train.csv"
        try:
            cells = read_cells(file, (ID, TARGET))
            found = pd.Series(cells.numbers(TARGET, "a score"), index=cells.ids())
        except (UserError, OSError) as error:
            raise NotBacked(file, str(error), "make sample, or make data") from None
        told = self.predictions().set_index("Id")["target"]
        if len(other := told.index[~np.isclose(told, found.reindex(told.index), atol=1e-6)]):
            raise NotBacked(file, f"holds another score, or none, of {len(other)} rows that the run was scored on (such as "
                            f"{other[0]}): it changed since", self.command)  # fmt: skip
        self.note(file, TARGET)
        return found, "train.csv"

    def study(self) -> Path | None:
        """The folder of the search the run came out of: its own name's, its config's, or that of NAME-trialN."""
        trial = re.fullmatch(r"(.+)-trial\d+", self.run.name)
        names = [self.run.name, *([trial.group(1)] if trial else []), str(self.run.record["config"].get("name", ""))]
        return next((STUDIES / name for name in names if name and (STUDIES / name).is_dir()), None)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Every setting by its dotted key, as a word of the command line."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and key != "space":
            found |= _leaves(value, f"{prefix}{key}.")
        elif key != "space":
            found[f"{prefix}{key}"] = str(value).replace(" ", "") if isinstance(value, list) else str(value)
    return found
