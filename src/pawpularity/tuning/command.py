"""`pawpularity tune`: search settings on one fold's inner split, and score the best honestly. `pawpularity study`: look at it."""

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

from pawpularity.console import emit, log, make_word, next_step
from pawpularity.context import Context
from pawpularity.errors import UserError


def tune(
    context: Context, *, trials: int | None, workers: int, storage: str | None, search_only: bool, json: str | None
) -> None:
    """Search, then train the best trials on all folds and score them cross-fitted.

    Raises UserError for whatever is wrong with the space, before anything is drawn, split or opened.
    """
    if not 1 <= workers <= 64:
        raise UserError(f"--workers {workers}: must be 1 to 64")
    if trials is not None:
        words = (*context.words, f"search.trials={trials}")
        context = replace(context, config=context.config.with_values({"search.trials": trials}), words=words)
    if context.config.train.split == "leaky":
        raise UserError("train.split=leaky is an experiment about leaks; there is nothing to tune in it")

    from pawpularity.tuning.space import read_space
    from pawpularity.tuning.storage import VARIABLE

    read_space(context.config)
    url = storage or os.environ.get(VARIABLE) or None

    from pawpularity.tuning.tune import Plan, search

    found = search(Plan(context, url, workers, search_only), lambda: _helpers(context, workers, url))
    if found is not None:
        value, text = found
        emit(value, text, json)
    next_step(f"make study {make_word('RUN', context.run.name)}")


def _helpers(context: Context, workers: int, url: str | None) -> list[subprocess.Popen[bytes]]:
    """The other workers: this command in processes of their own. The address, and its password, is on no command line."""
    from pawpularity.tuning.storage import VARIABLE

    words = [sys.executable, "-m", "pawpularity", "tune", "--search-only", *context.words]
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ} | ({VARIABLE: url} if url else {})
    return [subprocess.Popen(words, env=environment, stdout=sys.stderr) for _ in range(workers - 1)]


def study(*, study: str, storage: str | None, json: str | None) -> None:
    """Print a study's best trials, importances and what depth costs; draw its plots. Raises UserError where there is none."""
    import optuna

    from pawpularity.tuning.storage import STUDIES, VARIABLE, Store, study_folder
    from pawpularity.tuning.study import load_study
    from pawpularity.tuning.views import draw, summary, summary_text

    folder = study_folder(study)
    url = storage or os.environ.get(VARIABLE) or None
    store = Store(folder, url, create=False)
    with store.reachable():
        every = sorted(optuna.get_all_study_names(store.storage))
    names = [name for name in every if name == study or name.startswith(f"{study}-fold")]
    if not names:
        raise UserError(f"{store.shown}: holds no study {study}; it holds {', '.join(every) or 'none'}")
    found: list[dict[str, Any]] = []
    for name in names:
        one = load_study(store, name)
        with store.reachable():
            found.append(summary(one))
            into = STUDIES / study / ("study" if name == study else f"study-{name.rpartition('-')[2]}")
            made = draw(one, into)
        if made:
            log(f"plots   {into}: {', '.join(path.name for path in made)}")
    # The dashboard reads an address as SQLAlchemy does, for which postgresql:// alone is a driver that is not installed.
    live = store.shown.replace("postgresql://", "postgresql+pg8000://", 1) if url else str(folder / "study.journal")
    log(f"live    optuna-dashboard {live} (pip install optuna-dashboard)")
    emit({"studies": found}, "\n\n".join(summary_text(one) for one in found), json)
    next_step(f"make train CONFIG=tuned/{study}")
