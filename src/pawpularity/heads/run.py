"""Runs of heads on frozen features: oof/heads-NAME[-logits][-HEAD][-meta]/.

foldK/ holds predictions.csv, metrics.json, head.safetensors and head.json. Such a run predicts, blends and ships like a trained
one. It is recomputed as a whole every time; its features come from the cache.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from pawpularity.config import Config, Model, Train
from pawpularity.console import duration, log
from pawpularity.context import Context, data_suffix
from pawpularity.data.folds import Folds
from pawpularity.data.tables import ID, METADATA, TARGET
from pawpularity.device import Compute
from pawpularity.evaluation.metrics import evaluate
from pawpularity.evaluation.oof import read_run, write_oof
from pawpularity.features.build import FeatureCache
from pawpularity.files import atomic_folder, file_hash, text_hash, write_json
from pawpularity.heads.encoders import Encoder
from pawpularity.heads.features import channels_last, frozen_features
from pawpularity.heads.fit import TRIED, Fitted, out_of_fold
from pawpularity.heads.head import Head
from pawpularity.heads.network import PREFIX, head_network
from pawpularity.models.network import HIGHEST, LOWEST, Network
from pawpularity.models.weights import save_tensors, tensors_hash
from pawpularity.runs import OOF, Run, check_name, claimed, git_commit, record_of, versions

LONGEST = 60  # letters of several encoders' names in a run's name; beyond it they are counted and hashed


@dataclass(frozen=True)
class Recipe:
    """What one run is made of."""

    encoders: tuple[Encoder, ...]
    head: str
    metadata: bool
    """Whether the twelve metadata columns are added to the features."""

    def name(self, word: str, suffix: str) -> str:
        """The run's name. Raises UserError if that cannot name a folder."""
        names = [encoder.name for encoder in self.encoders]
        joined = "-".join(names)
        if len(joined) > LONGEST and len(names) > 1:
            joined = f"{names[0][: LONGEST // 2]}-and-{len(names) - 1}-more-{text_hash(*names)[:6]}"
        head = [] if self.head == "ridge" else [self.head]
        return check_name("-".join([word, joined, *head, *(["meta"] if self.metadata else [])]) + suffix)

    def record(self, plan: "_Plan", context: Context) -> dict[str, Any]:
        """What config.json holds. Settings that a head does not use are left at their defaults."""
        dataset, folds, model = context.dataset, context.folds, plan.config.model
        config = plan.config.model_copy(
            update={"model": model.model_copy(update={"metadata": "use" if self.metadata else "none"})}
        )
        folder = None if dataset.folder.is_absolute() else dataset.folder.as_posix()
        head = {"method": self.head, "encoders": [one.record() for one in plan.encoders], "tried": TRIED[self.head]}
        weights = {"source": model.weights, "frozen": "kept" if plan.kept else "named",
                   "frozen_hash": plan.frozen_hash, "initial_hash": plan.frozen_hash}  # fmt: skip
        return record_of(
            config,
            data={"name": dataset.name, "hash": dataset.hash, "photos": len(dataset.train), "folder": folder},
            folds={"file": folds.path.as_posix(), "hash": folds.hash, "k": folds.k},
            weights=weights,
        ) | {"kind": "head", "head": head}


class _Plan:
    """Encoders that stand side by side: they were built once, and their settings are known."""

    def __init__(self, context: Context, encoders: tuple[Encoder, ...], size: int, compute: Compute) -> None:
        config, first = context.config, encoders[0]
        self.encoders = encoders
        self.config = Config(
            name="-".join(encoder.name for encoder in encoders),
            photos=config.photos.model_copy(update={"size": size}),
            folds=config.folds,
            model=Model(backbone=first.backbone, args=first.args, weights=first.weights, unfrozen=0, output="linear"),
            train=Train(
                seed=config.train.seed, dtype=config.train.dtype, loss="mse", channels_last=channels_last(compute)
            ),
            cache=config.cache,
        )
        self.kept = any(one.weights == "none" or Path(one.weights).is_file() for one in encoders)
        self.frozen_hash = tensors_hash(self.network().frozen_state())

    def network(self) -> Network:
        """The encoders as a network, without a head."""
        return head_network(self.encoders, nn.Identity(), self.config)


@dataclass(frozen=True)
class Features:
    """What an encoder gave for the rows of the table."""

    values: NDArray[np.float32]
    seconds: float


def make_runs(
    context: Context,
    encoders: Sequence[Encoder],
    heads: Sequence[str],
    metadata: Sequence[bool],
    word: str,
    compute: Compute,
    *,
    alone: bool = True,
) -> list[Run]:
    """Score every encoder `alone`, and all together if there are several, under each head, with and without metadata.

    Names, weights and places are checked before anything is computed. The photos have the size of the largest encoder.
    """
    size = max(encoder.size for encoder in encoders)
    sets: list[tuple[Encoder, ...]] = [(encoder,) for encoder in encoders] if alone or len(encoders) == 1 else []
    sets += [tuple(encoders)] if len(encoders) > 1 else []
    for encoder in encoders:
        licence = f"; licence of the weights: {encoder.licence}" if encoder.licence else ""
        log(f"encoder {encoder.name}: sees photos at {encoder.size} px{licence}")
    plans = [_Plan(context, members, size, compute) for members in sets]
    rooms = [_Room(context, plan, heads, with_, word) for plan in plans for with_ in metadata]
    for place, record in (pair for room in rooms for pair in zip(room.places, room.records, strict=True)):
        Run.same(place, record)
    table = context.dataset.train.reset_index(drop=True).sort_values(ID)
    found = _features(context, encoders, table, size, compute)
    return [run for room in rooms for run in room.make([found[one.name] for one in room.plan.encoders], table, compute)]


