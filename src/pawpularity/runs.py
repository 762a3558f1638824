"""A run: the folder `oof/RUN/` with everything one training leaves behind, and the checks before it is used again.

oof/RUN/config.json               resolved config, data, folds, weights, git commit, versions, machine
oof/RUN/frozen.safetensors        the frozen backbone, only if the run alone can restore it (random weights, a file)
oof/RUN/foldK/predictions.csv     Id,fold,target,prediction of the photos that fold K's network never saw
oof/RUN/foldK/metrics.json        rmse, constant_rmse, n, epochs, seconds, seed, device, dtype and why, settings
oof/RUN/foldK/history.csv         epoch,train_rmse,inner_rmse,lr,seconds; grows with every epoch
oof/RUN/foldK/head.safetensors    the trained tensors
oof/RUN/oof.csv                   all folds, once all are trained

A run of a head on frozen features has head.json beside head.safetensors and no history. A blend has config.json, weights.json,
oof.csv (cross-fitted), and folds.csv where its members share no folds file.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from filelock import FileLock, Timeout

from pawpularity.console import make_line
from pawpularity.data import CONTEST
from pawpularity.errors import UserError, listed
from pawpularity.files import read_json, text_hash, write_json
from pawpularity.sample import SAMPLE

if TYPE_CHECKING:
    from pawpularity.config import Config

OOF = Path("oof")
RESERVED = ("folds", "hypotheses", "errors", "leakage", "leakcheck", "table1", "studies", "augment")
"""Folders below oof/ that are not runs."""
FREE = (
    "name",
    "cache.",
    "train.workers",
    "train.checkpoint_minutes",
    "train.log",
    "hypotheses.",
    "search.",
    "explain.",
    "kernel.",
)
"""Settings (or their prefixes) that do not change a run's figures, so they may differ between its folds."""
KEPT_HEADS = ("ridge", "forward", "kernel-ridge", "svr")
"""Heads on frozen features that are saved, so that such a run predicts like a trained one."""
KINDS = {"run": "a trained run", "head": "a head on frozen features", "ensemble": "a blend of other runs"}


def check_name(name: str) -> str:
    """`name` if it can be a folder below oof/, else UserError."""
    # A word that ends in .csv means a file, so such a run could never be named again.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or name in RESERVED or name.lower().endswith(".csv"):
        raise UserError(f'--run "{name[:100]}": must be up to 100 letters, digits, ".", "_", "-", not end in .csv, and be none of '
                        f"{', '.join(RESERVED)}; name it with RUN=...")  # fmt: skip
    return name


def findings_name(path: Path) -> str:
    """The name of the results folder for a file or data folder of the user's. No two paths share one.

    It is the file's own name if it lies in the current folder. Otherwise its folder's name stands before it, and 6 hex digits of
    its path behind it. A file's ends in `.csv`, so that it is not taken for a run.
    """
    place = path.resolve()
    usual = (CONTEST, SAMPLE)
    if place in [folder.resolve() for folder in usual]:
        return place.name
    end, taken = ("" if place.is_dir() else ".csv"), [folder.name for folder in usual]
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", place.name) and place.name not in taken
    if plain and place.name.endswith(end) and place.parent == Path.cwd():
        return place.name
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{place.parent.name}-{place.name.removesuffix(end)}").strip("-.")
    # The path below the current folder, so that a moved checkout keeps its names.
    known_as = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    return f"{words[:80]}-{text_hash(ascii(known_as))[:6]}{end}"  # ascii: a name may hold bytes that are no UTF-8


