"""kernel-push, kernel-status and submit against a stand-in that replays Kaggle's command, good days and bad."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from pawpularity import __version__
from pawpularity.kaggle.built_kernel import slug_of
from pawpularity.kaggle.bundle import FORMAT, write_sums
from pawpularity.kaggle.progress import POLL

STUB = Path(__file__).with_name("stub_kaggle.py")
TOKEN = "KGAT_0123456789abcdef0123456789abcdef"
KEY = "fedcba9876543210fedcba9876543210"
KERNEL = "anna/pawpularity-inference"
DATA = "anna/pawpularity-bundle"
EIGHT = "Id,Pawpularity\n" + "".join(f"{name},38.{n}\n" for n, name in enumerate("abcdefgh"))
CONTEST = {"name": "x", "photos": 9912, "drawn": False, "contest": True}
DRAWN = {"name": "sample", "photos": 600, "drawn": True, "contest": False}


class Stub:
    """The stand-in's state and what it was asked."""

    def __init__(self, place):
        self.place = place
        self.set()

    def set(self, **state):
        """What it knows and the faults it plays; all else is forgotten."""
        (self.place / "state.json").write_text(json.dumps(state))

    def add(self, **state):
        """The same, keeping what it knows."""
        self.set(**(json.loads((self.place / "state.json").read_text()) | state))

    @property
    def calls(self):
        """Words of every call but those for the version."""
        file = self.place / "calls.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        return [words for line in lines if (words := json.loads(line)) != ["--version"]]

    def asked(self, *words):
        """How many calls began with `words`."""
        return sum(call[: len(words)] == list(words) for call in self.calls)

    def leaves(self, text):
        """The submission.csv that the kernel leaves behind."""
        folder = self.place / "output"
        folder.mkdir(exist_ok=True)
        (folder / "submission.csv").unlink(missing_ok=True)
        if text is not None:
            (folder / "submission.csv").write_text(text)


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
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
    # A real command beside the tests' own Python stays out.
    monkeypatch.setattr(sys, "executable", str(place / "python"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(POLL, "0")
    stub = Stub(place)
    stub.leaves(EIGHT)
    return stub


@pytest.fixture
def built(work):
    """kernels/build with a small inference bundle and its kernel."""
    build = work / "kernels" / "build"
    (build / "kernel").mkdir(parents=True)
    bundle(build)
    (build / "kernel" / "inference.py").write_text("print(1)\n")
    write_kernel(build / "kernel")
    return build


def bundle(build, head=b"head", trained_on=CONTEST):
    dataset = build / "dataset"
    dataset.mkdir(exist_ok=True)
    for path in dataset.iterdir():
        path.unlink()
    (dataset / "small.fold0.head.safetensors").write_bytes(head)
    about = {"format": FORMAT, "package": __version__, "trained_on": trained_on}
    (dataset / "bundle.json").write_text(json.dumps(about))
    write_sums(dataset)
    metadata = {"id": DATA, "title": "pawpularity bundle", "licenses": [{"name": "other"}]}
    (dataset / "dataset-metadata.json").write_text(json.dumps(metadata))


def write_kernel(folder, **changes):
    metadata = {
        "id": KERNEL, "title": "pawpularity inference", "code_file": "inference.py", "language": "python",
        "kernel_type": "script", "is_private": True, "enable_gpu": True, "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4", "dataset_sources": [DATA], "competition_sources": ["petfinder-pawpularity-score"],
    }  # fmt: skip
    metadata |= changes
    (folder / "kernel-metadata.json").write_text(json.dumps({k: v for k, v in metadata.items() if v is not None}))


def record(built):
    return json.loads((built.parent / "pushed" / "inference.json").read_text())


def test_without_go_it_asks_nobody(kaggle, built, paw):
    outcome = paw("kernel-push", "--user", "anna")
    assert outcome.code == 0, outcome.err
    assert "kernels push" in outcome.out
    assert "GO=1" in outcome.err
    assert kaggle.calls == []
    assert not (built.parent / "pushed").exists()


def test_first_push_next_push_and_submit(kaggle, built, paw, refused):
    kaggle.add(dataset_status=["blobs_received", "ready"], kernel_status=["QUEUED", "RUNNING", "COMPLETE"], warns=True)
    outcome = paw("kernel-push", "--go")
    assert outcome.code == 0, outcome.err
    assert "version 1: complete, submission.csv with 8 rows" in outcome.out
    kept = record(built)
    assert (kept["dataset_version"], kept["kernel_version"], kept["status"], kept["rows"]) == (1, 1, "checked", 8)

    # The same files again: nothing is uploaded twice, but the kernel is pushed.
    assert paw("kernel-push", "--go").code == 0
    assert (kaggle.asked("datasets", "create"), kaggle.asked("datasets", "version")) == (1, 0)
    assert record(built)["kernel_version"] == 2

    assert "contest's 9912 photos" in paw("submit").err
    assert kaggle.asked("competitions") == 0
    done = paw("submit", "--go", "--message", "it's mine; $(rm -rf /)")
    assert done.code == 0, done.err
    assert "Successfully submitted" in done.out
    assert kaggle.calls[-1][-1] == "it's mine; $(rm -rf /)"
    assert kaggle.calls[-1][kaggle.calls[-1].index("-v") + 1] == "2"
    assert "ARGS=--again" in refused("submit", "--go")
    assert paw("submit", "--go", "--again").code == 0
    assert kaggle.asked("competitions", "submit") == 2

    # Changed files: another version, and nothing to submit before it is pushed.
    (built / "kernel" / "inference.py").write_text("print(2)\n")
    assert "was changed since" in refused("submit", "--go")
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked("datasets", "version") == 0, "only the script changed"
    bundle(built, b"other head")
    assert "was changed since" in refused("submit")
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked("datasets", "version") == 1
    assert (record(built)["dataset_version"], record(built)["kernel_version"]) == (2, 4)
    assert "submitted" not in record(built)


def test_runs_of_other_photos_are_not_submitted(kaggle, built, paw, refused):
    bundle(built, trained_on=DRAWN)
    assert paw("kernel-push", "--go").code == 0
    assert "600 drawn photos" in paw("submit").err
    assert "ARGS=--anyway" in refused("submit", "--go")
    assert kaggle.asked("competitions", "submit") == 0
    assert paw("submit", "--go", "--anyway").code == 0
    assert kaggle.asked("competitions", "submit") == 1


def test_a_kernel_is_pushed_only_behind_the_version_that_is_ready(kaggle, built, paw):
    # Kaggle calls the old version ready while the new one is being made: the number tells them apart.
    kaggle.set(dataset=DATA, dataset_version=4, dataset_status=["ready", "ready", "reprocessing", "ready"])
    assert paw("kernel-push", "--go").code == 0
    assert record(built)["dataset_version"] == 5
    at = [words[:2] for words in kaggle.calls]
    assert at.index(["kernels", "push"]) > max(n for n, words in enumerate(at) if words == ["datasets", "status"])


@pytest.mark.parametrize(
    ("state", "part"),
    [
        ({"lost": ["bundle.json"]}, "1 of 3 files did not arrive"),
        ({"says": {"datasets create": "Dataset creation error: Dataset is too big"}}, "Dataset is too big"),
        ({"fails": {"datasets create": ["Phone verification required"]}}, "phone number"),
        ({"fails": {"datasets status": ["network"]}}, "no connection"),
        ({"dataset_status": ["failed"]}, "calls it failed"),
        ({"says": {"kernels push": "Kernel push error: Maximum weekly GPU quota of 30.00 hours has been reached."}}, "quota"),
        ({"fails": {"kernels push": ["You must accept this competition's rules"]}}, "accept the contest's rules"),
        ({"invalid": ["dataset"]}, "WITHOUT the dataset"),
        ({"invalid": ["competition"]}, "WITHOUT the competition"),
        ({"lands_at": "anna/another-name"}, "another-name"),
        ({"kernel_status": ["QUEUED", "ERROR"], "failure": "Out of memory", "log": [f"Oops {TOKEN} {KEY}"]}, "Out of memory"),
        ({"logged_out": True}, "credentials"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_one_line(kaggle, built, refused, state, part):
    kaggle.add(**state)
    line = refused("kernel-push", "--go")
    assert part in line
    kept = "".join(path.read_text() for path in built.parent.rglob("*.json"))
    assert not [secret for secret in (TOKEN, KEY) if secret in line + kept]
    if {"lost", "dataset_status"} & state.keys():
        assert kaggle.asked("kernels", "push") == 0


def test_a_push_that_went_wrong_is_remembered(kaggle, built, paw, refused):
    kaggle.add(invalid=["dataset"])
    for command in (("kernel-push", "--go"), ("kernel-status",), ("submit",)):
        assert "WITHOUT the dataset" in refused(*command)
    kaggle.add(invalid=[])
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked("datasets", "create") == 1


def test_a_failed_kernel_shows_its_log_without_secrets(kaggle, built, paw):
    log = [f"line {n}" for n in range(50)] + [f"Authorization: Bearer {TOKEN}", f'{{"username":"anna","key":"{KEY}"}}']
    kaggle.add(kernel_status=["ERROR"], log=log)
    outcome = paw("kernel-push", "--go")
    assert outcome.code == 2
    assert "  line 49" in outcome.err
    assert "  line 1\n" not in outcome.err
    assert not [secret for secret in (TOKEN, KEY, TOKEN[5:]) if secret in outcome.err + outcome.out]


def test_an_end_of_the_version_before_is_not_this_ones(kaggle, built, paw, refused):
    assert paw("kernel-push", "--go").code == 0
    (kaggle.place / "output").rename(kaggle.place / "output_before")
    kaggle.leaves(re.sub(r"38\.\d", "37.27", EIGHT))  # which is unsound
    kaggle.add(late=3)
    assert "all 8 photos score 37.27" in refused("kernel-push", "--go")
    kaggle.leaves(EIGHT)
    kaggle.add(late=10**6)
    assert "is still waiting" in refused("kernel-push", "--go", "--wait", "0.001")
    assert "is still waiting" in refused("submit", "--go")
    assert kaggle.asked("competitions", "submit") == 0
    kaggle.add(late_now=0)
    assert "version 3: complete" in paw("kernel-status").out


@pytest.mark.parametrize("made", [True, False])
def test_a_push_that_was_cut_off_behind_the_last_file(kaggle, built, paw, made):
    kaggle.add(cut_off="made" if made else "lost", dataset=DATA, dataset_version=3, dataset_status=["ready"])
    assert paw("kernel-push", "--go").code > 2
    assert kaggle.asked("kernels", "push") == 0
    outcome = paw("kernel-push", "--go")
    assert outcome.code == 0, outcome.err
    # Uploaded once more only where Kaggle made no version of it.
    assert kaggle.asked("datasets", "version") == (1 if made else 2)
    assert record(built)["dataset_version"] == 4


def test_a_push_that_failed_does_not_upload_again(kaggle, built, refused, paw, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("pawpularity.kaggle.push.READY_MINUTES", 0.0)
        kaggle.add(dataset_status=["reprocessing"])
        assert "not ready" in refused("kernel-push", "--go")
    kaggle.add(dataset_status=["ready"], fails={"kernels push": ["network", ""]})
    assert "no connection" in refused("kernel-push", "--go")
    assert "was not pushed" in refused("submit")
    kaggle.add(fails={"kernels status": ["network", "network", ""]})
    assert paw("kernel-push", "--go").code == 0
    assert (kaggle.asked("datasets", "create"), kaggle.asked("datasets", "version")) == (1, 0)


@pytest.mark.parametrize(
    ("text", "report", "part"),
    [
        (None, {}, "without a submission.csv"),
        ("", {}, "must begin with Id,Pawpularity"),
        ("Id,Pawpularity\n", {}, "holds no rows"),
        ("Id,Pawpularity\na,38\na,39\n", {}, "line 3"),
        ("Id,Pawpularity\na,0.5\n", {}, "0.5"),
        ("Id,Pawpularity\na,nan\n", {}, "nan"),
        (re.sub(r"38\.\d", "37.27", EIGHT), {}, "no network answered"),
        ("Id,Pawpularity\na,38\nb,41.5\n", {}, "8 test photos"),
        (EIGHT, {"photos_unusable": dict.fromkeys("abcdefgh", "missing")}, "none of 8 photos"),
        (EIGHT, {"left_out": ["small (failed)"]}, "without small (failed)"),
    ],
)
def test_an_output_that_must_not_be_submitted(kaggle, built, refused, text, report, part):
    kaggle.leaves(text)
    report = {"photos_unusable": {}, "left_out": []} | report
    (kaggle.place / "output" / "inference.json").write_text(json.dumps(report))
    assert part in refused("kernel-push", "--go")
    assert part in refused("submit", "--go")
    assert kaggle.asked("competitions", "submit") == 0


@pytest.mark.parametrize(
    ("state", "part"),
    [
        ({"says": {"competitions submit": "Could not submit: the notebook version did not run successfully"}}, "did not run"),
        ({"fails": {"competitions submit": ["Submission not allowed: Your team has used its submission allowance (5 of 5)."]}},
         "allowance"),
    ],
)  # fmt: skip
def test_a_submission_that_is_not_taken(kaggle, built, paw, refused, state, part):
    assert paw("kernel-push", "--go").code == 0
    kaggle.add(**state)
    assert part in refused("submit", "--go")
    assert not {"submitted", "submitting"} & record(built).keys()


def test_a_submission_without_an_answer_is_not_repeated_unawares(kaggle, built, paw, refused):
    assert paw("kernel-push", "--go").code == 0
    kaggle.add(fails={"competitions submit": ["network", ""]})
    assert "no connection" in refused("submit", "--go")
    assert "ARGS=--again" in refused("submit", "--go")
    assert kaggle.asked("competitions", "submit") == 1
    assert paw("submit", "--go", "--again").code == 0
    assert record(built)["submitted"]


def test_nothing_is_uploaded_that_was_not_built(kaggle, built, paw, refused):
    assert paw("kernel-train", "--run", "toy", "--user", "anna").code == 0
    for name, place in (("inference", built), ("train-toy", built / "train" / "toy")):
        assert paw("kernel-push", "--name", name).code == 0
        for folder in ("dataset", "kernel"):
            odd = place / folder / ".env"
            odd.write_text(TOKEN)
            assert ".env: was not built" in refused("kernel-push", "--name", name, "--go")
            odd.unlink()
            odd.symlink_to("/etc/passwd")
            assert ".env: is a link" in refused("kernel-push", "--name", name, "--go")
            odd.unlink()
            odd.mkdir()
            assert ".env: is a folder" in refused("kernel-push", "--name", name, "--go")
            odd.rmdir()
    (built / "dataset" / "small.fold0.head.safetensors").write_bytes(b"changed")
    assert "small.fold0.head.safetensors" in refused("kernel-push", "--go")
    assert kaggle.calls == []


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"id": "KAGGLE_USER/pawpularity-inference"}, "KAGGLE_USER"),
        ({"id": "ben/pawpularity-inference"}, "KAGGLE_USER"),
        ({"id": "anna/../../etc"}, "etc"),
        ({"title": "Something else"}, "something-else"),
        ({"dataset_sources": []}, "dataset_sources"),
        ({"competition_sources": []}, "competition_sources"),
        ({"enable_internet": True}, "enable_internet"),
        ({"enable_internet": None}, "enable_internet"),
        ({"is_private": False}, "is_private"),
        ({"machine_shape": None}, "NvidiaTeslaT4"),
        ({"enable_gpu": False}, "enable_gpu"),
        ({"code_file": "other.py"}, "script is missing"),
    ],
)
def test_a_kernel_that_must_not_be_pushed(kaggle, built, refused, changes, part):
    write_kernel(built / "kernel", **changes)
    assert part in refused("kernel-push", "--go")
    assert kaggle.calls == []


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--user", "ben"), "was built for anna"),
        (("--user", "anna;rm"), "KAGGLE_USER"),
        (("--name", "../x"), "must be inference"),
        (("--name", "train-x"), "make kernel-train"),
    ],
)
def test_words_that_must_not_be_pushed(kaggle, built, refused, words, part):
    assert part in refused("kernel-push", *words)
    assert kaggle.calls == []


