"""`pawpularity errors`: the rows furthest off, what they share, how much of it is the labels' noise."""

import argparse
from pathlib import Path

from pawpularity.command_line import Verb, file_arguments, json_argument
from pawpularity.console import emit


def _errors(options: argparse.Namespace) -> None:
    from time import perf_counter

    from pawpularity.config import resolve
    from pawpularity.console import log
    from pawpularity.context import choose_data, default_config, default_run
    from pawpularity.errors import UserError
    from pawpularity.evaluation.predictions import is_file_word, open_predictions
    from pawpularity.runs import OOF, check_name
    from pawpularity.studies.errors.report import analyse, write_report
    from pawpularity.studies.errors.text import report_text

    word, settings = options.source, list(options.settings)
    if word is not None and "=" in word and not is_file_word(word):
        word, settings = None, [word, *settings]
    if other := [setting for setting in settings if not setting.startswith("cache.")]:
        raise UserError(f'errors: looks at predictions that are there; remove "{other[0]}"')
    if options.top < 1:
        raise UserError(f"--top {options.top}: must be 1 or more")
    if not 100 <= options.draws <= 100_000:
        raise UserError(f"--draws {options.draws}: must be 100 to 100000")
    chosen = choose_data(options.data)
    configs = options.config or default_config(chosen)
    cache = Path(resolve(configs, settings).cache.folder)
    word = word or check_name(default_run(configs, chosen))
    source = open_predictions(
        word, scale=options.scale, folds=Path(options.folds) if options.folds else None, partly=True
    )
    folder = Path(options.out) if options.out else OOF / "errors" / source.folder_name
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a folder with --out")
    log(f"rows    {source.path}")
    if source.run is not None and source.run.leaky:
        log(f"{source.name} is leaky by design (train.split=leaky): its predictions have seen their answers")
    if source.run is not None and not source.complete:
        log(f"only {len(source.run.trained_folds())} of {source.run.k} folds are there")
    start = perf_counter()
    found = analyse(source, Path(options.data) if options.data else None, cache, top=options.top, draws=options.draws)
    log(f"{options.draws} draws took {perf_counter() - start:.1f} s, reading included")
    text = report_text(found)
    files = write_report(found, text, folder)
    emit(found.to_dict(), text, options.json)
    log(f"wrote   {', '.join(map(str, files))}")


def _errors_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="RUN", help="a run or an OOF CSV (default: as for train)")
    parser.add_argument("--top", type=int, default=12, metavar="N", help="rows of each side to list and to show (12)")
    parser.add_argument("--draws", type=int, default=10_000, metavar="N", help="resamples and permutations (10000)")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: oof/errors/RUN)")
    file_arguments(parser)
    json_argument(parser)


VERBS = [
    Verb("errors", "the rows furthest off and what they share; what label noise explains", _errors, _errors_arguments)
]
