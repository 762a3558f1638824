"""kernel-push, kernel-status and submit against a stand-in that replays Kaggle's command, good days and bad."""

import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pawpularity import __version__
from pawpularity.kaggle.build_folders import slug_of
from pawpularity.kaggle.contents import FORMAT, KIND, sha256
from pawpularity.kaggle.kaggle_cli import Kaggle, shell_line
from pawpularity.kaggle.progress import POLL

STUB = Path(__file__).with_name("stub_kaggle.py")
TOKEN = "KGAT_0123456789abcdef0123456789abcdef"
KEY = "fedcba9876543210fedcba9876543210"
KERNEL = "anna/pawpularity-inference"
DATA = "anna/pawpularity-bundle"
EIGHT = "Id,Pawpularity\n" + "".join(f"{name},38.{n}\n" for n, name in enumerate("abcdefgh"))
DRAWN = {"name": "sample", "photos": 600, "drawn": True, "contest": False}


class Stub:
    """The stand-in's state and what it was asked."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.set()

    def set(self, **state: Any) -> None:
        """What it knows and the faults it plays; all else is forgotten."""
        (self.place / "state.json").write_text(json.dumps(state))

    def add(self, **state: Any) -> None:
        """The same, keeping what it knows."""
        self.set(**(json.loads((self.place / "state.json").read_text()) | state))

    @property
    def calls(self) -> list[list[str]]:
        """Words of every call but those for the version."""
        file = self.place / "calls.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [words for line in lines if (words := json.loads(line)) != ["--version"]]

    def asked(self, *words: str) -> int:
        """How many calls began with `words`."""
        return sum(call[: len(words)] == list(words) for call in self.calls)

    def leaves(self, text: str | None) -> None:
        """The submission.csv that the kernel leaves behind."""
        folder = self.place / "output"
        folder.mkdir(exist_ok=True)
        (folder / "submission.csv").unlink(missing_ok=True)
        if text is not None:
            (folder / "submission.csv").write_text(text)


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """The stand-in, first on PATH, with credentials in the environment and in a file."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "stub.py").write_text(STUB.read_text())
    program = place / "kaggle"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {shlex.quote(str(place / "stub.py"))} "$@"\n')
    program.chmod(0o755)
    home = tmp_path / "home"
    (home / ".kaggle").mkdir(parents=True)
    (home / ".kaggle" / "kaggle.json").write_text(json.dumps({"username": "anna", "key": KEY}))
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(
        sys, "executable", str(place / "python")
    )  # a real command beside the tests' own Python stays out
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(POLL, "0")
    stub = Stub(place)
    stub.leaves(EIGHT)
    return stub


@pytest.fixture
def built(work: Path) -> Path:
    """kernels/build with a small inference bundle and its kernel."""
    build = work / "kernels" / "build"
    dataset, kernel = build / "dataset", build / "kernel"
    dataset.mkdir(parents=True)
    kernel.mkdir()
    member = {"name": "small", "weight": 1.0, "mean_prediction": 38.0}
    weights = {"intercept": 0.0, "members": [member], "clip": [1.0, 100.0], "mean_prediction": 38.0}
    (dataset / "weights.json").write_text(json.dumps(weights))
    tail = dataset / "small.fold0.head.safetensors"
    tail.write_bytes(b"tail")
    (dataset / "small.json").write_text("{}")
    files = {path.name: {"sha256": sha256(path)} for path in sorted(dataset.iterdir())}
    about = {"kind": KIND, "format": FORMAT, "package": __version__, "files": files,
             "runs": {"small": {"folds": {"0": {"tail": tail.name}}, "record": "small.json", "trunk": {}}},
             "data": {"name": "x", "photos": 9912, "drawn": False, "contest": True}}  # fmt: skip
    (dataset / "bundle.json").write_text(json.dumps(about))
    (dataset / "SHA256SUMS").write_text("".join(f"{sha256(path)}  {path.name}\n" for path in sorted(dataset.iterdir())))
    metadata = {"id": DATA, "title": "pawpularity bundle", "licenses": [{"name": "other"}]}
    (dataset / "dataset-metadata.json").write_text(json.dumps(metadata))
    (kernel / "inference.py").write_text("print(1)\n")
    write_kernel(kernel)
    return build


