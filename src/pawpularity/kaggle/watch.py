"""A pushed version of a kernel: its status, log, output and submission."""

import json
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawpularity.console import log
from pawpularity.errors import UserError
from pawpularity.files import read_json
from pawpularity.kaggle.api import COMPETITION, Kaggle, Refused, Uncertain
from pawpularity.kaggle.built_kernel import BuiltKernel
from pawpularity.kaggle.submission_file import VISIBLE, check_submission, require_answers

TRIAL = r"submission\.csv|inference\.json"
"""The output files of the inference kernel."""


@dataclass(frozen=True)
class Pushed:
    """A version of a kernel that was pushed."""

    kaggle: Kaggle
    built: BuiltKernel
    version: int

    def __str__(self) -> str:
        return f"{self.built.id} version {self.version}"

    def _ask(self, what: str, **fields: Any) -> Any:
        owner, _, slug = self.built.id.partition("/")
        name = {"user_name": owner, "kernel_slug": slug, "version_label": f"v{self.version}"}
        return self.kaggle.ask(f"asking for {self}", "kernels.kernels", what, **name, **fields)

    def status(self) -> str:
        """Kaggle's status in small letters, such as queued; `waiting` for a version that Kaggle does not list yet. Asks once."""
        return self._session()[0]

    def _session(self) -> tuple[str, str]:
        """The status, and Kaggle's reason for a failure."""
        try:
            answer = self._ask("GetKernelSessionStatus")
        except Refused as error:
            if error.code in (403, 404):
                return "waiting", ""
            raise
        return answer.status.name.lower(), answer.failure_message or ""

    def wait(self, minutes: float) -> str:
        """Its status once it is over, or after `minutes`; logs each change."""
        last = [""]

        def ask() -> str:
            now = self.status()
            if now != last[0]:
                log(f"{self}: {now}")
                last[0] = now
            return now

        return self.kaggle.wait(ask, minutes, over)

    def require_complete(self) -> None:
        """Raise UserError unless it completed; if it failed, log the end of its log first."""
        status, reason = self.kaggle.wait(self._session)
        if status == "complete":
            return
        if not over(status):
            raise UserError(f"{self}: is still {status}; ask again later: make kernel-status{self.built.make_word}")
        for line in self._log_tail():
            log(f"  {line}")
        reason = f" ({self.kaggle.scrub(reason)})" if reason else ""
        raise UserError(
            f"{self}: ended with {status}{reason}; the end of its log is above, all of it at {self.built.url}"
        )

    def _listing(self, **page: Any) -> Any:
        return self.kaggle.wait(lambda: self._ask("ListKernelSessionOutput", **page))

    def _log_tail(self, lines: int = 30) -> list[str]:
        """The last lines of the log, which is a JSON list of {stream_name, time, data}."""
        try:
            text = self._listing().log or ""
        except (Refused, Uncertain) as error:
            return [f"(no log: {error})"]
        with suppress(ValueError, AttributeError, TypeError):  # not JSON: shown as it is
            text = "".join(str(event.get("data", "")) for event in json.loads(text))
        return [line for line in self.kaggle.scrub(text).splitlines() if line.strip()][-lines:]

    def fetch(self, into: Path, pattern: str) -> list[Path]:
        """Download the output files whose full names match `pattern`."""
        import requests

        found, token = [], ""
        while True:
            page = self._listing(page_size=100, **({"page_token": token} if token else {}))
            for file in page.files or []:
                if re.fullmatch(pattern, file.file_name):
                    doing = f"downloading {file.file_name} of {self}"
                    with self.kaggle.asking(doing):
                        response = requests.get(file.url, stream=True, timeout=300)
                    self.kaggle.download(doing, response, into / file.file_name)
                    found.append(into / file.file_name)
            token = page.next_page_token
            if not token:
                return found

    def check_output(self) -> int:
        """The number of rows of its submission.csv for the visible photos.

        Raises UserError if there is none, if the contest would refuse it, and if no network scored the photos.
        """
        with tempfile.TemporaryDirectory() as scratch:
            files = {path.name: path for path in self.fetch(Path(scratch), TRIAL)}
            if "submission.csv" not in files:
                raise UserError(f"{self}: completed without a submission.csv; its log: {self.built.url}/log")
            scores = check_submission(files["submission.csv"], str(self), rows=VISIBLE)
            if "inference.json" in files:
                self._check_report(read_json(files["inference.json"], str(self)), len(scores))
            require_answers(scores, str(self))
            return len(scores)

    def _check_report(self, report: Mapping[str, Any], rows: int) -> None:
        """Raise UserError if the script reports that it could use no photo, or lost a network."""
        failed = [line for line in report["left_out"] if "(failed)" in line]
        if len(report["photos_unusable"]) >= rows:
            failed = [f"photos: it could read none of {rows}"]
        if failed:
            raise UserError(f"{self}: answered without {failed[0]}; its log says why: {self.built.url}/log")

    def submit(self, message: str) -> int:
        """Submit it to the contest, once; returns Kaggle's number of the submission.

        Raises Refused, and Uncertain if Kaggle may have taken it.
        """
        owner, _, slug = self.built.id.partition("/")
        doing = f"submitting {self}"
        answer = self.kaggle.ask(
            doing, "competitions.competition", "CreateCodeSubmission", competition_name=COMPETITION, kernel_owner=owner,
            kernel_slug=slug, kernel_version=self.version, file_name="submission.csv", submission_description=message,
        )  # fmt: skip
        if not answer.ref:
            raise Uncertain(doing, f'its answer names no submission and says "{self.kaggle.scrub(answer.message)}"')
        return int(answer.ref)


def over(status: str) -> bool:
    """Whether a version with this status has ended."""
    return status in ("complete", "error", "cancel_requested", "cancel_acknowledged")
