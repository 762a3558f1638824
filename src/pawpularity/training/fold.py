"""Train one fold of a run: build the network, cache its frozen features, train, score, write one folder.

The scored fold is predicted only here, after `fit_fold`, which gets the other folds alone.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from pawpularity.console import log
from pawpularity.context import Context
from pawpularity.data.augment import FLIP, ORIGINAL
from pawpularity.device import Compute, choose
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import evaluate, rmse
from pawpularity.evaluation.oof import read_run, write_oof
from pawpularity.files import atomic_folder, file_hash, require_space, write_json, write_text
from pawpularity.models.backbone import count_parameters
from pawpularity.models.network import Network, build_network
from pawpularity.models.weights import save_tensors, tensors_hash
from pawpularity.predictor import score_rows
from pawpularity.runs import Run, claimed, record_of, versions
from pawpularity.signals import stop_requests
from pawpularity.training.checkpoint import Checkpointer, Epoch
from pawpularity.training.fit import Fitted, fit_fold, progress_hooks, training_inputs
from pawpularity.training.loop import accelerator_for, score_together
from pawpularity.training.optimiser import require_trainable
from pawpularity.training.samples import TrainingData, fold_samples, samples_of
from pawpularity.training.trackers import tracker

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
    """Train those of the folds `wanted` (default: all) of the run at `context.run` that are not trained yet.

    `again`: also the trained ones. `fresh`: ignore checkpoints. `skip_taken`: leave out folds that another process is training.
    `data`: if it is loaded already. `on_fold` is called after each trained fold.
    Raises UserError if `context.run` holds a run with other settings, data or folds; Taken; Stopped when asked to stop.
    """
    config = context.config
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # of several processes each gets a GPU of its own
    accelerator, compute = accelerator_for(choose(config.train.dtype))
    with accelerator.main_process_first():
        context.dataset.require_photos()  # labels alone cannot be trained on
        folds = context.folds
        data = data or TrainingData.load(context.dataset, folds, config)
    ids = sorted(context.dataset.train["Id"])
    due = list(range(folds.k)) if wanted is None else list(wanted)
    log(f"device  {compute}{f'; {accelerator.num_processes} processes' if accelerator.num_processes > 1 else ''}")
    run: Run | None = None
    record: dict[str, Any] = {}
    for fold in due:
        if run is not None and not again and fold in run.trained_folds():
            continue
        training, _ = folds.rows(ids, fold)
        with accelerator.main_process_first():
            network = build_network(config, fold=fold, training_mean=data.mean(training))
        if not record:
            require_trainable(network, config.train)
            record = _record(context, network)
            _announce(context, network)
        try:
            with _claimed(accelerator, context, record, network, fold, fresh=fresh) as run:
                if fold in run.trained_folds() and not again:
                    continue
                several = len(set(due) - set(run.trained_folds())) > 1
                _train_fold(context, run, fold, network, data, compute, fresh=fresh, all_features=several)
        except Taken as taken:
            if not skip_taken:
                raise
            log(f"fold {fold} is skipped: {taken}")
            run = Run.open(context.run)
            continue
        on_fold(run, fold)
    assert run is not None
    return run


def _record(context: Context, network: Network) -> dict[str, Any]:
    """What the run's config.json holds."""
    config, dataset, folds = context.config, context.dataset, context.folds
    frozen = network.frozen_state()
    own = config.model.weights == "none" or Path(config.model.weights).is_file()
    folder = None if dataset.folder.is_absolute() else dataset.folder.as_posix()  # records carry no machine's paths
    return record_of(
        config,
        data={"name": dataset.name, "hash": dataset.hash, "photos": len(dataset.train), "folder": folder},
        folds={"file": folds.path.as_posix(), "hash": folds.hash, "k": folds.k},
        weights={
            "source": config.model.weights,
            "frozen": "none" if not frozen else "kept" if own else "named",
            "frozen_hash": tensors_hash(frozen),
            "initial_hash": tensors_hash(network.backbone.state_dict()),
        },
    )


