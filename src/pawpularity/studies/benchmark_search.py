"""A search beside plain trainings, and two workers beside one: the real commands in turn, on one drawn sample.

- `plain training`: `pawpularity train` on all folds with cache.budget_gb=0: the frozen part runs in every epoch, as public
  solutions train;
- `warm training`: the same on cached features;
- `search`: `pawpularity tune --search-only`, pruned as the config says: in a journal, in a PostgreSQL of its own, and there by two
  commands at once, each with half of the threads.

All of them find photos decoded and every depth's features cached. A training's seconds are those of its folds, a search's are from
the first trial's start to the last one's end, as both note them. `cpu_seconds` are those of all threads and processes, the start
of Python included: where others use the machine too, they are the fairer ones. A trial that was lost, repeated or drawn twice is a
defect, and ends the benchmark.
"""

import contextlib
import os
import secrets
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
import torch

from pawpularity.config import CONFIGS, resolve
from pawpularity.console import log
from pawpularity.context import Context
from pawpularity.device import Compute, choose
from pawpularity.models.backbone import unfrozen_tensors
from pawpularity.models.network import build_network
from pawpularity.runs import OOF, Run
from pawpularity.studies.benchmark import Rows, drawn_photos
from pawpularity.studies.benchmark_train import spread
from pawpularity.studies.postgres import NoServer, temporary_server
from pawpularity.training.fit import training_inputs
from pawpularity.training.samples import TrainingData, samples_of
from pawpularity.tuning.space import DEPTH, read_space, resolved
from pawpularity.tuning.storage import VARIABLE, WORKER, Store, study_folder
from pawpularity.tuning.study import load_studies, trials_of

TRAININGS = 5  # a search is measured in trainings of all folds, five of them


@dataclass(frozen=True)
class Counted:
    """One command, or several at once. `trials_each`: trials of every worker, the busiest first; `cpu`: seconds."""

    seconds: float
    epochs: float
    trials_each: tuple[int, ...] = ()
    cpu: float = 0.0


