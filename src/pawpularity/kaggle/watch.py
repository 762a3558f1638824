"""A pushed version of a kernel: its status, log, output and submission."""

import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawpularity.console import log
from pawpularity.errors import UserError
from pawpularity.kaggle.api import COMPETITION, Kaggle, Refused, Uncertain
from pawpularity.kaggle.built_kernel import BuiltKernel
from pawpularity.kaggle.submission_file import check_submission

LOG_LINES = 30
"""Lines of a failed version's log that are shown."""
VISIBLE = 8
"""Visible test photos, all of noise: the rows of a kernel's trial run."""


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

    def status(self) -> tuple[str, str]:
        """Kaggle's status in small letters, such as queued, and its reason for a failure. Asks once.

        The status is `waiting` for a version that Kaggle does not list yet.
        """
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
            now, _ = self.status()
            if now != last[0]:
                log(f"{self}: {now}")
                last[0] = now
            return now

        return self.kaggle.wait(ask, minutes, over)

    def require_complete(self) -> None:
        """Raise UserError unless it completed; if it failed, log the end of its log first."""
        status, reason = self.kaggle.wait(self.status)
        if status == "complete":
            return
        if not over(status):
            raise UserError(f"{self}: is still {status}; ask again later: make kernel-status{self.built.make_word}")
        for line in self._log()[-LOG_LINES:]:
            log(f"  {line}")
        reason = f" ({self.kaggle.scrub(reason)})" if reason else ""
        raise UserError(
            f"{self}: ended with {status}{reason}; the end of its log is above, all of it at {self.built.url}"
        )

    def _listing(self, **page: Any) -> Any:
        return self.kaggle.wait(lambda: self._ask("ListKernelSessionOutput", **page))

    def _log(self) -> list[str]:
        """The lines of the log, which is a JSON list of {stream_name, time, data}."""
        text = self._listing().log or ""
        with suppress(ValueError, AttributeError, TypeError):  # not JSON: shown as it is
            text = "".join(str(event.get("data", "")) for event in json.loads(text))
        return [line for line in self.kaggle.scrub(text).splitlines() if line.strip()]

    def fetch(self, name: str, into: Path) -> Path | None:
        """Download the output file `name` into a folder; None if there is none."""
        import requests

        token = ""
        while True:
            page = self._listing(page_size=100, **({"page_token": token} if token else {}))
            for file in page.files or []:
                if file.file_name == name:
                    with self.kaggle.asking(f"downloading {name} of {self}"):
                        response = requests.get(file.url, stream=True, timeout=300)
                        response.raise_for_status()
                        self.kaggle.api.download_file(response, str(into / name), None, quiet=False)
                    return into / name
            token = page.next_page_token
            if not token:
                return None

    def check_output(self) -> int:
        """The number of rows of its submission.csv for the visible photos.

        Raises UserError if there is none, if the contest would refuse it, and if the script could read no photo.
        """
        with tempfile.TemporaryDirectory() as scratch:
            file = self.fetch("submission.csv", Path(scratch))
            if file is None:
                raise UserError(f"{self}: completed without a submission.csv; its log: {self.built.url}/log")
            scores = check_submission(file, str(self), rows=VISIBLE)
        if scores.nunique() == 1:
            raise UserError(
                f"{self}: gives every photo the mean prediction, {scores.iloc[0]:g}; its log says why: {self.built.url}/log"
            )
        return len(scores)

    def submit(self, message: str) -> int:
        """Submit it to the contest, once; returns Kaggle's number of the submission.

        Raises Refused, and Uncertain if Kaggle may have taken it.
        """
        doing = f"submitting {self}"
        with self.kaggle.asking(doing):
            send = self.kaggle.api.competition_submit_code
            answer = send("submission.csv", message, COMPETITION, self.built.id, self.version)
        if not answer.ref:
            raise Uncertain(doing, f'its answer names no submission and says "{self.kaggle.scrub(answer.message)}"')
        return int(answer.ref)


def over(status: str) -> bool:
    """Whether a version with this status has ended."""
    return status in ("complete", "error", "cancel_requested", "cancel_acknowledged")
