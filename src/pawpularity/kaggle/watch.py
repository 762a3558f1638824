"""A pushed version of a kernel: how far it is, its log, its output, and its submission."""

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
"""What the inference kernel leaves behind."""


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
        """Kaggle's word in small letters, such as queued; `waiting` for a version that it does not show yet. Asks once."""
        return self._session()[0]

    def _session(self) -> tuple[str, str]:
        """Status, and Kaggle's reason for a failure."""
        try:
            answer = self._ask("GetKernelSessionStatus")
        except Refused as error:
            if error.code in (403, 404):
                return "waiting", ""
            raise
        return answer.status.name.lower(), answer.failure_message or ""

    def wait(self, minutes: float) -> str:
        """Its status once it is over, or after `minutes`; says each change."""
        said = [""]

        def ask() -> str:
            now = self.status()
            if now != said[0]:
                log(f"{self}: {now}")
                said[0] = now
            return now

        return self.kaggle.wait(ask, minutes, over)

    def require_complete(self) -> None:
        """Raise UserError unless it completed; of one that failed the log's end is said first."""
        status, reason = self.kaggle.wait(self._session)
        if status == "complete":
            return
        if not over(status):
            raise UserError(f"{self}: is still {status}; ask again with: make kernel-status{self.built.make_word}")
        for line in self._log_tail():
            log(f"  {line}")
        reason = f" ({self.kaggle.scrub(reason)})" if reason else ""
        raise UserError(
            f"{self}: ended with {status}{reason}; its log's end stands above, all of it at {self.built.url}"
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
        """Download the output files whose whole names fit `pattern`."""
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
        """Rows of the submission.csv that it left on the visible photos.

        Raises UserError where there is none, where the contest would refuse it, and where no network had a part in it.
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
        """Raise UserError where the script reports that it went on without photos or networks."""
        failed = [line for line in report["left_out"] if "(failed)" in line]
        if len(report["photos_unusable"]) >= rows:
            failed = [f"photos: it could read none of {rows}"]
        if failed:
            raise UserError(f"{self}: answered without {failed[0]}; its log says why: {self.built.url}/log")

    def submit(self, message: str) -> int:
        """Submit it to the contest, once; returns Kaggle's number of the submission.

        Raises Refused, and Uncertain where it may have been taken.
        """
        owner, _, slug = self.built.id.partition("/")
        doing = f"submitting {self}"
        answer = self.kaggle.ask(
            doing, "competitions.competition", "CreateCodeSubmission", competition_name=COMPETITION, kernel_owner=owner,
            kernel_slug=slug, kernel_version=self.version, file_name="submission.csv", submission_description=message,
        )  # fmt: skip
        if not answer.ref:
            raise Uncertain(doing, f'it names no submission and says "{self.kaggle.scrub(answer.message)}"')
        return int(answer.ref)


def over(status: str) -> bool:
    """Whether nothing more will happen to a version."""
    return status in ("complete", "error", "cancel_requested", "cancel_acknowledged")
