"""The training loop: epochs over samples with one optimiser, its rates and when to stop, in plain torch with accelerate around
it. accelerate's own checkpoints are not used: they are pickles.
"""

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, field, replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from numpy.typing import NDArray
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from pawpularity.config import Config, Train
from pawpularity.device import Compute
from pawpularity.errors import Diverged, UserError
from pawpularity.evaluation.metrics import rmse
from pawpularity.features.load import Inputs
from pawpularity.models.network import Network
from pawpularity.predictor import score_rows
from pawpularity.training.checkpoint import Checkpoint, Checkpointer, Epoch, Training
from pawpularity.training.losses import LOSSES
from pawpularity.training.samples import EpochBatches, Rows, Samples, TrainingData

Batch = tuple[Tensor, Tensor, Tensor]
"""(photos or cached features, metadata, scores), a row a sample"""


@dataclass(frozen=True)
class Hooks:
    """Callbacks for the progress of a training, and its checkpointer."""

    on_epoch: Callable[[Epoch], None] = lambda epoch: None
    on_step: Callable[[int], None] = lambda steps_an_epoch: None
    on_inner: Callable[[float], None] = lambda constant_rmse: None
    checkpointer: Checkpointer | None = None


@dataclass
class EpochSums:
    """What an epoch has added up so far. The tensors stay on the device: reading them would make every step wait."""

    squared: Tensor
    loss: Tensor
    seen: int = 0
    step: int = 0
    started: float = field(default_factory=time.perf_counter)


class TrainedHead(nn.Module):
    """The trained part of a network as a module: what accelerate wraps, and torch.compile compiles."""

    def __init__(self, network: Network, *, compiled: bool) -> None:
        super().__init__()
        self.network = network
        self.run = _compiled(network.head) if compiled else network.head

    def forward(self, features: Tensor, metadata: Tensor) -> Tensor:
        """Raw numbers, (B,)."""
        return self.run(features, metadata)


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    named = os.environ.get("CXX", "").split()[:1]
    if not any(shutil.which(name) for name in (*named, "g++", "clang++", "c++")):
        raise UserError("train.compile=true needs a C++ compiler (g++); install one, or leave it false")
    faster: Callable[..., Tensor] = torch.compile(function)
    return faster


