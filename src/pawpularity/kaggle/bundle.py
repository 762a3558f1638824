"""A bundle: the files that the inference kernel reads. Opening it checks the SHA-256 of every file.

bundle.json                            the runs and their weights, what they were trained on, and `places`
RUN.config.json, RUN.foldK.*, ...      the files of oof/RUN/ that prediction needs
pawpularity-VERSION-py3-none-any.whl   the package
SHA256SUMS                             for `sha256sum -c SHA256SUMS`

All files lie in one folder because Kaggle's client skips subfolders. `places` maps each file's place below oof/ to its name here;
runs with the same frozen backbone share its file.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawpularity.errors import UserError
from pawpularity.files import read_json, write_text

FORMAT = 3
"""Version of the bundle's layout; increase it here and in kernels/inference/inference.py when old bundles become unreadable."""
BUNDLE, SUMS = "bundle.json", "SHA256SUMS"
REBUILD = "build it again with make kernel, and push it"


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

    @property
    def trained_on(self) -> str:
        """What the runs were trained on, in words."""
        data = self.about["trained_on"]
        if data["contest"]:
            return f"trained on the contest's {data['photos']} photos"
        return f"trained on {data['name']}: {data['photos']} photos, not the contest's"

    def lay_out(self, oof: Path) -> None:
        """Link the runs' files below `oof`, where they were before they were bundled."""
        for place, file in self.about["places"].items():
            (oof / place).parent.mkdir(parents=True, exist_ok=True)
            (oof / place).symlink_to((self.folder / file).resolve())


def open_bundle(folder: Path, *, check_files: bool = True) -> Bundle:
    """The bundle in `folder`. Raises UserError for another format, and for a file that is missing or was changed."""
    about = read_json(folder / BUNDLE, "bundle")
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise UserError(f"{folder / BUNDLE}: is not a bundle of format {FORMAT}; {REBUILD}")
    if check_files:
        check_sums(folder, BUNDLE, REBUILD)
    return Bundle(folder, about)


def write_sums(folder: Path) -> None:
    """List every file of `folder` in SHA256SUMS, as `sha256sum` would."""
    write_text(folder / SUMS, "".join(f"{_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir())))


def check_sums(folder: Path, needed: str, remedy: str) -> set[str]:
    """The files listed in SHA256SUMS.

    Raises UserError for the first that is missing or was changed, and where `needed` is not listed.
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
        if _sha256(path) != sums.get(name):
            raise UserError(f"{path}: is not the file that was built (its SHA-256 differs); {remedy}")
    return set(sums)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