@pytest.mark.parametrize(
    ("title", "slug"),
    [("pawpularity train a.b_c", "pawpularity-train-a-b-c"), ("  Two  Words! ", "two-words"), ("VGG19_bn", "vgg19-bn")],
)
def test_slugs(title, slug):
    """python-slugify 9.2, which the kaggle command uses, gave these."""
    assert slug_of(title) == slug


def test_a_training_kernel_is_pushed_and_left_to_itself(kaggle, work, paw, refused):
    assert paw("kernel-train", "--run", "toy", "--user", "anna").code == 0
    kaggle.add(kernel_status=["RUNNING", "RUNNING", "COMPLETE"])
    assert paw("kernel-push", "--name", "train-toy", "--go").code == 0
    assert kaggle.asked("kernels", "status") == 0, "nobody waits eleven hours"
    assert "running" in paw("kernel-status", "--name", "train-toy").out
    assert "still running" in refused("kernel-fetch", "--name", "train-toy", "--go")
    assert "kernels output anna/pawpularity-train-toy" in paw("kernel-fetch", "--name", "train-toy").out
    assert "make kernel-fetch NAME=train-toy GO=1" in paw("kernel-status", "--name", "train-toy").err
    assert "left 0 archives" in refused("kernel-fetch", "--name", "train-toy", "--go")
    (kaggle.place / "output" / "run-toy.zip").write_bytes(b"no zip")
    assert "is damaged" in refused("kernel-fetch", "--name", "train-toy", "--go")
    assert "NAME=train-RUN" in refused("kernel-fetch", "--go"), "not the inference kernel"
