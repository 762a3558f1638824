"""A search beside plain trainings, and two workers beside one: side by side, in one run, on one drawn shelter.

- `plain training`: the config as it is, all folds, the frozen part run in every epoch, as public solutions train;
- `warm training`: the same with the trunk's states kept;
- `search`: `--trials` trials on fold 0, pruned as the config says: in a journal, in a PostgreSQL of its own, and there by
  two workers (two commands started together, each with half of the threads).

All of them find photos decoded and every depth's trunk computed. A training's seconds leave out the start of Python; a
search's are from the first trial's start to the last one's end, as the study notes them. `cpu_seconds` are those of all
threads and processes (of two workers with the start of Python): where others use the machine too, they are the fairer ones.
Every search is counted: a trial that was lost, repeated or drawn twice is a defect, and ends the benchmark.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import TrialState

import pawpularity
from pawpularity.config import CONFIGS, Config, resolve
from pawpularity.console import log
from pawpularity.context import Context
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.files import read_json
from pawpularity.models.backbone import unfrozen_tensors
from pawpularity.runs import OOF
from pawpularity.sample.draw import draw_sample
from pawpularity.studies.benchmark.machine import Timing
from pawpularity.studies.benchmark.postgres import NoServer, temporary_server
from pawpularity.training.fold import labelled_photos, prepare_trunk
from pawpularity.training.labelled import LabelledPhotos
from pawpularity.training.samples import items_of
from pawpularity.tuning.rescore import Trainer
from pawpularity.tuning.space import DEPTH, read_space, resolved, with_values
from pawpularity.tuning.storage import PROCESS, VARIABLE, Store, study_folder
from pawpularity.tuning.study import load_study
from pawpularity.tuning.tune import Plan, tune

DATA = Path("input/shelter")
TRAININGS = 5  # what a search is measured in


@dataclass(frozen=True)
class Way:
    """One of the rows."""

    what: str
    storage: str = ""
    workers: int = 1


@dataclass(frozen=True)
class Counted:
    """One way, once. `each`: trials of every worker, the busiest first; `cpu`: seconds of all threads and processes."""

    seconds: float
    epochs: int
    each: tuple[int, ...] = ()
    cpu: float = 0.0


class Ways:
    """Everything that is timed; the current folder is a place of its own."""

    def __init__(self, name: str, trials: int, compute: Compute) -> None:
        self.name, self.trials, self.compute = name, trials, compute
        self.config = resolve(name, [f"search.trials={trials}", "search.nested=false"])
        chosen = self._chosen("any")
        self.dataset, self.folds = chosen.dataset, chosen.folds

    def _chosen(self, run: str) -> Context:
        return Context(self.config, DATA, OOF / run)

    def rows(self, config: Config) -> LabelledPhotos:
        """The shelter as `config` reads it."""
        return labelled_photos(self.dataset, self.folds, config)

    def warm(self) -> None:
        """Decode every photo, and compute every state that a training or a trial of any depth will ask for.

        Raises UserError where the config keeps no states.
        """
        rows = self.rows(self.config)
        every = np.arange(len(rows.scores))
        rules = resolved(read_space(self.config), self.config, rows, self.compute, log)
        depths = next((rule.choices for rule in rules if rule.key == DEPTH), ())
        own = unfrozen_tensors(self.config.model)
        for depth in sorted({*depths, own} - {None}, reverse=True):
            config = with_values(self.config, {DEPTH: depth})
            prepare_trunk(config, rows, items_of(config, rows.scores, every), every, self.compute)
        if not states_kept():
            raise UserError(f"bench: {self.name} keeps no trunk states here, so there is no warm search to time")

    def training(self, run: str, *, plain: bool) -> Counted:
        """All folds, from decoded photos; `plain`: without kept states."""
        config = self.config
        if plain:
            config = config.with_values({"cache.budget_gb": 0.0})
        trainer = Trainer(OOF, self.dataset, self.folds, self.rows(config), self.compute)
        started = time.perf_counter()
        trained = trainer.train(run, config)
        self.compute.synchronise()
        seconds = time.perf_counter() - started
        epochs = sum(
            read_json(trained.fold(fold) / "metrics.json", "a fold's figures")["epochs_run"]
            for fold in range(self.folds.k)
        )
        return Counted(seconds, epochs)

    def search(self, run: str, url: str | None, workers: int) -> Counted:
        """One search: by this process, or by `workers` commands of their own."""
        if workers == 1:
            tune(Plan(self._chosen(run), self.name, url, 1, search_only=True), list)
        else:
            self._commands(run, url, workers)
        return count(load_study(Store(study_folder(run), url, create=False), run), self.trials)

    def _commands(self, run: str, url: str | None, workers: int) -> None:
        words = [sys.executable, "-m", "pawpularity", "tune", "--search-only", "--config", self.name, "--data", str(DATA),
                 "--run", run, "--trials", str(self.trials), "search.nested=false"]  # fmt: skip
        here = str(Path(pawpularity.__file__).parents[1])
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads_each(workers)),
            "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH")))),
        }
        environment.pop(VARIABLE, None)
        if url is not None:
            environment[VARIABLE] = url  # not a word of the command: others can list those
        # One starts the study and the other joins it, as on two machines.
        children = [subprocess.Popen(words, env=environment, stdout=sys.stderr) for _ in range(workers)]
        codes = [child.wait() for child in children]
        if any(codes):
            raise RuntimeError(f"{workers} workers on one study ended with {codes}")


def threads_each(workers: int) -> int:
    """Threads of every one of `workers` processes."""
    return max(1, torch.get_num_threads() // workers)


def cpu_seconds() -> float:
    """What this process and the ended ones that it started have used, all threads."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def states_kept() -> int:
    """Bytes of the trunk files' indexes: they grow with every state that is computed."""
    return sum(path.stat().st_size for path in Path(".cache/trunk").glob("*/index.jsonl"))


