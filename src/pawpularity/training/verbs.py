"""`pawpularity train`: train one fold, or all folds that are not trained yet."""

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
    from pawpularity.training.train import labelled_photos, prepare_trunk, start_run, train_fold

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
        if fold in done and options.fold is None:
            say(f"fold {fold} is trained already (make train FOLD={fold} trains it again)")
            continue
        if fold in done:
            say(f"fold {fold} is trained already (RMSE {run.metrics(fold)['rmse']:.3f}); training it again")
        train_fold(run, dataset, folds, fold, compute, rows)
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
    json_argument(parser)


VERBS = [Verb("train", "train a fold (or all) and print its out-of-fold score", _train, _arguments)]
