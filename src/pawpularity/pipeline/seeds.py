"""`pawpularity train`, with `--seeds` for several seeds as one run: the mean of their predictions, and how far apart they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pawpularity.console import emit, log, next_step
from pawpularity.context import Context
from pawpularity.errors import UserError
from pawpularity.training import command


def train(
    context: Context,
    *,
    fold: int | None = None,
    jobs: int | None = None,
    processes: int | None = None,
    fresh: bool = False,
    skip_taken: bool = False,
    seeds: Sequence[str] = (),
    json: str | None = None,
) -> None:
    """Train one run, or a run NAME-seedN for each of `seeds` and their mean, the blend NAME-seeds.

    Wrong options, data and folds raise UserError before torch is imported.
    """
    how: dict[str, Any] = {"jobs": jobs, "fresh": fresh, "skip_taken": skip_taken}
    if not seeds:
        command.train(context, fold=fold, processes=processes, json=json, **how)
        return
    if not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) < max(2, len(seeds)):
        raise UserError(f'--seeds {" ".join(seeds)}: must be two different whole numbers or more, such as "0 1 2"')
    if fold is not None or processes:
        raise UserError("--seeds trains all folds of every seed; leave out --fold and --processes")
    places = [_of_seed(context, int(seed)) for seed in seeds]
    command.check(context, None)
    for place in places:
        command.missing_folds(place, fresh=fresh)  # other settings are refused before anything is trained

    from pawpularity.ensemble.record import blend_of, check_free
    from pawpularity.evaluation.leaderboard import run_row, table_text

    folder = context.run.with_name(f"{context.run.name}-seeds")
    check_free(folder)
    runs = [command.trained(place, log, **how) for place in places]
    blend = blend_of([run.name for run in runs], folder, "mean")
    rows = [run_row(run) for run in (*runs, blend)]
    singles = [row["score"]["rmse"] for row in rows[:-1]]
    spread = {"mean": float(np.mean(singles)), "sd": float(np.std(singles, ddof=1))}
    line = f"{len(runs)} seeds alone: RMSE {spread['mean']:.3f} on average, sd {spread['sd']:.3f}"
    emit({"runs": rows, "seeds": spread}, f"{table_text(rows)}\n{line}", json)
    next_step("make predict", RUN=blend.name)


def _of_seed(context: Context, seed: int) -> Context:
    _, configs, _, data, _, run, *settings = context.words
    name, word = f"{run}-seed{seed}", f"train.seed={seed}"
    words = ("--config", configs, "--data", data, "--run", name, *settings, word)
    return context.variant(context.config.with_values({"train.seed": seed}), name, words)
