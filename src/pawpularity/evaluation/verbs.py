"""`pawpularity oof`: the table over runs."""

import argparse

from pawpularity.verb import Verb, give, json_argument


def _oof(options: argparse.Namespace) -> None:
    from pawpularity.errors import UserError
    from pawpularity.evaluation.table import run_row, table_text
    from pawpularity.run import OOF, Run, run_names
    from pawpularity.verb import say

    names = options.runs or run_names()
    if not names:
        raise UserError("oof/ holds no run yet; run: make train FOLD=0")
    found = []
    for name in names:
        try:
            found.append(run_row(Run.open(OOF / name)))
        except UserError as error:
            if options.runs or len(names) == 1:
                raise
            say(f"left out {name}: {error}")  # one damaged run must not hide the others
    rows = sorted(found, key=lambda row: (row["data"], row["score"]["rmse"] if row["score"] else 1e9))
    blocks = []
    for data in dict.fromkeys(row["data"] for row in rows):
        blocks.append(f"data: {data}\n{table_text([row for row in rows if row['data'] == data])}")
    give({"runs": rows}, "\n\n".join(blocks), options.json)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help="runs to show (default: all below oof/)")
    json_argument(parser)


VERBS = [Verb("oof", "show every run's out-of-fold RMSE, interval and constant", _oof, _arguments, configured=False)]
