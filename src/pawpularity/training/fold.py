"""Train one fold of a run: build the network, cache its frozen features, train, score, write one folder.

Here the scored fold meets the network for the only time: after `fit_fold`, which sees the other folds only.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from pawpularity.console import Progress, log
from pawpularity.context import Context
from pawpularity.data.augment import FLIP, ORIGINAL
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import Metrics, evaluate, rmse
from pawpularity.evaluation.oof import read_run, write_oof
from pawpularity.files import atomic_folder, file_hash, require_space, write_json, write_text
from pawpularity.models.backbone import count_parameters
from pawpularity.models.network import Network, build_network
from pawpularity.models.weights import save_tensors, tensors_hash
from pawpularity.predictor import score_rows
from pawpularity.runs import Run, git_commit, record_of, versions
from pawpularity.signals import StopRequest, stop_requests
from pawpularity.training.checkpoint import Checkpointer
from pawpularity.training.distributed import accelerator_for, choose_compute, score_together
from pawpularity.training.fit import Fitted, fit_fold, training_inputs, training_mean
from pawpularity.training.loop import Hooks
from pawpularity.training.optim import Epoch
from pawpularity.training.samples import TrainingData, fold_samples, samples_of

Rows = NDArray[np.int64]


class Taken(UserError):
    """Another process is training this fold, or has trained it meanwhile."""


def train_run(
    context: Context,
    *,
    wanted: Sequence[int] | None = None,
    again: bool = False,
    fresh: bool = False,
    skip_taken: bool = False,
    data: TrainingData | None = None,
    on_fold: Callable[[Run, int], None] = lambda run, fold: None,
) -> Run:
    """Train the folds `wanted` (default: all) of the run at `context.run`, as far as they are not trained yet.

    `again`: also those that are. `fresh`: ignore checkpoints. `skip_taken`: leave out folds that another process is training.
    `data`: where it is at hand. `on_fold` is told each trained fold.
    Raises UserError where a run with other settings, data or folds stands there; Taken; Stopped when asked to stop.
    """
    compute = choose_compute(context.config.train.dtype)
    accelerator, compute = accelerator_for(compute)
    with accelerator.main_process_first():
        context.dataset.require_photos()  # labels alone cannot be trained on
        folds = context.folds
        data = data or TrainingData.load(context.dataset, folds, context.config)
    due = list(range(folds.k)) if wanted is None else list(wanted)
    if bad := [fold for fold in due if not 0 <= fold < folds.k]:
        raise UserError(f"--fold {bad[0]}: the folds file has folds 0..{folds.k - 1}")
    log(f"device  {compute}{f'; {accelerator.num_processes} processes' if accelerator.num_processes > 1 else ''}")
    run: Run | None = None
    for fold in due:
        if run is not None and not again and fold in run.trained_folds():
            continue
        with accelerator.main_process_first():
            network = _build(context, data, fold)
            run = _open_run(context, network, first=run is None)
        if not again and fold in run.trained_folds():
            continue
        accelerator.wait_for_everyone()
        try:
            several = len(set(due) - set(run.trained_folds())) > 1
            train_fold(context, run, fold, network, data, compute, again=again, fresh=fresh, all_features=several)
        except Taken as taken:
            if not skip_taken:
                raise
            log(f"fold {fold} is skipped: {taken}")
            continue
        on_fold(run, fold)
    assert run is not None
    return run


def _build(context: Context, data: TrainingData, fold: int) -> Network:
    training, _ = context.folds.rows(sorted(context.dataset.train["Id"]), fold)
    return build_network(context.config, fold=fold, training_mean=training_mean(data, training))


def _open_run(context: Context, network: Network, *, first: bool) -> Run:
    """Open or start the run at `context.run`. A frozen part that cannot be had elsewhere is kept as frozen.safetensors."""
    config, dataset, folds = context.config, context.dataset, context.folds
    frozen = network.frozen_state()
    home_made = config.model.weights == "none" or Path(config.model.weights).is_file()
    source = "none" if not frozen else "kept" if home_made else "named"
    folder = None if dataset.folder.is_absolute() else dataset.folder.as_posix()  # records carry no machine's paths
    record = record_of(
        config,
        data={"name": dataset.name, "hash": dataset.hash, "photos": len(dataset.train), "folder": folder},
        folds={"file": folds.path.as_posix(), "hash": folds.hash, "k": folds.k},
        weights={
            "source": config.model.weights,
            "frozen": source,
            "frozen_hash": tensors_hash(frozen),
            "initial_hash": tensors_hash(network.backbone.state_dict()),
        },
    )
    require_space(context.run, 4 * count_parameters(network), "a fold's weights")
    run = Run.start(context.run, record)
    if source == "kept" and not run.frozen_file.is_file():
        save_tensors(run.frozen_file, frozen, {"backbone": config.model.backbone})
    if first:
        weights = "random weights" if config.model.weights == "none" else f"weights {config.model.weights}"
        log(f"run     {run.folder}: {config.model.backbone}, {weights}, {config.photos.size} px; {network.depth.note}")
        if config.train.frozen_bn and config.model.weights == "none":
            log("note    train.frozen_bn=true with random weights: no BatchNorm learns its statistics; false is better")
    return run


def train_fold(
    context: Context,
    run: Run,
    fold: int,
    network: Network,
    data: TrainingData,
    compute: Compute,
    *,
    again: bool = True,
    fresh: bool = False,
    all_features: bool = False,
) -> Metrics:
    """Fit fold `fold`, score its photos, write its folder, and oof.csv when it was the last one missing.

    A fold that was stopped half way is resumed, unless `fresh`. `all_features`: cache what the other folds will need too.
    Raises Taken where another process trains the fold; Stopped, after a checkpoint, when asked to stop.
    """
    config = context.config
    ids = sorted(context.dataset.train["Id"])
    training, scored = context.folds.rows(ids, fold)
    accelerator, compute = accelerator_for(compute)
    with _lock(run, fold) if accelerator.is_main_process else contextlib.nullcontext():
        # Asked with the lock in hand: another process may have trained it a moment ago.
        if not again and fold in run.trained_folds():
            raise Taken(f"{run.fold(fold)}: is trained already")
        samples = fold_samples(config, data.scores, training, scored, fold, context.folds.k)
        if run.leaky:
            copied = len(np.unique(samples.rows[np.isin(samples.rows, scored)]))
            log(
                f"LEAKY BY DESIGN (train.split=leaky): copies of {copied} of the {len(scored)} scored photos are trained on"
            )
        started = time.perf_counter()
        network.place(compute.device)
        with accelerator.main_process_first():
            every = np.arange(len(ids))
            pool = samples_of(config, data.scores, every) if all_features and not run.leaky else samples
            inputs = training_inputs(config, data, network, compute, pool, every)
        with stop_requests() as request, _hooks(run, fold, compute, request, fresh) as hooks:
            fitted = fit_fold(
                config, data, training, fold=fold, compute=compute, samples=samples, network=network, inputs=inputs, hooks=hooks
            )  # fmt: skip
        predicted, flips = _predict(config.predict.flip, data, fitted, scored, compute)
        result = evaluate(data.scores[scored], predicted, fitted.training_mean, data.groups[scored])
        if accelerator.is_main_process:
            assert hooks.checkpointer is not None
            seconds = hooks.checkpointer.spent + time.perf_counter() - started
            facts = flips | {"seconds": round(seconds, 2), "processes": accelerator.num_processes}
            table = {"Id": np.array(ids)[scored], "fold": fold, "target": data.scores[scored], "prediction": predicted}
            _write(run, fold, pd.DataFrame(table), fitted, result.to_dict() | facts, compute)
            hooks.checkpointer.remove()
            with FileLock(run.folder / ".oof.lock"):
                read_run(run, partly=True)
        accelerator.wait_for_everyone()
        return result


@contextlib.contextmanager
def _lock(run: Run, fold: int) -> Iterator[None]:
    lock = FileLock(run.folder / f".fold{fold}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise Taken(f"{run.fold(fold)}: another process is training this fold; wait for it") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _hooks(run: Run, fold: int, compute: Compute, request: StopRequest, fresh: bool) -> Iterator[Hooks]:
    """A progress bar over steps with the last epoch's figures, a growing history.csv, and checkpoints."""
    train = run.config.train
    checkpointer = Checkpointer(run, fold, compute, request, train.checkpoint_minutes)
    if fresh:
        checkpointer.remove()
    history: list[Epoch] = []
    live = (
        None if fold in run.trained_folds() else run.fold(fold) / "history.csv"
    )  # a trained fold stays whole until the end
    watched = train.stop != "none"
    with Progress(None, f"fold {fold}", "step") as progress:

        def on_step(steps: int) -> None:
            if progress.total is None:
                progress.start(train.epochs * steps)
            progress.add()

        def on_epoch(epoch: Epoch) -> None:
            history.append(epoch)
            if live is not None:
                write_text(live, history_csv(history))
            # The refit on all training rows, which nothing watches, continues the numbering of the watched epochs.
            refit = watched and math.isnan(epoch.inner_rmse)
            figures = [
                f"refit, epoch {epoch.epoch}" if refit else f"epoch {epoch.epoch}/{train.epochs}",
                f"lr {epoch.lr:.2g}",
            ]
            figures += [
                f"{name} {value:.2f}"
                for name, value in (("train", epoch.train_rmse), ("inner", epoch.inner_rmse))
                if not math.isnan(value)
            ]
            progress.note(", ".join(figures))

        yield Hooks(on_epoch, on_step, checkpointer)