def write_kernel(folder: Path, **changes: Any) -> None:
    metadata = {
        "id": KERNEL, "title": "pawpularity inference", "code_file": "inference.py", "language": "python",
        "kernel_type": "script", "is_private": True, "enable_gpu": True, "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4", "dataset_sources": [DATA], "competition_sources": ["petfinder-pawpularity-score"],
    }  # fmt: skip
    metadata |= changes
    (folder / "kernel-metadata.json").write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))


def record(built: Path) -> dict[str, Any]:
    return json.loads((built.parent / "pushed" / "inference.json").read_text())


def test_shows_the_commands_and_asks_nobody(kaggle: Stub, built: Path, paw: Callable[..., Any]) -> None:
    outcome = paw("kernel-push", "--user", "anna")
    assert outcome.code == 0, outcome.err
    lines = [shlex.split(line, comments=True) for line in outcome.out.splitlines()]
    commands = [line[1:] for line in lines if line]
    assert all(line[0] == str(kaggle.place / "kaggle") for line in lines if line)
    assert ["datasets", "create", "-p", "kernels/build/dataset", "--dir-mode", "zip"] in commands
    pushing = commands.index(["kernels", "push", "-p", "kernels/build/kernel"])
    assert [at for at, words in enumerate(commands) if words == ["kernels", "logs", KERNEL]] == [
        pushing - 1,
        pushing + 2,
    ]
    note = next(words for words in commands if words[:2] == ["datasets", "version"])[5]
    assert note.startswith(f"pawpularity {__version__}, ")
    assert "GO=1" in outcome.err
    assert kaggle.calls == []
    assert not (built.parent / "pushed").exists()


def test_first_push_next_push_and_submit(
    kaggle: Stub, built: Path, paw: Callable[..., Any], refused: Callable[..., str]
) -> None:
    kaggle.add(
        dataset_status=["blobs_received", "ready"],
        kernel_status=["QUEUED", "RUNNING", "RUNNING", "COMPLETE"],
        warns=True,
    )
    outcome = paw("kernel-push", "--go")
    assert outcome.code == 0, outcome.err
    assert "version 1: complete, submission.csv with 8 rows is sound" in outcome.out
    assert "waiting for Kaggle to start it" in outcome.err
    assert [words[:2] for words in kaggle.calls] == [
        ["datasets", "status"], ["datasets", "create"], ["datasets", "status"], ["datasets", "status"],
        ["kernels", "logs"], ["kernels", "push"],
        *[["kernels", "status"]] * 4, ["kernels", "output"],
    ]  # fmt: skip
    assert outcome.err.count("running") == 1
    kept = record(built)
    assert (kept["dataset_version"], kept["kernel_version"], kept["status"], kept["rows"]) == (1, 1, "checked", 8)

    # The same files again: nothing is uploaded twice, but the kernel is pushed.
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked("datasets", "create") == 1
    assert kaggle.asked("datasets", "version") == 0
    assert record(built)["kernel_version"] == 2

    shown = paw("submit")
    assert "trained on the contest's 9912 photos" in shown.err
    assert shlex.split(shown.out) == [
        str(kaggle.place / "kaggle"),
        "competitions", "submit", "petfinder-pawpularity-score", "-k", KERNEL, "-v", "2", "-f", "submission.csv",
        "-m", f"pawpularity {__version__}, bundle {kept['dataset_hash']}",
    ]  # fmt: skip
    assert kaggle.asked("competitions") == 0
    done = paw("submit", "--go", "--message", "it's mine; $(rm -rf /)")
    assert done.code == 0, done.err
    assert "Successfully submitted to PetFinder.my" in done.out
    assert kaggle.calls[-1][-1] == "it's mine; $(rm -rf /)"
    assert "submitted already" in (line := refused("submit", "--go"))
    assert "ARGS=--again" in line
    assert paw("submit", "--go", "--again").code == 0
    assert kaggle.asked("competitions", "submit") == 2

    # Changed files: another version, and nothing to submit before it is pushed.
    changed = built / "kernel" / "inference.py"
    changed.write_text("print(2)\n")
    assert "was changed since version 2" in refused("submit", "--go")
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked("datasets", "version") == 0  # the script alone was changed
    rebuilt(built, b"other tail")
    assert "was changed since version 3" in refused("submit")
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked("datasets", "version") == 1
    assert (record(built)["dataset_version"], record(built)["kernel_version"]) == (2, 4)
    assert "submitted" not in record(built)


