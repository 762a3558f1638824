"""Benchmark of searches: a search compared with plain trainings, and two workers with one. Runs the real commands on a sample.

- `plain training`: `pawpularity train` on all folds with cache.budget_gb=0. The frozen part runs in every epoch, as public
  solutions train.
- `warm training`: the same on cached features.
- `search`: `pawpularity tune --search-only`, pruned as the config says, by one worker or by two with half of the threads each. The
  study is in a journal, or in the database that PAWPULARITY_STORAGE names.

Before all of them, photos are decoded and the features of every depth are cached. `seconds` are of the whole command, with the
start of Python; `cpu_seconds` are of all its threads and processes, which is fairer on a shared machine. A trial that is lost,
repeated or drawn twice is a defect and ends the benchmark.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median

import numpy as np
import optuna
import torch
from optuna.distributions import CategoricalDistribution

from pawpularity.config import CONFIGS, resolve
from pawpularity.console import log
from pawpularity.context import Context
from pawpularity.device import Compute, choose
from pawpularity.models.network import build_network
from pawpularity.runs import OOF
from pawpularity.studies.benchmark import Rows, drawn_photos, spread
from pawpularity.training.fit import training_inputs
from pawpularity.training.samples import TrainingData, samples_of
from pawpularity.tuning.space import DEPTH, read_space, resolved
from pawpularity.tuning.storage import VARIABLE, Store, study_folder
from pawpularity.tuning.study import load_studies, trials_of

TRAININGS = 5  # a search's time is a share of that of five trainings of all folds
WAYS = {("plain training", 1): ("train", "cache.budget_gb=0"), ("warm training", 1): ("train",),
        ("search", 1): ("tune", "--search-only"), ("search", 2): ("tune", "--search-only", "--workers", "2")}  # fmt: skip


def timed(words: list[str], workers: int) -> tuple[float, float]:
    """(seconds of one command, CPU seconds of its threads and processes)."""
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // workers))}
    started, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "pawpularity", *words], env=environment, stdout=sys.stderr, check=True)
    after = os.times()
    cpu = sum(getattr(after, name) - getattr(before, name) for name in ("children_user", "children_system"))
    return time.perf_counter() - started, cpu


def require_whole(study: optuna.Study, trials: int) -> None:
    """Raise RuntimeError if one of `trials` trials is lost, unfinished or repeated, or two drew the same settings."""
    every = trials_of(study)
    states = Counter(trial.state.name for trial in every)
    if len(every) != trials or set(states) - {"COMPLETE", "PRUNED"}:
        raise RuntimeError(f"study {study.study_name}: expected {trials} finished trials, found {dict(states)}")
    if len({str(sorted(trial.params.items())) for trial in every}) != trials:
        raise RuntimeError(f"study {study.study_name}: two trials drew the same settings")


def fill_caches(context: Context, compute: Compute) -> None:
    """Decode every photo, and compute all features that a training or a trial of any depth will need."""
    config = context.config
    data = TrainingData.load(context.dataset, context.folds, config)
    every = np.arange(len(data.scores))
    depth_rule = resolved(read_space(config), config, data, compute).get(DEPTH)
    depths = depth_rule.choices if isinstance(depth_rule, CategoricalDistribution) else ()
    known = (*depths, config.model.unfrozen)
    for depth in sorted({depth for depth in known if isinstance(depth, int)}, reverse=True):
        deeper = config.with_values({DEPTH: depth})
        network = build_network(deeper, fold=0).place(compute.device)
        training_inputs(deeper, data, network, compute, samples_of(deeper, data.scores, every), every)


def bench_search(name: str, photos: int, trials: int, repeats: int) -> Rows:
    """Rows of the table for one config. Raises RuntimeError if a timed command computed features that should be cached."""
    config, configs, url = resolve(name), Path(CONFIGS).resolve(), os.environ.get(VARIABLE) or None
    compute = choose(config.train.dtype)
    log(f"device  {compute}")
    found: dict[tuple[str, int], list[tuple[float, float]]] = {way: [] for way in WAYS}
    with drawn_photos(photos, 160, seed=0) as data, contextlib.chdir(data.parent):
        Path(CONFIGS).symlink_to(configs)
        fill_caches(Context(config, Path(data.name), OOF / "warm"), compute)
        indexes = sorted((Path(config.cache.folder) / "features").glob("*/index.jsonl"))
        before = [index.read_bytes() for index in indexes]
        for turn in range(repeats):  # all ways in turn, so that a disturbance of the machine affects all of them
            for (way, workers), words in WAYS.items():
                log(f"search: {way}, {workers} at once, {turn + 1} of {repeats} ...")
                run = f"bench-{secrets.token_hex(4)}"
                command = [*words, "--config", name, "--data", data.name, "--run", run]
                if way != "search":
                    found[way, workers].append(timed(command, workers))
                    continue
                found[way, workers].append(timed([*command, "--trials", str(trials), "search.nested=false"], workers))
                store = Store(study_folder(run), url, create=False)
                require_whole(load_studies(store, run)[0], trials)
                optuna.delete_study(study_name=run, storage=store.storage)
        if before != [index.read_bytes() for index in indexes]:
            raise RuntimeError("a timed command computed features that should have been cached")
    return rows_of(name, compute.device.type, found, trials)


def rows_of(config: str, device: str, found: dict[tuple[str, int], list[tuple[float, float]]], trials: int) -> Rows:
    """The table: medians, and shares of five trainings."""
    seconds, cpu = ({way: median(one[i] for one in times) for way, times in found.items()} for i in (0, 1))
    plain, warm = list(found)[:2]
    rows = []
    for way, times in found.items():
        row = {"config": config, "device": device, "way": way[0], "workers": way[1], "seconds": seconds[way],
               "cpu_seconds": cpu[way]}  # fmt: skip
        if way[0] == "search":
            row |= {"trials_per_s": trials / seconds[way], "share_of_five_plain": seconds[way] / (TRAININGS * seconds[plain]),
                    "share_of_five_warm": seconds[way] / (TRAININGS * seconds[warm])}  # fmt: skip
        else:
            row |= dict.fromkeys(("trials_per_s", "share_of_five_plain", "share_of_five_warm"))
        rows.append(row | {"spread": spread([one[0] for one in times]), "repeats": len(times)})
    return rows
