"""`pawpularity oof`: the table over runs."""

import argparse

from pawpularity.verb import Verb, give, json_argument


def _oof(options: argparse.Namespace) -> None:
    from pawpularity.errors import UserError
    from pawpularity.evaluation.table import run_row, table_text
    from pawpularity.run import OOF, Run, list_runs

    runs = [Run.open(OOF / name) for name in options.runs] if options.runs else list_runs()
    if not runs:
        raise UserError("oof/ holds no run yet; run: make train FOLD=0")
    rows = sorted(
        (run_row(run) for run in runs), key=lambda row: (row["data"], row["score"]["rmse"] if row["score"] else 1e9)
    )
    blocks = []
    for data in dict.fromkeys(row["data"] for row in rows):
        blocks.append(f"data: {data}\n{table_text([row for row in rows if row['data'] == data])}")
    give({"runs": rows}, "\n\n".join(blocks), options.json)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help="runs to show (default: all below oof/)")
    json_argument(parser)


VERBS = [Verb("oof", "show every run's out-of-fold RMSE, interval and constant", _oof, _arguments, configured=False)]
