"""Fit one fold: plain torch, seeded, never looking at the rows it will be scored on.

`fit_fold` gets the training rows only. `train.stop: early` splits an inner set off them (grouped, stratified) that the
plateau schedule, early stopping and the choice of the epoch watch; `train.refit` then trains on all of them at the
rates and for the epochs the inner set chose. `train.stop: none` trains on all of them from the start, cosine to zero.

`fit_items` fits on any items and watches any others: `train.split: leaky`, the paper's mistake, goes through it.
"""

import copy
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import Tensor

from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.evaluation.score import rmse
from pawpularity.folds.split import inner_split
from pawpularity.model.network import Network, build_network
from pawpularity.predictor import score_rows
from pawpularity.schema import Config, Train
from pawpularity.training.batches import EpochBatches, worker_count
from pawpularity.training.items import NOTHING, Items, as_they_are, items_of, looked_at, shown
from pawpularity.training.labelled import LabelledPhotos
from pawpularity.trunk.inputs import Inputs


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv. RMSEs in points; NaN where not measured."""

    epoch: int
    train_rmse: float
    inner_rmse: float
    lr: float
    seconds: float


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


Report = Callable[[Epoch], None]
Step = Callable[[int, int], None]


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
) -> Fitted:
    """Fit a network on the row numbers `training` and return it, on `compute.device`, in evaluation mode.

    `items`: what is trained on, where that is not `training` and its copies (`items.fold_items`). `on_epoch` is told
    every epoch; an exception it raises ends the fit (a search prunes that way). `on_step` is told (steps done, steps in
    the epoch). Raises UserError for too few rows, or a loss that is no longer finite.
    """
    train = config.train
    if len(training) < 4:
        raise UserError(f"fold {fold}: only {len(training)} training rows are left; use fewer folds or more photos")
    mean = float(rows.scores[training].mean())
    network = build_network(config, fold=fold, training_mean=mean)
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
    loop = Loop(config, rows, network, compute, fold, on_epoch, on_step)
    best, state = loop.run(fitting, as_they_are(inner), rates=None)
    if train.refit:
        assert initial is not None
        rates = [epoch.lr for epoch in loop.history[:best]]
        notes.append(f"refitted on all {len(training)} training rows for the {best} epochs the inner split chose")
        network.load_state_dict(initial, strict=False)
        loop = Loop(config, rows, network, compute, fold, on_epoch, on_step, history=loop.history)
        best, state = loop.run(every, NOTHING, rates=rates)
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


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.compile(function)`. Raises UserError where there is no C++ compiler for it to use."""
    named = os.environ.get("CXX", "").split()[:1]
    if not any(shutil.which(name) for name in (*named, "g++", "clang++", "c++")):
        raise UserError(
            "train.compile=true needs a C++ compiler (g++), and none is here; install one, or leave it false"
        )
    faster: Callable[..., Tensor] = torch.compile(function)
    return faster


def loss_of(network: Network, raw: Tensor, target: Tensor, train: Train) -> Tensor:
    """Mean loss of raw numbers (B,) against score points (B,): BCE on score / 100, or MSE / Huber in points."""
    raw = raw.float()
    if train.loss == "bce":
        return F.binary_cross_entropy_with_logits(raw, target / 100.0)
    if train.loss == "huber":
        return F.huber_loss(network.points(raw), target, delta=train.huber_delta)
    return F.mse_loss(network.points(raw), target)


