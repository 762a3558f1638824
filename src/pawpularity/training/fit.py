"""Fit a network on rows of the training data, never looking at the rows it will be scored on.

`fit_fold` gets the training rows only. `train.stop: early` splits an inner set off them (grouped, stratified) that the plateau
schedule, early stopping and the choice of the epoch watch; `train.refit` then trains on all of them at the rates and for the
epochs the inner set chose. `train.stop: none` trains on all of them from the start, with cosine to zero.

`fit_samples` fits on any samples and watches any others: `train.split: leaky`, the paper's mistake, goes through it.
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pawpularity.config import Config, Train
from pawpularity.console import Progress
from pawpularity.data.augment import FLIP, ORIGINAL
from pawpularity.data.folds import inner_split
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import rmse
from pawpularity.features.load import Inputs
from pawpularity.models.network import Network, build_network
from pawpularity.predictor import score_rows
from pawpularity.training.checkpoint import Checkpointer, Epoch
from pawpularity.training.loop import Chosen, Hooks, Loop
from pawpularity.training.samples import Pairs, Samples, TrainingData, augmented, joined_pairs, originals, samples_of

Rows = NDArray[np.int64]
NOTHING = originals(np.empty(0, dtype=np.int64))


@dataclass
class Fitted:
    """A fitted network and how it came about."""

    network: Network
    inputs: Inputs
    history: list[Epoch]
    epochs: float
    """Epochs behind the weights that were kept; of a soup, behind the last of them."""
    averaged: int
    """Weights in the soup."""
    training_mean: float
    """Mean score of the training rows: the constant prediction."""
    training_rows: int
    inner_rows: int


def training_inputs(
    config: Config, data: TrainingData, network: Network, compute: Compute, samples: Samples, rows: Rows
) -> Inputs:
    """The inputs of a fit on `samples`, which can also watch and score `rows`.

    Missing cached features are computed here. The frozen part uses photos and never scores, so rows that will be scored may
    pass through it before the fit.
    """
    if mixes_photos(config.train) and network.frozen_blocks and data.cache is not None:
        data.cache.log_once(
            "features train.mixup and train.cutmix mix photos, so the frozen part runs in every epoch (train.manifold_mixup mixes "
            "cached features)"
        )
    # A mix of two photos is another photo: it has no cached features.
    pairs = required_pairs(config, samples, rows)
    return data.inputs(network, compute, pairs, config.train.transforms, cached=not mixes_photos(config.train))


def mixes_photos(train: Train) -> bool:
    """Whether photos are mixed before the network."""
    return train.mixup > 0 or train.cutmix > 0


def required_pairs(config: Config, samples: Samples, rows: Rows) -> Pairs:
    """(rows, views) of all photos needed to train on `samples` and to watch and score `rows`."""
    views = (ORIGINAL, FLIP) if config.predict.flip else (ORIGINAL,)
    return joined_pairs(augmented(config, samples), *((rows, np.full(len(rows), view)) for view in views))


def fit_fold(
    config: Config,
    data: TrainingData,
    training: Rows,
    *,
    fold: int,
    compute: Compute,
    samples: Samples | None = None,
    network: Network | None = None,
    inputs: Inputs | None = None,
    hooks: Hooks | None = None,
) -> Fitted:
    """Fit a network on the row numbers `training` and return it, on `compute.device`, in evaluation mode.

    `samples`: what is trained on, where that is not `training` and its copies (`fold_samples`). `network`, `inputs`: if
    they exist already. An exception that `hooks.on_epoch` raises ends the fit (a search prunes that way).
    Raises UserError for too few rows, or a loss that is no longer finite; Stopped after a checkpoint when asked to stop.
    """
    train, hooks = config.train, hooks or Hooks()
    if len(training) < 4:
        raise UserError(f"fold {fold}: only {len(training)} training rows are left; use fewer folds or more photos")
    network = network or build_network(config, fold=fold, training_mean=data.mean(training))
    samples = samples or samples_of(config, data.scores, training)
    inputs = inputs or training_inputs(config, data, network.place(compute.device), compute, samples, training)
    initial = copy.deepcopy(network.trained_state()) if train.refit else {}
    inner = NOTHING.rows
    if train.stop != "none":
        groups, scores = data.groups[training], data.scores[training]
        inner = training[inner_split(groups, scores, share=train.inner_share, seed=train.seed * 1009 + fold)[1]]
    fitting = samples.take(~np.isin(samples.rows, inner))
    measured = inner if len(inner) else training  # the epoch's figures beside which the constant stands
    hooks.on_inner(rmse(data.scores[measured], data.mean(np.setdiff1d(training, inner))))
    found = hooks.checkpointer.find() if hooks.checkpointer is not None else None
    loop = Loop(config, data, network, inputs, compute, fold, hooks)
    if found is None or found.state["chosen"] is None:
        chosen, state = loop.run(fitting, originals(inner), resume=found)
        history, found = loop.history, None
    else:
        chosen, state, history = found.state["chosen"], {}, found.history[: found.state["before"]]
    if train.refit:
        network.load_state_dict(initial, strict=False)
        loop = Loop(config, data, network, inputs, compute, fold, hooks)
        loop.history, loop.before = history, len(history)
        for epoch in history if found is not None else ():
            hooks.on_epoch(epoch)
        like = Chosen(chosen, [epoch.lr for epoch in history])
        chosen, state = loop.run(samples, NOTHING, like=like, resume=found)
    network.load_state_dict(state, strict=False)
    return Fitted(
        network.eval(), inputs, loop.history, *_kept(chosen, train), data.mean(training), len(training), len(inner)
    )


def _kept(checks: Sequence[int], train: Train) -> tuple[float, int]:
    """(epochs, averaged) of the checks whose weights were kept."""
    epochs, rest = divmod(checks[-1], train.checks)
    return (checks[-1] / train.checks if rest else epochs), len(checks)


def fit_samples(
    config: Config,
    data: TrainingData,
    samples: Samples,
    watched: Samples,
    *,
    compute: Compute,
    hooks: Hooks | None = None,
) -> Fitted:
    """Fit on `samples` while watching `watched` (with `train.stop: none`: not even that) and keep the best epoch on them.

    This is how the paper chose its epoch: on the very samples its RMSE was then reported for. Raises UserError as `fit_fold`.
    """
    if len(samples) < 4:
        raise UserError(f"only {len(samples)} training samples are left; use more photos")
    mean = data.mean(samples.rows)
    network = build_network(config, fold=0, training_mean=mean).place(compute.device)
    watched = NOTHING if config.train.stop == "none" else watched
    pairs = joined_pairs(augmented(config, samples), watched.pairs)
    inputs = data.inputs(network, compute, pairs, config.train.transforms, cached=not mixes_photos(config.train))
    loop = Loop(config, data, network, inputs, compute, 0, hooks or Hooks())
    chosen, state = loop.run(samples, watched)
    network.load_state_dict(state, strict=False)
    return Fitted(
        network.eval(),
        inputs,
        loop.history,
        *_kept(chosen, config.train),
        mean,
        len(np.unique(samples.rows)),
        len(watched),
    )


def predict_samples(fitted: Fitted, data: TrainingData, samples: Samples, compute: Compute) -> NDArray[np.float64]:
    """Score points of `samples`, each seen as the copy it is, (samples,)."""
    inputs = data.inputs(fitted.network, compute, samples.pairs)
    columns = data.metadata[samples.rows]
    return score_rows(fitted.network, inputs, samples.rows, columns, compute, view=samples.copies)


@contextmanager
def progress_hooks(
    config: Config,
    what: str,
    after_epoch: Callable[[Epoch], None] | None = None,
    checkpointer: Checkpointer | None = None,
) -> Iterator[Hooks]:
    """Hooks that show a progress bar over a fit's steps, with the last epoch's figures. `after_epoch` gets each epoch."""
    train, constants = config.train, [math.nan]
    with Progress(None, what, "steps") as progress:

        def on_step(steps_an_epoch: int) -> None:
            if progress.total is None:
                progress.start(train.epochs * steps_an_epoch)
            progress.add()

        def on_epoch(epoch: Epoch) -> None:
            if after_epoch is not None:
                after_epoch(epoch)
            # A refit on all training rows, which nothing watches, continues the numbering of the watched epochs.
            refit = train.stop != "none" and math.isnan(epoch.inner_rmse)
            word = "epoch" if train.checks == 1 else "check"
            figures = [
                f"refit, {word} {epoch.epoch}" if refit else f"{word} {epoch.epoch}/{train.epochs * train.checks}"
            ]
            constant = math.nan if refit else constants[-1]
            measured = (("train", epoch.train_rmse), ("inner", epoch.inner_rmse), ("constant", constant))
            figures += [f"{name} {value:.2f}" for name, value in measured if not math.isnan(value)]
            progress.note(", ".join([*figures, f"lr {epoch.lr:.2g}"]))  # 80 columns end before lr

        yield Hooks(on_epoch, on_step, constants.append, checkpointer)