def count(study: optuna.Study, trials: int) -> Counted:
    """What a finished study of `trials` trials took.

    Raises RuntimeError where a trial was lost, is not finished, was run again, or drew what another one had drawn.
    """
    every = study.get_trials(deepcopy=False)
    states = Counter(trial.state.name for trial in every)
    if [trial.number for trial in every] != list(range(trials)):
        raise RuntimeError(
            f"study {study.study_name}: {len(every)} trials where {trials} were asked for: {dict(states)}"
        )
    if set(states) - {TrialState.COMPLETE.name, TrialState.PRUNED.name}:
        raise RuntimeError(f"study {study.study_name}: not every trial was finished: {dict(states)}")
    if len({str(sorted(trial.params.items())) for trial in every}) != trials:
        raise RuntimeError(f"study {study.study_name}: two trials drew the same settings")
    started = [trial.datetime_start for trial in every if trial.datetime_start is not None]
    ended = [trial.datetime_complete for trial in every if trial.datetime_complete is not None]
    workers = Counter(trial.user_attrs[PROCESS] for trial in every)
    return Counted(
        (max(ended) - min(started)).total_seconds(),
        sum(trial.user_attrs.get("epochs", 0) for trial in every),
        tuple(sorted(workers.values(), reverse=True)),
    )


@contextlib.contextmanager
def place(photos: int) -> Iterator[None]:
    """Work in a temporary folder with the configs and a drawn shelter as large as the sample's photos."""
    with tempfile.TemporaryDirectory(prefix="pawpularity-bench-") as name:
        folder = Path(name)
        (folder / "configs").symlink_to(Path(CONFIGS).resolve())
        with contextlib.chdir(folder):
            draw_sample(DATA, photos=photos, test_photos=1)
            yield


def bench_search(name: str, photos: int, trials: int, compute: Compute, repeats: int) -> list[dict[str, Any]]:
    """Rows of the table for one config; those of PostgreSQL only where there is one, and else it is said why not."""
    load = os.getloadavg()[0]
    with place(photos), contextlib.ExitStack() as stack:
        ways = Ways(name, trials, compute)
        ways.warm()
        plan: dict[Way, Callable[[int], Counted]] = {
            Way("plain training"): lambda turn: ways.training(f"plain{turn}", plain=True),
            Way("warm training"): lambda turn: ways.training(f"warm{turn}", plain=False),
            Way("search", "journal"): lambda turn: ways.search(f"journal{turn}", None, 1),
        }
        try:
            url = stack.enter_context(temporary_server(secrets.token_urlsafe(12)))
            plan[Way("search", "postgresql")] = lambda turn: ways.search(f"one{turn}", url, 1)
            plan[Way("search", "postgresql", 2)] = lambda turn: ways.search(f"two{turn}", url, 2)
        except NoServer as error:
            log(f"search: the rows of PostgreSQL are left out: {error}")
        before = states_kept()
        found: dict[Way, list[Counted]] = {way: [] for way in plan}
        for turn in range(repeats):  # all ways in turn, so that a disturbance of the machine hits them alike
            for way, once in plan.items():
                log(f"search: {' '.join(map(str, astuple(way)))}, {turn + 1} of {repeats} ...")
                used = cpu_seconds()
                counted = once(turn)
                found[way].append(replace(counted, cpu=cpu_seconds() - used))
        if states_kept() != before:
            raise RuntimeError("trunk states were computed inside what was timed as warm")
        common = {"config": name, "device": compute.device.type, "photos": photos, "folds": ways.folds.k}
    return _table(common, found, trials, load)


def _table(common: dict[str, Any], found: dict[Way, list[Counted]], trials: int, load: float) -> list[dict[str, Any]]:
    timings = {way: Timing(tuple(one.seconds for one in times)) for way, times in found.items()}
    cpu = {way: median(one.cpu for one in times) for way, times in found.items()}
    plain, warm = Way("plain training"), Way("warm training")
    rows = []
    for way, times in found.items():
        seconds, searched = timings[way].median, way.what == "search"
        epochs = median(one.epochs for one in times)
        rows.append(common | {
            "way": way.what,
            "storage": way.storage or None,
            "workers": way.workers,
            "threads_each": threads_each(way.workers),
            "trials": trials if searched else None,
            "trials_of_each_worker": " ".join(map(str, times[0].each)) or None,
            "epochs_run": epochs,
            "seconds": seconds,
            "cpu_seconds": cpu[way],
            "trials_per_s": trials / seconds if searched else None,
            "epochs_per_s": epochs / seconds,
            "share_of_five_plain": seconds / (TRAININGS * timings[plain].median) if searched else None,
            "share_of_five_warm": seconds / (TRAININGS * timings[warm].median) if searched else None,
            "cpu_share_of_five_plain": cpu[way] / (TRAININGS * cpu[plain]) if searched else None,
            "spread": timings[way].spread,
            "repeats": len(times),
            "load_before": load,
        })  # fmt: skip
    return rows