class Loop:
    """Epochs over one set of samples with one optimiser."""

    def __init__(
        self, config: Config, data: TrainingData, network: Network, inputs: Inputs, compute: Compute, fold: int, hooks: Hooks
    ) -> None:  # fmt: skip
        """`inputs` must hold the pairs that training and watching need (`training_inputs`)."""
        self.config, self.train, self.data, self.hooks = config, config.train, data, hooks
        self.inputs = inputs
        self.accelerator, self.compute = accelerator_for(compute)
        self.network = network.place(self.compute.device)
        self.seed = self.train.seed * 1009 + fold
        self.history: list[Epoch] = []
        self.before = 0
        """Epochs of `history` before this phase."""
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        lr, decay, fused = self.train.lr, self.train.weight_decay, self.compute.device.type != "mps"
        optimiser = create_optimizer_v2(trained, opt="adamw", lr=lr, weight_decay=decay, fused=fused)
        self.ema = ModelEmaV3(network, decay=self.train.ema, use_warmup=True) if self.train.ema else None
        self.head, self.optimiser = self.accelerator.prepare(
            TrainedHead(network, compiled=self.train.compile), optimiser
        )
        rank = self.accelerator.process_index
        torch.manual_seed(self.seed + 7919 * rank)  # dropout, metadata dropout
        self.mixing = np.random.default_rng([self.seed, 0x313, *([rank] if rank else [])])
        self.scores = torch.tensor(data.scores, dtype=torch.float32)
        self.metadata = torch.tensor(data.metadata)
        state = (self.optimiser, self.accelerator.scaler, self.ema, self.mixing)
        self.training = Training(network, *state, self.compute.device)

    def run(
        self, samples: Samples, watched: Samples, rates: list[float] | None = None, resume: Checkpoint | None = None
    ) -> tuple[int, dict[str, Tensor]]:
        """Train on `samples`; returns the epochs behind the kept weights, and those weights.

        With `watched` samples the best epoch on them is kept. `rates`: repeat these, one per epoch. `resume`: a checkpoint of
        the same training.
        """
        train, self.rates = self.train, rates
        schedule = samples.schedule(self.config, self.seed)
        batches = EpochBatches(len(samples), train.batch_size, self.seed)
        self.stopping = EarlyStopping(train, self.optimiser, watching=len(watched) > 0)
        zero = torch.zeros((), device=self.compute.device)
        self.best, sums = self._scored_state(), EpochSums(zero.clone(), zero.clone())
        if resume is not None:
            sums = self._resume(resume)
        for epoch in range(self.stopping.epochs, train.epochs if rates is None else len(rates)):
            lr = rates[epoch] if rates is not None else float(self.optimiser.param_groups[0]["lr"])
            if rates is not None and train.schedule == "plateau":
                set_rate(self.optimiser, lr)
            train_rmse = self._epoch(samples.rows, schedule.of(epoch), batches, epoch, sums)
            if train.schedule == "cosine":
                lr = cosine(train, (epoch + 0.5) * len(batches), len(batches))
            inner_rmse = self._inner_rmse(watched)
            line = Epoch(len(self.history) + 1, train_rmse, inner_rmse, lr, time.perf_counter() - sums.started)
            self.history.append(line)
            self.hooks.on_epoch(line)
            better = self.stopping.update(inner_rmse)
            if better and len(watched):
                self.best = self._scored_state()
            elif len(watched) and self.stopping.over:
                break
            sums = EpochSums(zero.clone(), zero.clone())
            self._checkpoint(epoch + 1, sums, len(batches))
        return self.stopping.best, self.best if len(watched) else self._scored_state()

    def _epoch(self, sample_rows: Rows, views: Rows, batches: EpochBatches, epoch: int, sums: EpochSums) -> float:
        """One pass, or the rest of one; returns the RMSE of the running network on the samples (NaN under mixup)."""
        self.network.train()
        steps = len(batches)
        due = list(batches.of(epoch))[sums.step :]
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        order = [(mine, views[mine]) for mine in (np.array_split(batch, world)[rank] for batch in due)]
        workers, pin = worker_count(self.train.workers, self.compute.device.type), self.compute.device.type == "cuda"
        feed = self.inputs.feed(sample_rows, order, workers, pin)
        for step, (batch, (x, mine)) in enumerate(zip(due, feed, strict=True), start=sums.step):
            if self.train.schedule == "cosine":
                set_rate(self.optimiser, cosine(self.train, epoch * steps + step, steps))
            self._step(x, torch.from_numpy(sample_rows[mine]), len(batch), sums)
            if self.ema is not None:
                self.ema.update(self.network, step=epoch * steps + step)
            sums.step = step + 1
            self.hooks.on_step(steps)
            if self._checkpoint_due():
                self._checkpoint(epoch, sums, steps)
        loss, squared = self.accelerator.reduce(torch.stack([sums.loss, sums.squared]), "sum").tolist()
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss is no longer finite in epoch {epoch + 1}; lower train.lr (it is {self.train.lr:g})"
            )
        return math.nan if self.train.mixup or self.train.manifold_mixup else math.sqrt(squared / sums.seen)

    def _step(self, x: Tensor, rows: Tensor, batch_size: int, sums: EpochSums) -> None:
        """One step on this process's share `x` of a batch of `batch_size` samples; `rows` are the rows of the share."""
        device = self.compute.device
        x = x.to(device, non_blocking=True)
        target = self.scores[rows].to(device, non_blocking=True)
        columns = self.metadata[rows].to(device, non_blocking=True)
        if self.train.mixup:
            x, columns, target = self._mixed((x, columns, target), self.train.mixup)
        with self.accelerator.autocast():
            features = self.inputs.features(self.network, x)
        if self.train.manifold_mixup:
            features, columns, target = self._mixed((features, columns, target), self.train.manifold_mixup)
        self.optimiser.zero_grad(set_to_none=True)
        parts = [part for part in torch.arange(len(target), device=device).chunk(self.train.accumulation) if len(part)]
        for number, part in enumerate(parts):
            at = slice(None) if len(parts) == 1 else part
            last = number == len(parts) - 1
            # Gradients are averaged over processes, so a share counts by its size.
            share = len(part) * self.accelerator.num_processes / batch_size
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.head):
                raw = self.head(features[at], columns[at]).float()
                loss = LOSSES[self.train.loss](raw, self.network.points(raw), target[at], self.train) * share
                self.accelerator.backward(loss)
            sums.squared += (self.network.clipped(raw.detach()) - target[at]).square().sum()
            sums.loss += loss.detach()
        self.optimiser.step()
        sums.seen += batch_size

    def _mixed(self, batch: Batch, beta: float) -> Batch:
        """Mixup (Zhang et al. 2018): photos, metadata and scores mixed with those of other samples of the batch.

        Of cached features instead of photos it is manifold mixup (Verma et al. 2019) at that one layer.
        """
        share = float(self.mixing.beta(beta, beta))
        x, columns, target = batch
        other = torch.from_numpy(self.mixing.permutation(len(target))).to(target.device)
        mixed = x.float().mul(share).add_(x[other].float(), alpha=1 - share)
        mixed = mixed.to(x.dtype) if x.is_floating_point() else mixed
        return mixed, share * columns + (1 - share) * columns[other], share * target + (1 - share) * target[other]

    def _inner_rmse(self, watched: Samples) -> float:
        if not len(watched):
            return math.nan
        rows = watched.rows

        def score(at: Rows) -> NDArray[np.float64]:
            metadata, views = self.data.metadata[rows[at]], watched.copies[at]
            return score_rows(self._scored(), self.inputs, rows[at], metadata, self.compute, view=views)

        return rmse(self.data.scores[rows], score_together(self.accelerator, score, len(rows)))

    def _scored(self) -> Network:
        scored: Network = self.ema.module if self.ema is not None else self.network
        return scored

    def _scored_state(self) -> dict[str, Tensor]:
        # Names from the network: the moving average's copy does not mark what is trained.
        names, tensors = self.network.trained_state().keys(), self._scored().state_dict()
        return {name: tensors[name].detach().clone() for name in names}

    def _checkpoint_due(self) -> bool:
        checkpointer = self.hooks.checkpointer
        if checkpointer is None:
            return False
        if self.accelerator.num_processes == 1:
            return checkpointer.due()
        if checkpointer.request.number is not None:  # the signal may reach any process; all stop after the same step
            self.accelerator.set_trigger()
        asked = bool(self.accelerator.check_trigger())
        if asked and checkpointer.request.number is None:
            checkpointer.request.number = 15
        return asked

    def _checkpoint(self, epoch: int, sums: EpochSums, steps: int) -> None:
        """Write a checkpoint between two steps; raises Stopped after a stop signal."""
        checkpointer = self.hooks.checkpointer
        if checkpointer is None:
            return
        if self.accelerator.is_main_process:
            tensors = self.training.tensors() | {"sum:squared": sums.squared, "sum:loss": sums.loss}
            if self.stopping.watching and self.stopping.best:
                tensors |= {f"best:{name}": tensor for name, tensor in self.best.items()}
            lines = [[str(value) for value in astuple(line)] for line in self.history]  # as text: JSON has no NaN
            chosen = None if self.rates is None else len(self.rates)
            state = {"epoch": epoch, "step": sums.step, "seen": sums.seen, "history": lines, "before": self.before,
                     "chosen": chosen, "seconds": time.perf_counter() - sums.started}  # fmt: skip
            checkpointer.save(tensors, state | self.training.state())
        self.accelerator.wait_for_everyone()
        checkpointer.stop_if_asked(f"epoch {epoch + 1}, step {sums.step} of {steps} is saved")

    def _resume(self, found: Checkpoint) -> EpochSums:
        """Go back to the checkpoint's step; returns what its epoch had added up."""
        for line in found.history[self.before :]:
            self.history.append(line)
            self.hooks.on_epoch(line)
            self.stopping.update(line.inner_rmse)
        self.best = found.part("best:") or self.best
        self.training.restore(found)
        state, device = found.state, self.compute.device
        if rank := self.accelerator.process_index:
            torch.manual_seed(self.seed + 7919 * rank + state["epoch"] * 1_000_003 + state["step"])
        squared, loss = (found.tensors[f"sum:{name}"].to(device) for name in ("squared", "loss"))
        if rank:
            squared, loss = torch.zeros_like(squared), torch.zeros_like(loss)
        return EpochSums(squared, loss, state["seen"], state["step"], time.perf_counter() - state["seconds"])


