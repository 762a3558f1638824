"""`pawpularity kernel-status` and `submit`: a pushed version of a kernel, its status, log, output and submission."""

import json
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawpularity import __version__
from pawpularity.console import log, next_step, say
from pawpularity.errors import UserError
from pawpularity.kaggle.api import COMPETITION, SUBMISSIONS, Kaggle, Refused, Uncertain
from pawpularity.kaggle.built_kernel import BuiltKernel, built_kernel
from pawpularity.kaggle.bundle import open_bundle
from pawpularity.kaggle.submission_file import check_submission

SHOWN = "nothing was sent; add GO=1 (--go) to do it"
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

        return self.kaggle.wait(ask, minutes, over) if minutes else self.kaggle.wait(ask)

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


def kernel_status(*, name: str, user: str | None, wait: float | None) -> None:
    """Print the status of a pushed kernel; the end of its log if it failed. Wait at most `wait` minutes for its end."""
    built, record = pushed_kernel(name, user)
    finish(Pushed(Kaggle.sign_in(), built, record["kernel_version"]), wait or 0.0)


def submit(*, user: str | None, go: bool, again: bool, anyway: bool) -> None:
    """Submit the pushed kernel to the contest.

    Raises UserError if the files changed since the push, if the version was or may have been submitted before (without `again`),
    and if its runs were not trained on the contest's photos (without `anyway`).
    """
    built, record = pushed_kernel("inference", user)
    which, hashes = f"{built.id} version {record['kernel_version']}", built.hashes()
    if hashes.items() - record.items():
        raise UserError(f"{built.root}: was changed since {which} was pushed; run: make kernel-push GO=1")
    if record.get("submission") and not again:
        what = "was submitted already" if record["submission"] != "sent" else "was sent, and Kaggle's answer was lost"
        raise UserError(f"{which}: {what}; look at {SUBMISSIONS}, and if it must be sent again, add ARGS=--again")
    bundle = open_bundle(built.dataset, check_files=False)
    log(bundle.trained_on)
    other_data = not bundle.about["trained_on"]["contest"] and not anyway
    if not go:
        say(f"check the output of {which}, and submit it to the contest")
        log(f"{SHOWN}{', with ARGS=--anyway' if other_data else ''}")
        next_step("make submit GO=1", ARGS="--anyway" if other_data else None)
        return
    if other_data:
        raise UserError(f"{which}: {bundle.trained_on}, so its score would mean nothing in the contest; train on the contest's "
                        "data (make data), or add ARGS=--anyway")  # fmt: skip
    pushed = Pushed(Kaggle.sign_in(), built, record["kernel_version"])
    pushed.require_complete()
    pushed.check_output()
    # Recorded before sending: if the answer is lost, the next call must not submit a second time by mistake.
    built.keep(record | {"submission": "sent"})
    try:
        record["submission"] = pushed.submit(f"pawpularity {__version__}, files {hashes['files_hash']}")
    except Refused:
        built.keep(record)
        raise
    built.keep(record)
    say(f"submitted {which}; Kaggle calls it submission {record['submission']}")
    log(f"it now runs on the hidden photos, which takes hours; the score will be at {SUBMISSIONS}")
    next_step("make report")


def pushed_kernel(name: str, user: str | None) -> tuple[BuiltKernel, dict[str, Any]]:
    """The built kernel and the record of its push. Raises UserError if it was never pushed."""
    built = built_kernel(name, user)
    record = built.record()
    if record.get("kernel_version") is None or record["kernel"] != built.id:
        raise UserError(f"{built.id}: was not pushed from here yet; run: make kernel-push{built.make_word} GO=1")
    return built, record


def finish(pushed: Pushed, minutes: float) -> None:
    """Wait at most `minutes` for the end of the version, check its output, and print the outcome."""
    status = pushed.wait(minutes)
    if not over(status):
        say(f"{pushed}: {status}; {pushed.built.url}")
        next_step(f"make kernel-status{pushed.built.make_word}")
        return
    pushed.require_complete()
    if pushed.built.inference:
        say(f"{pushed}: complete, submission.csv with {pushed.check_output()} rows is sound")
        next_step("make submit")
    else:
        say(f"{pushed}: complete")
        next_step(f"make kernel-fetch{pushed.built.make_word} GO=1")
