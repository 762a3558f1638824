"""What an epoch leaves in the history, and what the history so far decides: best epoch, learning rate, when to stop.

All of it is a function of the inner RMSEs in their order, so a fit that goes on shows a new `Watch` the old history.
"""

import math
from dataclasses import dataclass

import torch

from pawpularity.schema import Train


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv. RMSEs in points; NaN where not measured."""

    epoch: int
    train_rmse: float
    inner_rmse: float
    lr: float
    seconds: float


class Watch:
    """The best epoch, early stopping and the plateau schedule of `optimiser`.

    Where no inner split is watched, the last epoch is the best, and nothing stops early.
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
        """Take note of an epoch, and set the rate of the next one; returns whether it is the best so far."""
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
