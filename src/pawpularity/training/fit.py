"""Fit one fold: plain torch, seeded, never looking at the rows it will be scored on.

`fit_fold` gets the training rows only. `train.stop: early` splits an inner set off them (grouped, stratified) that the
plateau schedule, early stopping and the choice of the epoch watch; `train.refit` then trains on all of them at the
rates and for the epochs the inner set chose. `train.stop: none` trains on all of them from the start, cosine to zero.

With a `Keeper` the fit's state is kept between steps, and a fit that was stopped goes on from it.

`fit_items` fits on any items and watches any others: `train.split: leaky`, the paper's mistake, goes through it.
"""

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import Tensor

from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.evaluation.score import rmse
from pawpularity.folds.split import inner_split
from pawpularity.model.network import Network, build_network
from pawpularity.predictor import score_rows
from pawpularity.schema import Config
from pawpularity.training.batches import EpochBatches, worker_count
from pawpularity.training.items import NOTHING, Items, as_they_are, items_of, looked_at, shown
from pawpularity.training.labelled import LabelledPhotos
from pawpularity.training.loss import compiled, mixed
from pawpularity.training.loss import loss_of as loss_of
from pawpularity.training.resume import Keeper, Kept, Parts, Sums
from pawpularity.training.watch import Epoch as Epoch
from pawpularity.training.watch import Watch
from pawpularity.trunk.inputs import Inputs


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
    keeper: Keeper | None = None,
) -> Fitted:
    """Fit a network on the row numbers `training` and return it, on `compute.device`, in evaluation mode.

    `items`: what is trained on, where that is not `training` and its copies (`items.fold_items`). `on_epoch` is told
    every epoch; an exception it raises ends the fit (a search prunes that way). `on_step` is told (steps done, steps in
    the epoch). `keeper`: keeps the fit's state, and goes on from what it finds. Raises UserError for too few rows, or a loss
    that is no longer finite; Stopped where the keeper was asked to stop.
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
    kept = None if keeper is None else keeper.find(network)
    loop = Loop(config, rows, network, compute, fold, on_epoch, on_step, keeper=keeper)
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
        loop = Loop(config, rows, network, compute, fold, on_epoch, on_step, history=loop.history, keeper=keeper)
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
        keeper: Keeper | None = None,
    ) -> None:
        self.config, self.train, self.rows, self.compute = config, config.train, rows, compute
        self.network = network.place(compute.device)
        self.on_epoch, self.on_step, self.keeper = on_epoch, on_step, keeper
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
        self.parts = Parts(network, self.optimiser, self.scaler, self.ema, self.mixing, compute.device)

    def run(
        self, items: Items, watched: Items, rates: list[float] | None, kept: Kept | None = None
    ) -> tuple[int, dict[str, Tensor]]:
        """Train on `items`; returns the epochs behind the kept weights, and those weights.

        With `watched` items the best epoch on them is kept; with `rates` (one an epoch) those are replayed. `kept`: a state
        of this very run, to go on from.
        """
        train = self.train
        schedule = items.schedule(self.config, self.seed)
        self.items = len(items)
        batches = EpochBatches(len(items), train.batch_size, self.seed)
        self.inputs = self._inputs(items, watched)
        self.rates, self.before, first = rates, len(self.history), 0
        self.watch = Watch(train, self.optimiser, watching=len(watched) > 0)
        self.best, sums = self._state(), Sums.none(self.compute.device)
        if kept is not None:
            for line in kept.history[self.before :]:
                self.history.append(line)
                self.watch.see(line.inner_rmse)
            self.best, first, sums = kept.best or self.best, self.watch.epochs, kept.sums(self.compute.device)
            self.parts.restore(kept.tensors, kept.numbers)
        for epoch in range(first, train.epochs if rates is None else len(rates)):
            lr = rates[epoch] if rates is not None else float(self.optimiser.param_groups[0]["lr"])
            if rates is not None and train.schedule == "plateau":
                self._set_lr(lr)
            train_rmse = self.epoch(items.rows, schedule.of(epoch), batches, epoch, sums)
            inner_rmse = self._watched(watched, partial(self._keep, epoch, sums, len(batches)))
            if train.schedule == "cosine":
                lr = self._cosine((epoch + 0.5) * len(batches), len(batches))
            line = Epoch(len(self.history) + 1, train_rmse, inner_rmse, lr, sums.elapsed)
            self.history.append(line)
            if self.on_epoch is not None:
                self.on_epoch(line)
            better = self.watch.see(inner_rmse)
            if better and len(watched):
                self.best = self._state()
            elif len(watched) and self.watch.over:
                break
            sums = Sums.none(self.compute.device)
        return self.watch.best, self.best if len(watched) else self._state()

    def _watched(self, watched: Items, keep: Callable[[], None]) -> float:
        """RMSE on the watched items; `keep()` where this is broken off, which moves nothing."""
        if not len(watched):
            return math.nan
        with self.keeper.scoring(keep) if self.keeper is not None else contextlib.nullcontext():
            return self._inner_rmse(watched)

    def _keep(self, epoch: int, sums: Sums, steps: int) -> None:
        """Keep the state between two steps."""
        assert self.keeper is not None
        epochs, phase = (self.train.epochs, "") if self.rates is None else (len(self.rates), "the refit, ")
        self.keeper.save(
            self.parts,
            self.history,
            sums,
            before=self.before,
            chosen=None if self.rates is None else len(self.rates),
            best=self.best if self.watch.watching and self.watch.best else {},
            where=f"{phase}epoch {epoch + 1} of {epochs}, step {sums.steps} of {steps}",
        )

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

    def epoch(
        self,
        item_rows: NDArray[np.int64],
        views: NDArray[np.int64],
        batches: EpochBatches,
        epoch: int,
        sums: Sums | None = None,
    ) -> float:
        """One pass, or the rest of one after `sums`; returns the RMSE of the running network on the items as it trained.

        NaN under mixup.
        """
        self.network.train()
        device, steps = self.compute.device, len(batches)
        sums = Sums.none(device) if sums is None else sums
        workers = worker_count(self.train.workers, device.type)
        order = [(items, views[items]) for items in batches.of(epoch)][sums.steps :]
        feed = self.inputs.feed(item_rows, order, workers, pin=device.type == "cuda")
        for step, (x, items) in enumerate(feed, start=sums.steps):
            if self.train.schedule == "cosine":
                self._set_lr(self._cosine(epoch * steps + step, steps))
            where = torch.from_numpy(item_rows[items])
            x = x.to(device, non_blocking=True)
            target = self.scores[where].to(device, non_blocking=True)
            columns = self.metadata[where].to(device, non_blocking=True)
            if self.train.mixup:
                x, columns, target = mixed(x, columns, target, self.train.mixup, self.mixing)
            with self.compute.autocast():
                state = self.inputs.state(self.network, x)
                if self.train.manifold_mixup:
                    state, columns, target = mixed(state, columns, target, self.train.manifold_mixup, self.mixing)
                raw = self.tail(state, columns)
            loss = loss_of(self.network, raw, target, self.train)
            self.optimiser.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self.scaler.step(self.optimiser)
            self.scaler.update()
            if self.ema is not None:
                self.ema.update(self.network, step=epoch * steps + step)
            # Sums stay on the device: reading them here would make every step wait for the one before.
            sums.squared += (self.network.clipped(raw.detach()) - target).square().sum()
            sums.loss += loss.detach()
            sums.seen += len(target)
            sums.steps = step + 1
            if self.on_step is not None:
                self.on_step(step + 1, steps)
            if self.keeper is not None and self.keeper.due():
                self._keep(epoch, sums, steps)
        if not math.isfinite(float(sums.loss)):
            raise UserError(
                f"the loss is no longer finite in epoch {epoch + 1}; lower train.lr (it is {self.train.lr:g})"
            )
        return math.nan if self.train.mixup or self.train.manifold_mixup else math.sqrt(float(sums.squared) / sums.seen)