@dataclass(frozen=True)
class Way:
    """One of the rows."""

    way: str
    command: tuple[str, ...] = ("train",)
    storage: str | None = None
    workers: int = 1
    url: str = ""

    @property
    def threads(self) -> int:
        """Threads of every worker."""
        return max(1, torch.get_num_threads() // self.workers)

    def run(self, words: list[str], run: str, trials: int) -> Counted:
        """Run it in the current folder as run `run`. `words`: the config and the data."""
        # The address is not a word of the command: others can list those.
        environment = os.environ | {"OMP_NUM_THREADS": str(self.threads), VARIABLE: self.url}
        used = cpu_seconds()
        whole = [sys.executable, "-m", "pawpularity", *self.command, *words, "--run", run]
        workers = [subprocess.Popen(whole, env=environment, stdout=sys.stderr) for _ in range(self.workers)]
        try:
            codes = [worker.wait() for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
        if any(codes):
            raise RuntimeError(f"{self.way} ended with exit codes {codes}")
        if self.storage:
            found = count(load_studies(Store(study_folder(run), self.url or None, create=False), run)[0], trials)
        else:
            trained = Run.open(OOF / run)
            folds = [trained.metrics(fold) for fold in trained.trained_folds()]
            found = Counted(sum(fold["seconds"] for fold in folds), sum(fold["epochs_run"] for fold in folds))
        return replace(found, cpu=cpu_seconds() - used)


def cpu_seconds() -> float:
    """What this process and the ended ones that it started have used, all threads."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def count(study: optuna.Study, trials: int) -> Counted:
    """What a study of `trials` trials took. Raises RuntimeError for a lost, an unfinished, a repeated and a doubled trial."""
    every = trials_of(study)
    states = Counter(trial.state.name for trial in every)
    if [trial.number for trial in every] != list(range(trials)) or set(states) - {"COMPLETE", "PRUNED"}:
        raise RuntimeError(f"study {study.study_name}: {trials} finished trials were due; there are {dict(states)}")
    if len({str(sorted(trial.params.items())) for trial in every}) != trials:
        raise RuntimeError(f"study {study.study_name}: two trials drew the same settings")
    started = [trial.datetime_start for trial in every if trial.datetime_start]
    ended = [trial.datetime_complete for trial in every if trial.datetime_complete]
    workers = Counter(trial.user_attrs[WORKER] for trial in every)
    epochs = sum(trial.user_attrs.get("epochs", 0) for trial in every)
    return Counted((max(ended) - min(started)).total_seconds(), epochs, tuple(sorted(workers.values(), reverse=True)))


def warm(context: Context, compute: Compute) -> None:
    """Decode every photo, and compute all features that a training or a trial of any depth will ask for."""
    config = context.config
    data = TrainingData.load(context.dataset, context.folds, config)
    every = np.arange(len(data.scores))
    depth_rule: Any = resolved(read_space(config), config, data, compute).get(DEPTH)
    depths = depth_rule.choices if depth_rule else ()
    for depth in sorted({*depths, unfrozen_tensors(config.model)} - {None}, reverse=True):
        at = config.with_values({DEPTH: depth})
        network = build_network(at, fold=0).place(compute.device)
        training_inputs(at, data, network, compute, samples_of(at, data.scores, every), every)


def bench_search(name: str, photos: int, trials: int, repeats: int) -> Rows:
    """Rows of the table for one config; those of PostgreSQL only where there is one.

    Raises RuntimeError where features were computed inside what is timed as warm.
    """
    config, load, configs = resolve(name), os.getloadavg()[0], Path(CONFIGS).resolve()
    compute = choose(config.train.dtype)
    log(f"device  {compute}")
    with drawn_photos(photos, 160, seed=0) as data, contextlib.chdir(data.parent), contextlib.ExitStack() as stack:
        Path(CONFIGS).symlink_to(configs)
        context = Context(config, Path(data.name), OOF / "warm")
        warm(context, compute)
        search = ("tune", "--search-only", "--trials", str(trials), "search.nested=false")
        ways = [
            Way("plain training", ("train", "cache.budget_gb=0")),
            Way("warm training"),
            Way("search", search, "journal"),
        ]
        try:
            url = stack.enter_context(temporary_server(secrets.token_urlsafe(12)))
            ways += [Way("search", search, "postgresql", workers, url) for workers in (1, 2)]
        except NoServer as error:
            log(f"search: no rows for PostgreSQL: {error}")
        indexes = Path(config.cache.folder) / "features"
        before = {index: index.stat().st_size for index in indexes.glob("*/index.jsonl")}
        found: dict[Way, list[Counted]] = {way: [] for way in ways}
        for turn in range(repeats):  # all ways in turn, so that a disturbance of the machine hits them alike
            for number, way in enumerate(ways):
                log(
                    f"search: {way.way}, {way.storage or 'all folds'}, {way.workers} at once, {turn + 1} of {repeats} ..."
                )
                found[way].append(way.run(["--config", name, "--data", data.name], f"bench{number}-{turn}", trials))
        if not before or before != {index: index.stat().st_size for index in indexes.glob("*/index.jsonl")}:
            raise RuntimeError("features were computed inside what was timed as warm")
        common = {"config": name, "device": compute.device.type, "photos": photos, "folds": context.folds.k}
        return rows_of(common, found, trials, load)


def rows_of(common: dict[str, Any], found: dict[Way, list[Counted]], trials: int, load: float) -> Rows:
    """The table: medians, and shares of five trainings."""
    seconds, cpu, epochs = (
        {way: median(getattr(one, name) for one in times) for way, times in found.items()}
        for name in ("seconds", "cpu", "epochs")
    )
    plain, kept = list(found)[:2]
    rows = []
    for way, times in found.items():
        searched = way.storage is not None
        rows.append(common | {
            "way": way.way, "storage": way.storage, "workers": way.workers, "threads_each": way.threads,
            "trials": trials if searched else None,
            "trials_of_each_worker": " ".join(map(str, times[0].trials_each)) or None,
            "epochs_run": epochs[way], "seconds": seconds[way], "cpu_seconds": cpu[way],
            "trials_per_s": trials / seconds[way] if searched else None, "epochs_per_s": epochs[way] / seconds[way],
            "share_of_five_plain": seconds[way] / (TRAININGS * seconds[plain]) if searched else None,
            "share_of_five_warm": seconds[way] / (TRAININGS * seconds[kept]) if searched else None,
            "cpu_share_of_five_plain": cpu[way] / (TRAININGS * cpu[plain]) if searched else None,
            "spread": spread([one.seconds for one in times]), "repeats": len(times), "load_before": load,
        })  # fmt: skip
    return rows
