"""`pawpularity report`: the results of runs and commands, on one page that opens anywhere."""

import re
import sys
from pathlib import Path
from shlex import quote

from pawpularity.console import Progress, emit, log, make_word, next_step
from pawpularity.errors import UserError
from pawpularity.runs import OOF


def report(
    *, runs: list[str], out: str | None, data: str | None, folds: Path | None, scale: float | None, json: str | None
) -> None:
    """Write the page about `runs` (runs or CSVs; default: all runs). The others are compared with the first one named."""
    from pawpularity.report.inputs import gather
    from pawpularity.report.page import make_report, summary

    path = Path(out) if out else OOF / "report.html"
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out {path}: must end in .html")
    # "a,b" and "a b" are two names, unless there is a file or a run of that name.
    names = [name for word in runs for name in ([word] if _is_one(word) else re.split(r"[\s,]+", word)) if name]
    entries, notes = gather(names, scale=scale, folds=folds, data=Path(data) if data else None)
    for note in notes:
        log(note)
    command = f"make report {make_word('RUNS', *names)}" if names else "make report"
    with Progress(None, "drawing the page"):
        value = make_report(entries, notes, path, command, first=names[0] if names else None)
    emit(value, summary(value), json)
    next_step(f"{'open' if sys.platform == 'darwin' else 'xdg-open'} {quote(str(path))}")


def _is_one(word: str) -> bool:
    return Path(word).is_file() or (OOF / word / "config.json").is_file()
