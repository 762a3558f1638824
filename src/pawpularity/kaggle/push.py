"""Push a kernel and its data set, and submit it, by the kaggle command, each answer read.

`push_plan` gives the commands as shell lines; the other functions act. The order matters: Kaggle mounts the newest
version of a data set that is ready, so a kernel pushed before that would run on the old bundle.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pawpularity.console import log
from pawpularity.errors import UserError
from pawpularity.files import size_text
from pawpularity.kaggle.built_kernel import BuiltKernel, Names
from pawpularity.kaggle.kaggle_cli import COMPETITION, RULES, Answer, Kaggle, explain, shell_line
from pawpularity.kaggle.progress import PATIENCE, TRIAL, Unanswered, log_mark, output_words, pause

SUBMISSIONS_URL = f"https://www.kaggle.com/competitions/{COMPETITION}/submissions"
READY_MINUTES = 60.0
_ARRIVED = re.compile(r"^Upload successful: (.*) \([^()]*\)$", re.MULTILINE)  # _upload_file


class Mispushed(UserError):
    """Kaggle made a version of the kernel that is no good. `fault` says what became of it and what to do."""

    def __init__(self, doing: str, fault: str) -> None:
        super().__init__(f"{doing}: Kaggle {fault}")
        self.fault = fault


def dataset_words(built: BuiltKernel, note: str) -> tuple[list[str], list[str]]:
    """The words that create the data set, and those that add a version to it."""
    # Bundles are flat; with --dir-mode zip a folder that slipped in is at least packed, not left out in silence.
    mode = ["--dir-mode", "zip"]
    return (
        ["datasets", "create", "-p", str(built.dataset), *mode],
        ["datasets", "version", "-p", str(built.dataset), "-m", note, *mode],
    )


def submit_words(names: Names, version: int | str, message: str) -> list[str]:
    """The words that submit a version of the kernel."""
    which = ["-k", names.kernel, "-v", str(version), "-f", "submission.csv"]
    return ["competitions", "submit", COMPETITION, *which, "-m", message]


def push_plan(built: BuiltKernel, names: Names, note: str) -> str:
    """What pushing would do, as a shell script with remarks."""
    create, version = dataset_words(built, note)
    total = sum(path.stat().st_size for path in built.files)
    lines = [
        f"# {len(built.files)} files, {size_text(total)}, to {names.dataset_url} (private)",
        shell_line(["datasets", "status", names.dataset]),
        "# the first time:",
        shell_line(create),
        "# every other time, and only if the files were changed:",
        shell_line(version),
        "# until it is ready:",
        shell_line(_number_words(names)),
        "# the log of the version before, if there is one, to tell the next one by:",
        shell_line(["kernels", "logs", names.kernel]),
        f"# {names.kernel_url} (private); pushing runs it at once",
        shell_line(["kernels", "push", "-p", str(built.kernel)]),
        "# until it is complete; its log if it fails:",
        shell_line(["kernels", "status", names.kernel]),
        shell_line(["kernels", "logs", names.kernel]),
    ]
    if built.inference:
        lines.append(shell_line(output_words(names, Path("OUTPUT"), TRIAL)))
    return "\n".join(lines)


def push(kaggle: Kaggle, built: BuiltKernel, names: Names, note: str) -> dict[str, Any]:
    """Upload the data set if it was changed, push the kernel, and return the record of both, which is kept.

    Raises UserError for whatever Kaggle's command says went wrong, with or without an exit status that says so.
    """
    bundle, script = built.dataset_hash(), built.kernel_hash()
    before = built.record()
    version = _there(kaggle, names)
    unchanged = before.get("dataset_hash") == bundle and before.get("dataset") == names.dataset
    arrived = {"dataset": names.dataset, "hash": bundle, "after": version or 0}
    if unchanged and version is not None and before.get("dataset_version") == version:
        log(f"data set {names.dataset}: version {version} has these very files already")
    elif version is not None and before.get("arrived") == arrived | {"after": version - 1}:
        log(f"data set {names.dataset}: version {version} has these very files already: a push was cut off behind them")
        version = _wait_ready(kaggle, built, names, version - 1)
    else:
        _upload(
            kaggle, built, names, note, first=version is None, keep=lambda: built.keep(before | {"arrived": arrived})
        )
        version = _wait_ready(kaggle, built, names, version or 0)
    # Known before the kernel is: a push that fails must not upload gigabytes again.
    record: dict[str, Any] = {
        "name": built.name,
        "dataset": names.dataset,
        "dataset_version": version,
        "dataset_hash": bundle,
        "kernel": names.kernel,
        "kernel_hash": script,
        "kernel_version": None,
        "status": "data set ready",
    }
    built.keep(record)
    record["log_before"] = log_mark(kaggle, names)
    log(f"pushing {names.kernel} ...")
    answer = kaggle.ask("kernels", "push", "-p", str(built.kernel), timeout_s=600)
    try:
        record["kernel_version"] = _pushed_version(answer, names)
    except Mispushed as fault:
        built.keep(record | {"status": "pushed wrongly", "fault": fault.fault})
        raise
    record["status"] = "pushed"
    built.keep(record)
    return record


def _there(kaggle: Kaggle, names: Names) -> int | None:
    """The data set's newest version on Kaggle; None where there is none."""
    status = kaggle.ask("datasets", "status", names.dataset)
    if status.code == 0:
        return _state(kaggle, names)[1]
    if status.not_there:
        return None
    raise UserError(explain(status, f"asking for data set {names.dataset}"))