def _predict(
    flip: bool, data: TrainingData, fitted: Fitted, scored: Rows, compute: Compute
) -> tuple[NDArray[np.float64], dict[str, float]]:
    """The fold's predictions; with `predict.flip` also the RMSE with and without the mirror image."""
    accelerator, _ = accelerator_for(compute)

    def seen_as(view: int) -> NDArray[np.float64]:
        def part(at: Rows) -> NDArray[np.float64]:
            return score_rows(fitted.network, fitted.inputs, scored[at], data.metadata[scored[at]], compute, view=view)

        return score_together(accelerator, part, len(scored))

    ways = [seen_as(view) for view in ((ORIGINAL, FLIP) if flip else (ORIGINAL,))]
    predicted: NDArray[np.float64] = np.mean(ways, axis=0)
    if len(ways) == 1:
        return predicted, {}
    both = {
        "rmse_without_flip": rmse(data.scores[scored], ways[0]),
        "rmse_with_flip": rmse(data.scores[scored], predicted),
    }
    log(f"RMSE without mirror images {both['rmse_without_flip']:.3f}, with them {both['rmse_with_flip']:.3f}")
    return predicted, both


def _write(run: Run, fold: int, table: pd.DataFrame, fitted: Fitted, figures: dict[str, Any], compute: Compute) -> None:
    """The fold's folder, whole."""
    network = fitted.network
    belongs = {"run": run.name, "fold": str(fold), "backbone": run.config.model.backbone,
               "frozen_hash": run.record["weights"]["frozen_hash"]}  # fmt: skip
    with atomic_folder(run.fold(fold)) as folder:
        write_oof(folder / "predictions.csv", table)
        write_text(folder / "history.csv", history_csv(fitted.history))
        save_tensors(folder / "head.safetensors", network.trained_state(), belongs)
        about = {
            "epochs": fitted.epochs,
            "epochs_run": len(fitted.history),
            "seed": run.config.train.seed,
            "device": compute.device.type,
            "dtype": compute.dtype_name,
            "dtype_reason": compute.reason,
            "torch_threads": torch.get_num_threads(),
            "training_mean": fitted.training_mean,
            "training_rows": fitted.training_rows,
            "inner_rows": fitted.inner_rows,
            "samples_an_epoch": fitted.samples,
            "parameters": count_parameters(network),
            "trained_parameters": count_parameters(network, trained_only=True),
            "notes": fitted.notes,
            "predictions_hash": file_hash(folder / "predictions.csv"),
            "head_hash": tensors_hash(network.trained_state()),
            "git_commit": git_commit(),
            "versions": versions(),
        }
        write_json(folder / "metrics.json", figures | about)


def history_csv(history: Sequence[Epoch]) -> str:
    """`epoch,train_rmse,inner_rmse,lr,seconds`; empty where not measured."""

    def number(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.6f}"

    lines = [f"{e.epoch},{number(e.train_rmse)},{number(e.inner_rmse)},{e.lr:.6g},{e.seconds:.3f}" for e in history]
    return "\n".join(["epoch,train_rmse,inner_rmse,lr,seconds", *lines]) + "\n"