def rebuilt(built: Path, tail: bytes, **changes: Any) -> None:
    dataset = built / "dataset"
    (dataset / "small.fold0.head.safetensors").write_bytes(tail)
    about = json.loads((dataset / "bundle.json").read_text())
    about["files"]["small.fold0.head.safetensors"]["sha256"] = sha256(dataset / "small.fold0.head.safetensors")
    (dataset / "bundle.json").write_text(json.dumps(about | changes))
    names = [*about["files"], "bundle.json"]
    (dataset / "SHA256SUMS").write_text("".join(f"{sha256(dataset / name)}  {name}\n" for name in names))


@pytest.mark.parametrize(
    ("data", "part"), [(DRAWN, "trained on sample: 600 drawn photos, not the contest's"), (None, "does not say")]
)
def test_runs_of_other_photos_are_not_submitted(
    kaggle: Stub, built: Path, paw: Callable[..., Any], refused: Callable[..., str], data: Any, part: str
) -> None:
    rebuilt(built, b"tail", data=data)
    assert paw("kernel-push", "--go").code == 0
    shown = paw("submit")
    assert shown.code == 0
    assert part in shown.err
    assert "ARGS=--anyway" in shown.err
    asked = len(kaggle.calls)
    assert part in (line := refused("submit", "--go"))
    assert "ARGS=--anyway" in line
    assert len(kaggle.calls) == asked
    outcome = paw("submit", "--go", "--anyway")
    assert outcome.code == 0, outcome.err
    assert part in outcome.err
    assert kaggle.asked("competitions", "submit") == 1


@pytest.mark.parametrize(
    ("state", "part"),
    [
        ({"invalid": ["dataset"]}, "pushed version 1 WITHOUT the dataset"),
        ({"slug_warning": True}, "under another name"),
        ({"lands_at": "anna/another-name"}, "not to https://www.kaggle.com/code/anna/pawpularity-inference"),
    ],
)
def test_a_push_that_went_wrong_is_remembered(
    kaggle: Stub, built: Path, paw: Callable[..., Any], refused: Callable[..., str], state: dict[str, Any], part: str
) -> None:
    kaggle.add(**state)
    assert part in refused("kernel-push", "--go")
    for verb in ("kernel-status", "submit"):
        assert part in (line := refused(verb))
        assert line.endswith("run: make kernel-push GO=1")
    kaggle.add(invalid=[], slug_warning=False, lands_at=KERNEL)
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked("datasets", "create") == 1
    assert "8 rows is sound" in paw("kernel-status").out