@contextlib.contextmanager
def _claimed(
    accelerator: Accelerator, context: Context, record: dict[str, Any], network: Network, fold: int, *, fresh: bool
) -> Iterator[Run]:
    """The run at `context.run`, and the lock of one of its folds, which the main process holds until the block ends.

    Raises, in all processes, UserError as `claimed`, for other folds of other settings, and Taken.
    """
    with contextlib.ExitStack() as held:
        answer: list[Run | UserError | None] = [None]
        if accelerator.is_main_process:
            try:
                require_space(context.run, 4 * count_parameters(network), "a fold's weights")
                with claimed(context.run, record, fresh=fresh) as run:
                    held.enter_context(_lock(run, fold))
                    if record["weights"]["frozen"] == "kept" and not run.frozen_file.is_file():
                        save_tensors(
                            run.frozen_file, network.frozen_state(), {"backbone": context.config.model.backbone}
                        )
                for other in set(run.trained_folds()) - {fold}:
                    run.metrics(other)
                answer = [run]
            except UserError as error:
                answer = [error]
        broadcast_object_list(answer)
        if not isinstance(answer[0], Run):
            assert answer[0] is not None
            raise answer[0]
        yield answer[0]


def _announce(context: Context, network: Network) -> None:
    """Log what the run is."""
    config = context.config
    random = config.model.weights == "none"
    source = "random weights" if random else f"weights {config.model.weights}"
    log(f"run     {context.run}: {config.model.backbone}, {source}, {config.photos.size} px; {network.unfrozen_note}")
    if network.split.whole and config.model.unfrozen != "all":
        log(f"note    {config.model.backbone} runs whole in every epoch, as it cannot be split: {network.split.whole}")
    if config.train.frozen_bn and random:
        log("note    train.frozen_bn=true with random weights: no BatchNorm learns its statistics; false is better")


def _train_fold(
    context: Context, run: Run, fold: int, network: Network, data: TrainingData, compute: Compute,
    *, fresh: bool, all_features: bool,
) -> None:  # fmt: skip
    """Fit a fold, score its photos, write its folder, and oof.csv when it was the last one missing.

    A fold that was stopped half way is resumed, unless `fresh`. `all_features`: cache what the other folds will need too.
    Raises Stopped, after a checkpoint, when asked to stop.
    """
    config, started = context.config, time.perf_counter()
    accelerator, compute = accelerator_for(compute)
    checkpointer = Checkpointer(run, fold, compute, config.train.checkpoint_minutes)
    if fresh:
        checkpointer.remove()
    checkpointer.check()  # before the features are computed
    ids = np.array(sorted(context.dataset.train["Id"]))
    training, scored = context.folds.rows(ids, fold)
    samples = fold_samples(config, data.scores, training, scored, fold, run.k)
    if run.leaky:
        copied = len(np.unique(samples.rows[np.isin(samples.rows, scored)]))
        log(
            f"LEAKY BY DESIGN (train.split=leaky): copies of {copied} of the {len(scored)} scored photos are trained on"
        )
    network.place(compute.device)
    with accelerator.main_process_first():
        every = np.arange(len(ids))
        pool = samples_of(config, data.scores, every) if all_features and not run.leaky else samples
        inputs = training_inputs(config, data, network, compute, pool, every)
    history: list[Epoch] = []
    # When a finished fold is trained again, its old folder stays whole until the end.
    live = None if fold in run.trained_folds() else run.fold(fold) / "history.csv"

    def on_epoch(epoch: Epoch) -> None:
        history.append(epoch)
        track_epoch(epoch)
        if live is not None:
            write_text(live, history_csv(history))

    with (
        stop_requests() as checkpointer.request,
        tracker(run, fold) as track_epoch,
        progress_hooks(config, f"fold {fold}", on_epoch, checkpointer) as hooks,
    ):
        fitted = fit_fold(
            config, data, training, fold=fold, compute=compute, samples=samples, network=network, inputs=inputs, hooks=hooks
        )  # fmt: skip
    predicted, facts = _predict(config.predict.flip, data, fitted, scored, compute)
    if accelerator.is_main_process:
        found = evaluate(data.scores[scored], predicted, fitted.training_mean, data.groups[scored])
        seconds = checkpointer.spent + time.perf_counter() - started
        facts |= found.to_dict() | {"seconds": round(seconds, 2), "processes": accelerator.num_processes}
        table = {"Id": ids[scored], "fold": fold, "target": data.scores[scored], "prediction": predicted}
        _write(run, fold, pd.DataFrame(table), fitted, facts, compute)
        checkpointer.remove()
        with FileLock(run.folder / ".oof.lock"):
            read_run(run, partly=True)
    accelerator.wait_for_everyone()


