"""What a command works on: which data, which configuration, which run, and saying so at the start.

--data defaults to the contest's data if it is in input/, else to the sample shelter, which is drawn if it is not there
yet. --config defaults to `sample` for a drawn shelter, else `densenet161`. --run defaults to the config's name, with
`-<data folder>` added for data other than those two.
"""

import argparse
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pawpularity.config import resolve, run_name
from pawpularity.console import log
from pawpularity.data.dataset import CONTEST, Dataset, is_drawn
from pawpularity.data.folds import Folds, make_folds
from pawpularity.errors import UserError
from pawpularity.runs import OOF, check_name
from pawpularity.sample import SAMPLE
from pawpularity.schema import Config

FOLDS = OOF / "folds"


@dataclass(frozen=True)
class Choices:
    """The resolved choices of one command."""

    config: Config
    data: Path
    run: Path

    @cached_property
    def dataset(self) -> Dataset:
        """The data, read and checked; the sample shelter is drawn first if it is not there."""
        draw_if_missing(self.data)
        return Dataset.load(self.data, Path(self.config.cache.folder))

    @cached_property
    def folds(self) -> Folds:
        """The data's folds file, made if it is not there yet."""
        return folds_of(self.dataset, self.config)


def folds_of(dataset: Dataset, config: Config) -> Folds:
    """The folds file of `dataset` under `config`, made if it is not there yet, and said."""
    cfg = config.folds
    folds = make_folds(
        dataset, k=cfg.k, seed=cfg.seed, bins=cfg.bins, duplicate_threshold=cfg.duplicate_threshold,
        out=FOLDS,
    )  # fmt: skip
    log(f"folds   {folds.path}: {folds.note}")
    return folds


def choose_data(asked: str | None) -> Path:
    """The data folder, which for the sample shelter need not be there yet."""
    if asked is not None:
        return Path(asked)
    return CONTEST if CONTEST.is_dir() else SAMPLE


def draw_if_missing(data: Path) -> None:
    """Draw the sample shelter if it is what was chosen and it is not there."""
    if data == SAMPLE and not SAMPLE.is_dir():
        from pawpularity.sample.draw import draw_shelter

        log(f"no competition data in {CONTEST} (make data fetches it): drawing the sample shelter into {SAMPLE}")
        try:
            draw_shelter(SAMPLE)
        except UserError:
            if not SAMPLE.is_dir():  # else another command drew it meanwhile, whole as it always is
                raise


def default_config(data: Path) -> str:
    """`sample` for a drawn shelter, else `densenet161`."""
    return "sample" if data == SAMPLE or is_drawn(data) else "densenet161"


def data_suffix(data: Path) -> str:
    """`-<data folder>`, fit for a run's name; empty for the contest's data and the sample."""
    if data.resolve() in (CONTEST.resolve(), SAMPLE.resolve()):
        return ""
    # A folder may be called anything; a run's name is part of commands.
    name = data.resolve().stem if data.is_file() else data.resolve().name
    return "-" + (re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "data")


def default_run(configs: str, data: Path) -> str:
    """The config's name, with the data folder's name for data other than the contest's and the sample."""
    return (run_name(configs) or "run") + data_suffix(data)


def choose(options: argparse.Namespace) -> Choices:
    """Resolve --config, --data, --run and key=value words. Raises UserError for whatever is wrong with them."""
    data = choose_data(options.data)
    configs = options.config or default_config(data)
    config = resolve(configs, options.settings)
    run = OOF / check_name(getattr(options, "run", None) or default_run(configs, data))
    log(f"config  {configs} {' '.join(options.settings)}".rstrip())
    log(f"data    {data}")
    return Choices(config, data, run)