def test_the_command_beside_our_python_comes_first(
    kaggle: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: Path, refused: Callable[..., str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kaggle").write_text("#!/bin/sh\necho Kaggle API 1.6.17\n")
    (elsewhere / "kaggle").chmod(0o755)
    monkeypatch.setenv("PATH", f"{elsewhere}{os.pathsep}{os.environ['PATH']}")
    assert Kaggle.find() == Kaggle(str(kaggle.place / "kaggle"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert f"{elsewhere / 'kaggle'}: kaggle 1.6.17 is too old" in (line := refused("kernel-push", "--go"))
    assert f"run: {tmp_path / 'python'} -m pip" in line  # which puts one where it is looked for first
    monkeypatch.setattr(sys, "executable", str(kaggle.place / "python"))
    monkeypatch.chdir(tmp_path)
    assert shell_line(["kernels", "status"]) == "bin/kaggle kernels status"


def test_a_kernel_is_pushed_only_behind_the_version_that_is_ready(
    kaggle: Stub, built: Path, paw: Callable[..., Any]
) -> None:
    # Kaggle calls the old version ready while the new one is being made: the number tells them apart.
    kaggle.set(dataset=DATA, dataset_version=4, dataset_status=["ready", "ready", "reprocessing", "ready"])
    assert paw("kernel-push", "--go").code == 0
    assert record(built)["dataset_version"] == 5
    assert kaggle.asked("datasets", "version") == 1
    at = [words[:2] for words in kaggle.calls]
    assert at.index(["kernels", "push"]) > max(n for n, words in enumerate(at) if words == ["datasets", "status"])


@pytest.mark.parametrize(
    "absent", ["Not found", "Permission 'datasets.get' was denied", "403 Client Error: Forbidden for url: x"]
)
def test_a_data_set_that_nobody_knows_is_created(
    kaggle: Stub, built: Path, paw: Callable[..., Any], absent: str
) -> None:
    kaggle.set(absent=absent)
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked("datasets", "create") == 1


@pytest.mark.parametrize(
    ("state", "parts"),
    [
        ({"lost": ["weights.json"]}, ("1 of 5 files did not arrive", "weights.json", "nothing was pushed")),
        ({"says": {"datasets create": "Dataset creation error: Dataset is too big"}}, ("Dataset is too big", "nothing was pushed")),
        ({"says": {"datasets create": "hm"}}, ("kaggle said hm",)),
        ({"fails": {"datasets create": ["Phone verification required"]}}, ("phone number", "settings")),
        ({"fails": {"datasets status": ["network"]}}, ("no connection to api.kaggle.com",)),
        ({"fails": {"datasets status": ["Too many requests"]}}, ("429",)),
        ({"dataset_status": ["failed"]}, ("calls it failed", "datasets/anna/pawpularity-bundle")),
        ({"says": {"kernels push": "Kernel push error: Maximum weekly GPU quota of 30.00 hours has been reached."}}, ("quota",)),
        ({"says": {"kernels push": "Kernel push error: Maximum batch GPU session count of 2 reached."}}, ("session count of 2",)),
        ({"says": {"kernels push": "Kernel version successfully pushed.  Please check progress at x"}}, ("no version number",)),
        ({"fails": {"kernels push": ["Permission 'kernels.update' was denied"]}}, ("Kaggle refuses", "KAGGLE_USER")),
        ({"fails": {"kernels push": ["You must accept this competition's rules"]}}, ("accept the contest's rules",)),
        ({"invalid": ["dataset"]}, ("WITHOUT the dataset ['anna/pawpularity-bundle']", "push again")),
        ({"invalid": ["competition"]}, ("WITHOUT the competition", "accept the rules")),
        ({"invalid": ["kernel"]}, ("WITHOUT the kernel",)),
        ({"slug_warning": True}, ("under another name",)),
        ({"lands_at": "anna/another-name"}, ("not to https://www.kaggle.com/code/anna/pawpularity-inference",)),
        ({"kernel_status": ["QUEUED", "ERROR"], "failure": "Out of memory", "log": ["loading", f"Oops {TOKEN} {KEY}"]},
         ("ended with error (Out of memory)",)),
        ({"kernel_status": ["CANCEL_ACKNOWLEDGED"]}, ("ended with cancel_acknowledged",)),
        ({"logged_out": True}, ("does not accept the credentials",)),
        ({"broken": True}, ("its Python lacks six", "-m pip install", "six")),
        ({"version": "Kaggle API 1.6.17"}, ("kaggle 1.6.17 is too old", "--upgrade")),
        ({"version": "what?"}, ("is it Kaggle's own command",)),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_line(
    kaggle: Stub, built: Path, refused: Callable[..., str], capfd: pytest.CaptureFixture[str], state: dict[str, Any],
    parts: tuple[str, ...],
) -> None:  # fmt: skip
    kaggle.add(**state)
    line = refused("kernel-push", "--go")
    for part in parts:
        assert part in line, line
    for secret in (TOKEN, KEY):
        assert secret not in line + "".join(path.read_text() for path in built.parent.rglob("*.json"))
    if any(word in state for word in ("lost", "dataset_status")):
        assert kaggle.asked("kernels", "push") == 0


def test_a_damaged_sample_submission_is_named(
    kaggle: Stub, built: Path, work: Path, refused: Callable[..., str]
) -> None:
    sample = work / "input" / "petfinder-pawpularity-score" / "sample_submission.csv"
    sample.parent.mkdir(parents=True)
    sample.write_bytes(b"Id,Pawpularity\n\xe9,50\n")
    assert "sample_submission.csv, row 2: is not UTF-8 text" in refused("kernel-push", "--go")
    sample.write_text("Id,Pawpularity\na,50\n")
    assert "b is only in one of it and input/petfinder-pawpularity-score/sample_submission.csv" in refused(
        "kernel-status"
    )


def test_a_failed_kernel_shows_its_log_without_secrets(kaggle: Stub, built: Path, paw: Callable[..., Any]) -> None:
    log = [f"line {n}" for n in range(50)] + [f"Authorization: Bearer {TOKEN}", f'{{"username":"anna","key":"{KEY}"}}']
    kaggle.add(kernel_status=["ERROR"], log=log)
    outcome = paw("kernel-push", "--go")
    assert outcome.code == 2
    assert "  line 49" in outcome.err
    assert "  line 1\n" not in outcome.err
    assert "***" in outcome.err
    for secret in (TOKEN, KEY, TOKEN[5:]):
        assert secret not in outcome.err + outcome.out


def test_a_failed_push_does_not_upload_again(
    kaggle: Stub, built: Path, refused: Callable[..., str], paw: Callable[..., Any]
) -> None:
    kaggle.add(fails={"kernels push": ["network", ""]})
    assert "no connection" in refused("kernel-push", "--go")
    assert "was not pushed from here yet" in refused("submit")
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked("datasets", "create") == 1


@pytest.mark.parametrize("old", [EIGHT, None])
def test_an_end_of_the_version_before_is_not_this_ones(
    kaggle: Stub, built: Path, paw: Callable[..., Any], refused: Callable[..., str], old: str | None
) -> None:
    assert paw("kernel-push", "--go").code == 0
    (kaggle.place / "output").rename(kaggle.place / "output_before")
    kaggle.leaves(re.sub(r"38\.\d", "37.27", EIGHT))  # which is unsound
    if old is None:
        (kaggle.place / "output_before" / "submission.csv").unlink()
    # However short it runs: nothing but "complete" is ever seen of it.
    kaggle.add(late=3)
    assert "all 8 photos score 37.27" in refused("kernel-push", "--go")
    assert record(built)["status"] == "complete"
    kaggle.leaves(EIGHT)
    kaggle.add(late=10**6)
    line = refused("kernel-push", "--go", "--wait", "0.001")
    assert "is still waiting (Kaggle shows the version before); ask again with: make kernel-status" in line
    assert "is still waiting" in refused("submit", "--go")
    assert "version 3: waiting (Kaggle shows the version before)" in paw("kernel-status").out
    assert kaggle.asked("competitions", "submit") == 0
    kaggle.add(late_now=0)
    assert "version 3: complete, submission.csv with 8 rows is sound" in paw("kernel-status").out


def test_a_failure_of_the_version_before_is_not_this_ones(
    kaggle: Stub, built: Path, paw: Callable[..., Any], refused: Callable[..., str]
) -> None:
    kaggle.add(kernel_status=["ERROR"])
    assert "ended with error" in refused("kernel-push", "--go")
    kaggle.add(kernel_status=["ERROR"], late=2)
    assert "ended with error" in refused("kernel-push", "--go")
    # Once; then late, late but with the new log behind it, and so once more.
    assert kaggle.asked("kernels", "status") == 1 + 3
    kaggle.add(kernel_status=["COMPLETE"])
    assert paw("kernel-push", "--go").code == 0


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("before", [0, 3])
def test_a_push_that_was_cut_off_behind_the_last_file(
    kaggle: Stub, built: Path, paw: Callable[..., Any], made: bool, before: int
) -> None:
    kaggle.add(
        cut_off="made" if made else "lost",
        **({"dataset": DATA, "dataset_version": before, "dataset_status": ["ready"]} if before else {}),
    )
    assert paw("kernel-push", "--go").code > 2
    assert kaggle.asked("kernels", "push") == 0
    outcome = paw("kernel-push", "--go")
    assert outcome.code == 0, outcome.err
    # Uploaded once more only where Kaggle made no version of it.
    assert kaggle.asked("datasets", "version" if before else "create") == (1 if made else 2)
    assert ("a push was cut off behind them" in outcome.err) is made
    assert record(built)["dataset_version"] == before + 1
    assert "arrived" not in record(built)


def test_a_cut_off_push_of_other_files_or_one_that_failed_is_uploaded_again(
    kaggle: Stub, built: Path, paw: Callable[..., Any], refused: Callable[..., str]
) -> None:
    kaggle.add(cut_off="made")
    assert paw("kernel-push", "--go").code > 2
    rebuilt(built, b"other tail")
    kaggle.add(dataset_status=["ready", "ready", "failed"])
    assert "calls it failed" in refused("kernel-push", "--go")
    kaggle.add(dataset_status=["ready"])
    assert paw("kernel-push", "--go").code == 0
    assert (kaggle.asked("datasets", "create"), kaggle.asked("datasets", "version")) == (1, 2)


def test_a_data_set_that_takes_longer_is_not_uploaded_again(
    kaggle: Stub, built: Path, paw: Callable[..., Any], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pawpularity.kaggle.push.READY_MINUTES", 0.0)
    kaggle.add(dataset_status=["reprocessing"])
    assert "not ready after 0 minutes" in refused("kernel-push", "--go")
    kaggle.add(dataset_status=["ready"])
    assert paw("kernel-push", "--go").code == 0
    assert (kaggle.asked("datasets", "create"), kaggle.asked("datasets", "version")) == (1, 0)


def test_a_network_that_comes_and_goes(kaggle: Stub, built: Path, paw: Callable[..., Any]) -> None:
    kaggle.add(fails={"kernels status": ["network", "network", ""]})
    outcome = paw("kernel-push", "--go")
    assert outcome.code == 0, outcome.err


def test_a_kernel_that_takes_longer(
    kaggle: Stub, built: Path, refused: Callable[..., str], paw: Callable[..., Any]
) -> None:
    kaggle.add(kernel_status=["RUNNING"])
    assert "is still running" in refused("kernel-push", "--go", "--wait", "0.001")
    assert "is still running" in refused("submit", "--go")
    outcome = paw("kernel-push", "--go", "--wait", "0")
    assert outcome.code == 0
    assert "ask with: make kernel-status" in outcome.out
    assert "running" in paw("kernel-status").out
    kaggle.add(kernel_status=["COMPLETE"])
    assert "8 rows is sound" in paw("kernel-status").out
    assert record(built)["status"] == "checked"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "without a submission.csv"),
        ("", "must begin with Id,Pawpularity"),
        ("Id,Pawpularity\n", "holds no rows"),
        ("Id,Pawpularity\na,38\na,39\n", "line 3"),
        ("Id,Pawpularity\na,0.5\n", "0.5 is no score"),
        ("Id,Pawpularity\na,nan\n", "nan is no score"),
        (re.sub(r"38\.\d", "37.27", EIGHT), "all 8 photos score 37.27"),
        ("Id,Pawpularity\na,38\nb,41.5\n", "holds 2 rows, and the contest shows 8 test photos"),
    ],
)
def test_an_output_that_kaggle_would_refuse(
    kaggle: Stub, built: Path, refused: Callable[..., str], text: str | None, part: str
) -> None:
    kaggle.leaves(text)
    assert part in refused("kernel-push", "--go")
    assert kaggle.asked("competitions", "submit") == 0
    assert part in refused("submit", "--go")
    assert kaggle.asked("competitions", "submit") == 0


@pytest.mark.parametrize(
    ("state", "part"),
    [
        ({"says": {"competitions submit": "Could not submit: the notebook version did not run successfully"}},
         "did not run successfully; are the rules"),
        ({"says": {"competitions submit": "Could not submit to competition"}},
         "said Could not submit to competition; are the rules accepted (https"),
        ({"fails": {"competitions submit": ["Submission not allowed: Your team has used its submission allowance (5 of 5)."]}},
         "submission allowance (5 of 5); Kaggle takes a few a day and counts days in UTC: try again tomorrow"),
        ({"fails": {"competitions submit": ["403 Client Error: Forbidden for url: x"]}}, "rules"),
    ],
)  # fmt: skip
def test_a_submission_that_is_not_taken(
    kaggle: Stub, built: Path, paw: Callable[..., Any], refused: Callable[..., str], state: dict[str, Any], part: str
) -> None:
    assert paw("kernel-push", "--go").code == 0
    kaggle.add(**state)
    assert part in refused("submit", "--go")
    assert not {"submitted", "submitting"} & record(built).keys()


def test_a_submission_without_an_answer_is_not_repeated_unawares(
    kaggle: Stub, built: Path, paw: Callable[..., Any], refused: Callable[..., str]
) -> None:
    assert paw("kernel-push", "--go").code == 0
    kaggle.add(fails={"competitions submit": ["network", ""]})
    assert "no connection" in refused("submit", "--go")
    assert "was cut off before Kaggle's answer" in (line := refused("submit", "--go"))
    assert "ARGS=--again" in line
    assert kaggle.asked("competitions", "submit") == 1
    assert paw("submit", "--go", "--again").code == 0
    assert record(built)["submitted"]
    assert "submitting" not in record(built)


@pytest.mark.parametrize(
    ("report", "part"),
    [
        ({"photos_unusable": dict.fromkeys("abcdefgh", "missing"), "left_out": []}, "could read none of 8 photos"),
        ({"photos_unusable": {}, "left_out": ["small (failed)"]}, "answered without small (failed)"),
        ([], "is not what the script writes"),
    ],
)
def test_a_trial_that_went_on_without_what_it_needed(
    kaggle: Stub, built: Path, paw: Callable[..., Any], refused: Callable[..., str], report: Any, part: str
) -> None:
    file = kaggle.place / "output" / "inference.json"
    file.write_text(json.dumps(report))
    assert part in refused("kernel-push", "--go")
    file.write_text(json.dumps({"photos_unusable": {"a": "missing"}, "left_out": []}))
    assert paw("kernel-status").code == 0


def test_nothing_is_uploaded_that_was_not_built(
    kaggle: Stub, built: Path, paw: Callable[..., Any], refused: Callable[..., str], work: Path
) -> None:
    assert paw("kernel-train", "--run", "toy", "--user", "anna").code == 0
    for name, place in (("inference", built), ("train-toy", built / "train" / "toy")):
        assert paw("kernel-push", "--name", name).code == 0
        for folder in ("dataset", "kernel"):
            odd = place / folder / ".env"
            odd.write_text(TOKEN)
            assert ".env: was not built, and would be uploaded" in refused("kernel-push", "--name", name, "--go")
            odd.unlink()
            odd.symlink_to("/etc/passwd")
            assert ".env: is a link" in refused("kernel-push", "--name", name, "--go")
            odd.unlink()
    tail = built / "dataset" / "small.fold0.head.safetensors"
    tail.rename(work / "tail")
    tail.symlink_to(work / "tail")
    assert "head.safetensors: is a link" in refused("kernel-push", "--go")
    assert kaggle.calls == []


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"id": "KAGGLE_USER/pawpularity-inference"}, "KAGGLE_USER is not known yet"),
        ({"id": "ben/pawpularity-inference"}, "KAGGLE_USER is not known yet"),
        ({"title": "Something else"}, "makes the name something-else"),
        ({"dataset_sources": []}, "dataset_sources lacks"),
        ({"competition_sources": []}, "competition_sources lacks"),
        ({"enable_internet": True}, '"enable_internet" must be false'),
        ({"enable_internet": None}, '"enable_internet" must be written out'),
        ({"is_private": False}, '"is_private" must be true'),
        ({"machine_shape": None}, "NvidiaTeslaT4"),
        ({"enable_gpu": False}, "enable_gpu"),
        ({"code_file": "other.py"}, "script is missing"),
        ({"id": "anna/../../etc"}, '"id" must be USER/SLUG'),
    ],
)
def test_a_kernel_that_must_not_be_pushed(
    kaggle: Stub, built: Path, refused: Callable[..., str], changes: dict[str, Any], part: str
) -> None:
    write_kernel(built / "kernel", **changes)
    assert part in refused("kernel-push", "--go")
    assert kaggle.calls == []


