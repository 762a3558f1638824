"""A built kernel with its data set, and the checks that the kaggle command leaves out before it uploads them.

kernels/build/{dataset,kernel}/                the inference kernel (make kernel)
kernels/build/train/NAME/{dataset,kernel}/     a training kernel (make kernel-train)
kernels/pushed/NAME.json                       what Kaggle has of it
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawpularity.errors import UserError
from pawpularity.files import file_hash, read_json, text_hash, write_json
from pawpularity.kaggle import wheel
from pawpularity.kaggle.bundle import METADATA, SUMS, check_sums, open_bundle, read_sums
from pawpularity.kaggle.kaggle_cli import COMPETITION

BUILD = Path("kernels/build")
USER = "KAGGLE_USER"
"""Stands for the user's name in a kernel that was built without one."""
KERNEL, ORDER = "kernel-metadata.json", "order.json"
ACCELERATOR = "NvidiaTeslaT4"
"""The torch of Kaggle's image no longer computes on Kaggle's default GPU, the P100."""


@dataclass(frozen=True)
class BuiltKernel:
    """A kernel that was built, and its data set."""

    name: str
    """`inference`, or `train-RUN`"""
    dataset: Path
    kernel: Path
    record_file: Path
    remedy: str
    """the command that builds it"""

    @property
    def inference(self) -> bool:
        """Whether it is the kernel that scores the contest's photos."""
        return self.name == "inference"

    @property
    def make_word(self) -> str:
        """What a make line must add to mean this kernel."""
        return "" if self.inference else f" NAME={self.name}"

    def record(self) -> dict[str, Any]:
        """What is known of it on Kaggle; {} if it was never pushed."""
        return dict(read_json(self.record_file, "push")) if self.record_file.is_file() else {}

    def keep(self, record: Mapping[str, Any]) -> None:
        """Write down what is known of it on Kaggle."""
        write_json(self.record_file, dict(record))

    @property
    def files(self) -> list[Path]:
        """The files that are uploaded to the data set, in name order."""
        return sorted(path for path in self.dataset.iterdir() if path.name != METADATA)

    def dataset_hash(self) -> str:
        """12 hex digits over names and bytes of the data set."""
        return _folder_hash(self.dataset)

    def kernel_hash(self) -> str:
        """12 hex digits over the script and its metadata."""
        return _folder_hash(self.kernel)


@dataclass(frozen=True)
class Names:
    """What a kernel is called on Kaggle."""

    dataset: str
    """USER/SLUG"""
    kernel: str
    """USER/SLUG"""

    @property
    def kernel_url(self) -> str:
        """The kernel's page."""
        return f"https://www.kaggle.com/code/{self.kernel}"

    @property
    def dataset_url(self) -> str:
        """The data set's page."""
        return f"https://www.kaggle.com/datasets/{self.dataset}"


def built_kernel(name: str, build: Path = BUILD) -> BuiltKernel:
    """The built folders of `inference` or `train-RUN`. Raises UserError where they are not built."""
    run = name.removeprefix("train-") if name.startswith("train-") else None
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or (run is None and name != "inference"):
        raise UserError(f'--name "{name[:80]}": must be inference, or train-RUN for a training kernel')
    root = build if run is None else build / "train" / run
    how = 'kernel RUNS="..."' if run is None else f"kernel-train CONFIG=... RUN={run}"
    remedy = f"make {how} KAGGLE_USER=you"
    for file in (root / "dataset" / METADATA, root / "kernel" / KERNEL):
        if not file.is_file():
            raise UserError(f"{file}: is not built yet; run: {remedy}")
    return BuiltKernel(name, root / "dataset", root / "kernel", build.parent / "pushed" / f"{name}.json", remedy)


def check_user(name: str) -> str:
    """`name` if it can be a Kaggle user's. Raises UserError."""
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9_-]{0,48}[a-z0-9])?", name):
        raise UserError(
            f'KAGGLE_USER "{name[:60]}": is no Kaggle user name; take the word in your profile\'s address, kaggle.com/you'
        )
    return name


