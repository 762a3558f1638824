"""`pawpularity train`: train one fold, or all folds that are not trained yet; `pawpularity jobs`: lines that do so."""

import argparse

from pawpularity.verb import Verb, give, json_argument, run_argument, say


def _train(options: argparse.Namespace) -> None:
    from pawpularity.choices import choose
    from pawpularity.errors import UserError

    # What can be checked without torch is checked before waiting for it.
    chosen = choose(options)
    config = chosen.config
    if options.fold is not None and not 0 <= options.fold < config.folds.k:
        raise UserError(f"--fold {options.fold}: must lie in 0..{config.folds.k - 1} (folds.k is {config.folds.k})")
    dataset, folds = chosen.dataset, chosen.folds

    import numpy as np

    from pawpularity.device import choose as choose_device
    from pawpularity.evaluation.table import floor_line, fold_line, run_row, table_text
    from pawpularity.training.items import items_of
    from pawpularity.training.train import Taken, labelled_photos, prepare_trunk, start_run, train_fold

    compute = choose_device(config.train.dtype)
    run, note = start_run(chosen.run, config, dataset, folds)
    weights = "random weights" if config.model.weights == "none" else f"weights {config.model.weights}"
    say(f"run     {run.folder}: {config.model.backbone}, {weights}, {config.photos.size} px; {note}")
    say(f"device  {compute}")
    wanted = [options.fold] if options.fold is not None else list(range(folds.k))
    done = run.trained_folds()
    rows = labelled_photos(dataset, folds, config)
    if len(set(wanted) - set(done)) > 1:
        every = np.arange(len(rows.scores))
        prepare_trunk(config, rows, items_of(config, rows.scores, every), every, compute)
    for fold in wanted:
        if fold in done and (options.fold is None or options.skip_taken):
            say(f"fold {fold} is trained already (make train FOLD={fold} trains it again)")
            continue
        if fold in done:
            say(f"fold {fold} is trained already (RMSE {run.metrics(fold)['rmse']:.3f}); training it again")
        try:
            again = options.fold is not None and not options.skip_taken
            train_fold(run, dataset, folds, fold, compute, rows, fresh=options.fresh, again=again)
        except Taken as taken:
            if not options.skip_taken:
                raise
            say(f"fold {fold} is left to others: {taken}")
            continue
        # With --json - standard output is the JSON alone.
        (say if options.json == "-" else print)(fold_line(run, fold))
    row = run_row(run)
    if options.fold is None or options.json:
        give(row, table_text([row]) if options.fold is None else "", options.json)
    if (line := floor_line(chosen.data)) is not None:
        say(line)


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
    json_argument(parser)


def _jobs(options: argparse.Namespace) -> None:
    from pawpularity.training.jobs import list_jobs

    due, done = list_jobs(options)
    say(
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
