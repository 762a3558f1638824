"""Watch a pushed kernel: how far it is, the end of its log if it failed, and its output."""

import json
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawpularity.console import log
from pawpularity.errors import UserError
from pawpularity.files import read_json, text_hash
from pawpularity.kaggle.built_kernel import BuiltKernel, Names
from pawpularity.kaggle.kaggle_cli import Answer, Kaggle, explain
from pawpularity.kaggle.submission_file import VISIBLE, check_submission, require_answers

POLL = "PAWPULARITY_KAGGLE_POLL"
"""Environment variable: seconds between two questions how far Kaggle is (default 20)."""
TRIAL = r"^(submission\.csv|inference\.json)$"
"""What the inference kernel leaves behind."""
PATIENCE = 5
"""questions in a row that the network may swallow"""
STALE = "waiting (Kaggle shows the version before)"
"""Status of a version that Kaggle does not answer for yet."""

# KernelWorkerStatus (kagglesdk/kernels/types/kernels_enums.py); kernels_status_cli prints the enum, older versions its name.
_STATUS = re.compile(r'has status "(?:KernelWorkerStatus\.)?(\w+)"')
_DONE = ("complete",)
_FAILED = ("error", "cancel_requested", "cancel_acknowledged", "cancelrequested", "cancelacknowledged")


class Unanswered(UserError):
    """A question that Kaggle did not answer."""

    def __init__(self, answer: Answer, doing: str) -> None:
        super().__init__(explain(answer, doing))
        self.answer = answer


@dataclass(frozen=True)
class Progress:
    """How far the newest version of a kernel is."""

    status: str
    """Kaggle's word in small letters: queued, running, complete, error, cancel_acknowledged, new_script"""
    message: str
    """Kaggle's reason, where it failed"""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in _DONE + _FAILED


def log_mark(kaggle: Kaggle, names: Names) -> str | None:
    """12 hex digits over the log that Kaggle shows now; None for a kernel that it does not have. Raises Unanswered.

    `kaggle kernels status` names no version. Log and output come in one answer (kernels_logs, kernels_output), and the
    log's times make it another one with each run: as long as it stays, so does the output.
    """
    answer = kaggle.ask("kernels", "logs", names.kernel)
    if answer.code == 0:
        return text_hash(answer.out.strip())
    if answer.not_there:
        return None
    raise Unanswered(answer, f"asking for the log of {names.kernel}")


def progress(kaggle: Kaggle, names: Names, before: str | None = None) -> Progress:
    """Ask once. Raises UserError where Kaggle does not answer.

    `before`: `log_mark` of the version before. While Kaggle shows that log, an end is not this version's, and the status
    is STALE.
    """
    answer = kaggle.ask("kernels", "status", names.kernel)
    if answer.code != 0:
        raise Unanswered(answer, f"asking for {names.kernel}")
    found = _STATUS.search(answer.text)
    if found is None:
        raise UserError(f"asking for {names.kernel}: kaggle said {answer.last}, which is no status")
    message = re.search(r'^Failure message: "(.*)"', answer.text, re.MULTILINE)
    now = Progress(found[1].lower(), message[1] if message else "")
    if not now.over or before is None:
        return now
    # Asked again behind the log: the first answer may still have been about the version before.
    return Progress(STALE, "") if log_mark(kaggle, names) == before else progress(kaggle, names)


def wait(kaggle: Kaggle, names: Names, minutes: float, before: str | None = None) -> Progress:
    """Ask until the kernel's newest version is over, at most for `minutes`; says each change. `before`: see `progress`."""
    deadline = time.monotonic() + minutes * 60
    said, swallowed = "", 0
    while True:
        try:
            now = progress(kaggle, names, before)
            swallowed = 0
        except Unanswered as unanswered:
            swallowed += 1
            if not unanswered.answer.unreachable or swallowed > PATIENCE:
                raise
            now = Progress("unknown", "")
        if now.status != said:
            log(f"{names.kernel}: {now.status}")
            said = now.status
        if now.over or time.monotonic() >= deadline:
            return now
        pause()


def require_complete(kaggle: Kaggle, built: BuiltKernel, names: Names, now: Progress) -> None:
    """Raise UserError unless the kernel completed; of one that failed the log's end is said first."""
    if now.status in _DONE:
        return
    if now.status not in _FAILED:
        raise UserError(
            f"{names.kernel}: is still {now.status}; ask again with: make kernel-status{built.make_word}, "
            f"or look at {names.kernel_url}"
        )
    for line in log_tail(kaggle, names):
        log(f"  {line}")
    reason = f" ({now.message})" if now.message else ""
    raise UserError(
        f"{names.kernel}: ended with {now.status}{reason}; its log's end stands above, all of it at {names.kernel_url}"
    )


def log_tail(kaggle: Kaggle, names: Names, lines: int = 30) -> list[str]:
    """The last lines of the newest log, which kernels_logs_cli prints as a JSON list of {stream_name, time, data}."""
    answer = kaggle.ask("kernels", "logs", names.kernel)
    if answer.code != 0:
        return [f"(no log: {answer.last})"]
    text = answer.out.strip()
    try:
        events = json.loads(text)
        text = "".join(str(event.get("data", "")) for event in events)
    except (ValueError, AttributeError, TypeError):
        pass  # not JSON: shown as it is
    return [line for line in text.splitlines() if line.strip()][-lines:]


def output_words(names: Names, into: Path, pattern: str) -> list[str]:
    """The words that download the newest version's files whose names fit `pattern`."""
    return ["kernels", "output", names.kernel, "-p", str(into), "--force", "--file-pattern", pattern]


def fetch(kaggle: Kaggle, names: Names, into: Path, pattern: str) -> list[Path]:
    """Download the newest version's output files whose names fit `pattern`. Its log comes along, and is left out here."""
    answer = kaggle.ask(*output_words(names, into, pattern), timeout_s=None)
    if answer.code != 0:
        raise UserError(explain(answer, f"fetching the output of {names.kernel}"))
    found = re.compile(pattern)
    return sorted(
        path for path in into.rglob("*") if path.is_file() and found.search(path.relative_to(into).as_posix())
    )


def check_output(kaggle: Kaggle, names: Names) -> int:
    """Rows of the submission.csv that the kernel left on the visible photos.

    Raises UserError where there is none, where the contest would refuse it, and where no network had a part in it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = {path.name: path for path in fetch(kaggle, names, Path(scratch), TRIAL)}
        if "submission.csv" not in files:
            raise UserError(f"{names.kernel}: completed without a submission.csv; its log: {names.kernel_url}/log")
        scores = check_submission(files["submission.csv"], names.kernel, rows=VISIBLE)
        if "inference.json" in files:
            _check_report(read_json(files["inference.json"], names.kernel), names, len(scores))
        require_answers(scores, names.kernel)
        return len(scores)


def _check_report(report: dict[str, Any], names: Names, rows: int) -> None:
    """Raise UserError where the script reports that it went on without photos or networks."""
    if len(report["photos_unusable"]) >= rows:
        raise UserError(
            f"{names.kernel}: could read none of {rows} photos, and gave each the mean; its log: {names.kernel_url}/log"
        )
    if failed := [line for line in report["left_out"] if "(failed)" in line]:
        raise UserError(f"{names.kernel}: answered without {failed[0]}; its log says why: {names.kernel_url}/log")


def pause() -> None:
    """Wait as long as between two questions."""
    try:
        seconds = float(os.environ.get(POLL, "20"))
    except ValueError:
        seconds = 20.0
    time.sleep(max(0.0, seconds))
