"""`pawpularity train`: train one fold, or all folds that are not trained yet; `pawpularity jobs`: lines that do so."""

import argparse
from typing import TYPE_CHECKING

from pawpularity.command_line import Verb, json_argument, run_argument
from pawpularity.console import emit, log
from pawpularity.training.launch import Launch

if TYPE_CHECKING:
    from pawpularity.context import Choices
    from pawpularity.device import Compute
    from pawpularity.training.processes import Processes


def _train(options: argparse.Namespace) -> None:
    from pawpularity.context import choose
    from pawpularity.errors import UserError

    alone = Launch.of_environment().size == 1
    if options.processes is not None and options.processes < 1:
        raise UserError(f"--processes {options.processes}: must be 1 or more")
    if alone and (options.processes or 1) > 1:
        from pawpularity.training.torchrun import start

        start(options.processes, options.words)
        return
    # What can be checked without torch is checked before waiting for it.
    chosen = choose(options)
    config = chosen.config
    if options.fold is not None and not 0 <= options.fold < config.folds.k:
        raise UserError(f"--fold {options.fold}: must lie in 0..{config.folds.k - 1} (folds.k is {config.folds.k})")
    if alone:
        _ = chosen.dataset, chosen.folds  # several processes take turns, for which they must be connected

    from pawpularity.training.processes import joined

    with joined(config.train.dtype) as (processes, compute):
        _train_together(options, chosen, processes, compute)


def _train_together(options: argparse.Namespace, chosen: "Choices", processes: "Processes", compute: "Compute") -> None:
    import numpy as np

    from pawpularity.evaluation.leaderboard import floor_line, fold_line, run_row, table_text
    from pawpularity.training.fold import Taken, labelled_photos, prepare_trunk, start_run, train_fold
    from pawpularity.training.samples import items_of

    config = chosen.config
    dataset, folds = processes.in_turn(lambda: (chosen.dataset, chosen.folds))
    run, note = processes.in_turn(
        lambda: start_run(chosen.run, config, dataset, folds, processes=processes, compute=compute)
    )
    weights = "random weights" if config.model.weights == "none" else f"weights {config.model.weights}"
    log(f"run     {run.folder}: {config.model.backbone}, {weights}, {config.photos.size} px; {note}")
    log(f"device  {compute}{f'; {processes.size} processes' if processes.size > 1 else ''}")
    wanted = [options.fold] if options.fold is not None else list(range(folds.k))
    done = processes.from_first(run.trained_folds())
    rows = labelled_photos(dataset, folds, config)
    if len(set(wanted) - set(done)) > 1:
        every = np.arange(len(rows.scores))
        prepare_trunk(config, rows, items_of(config, rows.scores, every), every, compute, processes)
    for fold in wanted:
        if fold in done and (options.fold is None or options.skip_taken):
            log(f"fold {fold} is trained already (make train FOLD={fold} trains it again)")
            continue
        if fold in done and processes.first:
            log(f"fold {fold} is trained already (RMSE {run.metrics(fold)['rmse']:.3f}); training it again")
        try:
            again = options.fold is not None and not options.skip_taken
            train_fold(run, dataset, folds, fold, compute, rows, fresh=options.fresh, again=again, processes=processes)
        except Taken as taken:
            if not options.skip_taken:
                raise
            log(f"fold {fold} is left to others: {taken}")
            continue
        # With --json - standard output is the JSON alone.
        if processes.first:
            (log if options.json == "-" else print)(fold_line(run, fold))
    if not processes.first:
        return
    row = run_row(run)
    if options.fold is None or options.json:
        emit(row, table_text([row]) if options.fold is None else "", options.json)
    if (line := floor_line(chosen.data)) is not None:
        log(line)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fold", type=int, metavar="K", help="train this fold alone, anew (default: every fold not trained yet)"
    )
    run_argument(parser)
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start folds anew that were stopped half way, instead of going on with them",
    )
    parser.add_argument(
        "--skip-taken",
        action="store_true",
        help="leave folds that are trained, or that another process is training, and end well",
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="share every fold among N processes of this machine: a GPU each, or a part of the CPU's cores",
    )
    json_argument(parser)


def _jobs(options: argparse.Namespace) -> None:
    from pawpularity.pipeline.jobs import list_jobs

    due, done = list_jobs(options)
    log(
        f"jobs    {len(due)} to do, {done} done already; each line is one, to be run in this folder, in any order or at once"
    )
    for job in due:
        print(job.line)


def _job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--configs", metavar='"A B"', help="several configurations, separated by spaces")
    parser.add_argument(
        "--seeds", metavar='"0 1"', help="train.seed of each run (RUN-seed1, unless it is the config's own)"
    )
    parser.add_argument("--folds", metavar='"0 1"', help="these folds alone (default: all)")
    parser.add_argument("--fresh", action="store_true", help="jobs start folds anew that were stopped half way")
    run_argument(parser)


VERBS = [
    Verb("train", "train a fold (or all) and print its out-of-fold score", _train, _arguments),
    Verb("jobs", "print a shell line for every fold, config and seed that is not trained yet", _jobs, _job_arguments),
]
