"""`pawpularity kernel-check`: run the built kernel as Kaggle would, and compare its scores with `predict`.

Two sessions, each in a sandbox (see `sandbox`): the contest's eight photos of noise under Kaggle's legacy mounts, and a hidden test
set, three in ten photos broken, under the current ones. The times it reports are this machine's.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.console import emit, log, next_step, table
from pawpularity.data.dataset import load_test
from pawpularity.data.tables import ID, read_test
from pawpularity.errors import UserError
from pawpularity.kaggle import fake_test_set, sandbox
from pawpularity.kaggle.built_kernel import BuiltKernel, built_kernel
from pawpularity.kaggle.bundle import Bundle, open_bundle
from pawpularity.kaggle.submission import predict_test
from pawpularity.kaggle.submission_file import check_submission
from pawpularity.runs import OOF, Run

FLOAT_BOUND = 1e-4
"""Score points between the kernel and predict: the same batches of the same numbers, rounded to six decimals."""
HALF_BOUND = 3.0
"""Factor on the largest difference from half precision that `make kernel` measured: the photos here are others."""
VERSIONS_BOUND = 0.1
"""Score points between other versions of the libraries on one machine; 0.043 was measured (docs/kaggle.md)."""
BROKEN = 0.3
"""Share of broken photos in the hidden test set."""
CONTEST_PHOTOS = 6800
"""The contest's hidden photos, about."""
CONTEST_HOURS = 9.0


def kernel_check(*, build: str, photos: int, threads: int | None, python: str | None, json: str | None) -> None:
    """Run the kernel built in `build` on `photos` simulated photos, with the libraries of `python` (default: this Python).

    Raises UserError for the first fault.
    """
    if not 8 <= photos <= 100_000:
        raise UserError(f"--photos {photos}: must be 8 to 100000")
    if threads is not None and threads < 1:
        raise UserError(f"--threads {threads}: must be 1 or more")
    built = built_kernel("inference", Path(build))
    bundle = open_bundle(built.dataset)
    with tempfile.TemporaryDirectory(prefix="pawpularity-check-") as scratch:
        check = _Check(built, bundle, Path(scratch).resolve(), threads, python)
        report = check.run(photos)
    rows = [(key.replace("_", " "), _shown(value)) for key, value in report.items()]
    emit(report, table(("kernel-check", "passed"), rows, left=(0, 1)), json)
    if report["hours_for_contest"] > CONTEST_HOURS:
        log(
            f"at this speed the kernel would leave out mirror images, folds or runs: the contest gives {CONTEST_HOURS:.0f} h"
        )
    next_step(f"make kernel-push{built.make_word}")


