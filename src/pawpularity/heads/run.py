"""Runs of heads on frozen features: oof/heads-NAME[-logits][-HEAD][-meta]/.

foldK/ holds predictions.csv, metrics.json, head.safetensors and head.json. Such a run predicts, blends and ships like a trained
one. It is recomputed as a whole every time; its features come from the cache.
"""

import itertools
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor, nn

from pawpularity.config import Config, Model, Train
from pawpularity.console import duration, log
from pawpularity.context import Context, data_suffix
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

Due = Mapping[str, tuple[Path, dict[str, Any]]]
"""By head: the folder of its run, and what its config.json will hold."""


class EncoderSet:
    """Encoders whose features are concatenated, and the settings of the runs on them."""

    def __init__(self, context: Context, encoders: Sequence[Encoder], size: int, compute: Compute) -> None:
        """`size`: pixels a side of the photos. Raises UserError for an encoder that cannot be built."""
        config, first = context.config, encoders[0]
        self.encoders = encoders
        # Settings that a head does not use stay at their defaults.
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
        """whether the run must keep the encoders' tensors, because no weights of that name can restore them"""
        self.frozen_hash = tensors_hash(self.network().frozen_state())

    def network(self) -> Network:
        """The encoders as a network, without a head."""
        return head_network(self.encoders, nn.Identity(), self.config)

    def record(self, context: Context, head: str, metadata: bool) -> dict[str, Any]:
        """What the config.json of a run with `head` holds. `metadata`: whether the twelve columns are features too."""
        dataset, folds, model = context.dataset, context.folds, self.config.model
        model = model.model_copy(update={"metadata": "use" if metadata else "none"})
        return record_of(
            self.config.model_copy(update={"model": model}),
            data={
                "name": dataset.name,
                "hash": dataset.hash,
                "photos": len(dataset.train),
                "folder": None if dataset.folder.is_absolute() else dataset.folder.as_posix(),
            },
            folds={"file": folds.path.as_posix(), "hash": folds.hash, "k": folds.k},
            weights={
                "source": model.weights,
                "frozen": "kept" if self.kept else "named",
                "frozen_hash": self.frozen_hash,
                "initial_hash": self.frozen_hash,
            },
        ) | {
            "kind": "head",
            "head": {"method": head, "encoders": [asdict(one) for one in self.encoders], "tried": TRIED[head]},
        }


@dataclass(frozen=True)
class Features:
    """What an encoder gave for the rows of the table."""

    values: NDArray[np.float32]
    seconds: float


def run_name(word: str, encoders: Sequence[Encoder], head: str, metadata: bool, suffix: str) -> str:
    """The name of a run. Raises UserError if it cannot name a folder."""
    names = [encoder.name for encoder in encoders]
    joined = "-".join(names)
    if len(joined) > LONGEST and len(names) > 1:
        joined = f"{names[0][: LONGEST // 2]}-and-{len(names) - 1}-more-{text_hash(*names)[:6]}"
    marks = [*([] if head == "ridge" else [head]), *(["meta"] if metadata else [])]
    return check_name("-".join([word, joined, *marks]) + suffix)


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
    """Fit `heads` on every encoder (unless `alone` is false) and on all together, with and without metadata: a run each.

    Names, weights and folders are checked before anything is computed. The photos have the size of the largest encoder.
    """
    size, suffix = max(encoder.size for encoder in encoders), data_suffix(context.data)
    for encoder in encoders:
        licence = f"; licence of the weights: {encoder.licence}" if encoder.licence else ""
        log(f"encoder {encoder.name}: sees photos at {encoder.size} px{licence}")
    together = [list(encoders)] if len(encoders) > 1 or not alone else []
    sets = [EncoderSet(context, members, size, compute) for members in [[one] for one in encoders if alone] + together]
    due: list[tuple[EncoderSet, bool, Due]] = []
    for one, columns in itertools.product(sets, metadata):
        names = {head: run_name(word, one.encoders, head, columns, suffix) for head in heads}
        due.append((one, columns, {head: (OOF / names[head], one.record(context, head, columns)) for head in heads}))
    for folder, record in (pair for _, _, runs in due for pair in runs.values()):
        Run.same(folder, record)
    table = context.dataset.train.reset_index(drop=True).sort_values(ID)
    features = _features(context, encoders, table, size, compute)
    made: list[Run] = []
    for one, columns, runs in due:
        parts = [features[encoder.name] for encoder in one.encoders]
        if columns:
            parts.append(Features(table[list(METADATA)].to_numpy(dtype=np.float32), 0.0))
        made += _fit(context, one, parts, table, runs, compute)
    return made


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


def _fit(
    context: Context,
    encoders: EncoderSet,
    features: Sequence[Features],
    table: pd.DataFrame,
    due: Due,
    compute: Compute,
) -> list[Run]:
    """Fit all heads on all folds, and write their runs, fold by fold."""
    folds, seed = context.folds, context.config.train.seed
    x = np.concatenate([one.values for one in features], axis=1)
    widths = {encoder.name: one.values.shape[1] for encoder, one in zip(encoders.encoders, features, strict=False)}
    target, fold_of, groups = (
        table[TARGET].to_numpy(dtype=np.float64),
        folds.folds_of(table[ID]),
        folds.groups_of(table[ID]),
    )
    about = {"features": x.shape[1], "seed": seed, "device": compute.device.type,
             "dtype": compute.dtype_name, "dtype_reason": compute.reason}  # fmt: skip
    frozen = encoders.network().frozen_state() if encoders.kept else {}
    with ExitStack() as claims:
        runs = {head: claims.enter_context(claimed(*paths)) for head, paths in due.items()}
        for run in runs.values():
            _start(run, frozen, encoders.encoders[0].backbone)
        began = time.perf_counter()
        for fold, head, prediction, fitted in out_of_fold(
            list(due), x, target, fold_of, groups, seed=seed, widths=widths
        ):
            scored, clipped = fold_of == fold, prediction.clip(LOWEST, HIGHEST)
            oof = pd.DataFrame({"Id": table[ID][scored], "fold": fold, "target": target[scored], "prediction": clipped})
            level = float(target[~scored].mean())
            seconds = time.perf_counter() - began + sum(one.seconds for one in features) / folds.k
            facts = {"head": head, "chosen": fitted.words, "seconds": round(seconds, 3), "training_mean": level,
                     "training_rows": int((~scored).sum())}  # fmt: skip
            score = evaluate(target[scored], clipped, level, groups[scored]).to_dict()
            _write_fold(runs[head], fold, oof, fitted, score | about | facts)
            began = time.perf_counter()
        for run in runs.values():
            read_run(run)
    return list(runs.values())


def _start(run: Run, frozen: Mapping[str, Tensor], backbone: str) -> None:
    """Keep the encoders' tensors, if any must be, and remove the results of an earlier fit."""
    if frozen and not run.frozen_file.is_file():
        save_tensors(run.frozen_file, frozen, {"backbone": backbone})
    # A fold with metrics.json counts as finished, so remove the old ones: a run stopped from here on is unfinished.
    for fold in range(run.k):
        (run.fold(fold) / "metrics.json").unlink(missing_ok=True)
    run.oof_file.unlink(missing_ok=True)


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
