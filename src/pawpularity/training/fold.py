"""Train one fold of a run and leave its artefacts, whole or not at all.

Here the scored fold meets the network for the only time: after `fit_fold`, which sees the other folds alone.
"""

import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from pawpularity.console import log
from pawpularity.data.augment import FLIP, ORIGINAL
from pawpularity.data.dataset import Dataset
from pawpularity.data.folds import Folds
from pawpularity.data.tables import METADATA, TARGET
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import Metrics, evaluate, rmse
from pawpularity.evaluation.oof import assemble, write_oof
from pawpularity.features.build import Trunks
from pawpularity.files import atomic_folder, file_hash, require_space, write_json, write_text
from pawpularity.models.backbone import count_parameters
from pawpularity.models.network import build_network
from pawpularity.models.weights import save_tensors, tensors_hash
from pawpularity.runs import Run, git_commit, record_of, versions
from pawpularity.schema import Config
from pawpularity.training.early_stopping import Epoch
from pawpularity.training.fit import Fitted, fit_fold
from pawpularity.training.labelled import LabelledPhotos
from pawpularity.training.processes import ALONE, Processes
from pawpularity.training.progress import progress
from pawpularity.training.samples import Items, as_they_are, fold_items, looked_at, scored_pairs, shown
from pawpularity.training.sharing import keeper_of
from pawpularity.training.stop import stop_requests


def start_run(
    folder: Path, config: Config, dataset: Dataset, folds: Folds, *, processes: Processes = ALONE,
    compute: Compute | None = None,
) -> tuple[Run, str]:  # fmt: skip
    """Open or make the run at `folder`, and say how much of the backbone is trained.

    Random or home-made frozen tensors are kept as trunk.safetensors. Of several processes the first makes it.

    Raises UserError when a run with other settings, data, folds or trunk stands there, or `processes` cannot share `compute`.
    """
    dataset.photo_paths()  # labels alone cannot be trained on: said before anything is written
    network = build_network(config, fold=0)
    frozen = network.frozen_state()
    home_made = config.model.weights == "none" or Path(config.model.weights).is_file()
    trunk = "none" if not frozen else "kept" if home_made else "named"
    record = record_of(
        config,
        data={"name": dataset.name, "hash": dataset.hash, "photos": len(dataset.train),
              "folder": _portable(dataset.folder)},
        folds={"file": folds.path.as_posix(), "hash": folds.hash, "k": folds.k},
        weights={"source": config.model.weights, "trunk": trunk, "trunk_hash": tensors_hash(frozen),
                 "initial_hash": tensors_hash(network.backbone.state_dict())},
    )  # fmt: skip
    require_space(folder, 4 * count_parameters(network), "a fold's weights")
    if compute is not None:
        processes.require_statistics(network, compute)
    run = Run.start(folder, record) if processes.first else Run.same(folder, record) or Run(folder, record)
    if trunk == "kept" and processes.first:
        save_tensors(run.trunk_file, frozen, {"backbone": config.model.backbone})
    note = network.frozen.note
    if config.train.frozen_bn and config.model.weights == "none":
        note += "; train.frozen_bn=true beside random weights: no BatchNorm ever learns its statistics, false would train better"
    return run, note


def _portable(folder: Path) -> str | None:
    """The data folder as it was named, if that means something below this checkout; artefacts carry no machine's paths."""
    return None if folder.is_absolute() else folder.as_posix()


def labelled_photos(dataset: Dataset, folds: Folds, config: Config) -> LabelledPhotos:
    """The data set as arrays, sorted by Id."""
    ids = dataset.train["Id"].tolist()
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
    table = dataset.train.iloc[order]
    cache = Path(config.cache.folder)
    photos = dataset.photos(config.photos.size, config.photos.fit, cache)
    return LabelledPhotos(
        photos=photos,
        photo_rows=order,
        metadata=table[list(METADATA)].to_numpy(dtype=np.float32),
        scores=table[TARGET].to_numpy(dtype=np.float64),
        groups=folds.groups_of(table["Id"]),
        trunks=Trunks(cache / "trunk", photos, config.photos.size, config.cache.budget_gb),
    )


class Taken(UserError):
    """Another process trains this fold, or has trained it meanwhile."""