class _Check:
    """The two sessions of a check; all files go below `scratch`."""

    def __init__(
        self, built: BuiltKernel, bundle: Bundle, scratch: Path, threads: int | None, python: str | None
    ) -> None:
        self.built, self.bundle, self.scratch = built, bundle, scratch
        self.words = ["--threads", str(threads)] if threads else []
        self.python = python or sys.executable
        losses = bundle.about["half"]
        loss = sum(abs(run.weight) * losses[run.name]["largest_difference"] for run in bundle.runs if losses)
        self.bound = FLOAT_BOUND + HALF_BOUND * loss + (VERSIONS_BOUND if python else 0.0)

    def run(self, photos: int) -> dict[str, Any]:
        """Run both sessions; returns the report."""
        log(f"sandbox {sandbox.isolation()}")
        log("session 1 of 2: the contest's eight photos of noise ...")
        noise = fake_test_set.noise(self.scratch / "noise")
        difference = self.compare(self.session(noise, "legacy")[1], self.predicted(noise))
        hidden = self.scratch / "hidden"
        drawn, faults = fake_test_set.hidden(hidden, photos, broken=BROKEN)
        log(f"session 2 of 2: {photos} hidden photos, {len(faults)} of them broken ...")
        session, scores = self.session(hidden, self.built.carrier, rerun=True)
        report = session.report
        if wrong := report["photos_unusable"].keys() ^ faults.keys():
            name = min(wrong)
            did = (
                f"used the broken photo {name} ({faults[name]})" if name in faults else f"refused the good photo {name}"
            )
            raise UserError(f"kernel-check: the script {did}")
        expected = np.resize(self.predicted(drawn), photos)
        expected[scores.index.isin(list(faults))] = self.bundle.mean
        # A last batch of another size may use other compute kernels, and differ in the last digits.
        compared = photos if photos <= fake_test_set.DRAWN else photos - photos % fake_test_set.DRAWN
        difference = max(difference, self.compare(scores[:compared], expected[:compared]))
        seconds_each = (report["seconds"] - report["seconds_to_first_photo"]) / photos
        return {
            "bundle": self.bundle.name,
            "sandbox": sandbox.isolation(),
            "versions": session.guard["versions"],
            "photos": photos,
            "broken": len(faults),
            "photos_per_s": 1 / seconds_each,
            "hours_for_contest": (report["seconds_to_first_photo"] + CONTEST_PHOTOS * seconds_each) / 3600,
            "difference": difference,
            "bound": self.bound,
            **{key: report[key] for key in ("device", "dtypes", "left_out", "seconds_to_first_photo", "peak_mb")},
        }

    def session(self, data: Path, layout: str, *, rerun: bool = False) -> tuple[sandbox.Session, pd.Series]:
        """Run the script on `data`, and check everything but its scores; returns them by Id."""
        session = sandbox.run(
            self.scratch / f"session-{data.name}", self.built.kernel / "inference.py", self.bundle.folder, data, self.words,
            layout=layout, python=self.python, rerun=rerun,
        )  # fmt: skip
        where = f"kernel-check ({layout} mounts, {data.name})"
        if session.code != 0 or not session.guard:
            why = session.output.strip()[-600:]
            for name in session.guard.get("hidden", []):
                if f"No module named {name!r}" in session.output:
                    why = f"it needs {name}, which Kaggle's image may lack"
            raise UserError(f"{where}: the script ended with {session.code}: {why}")
        if tried := session.guard["connections"]:
            raise UserError(f"{where}: the script tried to reach {tried[0]}; on Kaggle there is no network")
        left = sorted(path.name for path in session.working.iterdir())
        if left != ["inference.json", "submission.csv"]:
            raise UserError(
                f"{where}: left {', '.join(left)} in the working folder, must be inference.json and submission.csv"
            )
        scores = check_submission(session.working / "submission.csv", where, data)
        if list(scores.index) != read_test(data)[ID].tolist():
            raise UserError(f"{where}: the rows of submission.csv are not in the order of test.csv")
        return session, scores

    def predicted(self, data: Path) -> NDArray[np.float64]:
        """The scores that `make predict` gives the photos of `data`: of the blend, of the run, or the mean of the runs."""
        blend = self.bundle.about["ensemble"]
        test, out = load_test(data, self.scratch / "cache"), self.scratch / "predicted.csv"
        names = [blend] if blend else [run.name for run in self.bundle.runs]
        scores: NDArray[np.float64] = np.mean([predict_test(Run.open(OOF / name), test, out) for name in names], axis=0)
        return scores

    def compare(self, kernel: pd.Series, expected: NDArray[np.float64]) -> float:
        """The largest difference in score points. Raises UserError for one above the bound."""
        difference = float(np.abs(kernel.to_numpy() - expected).max())
        if difference > self.bound:
            raise UserError(
                f"kernel-check: the kernel and predict differ by {difference:.6f} points, allowed are {self.bound:.6f}; "
                "if the runs were changed since the bundle was built, run make kernel again"
            )
        return difference


def _shown(value: Any) -> str:
    """A value of the report in a table."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    if isinstance(value, list):
        return ", ".join(value) or "nothing"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
