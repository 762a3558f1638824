"""Runs of heads on frozen features: oof/probe-NAME[-logits][-svr][-meta]/.

foldK/ holds predictions.csv, metrics.json, head.safetensors and head.json. The leaderboard and the blends read such a run
like a trained one. It is recomputed as a whole every time.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.config import Config, Model, Train
from pawpularity.console import duration, log
from pawpularity.context import Context, data_suffix
from pawpularity.data.folds import Folds
from pawpularity.data.tables import ID, METADATA, TARGET
from pawpularity.device import Compute
from pawpularity.evaluation.metrics import evaluate
from pawpularity.evaluation.oof import read_run, write_oof
from pawpularity.features.build import FeatureCache
from pawpularity.files import file_hash, text_hash, write_json
from pawpularity.heads.features import Encoder, frozen_features, open_encoder
from pawpularity.heads.fit import ALPHAS, SVR_C, out_of_fold
from pawpularity.heads.head import save_head
from pawpularity.models.network import HIGHEST, LOWEST
from pawpularity.runs import OOF, Run, check_name, claimed, git_commit, record_of, versions

TRIED = {"ridge": list(ALPHAS), "svr": [f"{kernel} C {c:g}" for kernel, values in SVR_C.items() for c in values]}
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
        suffixes = {"logits": self.encoders[0].kind == "logits", "svr": self.head == "svr", "meta": self.metadata}
        return check_name("-".join([word, joined, *(name for name, applies in suffixes.items() if applies)]) + suffix)

    def record(self, context: Context) -> dict[str, Any]:
        """What config.json holds. Settings that a head does not use are left at their defaults."""
        config, dataset, folds = context.config, context.dataset, context.folds
        model, kind = self.encoders[0].model, self.encoders[0].kind
        names = [encoder.name for encoder in self.encoders]
        used = Config(
            name="-".join(names),
            photos=config.photos,
            folds=config.folds,
            model=model.model_copy(update={"metadata": "use" if self.metadata else "none"}),
            train=Train(seed=config.train.seed, dtype=config.train.dtype),
            cache=config.cache,
        )
        folder = None if dataset.folder.is_absolute() else dataset.folder.as_posix()
        about = {"method": self.head, "features": kind, "backbones": names,
                 "widths": [encoder.width for encoder in self.encoders], "tried": TRIED[self.head]}  # fmt: skip
        return record_of(
            used,
            data={"name": dataset.name, "hash": dataset.hash, "photos": len(dataset.train), "folder": folder},
            folds={"file": folds.path.as_posix(), "hash": folds.hash, "k": folds.k},
            weights={"source": model.weights, "initial_hash": text_hash(*(e.weights_hash for e in self.encoders))},
        ) | {"kind": "head", "head": about}


def make_runs(
    context: Context,
    backbones: Sequence[str],
    features: str,
    heads: Sequence[str],
    metadata: Sequence[bool],
    word: str,
    compute: Compute,
) -> list[Run]:
    """Score every encoder alone, and all together if there are several, under each head, with and without metadata.

    Names, weights and places are checked before anything is computed. `config.model.args` go to its own backbone alone.
    """
    config, dataset, own = context.config, context.dataset, context.config.model
    size, seed, folder = config.photos.size, config.train.seed, Path(config.cache.folder)
    args = {name: own.args if name == own.backbone else {} for name in backbones}
    models = [Model(backbone=name, args=args[name], weights=own.weights) for name in backbones]
    encoders = [open_encoder(model, features, size=size, seed=seed) for model in models]
    sets = [(encoder,) for encoder in encoders] + ([tuple(encoders)] if len(encoders) > 1 else [])
    recipes = [Recipe(members, head, with_) for members in sets for head in heads for with_ in metadata]
    places = [OOF / recipe.name(word, data_suffix(context.data)) for recipe in recipes]
    for recipe, place in zip(recipes, places, strict=True):
        Run.same(place, recipe.record(context))
    table = dataset.train.reset_index(drop=True).sort_values(ID)
    photos = dataset.photos(size, config.photos.fit, folder)
    cache = FeatureCache(folder / "features", photos, size, config.cache.budget_gb)
    computed, rows = {}, table.index.to_numpy()
    for encoder in encoders:
        began = time.perf_counter()
        x = frozen_features(photos, rows, encoder.model, features, size, compute, seed=seed, cache=cache)
        computed[encoder.name] = x, (seconds := time.perf_counter() - began)
        log(
            f"encoder {encoder.name}: {encoder.width} {features} features of {len(table)} photos in {duration(seconds)}"
        )
    columns = table[list(METADATA)].to_numpy(dtype=np.float32), 0.0
    runs = []
    for recipe, place in zip(recipes, places, strict=True):
        parts = [computed[encoder.name] for encoder in recipe.encoders] + [columns] * recipe.metadata
        x, spent = np.concatenate([part for part, _ in parts], axis=1), sum(seconds for _, seconds in parts)
        with claimed(place, recipe.record(context)) as run:
            runs.append(_make_run(recipe, run, x, table, context.folds, compute, spent))
    return runs


def _make_run(
    recipe: Recipe,
    run: Run,
    features: NDArray[np.float32],
    table: pd.DataFrame,
    folds: Folds,
    compute: Compute,
    seconds: float,
) -> Run:
    """Fit and write all folds. `seconds`: what the features took."""
    # A fold with metrics.json counts as finished, so remove the old ones: a run stopped from here on is unfinished.
    for fold in range(run.k):
        (run.fold(fold) / "metrics.json").unlink(missing_ok=True)
    run.oof_file.unlink(missing_ok=True)
    target = table[TARGET].to_numpy(dtype=np.float64)
    fold_of, groups = folds.folds_of(table[ID]), folds.groups_of(table[ID])
    seed, began = run.record["config"]["train"]["seed"], time.perf_counter()
    prediction, fitted = out_of_fold(recipe.head, features, target, fold_of, groups, seed=seed)
    prediction = prediction.clip(LOWEST, HIGHEST)
    seconds = (time.perf_counter() - began + seconds) / run.k
    oof = pd.DataFrame({"Id": table[ID], "fold": fold_of, "target": target, "prediction": prediction})
    for fold, one in enumerate(fitted):
        scored = fold_of == fold
        file, level = run.predictions_file(fold), float(target[~scored].mean())
        write_oof(file, oof[scored])
        about = {**run.record["head"], "metadata": recipe.metadata, **one.chosen}
        save_head(run.fold(fold), one.head, about)
        result = evaluate(target[scored], prediction[scored], level, groups[scored]).to_dict() | {
            "head": recipe.head,
            "chosen": one.words,
            "features": features.shape[1],
            "seconds": round(seconds, 3),
            "seed": seed,
            "device": compute.device.type,
            "dtype": compute.dtype_name,
            "dtype_reason": compute.reason,
            "training_mean": level,
            "training_rows": int((~scored).sum()),
            "settings": run.settings,
            "predictions_hash": file_hash(file),
            "git_commit": git_commit(),
            "versions": versions(),
        }
        write_json(run.fold(fold) / "metrics.json", result)
    read_run(run)
    return run
