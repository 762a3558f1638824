"""One trial: draw settings, fit the fold by the very `fit_fold` that trains, and be judged by an inner split.

The inner split is taken off the fold's TRAINING rows (`search.inner_share` of them, whole groups, the same for every
trial), so neither a trial nor the search ever sees the fold's scored rows. With `train.stop: early` a trial's figure is
its best epoch's inner RMSE, as that epoch's weights would be kept. With `train.stop: none` training keeps its last epoch,
so the trial runs all of its epochs beside an inner split of its own, and its figure is the LAST epoch's inner RMSE: the
best of them would flatter. `train.refit` is left out: what it trains has no inner split to be judged by.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from pawpularity.config import Config
from pawpularity.console import log
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.models.backbone import unfrozen_tensors
from pawpularity.training.checkpoint import Epoch
from pawpularity.training.fit import fit_fold
from pawpularity.training.loop import Hooks
from pawpularity.training.samples import TrainingData
from pawpularity.tuning.space import Rule, Values, with_values
from pawpularity.tuning.storage import Store, signature


def judged(config: Config) -> Config:
    """`config` as a trial trains it: with the search's inner split, watched or only looked at."""
    train = config.train
    patience = train.epochs if train.stop == "none" else train.stop_patience
    inner = {"stop": "early", "stop_patience": patience, "inner_share": config.search.inner_share, "refit": False}
    return config.with_values({f"train.{key}": value for key, value in inner.items()})


@dataclass
class Objective:
    """The function Optuna minimises: inner RMSE, score points."""

    config: Config
    rules: Sequence[Rule]
    rows: TrainingData
    training: NDArray[np.int64]
    fold: int
    compute: Compute
    store: Store

    def __call__(self, trial: optuna.Trial) -> float:
        """Draw, fit, report every epoch. Raises `optuna.TrialPruned` where the pruner says so, or the loss diverged."""
        for key, value in signature().items():
            trial.set_user_attr(key, value)
        values = {rule.key: rule.draw(trial) for rule in self.rules}
        self.store.release()
        started = time.perf_counter()
        try:
            config = with_values(self.config, values)
        except UserError as error:  # each value is good alone; two may contradict one another
            return self._refuse(trial, str(error))
        last = config.train.stop == "none"
        figures: list[float] = []

        def on_epoch(epoch: Epoch) -> None:
            figures.append(epoch.inner_rmse)
            trial.report(epoch.inner_rmse, epoch.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        pruned = True
        try:
            hooks = Hooks(on_epoch=on_epoch)
            fit_fold(judged(config), self.rows, self.training, fold=self.fold, compute=self.compute, hooks=hooks)
            pruned = False
        except UserError as error:
            if "no longer finite" not in str(error):
                raise
            return self._refuse(trial, str(error))
        except torch.OutOfMemoryError:  # its depth and widths may be too much where others' are not
            return self._refuse(trial, "the GPU has not enough memory for it")
        finally:
            seconds = time.perf_counter() - started
            trial.set_user_attr("seconds", round(seconds, 3))
            trial.set_user_attr("epochs", len(figures))
            if pruned and figures:
                log(
                    f"trial {trial.number}: ended after {len(figures)} epochs at inner RMSE {figures[-1]:.3f}; {seconds:.1f} s"
                )
        value = figures[-1] if last else min(figures)
        if not math.isfinite(value):
            return self._refuse(trial, "its inner RMSE is no number")
        log(
            f"trial {trial.number}: inner RMSE {value:.3f} after {len(figures)} epochs; {seconds:.1f} s; {words(values)}"
        )
        return value

    def _refuse(self, trial: optuna.Trial, why: str) -> float:
        trial.set_user_attr("refused", why)
        log(f"trial {trial.number}: ended: {why}")
        raise optuna.TrialPruned


def values_of(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """The settings a trial drew."""
    from pawpularity.tuning.space import decoded

    return {key: decoded(value) for key, value in trial.params.items()}


def own_values(config: Config, rules: Sequence[Rule]) -> dict[str, Any]:
    """The config's own value of every rule that holds it, as Optuna keeps it: the first trial."""
    from pawpularity.tuning.space import DEPTH, encoded

    tree, found = config.to_dict(), {}
    for rule in rules:
        section, _, leaf = rule.key.partition(".")
        value = unfrozen_tensors(config.model) if rule.key == DEPTH else tree[section][leaf]
        if rule.holds(value):
            found[rule.key] = encoded(value)
    return found


def words(values: Values | Mapping[str, Any]) -> str:
    """`train.lr=0.0012 model.unfrozen=82`: settings as the command line takes them."""
    return " ".join(f"{key}={word(value)}" for key, value in values.items())


def word(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace(" ", "") if isinstance(value, list) else str(value)