def _features(
    context: Context, encoders: Sequence[Encoder], table: pd.DataFrame, size: int, compute: Compute
) -> dict[str, Features]:
    """What every encoder gives for the rows of `table`, by its name."""
    config, folder = context.config, Path(context.config.cache.folder)
    photos = context.dataset.photos(size, config.photos.fit, folder)
    cache = FeatureCache(folder / "features", photos, size, config.cache.budget_gb)
    found, rows = {}, table.index.to_numpy()
    for encoder in encoders:
        began = time.perf_counter()
        values = frozen_features(photos, rows, encoder, size, compute, seed=config.train.seed, cache=cache)
        found[encoder.name] = Features(values, time.perf_counter() - began)
        log(f"encoder {encoder.name}: {len(table)} photos in {duration(found[encoder.name].seconds)}")
    return found


class _Room:
    """Runs on the same columns, one for each head."""

    def __init__(self, context: Context, plan: _Plan, heads: Sequence[str], metadata: bool, word: str) -> None:
        self.context, self.plan, self.metadata = context, plan, metadata
        self.recipes = [Recipe(plan.encoders, head, metadata) for head in heads]
        self.places = [OOF / recipe.name(word, data_suffix(context.data)) for recipe in self.recipes]
        self.records = [recipe.record(plan, context) for recipe in self.recipes]

    def make(self, features: Sequence[Features], table: pd.DataFrame, compute: Compute) -> Iterator[Run]:
        """Fit all heads on all folds, and write their runs."""
        folds, seed = self.context.folds, self.context.config.train.seed
        columns = [table[list(METADATA)].to_numpy(dtype=np.float32)] * self.metadata
        x = np.concatenate([*(one.values for one in features), *columns], axis=1)
        target, fold_of = table[TARGET].to_numpy(dtype=np.float64), folds.folds_of(table[ID])
        began = time.perf_counter()
        heads = [recipe.head for recipe in self.recipes]
        found = out_of_fold(heads, x, target, fold_of, folds.groups_of(table[ID]), seed=seed)
        seconds = (time.perf_counter() - began) / len(heads) + sum(one.seconds for one in features)
        about = {"features": x.shape[1], "seconds": round(seconds / self.context.folds.k, 3), "seed": seed,
                 "device": compute.device.type, "dtype": compute.dtype_name, "dtype_reason": compute.reason}  # fmt: skip
        frozen = self.plan.network().frozen_state() if self.plan.kept else {}
        for place, record, (head, (prediction, fitted)) in zip(self.places, self.records, found.items(), strict=True):
            oof = pd.DataFrame({"Id": table[ID], "fold": fold_of, "target": target, "prediction": prediction})
            with claimed(place, record) as run:
                if frozen and not run.frozen_file.is_file():
                    save_tensors(run.frozen_file, frozen, {"backbone": self.plan.encoders[0].backbone})
                _write_run(
                    run, oof.assign(prediction=prediction.clip(LOWEST, HIGHEST)), fitted, folds, about | {"head": head}
                )
            yield run


def _write_run(run: Run, oof: pd.DataFrame, fitted: Sequence[Fitted], folds: Folds, about: dict[str, Any]) -> None:
    # A fold with metrics.json counts as finished, so remove the old ones: a run stopped from here on is unfinished.
    for fold in range(run.k):
        (run.fold(fold) / "metrics.json").unlink(missing_ok=True)
    run.oof_file.unlink(missing_ok=True)
    groups = folds.groups_of(oof["Id"])
    for fold, one in enumerate(fitted):
        scored = (oof["fold"] == fold).to_numpy()
        table, level = oof[scored], float(oof["target"][~scored].mean())
        score = evaluate(table["target"].to_numpy(), table["prediction"].to_numpy(), level, groups[scored]).to_dict()
        facts = {"chosen": one.words, "training_mean": level, "training_rows": int((~scored).sum())}
        _write_fold(run, fold, table, one, score | about | facts)
    read_run(run)


def _write_fold(run: Run, fold: int, table: pd.DataFrame, fitted: Fitted, figures: dict[str, Any]) -> None:
    """The fold's folder, whole. A head that only evaluates leaves no tensors."""
    with atomic_folder(run.fold(fold)) as folder:
        write_oof(folder / "predictions.csv", table)
        if isinstance(fitted.head, Head):
            tensors = {f"{PREFIX}{name}": tensor for name, tensor in fitted.head.state_dict().items()}
            save_tensors(folder / "head.safetensors", tensors, {"run": run.name, "fold": str(fold)})
            figures["head_hash"] = tensors_hash(tensors)
        write_json(folder / "head.json", run.record["head"] | fitted.chosen)
        about = {
            "settings": run.settings,
            "predictions_hash": file_hash(folder / "predictions.csv"),
            "git_commit": git_commit(),
            "versions": versions(),
        }
        write_json(folder / "metrics.json", figures | about)