def train_fold(
    run: Run,
    dataset: Dataset,
    folds: Folds,
    fold: int,
    compute: Compute,
    rows: LabelledPhotos | None = None,
    *,
    fresh: bool = False,
    again: bool = True,
    processes: Processes = ALONE,
) -> Metrics:
    """Fit fold `fold` of `run`, score its photos, write its folder, and oof.csv when it was the last one missing.

    `rows`: what `labelled_photos` gave, where several folds share it. A fold that was stopped half way goes on, unless
    `fresh`. Without `again` a fold that is trained already is Taken. Of several `processes` the first holds the lock and writes.

    Raises UserError for a fold outside 0..K-1; Taken, which is one, where another process is training it; Stopped when the
    process is asked to end, after the fold's state was kept.
    """
    if not 0 <= fold < folds.k:
        raise UserError(f"--fold {fold}: the folds file has folds 0..{folds.k - 1}")
    rows = rows or labelled_photos(dataset, folds, run.config)
    ids = sorted(dataset.train["Id"])
    training, scored = folds.rows(ids, fold)
    if run.fold(fold).exists() and not run.fold(fold).is_dir():
        raise UserError(f"{run.fold(fold)}: is a file where the fold's folder should be; move it away")
    lock = FileLock(run.folder / f".fold{fold}.lock", timeout=0)

    def take() -> None:
        try:
            lock.acquire()
        except Timeout:
            raise Taken(f"{run.fold(fold)}: another process is training this fold; wait for it") from None

    processes.agreed(take if processes.first else _nothing)
    try:
        # Asked with the lock in hand: another process may have trained it a moment ago.
        if not again and processes.from_first(fold in run.trained_folds()):
            raise Taken(f"{run.fold(fold)}: is trained already")
        items = fold_items(run.config, rows.scores, training, scored, fold, folds.k)
        if run.leaky:
            copied = int((np.unique(items.rows[np.isin(items.rows, scored)])).size)
            log(
                f"LEAKY BY DESIGN (train.split=leaky): copies of {copied} of the {len(scored)} photos to be scored are trained on"
            )
        started = time.perf_counter()
        prepare_trunk(run.config, rows, items, np.concatenate([training, scored]), compute, processes)
        with stop_requests() as request, progress(run, fold) as bars:
            keeper = bars.keeper = keeper_of(run, fold, compute, request, processes)
            if fresh:
                keeper.remove()
            with keeper.helped():
                fitted = fit_fold(
                    run.config,
                    rows,
                    training,
                    fold=fold,
                    compute=compute,
                    items=items,
                    on_epoch=bars.on_epoch,
                    on_step=bars.on_step,
                    keeper=keeper,
                    processes=processes,
                )
        predicted, flips = _predicted(run.config, rows, fitted, scored, compute, processes)
        seconds = keeper.spent + time.perf_counter() - started
        result = evaluate(rows.scores[scored], predicted, fitted.training_mean, rows.groups[scored])
        table = pd.DataFrame(
            {"Id": np.array(ids)[scored], "fold": fold, "target": rows.scores[scored], "prediction": predicted}
        )

        def leave() -> None:
            with atomic_folder(run.fold(fold)) as folder:
                _leave(folder, run, fold, table, fitted, result, seconds, compute, flips, processes.size)
            keeper.remove()
            # One at a time: a process that finds a fold missing must not remove the oof.csv that another has just completed.
            with FileLock(run.folder / ".oof.lock"):
                assemble(run)

        processes.agreed(leave if processes.first else _nothing)
        return result
    finally:
        lock.release()


def _nothing() -> None:
    """What the other processes do while the first writes."""


def prepare_trunk(
    config: Config,
    rows: LabelledPhotos,
    items: Items,
    seen: NDArray[np.int64],
    compute: Compute,
    processes: Processes = ALONE,
) -> None:
    """Compute at once every trunk state that fitting on `items` and looking at the rows `seen` will ask for; say what is used.

    The frozen trunk looks at photos, never at scores, so scored rows may pass through it before the fit. Of several
    processes one a machine computes, and decodes the photos where there are no states.
    """

    def prepare() -> None:
        with processes.whole_machine():
            states = _trunk_states(config, rows, items, seen, compute)
        if not states and processes.size > 1:
            _ = rows.photos.pixels  # decoded once, and kept

    processes.in_turn(prepare)


