"""A study that several workers share: all use the same settings, and its trials are counted exactly even if workers die.

The storage numbers the trials, so all workers agree on which of them count. A trial's place is the number of first tries before
it. When two workers start the last trial at once, one gets a place beyond the limit and ends at once. A repetition has the place
of the trial that was cut short. The sampler's seed depends on `search.seed` and the place: no two trials share a seed, and a
study that was stopped and continued draws the same settings as one that was not.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, PartialFixedSampler, TPESampler
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from pawpularity.config import Config
from pawpularity.console import log
from pawpularity.errors import UserError, listed
from pawpularity.runs import differences, fingerprint
from pawpularity.tuning.storage import WORKER, Store, was_repeated

RECORD = "record"
REFUSED = "refused"
"""The trial's attribute that says why its settings could not be trained."""
SURPLUS = "surplus"
"""The attribute of a trial that two workers started at once, and that does not count."""
_POLL_S = 1.0


def record_of(config: Config, space: Mapping[str, Any], hashes: Mapping[str, str], fold: int) -> dict[str, Any]:
    """The settings that must be equal for two commands to work on one study. `space`: the rules as the config states them."""
    parts = {part: {"hash": hashes[part], "initial_hash": hashes[part]} for part in ("data", "folds", "weights")}
    found = fingerprint({"config": config.to_dict(), **parts})
    found |= {f"search.{key}": getattr(config.search, key) for key in ("seed", "pruner", "inner_share", "depths")}
    found |= {f"search.space.{key}": rule for key, rule in space.items()}
    return {key: value for key, value in found.items() if not key.startswith("predict.")} | {"search.fold": fold}


def open_study(
    store: Store, name: str, config: Config, record: Mapping[str, Any], notes: Callable[[], Mapping[str, Any]]
) -> tuple[optuna.Study, dict[str, Any]]:
    """The study `name`, created if it does not exist, and the `notes` stored at its creation.

    Raises UserError that names the first differences if the study was started with other settings, data, folds or weights.
    """
    with store.reachable():
        study = optuna.create_study(
            study_name=name, storage=store.storage, load_if_exists=True, direction="minimize", pruner=pruner_of(config)
        )
        if RECORD not in study.user_attrs:
            study.set_user_attr(RECORD, {"compared": dict(record), "notes": dict(notes())})
        noted = study.user_attrs[RECORD]
    if difference := differences(noted["compared"], record):
        raise UserError(
            f"study {name} in {store.shown} was started with other settings: {difference}; take another "
            "name (RUN=...), or those settings"
        )
    return study, noted["notes"]


def load_studies(store: Store, name: str) -> list[optuna.Study]:
    """The study `name`, or the studies of its folds. Raises UserError if there is none."""
    with store.reachable():
        names = sorted(optuna.get_all_study_names(store.storage))
        found = [one for one in names if re.fullmatch(rf"{re.escape(name)}(-fold\d+)?", one)]
        if not found:
            raise UserError(f"{store.shown}: holds no study {name}; it holds {listed(names)}")
        return [optuna.load_study(study_name=one, storage=store.storage) for one in found]


def pruner_of(config: Config) -> BasePruner:
    """The pruner. The median pruner starts after three quarters of the epochs with a cosine schedule, else after a quarter.

    With a cosine schedule the rate stays high until late, and an early inner RMSE says little about the last: docs/log.md.
    """
    epochs = config.train.epochs
    if config.search.pruner == "none":
        return NopPruner()
    if config.search.pruner == "hyperband":
        return HyperbandPruner(min_resource=max(1, epochs // 9), max_resource=epochs, reduction_factor=3)
    unpruned = 3 * epochs // 4 if config.train.schedule == "cosine" else epochs // 4
    return MedianPruner(n_startup_trials=5, n_warmup_steps=unpruned)


def trials_of(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count: without those that two workers started at once."""
    return [trial for trial in study.get_trials(deepcopy=False) if SURPLUS not in trial.user_attrs]


def first_try(trial: FrozenTrial) -> bool:
    """Whether a trial counts and is no repetition of one that was cut short."""
    return not RetryHeartbeatStaleTrialCallback.retry_history(trial) and SURPLUS not in trial.user_attrs


def counts_of(studies: Sequence[optuna.Study]) -> dict[str, int]:
    """The number of trials by outcome."""
    trials = [trial for study in studies for trial in trials_of(study)]
    refused, first = sum(REFUSED in trial.user_attrs for trial in trials), sum(map(first_try, trials))
    states = Counter(trial.state.name.lower() for trial in trials)
    return {
        "trials": first,
        "complete": states["complete"],
        "pruned": states["pruned"] - refused,
        "refused": refused,
        "repeated": len(trials) - first,
        "under_way": states["running"] + states["waiting"],
    }


def counts_text(counts: Mapping[str, int]) -> str:
    """`counts_of` as text."""
    return (
        f"{counts['trials']} trials: {counts['complete']} finished, {counts['pruned']} pruned, {counts['refused']} refused or "
        f"diverged, {counts['repeated']} run again, {counts['under_way']} under way"
    )


def place_of(trials: Sequence[FrozenTrial], number: int, limit: int) -> int | None:
    """How many first tries came before the trial (or before the one it repeats); None where it must not be run.

    `trials`: the whole study. First tries beyond `limit` must not be run, nor any but the first repetition of one failure.
    """
    history = RetryHeartbeatStaleTrialCallback.retry_history
    tries = history(trials[number])
    place = sum(map(first_try, trials[: (tries or [number])[0]]))
    if not tries:
        return place if place < limit else None
    rivals = [trial.number for trial in trials if history(trial)[-1:] == tries[-1:]]
    return place if number == rivals[0] else None


def work(
    store: Store,
    study: optuna.Study,
    limit: int,
    seed: int,
    objective: Callable[[optuna.Trial], float],
    own: Mapping[str, Any],
) -> None:
    """Run trials until the study has `limit` of them, then wait for the trials of other workers.

    `own`: the settings of the first trial. A trial that is stopped from outside runs again at the next start.
    """
    begun: list[int] = []

    def claimed(trial: optuna.Trial) -> float:
        begun.append(trial.number)
        trial.set_user_attr(WORKER, store.worker)
        place = place_of(study.get_trials(deepcopy=False), trial.number, limit)
        if place is None:
            trial.set_user_attr(SURPLUS, True)
            raise optuna.TrialPruned
        study.sampler = _sampler(seed, place, own)
        return objective(trial)

    with store.reachable(), store.at_work():
        while True:
            store.revive(study)
            trials = study.get_trials(deepcopy=False)
            states = {trial.state for trial in trials}
            if TrialState.WAITING in states or sum(map(first_try, trials)) < limit:
                try:
                    study.optimize(claimed, n_trials=1)
                # Optuna raises these if the trial has ended already.
                except (UpdateFinishedTrialError, ValueError, AssertionError):
                    if not begun or not was_repeated(study.get_trials(deepcopy=False), begun[-1]):
                        raise
                    log(
                        f"trial {begun[-1]}: this worker sent no heartbeat for too long, so another worker runs it again"
                    )
            elif TrialState.RUNNING in states:
                time.sleep(_POLL_S)
            else:
                return


def _sampler(seed: int, place: int, own: Mapping[str, Any]) -> BaseSampler:
    sampler = TPESampler(seed=int(np.random.SeedSequence([seed, place]).generate_state(1)[0]))
    return PartialFixedSampler(dict(own), sampler) if place == 0 else sampler
