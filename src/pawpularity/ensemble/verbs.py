"""`pawpularity ensemble`: blend runs and CSVs, score the blends cross-fitted, keep one of them as a run."""

import argparse

from pawpularity.command_line import Verb, file_arguments, json_argument
from pawpularity.console import emit, log


def _ensemble(options: argparse.Namespace) -> None:
    from pathlib import Path

    from pawpularity.ensemble.blend import figures, fit_and_predict, partition_of
    from pawpularity.ensemble.methods import NAMES, check_method, default_method
    from pawpularity.ensemble.record import check_free, finished_runs, groups_of, open_members, write_blend
    from pawpularity.ensemble.table import blend_json, blend_text
    from pawpularity.errors import UserError
    from pawpularity.runs import OOF, check_name

    if options.method is not None:
        check_method(options.method)
    if not 100 <= options.draws <= 1_000_000:
        raise UserError(
            f"--draws {options.draws}: must be 100 or more, for an interval to mean something, and 1000000 at most"
        )
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: must be 0 or more")
    folder, folds = OOF / check_name(options.run), None if options.folds is None else Path(options.folds)
    check_free(folder)
    words = options.members
    if not words:
        words = finished_runs()
        log(f"members {' '.join(words)}: all finished runs below {OOF}/")
    sources = open_members(words, scale=options.scale)
    partition = partition_of(sources, groups_of(sources, folds), options.seed)
    method = options.method or default_method(len(partition.fold))
    fitted = fit_and_predict(sources, partition, NAMES)
    found = figures(sources[0].target, fitted, partition.groups, draws=options.draws, seed=options.seed)
    settings = {"seed": options.seed, "scale": options.scale, "folds": None if folds is None else folds.as_posix()}
    settings = {key: value for key, value in settings.items() if value is not None}
    run = write_blend(folder, sources, partition, fitted, method, settings)
    asked = options.method is not None
    value = blend_json(run, sources, partition, fitted, found, method, asked)
    emit(value, blend_text(value), options.json)
    log(f"wrote {folder}/: weights.json for new photos, oof.csv with the cross-fitted predictions of {method}")
    weights = fitted.weights[fitted.methods.index(method)].members
    silent = [source.name for source, weight in zip(sources, weights, strict=True)
              if source.run is None or (source.run.kind != "run" and weight)]  # fmt: skip
    if silent:
        log(f"make predict cannot score photos with it: no networks are kept of {', '.join(silent)}")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("members", nargs="*", metavar="MEMBER",
                        help="runs below oof/ or CSVs with Id,fold,target,prediction (default: all finished runs)")  # fmt: skip
    parser.add_argument("--method", metavar="METHOD",
                        help="the blend to keep: best, mean, nnls, nnls-intercept, simplex, ridge, ridge-gcv, hill-climb; "
                        "+affine after any but best (default: by the number of rows)")  # fmt: skip
    parser.add_argument(
        "--run", metavar="NAME", default="ensemble", help="the blend's folder below oof/ (default: ensemble)"
    )
    file_arguments(parser)
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of resamples and of folds dealt anew (default: 0)"
    )
    parser.add_argument("--draws", metavar="N", type=int, default=10_000, help="bootstrap resamples (default: 10000)")
    json_argument(parser)


VERBS = [Verb("ensemble", "blend runs and CSVs: cross-fitted RMSE of every method, weights for new photos", _ensemble,
              _arguments, configured=False)]  # fmt: skip
