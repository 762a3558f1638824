"""`pawpularity oof`: the table over runs, and everything about one. `pawpularity compare`: runs beside one another, paired."""

import argparse
from pathlib import Path
from typing import Any

from pawpularity.command_line import Verb, file_arguments, json_argument
from pawpularity.console import emit


def _oof(options: argparse.Namespace) -> None:
    from pawpularity.console import log
    from pawpularity.errors import UserError
    from pawpularity.evaluation.leaderboard import details, details_text, run_row, seed_lines, source_row, table_text
    from pawpularity.evaluation.sources import is_file_word, open_source
    from pawpularity.runs import OOF, Run, run_names

    names = options.runs or run_names()
    if not names:
        raise UserError("oof/ holds no run yet; run: make train FOLD=0")
    data = Path(options.data) if options.data else None
    folds = Path(options.folds) if options.folds else None
    if len(options.runs) == 1:
        found = details(open_source(names[0], scale=options.scale, folds=folds, partly=True), data)
        emit({"runs": [found]}, details_text(found), options.json)
        return
    found_rows = []
    for name in names:
        try:
            if is_file_word(name):
                found_rows.append(source_row(open_source(name, scale=options.scale, folds=folds), data))
            else:
                found_rows.append(run_row(Run.open(OOF / name)))
        except UserError as error:
            if options.runs or len(names) == 1:
                raise
            log(f"left out {name}: {error}")  # one damaged run must not hide the others
    rows = sorted(found_rows, key=_place)
    blocks = []
    for group in dict.fromkeys(row["data"] for row in rows):
        blocks.append(f"data: {group}\n{table_text([row for row in rows if row['data'] == group])}")
    emit({"runs": rows}, "\n\n".join([*blocks, *seed_lines(rows)]), options.json)
    if len(rows) > 2:
        log("the best come first; the best of several is flattered by being chosen on these rows: of five equal ones by about 0.5 "
            "points at 120 photos, 0.06 at 9,912")  # fmt: skip


def _place(row: dict[str, Any]) -> tuple[str, bool, float]:
    """The best first; what is leaky, or looks so, after everything honest."""
    leaky = bool(row.get("leaky") or row.get("alarms"))
    return row["data"], leaky, row["score"]["rmse"] if row["score"] else 1e9


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN",
                        help="runs or OOF CSVs to show (default: all runs below oof/); a single one in detail")  # fmt: skip
    parser.add_argument("--data", metavar="DIR", help="the data that CSVs are of (default: found by their Ids)")
    file_arguments(parser)
    json_argument(parser)


def _compare(options: argparse.Namespace) -> None:
    from pawpularity.console import log
    from pawpularity.errors import UserError
    from pawpularity.evaluation.compare import compare, comparison_text
    from pawpularity.evaluation.metrics import score
    from pawpularity.evaluation.sources import groups_of_all, open_sources

    if len(options.runs) < 2:
        raise UserError("compare: needs two or more runs or CSVs; the first is what the others are compared with")
    if not 100 <= options.draws <= 1_000_000:
        raise UserError(f"--draws {options.draws}: must be 100 to 1000000")
    sources = open_sources(options.runs, scale=options.scale, folds=Path(options.folds) if options.folds else None)
    first, *others = sources
    for source in sources:
        if source.run is not None and source.run.leaky:
            log(f"{source.name} is leaky by design (train.split=leaky): a better figure means nothing")
    groups = groups_of_all(sources)
    rows = compare(
        first.target, first.prediction, [(s.name, s.prediction) for s in others], groups, draws=options.draws
    )
    own = score(first.target, first.prediction, first.constant, groups)
    emit(
        {"first": {"run": first.name} | own.to_dict(), "n": own.n, "constant_rmse": own.constant_rmse, "sd": own.sd,
         "draws": options.draws, "grouped": groups is not None, "others": [row.to_dict() for row in rows]},
        comparison_text(first.name, own, rows, first.constant_words),
        options.json,
    )  # fmt: skip
    if len(rows) > 2:
        log(
            "choosing the best of several on the rows that are reported flatters it; p (Holm) corrects the question, not the figure"
        )


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help="runs or OOF CSVs of the same rows, the reference first")
    parser.add_argument("--draws", type=int, default=10_000, metavar="N", help="resamples and sign flips (10000)")
    file_arguments(parser)
    json_argument(parser)


VERBS = [
    Verb("oof", "show every run's out-of-fold RMSE, interval and constant; RUN or a CSV alone in detail", _oof, _arguments,
         configured=False),
    Verb("compare", "runs or OOF CSVs beside the first, on the same rows: difference, interval, p", _compare,
         _compare_arguments, configured=False),
]  # fmt: skip