def slug_of(title: str) -> str:
    """The name that Kaggle makes of a title: small letters and digits, dashes for all else."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def check_built(built: BuiltKernel, user: str | None) -> Names:
    """The kernel's names on Kaggle, once all is checked that the kaggle command ignores. `user`: who pushes, if known.

    Raises UserError for an unknown user, names that Kaggle would change, sources or settings that the kernel cannot do without,
    and files that were changed since they were built or that do not belong there.
    """
    dataset, kernel = (read_json(file, "kernel") for file in (built.dataset / METADATA, built.kernel / KERNEL))
    file = built.kernel / KERNEL
    again = f"run: {built.remedy}"
    dataset_id, kernel_id = str(dataset.get("id")), str(kernel.get("id"))
    owner = kernel_id.partition("/")[0]
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", owner) or dataset_id.partition("/")[0] != owner:
        raise UserError(f"{file}: KAGGLE_USER is not known yet (the id is {kernel_id[:80]}); {again}")
    if user is not None and check_user(user) != owner:
        raise UserError(f"{file}: was built for {owner}, not for {user}; {again.replace('=you', '=' + user)}")
    for value, title, least in ((dataset_id, dataset.get("title"), 6), (kernel_id, kernel.get("title"), 5)):
        slug = value.partition("/")[2]
        if not (least <= len(str(title)) <= 50 and slug == slug_of(str(title))):
            raise UserError(
                f'{file}: Kaggle makes the name {slug_of(str(title))} of the title "{str(title)[:60]}" ({least} to 50 letters), '
                f"the id says {value[:80]}; {again}"
            )
    wanted: dict[str, object] = {
        "is_private": True,
        "enable_gpu": True,
        "machine_shape": ACCELERATOR,
        "enable_internet": False,
    }
    if not built.inference:
        wanted["enable_internet"] = bool(kernel.get("enable_internet"))
    for key, setting in wanted.items():
        if kernel.get(key) != setting:
            raise UserError(f'{file}: "{key}" must be {json.dumps(setting)}, not {kernel.get(key)}; {again}')
    for key, source in (("dataset_sources", dataset_id), ("competition_sources", COMPETITION)):
        if source not in kernel.get(key, []):
            raise UserError(f"{file}: {key} lacks {source}; {again}")
    _check_files(built, str(kernel.get("code_file")))
    return Names(dataset_id, kernel_id)


def _check_files(built: BuiltKernel, script: str) -> None:
    """Raise UserError for a file that is not what was built: the kaggle command would upload it, secrets and links too."""
    again = f"run: {built.remedy}"
    if built.inference:
        open_bundle(built.dataset)
    else:
        check_sums(built.dataset, ORDER, again)
    if not (built.kernel / script).is_file():
        raise UserError(f"{built.kernel / script}: the kernel's script is missing; {again}")
    for folder, names in (
        (built.dataset, {*read_sums(built.dataset), SUMS, METADATA}),
        (built.kernel, {KERNEL, script}),
    ):
        for path in sorted(folder.iterdir()):
            if path.is_symlink() or path.is_dir() or path.name not in names:
                what = "is a link" if path.is_symlink() else "is a folder" if path.is_dir() else "was not built"
                raise UserError(f"{path}: {what} and would be uploaded; move it away, or {again}")


def kernel_source(name: str) -> Path:
    """The folder kernels/NAME/, here or beside the package. Raises UserError where there is none."""
    for root in (Path(), wheel.PACKAGE.parents[1]):
        if (root / "kernels" / name / KERNEL).is_file():
            return root / "kernels" / name
    raise UserError(f"kernels/{name}/ is not here; run from the repository's top folder")


def _folder_hash(folder: Path) -> str:
    parts = [part for path in sorted(folder.iterdir()) if path.is_file() for part in (path.name, file_hash(path))]
    return text_hash("pushed", *parts)