@contextlib.contextmanager
def _lock(run: Run, fold: int) -> Iterator[None]:
    try:
        with run.lock(fold):
            yield
    except Timeout:
        raise Taken(f"{run.fold(fold)}: another process is training this fold; wait for it") from None


def _predict(
    flip: bool, data: TrainingData, fitted: Fitted, scored: Rows, compute: Compute
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """The fold's predictions; with `predict.flip` also the RMSE with and without the mirror image."""
    accelerator, _ = accelerator_for(compute)

    def scores_of(view: int) -> NDArray[np.float64]:
        def part(at: Rows) -> NDArray[np.float64]:
            return score_rows(fitted.network, fitted.inputs, scored[at], data.metadata[scored[at]], compute, view=view)

        return score_together(accelerator, part, len(scored))

    by_view = [scores_of(view) for view in ((ORIGINAL, FLIP) if flip else (ORIGINAL,))]
    predicted: NDArray[np.float64] = np.mean(by_view, axis=0)
    if len(by_view) == 1:
        return predicted, {}
    without, both = rmse(data.scores[scored], by_view[0]), rmse(data.scores[scored], predicted)
    log(f"RMSE without mirror images {without:.3f}, with them {both:.3f}")
    return predicted, {"rmse_without_flip": without, "rmse_with_flip": both}


def _write(run: Run, fold: int, table: pd.DataFrame, fitted: Fitted, figures: dict[str, Any], compute: Compute) -> None:
    """The fold's folder, whole."""
    network = fitted.network
    header = {"run": run.name, "fold": str(fold), "backbone": run.config.model.backbone,
              "frozen_hash": run.record["weights"]["frozen_hash"]}  # fmt: skip
    with atomic_folder(run.fold(fold)) as folder:
        write_oof(folder / "predictions.csv", table)
        write_text(folder / "history.csv", history_csv(fitted.history))
        save_tensors(folder / "head.safetensors", network.trained_state(), header)
        about = {
            "epochs": fitted.epochs,
            "averaged": fitted.averaged,
            "epochs_run": len(fitted.history),
            "seed": run.config.train.seed,
            "device": compute.device.type,
            "dtype": compute.dtype_name,
            "dtype_reason": compute.reason,
            "training_mean": fitted.training_mean,
            "training_rows": fitted.training_rows,
            "inner_rows": fitted.inner_rows,
            "parameters": count_parameters(network),
            "trained_parameters": count_parameters(network, trained_only=True),
            "settings": run.settings,
            "predictions_hash": file_hash(folder / "predictions.csv"),
            "head_hash": tensors_hash(network.trained_state()),
            "versions": versions(),
        }
        write_json(folder / "metrics.json", figures | about)


def history_csv(history: Sequence[Epoch]) -> str:
    """`epoch,train_rmse,inner_rmse,lr,seconds`; empty where not measured."""

    def number(value: float) -> str:
        return "" if math.isnan(value) else f"{value:.6f}"

    lines = [f"{e.epoch},{number(e.train_rmse)},{number(e.inner_rmse)},{e.lr:.6g},{e.seconds:.3f}" for e in history]
    return "\n".join(["epoch,train_rmse,inner_rmse,lr,seconds", *lines]) + "\n"
