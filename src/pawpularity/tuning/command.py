"""`pawpularity tune`: search settings on one fold's inner split, and score the best honestly. `pawpularity study`: show a study."""

import os
from dataclasses import replace
from pathlib import Path

from pawpularity.console import Progress, emit, log, next_step
from pawpularity.context import Context
from pawpularity.errors import UserError


def tune(
    context: Context, *, trials: int | None, workers: int, storage: str | None, search_only: bool, json: str | None
) -> None:
    """Search, then train the best trials on all folds and score them cross-fitted.

    Raises UserError for any fault in the space before it draws data, makes folds or opens the storage.
    """
    if not 1 <= workers <= 64:
        raise UserError(f"--workers {workers}: must be 1 to 64")
    if trials is not None:
        words = (*context.words, f"search.trials={trials}")
        context = replace(context, config=context.config.with_values({"search.trials": trials}), words=words)
    if context.config.train.split == "leaky":
        raise UserError(
            "train.split=leaky: trains on copies of the scored photos, so tuning would reward the leak; leave it out"
        )

    from pawpularity.tuning.space import read_space
    from pawpularity.tuning.storage import VARIABLE

    read_space(context.config)

    with Progress(None, "loading torch"):
        from pawpularity.tuning.tune import score, search

    studies, rows = search(context, storage or os.environ.get(VARIABLE) or None, workers)
    if search_only:
        log(f"study   {context.run.name}: all trials are done; make tune without --search-only trains the best of them")
    else:
        value, text, more = score(context, studies, rows)
        emit(value, text, json, more=more)
    next_step("make study", RUN=context.run.name)


def study(*, study: str, storage: str | None, json: str | None) -> None:
    """Print a study's best trials, importances and the cost of each depth; draw its plots. Raises UserError if there is none."""
    log(f"study   {study}")
    with Progress(None, "loading Optuna"):
        from pawpularity.config import CONFIGS
        from pawpularity.tuning.storage import STUDIES, VARIABLE, Store, study_folder
        from pawpularity.tuning.study import RECORD, load_studies
        from pawpularity.tuning.views import draw, more_text, summary, summary_text

    folder = study_folder(study)
    url = storage or os.environ.get(VARIABLE) or None
    store = Store(folder, url, create=False)
    studies = load_studies(store, study)
    with store.reachable():
        found = [summary(one) for one in studies]
        for one in studies:
            draw(one, STUDIES / study / one.study_name.replace(study, "study", 1))
        noted = studies[0].user_attrs[RECORD]["notes"]
    log(f"plots   {folder}/study*/")
    # For SQLAlchemy, and so for the dashboard, postgresql:// alone means a driver that is not installed.
    live = store.shown.replace("postgresql://", "postgresql+pg8000://", 1)
    extra = " pg8000" if url else ""
    log(f"live    optuna-dashboard {live} (pip install optuna-dashboard{extra})")
    emit({"studies": found}, "\n\n".join(map(summary_text, found)), json, more="\n\n".join(map(more_text, found)))
    next_step(noted["train" if Path(CONFIGS, "tuned", f"{study}.yaml").is_file() else "tune"])