def test_a_bundle_that_must_not_be_pushed(kaggle: Stub, built: Path, refused: Callable[..., str]) -> None:
    assert "was built for anna, not for ben" in refused("kernel-push", "--user", "ben")
    for odd in ("An na", "anna;rm", "KAGGLE_USER", "-anna", ""):
        line = (
            refused("kernel-push", f"--user={odd}", "--name", "nowhere")
            if not odd
            else refused("kernel-push", f"--user={odd}")
        )
        assert "KAGGLE_USER" in line or "must be inference" in line
    assert "must be inference, or train-RUN" in refused("kernel-push", "--name", "../x")
    assert "is not built yet; run: make kernel-train CONFIG=... RUN=x" in refused("kernel-push", "--name", "train-x")
    (built / "dataset" / "sub").mkdir()
    assert "is a folder, which Kaggle's command leaves out" in refused("kernel-push")
    (built / "dataset" / "sub").rmdir()
    (built / "dataset" / "weights.json").write_text("[]")
    assert "weights.json" in refused("kernel-push", "--go")
    assert kaggle.calls == []


def test_no_command_and_no_credentials(
    kaggle: Stub, built: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    (tmp_path / "home" / ".kaggle" / "kaggle.json").unlink()
    kaggle.add(logged_out=True)
    assert "no Kaggle credentials; make an API token" in refused("kernel-push", "--go")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert "the kaggle command is not installed" in refused("kernel-push", "--go")


def test_scrubbing(kaggle: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("abcdefghijklmnop-qrstuvwxyz\n")
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(token_file))  # the variable may name a file
    command = Kaggle("kaggle")
    for secret in (KEY, "abcdefghijklmnop-qrstuvwxyz", "KGAT_1234", "a1b2c3d4" * 4, "eyJhbGciOi.eyJzdWIi.c2ln-x_y"):
        assert secret not in command.scrub(f"before {secret} after"), secret
        assert "before" in command.scrub(f"before {secret} after")
    for word in (
        "https://www.kaggle.com/code/anna/pawpularity-train-efficientnet-b7-with-a-long-name",
        "anna",
        "version 12",
    ):
        assert command.scrub(word) == word


@pytest.mark.parametrize(
    ("title", "slug"),
    [("pawpularity train a.b_c", "pawpularity-train-a-b-c"), ("  Two  Words! ", "two-words"), ("VGG19_bn", "vgg19-bn")],
)
def test_slugs(title: str, slug: str) -> None:
    """python-slugify 9.2, which kernels_push uses, gave these."""
    assert slug_of(title) == slug


def test_a_training_kernel_is_pushed_and_left_to_itself(
    kaggle: Stub, work: Path, paw: Callable[..., Any], refused: Callable[..., str]
) -> None:
    assert paw("kernel-train", "--run", "toy", "--user", "anna").code == 0
    kaggle.add(kernel_status=["RUNNING", "RUNNING", "COMPLETE"])
    pushed = paw("kernel-push", "--name", "train-toy", "--go")
    assert pushed.code == 0, pushed.err
    assert "is running; ask with: make kernel-status NAME=train-toy" in pushed.out
    assert kaggle.asked("kernels", "status") == 0  # nobody waits eleven hours
    assert "running" in paw("kernel-status", "--name", "train-toy").out
    assert "ask again with: make kernel-status NAME=train-toy, or" in refused(
        "kernel-fetch", "--name", "train-toy", "--go"
    )
    shown = paw("kernel-fetch", "--name", "train-toy")
    assert shlex.split(shown.out)[:4] == [
        str(kaggle.place / "kaggle"),
        "kernels",
        "output",
        "anna/pawpularity-train-toy",
    ]
    assert "next: make kernel-fetch NAME=train-toy GO=1" in paw("kernel-status", "--name", "train-toy").out
    assert "left 0 archives of a run" in refused("kernel-fetch", "--name", "train-toy", "--go")
    (kaggle.place / "output" / "run-toy.zip").write_bytes(b"no zip")
    assert "is damaged" in refused("kernel-fetch", "--name", "train-toy", "--go")
    assert "name a training kernel" in refused("kernel-fetch", "--go")  # not the inference kernel
