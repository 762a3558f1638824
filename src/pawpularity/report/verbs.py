"""`pawpularity report`: everything that the runs and verbs left, on one page that opens anywhere."""

import argparse
import re

from pawpularity.command_line import Verb, file_arguments, json_argument, out_argument
from pawpularity.console import emit, log, make_word


def _report(options: argparse.Namespace) -> None:
    from pathlib import Path

    from pawpularity.errors import UserError
    from pawpularity.report.inputs import gather
    from pawpularity.report.page import make_report, told
    from pawpularity.runs import OOF

    def whole(word: str) -> bool:
        try:
            return Path(word).is_file() or (OOF / word / "config.json").is_file()
        except OSError:  # many words in one are too long for a name
            return False

    words: list[str] = options.runs or []
    # "a,b" and "a b" are two, unless there is a file or a run of that name.
    words = [name for word in words for name in ([word] if whole(word) else re.split(r"[\s,]+", word)) if name]
    path = Path(options.out) if options.out else OOF / "report.html"
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {path}: must end in .html")
    data = Path(options.data) if options.data else None
    folds = Path(options.folds) if options.folds else None
    subjects, notes = gather(words, scale=options.scale, folds=folds, data=data)
    for note in notes:
        log(note)
    command = f"make report {make_word('RUNS', *words)}" if words else "make report"
    value = make_report(subjects, notes, path, command, first=words[0] if words else None)
    emit(value, told(value), options.json)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", nargs="+", metavar="RUN",
                        help="runs or OOF CSVs; the first is what the others are compared with (default: all runs)")  # fmt: skip
    out_argument(parser, "the page (default: oof/report.html)")
    parser.add_argument("--data", metavar="DIR", help="the data that CSVs are of (default: found by their Ids)")
    file_arguments(parser)
    json_argument(parser)


VERBS = [Verb("report", "one page of everything that the runs and verbs left: oof/report.html", _report, _arguments,
              configured=False)]  # fmt: skip
