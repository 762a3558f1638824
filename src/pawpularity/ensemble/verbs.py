"""`pawpularity ensemble`, until cli.py declares it."""

import argparse
from pathlib import Path

from pawpularity.command_line import Verb, file_arguments, json_argument


def _ensemble(options: argparse.Namespace) -> None:
    from pawpularity.ensemble.ensemble import ensemble

    ensemble(options.members, method=options.method, run=options.run, folds=options.folds and Path(options.folds),
             scale=options.scale, seed=options.seed, draws=options.draws, json=options.json)  # fmt: skip


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("members", nargs="*", metavar="MEMBER",
                        help="runs below oof/ or CSVs with Id,fold,target,prediction (default: all finished runs)")  # fmt: skip
    parser.add_argument("--method", metavar="METHOD",
                        help="the blend to keep: best, mean, nnls, nnls-intercept, simplex, ridge, ridge-gcv, hill-climb; "
                        "+affine after any but best (default: by the number of rows)")  # fmt: skip
    parser.add_argument("--run", metavar="NAME", default="ensemble", help="the blend's folder below oof/")
    file_arguments(parser)
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of resamples and dealt folds (default: 0)")
    parser.add_argument("--draws", metavar="N", type=int, default=10_000, help="bootstrap resamples (default: 10000)")
    json_argument(parser)


VERBS = [Verb("ensemble", "blend runs and CSVs: cross-fitted RMSE of every method, weights for new photos", _ensemble,
              _arguments, configured=False)]  # fmt: skip