@dataclass(frozen=True)
class Run:
    """A run's folder and the record kept in its config.json."""

    folder: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def kind(self) -> str:
        """A key of `KINDS`."""
        return str(self.record.get("kind", "run"))

    @property
    def has_folds(self) -> bool:
        """Whether every fold has a folder of its own (all kinds but blends)."""
        return self.kind != "ensemble"

    @property
    def has_networks(self) -> bool:
        """Whether it can predict by itself: all but blends and heads that only evaluate."""
        return self.kind == "run" or (self.kind == "head" and self.record["head"]["method"] in KEPT_HEADS)

    @property
    def leaky(self) -> bool:
        """Whether it was trained on copies of the photos it is scored on, as in the paper (`train.split=leaky`)."""
        return bool(self.record["config"].get("train", {}).get("split") == "leaky")

    @property
    def searched(self) -> str:
        """What a search had to do with its settings, in words; empty where they were chosen by hand.

        The search trained and judged its trials on rows of its data, so the run's figure is a little too good there.
        """
        if self.record.get("searched"):
            return "blend of runs of a search"
        if not self.record["config"].get("search", {}).get("found_by"):
            return ""
        return "trial of a search" if re.fullmatch(r".+-trial\d+", self.name) else "tuned by a search"

    @property
    def k(self) -> int:
        """Folds of the split."""
        return int(self.record["folds"]["k"])

    @cached_property
    def config(self) -> "Config":
        """The settings it was trained with, as plain JSON (Kaggle's image lacks pydantic); UserError without networks."""
        self.require_networks()
        return plain_config(self.record["config"])

    def require_networks(self) -> None:
        """Raise UserError for a kind of run that has no networks to predict with."""
        if not self.has_networks:
            what = (
                KINDS[self.kind]
                if self.kind == "ensemble"
                else f"a {self.record['head']['method']} head, which only evaluates,"
            )
            raise UserError(f"{self.folder}: is {what} and keeps no network; name a run made by: make train")

    def remedy(self, fold: int | None = None) -> str:
        """The command that makes the run's folds (or `fold`) again."""
        return (
            "make heads, with the same options as before" if self.kind == "head" else self.train_line(self.name, fold)
        )

    def train_line(self, name: str, fold: int | None = None) -> str:
        """The command that trains `fold` (default: all) of a run `name` with this one's config and data."""
        config, data = self.record["config"].get("name"), self.record["data"].get("folder")
        return make_line("make train", FOLD=None if fold is None else str(fold), RUN=name, CONFIG=config, DATA=data)

    @property
    def frozen_file(self) -> Path:
        """The frozen backbone; present only for random weights or a weights file."""
        return self.folder / "frozen.safetensors"

    @property
    def oof_file(self) -> Path:
        """All folds' predictions."""
        return self.folder / "oof.csv"

    def fold(self, fold: int) -> Path:
        """The folder of one fold."""
        return self.folder / f"fold{fold}"

    def predictions_file(self, fold: int) -> Path:
        """Out-of-fold predictions of one fold."""
        return self.fold(fold) / "predictions.csv"

    def head_file(self, fold: int) -> Path:
        """The trained tensors of one fold."""
        return self.fold(fold) / "head.safetensors"

    def lock(self, fold: int) -> FileLock:
        """Held by the process that trains or writes one fold."""
        return FileLock(self.folder / f".fold{fold}.lock", timeout=0)

    def checkpoint(self, fold: int) -> Path:
        """Where a fold that was stopped half way is resumed from."""
        return self.folder / f".fold{fold}.checkpoint.safetensors"

    @property
    def settings(self) -> dict[str, Any]:
        """The run's fingerprint, which every fold records in its metrics.json."""
        return fingerprint(self.record)

    def metrics(self, fold: int) -> dict[str, Any]:
        """metrics.json of one fold. Raises UserError for a missing or damaged one, and for a fold of other settings."""
        path = self.fold(fold) / "metrics.json"
        metrics = read_json(path, f"run {self.name}")
        if not isinstance(metrics, dict) or not {"n", "rmse", "constant_rmse", "predictions_hash"} <= metrics.keys():
            raise UserError(f"{path}: is damaged; run: {self.remedy(fold)}")
        own = self.settings
        if difference := differences(metrics.get("settings", own), own):
            raise UserError(
                f"{self.fold(fold)}: was trained with other settings than {self.folder / 'config.json'} holds: {difference}; "
                f"delete {self.fold(fold)}, and run: {self.remedy(fold)}"
            )
        return metrics

    def trained_folds(self) -> list[int]:
        """Folds that are finished: their folder appears whole."""
        return [k for k in range(self.k) if (self.fold(k) / "metrics.json").is_file()]

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """An existing run. Raises UserError when there is none or its config.json is damaged."""
        if not (folder / "config.json").is_file():
            runs = listed(run_names(folder.parent))
            raise UserError(f"{folder}: holds no run (config.json is missing); runs there: {runs}")
        record = read_json(folder / "config.json", f"run {folder.name}")
        with suppress(TypeError, KeyError, ValueError):
            known = record["data"]["hash"] and record["folds"]["hash"] and record.get("kind", "run") in KINDS
            if known and int(record["folds"]["k"]) > 0 and isinstance(record["config"], dict):
                return cls(folder, record)
        raise UserError(f"{folder / 'config.json'}: is damaged; delete {folder} and train again")

    @classmethod
    def same(cls, folder: Path, record: dict[str, Any], *, fresh: bool = False) -> "Run | None":
        """The run at `folder` if its fingerprint is that of `record`, None where it may be started, else UserError.

        A run of other settings may be replaced until one of its folds is in training, trained, or stopped half way (`fresh`: also
        in the last case).
        """
        if not (folder / "config.json").is_file():
            return None
        old = cls.open(folder)
        difference = differences(old.settings, fingerprint(record))
        if not difference:
            return old
        if old.kind != record["kind"] or old.trained_folds():
            raise UserError(
                f"{folder} holds a run with other settings: {difference}; choose another name (RUN=...), or delete it"
            )
        _require_unused(old)
        if (stopped := [k for k in range(old.k) if old.checkpoint(k).exists()]) and not fresh:
            raise UserError(
                f"{folder}: fold {stopped[0]} was stopped half way with other settings: {difference}; resume it with those, "
                "choose another name (RUN=...), or start afresh with --fresh (ARGS=--fresh)"
            )
        return None


