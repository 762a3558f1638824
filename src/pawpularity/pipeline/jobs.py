"""The work list: one shell line for every fold x configuration x seed that is not trained yet, for any scheduler to run.

Lines may be run in any order, at once, and on several machines that share this folder: each trains one fold, goes on with it
if it was stopped half way, and ends well without doing anything where it is done or being trained elsewhere.
"""

import argparse
import itertools
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pawpularity.config import resolve
from pawpularity.context import Choices, choose, choose_data, default_config, folds_of
from pawpularity.data.dataset import Dataset
from pawpularity.data.folds import Folds
from pawpularity.errors import UserError
from pawpularity.runs import Run
from pawpularity.schema import Config, FoldsConfig


@dataclass(frozen=True)
class Job:
    """One fold to be trained."""

    config: str
    data: Path
    run: str
    fold: int
    settings: tuple[str, ...]
    fresh: bool = False

    @property
    def line(self) -> str:
        """The command, for a POSIX shell in the folder that holds configs/, input/ and oof/."""
        words = [sys.executable, "-m", "pawpularity", "train", "--config", self.config, "--data", str(self.data)]
        words += ["--run", self.run, "--fold", str(self.fold), "--skip-taken", *(["--fresh"] if self.fresh else [])]
        return shlex.join([*words, *self.settings])


def list_jobs(options: argparse.Namespace) -> tuple[list[Job], int]:
    """The jobs that are due, and how many are done.

    `options`: `configs` (separated by spaces), `seeds` and `folds` (whole numbers), `config`, `data`, `run`, `settings`,
    `fresh`. A seed other than the config's own gets a run of its own, `RUN-seedN`.

    Raises UserError for values that make no job, a run that stands there with other settings, or two jobs of one name.
    """
    if options.configs and options.config:
        raise UserError("jobs: --config names one and --configs several; give one of them")
    data = choose_data(options.data)
    configs = options.configs.split() if options.configs else [options.config or default_config(data)]
    seeds: Sequence[int | None] = _numbers(options.seeds, "--seeds") or [None]
    if options.run and len(configs) * len(seeds) > 1:
        raise UserError(f"--run {options.run}: is one name for {len(configs) * len(seeds)} runs; leave it away")
    splits: dict[FoldsConfig, Folds] = {}
    first: Choices | None = None
    due: list[Job] = []
    runs: set[Path] = set()
    done = 0
    for config, seed in itertools.product(configs, seeds):
        settings = [*options.settings, *([] if seed is None else [f"train.seed={seed}"])]
        chosen = choose(argparse.Namespace(config=config, data=options.data, run=options.run, settings=settings))
        first = first or chosen  # all have the same data, which is read once
        own = seed is None or options.run or seed == resolve(config, options.settings).train.seed
        folder = chosen.run if own else chosen.run.with_name(f"{chosen.run.name}-seed{seed}")
        if folder in runs:
            raise UserError(f"{folder}: two of these jobs would write it; name each configuration and seed once")
        runs.add(folder)
        split = chosen.config.folds
        if split not in splits:
            splits[split] = folds_of(first.dataset, chosen.config)
        trained = _trained(folder, chosen.config, first.dataset, splits[split])
        folds = _numbers(options.folds, "--folds") or range(split.k)
        if max(folds) >= split.k:
            raise UserError(f"--folds {max(folds)}: must lie in 0..{split.k - 1} (folds.k is {split.k})")
        due += [
            Job(config, chosen.data, folder.name, fold, tuple(settings), options.fresh)
            for fold in folds
            if fold not in trained
        ]
        done += len(set(folds) & set(trained))
    return due, done


def _trained(folder: Path, config: Config, dataset: Dataset, folds: Folds) -> list[int]:
    """The trained folds of the run at `folder`. Raises UserError where it is one with other settings, data or folds."""
    if not (folder / "config.json").is_file():
        return []
    weights = Run.open(folder).record.get("weights", {})  # which they are, is seen when the network is built
    record = {"kind": "run", "config": config.to_dict(), "data": {"hash": dataset.hash}, "folds": {"hash": folds.hash},
              "weights": weights}  # fmt: skip
    run = Run.same(folder, record)
    return run.trained_folds() if run is not None else []


def _numbers(text: str | None, option: str) -> list[int]:
    words = re.split(r"[\s,]+", (text or "").strip())
    if wrong := [word for word in words if word and not re.fullmatch(r"[0-9]{1,9}", word)]:
        raise UserError(f'{option} "{text}": {wrong[0]} is no whole number; write them like "0 1 2"')
    return list(dict.fromkeys(int(word) for word in words if word))