def _number_words(names: Names) -> list[str]:
    return ["datasets", "status", names.dataset, "--format", "json(status,current_version_number)"]


def _state(kaggle: Kaggle, names: Names) -> tuple[str, int]:
    """Status and newest version of the data set (dataset_status prints them as JSON)."""
    answer = kaggle.ask(*_number_words(names))
    if answer.code != 0:
        raise Unanswered(answer, f"asking for data set {names.dataset}")
    try:
        found = json.loads(answer.out.strip().splitlines()[-1])
        return str(found["status"]), int(found["current_version_number"])
    except (ValueError, KeyError, IndexError, TypeError):
        raise UserError(f"asking for data set {names.dataset}: kaggle said {answer.last}, which is no status") from None


def _upload(
    kaggle: Kaggle, built: BuiltKernel, names: Names, note: str, *, first: bool, keep: Callable[[], None]
) -> None:
    """Create the data set or add a version. `keep` is called as soon as the last file arrived."""
    create, add = dataset_words(built, note)
    total = sum(path.stat().st_size for path in built.files)
    log(f"uploading {len(built.files)} files, {size_text(total)}, to {names.dataset} ...")
    missing = {path.name for path in built.files}

    def show(line: str) -> None:
        log(line)
        if missing and (name := _ARRIVED.match(line)):
            missing.discard(name[1])
            if not missing:
                keep()  # Kaggle makes a version of them now, whatever becomes of us.

    answer = kaggle.ask(*(create if first else add), timeout_s=None, show=show)
    _check_upload(answer, built, names)


def _wait_ready(kaggle: Kaggle, built: BuiltKernel, names: Names, before: int) -> int:
    """The number of the data set's version behind `before`, once Kaggle has it ready."""
    log("waiting for Kaggle to make it ready ...")
    deadline = time.monotonic() + READY_MINUTES * 60
    swallowed = 0
    while True:
        try:
            status, version = _state(kaggle, names)
            swallowed = 0
        except Unanswered as unanswered:
            # Just after its creation Kaggle may not know it yet.
            swallowed += 1
            if not (unanswered.answer.unreachable or unanswered.answer.not_there) or swallowed > PATIENCE:
                raise
            status, version = "unknown", -1
        if status == "ready" and version > before:
            log(f"data set {names.dataset}: version {version} is ready")
            return version
        if status in ("failed", "deleted"):
            _forget_arrived(built)
            raise UserError(f"data set {names.dataset}: Kaggle calls it {status}; look at {names.dataset_url}")
        if time.monotonic() > deadline:
            raise UserError(
                f"data set {names.dataset}: not ready after {READY_MINUTES:.0f} minutes (status {status}, version {version}); "
                f"look at {names.dataset_url}, then run again"
            )
        pause()


def _forget_arrived(built: BuiltKernel) -> None:
    """What arrived became no version: the next push must upload it once more."""
    if (record := built.record()).pop("arrived", None):
        built.keep(record)


