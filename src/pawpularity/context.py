"""What a command works on: which data, which settings, which run.

--data defaults to the contest's data if it is in input/, else to the sample, which is drawn if it is missing.
--config defaults to `sample` for drawn data, else `densenet161`. --run defaults to the config's name, or to the backbone's where
the command line changes it. Data other than those two add `-<data folder>` to it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pawpularity.config import Config, resolve, run_name
from pawpularity.console import log, make_word, next_step
from pawpularity.data import CONTEST, is_drawn
from pawpularity.errors import UserError
from pawpularity.files import short_name
from pawpularity.runs import OOF, check_name
from pawpularity.sample import SAMPLE

if TYPE_CHECKING:
    from pawpularity.data.dataset import Dataset
    from pawpularity.data.folds import Folds

FOLDS = OOF / "folds"


@dataclass(frozen=True)
class Context:
    """The resolved choices of one command."""

    config: Config
    data: Path
    run: Path
    words: tuple[str, ...] = ()
    """The command-line words of the same choices: --config, --data, --run and settings."""

    def make_line(self, goal: str, *, settings: bool = True) -> str:
        """`make GOAL ...` for the same choices, without those that are the default."""
        _, configs, _, data, _, run, *values = self.words
        usual = default_config(self.data)
        words = [make_word("CONFIG", configs)] * (settings and configs != usual)
        words += [make_word("DATA", data)] * (self.data != choose_data(None))
        named = default_run(configs, self.data, values) if settings else default_run(usual, self.data)
        words += [make_word("RUN", run)] * (run != named)
        return " ".join([f"make {goal}", *words, *(values if settings else ())])

    def variant(self, config: Config, run: str, words: tuple[str, ...] = ()) -> "Context":
        """Another run on the same data, of the command line's `words`. The data are not read again."""
        other = Context(config, self.data, OOF / check_name(run), words)
        other.__dict__["dataset"] = self.dataset
        if config.folds == self.config.folds:
            other.__dict__["folds"] = self.folds
        return other

    @cached_property
    def dataset(self) -> "Dataset":
        """The data, read and checked. A missing sample is drawn first."""
        return load_dataset(self.data, self.config)

    @cached_property
    def folds(self) -> "Folds":
        """The data's folds file, made if it is missing."""
        return folds_of(self.dataset, self.config)


def context(
    config: str | None = None, data: str | None = None, run: str | None = None, settings: Sequence[str] = ()
) -> Context:
    """Resolve --config, --data, --run and key=value words. Raises UserError for a wrong one."""
    folder = choose_data(data)
    configs = config or default_config(folder)
    resolved = resolve(configs, settings)
    name = check_name(run or default_run(configs, folder, settings))
    log(f"config  {configs} {' '.join(settings)}".rstrip())
    log(f"data    {folder}")
    words = ("--config", configs, "--data", str(folder), "--run", name, *settings)
    return Context(resolved, folder, OOF / name, words)


def load_dataset(data: Path, config: Config) -> "Dataset":
    """The data folder as an object. A missing sample is drawn first."""
    from pawpularity.data.dataset import Dataset

    draw_if_missing(data)
    return Dataset.load(data, Path(config.cache.folder))


def folds_of(dataset: "Dataset", config: Config) -> "Folds":
    """The folds file of `dataset` under `config`, made if it is missing."""
    from pawpularity.data.folds import make_folds

    cfg = config.folds
    folds = make_folds(
        dataset, k=cfg.k, seed=cfg.seed, bins=cfg.bins, duplicate_threshold=cfg.duplicate_threshold,
        out=FOLDS,
    )  # fmt: skip
    log(f"folds   {folds.path}: {folds.note}")
    return folds


def folds(context: Context, *, json: str | None = None) -> None:
    """The command `folds`: make the folds file, and show it."""
    from pawpularity.data.folds import show_folds

    show_folds(context.folds, context.dataset, json=json)
    next_step(context.make_line("train FOLD=0") if context.dataset.has_photos else "make data")


def choose_data(named: str | None) -> Path:
    """The data folder: `named`, else the default. Raises UserError if it is missing, except for the sample."""
    if named is None:
        return CONTEST if CONTEST.is_dir() else SAMPLE
    data = Path(named)
    if not data.exists() and data != SAMPLE:
        raise UserError(f"--data {named}: no such folder or CSV file")
    return data


def draw_if_missing(data: Path) -> None:
    """Draw the sample if `data` is its folder and the folder is missing."""
    if data == SAMPLE and not SAMPLE.is_dir():
        from pawpularity.sample.draw import draw_sample

        log(f"no competition data in {CONTEST} (make data downloads it): drawing the sample into {SAMPLE}")
        draw_sample(SAMPLE)


def default_config(data: Path) -> str:
    """`sample` for drawn data, else `densenet161`."""
    return "sample" if data == SAMPLE or is_drawn(data) else "densenet161"


def data_suffix(data: Path) -> str:
    """`-<data folder>`, fit for a run's name; empty for the contest's data and the sample."""
    if data.resolve() in (CONTEST.resolve(), SAMPLE.resolve()):
        return ""
    name = data.resolve().stem if data.is_file() else data.resolve().name
    return "-" + short_name(re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "data", 40)


def default_run(configs: str, data: Path, settings: Sequence[str] = ()) -> str:
    """The config's name, or the backbone's where one of `settings` names it; with the data folder's name for data other than
    the contest's and the sample."""
    name = short_name(run_name(configs) or "run", 59)
    if any(re.match(r"model(\.|=.*\b)backbone\b", word) for word in settings):
        name = resolve(configs, settings).model.backbone.rpartition("/")[2].partition(".")[0]
    return name + data_suffix(data)
