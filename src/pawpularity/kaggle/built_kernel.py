"""A built kernel with its files: what both kinds have in common, and the checks before it is uploaded.

kernels/build/{dataset,kernel}/                the inference kernel (make kernel)
kernels/build/train/NAME/{dataset,kernel}/     a training kernel (make kernel-train)
kernels/pushed/NAME.json                       what Kaggle confirmed about it

The files travel as a private data set, or as a private Kaggle Model (`kernel.carrier`).
"""

import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pawpularity
from pawpularity import __version__
from pawpularity.errors import UserError
from pawpularity.files import atomic_file, read_json, text_hash, write_json
from pawpularity.kaggle.bundle import BUNDLE, SUMS, check_sums

BUILD = Path("kernels/build")
USER = "KAGGLE_USER"
"""Placeholder for the user name in a kernel that was built without one."""
KERNEL, ORDER = "kernel-metadata.json", "order.json"
VARIATION = "pyTorch/default"
"""Framework and variation of a Kaggle Model."""
PACKAGE = Path(pawpularity.__file__).resolve().parent
WHEEL = f"pawpularity-{__version__}-py3-none-any.whl"
"""Name of the package as a wheel: a zip file from which Python imports, and which Kaggle, unlike a .zip, does not unpack."""


@dataclass(frozen=True)
class BuiltKernel:
    """A built kernel and its files."""

    name: str
    """`inference`, or `train-RUN`"""
    root: Path

    @property
    def dataset(self) -> Path:
        """The folder of the files that the kernel reads."""
        return self.root / "dataset"

    @property
    def kernel(self) -> Path:
        """The folder of its script."""
        return self.root / "kernel"

    @property
    def inference(self) -> bool:
        """Whether it is the kernel that scores the contest's photos."""
        return self.name == "inference"

    @property
    def remedy(self) -> str:
        """The command that builds it."""
        how = 'kernel RUNS="..."' if self.inference else f"kernel-train CONFIG=... RUN={self.root.name}"
        return f"make {how} KAGGLE_USER=you"

    @property
    def make_word(self) -> str:
        """The word that a make line needs for this kernel."""
        return "" if self.inference else f" NAME={self.name}"

    @cached_property
    def about(self) -> dict[str, Any]:
        """kernel-metadata.json."""
        return dict(read_json(self.kernel / KERNEL, "kernel"))

    @property
    def id(self) -> str:
        """USER/SLUG of the kernel."""
        return str(self.about["id"])

    @property
    def files_id(self) -> str:
        """USER/SLUG of the data set or the model."""
        (source,) = self.about["dataset_sources"] or self.about["model_sources"]
        return str(source).removesuffix(f"/{VARIATION}")

    @property
    def url(self) -> str:
        """The kernel's page."""
        return f"https://www.kaggle.com/code/{self.id}"

    @property
    def files(self) -> list[Path]:
        """The files that are uploaded, in name order."""
        return sorted(self.dataset.iterdir())

    def record(self) -> dict[str, Any]:
        """What Kaggle confirmed about it; {} if it was never pushed."""
        path = Path("kernels/pushed") / f"{self.name}.json"
        return dict(read_json(path, "push")) if path.is_file() else {}

    def keep(self, record: Mapping[str, Any]) -> None:
        """Save what Kaggle confirmed."""
        write_json(Path("kernels/pushed") / f"{self.name}.json", dict(record))

    def hashes(self) -> dict[str, str]:
        """12 hex digits each over the files, as SHA256SUMS lists them, and over the script with its metadata."""
        script = (path.read_text(encoding="utf-8") for path in sorted(self.kernel.iterdir()) if path.is_file())
        sums = (self.dataset / SUMS).read_text(encoding="utf-8")
        return {"files_hash": text_hash("files", sums), "kernel_hash": text_hash("kernel", *script)}


def built_kernel(name: str, user: str | None = None) -> BuiltKernel:
    """The built `inference` or `train-RUN`.

    Raises UserError where it is not built, or was built for another user than `user`.
    """
    if name != "inference" and not re.fullmatch(r"train-[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f'--name "{name[:80]}": must be inference, or train-RUN for a training kernel')
    built = BuiltKernel(name, BUILD if name == "inference" else BUILD / "train" / name.removeprefix("train-"))
    if not (built.kernel / KERNEL).is_file():
        raise UserError(f"{built.kernel / KERNEL}: is not built yet; run: {built.remedy}")
    owner = built.id.partition("/")[0]
    if user is not None and check_user(user) != owner:
        raise UserError(f"{built.kernel}: was built for {owner}, not for {user}; run: {built.remedy}")
    return built


def check_built(built: BuiltKernel) -> None:
    """Raise UserError for a kernel that must not be pushed.

    The reasons: no user name, and files that were changed since the build or do not belong to it (the client uploads whatever
    lies in the folder).
    """
    if built.id.startswith(f"{USER}/"):
        raise UserError(f"{built.kernel / KERNEL}: {USER} is not known yet; run: {built.remedy}")
    listed = check_sums(built.dataset, BUNDLE if built.inference else ORDER, f"run: {built.remedy}")
    if odd := sorted({path.name for path in built.dataset.iterdir()} - {*listed, SUMS}):
        raise UserError(f"{built.dataset / odd[0]}: was not built and would be uploaded; move it away")


def check_user(name: str) -> str:
    """`name`, if it can be a Kaggle user name. Raises UserError."""
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9_-]{0,48}[a-z0-9])?", name):
        raise UserError(
            f'{USER} "{name[:60]}": is not a Kaggle user name; take the word after kaggle.com/ in the address of your profile'
        )
    return name


def write_kernel(into: Path, name: str, about: Mapping[str, Any], files_id: str, carrier: str) -> None:
    """Write the script of kernels/NAME/ and its metadata with `about`. The files are a data set or a model called `files_id`.

    Raises UserError if kernels/NAME/ is neither here nor in the package's repository.
    """
    sources = [root / "kernels" / name for root in (Path(), PACKAGE.parents[1])]
    source = next((folder for folder in sources if folder.is_dir()), None)
    if source is None:
        raise UserError(f"kernels/{name}/: is missing; run from the repository's top folder")
    metadata = read_json(source / KERNEL, name) | about
    metadata["dataset_sources"] = [files_id] if carrier == "dataset" else []
    metadata["model_sources"] = [f"{files_id}/{VARIATION}"] if carrier == "model" else []  # the push adds the version
    write_json(into / KERNEL, metadata)
    shutil.copyfile(source / metadata["code_file"], into / metadata["code_file"])


def write_wheel(path: Path, *, pretrained: bool = False) -> None:
    """Write the package's modules, and with `pretrained` its tensors, into a wheel. The same sources give the same bytes."""
    files = sorted(
        file for file in PACKAGE.rglob("*") if file.suffix == ".py" or (pretrained and file.parent.name == "pretrained")
    )
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in filter(Path.is_file, files):
            entry = zipfile.ZipInfo(file.relative_to(PACKAGE.parent).as_posix())  # dated 1980
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
