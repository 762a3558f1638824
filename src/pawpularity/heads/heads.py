"""Probes: heads fitted on frozen features, scored out of fold as runs of their own.

Each of several towers alone and all of them side by side, with the twelve metadata columns and without, under a ridge or a
support vector machine: one run each, `oof/probe-NAME[-logits][-svr][-meta]/`, in the same contract as trained runs, so that
the table over runs and the mean blend take them. A run is made whole every time; it keeps no network to predict with.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.console import log
from pawpularity.data.dataset import Dataset
from pawpularity.data.folds import Folds
from pawpularity.data.tables import METADATA, TARGET
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import evaluate
from pawpularity.evaluation.oof import assemble, write_oof
from pawpularity.features.build import Trunks
from pawpularity.files import file_hash, text_hash, write_json
from pawpularity.heads.features import Tower, frozen_features, towers_of
from pawpularity.heads.ridge import ALPHAS, Floats, Table, require_inner_folds, ridge_oof
from pawpularity.heads.svr import CANDIDATES, INNER_ROWS, svr_oof
from pawpularity.models.network import HIGHEST, LOWEST
from pawpularity.runs import OOF, Run, check_name, git_commit, record_of, versions
from pawpularity.schema import Config, Model, Train

HEADS = ("ridge", "svr")
_LONGEST = 60  # letters of several towers' names in a run's name; beyond it they are counted and hashed


@dataclass(frozen=True)
class Probe:
    """One row of the table: which towers' features, which head, metadata beside them or not."""

    towers: tuple[Tower, ...]
    head: str
    metadata: bool

    def name(self, word: str, suffix: str) -> str:
        """The run's name: `word-TOWERS[-logits][-svr][-meta]suffix`. Raises UserError where that is no folder's name."""
        marks = [word, _together([tower.name for tower in self.towers])]
        marks += ["logits"] if self.towers[0].kind == "logits" else []
        marks += ["svr"] if self.head == "svr" else []
        marks += ["meta"] if self.metadata else []
        return check_name("-".join(marks) + suffix)

    def record(self, config: Config, dataset: Dataset, folds: Folds) -> dict[str, Any]:
        """What the run's config.json holds. Settings that a probe does not use are left at their defaults."""
        model, used = self.towers[0].model, config.train
        own = Config(
            name="-".join(tower.name for tower in self.towers),
            photos=config.photos,
            folds=config.folds,
            model=Model(
                backbone=model.backbone,
                args=model.args,
                weights=model.weights,
                metadata="use" if self.metadata else "none",
            ),
            train=Train(seed=used.seed, dtype=used.dtype),
            cache=config.cache,
        )
        tried = list(ALPHAS) if self.head == "ridge" else [str(candidate) for candidate in CANDIDATES]
        return record_of(
            own,
            data={"name": dataset.name, "hash": dataset.hash, "photos": len(dataset.train),
                  "folder": None if dataset.folder.is_absolute() else dataset.folder.as_posix()},
            folds={"file": folds.path.as_posix(), "hash": folds.hash, "k": folds.k},
            weights={"source": model.weights, "initial_hash": text_hash(*(t.weights_hash for t in self.towers))},
        ) | {
            "kind": "probe",
            "probe": {"head": self.head, "features": self.towers[0].kind, "towers": [t.name for t in self.towers],
                      "widths": [t.width for t in self.towers], "tried": tried,
                      "inner_rows": None if self.head == "ridge" else INNER_ROWS},
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rows:
    """The labelled table sorted by Id."""

    ids: list[str]
    photo_rows: NDArray[np.int64]
    """(n,) where each row's photo is in the photo cache"""
    metadata: NDArray[np.float32]
    """(n, 12)"""
    scores: Floats
    """(n,) points"""
    folds: NDArray[np.int64]
    groups: NDArray[np.int64]

    @staticmethod
    def of(dataset: Dataset, folds: Folds) -> "Rows":
        """The training table of `dataset`."""
        ids = dataset.train["Id"].tolist()
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        table = dataset.train.iloc[order]
        return Rows(
            ids=table["Id"].tolist(),
            photo_rows=order,
            metadata=table[list(METADATA)].to_numpy(dtype=np.float32),
            scores=table[TARGET].to_numpy(dtype=np.float64),
            folds=folds.folds_of(table["Id"]),
            groups=folds.groups_of(table["Id"]),
        )


@dataclass(frozen=True, eq=False)
class Fitted:
    """A head's answers: clipped predictions (n,), and by fold what was chosen, in words and for metrics.json."""

    prediction: Floats
    chosen: list[str]
    details: list[dict[str, Any]]


def run_probes(
    config: Config,
    dataset: Dataset,
    folds: Folds,
    compute: Compute,
    *,
    backbones: Sequence[str],
    kind: str = "pooled",
    heads: Sequence[str] = ("ridge",),
    metadata: Sequence[bool] = (False, True),
    word: str = "probe",
    suffix: str = "",
    root: Path = OOF,
) -> list[Run]:
    """Score every tower alone, and all together if there are several, under each head, with and without metadata.

    Every place is looked at before anything is computed. Raises UserError for labels without photos, a network that
    cannot be had, fewer than three folds, and a run of the same name with other settings.
    """
    dataset.photo_paths()
    require_inner_folds(folds.k)
    size, seed = config.photos.size, config.train.seed
    towers = towers_of(config.model, list(backbones), kind, size=size, seed=seed)
    sets = [(tower,) for tower in towers] + ([tuple(towers)] if len(towers) > 1 else [])
    planned = []
    for probe in (Probe(members, head, with_) for members in sets for head in heads for with_ in metadata):
        folder = root / probe.name(word, suffix)
        record = probe.record(config, dataset, folds)
        Run.same(folder, record)
        planned.append((probe, folder, record))
    rows = Rows.of(dataset, folds)
    cache = Path(config.cache.folder)
    photos = dataset.photos(size, config.photos.fit, cache)
    trunks = Trunks(cache / "trunk", photos, size, config.cache.budget_gb)
    # One table for all: a tower's features are a range of its columns, the metadata stand at the end.
    starts = np.cumsum([0, *(tower.width for tower in towers)])
    table = np.empty((len(rows.ids), int(starts[-1]) + len(METADATA)), dtype=np.float32)
    table[:, starts[-1] :] = rows.metadata
    seconds = {}
    for tower, start in zip(towers, starts, strict=False):
        began = time.perf_counter()
        table[:, start : start + tower.width] = frozen_features(
            photos, rows.photo_rows, tower.model, kind, size, compute, seed=seed, trunks=trunks
        )
        seconds[tower.name] = time.perf_counter() - began
        log(
            f"tower   {tower.name}: {tower.width} {kind} features of {len(table)} photos in {seconds[tower.name]:.1f} s"
        )
    runs = []
    for probe, folder, record in planned:
        wanted = _columns(probe, towers, starts, table.shape[1])
        began = time.perf_counter()
        fitted = fit_head(probe.head, table[:, wanted], rows, seed)
        spent = time.perf_counter() - began + sum(seconds[tower.name] for tower in probe.towers)
        runs.append(_leave(Run.start(folder, record), probe, rows, fitted, spent, len(wanted), compute))
    return runs


def fit_head(head: str, features: Table, rows: Rows, seed: int) -> Fitted:
    """Out-of-fold predictions of `rows` by `head` from `features` (n, p), clipped to the contest's 1..100."""
    if head == "ridge":
        ridge = ridge_oof(features, rows.scores, rows.folds)
        k = len(ridge.chosen)
        return Fitted(
            ridge.prediction.clip(LOWEST, HIGHEST),
            [f"alpha {_short(ridge.alpha(fold))}{_edge(ridge.at_edge(fold))}" for fold in range(k)],
            [{"alpha": ridge.alpha(fold), "at_edge": ridge.at_edge(fold),
              "inner_rmse": dict(zip(map(_short, ridge.alphas), ridge.inner_rmse[fold].tolist(), strict=True)),
              "inner_rows": int((rows.folds != fold).sum())} for fold in range(k)],
        )  # fmt: skip
    svr = svr_oof(features, rows.scores, rows.folds, rows.groups, seed=seed)
    k = len(svr.chosen)
    if min(svr.inner_rows) < len(rows.ids) - int(np.bincount(rows.folds).max()):
        log(f"svr     chose kernel and C on {min(svr.inner_rows)} of each fold's training rows; the fit has them all")
    return Fitted(
        svr.prediction.clip(LOWEST, HIGHEST),
        [f"{svr.chosen[fold]}{_edge(svr.at_edge(fold))}" for fold in range(k)],
        [{"kernel": svr.chosen[fold].kernel, "c": svr.chosen[fold].c, "epsilon": svr.chosen[fold].epsilon,
          "at_edge": svr.at_edge(fold),
          "inner_rmse": dict(zip(map(str, svr.candidates), svr.inner_rmse[fold].tolist(), strict=True)),
          "inner_rows": svr.inner_rows[fold]} for fold in range(k)],
    )  # fmt: skip


def _leave(run: Run, probe: Probe, rows: Rows, fitted: Fitted, seconds: float, width: int, compute: Compute) -> Run:
    """Write the run's folds and its oof.csv, in the place of what an earlier start left."""
    # metrics.json vouches for a fold: without any, a run that is stopped here is one that was never finished.
    for fold in range(run.k):
        if run.fold(fold).exists() and not run.fold(fold).is_dir():
            raise UserError(f"{run.fold(fold)}: is a file where the fold's folder should be; move it away")
    for fold in range(run.k):
        (run.fold(fold) / "metrics.json").unlink(missing_ok=True)
    run.oof_file.unlink(missing_ok=True)
    ids = np.array(rows.ids)
    for fold in range(run.k):
        scored = rows.folds == fold
        level = float(rows.scores[~scored].mean())
        target, prediction = rows.scores[scored], fitted.prediction[scored]
        file = run.predictions_file(fold)
        write_oof(file, pd.DataFrame({"Id": ids[scored], "fold": fold, "target": target, "prediction": prediction}))
        write_json(
            run.fold(fold) / "metrics.json",
            evaluate(target, prediction, level, rows.groups[scored]).to_dict()
            | {
                "head": probe.head,
                "chosen": fitted.chosen[fold],
                **fitted.details[fold],
                "features": width,
                "seconds": round(seconds / run.k, 3),
                "seed": run.record["config"]["train"]["seed"],
                "device": compute.device.type,
                "dtype": compute.dtype_name,
                "dtype_reason": compute.reason,
                "training_mean": level,
                "training_rows": int((~scored).sum()),
                "predictions_hash": file_hash(file),
                "git_commit": git_commit(),
                "versions": versions(),
            },
        )
    assemble(run)
    return run


def _columns(probe: Probe, towers: Sequence[Tower], starts: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Columns of the whole table that belong to `probe`, ascending."""
    taken = [np.arange(start, start + t.width) for t, start in zip(towers, starts, strict=False) if t in probe.towers]
    return np.concatenate([*taken, np.arange(starts[-1], width if probe.metadata else starts[-1])])


def _together(names: Sequence[str]) -> str:
    joined = "-".join(names)
    if len(joined) <= _LONGEST:
        return joined
    first = names[0][: _LONGEST // 2]
    others = f"and-{len(names) - 1}-more-" if len(names) > 1 else ""
    return f"{first}-{others}{text_hash(*names)[:6]}"


def _short(alpha: float) -> str:
    return f"{alpha:.3g}" if alpha < 1000 else f"{alpha:.0f}"


def _edge(at_edge: bool) -> str:
    return " (edge)" if at_edge else ""
