"""The work list: a shell line for every fold x configuration x seed that is not trained yet, for any scheduler to run.

Lines may run in any order, at once, and on several machines that share this folder: each trains one fold, or resumes it, and does
nothing if the fold is done or being trained elsewhere.
"""

import itertools
import re
import shlex

from pawpularity.console import log, make_line, next_step
from pawpularity.context import Context, choose_data, context, default_config, default_run
from pawpularity.errors import UserError
from pawpularity.training.command import fold_command, missing_folds


def jobs(
    *,
    configs: str | None = None,
    seeds: str | None = None,
    folds: str | None = None,
    fresh: bool = False,
    run: str | None = None,
    config: str | None = None,
    data: str | None = None,
    settings: list[str],
) -> None:
    """Print the lines. A seed other than the config's gets another run, RUN-seedN.

    Raises UserError for invalid numbers, a run with other settings, and two jobs that write the same run.
    """
    if configs and config:
        raise UserError("jobs: --config names one and --configs several; give one of them")
    names = (configs or config or default_config(choose_data(data))).split()
    wanted_seeds: list[int | None] = [*_numbers(seeds, "--seeds")] or [None]
    if run and len(names) * len(wanted_seeds) > 1:
        raise UserError(f"--run {run}: is one name for {len(names) * len(wanted_seeds)} runs; leave it out")
    wanted_folds = _numbers(folds, "--folds")
    lines, done = [], 0
    seen: dict[str, Context] = {}
    for name, seed in itertools.product(names, wanted_seeds):
        chosen = _context(name, seed, run, data, settings)
        if chosen.run.name in seen:
            raise UserError(f"{chosen.run}: two of these jobs would write it; name each configuration and seed once")
        if (first := next(iter(seen.values()), None)) is not None:
            chosen.__dict__["dataset"] = first.dataset  # all have the same data
        seen[chosen.run.name] = chosen
        k = chosen.folds.k
        if wanted_folds and max(wanted_folds) >= k:
            raise UserError(f"--folds {max(wanted_folds)}: must be 0..{k - 1} (folds.k is {k})")
        selected, missing = wanted_folds or list(range(k)), missing_folds(chosen, fresh=fresh)
        for fold in selected:
            if fold in missing:
                lines.append(shlex.join(fold_command(chosen, fold, fresh=fresh)))
        done += len(set(selected) - set(missing))
    if not all(line.isprintable() for line in lines):
        raise UserError(f"jobs: {data or settings} cannot be written in a line for a shell; give it a plain name")
    log(f"jobs    {len(lines)} to do, {done} done already; run the lines in this folder, in any order or at once")
    print(*lines, sep="\n", end="\n" * bool(lines))
    words = make_line(
        "make jobs", CONFIGS=configs, SEEDS=seeds, FOLDS=folds, FRESH=int(fresh), RUN=run, CONFIG=config, DATA=data
    )
    next_step(f"{' '.join([words, *map(shlex.quote, settings)])} | sh" if lines else "make oof")


def _context(name: str, seed: int | None, run: str | None, data: str | None, settings: list[str]) -> Context:
    chosen = context(name, data, run, settings)
    if seed is None or seed == chosen.config.train.seed:
        return chosen
    run_of_seed = run or f"{default_run(name, chosen.data, settings)}-seed{seed}"
    return context(name, data, run_of_seed, [*settings, f"train.seed={seed}"])


def _numbers(text: str | None, option: str) -> list[int]:
    words = [word for word in re.split(r"[\s,]+", text or "") if word]
    if wrong := [word for word in words if not re.fullmatch(r"[0-9]{1,9}", word)]:
        raise UserError(f'{option} "{text}": {wrong[0]} is not a whole number; write them like "0 1 2"')
    return list(dict.fromkeys(int(word) for word in words))
