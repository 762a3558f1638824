"""The evidence for the checklist: reads a run's files and notes every key it read."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from json import dumps
from pathlib import Path
from typing import Any

from pawpularity.config import resolve
from pawpularity.console import make_word
from pawpularity.data.folds import Folds
from pawpularity.ensemble.record import blend_command
from pawpularity.errors import UserError, listed
from pawpularity.evaluation.oof import run_folds
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.files import read_json
from pawpularity.runs import OOF, Run

STUDIES = OOF / "studies"


class NotBacked(Exception):  # an outcome, not an error
    """No file holds the answer. Has the text, the missing file and the command that makes it."""

    def __init__(self, text: str, file: Path, command: str) -> None:
        super().__init__(" ".join(text.split()))
        self.file, self.command = file, command


class NotAsked(Exception):  # an outcome, not an error
    """The question does not apply; the text says why."""


def flat(value: Any) -> str:
    """A JSON value as one line of text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {flat(item)}" for key, item in value.items())
    if isinstance(value, list):
        return flat(value[0]) if len(value) == 1 else f"[{listed(map(flat, value), most=20)}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@contextmanager
def needing(file: Path, command: str) -> Iterator[None]:
    """Around a block that reads `file`, which `command` makes: errors become NotBacked."""
    try:
        yield
    except (UserError, OSError) as error:
        text = str(error).removeprefix("checklist: ")
        raise NotBacked(text if file.as_posix() in text else f"{file}: {text}", file, command) from None


@dataclass
class Evidence:
    """A run's files. Everything that is read is noted in `read`; everything that is missing raises NotBacked."""

    run: Run
    read: list[str] = field(default_factory=list)

    def filled(self, text: str) -> str:
        """`text` with each {key} replaced by its `value`."""
        return re.sub(r"\{([\w.:]+)\}", lambda match: flat(self.value(match[1])), text)

    def value(self, key: str) -> Any:
        """The value at `key`, a dotted key of config.json, or one of:

        `fold.KEY`, the distinct values over the folds' metrics.json; `by_fold.KEY`, the value of every fold; `weights.json:KEY`,
        of a blend's file; `search.json:KEY`, of the search's.
        """
        place, _, rest = key.partition(".")
        if place == "fold":
            return sorted({dumps(value): value for value in self.metric(rest).values()}.values(), key=str)
        if place == "by_fold":
            return self.metric(rest)
        name, _, rest = key.rpartition(":")
        if name == "search.json":
            return self.json(self.searched() / name, rest, f"make tune RUN={self.searched().name}")
        if name:
            return self.json(self.run.folder / name, rest, self.command)
        # A run's record is never rewritten, so a record without the key must be moved away first.
        return self.json(self.run.folder / "config.json", key, f"mv {self.run.folder} ELSEWHERE; {self.command}")

    def note(self, file: Path, key: str) -> None:
        """Note that a key of a file was read."""
        line = f"{file.as_posix()}: {key}"
        if line not in self.read:
            self.read.append(line)

    def json(self, file: Path, key: str, command: str) -> Any:
        """The value at the dotted `key` of a JSON file, which `command` makes."""
        with needing(file, command):
            value = read_json(file, "checklist")
            for part in key.split("."):
                if not isinstance(value, Mapping) or part not in value:
                    raise UserError(f"{file}: holds no {key}")
                value = value[part]
        self.note(file, key)
        return value

    @property
    def started(self) -> list[int]:
        """Folds that have a folder. Folders are written whole, so each must hold all its files."""
        found = [fold for fold in range(self.run.k) if self.run.fold(fold).is_dir()]
        if not found:
            first = self.run.fold(0) / "metrics.json"
            raise NotBacked(f"{first.parent}: no fold is trained yet", first, self.run.remedy(0))
        return found

    def metric(self, key: str) -> dict[int, Any]:
        """By fold, the value at `key` of metrics.json."""
        return {k: self.json(self.run.fold(k) / "metrics.json", key, self.run.remedy(k)) for k in self.started}

    def folds(self) -> Folds:
        """The folds file, checked against the run's record."""
        file = Path(self.value("folds.file"))
        with needing(file, self.folds_command):
            found = run_folds(self.run)
        self.note(file, "Id,group,fold")
        return found

    @cached_property
    def source(self) -> Predictions:
        """The predictions of every trained fold (or of the blend), as written."""
        run = self.run
        self.folds()
        files = {run.oof_file: self.command}
        if run.has_folds:
            self.metric("predictions_hash")
            files = {run.predictions_file(fold): run.remedy(fold) for fold in self.started}
        file = next((file for file in files if not file.is_file()), run.oof_file)
        with needing(file, files.get(file, self.command)):
            found = open_predictions(run.name, partly=True)
        for file in files:
            self.note(file, "fold,target,prediction")
        return found

    @cached_property
    def study(self) -> Path | None:
        """The folder of the search that the run belongs to: of its name, or the one that found its settings."""
        names = (self.run.name, self.run.record["config"].get("search", {}).get("found_by") or "-")
        return next((STUDIES / name for name in names if (STUDIES / name).is_dir()), None)

    def searched(self) -> Path:
        """The folder of the search that the run belongs to. Raises NotAsked if there is none."""
        if self.study is None:
            self.value("config.name")
            raise NotAsked("nothing was searched: there is no study of this name below oof/studies")
        return self.study

    @property
    def data_word(self) -> str:
        """The word `DATA=...`: the data folder as it was named, or the data set's name."""
        data = self.run.record["data"]
        return make_word("DATA", str(data.get("folder") or data["name"]))

    @property
    def folds_command(self) -> str:
        """The command that makes the folds file."""
        if self.run.folder in Path(self.run.record["folds"]["file"]).parents:
            return self.command
        how = self.run.record["config"].get("folds", {"k": self.run.k})
        return f"make folds {self.data_word} {make_word('ARGS', *(f'folds.{key}={how[key]}' for key in how))}"

    @cached_property
    def command(self) -> str:
        """The command that makes the run, with the settings that differ from the config's files."""
        run, config = self.run, self.run.record["config"]
        if run.kind == "ensemble":
            return blend_command(run)[0]
        if run.kind == "head":
            return run.remedy()
        if self.study is not None and run.name != self.study.name:
            return f"make tune RUN={self.study.name} {self.data_word}"
        if run.name.startswith("table1-"):
            return f"make table1 {self.data_word}"
        name, settings = str(config.get("name", "default")), _settings(config)
        try:
            usual = _settings(resolve(name).to_dict())
        except UserError:
            return f"make train RUN={run.name} {self.data_word} with the settings in {run.folder}/config.json"
        words = [f"{key}={value}" for key, value in settings.items() if usual.get(key) != value]
        line = f"make train RUN={run.name} {self.data_word} CONFIG={name}"
        return f"{line} {make_word('ARGS', *words)}" if words else line


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Every setting except the search space, by key, as on the command line."""
    return {f"{section}.{key}": str(value) for section, part in config.items() if isinstance(part, Mapping)
            for key, value in part.items() if key != "space"}  # fmt: skip