def _check_upload(answer: Answer, built: BuiltKernel, names: Names) -> None:
    """Raise UserError unless every file arrived (_upload_file, _upload_file_or_folder, dataset_create_new_cli)."""
    text = answer.text
    doing = f"uploading data set {names.dataset}"
    if answer.code != 0:
        raise UserError(explain(answer, doing))
    if error := re.search(r"^Dataset (?:version )?creation error: ?(.*)$", text, re.MULTILINE):
        _forget_arrived(built)
        raise UserError(f"{doing}: Kaggle refuses it: {error[1][:300] or 'it does not say why'}; nothing was pushed")
    lost = re.findall(r"^(?:Upload unsuccessful: |Skipping folder: |Skipping: )([^;\n]*)", text, re.MULTILINE)
    arrived = set(_ARRIVED.findall(text))
    lost += [path.name for path in built.files if path.name not in arrived and path.name not in lost]
    if lost:
        raise UserError(
            f"{doing}: {len(lost)} of {len(built.files)} files did not arrive, first {lost[0]}, and yet Kaggle makes a version of "
            "the rest; nothing was pushed: run again"
        )
    if "is being created" not in text:
        raise UserError(
            f"{doing}: kaggle said {answer.last}, not that it is being created; look at {names.dataset_url}"
        )


def _pushed_version(answer: Answer, names: Names) -> int:
    """The kernel's version that was pushed (kernels_push, kernels_push_cli). Raises UserError for a push that went wrong."""
    doing = f"pushing {names.kernel}"
    text = answer.text
    if answer.code != 0:
        raise UserError(explain(answer, doing))
    if error := re.search(r"^Kernel push error: ?(.*)$", text, re.MULTILINE):
        raise UserError(explain(Answer(1, error[1] or "it does not say why"), doing))
    pushed = re.search(r"Kernel version (\d+) successfully pushed\.\s+Please check progress at (\S+)", text)
    which = f"version {pushed[1]}" if pushed else "a version"
    if refused := re.search(
        r"not valid (dataset|competition|kernel) sources and could not be added to the kernel: (.*)", text
    ):
        raise Mispushed(
            doing,
            f"pushed {which} WITHOUT the {refused[1]} {refused[2]}, so that it will fail; {_cure(refused[1], names)}",
        )
    if "does not resolve to the specified id" in text:
        raise Mispushed(doing, f"pushed {which} under another name, made of its title; delete it on {names.kernel_url}")
    if pushed is None:
        raise UserError(f"{doing}: kaggle said {answer.last}, and no version number; look at {names.kernel_url}")
    if not pushed[2].rstrip("/").lower().endswith(f"/{names.kernel}"):
        raise Mispushed(doing, f"pushed {which} to {pushed[2]}, not to {names.kernel_url}; look at both")
    if tags := re.search(r"not valid tags and could not be added.*", text):
        log(f"kaggle: {tags[0]}")
    return int(pushed[1])


def _cure(kind: str, names: Names) -> str:
    if kind == "dataset":
        return f"is {names.dataset_url} there and ready? then push again"
    if kind == "competition":
        return f"accept the rules at {RULES}, then push again"
    return "has that kernel ever completed? build without --resume, or push again"


def submit(kaggle: Kaggle, words: Sequence[str], names: Names) -> str:
    """Submit; what Kaggle answered (competition_submit_cli). Raises UserError unless it says that it took it."""
    answer = kaggle.ask(*words, timeout_s=600)
    if answer.code != 0:
        raise Unanswered(answer, f"submitting {names.kernel}")
    # Kaggle's own words end the output; what is left of the day's submissions stands before them.
    # A refusal may speak of success too: "... the notebook version did not run successfully".
    if not re.search(r"^\s*Successfully submitted\b", answer.out, re.MULTILINE):
        # competition_submit_cli prints no more than that, with status 0, for whatever was wrong.
        raise UserError(
            f"submitting {names.kernel}: kaggle said {answer.last}; are the rules accepted ({RULES}), and does this version "
            f"on {names.kernel_url} show a submission.csv? look at {SUBMISSIONS_URL} before trying again"
        )
    return " ".join(
        line.strip() for line in answer.out.splitlines() if line.strip() and not line.startswith("Warning:")
    )
