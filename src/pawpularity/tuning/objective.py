"""One trial: draw settings, fit the fold with the same `fit_fold` as training, and score it on an inner split.

The inner split is taken off the fold's TRAINING rows (`search.inner_share` of them, whole groups, the same for every
trial), so neither a trial nor the search ever sees the fold's scored rows. With `train.stop: early` a trial's figure is
its best epoch's inner RMSE, as that epoch's weights would be kept. With `train.stop: none` training keeps its last epoch,
so the trial runs all of its epochs and its figure is the LAST epoch's inner RMSE: the best of them would be optimistic.
`train.refit` is off in trials: it trains on the inner split too, so nothing is left to score it on.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Never

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from pawpularity.config import Config
from pawpularity.console import duration, log
from pawpularity.device import Compute
from pawpularity.errors import Diverged, UserError
from pawpularity.training.checkpoint import Epoch
from pawpularity.training.fit import fit_fold
from pawpularity.training.loop import Hooks
from pawpularity.training.samples import TrainingData
from pawpularity.tuning.space import Space, decoded, draw
from pawpularity.tuning.study import REFUSED


def trial_config(config: Config) -> Config:
    """`config` with the search's inner split; with `train.stop: none` the split is scored but never stops training."""
    train = config.train
    patience = train.epochs if train.stop == "none" else train.stop_patience
    inner = {"stop": "early", "stop_patience": patience, "inner_share": config.search.inner_share, "refit": False}
    return config.with_values({f"train.{key}": value for key, value in inner.items()})


@dataclass
class Objective:
    """The function Optuna minimises: inner RMSE, score points."""

    config: Config
    space: Space
    rows: TrainingData
    training: NDArray[np.int64]
    fold: int
    compute: Compute

    def __call__(self, trial: optuna.Trial) -> float:
        """Draw, fit, report every epoch. Raises `optuna.TrialPruned` where the pruner says so, or the trial diverged."""
        values = draw(trial, self.space)
        try:
            config = self.config.with_values(values)
        except UserError as error:  # each value is valid alone; two may contradict each other
            refuse(trial, str(error))
        started, figures = time.perf_counter(), []

        def on_epoch(epoch: Epoch) -> None:
            figures.append(epoch.inner_rmse)
            trial.report(epoch.inner_rmse, epoch.epoch)
            if trial.should_prune():
                log(f"trial {trial.number}: pruned after {len(figures)} epochs at inner RMSE {figures[-1]:.3f}")
                raise optuna.TrialPruned

        try:
            hooks = Hooks(on_epoch=on_epoch)
            fit_fold(trial_config(config), self.rows, self.training, fold=self.fold, compute=self.compute, hooks=hooks)
        except Diverged as error:
            refuse(trial, str(error))
        except torch.OutOfMemoryError:  # a trial of smaller depth and widths may fit
            refuse(trial, "the GPU does not have enough memory for it")
        finally:
            seconds = time.perf_counter() - started
            trial.set_user_attr("seconds", round(seconds, 3))
            trial.set_user_attr("epochs", len(figures))
        value = figures[-1] if config.train.stop == "none" else min(figures)
        if not math.isfinite(value):
            refuse(trial, "its inner RMSE is not a number")
        took = f"{len(figures)} epochs; {duration(seconds)}"
        log(f"trial {trial.number}: inner RMSE {value:.3f} after {took}; {settings_text(values)}")
        return value


def refuse(trial: optuna.Trial, why: str) -> Never:
    """End a trial that cannot be trained, and let the search go on."""
    trial.set_user_attr(REFUSED, why)
    log(f"trial {trial.number}: ended: {why}")
    raise optuna.TrialPruned


def values_of(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """The settings a trial drew."""
    return {key: decoded(value) for key, value in trial.params.items()}


def settings_text(values: Mapping[str, Any]) -> str:
    """`train.lr=0.0012 model.fusion_widths=[64,32]`: settings as the command line takes them."""
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={str(value).replace(' ', '')}"
        for key, value in values.items()
    )
