"""`pawpularity checklist`: the reproducibility checklist of runs, from what is on disk."""

import argparse

from pawpularity.command_line import Verb, json_argument
from pawpularity.console import emit, log


def _checklist(options: argparse.Namespace) -> None:
    import re

    from pawpularity.errors import UserError
    from pawpularity.runs import run_names
    from pawpularity.studies.checklist.checklist import make_checklist, written

    given = [name for word in options.runs or [] for name in re.split(r"[\s,]+", word) if name]
    names = list(dict.fromkeys(given)) or run_names()
    if not names:
        raise UserError("oof/ holds no run yet; run: make train FOLD=0")
    value, gaps = make_checklist(names)
    asked = sum(len(one["answers"]) for one in value["runs"]) + len(names) - len(value["runs"])
    files = " and ".join(map(str, written()))
    emit(
        value,
        f"{files}: {asked - len(gaps)} of {asked} answers of {len(names)} runs are backed or do not apply",
        options.json,
    )
    for gap in gaps:
        log(" ".join(gap.split()))
    if gaps:
        raise UserError(
            f"checklist: {len(gaps)} of {asked} answers are not backed, listed above; run what makes their files"
        )


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", nargs="+", metavar="RUN", help="runs below oof/ (default: all)")
    json_argument(parser)


VERBS = [Verb("checklist", "the reproducibility checklist of runs: oof/checklist.md; 2 where a file is missing", _checklist,
              _arguments, configured=False)]  # fmt: skip
