"""A run: `oof/RUN/`, everything one training leaves behind, and what it must be compared with before it is used.

oof/RUN/config.json               resolved config, data, folds, weights, git commit, versions, machine
oof/RUN/trunk.safetensors         the frozen tensors, only where nobody else has them (random weights, a file)
oof/RUN/foldK/predictions.csv     Id,fold,target,prediction of the photos that fold K's network never saw
oof/RUN/foldK/metrics.json        rmse, constant_rmse, n, epochs, seconds, seed, device, dtype and why
oof/RUN/foldK/history.csv         epoch,train_rmse,inner_rmse,lr,seconds
oof/RUN/foldK/tail.safetensors    what was trained
oof/RUN/oof.csv                   all folds, once they are there

A run of heads on frozen features leaves head.safetensors and head.json in foldK/ and no history; a blend config.json,
weights.json, oof.csv (cross-fitted), and folds.csv where its members share no folds file.
"""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pawpularity.config import from_dict
from pawpularity.errors import UserError
from pawpularity.files import read_json, write_json
from pawpularity.schema import Config

OOF = Path("oof")
RESERVED = (
    "folds",
    "hypotheses",
    "errors",
    "leakage",
    "leakcheck",
    "table1",
    "studies",
)  # folders below oof/ that are no runs
# Settings that change where and how fast a run computes, not what: they may differ between its folds.
_FREE = ("cache.", "train.workers", "hypotheses.", "search.", "explain.")
# What metrics.json must hold of which type, because its readers take it for granted.
_FIGURES = ("n", "rmse", "low", "high", "constant_rmse", "seconds", "training_mean")
_OF_KIND: dict[str, dict[str, type]] = {"run": {"epochs": int}, "head": {"chosen": str}}
_KINDS = {"run": "a trained run", "head": "a head on frozen features", "ensemble": "a blend of other runs"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(name: str) -> str:
    """`name` if it can be a folder below oof/, else UserError."""
    if not _NAME.fullmatch(name) or name in RESERVED or len(name) > 100:
        raise UserError(
            f'--run "{name[:100]}": must be letters, digits, ".", "_" or "-", 100 at most, and none of {", ".join(RESERVED)}'
        )
    return name


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
        """`run` = trained folds; `head` = heads fitted on frozen features; `ensemble` = other runs' predictions."""
        return str(self.record.get("kind", "run"))

    @property
    def has_folds(self) -> bool:
        """Whether every fold leaves a folder of its own (all kinds but blends)."""
        return self.kind != "ensemble"

    @property
    def leaky(self) -> bool:
        """Whether copies of the photos it is scored on were trained on, as the paper did: a named experiment."""
        return bool(self.record["config"].get("train", {}).get("split") == "leaky")

    def require_networks(self) -> None:
        """Raise UserError for a kind of run that keeps no networks to predict with."""
        if self.kind != "run":
            raise UserError(
                f"{self.folder}: is {_KINDS.get(self.kind, self.kind)} and keeps no network to predict with; "
                f"name a trained run ({'one of its members, or one ' if self.kind == 'ensemble' else ''}from make train)"
            )

    def remedy(self, fold: int | None = None) -> str:
        """The command that makes the run's folds (or `fold`) again, for messages."""
        if self.kind == "head":
            return "make probe, with the words it was made with"
        return f"make train {'' if fold is None else f'FOLD={fold} '}RUN={self.name}"

    @cached_property
    def config(self) -> Config:
        """The resolved configuration the run was trained with. Raises UserError for heads and blends."""
        self.require_networks()
        return from_dict(self.record["config"], str(self.folder / "config.json"))

    @property
    def trunk_file(self) -> Path:
        """Frozen tensors; present only for random weights or a weights file."""
        return self.folder / "trunk.safetensors"

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

    def tail_file(self, fold: int) -> Path:
        """Trained tensors of one fold."""
        return self.fold(fold) / "tail.safetensors"

    def metrics(self, fold: int) -> dict[str, Any]:
        """metrics.json of one fold."""
        metrics: dict[str, Any] = read_json(self.fold(fold) / "metrics.json", f"run {self.name}")
        due: dict[str, Any] = dict.fromkeys(_FIGURES, int | float) | _OF_KIND.get(self.kind, {})
        due |= {"indicative": bool, "predictions_hash": str}
        if not isinstance(metrics, dict) or not all(isinstance(metrics.get(key), kind) for key, kind in due.items()):
            raise UserError(
                f"{self.fold(fold) / 'metrics.json'}: is not what was written there; run: {self.remedy(fold)}"
            )
        return metrics

    @property
    def k(self) -> int:
        """Folds of the split."""
        return int(self.record["folds"]["k"])

    def trained_folds(self) -> list[int]:
        """Folds whose artefacts are all there. metrics.json is written last, so it vouches for the others."""
        needed = ["metrics.json", "predictions.csv"]
        if self.kind == "run":
            needed += ["tail.safetensors", "history.csv"]
        return [k for k in range(self.k) if all((self.fold(k) / name).is_file() for name in needed)]

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """An existing run. Raises UserError when there is none or its config.json is not ours."""
        if not (folder / "config.json").is_file():
            runs = ", ".join(run_names(folder.parent)) or "none yet"
            raise UserError(f"{folder}: holds no run (config.json is missing); runs there: {runs}")
        record = read_json(folder / "config.json", f"run {folder.name}")
        whole = isinstance(record, dict) and all(
            isinstance(record.get(part), dict) for part in ("config", "data", "folds")
        )
        if (
            not whole
            or not {"file", "hash", "k"} <= record["folds"].keys()
            or not {"name", "hash"} <= record["data"].keys()
            or not _typed(record)
        ):
            raise UserError(f"{folder / 'config.json'}: is not a run's record; delete {folder} and train again")
        return cls(folder, record)

    @classmethod
    def start(cls, folder: Path, record: dict[str, Any]) -> "Run":
        """The run at `folder` if it is the same one, else a new one; writes config.json. Raises UserError as `same` does."""
        old = cls.same(folder, record)
        if old is not None:
            return old  # its record says what its folds were trained with; it is not ours to rewrite
        write_json(folder / "config.json", record)
        return cls(folder, record)

    @classmethod
    def same(cls, folder: Path, record: dict[str, Any]) -> "Run | None":
        """The run at `folder` if it is the one of `record`, None where the place is free. Writes nothing.

        Raises UserError naming the first difference (kind, config key, data, folds, weights) from what stands there.
        """
        if not (folder / "config.json").is_file():
            return None
        old = cls.open(folder)
        alike = old.kind == record["kind"]
        difference = _difference(old.record, record) if alike else f"it is {_KINDS.get(old.kind, old.kind)}"
        if difference is None:
            return old
        # A start that never finished a fold binds nobody.
        if not alike or old.trained_folds():
            raise UserError(
                f"{folder} holds a run with other settings: {difference}; take another name (RUN=...), or delete {folder}"
            )
        return None


def _typed(record: Mapping[str, Any]) -> bool:
    """Whether the parts of a record that everybody reads are what they should be: a hand may have edited them."""
    config, data, folds = record["config"], record["data"], record["folds"]
    return (
        type(folds["k"]) is int
        and 1 <= folds["k"] <= 10_000
        and record.get("kind", "run") in list(_KINDS)
        and isinstance(record.get("weights", {}), Mapping)
        and all(isinstance(value, str) for value in (folds["file"], folds["hash"], data["name"], data["hash"]))
        and isinstance(data.get("folder"), str | None)
        and isinstance(config.get("train", {}), Mapping)
        and (record.get("kind") != "ensemble" or isinstance(record.get("members"), Mapping))
    )


def record_of(
    config: Config, *, data: Mapping[str, Any], folds: Mapping[str, Any], weights: Mapping[str, Any]
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


def recipe(record: Mapping[str, Any]) -> str:
    """Everything that decides a run's figures but its name and `train.seed`, as text: equal for runs of several seeds."""
    config = _flat(from_dict(record["config"], "config.json").to_dict())
    kept = {k: v for k, v in config.items() if not k.startswith(_FREE) and k not in ("name", "train.seed")}
    trunk = record.get("weights", {})
    # Random frozen tensors are drawn by the seed too, so only weights of a fixed content are part of the recipe.
    fixed = None if kept["model.weights"] == "none" else trunk.get("initial_hash")
    return repr((sorted(kept.items(), key=str), record["data"]["hash"], record["folds"]["hash"], fixed))


def git_commit() -> str | None:
    """HEAD of the source tree's repository, `+changes` appended when tracked files differ; None outside git."""
    here = Path(__file__).resolve().parent
    try:
        ask = {"cwd": here, "capture_output": True, "text": True, "timeout": 10}
        head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, **ask).stdout.strip()  # type: ignore[call-overload]
        status = ["git", "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(status, check=True, **ask).stdout.strip()  # type: ignore[call-overload]
        return f"{head}+changes" if changed else str(head)
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    """Versions of everything that decides a figure."""
    packages = ("torch", "torchvision", "timm", "albumentations", "opencv-python-headless", "numpy", "pandas",
                "scikit-learn", "scipy", "pillow", "ImageHash", "safetensors")  # fmt: skip
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, memory (GB of 2^30 bytes) and GPU. No host name: artefacts are shared."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text())
        model = found.group(1).strip() if found else model
    about: dict[str, Any] = {"system": platform.system(), "processor": model, "cores": os.cpu_count()}
    if {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= os.sysconf_names.keys():
        about["memory_gb"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    torch = sys.modules.get("torch")  # whoever computed has imported it; others need not wait for it
    if torch is not None and torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    return about


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping) and key != "args":
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    # Through the schema: a run of an older version lacks the keys that came later, which had their defaults.
    configs = (from_dict(record["config"], "config.json").to_dict() for record in (old, new))
    heads = (record.get("head", {}) for record in (old, new))
    before, after = (_flat(c) | _flat(h, "head.") for c, h in zip(configs, heads, strict=True))
    other = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    other = [key for key in other if not key.startswith(_FREE) and key != "name"]
    if other:
        more = f", and {len(other) - 3} more" if len(other) > 3 else ""
        return ", ".join(f"{key} was {before.get(key)}, is {after.get(key)}" for key in other[:3]) + more
    for part, key, what in (("data", "hash", "its data"), ("folds", "hash", "its folds"),
                            ("weights", "trunk_hash", "its trunk"), ("weights", "initial_hash", "its weights")):  # fmt: skip
        a, b = old.get(part, {}).get(key), new.get(part, {}).get(key)
        if a != b:
            return f"{what} had hash {a}, now {b}"
    return None
