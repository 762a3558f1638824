"""From a configuration to a better one: the search, then the best trials on all folds, then `configs/tuned/NAME.yaml`."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import optuna
import torch
from optuna.distributions import distribution_to_json, json_to_distribution

from pawpularity.console import log, make_word
from pawpularity.context import Context, choose_data
from pawpularity.device import choose as choose_device
from pawpularity.evaluation.oof import write_oof
from pawpularity.files import write_json, write_text
from pawpularity.models.network import build_network
from pawpularity.models.weights import tensors_hash
from pawpularity.runs import check_name
from pawpularity.training.samples import TrainingData
from pawpularity.tuning.objective import Objective, settings_text
from pawpularity.tuning.rescore import Trainer, candidates, report, rescore, write_winner
from pawpularity.tuning.space import own_values, read_space, resolved, written_space
from pawpularity.tuning.storage import VARIABLE, Store, study_folder
from pawpularity.tuning.study import counts_of, open_study, record_of, work


def search(context: Context, url: str | None, workers: int) -> tuple[dict[int, optuna.Study], TrainingData]:
    """Run the trials in this process and `workers` - 1 others. Returns the study of each searched fold, and the training data.

    Raises UserError for a fault in the space or the storage, and for a study that was started with other settings.
    """
    config, name = context.config, context.run.name
    cfg = config.search
    check_name(f"{name}-trial99999")
    store = Store(study_folder(name), url, heartbeat=cfg.heartbeat)
    context.dataset.require_photos()
    compute = choose_device(config.train.dtype)
    rows = TrainingData.load(context.dataset, context.folds, config)
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    where = "for every fold" if cfg.nested else f"on fold {cfg.fold}"
    log(f"study   {name} in {store.shown}: {config.model.backbone}, {cfg.trials} trials {where}")
    log(f"device  {compute}")
    weights = tensors_hash(build_network(config, fold=0).backbone.state_dict())
    hashes = {"data": context.dataset.hash, "folds": context.folds.hash, "weights": weights}
    titles = {fold: f"{name}-fold{fold}" for fold in range(context.folds.k)} if cfg.nested else {cfg.fold: name}

    @cache
    def notes() -> dict[str, Any]:
        space = resolved(read_space(config), config, rows, compute)
        lines = {"tune": context.make_line("tune"), "train": train_line(context)}
        return lines | {"space": {key: distribution_to_json(rule) for key, rule in space.items()}}

    opened = {}
    for fold, title in titles.items():
        record = record_of(config, written_space(config), hashes, fold)
        study, noted = open_study(store, title, config, record, notes)
        space = {key: json_to_distribution(noted["space"][key]) for key in sorted(noted["space"])}
        training, _ = context.folds.rows(sorted(context.dataset.train["Id"]), fold)
        opened[fold] = study, Objective(config, space, rows, training, fold, compute)
    with _helpers(context, workers, url):
        for fold, (study, objective) in opened.items():
            own = own_values(config, objective.space)
            work(store, study, cfg.trials, cfg.seed + fold * 7919, objective, own)
    return {fold: study for fold, (study, _) in opened.items()}, rows


def train_line(context: Context) -> str:
    """The command that trains the winner."""
    line = f"make train {make_word('CONFIG', f'tuned/{context.run.name}')}"
    return line if context.data == choose_data(None) else f"{line} {make_word('DATA', str(context.data))}"


@contextmanager
def _helpers(context: Context, workers: int, url: str | None) -> Iterator[None]:
    """Start this command in `workers` - 1 more processes, and end them if the block fails."""
    command = [sys.executable, "-m", "pawpularity", "tune", "--search-only", *context.words]
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
    # The address holds a password, and other users can list command lines.
    environment = threads | os.environ | ({VARIABLE: url} if url else {})
    started = [subprocess.Popen(command, env=environment, stdout=sys.stderr) for _ in range(workers - 1)]
    try:
        yield
    except BaseException:  # else the helpers would run all remaining trials before the error is shown
        for helper in started:
            helper.terminate()
        raise
    finally:
        for helper in started:
            helper.wait()
    if any(helper.returncode for helper in started):
        log("a worker failed (see above); other workers ran its trials")


def score(context: Context, studies: Mapping[int, optuna.Study], rows: TrainingData) -> tuple[dict[str, Any], str, str]:
    """Train the best trials and the default, write the winner's config: the figures, their text, and its rest.

    Raises UserError if no trial was finished.
    """
    config, name, configs = context.config, context.run.name, context.words[1]
    trainer, nested = Trainer(context, rows), config.search.nested
    top = 1 if nested else config.search.top
    best = [candidate for fold in sorted(studies) for candidate in candidates(studies[fold], config, top)]
    best = trainer.candidates(best)
    default = trainer.default(name)
    found, prediction = rescore(best, context, default)
    winner = next(c for c in best if c.name == found["winner"])
    written = write_winner(name, configs, winner)
    folder = study_folder(name)
    write_oof(folder / "crossfitted.csv", default.table.assign(prediction=prediction))
    found |= {
        "study": name,
        "config": configs,
        "counts": counts_of(list(studies.values())),
        "winner_config": written.as_posix(),
        "winner_values": dict(winner.values),
    }
    write_json(folder / "search.json", found)
    log(f"winner  {written}: {settings_text(winner.values)}")
    log(f"        {train_line(context)}; the headline's predictions: {folder / 'crossfitted.csv'}")
    where = "a search per fold" if nested else f"searched on fold {config.search.fold}"
    text, more = report(found, f"{where}, scored on {100 * config.search.inner_share:.0f} % of its training rows")
    write_text(folder / "report.txt", f"{text}\n\n{more}\n")
    return found, text, more
