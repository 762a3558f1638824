"""A study: the same one wherever it is continued, its trials counted exactly, whoever dies.

The number of trials is that of the first tries: a trial that was cut short is run again with its settings under a new
number, and counts once. The sampler's seed is a function of `search.seed` and of how many were started, so a study that
was stopped and continued draws what it would have drawn.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, TrialState

from pawpularity.config import Config
from pawpularity.errors import UserError
from pawpularity.tuning.storage import MOST_RETRIES, Store, again, repeated, revive

RECORD = "record"
_FREE = ("name", "cache.", "train.workers", "hypotheses.", "explain.", "predict.", "search.trials", "search.top",
         "search.heartbeat", "search.space", "search.nested")  # fmt: skip
_POLL_S = 1.0
Objective = Callable[[optuna.Trial], float]


@dataclass(frozen=True)
class Slots:
    """How far a study is."""

    started: int
    """first tries"""
    waiting: int
    running: int


def record_of(
    config: Config, space: Mapping[str, Any], data: str, folds: str, weights: str, fold: int
) -> dict[str, Any]:
    """What two commands must agree in to work on one study. `space`: the rules as they are written."""
    flat: dict[str, Any] = {}
    for section, part in config.to_dict().items():
        for key, value in part.items() if isinstance(part, dict) else ():
            flat[f"{section}.{key}"] = value
    kept = {key: value for key, value in flat.items() if not key.startswith(_FREE)}
    kept["search.fold"] = fold
    return {"config": kept, "space": dict(space), "data": data, "folds": folds, "weights": weights}


def open_study(
    store: Store, name: str, config: Config, record: Mapping[str, Any], resolved: Callable[[], Mapping[str, Any]],
    first: Callable[[Mapping[str, Any]], Mapping[str, Any] | None],
) -> tuple[optuna.Study, dict[str, Any]]:  # fmt: skip
    """The study `name`, made if it is not there, and its space with the depths resolved (by `resolved`, once, by its maker).

    `first` gives the settings of the first trial for that space: the config's own. Raises UserError naming the first
    difference where the study was begun with other settings, rules, data, folds or weights.
    """
    with store.reachable(), store.locked():
        study = optuna.create_study(
            study_name=name, storage=store.storage, load_if_exists=True, direction="minimize", pruner=pruner_of(config)
        )
        noted = study.user_attrs.get(RECORD)
        if noted is None:
            space = dict(resolved())
            study.set_user_attr("space", space)
            own = first(space)
            if own:
                study.enqueue_trial(dict(own), user_attrs={"own": True})
            study.set_user_attr(RECORD, dict(record))
            return study, space
        difference = _difference(noted, record)
        if difference is not None:
            raise UserError(
                f"study {name} in {store.shown} was begun otherwise: {difference}; take another name (RUN=...), or the "
                "settings it was begun with"
            )
        return study, dict(study.user_attrs["space"])


def load_study(store: Store, name: str) -> optuna.Study:
    """The study `name` as it is. Raises UserError where there is none."""
    with store.reachable():
        try:
            return optuna.load_study(study_name=name, storage=store.storage)
        except KeyError:
            there = ", ".join(optuna.get_all_study_names(store.storage)) or "none"
            raise UserError(f"{store.shown}: holds no study {name}; it holds {there}") from None


def _difference(noted: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    for part, what in (("config", ""), ("space", "search.space.")):
        old, new = noted.get(part, {}), now[part]
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                return f"{what}{key} was {old.get(key)}, is {new.get(key)}"
    for part, what in (("data", "its data"), ("folds", "its folds"), ("weights", "its weights")):
        if noted.get(part) != now[part]:
            return f"{what} had hash {noted.get(part)}, now {now[part]}"
    return None


def pruner_of(config: Config) -> BasePruner:
    """Ends hopeless trials by their inner RMSE: none before a quarter of the epochs, with a cosine schedule three quarters, but for
    `hyperband`, which begins at a ninth whatever the schedule.

    Under a cosine the rate is high until late, and an epoch's inner RMSE says nothing about the last one's: over 40 trials of a
    drawn shelter they had a rank correlation of 0.0 after 5 of 20 epochs, 0.4 after 10, 0.6 after 15, 0.9 after 18.
    """
    epochs = config.train.epochs
    spared = 3 * epochs // 4 if config.train.schedule == "cosine" else epochs // 4
    if config.search.pruner == "none":
        return NopPruner()
    if config.search.pruner == "hyperband":
        return HyperbandPruner(min_resource=max(1, epochs // 9), max_resource=epochs, reduction_factor=3)
    return MedianPruner(n_startup_trials=5, n_warmup_steps=spared)


def first_try(trial: FrozenTrial) -> bool:
    """Whether a trial is no repetition of one that was cut short."""
    return "failed_trial" not in trial.system_attrs  # Optuna's own mark of a repetition


def slots(study: optuna.Study) -> Slots:
    """How far it is."""
    trials = study.get_trials(deepcopy=False)
    states = [trial.state for trial in trials]
    return Slots(
        sum(first_try(trial) for trial in trials), states.count(TrialState.WAITING), states.count(TrialState.RUNNING)
    )


def work(store: Store, study: optuna.Study, trials: int, seed: int, objective: Objective) -> None:
    """Run trials until the study has `trials` of them and none is running anywhere; waits for those of others.

    `objective` must call `store.release()` once it has noted who runs it. Whatever ends a trial from outside (Ctrl-C, a full
    disk) is raised after the trial was enqueued again.
    """
    while True:
        with store.reachable():
            store.acquire()
            try:
                revive(store, study)
                now = slots(study)
                if not now.waiting and now.started >= trials:
                    if not now.running:
                        return
                else:
                    # A new sampler for every trial: where the process was started does not matter, nor which one it is.
                    study.sampler = TPESampler(
                        seed=int(np.random.SeedSequence([seed, now.started]).generate_state(1)[0])
                    )
                    _one(store, study, objective)
                    continue
            finally:
                store.release()
        time.sleep(_POLL_S)


def _one(store: Store, study: optuna.Study, objective: Objective) -> None:
    numbers: list[int] = []

    def noting(trial: optuna.Trial) -> float:
        numbers.append(trial.number)
        return objective(trial)

    try:
        study.optimize(noting, n_trials=1)
    except BaseException as error:
        if numbers:
            store.acquire()  # given back by our caller
            trials = study.get_trials(deepcopy=False)
            if trials[numbers[0]].state == TrialState.FAIL and not repeated(trials, numbers[0]):
                # What comes from outside says nothing of the trial; what it raised itself it may raise for ever.
                outside = isinstance(error, OSError) or not isinstance(error, Exception)
                again(study, trials[numbers[0]], None if outside else MOST_RETRIES)
        if isinstance(error, AssertionError) and isinstance(error.__context__, OSError):
            raise error.__context__ from None  # Optuna's assertion that the trial's end was written hides why it was not
        raise
