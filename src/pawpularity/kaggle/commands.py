"""`pawpularity kernel-push`, `kernel-status` and `submit`. Without --go the commands are only shown."""

from pathlib import Path
from typing import Any

from pawpularity import __version__
from pawpularity.console import log, next_step
from pawpularity.errors import UserError
from pawpularity.kaggle import progress, push
from pawpularity.kaggle.built_kernel import BuiltKernel, Names, built_kernel, check_built
from pawpularity.kaggle.bundle import open_bundle
from pawpularity.kaggle.kaggle_cli import Kaggle, shell_line

SHOWN = "nothing was sent; add GO=1 (--go) to do it"
WAIT_MINUTES = 60.0
"""For an inference kernel; a training kernel is left to itself."""


def kernel_push(*, name: str, user: str | None, build: str, go: bool, wait: float | None) -> None:
    """Upload the data set if it changed, push the kernel, and wait for its end, at most `wait` minutes."""
    built = built_kernel(name, Path(build))
    names = check_built(built, user)
    note = f"pawpularity {__version__}, {built.dataset_hash()}"
    if not go:
        print(push.push_plan(built, names, note))
        log(SHOWN)
        return
    kaggle = Kaggle.find()
    record = push.push(kaggle, built, names, note)
    log(f"pushed  {names.kernel} version {record['kernel_version']}: {names.kernel_url}")
    minutes = wait if wait is not None else WAIT_MINUTES if built.inference else 0.0
    if minutes == 0:
        print(f"{names.kernel} version {record['kernel_version']} is running")
        next_step(f"make kernel-status{built.make_word}")
        return
    log("waiting for Kaggle to start it ...")
    progress.pause()
    _wait_and_check(kaggle, built, names, record, minutes)


def kernel_status(*, name: str, user: str | None, build: str, wait: float | None) -> None:
    """What became of a pushed kernel; the end of its log if it failed. Waits at most `wait` minutes for its end."""
    built, names, record = pushed_kernel(name, build, user)
    kaggle = Kaggle.find()
    now = progress.progress(kaggle, names, record.get("log_before"))
    if not now.over and not wait:
        print(f"{names.kernel} version {record['kernel_version']}: {now.status}; {names.kernel_url}")
        next_step(f"make kernel-status{built.make_word}")
        return
    _wait_and_check(kaggle, built, names, record, wait or 0.0)


def submit(*, user: str | None, build: str, go: bool, message: str | None, again: bool, anyway: bool) -> None:
    """Submit the pushed kernel to the contest.

    Raises UserError for a version that is not what was pushed, was submitted before (without `again`), or whose runs were not
    trained on the contest's photos (without `anyway`).
    """
    built, names, record = pushed_kernel("inference", build, user)
    version, dataset_hash = record["kernel_version"], built.dataset_hash()
    which = f"{names.kernel} version {version}"
    if (record.get("dataset_hash"), record.get("kernel_hash")) != (dataset_hash, built.kernel_hash()):
        raise UserError(f"{build}: was changed since {which} was pushed; run: make kernel-push GO=1")
    if record.get("submitted") and not again:
        raise UserError(f"{which}: was submitted already; look at {push.SUBMISSIONS_URL}, or add ARGS=--again")
    if record.get("submitting") and not again:
        raise UserError(f"{which}: submitting it was cut off before Kaggle's answer was read; if {push.SUBMISSIONS_URL} does not "
                        "show it, add ARGS=--again")  # fmt: skip
    message = message or f"pawpularity {__version__}, bundle {dataset_hash}"
    if not message.isprintable() or len(message) > 500 or message.startswith("-"):
        raise UserError('--message: must be one line of at most 500 characters that does not begin with "-"')
    bundle = open_bundle(built.dataset, check_files=False)
    log(bundle.trained_on)
    if go and not bundle.trained_on_contest and not anyway:
        raise UserError(
            f"{names.kernel}: {bundle.trained_on}, so its score would say nothing of the contest; train on the contest's data "
            "(make data), or add ARGS=--anyway"
        )
    words = push.submit_words(names, version, message)
    if not go:
        print(shell_line(words))
        if not bundle.trained_on_contest and not anyway:
            log("GO=1 would refuse it without ARGS=--anyway")
        log(f"version {version} is {record['status']}; {SHOWN}")
        return
    kaggle = Kaggle.find()
    if record["status"] != "checked":
        now = progress.progress(kaggle, names, record.get("log_before"))
        progress.require_complete(kaggle, built, names, now)
        record |= {"status": "checked", "rows": progress.check_output(kaggle, names)}
        built.keep(record)
    said = _submit(kaggle, built, names, record, words)
    print(f"submitted {which}; Kaggle says: {said}")
    log(f"it now runs on the hidden photos, which takes hours; the score will be at {push.SUBMISSIONS_URL}")


def pushed_kernel(name: str, build: str, user: str | None) -> tuple[BuiltKernel, Names, dict[str, Any]]:
    """The built kernel, its names and the record of its push. Raises UserError where it was never pushed."""
    built = built_kernel(name, Path(build))
    names = check_built(built, user)
    record = built.record()
    again = f"run: make kernel-push{built.make_word} GO=1"
    if record.get("kernel") == names.kernel and record.get("fault"):
        raise UserError(f"{names.kernel}: Kaggle {record['fault']}; when that is mended, {again}")
    if not isinstance(record.get("kernel_version"), int) or record.get("kernel") != names.kernel:
        raise UserError(f"{names.kernel}: was not pushed from here yet; {again}")
    return built, names, record


def _wait_and_check(kaggle: Kaggle, built: BuiltKernel, names: Names, record: dict[str, Any], minutes: float) -> None:
    """Wait for the newest version, and record and say what became of it."""
    now = progress.wait(kaggle, names, minutes, record.get("log_before"))
    built.keep(record | {"status": now.status})
    progress.require_complete(kaggle, built, names, now)
    which = f"{names.kernel} version {record['kernel_version']}"
    if built.inference:
        rows = progress.check_output(kaggle, names)
        built.keep(record | {"status": "checked", "rows": rows})
        print(f"{which}: complete, submission.csv with {rows} rows is sound")
        next_step("make submit")
    else:
        print(f"{which}: complete")
        next_step(f"make kernel-fetch{built.make_word} GO=1")


def _submit(kaggle: Kaggle, built: BuiltKernel, names: Names, record: dict[str, Any], words: list[str]) -> str:
    """Submit, and record it; returns Kaggle's answer."""
    # Recorded before: whoever is cut off between Kaggle's yes and our note of it must not submit twice unawares.
    before = {key: value for key, value in record.items() if key != "submitting"}
    built.keep(record | {"submitting": True})
    try:
        said = push.submit(kaggle, words, names)
    except UserError as error:
        if not (isinstance(error, progress.Unanswered) and error.answer.unreachable):
            built.keep(before)
        raise
    built.keep(before | {"submitted": True})
    return said
