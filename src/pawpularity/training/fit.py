"""Fit one fold: plain torch, seeded, never looking at the rows it will be scored on.

`fit_fold` gets the training rows only. `train.stop: early` splits an inner set off them (grouped, stratified) that the
plateau schedule, early stopping and the choice of the epoch watch; `train.refit` then trains on all of them at the
rates and for the epochs the inner set chose. `train.stop: none` trains on all of them from the start, cosine to zero.

With a `Keeper` the fit's state is kept between steps, and a fit that was stopped goes on from it.

`fit_items` fits on any items and watches any others: `train.split: leaky`, the paper's mistake, goes through it.
"""

import copy
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.data.folds import inner_split
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.models.network import Network, build_network
from pawpularity.schema import Config
from pawpularity.training.checkpoint import Keeper
from pawpularity.training.early_stopping import Epoch as Epoch
from pawpularity.training.labelled import LabelledPhotos
from pawpularity.training.loop import Loop as Loop
from pawpularity.training.loop import Report, Step
from pawpularity.training.processes import ALONE, Processes
from pawpularity.training.samples import NOTHING, Items, as_they_are, items_of


@dataclass
class Fitted:
    """A fitted network and how it came about."""

    network: Network
    history: list[Epoch]
    epochs: int
    """Epochs behind the weights that were kept."""
    training_mean: float
    """Mean score of the training rows: the constant prediction."""
    training_rows: int
    inner_rows: int
    items: int
    """Training items an epoch, copies counted."""
    notes: list[str] = field(default_factory=list)


def fit_fold(
    config: Config,
    rows: LabelledPhotos,
    training: NDArray[np.int64],
    *,
    fold: int,
    compute: Compute,
    items: Items | None = None,
    on_epoch: Report | None = None,
    on_step: Step | None = None,
    keeper: Keeper | None = None,
    processes: Processes = ALONE,
) -> Fitted:
    """Fit a network on the row numbers `training` and return it, on `compute.device`, in evaluation mode.

    `items`: what is trained on, where that is not `training` and its copies (`items.fold_items`). `on_epoch` is told
    every epoch; an exception it raises ends the fit (a search prunes that way). `on_step` is told (steps done, steps in
    the epoch). `keeper`: keeps the fit's state, and goes on from what it finds. `processes`: share
    the fit. Raises UserError for too few rows, or a loss that is no longer finite; Stopped where the keeper was asked to stop.
    """
    train = config.train
    if len(training) < 4:
        raise UserError(f"fold {fold}: only {len(training)} training rows are left; use fewer folds or more photos")
    mean = float(rows.scores[training].mean())
    network = build_network(config, fold=fold, training_mean=mean)
    processes.share_statistics(network, compute)
    notes = [network.frozen.note]
    initial = copy.deepcopy(network.trained_state()) if train.refit else None
    every = items_of(config, rows.scores, training) if items is None else items
    inner, fitting = np.empty(0, dtype=np.int64), every
    if train.stop != "none":
        _, inner_at = inner_split(
            rows.groups[training], rows.scores[training], share=train.inner_share, seed=train.seed * 1009 + fold
        )
        inner = training[inner_at]
        fitting = every.take(~np.isin(every.rows, inner))
    kept = None if keeper is None else keeper.find(network)
    loop = Loop(config, rows, network, compute, fold, on_epoch, on_step, keeper=keeper, processes=processes)
    state: dict[str, Tensor] = {}
    if kept is None or kept.chosen is None:
        best, state = loop.run(fitting, as_they_are(inner), rates=None, kept=kept)
        kept = None
    else:
        best, loop.history = kept.chosen, kept.history[: kept.before]
    if train.refit:
        assert initial is not None
        rates = [epoch.lr for epoch in loop.history[:best]]
        notes.append(f"refitted on all {len(training)} training rows for the {best} epochs the inner split chose")
        network.load_state_dict(initial, strict=False)
        loop = Loop(config, rows, network, compute, fold, on_epoch, on_step, history=loop.history, keeper=keeper,
                    processes=processes, tail=loop.tail)  # fmt: skip
        best, state = loop.run(every, NOTHING, rates=rates, kept=kept)
    network.load_state_dict(state, strict=False)
    return Fitted(
        network=network.eval(),
        history=loop.history,
        epochs=best,
        training_mean=mean,
        training_rows=len(training),
        inner_rows=len(inner),
        items=loop.items,
        notes=notes,
    )


def fit_items(
    config: Config,
    rows: LabelledPhotos,
    items: Items,
    watched: Items,
    *,
    compute: Compute,
    fold: int = 0,
    on_epoch: Report | None = None,
    on_step: Step | None = None,
) -> Fitted:
    """Fit on `items` while watching `watched` (with `train.stop: none`: not even watching) and keep the best epoch on them.

    This is how the paper chose its epoch: on the very items its RMSE was then reported of. Raises UserError as `fit_fold`.
    """
    if len(items) < 4:
        raise UserError(f"only {len(items)} training items are left; take more photos")
    mean = float(rows.scores[items.rows].mean())
    network = build_network(config, fold=fold, training_mean=mean)
    loop = Loop(config, rows, network, compute, fold, on_epoch, on_step)
    best, state = loop.run(items, NOTHING if config.train.stop == "none" else watched, rates=None)
    network.load_state_dict(state, strict=False)
    return Fitted(
        network=network.eval(),
        history=loop.history,
        epochs=best,
        training_mean=mean,
        training_rows=len(np.unique(items.rows)),
        inner_rows=len(watched),
        items=loop.items,
        notes=[network.frozen.note],
    )
