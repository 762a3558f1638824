"""From a configuration to a better one: the search, then the best trials on all folds, then `configs/tuned/NAME.yaml`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import torch

from pawpularity.console import log
from pawpularity.context import Context, default_run
from pawpularity.device import Compute
from pawpularity.device import choose as choose_device
from pawpularity.errors import UserError
from pawpularity.evaluation.oof import write_oof
from pawpularity.files import write_json, write_text
from pawpularity.models.network import build_network
from pawpularity.models.weights import tensors_hash
from pawpularity.runs import check_name
from pawpularity.training.samples import TrainingData
from pawpularity.tuning.objective import Objective, own_values, words
from pawpularity.tuning.rescore import (
    OWN,
    Candidate,
    Trainer,
    candidates,
    counts_of,
    figures,
    nested_figures,
    report,
    write_winner,
)
from pawpularity.tuning.space import Rule, read_space, resolved
from pawpularity.tuning.storage import Store, study_folder
from pawpularity.tuning.study import first_try, open_study, record_of, work


@dataclass(frozen=True)
class Plan:
    """What one `tune` command asks for."""

    chosen: Context
    url: str | None
    workers: int
    search_only: bool

    @property
    def name(self) -> str:
        """The study's name."""
        return self.chosen.run.name

    @property
    def configs(self) -> str:
        """The configuration that was named, which the winner's file builds on."""
        words = self.chosen.words
        return words[1] if words else self.chosen.config.name


def search(plan: Plan, helpers: Callable[[], list[Any]]) -> tuple[dict[str, Any], str] | None:
    """Search, and score what was found: the figures and their text; None where only the search was asked for.

    `helpers` starts the other workers of this machine. Raises UserError for whatever is wrong with the space, the storage,
    or a study that was begun otherwise.
    """
    config, name = plan.chosen.config, plan.name
    check_name(f"{name}-trial99999")
    store = Store(study_folder(name), plan.url, heartbeat=config.search.heartbeat)
    if plan.workers > 1 and store.one_worker:
        raise UserError(
            "--workers: SQLite takes one worker; leave STORAGE out for a journal file, or name a PostgreSQL database"
        )
    dataset, folds = plan.chosen.dataset, plan.chosen.folds
    dataset.require_photos()
    compute = choose_device(config.train.dtype)
    rows = TrainingData.load(dataset, folds, config)
    if plan.workers > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // plan.workers))
    log(f"study   {name} in {store.shown}: {config.model.backbone}, {config.search.trials} trials"
        f"{' for every fold' if config.search.nested else f' on fold {config.search.fold}'}")  # fmt: skip
    log(f"device  {compute}")
    weights = tensors_hash(build_network(config, fold=0).backbone.state_dict())
    searched = list(range(folds.k)) if config.search.nested else [config.search.fold]
    studies: dict[int, optuna.Study] = {}
    objectives: dict[int, Objective] = {}
    for fold in searched:
        title = f"{name}-fold{fold}" if config.search.nested else name
        studies[fold], rules = _opened(plan, store, title, fold, rows, compute, weights)
        training, _ = folds.rows(sorted(dataset.train["Id"]), fold)
        objectives[fold] = Objective(config, rules, rows, training, fold, compute, store)
    started: list[Any] = []
    try:
        if plan.workers > 1:
            started += helpers()
        for fold in searched:
            work(store, studies[fold], config.search.trials, config.search.seed + fold * 7919, objectives[fold])
    except BaseException:  # they would go on with all trials that are left, and this one's reason be told after hours
        for helper in started:
            helper.terminate()
        raise
    finally:
        for helper in started:
            helper.wait()
    if any(helper.returncode for helper in started):
        log("a worker ended badly (see above); its trials were run by others")
    if plan.search_only:
        log(
            f"study   {name}: all trials are done; make tune without --search-only trains the best of them on all folds"
        )
        return None
    return _scored(plan, studies, Trainer(plan.chosen, rows))


def _opened(
    plan: Plan, store: Store, title: str, fold: int, rows: TrainingData, compute: Compute, weights: str
) -> tuple[optuna.Study, list[Rule]]:
    config = plan.chosen.config
    rules = read_space(config)
    written = {rule.key: rule.to_dict() for rule in rules}
    record = record_of(config, written, plan.chosen.dataset.hash, plan.chosen.folds.hash, weights, fold)

    def made() -> Mapping[str, Any]:
        return {rule.key: rule.to_dict() for rule in resolved(rules, config, rows, compute, log)}

    def of(space: Mapping[str, Any]) -> list[Rule]:
        return [Rule.of(key, space[key]) for key in sorted(space)]

    study, space = open_study(store, title, config, record, made, lambda space: own_values(config, of(space)))
    return study, of(space)


def _scored(plan: Plan, studies: Mapping[int, optuna.Study], trainer: Trainer) -> tuple[dict[str, Any], str]:
    config, name = plan.chosen.config, plan.name
    default = trainer.baseline(default_run(plan.configs, plan.chosen.data), config, f"{name}-{OWN}")
    share = f"judged by {100 * config.search.inner_share:.0f} % of its training rows"
    if config.search.nested:
        best = [candidates(studies[fold], f"{name}-fold{fold}", config, 1)[0] for fold in sorted(studies)]
        runs = [trainer.train(c.name, c.config, [fold]) for fold, c in zip(sorted(studies), best, strict=True)]
        found, table = nested_figures(runs, trainer.folds, default, [c.inner_rmse for c in best], config.search.fold)
        where = f"a search per fold, {share}"
    else:
        from pawpularity.evaluation.predictions import open_predictions

        best = candidates(studies[config.search.fold], name, config, config.search.top)
        sources = [open_predictions(trainer.train(c.name, c.config).name) for c in best]
        found, table = figures(sources, [c.inner_rmse for c in best], default, config.search.fold)
        where = f"searched on fold {config.search.fold}, {share}"
    counts = counts_of(list(studies.values()), first_try)
    winner = next(c for c in best if c.name == found["winner"])
    written = write_winner(
        name, plan.configs, winner.config.model_copy(update={"name": config.name}), _remark(name, winner)
    )
    folder = study_folder(name)
    write_oof(folder / "crossfitted.csv", table)
    found = {"study": name, "config": plan.configs, "counts": counts, "winner_config": written.as_posix(),
             "winner_values": dict(winner.values)} | found  # fmt: skip
    write_json(folder / "search.json", found)
    log(f"winner  {written}: {words(winner.values)}")
    log(f"        make train CONFIG=tuned/{name}; the headline's predictions: {folder / 'crossfitted.csv'}")
    text = report(found, counts, where)
    write_text(folder / "report.txt", text + "\n")
    return found, text


def _remark(name: str, winner: Candidate) -> str:
    return f"Found by make tune: study {name}, run {winner.name} (inner RMSE {winner.inner_rmse:.3f})."