def _trunk_states(
    config: Config, rows: LabelledPhotos, items: Items, seen: NDArray[np.int64], compute: Compute
) -> bool:
    """Whether states are kept, and then all are there."""
    network = build_network(config, fold=0).to(compute.device)
    if network.cut == 0 or rows.trunks is None:
        return False
    if config.train.mixup:
        rows.trunks.say_once(
            "trunk   train.mixup mixes photos, so the frozen part runs in every epoch (train.manifold_mixup mixes its states)"
        )
        return False
    pairs, views = looked_at(shown(config, items), as_they_are(seen), scored_pairs(config, seen))
    file = rows.trunks.open(network, compute, rows.photo_rows[pairs], views)
    if file is not None:
        rows.trunks.say_once(f"trunk   {file.folder}: the answers of {network.cut} frozen blocks of {len(network.chain)} are kept; "
                             "only the tail is trained")  # fmt: skip
    return file is not None


def _predicted(
    config: Config,
    rows: LabelledPhotos,
    fitted: Fitted,
    scored: NDArray[np.int64],
    compute: Compute,
    processes: Processes,
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """The fold's predictions; with `predict.flip` also the RMSE without it, so that both ways stand side by side."""
    views = (ORIGINAL, FLIP) if config.predict.flip else (ORIGINAL,)
    where, seen = np.tile(scored, len(views)), np.repeat(views, len(scored))
    inputs = rows.pixels if config.train.mixup else rows.inputs(fitted.network, compute, where, seen)
    network, columns = fitted.network, rows.metadata[scored]
    ways = [processes.score_rows(network, inputs, scored, columns, compute, view=view) for view in views]
    predicted: NDArray[np.float64] = np.mean(ways, axis=0)
    if len(ways) == 1:
        return predicted, {}
    both = {
        "rmse_without_flip": rmse(rows.scores[scored], ways[0]),
        "rmse_with_flip": rmse(rows.scores[scored], predicted),
    }
    log(f"scored as they are {both['rmse_without_flip']:.3f}, with their mirror images {both['rmse_with_flip']:.3f}")
    return predicted, both


def _leave(
    folder: Path,
    run: Run,
    fold: int,
    table: pd.DataFrame,
    fitted: Fitted,
    result: Metrics,
    seconds: float,
    compute: Compute,
    flips: dict[str, float],
    processes: int,
) -> None:
    write_oof(folder / "predictions.csv", table)
    write_text(folder / "history.csv", _history(fitted.history))
    save_tensors(
        folder / "tail.safetensors",
        fitted.network.trained_state(),
        {"run": run.name, "fold": str(fold), "backbone": run.config.model.backbone,
         "trunk_hash": run.record["weights"]["trunk_hash"]},
    )  # fmt: skip
    write_json(
        folder / "metrics.json",
        result.to_dict()
        | flips
        | {
            "epochs": fitted.epochs,
            "epochs_run": len(fitted.history),
            "seconds": round(seconds, 2),
            "seed": run.config.train.seed,
            "device": compute.device.type,
            "dtype": compute.dtype_name,
            "dtype_reason": compute.reason,
            "torch_threads": torch.get_num_threads(),
            "processes": processes,
            "training_mean": fitted.training_mean,
            "training_rows": fitted.training_rows,
            "inner_rows": fitted.inner_rows,
            "items_an_epoch": fitted.items,
            "parameters": count_parameters(fitted.network),
            "trained_parameters": count_parameters(fitted.network, trained_only=True),
            "notes": fitted.notes,
            "predictions_hash": file_hash(folder / "predictions.csv"),
            "tail_hash": tensors_hash(fitted.network.trained_state()),
            "git_commit": git_commit(),
            "versions": versions(),
        },
    )


def _history(history: list[Epoch]) -> str:
    def number(value: float, digits: int) -> str:
        return "" if math.isnan(value) else f"{value:.{digits}f}"

    lines = ["epoch,train_rmse,inner_rmse,lr,seconds"]
    lines += [
        f"{e.epoch},{number(e.train_rmse, 6)},{number(e.inner_rmse, 6)},{e.lr:.6g},{e.seconds:.3f}" for e in history
    ]
    return "\n".join(lines) + "\n"
