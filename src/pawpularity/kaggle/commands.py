"""`pawpularity kernel-push`, `kernel-status` and `submit`. Push and submit only print their steps unless --go is given."""

from typing import Any

from pawpularity import __version__
from pawpularity.console import log, next_step
from pawpularity.errors import UserError
from pawpularity.kaggle import push
from pawpularity.kaggle.api import SUBMISSIONS, Kaggle, Refused
from pawpularity.kaggle.built_kernel import BuiltKernel, built_kernel, check_built
from pawpularity.kaggle.bundle import open_bundle
from pawpularity.kaggle.watch import Pushed, over

SHOWN = "nothing was sent; add GO=1 (--go) to do it"
WAIT_MINUTES = 60.0
"""For an inference kernel; a push does not wait for a training kernel."""


def kernel_push(*, name: str, user: str | None, go: bool, wait: float | None) -> None:
    """Upload the files if they changed, push the kernel, and wait for its end, at most `wait` minutes."""
    built = built_kernel(name, user)
    check_built(built)
    if not go:
        print(push.plan(built))
        log(SHOWN)
        return
    kaggle = Kaggle.sign_in()
    pushed = Pushed(kaggle, built, push.push(kaggle, built))
    log(f"pushed  {pushed}: {built.url}")
    _finish(pushed, wait if wait is not None else WAIT_MINUTES if built.inference else 0.0)


def kernel_status(*, name: str, user: str | None, wait: float | None) -> None:
    """Print the status of a pushed kernel; the end of its log if it failed. Wait at most `wait` minutes for its end."""
    built, record = pushed_kernel(name, user)
    _finish(Pushed(Kaggle.sign_in(), built, record["kernel_version"]), wait or 0.0)


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
        print(f"check the output of {which}, and submit it to the contest")
        log(f"{SHOWN}{', with ARGS=--anyway' if other_data else ''}")
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
    print(f"submitted {which}; Kaggle calls it submission {record['submission']}")
    log(f"it now runs on the hidden photos, which takes hours; the score will be at {SUBMISSIONS}")


def pushed_kernel(name: str, user: str | None) -> tuple[BuiltKernel, dict[str, Any]]:
    """The built kernel and the record of its push. Raises UserError if it was never pushed."""
    built = built_kernel(name, user)
    record = built.record()
    if record.get("kernel_version") is None or record["kernel"] != built.id:
        raise UserError(f"{built.id}: was not pushed from here yet; run: make kernel-push{built.make_word} GO=1")
    return built, record


def _finish(pushed: Pushed, minutes: float) -> None:
    """Wait at most `minutes` for the end of the version, check its output, and print the outcome."""
    status = pushed.wait(minutes)
    if not over(status):
        print(f"{pushed}: {status}; {pushed.built.url}")
        next_step(f"make kernel-status{pushed.built.make_word}")
        return
    pushed.require_complete()
    if pushed.built.inference:
        print(f"{pushed}: complete, submission.csv with {pushed.check_output()} rows is sound")
        next_step("make submit")
    else:
        print(f"{pushed}: complete")
        next_step(f"make kernel-fetch{pushed.built.make_word} GO=1")
