"""Temporary: the argparse side of `oof` and `compare`, until cli.py declares every command itself."""

import argparse
from pathlib import Path

from pawpularity.command_line import Verb, file_arguments, json_argument


def _oof(options: argparse.Namespace) -> None:
    from pawpularity.evaluation.leaderboard import oof

    data, folds = (Path(path) if path else None for path in (options.data, options.folds))
    oof(options.runs, data=data, scale=options.scale, folds=folds, json=options.json)


def _oof_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN",
                        help="runs or OOF CSVs to show (default: all runs below oof/); a single one in detail")  # fmt: skip
    parser.add_argument("--data", metavar="DIR", help="the data that CSVs are of (default: found by their Ids)")
    file_arguments(parser)
    json_argument(parser)


def _compare(options: argparse.Namespace) -> None:
    from pawpularity.evaluation.compare import compare_runs

    folds = Path(options.folds) if options.folds else None
    compare_runs(options.runs, draws=options.draws, scale=options.scale, folds=folds, json=options.json)


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help="runs or OOF CSVs of the same rows, the reference first")
    parser.add_argument("--draws", type=int, default=10_000, metavar="N", help="resamples and sign flips (10000)")
    file_arguments(parser)
    json_argument(parser)


VERBS = [
    Verb("oof", "show every run's out-of-fold RMSE, interval and constant; RUN or a CSV alone in detail", _oof,
         _oof_arguments, configured=False),
    Verb("compare", "runs or OOF CSVs beside the first, on the same rows: difference, interval, p", _compare,
         _compare_arguments, configured=False),
]  # fmt: skip
