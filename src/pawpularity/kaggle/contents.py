"""What a bundle holds, and opening one: everything is checked before the first photo is looked at.

bundle.json                        format, package version, name, runs, files with their sha256
weights.json                       intercept, members with weight and mean prediction: as a blend's
RUN.config.json                    the run's resolved record
RUN.foldK.head.safetensors         what training fold K changed
RUN.frozen.safetensors              frozen tensors that no other file of the bundle holds
pawpularity-VERSION-py3-none-any.whl   the modules that prediction imports
SHA256SUMS                         for `sha256sum -c SHA256SUMS`
dataset-metadata.json              for Kaggle's command, which does not upload it

The names are flat because Kaggle's command leaves out sub-folders unless told otherwise. A wheel is what Kaggle does not
unpack, and Python imports from it as it is.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pawpularity import __version__
from pawpularity.errors import UserError
from pawpularity.files import read_json
from pawpularity.runs import Run, plain_config

if TYPE_CHECKING:
    from torch import Tensor

    from pawpularity.config import Config

KIND = "pawpularity bundle"
FORMAT = 1
"""Raised when a bundle of before can no longer be read."""
BUNDLE, WEIGHTS, SUMS = "bundle.json", "weights.json", "SHA256SUMS"
METADATA = "dataset-metadata.json"
REBUILD = "build it again with make kernel, and push it"


@dataclass(frozen=True)
class BundledRun(Run):
    """A run as a bundle holds it: flat file names, and nothing that prediction does not need."""

    entry: Mapping[str, Any]
    """its part of bundle.json"""

    @property
    def name(self) -> str:
        """As below oof/."""
        return str(self.entry["name"])

    @cached_property
    def config(self) -> Config:
        """As it was resolved when it was trained; needs no library that Kaggle may lack."""
        return plain_config(self.record["config"])

    def head_file(self, fold: int) -> Path:
        """Trained tensors of one fold."""
        return self.folder / str(self.entry["folds"][str(fold)]["tail"])

    def metrics(self, fold: int) -> dict[str, Any]:
        """What is known of one fold: the hash of its tensors as they are in the bundle."""
        return dict(self.entry["folds"][str(fold)])

    def trained_folds(self) -> list[int]:
        """Folds in the bundle."""
        return sorted(int(fold) for fold in self.entry["folds"])

    def trunk(self) -> "dict[str, Tensor]":
        """Frozen tensors, from the files that hold them; runs behind the same weights share those."""
        from pawpularity.models.weights import read_tensors

        tensors: dict[str, Tensor] = {}
        for file, names in self.entry["trunk"].items():
            held = read_tensors(self.folder / file)
            tensors |= {name: held[name] for name in names}
        return tensors


@dataclass(frozen=True)
class Bundle:
    """An opened bundle."""

    folder: Path
    about: Mapping[str, Any]
    """bundle.json"""
    weights: Mapping[str, Any]
    """weights.json"""

    @property
    def name(self) -> str:
        """Of the run or blend it answers for."""
        return str(self.about["name"])

    @cached_property
    def runs(self) -> list[BundledRun]:
        """In the order of the weights."""
        runs = []
        for name, entry in self.about["runs"].items():
            record = read_json(self.folder / entry["record"], f"bundle {self.name}")
            runs.append(BundledRun(self.folder, record, {"name": name, **entry}))
        return runs


def open_bundle(folder: Path, *, check_files: bool = True) -> Bundle:
    """The bundle in `folder`. Raises UserError for one of another format or major version, and for a file that is missing,
    unknown or not the one that was built.
    """
    about = read_json(folder / BUNDLE, "bundle")
    if not isinstance(about, dict) or about.get("kind") != KIND:
        raise UserError(f"{folder / BUNDLE}: is no bundle's; {REBUILD}")
    if about.get("format") != FORMAT:
        raise UserError(
            f"{folder}: is a bundle of format {about.get('format')}, this program reads format {FORMAT}; {REBUILD}"
        )
    made = str(about.get("package"))
    if made.partition(".")[0] != __version__.partition(".")[0]:
        raise UserError(f"{folder}: was built by pawpularity {made}, this is {__version__}; {REBUILD}")
    if not isinstance(about.get("runs"), dict) or not isinstance(about.get("files"), dict) or not about["runs"]:
        raise UserError(f"{folder / BUNDLE}: was changed; {REBUILD}")
    files = about["files"]
    if not _flat(files) or not all(_files_of(entry) <= files.keys() for entry in about["runs"].values()):
        raise UserError(f"{folder / BUNDLE}: names files that are not the bundle's own; {REBUILD}")
    if check_files:
        _check_files(folder, about["files"])
    weights = read_json(folder / WEIGHTS, "bundle")
    if not _sound(weights, about["runs"]):
        raise UserError(f"{folder / WEIGHTS}: does not give the weights of the runs of {BUNDLE}; {REBUILD}")
    return Bundle(folder, about, weights)


def _sound(weights: Any, runs: Mapping[str, Any]) -> bool:
    """Whether every run has folds, a weight and a mean, and all figures are numbers."""
    try:
        members = {member["name"]: (member["weight"], member["mean_prediction"]) for member in weights["members"]}
        figures = [
            weights["intercept"],
            weights["mean_prediction"],
            *(value for pair in members.values() for value in pair),
        ]
        folds = all(entry["folds"] and Path(entry["record"]).name == entry["record"] for entry in runs.values())
        return members.keys() == runs.keys() and folds and all(math.isfinite(float(value)) for value in figures)
    except (KeyError, TypeError, ValueError):
        return False


def _files_of(entry: Any) -> set[str]:
    """The files that a run's part of bundle.json would have read; {""}, no file's name, for a part that we never wrote."""
    try:
        folds = {int(fold): str(part["tail"]) for fold, part in entry["folds"].items()}
        return {str(entry["record"]), *folds.values(), *map(str, entry["trunk"].keys())}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {""}


def _flat(files: Mapping[str, Any]) -> bool:
    """Whether all are names without a folder, so that no path leads out of the bundle, and have a hash."""
    return all(
        name not in ("", ".", "..") and not set(name) & set("/\\\0") and isinstance(entry, dict) and "sha256" in entry
        for name, entry in files.items()
    )


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    due = {name: str(entry["sha256"]) for name, entry in files.items()}
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / SUMS}: cannot be read ({error}); {REBUILD}") from None
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if listed.keys() != due.keys() | {BUNDLE} or any(listed[name] != digest for name, digest in due.items()):
        raise UserError(f"{folder / SUMS}: does not list the files of {BUNDLE}; {REBUILD}")
    for name, digest in listed.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: is missing from the bundle; {REBUILD}")
        if sha256(path) != digest:
            raise UserError(f"{path}: is not the file that was built (its sha256 differs); {REBUILD}")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
