"""Epochs over one set of items with one optimiser: the training loop itself.

Plain torch, seeded. With a `Keeper` its state is kept between two steps, and a loop that was stopped goes on from there;
with `Processes` every one of them trains on its share of each batch.
"""

import contextlib
import copy
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils import ModelEmaV3
from torch import Tensor

from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import rmse
from pawpularity.features.load import Inputs
from pawpularity.models.network import Network
from pawpularity.schema import Config
from pawpularity.training.batches import EpochBatches, worker_count
from pawpularity.training.checkpoint import Keeper, Kept, Parts, Sums
from pawpularity.training.early_stopping import Epoch, Watch
from pawpularity.training.labelled import LabelledPhotos
from pawpularity.training.processes import ALONE, Processes, Tail
from pawpularity.training.samples import Items, looked_at, shown
from pawpularity.training.step import compiled, loss_of, mixed, partners

Report = Callable[[Epoch], None]
Step = Callable[[int, int], None]


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
        processes: Processes = ALONE,
        tail: Tail | None = None,
    ) -> None:
        """`tail`: what an earlier loop over the same network went through."""
        self.config, self.train, self.rows, self.compute = config, config.train, rows, compute
        self.network, self.processes = network.place(compute.device), processes
        self.on_epoch, self.on_step, self.keeper = on_epoch, on_step, keeper
        self.seed = self.train.seed * 1009 + fold
        self.history: list[Epoch] = history if history is not None else []
        self.items = 0
        trained = [p for p in network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            trained, lr=self.train.lr, weight_decay=self.train.weight_decay, fused=compute.device.type != "mps"
        )
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype == torch.float16)
        self.ema = ModelEmaV3(network, decay=self.train.ema, use_warmup=True) if self.train.ema else None
        if tail is None:
            tail = compiled(network.tail) if self.train.compile else network.tail
            tail = processes.parallel(network, tail, config.photos.size)
        self.tail = tail
        torch.manual_seed(self.seed + processes.seed_offset)  # dropout, metadata dropout
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
        self.processes.require_shares(len(items) // len(batches))
        self.inputs = self.processes.in_turn(partial(self._inputs, items, watched))
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
        predicted = self.processes.score_rows(
            self._scored(), self.inputs, at, self.rows.metadata[at], self.compute, view=watched.copies
        )
        # Machines may add up in another order, and all processes must decide alike.
        return self.processes.from_first(rmse(self.rows.scores[at], predicted))

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
        due = list(batches.of(epoch))[sums.steps :]
        order = [(items, views[items]) for items in self._shares(due)]
        feed = self.inputs.feed(item_rows, order, workers, pin=device.type == "cuda")
        for step, (batch, (x, items)) in enumerate(zip(due, feed, strict=True), start=sums.steps):
            if self.train.schedule == "cosine":
                self._set_lr(self._cosine(epoch * steps + step, steps))
            where = torch.from_numpy(item_rows[items])
            x = x.to(device, non_blocking=True)
            target = self.scores[where].to(device, non_blocking=True)
            columns = self.metadata[where].to(device, non_blocking=True)
            if self.train.mixup:
                x, columns, target = self._mixed(x, columns, target, len(batch))
            with self.compute.autocast():
                state = self.inputs.state(self.network, x)
                if self.train.manifold_mixup:
                    state, columns, target = self._mixed(state, columns, target, len(batch))
                raw = self.tail(state, columns)
            loss = self.processes.mean_loss(loss_of(self.network, raw, target, self.train), len(target), len(batch))
            self.optimiser.zero_grad(set_to_none=True)
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self.scaler.step(self.optimiser)
            self.scaler.update()
            if self.ema is not None:
                self.ema.update(self.network, step=epoch * steps + step)
            # Sums stay on the device: reading them here would make every step wait for the one before.
            sums.squared += (self.network.clipped(raw.detach()) - target).square().sum()
            sums.loss += loss.detach()
            sums.seen += len(batch)
            sums.steps = step + 1
            if self.on_step is not None:
                self.on_step(step + 1, steps)
            if self.keeper is not None and self.keeper.due():
                self._keep(epoch, sums, steps)
        loss_sum, squared = self.processes.total(sums.loss, sums.squared)
        if not math.isfinite(loss_sum):
            raise UserError(
                f"the loss is no longer finite in epoch {epoch + 1}; lower train.lr (it is {self.train.lr:g})"
            )
        return math.nan if self.train.mixup or self.train.manifold_mixup else math.sqrt(squared / sums.seen)

    @property
    def _beta(self) -> float:
        """Of the mixing of photos or of states, whichever there is; 0 = none."""
        return self.train.mixup or self.train.manifold_mixup

    def _shares(self, due: list[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """What this process is fed of the batches `due`: where they are mixed, its items, then those they are mixed with."""
        shares = [self.processes.share(batch) for batch in due]
        if self.processes.size == 1 or not self._beta:
            return shares
        drawn = copy.deepcopy(self.mixing)  # the steps draw the same again
        others = [self.processes.share(batch[partners(self._beta, len(batch), drawn)[1]]) for batch in due]
        return [np.concatenate(pair) for pair in zip(shares, others, strict=True)]

    def _mixed(self, x: Tensor, columns: Tensor, target: Tensor, whole: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mixup of a batch of `whole` items, of which these are this process's share."""
        share, other = partners(self._beta, whole, self.mixing)
        if self.processes.size == 1:
            at = torch.from_numpy(other).to(target.device)
            return mixed((x, columns, target), (x[at], columns[at], target[at]), share)
        half = len(target) // 2
        return mixed((x[:half], columns[:half], target[:half]), (x[half:], columns[half:], target[half:]), share)
