"""The optimiser, its learning rate, and when to stop."""

import math
from dataclasses import dataclass

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from pawpularity.config import Train


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv. RMSEs in points; NaN where not measured."""

    epoch: int
    train_rmse: float
    inner_rmse: float
    lr: float
    seconds: float


def make_optimiser(module: nn.Module, train: Train, *, fused: bool) -> torch.optim.Optimizer:
    """AdamW over the trained parameters of `module`, one group."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser: torch.optim.Optimizer = create_optimizer_v2(
        trained, opt="adamw", lr=train.lr, weight_decay=train.weight_decay, fused=fused
    )
    return optimiser


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

    A resumed fit therefore shows a new EarlyStopping the old history. Without an inner split the last epoch is the best, and
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

    def see(self, inner_rmse: float) -> bool:
        """Note an epoch, and set the rate of the next one; returns whether it is the best so far."""
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