class Loop:
    """Epochs over one set of rows with one optimiser."""

    def __init__(
        self,
        config: Config,
        rows: LabelledPhotos,
        network: Network,
        compute: Compute,
        fold: int,
        on_epoch: Report | None,
        on_step: Step | None,
        history: list[Epoch] | None = None,
    ) -> None:
        self.config, self.train, self.rows, self.compute = config, config.train, rows, compute
        self.network = network.place(compute.device)
        self.on_epoch, self.on_step = on_epoch, on_step
        self.seed = self.train.seed * 1009 + fold
        self.history: list[Epoch] = history if history is not None else []
        self.items = 0
        torch.manual_seed(self.seed)  # dropout, metadata dropout
        trained = [p for p in network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            trained, lr=self.train.lr, weight_decay=self.train.weight_decay, fused=compute.device.type != "mps"
        )
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype == torch.float16)
        self.ema = ModelEmaV3(network, decay=self.train.ema, use_warmup=True) if self.train.ema else None
        self.tail = compiled(network.tail) if self.train.compile else network.tail
        self.scores = torch.tensor(rows.scores, dtype=torch.float32)
        self.metadata = torch.tensor(rows.metadata)
        self.mixing = np.random.default_rng([self.seed, 0x313])

    def run(self, items: Items, watched: Items, rates: list[float] | None) -> tuple[int, dict[str, Tensor]]:
        """Train on `items`; returns the epochs behind the kept weights, and those weights.

        With `watched` items the best epoch on them is kept; with `rates` (one an epoch) those are replayed.
        """
        train = self.train
        schedule = items.schedule(self.config, self.seed)
        self.items = len(items)
        batches = EpochBatches(len(items), train.batch_size, self.seed)
        self.inputs = self._inputs(items, watched)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(self.optimiser, factor=0.1, patience=train.patience)
        best, best_rmse, state = 0, math.inf, self._state()
        for epoch in range(train.epochs if rates is None else len(rates)):
            started = time.perf_counter()
            lr = rates[epoch] if rates is not None else float(self.optimiser.param_groups[0]["lr"])
            if rates is not None and train.schedule == "plateau":
                self._set_lr(lr)
            train_rmse = self.epoch(items.rows, schedule.of(epoch), batches, epoch)
            inner_rmse = self._inner_rmse(watched) if len(watched) else math.nan
            if train.schedule == "cosine":
                lr = self._cosine((epoch + 0.5) * len(batches), len(batches))
            line = Epoch(len(self.history) + 1, train_rmse, inner_rmse, lr, time.perf_counter() - started)
            self.history.append(line)
            if self.on_epoch is not None:
                self.on_epoch(line)
            if not len(watched):
                best = epoch + 1
                continue
            if inner_rmse < best_rmse:
                best, best_rmse, state = epoch + 1, inner_rmse, self._state()
            elif epoch + 1 - best >= train.stop_patience:
                break
            if train.schedule == "plateau":
                plateau.step(inner_rmse)
        return best, state if len(watched) else self._state()

    def _inputs(self, items: Items, watched: Items) -> Inputs:
        if self.train.mixup:
            return self.rows.pixels  # a mix of two photos is another photo: it has no state yet
        rows, views = looked_at(shown(self.config, items, self.seed), watched)
        return self.rows.inputs(self.network, self.compute, rows, views)

    def _scored(self) -> Network:
        scored: Network = self.ema.module if self.ema is not None else self.network
        return scored

    def _state(self) -> dict[str, Tensor]:
        # The names come from the network itself: the moving average's copy has no gradients to tell them by.
        names, tensors = self.network.trained_state().keys(), self._scored().state_dict()
        return {name: tensors[name].detach().clone() for name in names}

    def _inner_rmse(self, watched: Items) -> float:
        at = watched.rows
        predicted = score_rows(
            self._scored(), self.inputs, at, self.rows.metadata[at], self.compute, view=watched.copies
        )
        return rmse(self.rows.scores[at], predicted)

    def _set_lr(self, lr: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = lr

    def _cosine(self, step: float, steps_an_epoch: int) -> float:
        """Rate at `step`: linear warm-up, then half a cosine to zero at the last step."""
        warm, total = self.train.warmup_epochs * steps_an_epoch, self.train.epochs * steps_an_epoch
        if step < warm:
            return self.train.lr * (step + 1) / (warm + 1)
        return self.train.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))

    def epoch(self, item_rows: NDArray[np.int64], views: NDArray[np.int64], batches: EpochBatches, epoch: int) -> float:
        """One pass; returns the RMSE of the running network on the items as it trained (NaN under mixup)."""
        self.network.train()
        device = self.compute.device
        squared = torch.zeros((), device=device)
        loss_sum = torch.zeros((), device=device)
        seen, steps = 0, len(batches)
        workers = worker_count(self.train.workers, device.type)
        order = [(items, views[items]) for items in batches.of(epoch)]
        feed = self.inputs.feed(item_rows, order, workers, pin=device.type == "cuda")
        for step, (x, items) in enumerate(feed):
            if self.train.schedule == "cosine":
                self._set_lr(self._cosine(epoch * steps + step, steps))
            where = torch.from_numpy(item_rows[items])
            x = x.to(device, non_blocking=True)
            target = self.scores[where].to(device, non_blocking=True)
            columns = self.metadata[where].to(device, non_blocking=True)
            if self.train.mixup:
                x, columns, target = self._mixed(x, columns, target, self.train.mixup)
            with self.compute.autocast():
                state = self.inputs.state(self.network, x)
                if self.train.manifold_mixup:
                    state, columns, target = self._mixed(state, columns, target, self.train.manifold_mixup)
                raw = self.tail(state, columns)
            loss = loss_of(self.network, raw, target, self.train)
            self.optimiser.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self.scaler.step(self.optimiser)
            self.scaler.update()
            if self.ema is not None:
                self.ema.update(self.network, step=epoch * steps + step)
            # Sums stay on the device: reading them here would make every step wait for the one before.
            squared += (self.network.clipped(raw.detach()) - target).square().sum()
            loss_sum += loss.detach()
            seen += len(target)
            if self.on_step is not None:
                self.on_step(step + 1, steps)
        if not math.isfinite(float(loss_sum)):
            raise UserError(
                f"the loss is no longer finite in epoch {epoch + 1}; lower train.lr (it is {self.train.lr:g})"
            )
        return math.nan if self.train.mixup or self.train.manifold_mixup else math.sqrt(float(squared) / seen)

    def _mixed(self, x: Tensor, columns: Tensor, target: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        """Mixup (Zhang et al. 2018): photos, metadata and scores of a batch mixed with a shuffled copy of itself.

        Of states at the cut instead of photos it is manifold mixup (Verma et al. 2019) at that one layer.
        """
        share = float(self.mixing.beta(beta, beta))
        other = torch.from_numpy(self.mixing.permutation(len(target))).to(target.device)
        mixed = x.float().mul(share).add_(x[other].float(), alpha=1 - share)
        mixed = mixed.to(x.dtype) if x.is_floating_point() else mixed
        return mixed, share * columns + (1 - share) * columns[other], share * target + (1 - share) * target[other]