def worker_count(asked: int, device: str) -> int:
    """`train.workers`: -1 means none on a CPU, which is busy training, else up to 8, one per core but one."""
    if asked >= 0:
        return asked
    return 0 if device == "cpu" else max(0, min(8, (os.cpu_count() or 1) - 1))


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = lr


def cosine(train: Train, step: float, steps_an_epoch: int) -> float:
    """The rate at `step`: linear warm-up, then half a cosine to zero at the last step."""
    warm, total = train.warmup_epochs * steps_an_epoch, train.epochs * steps_an_epoch
    if step < warm:
        return train.lr * (step + 1) / (warm + 1)
    return train.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))


class EarlyStopping:
    """The best epoch, early stopping and the plateau schedule: functions of the inner RMSEs in their order.

    So a resumed fit replays its history into a new EarlyStopping. Without an inner split the last epoch is the best, and
    nothing stops early.
    """

    def __init__(self, train: Train, optimiser: torch.optim.Optimizer, *, watching: bool) -> None:
        self.train, self.watching = train, watching
        self.epochs, self.best, self.best_rmse = 0, 0, math.inf
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.1, patience=train.patience)

    @property
    def over(self) -> bool:
        """Whether the best epoch is too long ago."""
        return self.epochs - self.best >= self.train.stop_patience

    def update(self, inner_rmse: float) -> bool:
        """Record an epoch, and set the rate of the next one; returns whether it is the best so far."""
        self.epochs += 1
        if not self.watching:
            self.best = self.epochs
            return True
        better = inner_rmse < self.best_rmse
        if better:
            self.best, self.best_rmse = self.epochs, inner_rmse
        if self.train.schedule == "plateau" and not self.over:
            self.plateau.step(inner_rmse)
        return better


PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def accelerator_for(compute: Compute) -> tuple[Accelerator, Compute]:
    """The accelerator of this process, and `compute` with the process's own device.

    Raises UserError for float16 where there is no GPU.
    """
    precision = PRECISIONS[compute.dtype_name]
    if precision == "fp16" and compute.device.type == "cpu":
        raise UserError("train.dtype=float16 needs a GPU; use auto, bfloat16 or float32")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    if compute.device.type == "cuda" and compute.device.index is not None:
        torch.cuda.set_device(compute.device)
    some_unused = DistributedDataParallelKwargs(
        find_unused_parameters=True
    )  # efficientvim_m1 has parameters without a gradient
    accelerator = Accelerator(
        mixed_precision=precision, cpu=compute.device.type == "cpu", kwargs_handlers=[some_unused]
    )
    return accelerator, replace(compute, device=accelerator.device) if accelerator.num_processes > 1 else compute


def score_together(
    accelerator: Accelerator, score: Callable[[Rows], NDArray[np.float64]], rows: int
) -> NDArray[np.float64]:
    """`score(positions)` of 0..rows-1, (rows,): each process scores a part, and all get the whole."""
    if accelerator.num_processes == 1:
        return score(np.arange(rows))
    mine = np.array_split(np.arange(rows), accelerator.num_processes)[accelerator.process_index]
    return np.concatenate(gather_object([score(mine)]))
