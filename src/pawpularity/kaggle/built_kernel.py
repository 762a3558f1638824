"""A built kernel with its files, and the checks before it is uploaded.

kernels/build/{dataset,kernel}/                the inference kernel (make kernel)
kernels/build/train/NAME/{dataset,kernel}/     a training kernel (make kernel-train)
kernels/pushed/NAME.json                       what Kaggle confirmed about it

The files travel as a private data set, or as a private Kaggle Model (`kernel.carrier`).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pawpularity.console import make_word
from pawpularity.errors import UserError
from pawpularity.files import read_json, text_hash, write_json
from pawpularity.kaggle import wheel
from pawpularity.kaggle.api import COMPETITION
from pawpularity.kaggle.bundle import BUNDLE, METADATA, SUMS, check_sums

BUILD = Path("kernels/build")
USER = "KAGGLE_USER"
"""Placeholder for the user name in a kernel that was built without one."""
KERNEL, ORDER = "kernel-metadata.json", "order.json"
VARIATION = "pyTorch/default"
"""Framework and variation of a Kaggle Model."""
SETTINGS = {"is_private": True, "enable_gpu": True, "machine_shape": "NvidiaTeslaT4"}
"""The torch of Kaggle's image no longer computes on Kaggle's default GPU, the P100."""


@dataclass(frozen=True)
class BuiltKernel:
    """A built kernel and its files."""

    name: str
    """`inference`, or `train-RUN`"""
    dataset: Path
    """folder of the files that the kernel reads"""
    kernel: Path
    """folder of its script"""
    record_file: Path
    remedy: str
    """the command that builds it"""

    @property
    def inference(self) -> bool:
        """Whether it is the kernel that scores the contest's photos."""
        return self.name == "inference"

    @property
    def make_word(self) -> str:
        """The words that a make line needs for this kernel."""
        build = self.dataset.parents[0 if self.inference else 2]
        folder = "" if build == BUILD else f" {make_word('BUILD', str(build))}"
        return folder if self.inference else f" NAME={self.name}{folder}"

    @cached_property
    def about(self) -> dict[str, Any]:
        """kernel-metadata.json."""
        return dict(read_json(self.kernel / KERNEL, "kernel"))

    @cached_property
    def files_about(self) -> dict[str, Any]:
        """dataset-metadata.json: id (USER/SLUG) and title of the data set or the model."""
        return dict(read_json(self.dataset / METADATA, "kernel"))

    @property
    def id(self) -> str:
        """USER/SLUG of the kernel."""
        return str(self.about["id"])

    @property
    def url(self) -> str:
        """The kernel's page."""
        return f"https://www.kaggle.com/code/{self.id}"

    @property
    def carrier(self) -> str:
        """`dataset` or `model`."""
        return "model" if self.about["model_sources"] else "dataset"

    @property
    def files(self) -> list[Path]:
        """The files that are uploaded, in name order."""
        return sorted(path for path in self.dataset.iterdir() if path.name != METADATA)

    def record(self) -> dict[str, Any]:
        """What Kaggle confirmed about it; {} if it was never pushed."""
        return dict(read_json(self.record_file, "push")) if self.record_file.is_file() else {}

    def keep(self, record: Mapping[str, Any]) -> None:
        """Save what Kaggle confirmed."""
        write_json(self.record_file, dict(record))

    def hashes(self) -> dict[str, str]:
        """12 hex digits each over the files, as SHA256SUMS lists them, and over the script with its metadata."""
        script = (path.read_text(encoding="utf-8") for path in sorted(self.kernel.iterdir()) if path.is_file())
        sums = (self.dataset / SUMS).read_text(encoding="utf-8")
        return {"files_hash": text_hash("files", sums), "kernel_hash": text_hash("kernel", *script)}


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
    """`name`, if it can be a Kaggle user name. Raises UserError."""
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9_-]{0,48}[a-z0-9])?", name):
        raise UserError(
            f'KAGGLE_USER "{name[:60]}": is not a Kaggle user name; take the word after kaggle.com/ in the address of your profile'
        )
    return name


def slug_of(title: str) -> str:
    """The name that Kaggle makes of a title: small letters and digits, dashes for all else."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def sources(files_id: str, carrier: str) -> dict[str, list[str]]:
    """The part of kernel-metadata.json that names the files; the push adds a model's version."""
    return {
        "dataset_sources": [files_id] if carrier == "dataset" else [],
        "model_sources": [f"{files_id}/{VARIATION}"] if carrier == "model" else [],
    }


def check_built(built: BuiltKernel, user: str | None) -> None:
    """Raise UserError for a kernel that must not be pushed. `user`: who pushes, if known.

    The reasons: no user name, missing settings or sources, and files that were changed since the build or do not belong to it
    (the client would upload secrets and links too).
    """
    file, again, about = built.kernel / KERNEL, f"run: {built.remedy}", built.about
    owner = built.id.partition("/")[0]
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*/[a-z0-9-]+", built.id):
        raise UserError(f"{file}: KAGGLE_USER is not known yet (the id is {built.id[:80]}); {again}")
    if user is not None and check_user(user) != owner:
        raise UserError(f"{file}: was built for {owner}, not for {user}; {again.replace('=you', '=' + user)}")
    wanted: dict[str, object] = SETTINGS | sources(str(built.files_about["id"]), built.carrier)
    wanted |= {"competition_sources": [COMPETITION]} | ({"enable_internet": False} if built.inference else {})
    for key, setting in wanted.items():
        if about.get(key) != setting:
            raise UserError(f'{file}: "{key}" must be {json.dumps(setting)}, not {about.get(key)}; {again}')
    listed = check_sums(built.dataset, BUNDLE if built.inference else ORDER, again)
    script = str(about["code_file"])
    if not (built.kernel / script).is_file():
        raise UserError(f"{built.kernel / script}: the kernel's script is missing; {again}")
    expected = {built.dataset: {*listed, SUMS, METADATA}, built.kernel: {KERNEL, script}}
    for folder, names in expected.items():
        for path in sorted(folder.iterdir()):
            if path.is_symlink() or path.is_dir() or path.name not in names:
                raise UserError(f"{path}: was not built and would be uploaded; move it away, or {again}")


def kernel_source(name: str) -> Path:
    """The folder kernels/NAME/, here or in the package's repository. Raises UserError if there is none."""
    for root in (Path(), wheel.PACKAGE.parents[1]):
        if (root / "kernels" / name / KERNEL).is_file():
            return root / "kernels" / name
    raise UserError(f"kernels/{name}/: is missing; run from the repository's top folder")
