"""`pawpularity tune`: search settings on one fold's inner split, and score the best honestly. `pawpularity study`: look at it."""

import argparse
import os
import subprocess
import sys
from typing import Any

from pawpularity.command_line import Verb, json_argument, run_argument
from pawpularity.console import emit, log


def _tune(options: argparse.Namespace) -> None:
    from pawpularity.context import choose
    from pawpularity.errors import UserError

    if options.trials is not None:
        options.settings = [*options.settings, f"search.trials={options.trials}"]
    if not 1 <= options.workers <= 64:
        raise UserError(f"--workers {options.workers}: must be 1 to 64")
    chosen = choose(options)
    config = chosen.config
    if config.train.split == "leaky":
        raise UserError("train.split=leaky is an experiment about leaks; nothing is to be tuned by it")

    from pawpularity.tuning.space import read_space
    from pawpularity.tuning.storage import VARIABLE

    read_space(config)  # what is wrong with it is said before anything is drawn, split or opened
    url = options.storage or os.environ.get(VARIABLE) or None

    from pawpularity.tuning.tune import Plan, tune

    configs = options.config or config.name
    plan = Plan(chosen, configs, url, options.workers, options.search_only)
    found = tune(plan, lambda: _helpers(options, url))
    if found is not None:
        value, text = found
        emit(value, text, options.json)


def _helpers(options: argparse.Namespace, url: str | None) -> list[subprocess.Popen[bytes]]:
    """The other workers: this very command in processes of their own. The address, and its password, is in no command line."""
    from pawpularity.tuning.storage import VARIABLE

    words = [sys.executable, "-m", "pawpularity", "tune", "--search-only"]
    for option in ("config", "data", "run"):
        if (value := getattr(options, option)) is not None:
            words += [f"--{option}", value]
    words += options.settings
    threads = max(1, (os.cpu_count() or 1) // options.workers)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ} | ({VARIABLE: url} if url else {})
    return [subprocess.Popen(words, env=environment, stdout=sys.stderr) for _ in range(options.workers - 1)]


def _tune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, metavar="N", help="trials of the study in all (search.trials)")
    parser.add_argument("--storage", metavar="URL", help="postgresql://USER:PASSWORD@HOST/DATABASE, for several machines "
                        "(default: the environment's PAWPULARITY_STORAGE, else a journal file in oof/studies/RUN/)")  # fmt: skip
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes on this machine (1)")
    parser.add_argument(
        "--search-only", action="store_true", help="help with the trials, and leave the scoring to others"
    )
    run_argument(parser)
    json_argument(parser)


def _study(options: argparse.Namespace) -> None:
    from pawpularity.errors import UserError
    from pawpularity.tuning.storage import STUDIES, VARIABLE, Store, study_folder
    from pawpularity.tuning.study import load_study
    from pawpularity.tuning.views import draw, summary, summary_text

    folder = study_folder(options.study)
    url = options.storage or os.environ.get(VARIABLE) or None
    store = Store(folder, url, create=False)
    import optuna

    with store.reachable():
        every = sorted(optuna.get_all_study_names(store.storage))
    names = [name for name in every if name == options.study or name.startswith(f"{options.study}-fold")]
    if not names:
        raise UserError(f"{store.shown}: holds no study {options.study}; it holds {', '.join(every) or 'none'}")
    found: list[dict[str, Any]] = []
    for name in names:
        study = load_study(store, name)
        with store.reachable():
            found.append(summary(study))
            into = STUDIES / options.study / ("study" if name == options.study else f"study-{name.rpartition('-')[2]}")
            made = draw(study, into)
        if made:
            log(f"plots   {into}: {', '.join(path.name for path in made)}")
    # The dashboard reads an address as SQLAlchemy does, for which postgresql:// alone is a driver that is not installed.
    live = store.shown.replace("postgresql://", "postgresql+pg8000://", 1) if url else str(folder / "study.journal")
    log(f"live    optuna-dashboard {live} (pip install optuna-dashboard)")
    emit({"studies": found}, "\n\n".join(summary_text(one) for one in found), options.json)


def _study_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", metavar="RUN", help="the study's name: that of make tune")
    parser.add_argument("--storage", metavar="URL", help="where it is kept, if not in oof/studies/RUN/")
    json_argument(parser)


VERBS = [
    Verb("tune", "search for better settings on one fold's inner split; train the best on all folds and score them "
         "cross-fitted", _tune, _tune_arguments),
    Verb("study", "a search's best trials, which settings matter, what depth costs; plots as PNG and HTML", _study,
         _study_arguments, configured=False),
]  # fmt: skip
