"""A bundle: the files that the inference kernel reads. Opening it checks the SHA-256 of every file.

bundle.json                            the runs with their records and weights, and what they were trained on
RUN.foldK.head.safetensors             the trained head of fold K
RUN.frozen.safetensors                 frozen tensors that are not in another file of the bundle
pawpularity-VERSION-py3-none-any.whl   the package
SHA256SUMS                             for `sha256sum -c SHA256SUMS`
dataset-metadata.json                  name and title on Kaggle; not uploaded

All files lie in one folder because Kaggle's client skips subfolders.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pawpularity import __version__
from pawpularity.errors import UserError
from pawpularity.files import read_json, write_text
from pawpularity.runs import Run, plain_config

if TYPE_CHECKING:
    from torch import Tensor

    from pawpularity.config import Config

FORMAT = 2
"""Version of the bundle's layout; increase it here and in kernels/inference/inference.py when old bundles become unreadable."""
BUNDLE, SUMS, METADATA = "bundle.json", "SHA256SUMS", "dataset-metadata.json"
REBUILD = "build it again with make kernel, and push it"


@dataclass(frozen=True)
class BundledRun(Run):
    """A run in a bundle, with only what prediction needs."""

    entry: Mapping[str, Any]
    """its part of bundle.json"""

    @property
    def name(self) -> str:
        """The run's folder below oof/."""
        return str(self.entry["name"])

    @cached_property
    def config(self) -> "Config":
        """The settings it was trained with."""
        return plain_config(self.record["config"])

    @property
    def weight(self) -> float:
        """Its weight in the blend."""
        return float(self.entry["weight"])

    def head_file(self, fold: int) -> Path:
        """The trained head of one fold."""
        return self.folder / str(self.entry["folds"][str(fold)]["head"])

    def metrics(self, fold: int) -> dict[str, Any]:
        """The fold's part of bundle.json; `head_hash` is that of its tensors in the bundle."""
        return dict(self.entry["folds"][str(fold)])

    def trained_folds(self) -> list[int]:
        """Folds in the bundle."""
        return sorted(int(fold) for fold in self.entry["folds"])

    def frozen(self) -> "dict[str, Tensor]":
        """The frozen tensors; runs with the same frozen weights share their files."""
        from pawpularity.models.weights import read_tensors

        tensors: dict[str, Tensor] = {}
        for file, names in self.entry["frozen"].items():
            held = read_tensors(self.folder / file)
            tensors |= {name: held[name] for name in names}
        return tensors


@dataclass(frozen=True)
class Bundle:
    """An opened bundle."""

    folder: Path
    about: Mapping[str, Any]
    """bundle.json"""

    @property
    def name(self) -> str:
        """The name of its run or blend."""
        return str(self.about["name"])

    @property
    def mean(self) -> float:
        """The mean out-of-fold prediction: the score of a photo that cannot be scored."""
        return float(self.about["mean_prediction"])

    @cached_property
    def runs(self) -> list[BundledRun]:
        """Its runs, in the order of the blend."""
        entries = self.about["runs"].items()
        return [BundledRun(self.folder, entry["record"], {"name": name, **entry}) for name, entry in entries]

    @property
    def trained_on_contest(self) -> bool:
        """Whether the runs were trained on exactly the contest's photos."""
        return bool(self.about["trained_on"]["contest"])

    @property
    def trained_on(self) -> str:
        """What the runs were trained on, in words."""
        data = self.about["trained_on"]
        if data["contest"]:
            return f"trained on the contest's {data['photos']} photos"
        kind = "drawn photos" if data["drawn"] else "photos"
        return f"trained on {data['name']}: {data['photos']} {kind}, not the contest's"


def open_bundle(folder: Path, *, check_files: bool = True) -> Bundle:
    """The bundle in `folder`.

    Raises UserError for another format or major version, and for a file that is missing or is not the one that was built.
    """
    about = read_json(folder / BUNDLE, "bundle")
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{folder / BUNDLE}: is not a bundle of format {FORMAT}; {REBUILD}")
    made = str(about.get("package"))
    if made.partition(".")[0] != __version__.partition(".")[0]:
        raise UserError(f"{folder}: was built by pawpularity {made}, this is {__version__}; {REBUILD}")
    if check_files:
        check_sums(folder, BUNDLE, REBUILD)
    return Bundle(folder, about)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path) -> None:
    """List every file of `folder` in SHA256SUMS, as `sha256sum` would."""
    write_text(folder / SUMS, "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())))


def check_sums(folder: Path, needed: str, remedy: str) -> set[str]:
    """The files listed in SHA256SUMS.

    Raises UserError for the first that is missing or is not the one that was built, and where `needed` is not listed.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / SUMS}: cannot be read ({error}); {remedy}") from None
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in [needed, *sums]:
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: is missing; {remedy}")
        if sha256(path) != sums.get(name):
            raise UserError(f"{path}: is not the file that was built (its SHA-256 differs); {remedy}")
    return set(sums)