@contextmanager
def claimed(folder: Path, record: dict[str, Any], *, fresh: bool = False) -> Iterator[Run]:
    """The run at `folder`, started if there is none. Until the block ends no other process starts or replaces it.

    What must not be mixed (a fold in training, frozen weights) is claimed inside the block. Raises UserError as `Run.same`.
    """
    from pawpularity.data.photo_cache import one_builder

    folder.mkdir(parents=True, exist_ok=True)
    with one_builder(folder / ".run.lock", str(folder)):
        run = Run.same(folder, record, fresh=fresh)
        if run is None:
            run = Run(folder, record)
            for left in (run.frozen_file, *folder.glob(".fold*.checkpoint.safetensors")):
                left.unlink(missing_ok=True)  # of the run that was here
            write_json(folder / "config.json", record)
        yield run


def _require_unused(run: Run) -> None:
    for fold in range(run.k):
        try:
            with run.lock(fold):
                pass
        except Timeout:
            raise UserError(
                f"{run.folder}: another process is training fold {fold} with other settings; choose another name (RUN=...)"
            ) from None


def plain_config(tree: Mapping[str, Any]) -> "Config":
    """The settings of a config.json by attribute, without pydantic. They were checked before they were written."""
    sections = {key: SimpleNamespace(**part) if isinstance(part, dict) else part for key, part in tree.items()}
    return cast("Config", SimpleNamespace(**sections))


def fingerprint(record: Mapping[str, Any]) -> dict[str, Any]:
    """What must match before a run is continued, as one flat dictionary: kind, settings, data, folds, weights."""
    found: dict[str, Any] = {"kind": record.get("kind", "run")}
    for section, part in record["config"].items():
        for key, value in part.items() if isinstance(part, Mapping) else [("", part)]:
            found[f"{section}.{key}".rstrip(".")] = value
    found |= {f"head.{key}": value for key, value in record.get("head", {}).items()}
    found = {key: value for key, value in found.items() if not key.startswith(FREE)}
    found["data"], found["folds"] = record["data"]["hash"], record["folds"]["hash"]
    weights = record.get("weights", {})
    return found | {"frozen weights": weights.get("frozen_hash"), "initial weights": weights.get("initial_hash")}


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """`train.lr was 0.1, is 0.2`, for the first three entries that differ; empty if none do."""
    keys = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    more = [f"and {len(keys) - 3} more"] if len(keys) > 3 else []
    return ", ".join([f"{key} was {before.get(key)}, is {after.get(key)}" for key in keys[:3]] + more)


def recipe(record: Mapping[str, Any]) -> str:
    """The fingerprint without `train.seed`, as text: equal for the same training with several seeds."""
    found = fingerprint(record)
    if found.get("model.weights") == "none":  # random frozen weights are drawn by the seed
        found |= {"frozen weights": None, "initial weights": None}
    return repr(sorted((key, repr(value)) for key, value in found.items() if key != "train.seed"))


def record_of(
    config: "Config", *, data: Mapping[str, Any], folds: Mapping[str, Any], weights: Mapping[str, Any]
) -> dict[str, Any]:
    """What the config.json of a trained run holds."""
    return {
        "kind": "run",
        "config": config.to_dict(),
        "data": dict(data),
        "folds": dict(folds),
        "weights": dict(weights),
        "git_commit": git_commit(),
        "versions": versions(),
        "machine": machine(),
    }


def run_names(folder: Path = OOF) -> list[str]:
    """Names of the runs below `folder`, sorted."""
    return sorted(file.parent.name for file in folder.glob("*/config.json") if file.is_file())


def git_commit() -> str | None:
    """HEAD of the source tree's repository, `+changes` appended when tracked files differ; None outside git."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
        return f"{head}+changes" if git("status", "--porcelain", "--untracked-files=no") else head
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a figure."""
    packages = ("torch", "torchvision", "timm", "accelerate", "albumentations", "opencv-python-headless", "numpy", "pandas",
                "scikit-learn", "scipy", "pillow", "ImageHash", "safetensors")  # fmt: skip
    found = {"python": platform.python_version()}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, memory (GB of 2^30 bytes) and GPU. No host name: artefacts are shared."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    model = found.group(1).strip() if found else platform.processor() or platform.machine()
    about: dict[str, Any] = {"system": platform.system(), "processor": model, "cores": os.cpu_count()}
    if {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= os.sysconf_names.keys():
        about["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    torch = sys.modules.get("torch")  # only a command that computed has imported it
    if torch is not None and torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    return about
