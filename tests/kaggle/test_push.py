"""kernel-push, kernel-status, kernel-fetch and submit against a server in Kaggle's place, good days and bad."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.kaggle.conftest import KEY

from pawpularity.kaggle.bundle import FORMAT, write_sums
from pawpularity.kaggle.train_kernel import slug_of

KERNEL, DATA = "anna/pawpularity-inference", "anna/pawpularity-bundle"
EIGHT = "Id,Pawpularity\n" + "".join(f"{name},38.{n}\n" for n, name in enumerate("abcdefgh"))
CONTEST = {"name": "x", "photos": 9912, "contest": True}
OTHER = {"name": "sample", "photos": 600, "contest": False}
TOKEN = "KGAT_0123456789abcdef0123456789abcdef"


def fault(*words, **more):
    """A Fault of the server; made late, because its module needs the client."""
    from tests.kaggle.fake_kaggle import Fault

    return Fault(*words, **more)


@pytest.fixture
def built(work):
    """kernels/build with a small inference bundle and its kernel."""
    build = work / "kernels" / "build"
    (build / "kernel").mkdir(parents=True)
    bundle(build)
    (build / "kernel" / "inference.py").write_text("print(1)\n")
    write_kernel(build / "kernel")
    return build


@pytest.fixture
def kaggle(kaggle):
    kaggle.output = {"submission.csv": EIGHT.encode(), "other.csv": b"x"}
    return kaggle


def bundle(build, head=b"head", trained_on=CONTEST):
    dataset = build / "dataset"
    dataset.mkdir(exist_ok=True)
    for path in dataset.iterdir():
        path.unlink()
    (dataset / "small.fold0.head.safetensors").write_bytes(head)
    about = {"format": FORMAT, "trained_on": trained_on}
    (dataset / "bundle.json").write_text(json.dumps(about))
    write_sums(dataset)


def write_kernel(folder, **changes):
    metadata = {
        "id": KERNEL, "title": "pawpularity inference", "code_file": "inference.py", "language": "python",
        "kernel_type": "script", "is_private": True, "enable_gpu": True, "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4", "dataset_sources": [DATA], "competition_sources": ["petfinder-pawpularity-score"],
        "model_sources": [], "kernel_sources": [],
    } | changes  # fmt: skip
    (folder / "kernel-metadata.json").write_text(json.dumps(metadata))


def record(built):
    return json.loads((built.parent / "pushed" / "inference.json").read_text())


def test_without_go_nothing_connects(kaggle, built, paw):
    for words, part in ((("kernel-push", "--user", "anna"), KERNEL), (("kernel-push",), "upload 3 files")):
        outcome = paw(*words)
        assert outcome.code == 0, outcome.err
        assert part in outcome.out
        assert "GO=1" in outcome.err
    assert not kaggle.asked
    assert not (built.parent / "pushed").exists()


def test_first_push_next_push_and_submit(kaggle, built, paw, refused):
    kaggle.statuses, kaggle.sessions = ["BLOBS_RECEIVED", "READY"], ["QUEUED", "RUNNING", "COMPLETE"]
    outcome = paw("kernel-push", "--go")
    assert outcome.code == 0, outcome.err
    assert "version 1: complete, submission.csv with 8 rows" in outcome.out
    assert sorted(file.token[8:] for file in kaggle.requests["CreateDataset"][0].files) == [
        "SHA256SUMS", "bundle.json", "small.fold0.head.safetensors"]  # fmt: skip
    saved = kaggle.requests["SaveKernel"][0]
    assert (saved.slug, saved.text, saved.enable_internet) == (KERNEL, "print(1)\n", False)
    assert (saved.is_private, saved.enable_gpu, saved.machine_shape) == (True, True, "NvidiaTeslaT4")
    assert (saved.dataset_data_sources, saved.competition_data_sources) == ([DATA], ["petfinder-pawpularity-score"])
    assert {request.version_label for request in kaggle.requests["GetKernelSessionStatus"]} == {"v1"}
    kept = record(built)
    assert (kept["files_version"], kept["kernel_version"]) == (1, 1)

    # The same files again: nothing is uploaded twice, but the kernel is pushed.
    assert paw("kernel-push", "--go").code == 0
    assert (kaggle.asked["CreateDataset"], kaggle.asked["CreateDatasetVersion"], kaggle.blobs) == (1, 0, 3)
    assert record(built)["kernel_version"] == 2
    assert kaggle.requests["GetKernelSessionStatus"][-1].version_label == "v2"

    assert "contest's 9912 photos" in paw("submit").err
    assert kaggle.submissions == 0
    done = paw("submit", "--go")
    assert done.code == 0, done.err
    assert "submission 1001" in done.out
    sent = kaggle.requests["CreateCodeSubmission"][0]
    assert record(built)["files_hash"] in sent.submission_description
    assert sent.kernel_version == 2
    assert (f"{sent.kernel_owner}/{sent.kernel_slug}", sent.file_name) == (KERNEL, "submission.csv")
    assert "ARGS=--again" in refused("submit", "--go")
    assert paw("submit", "--go", "--again").code == 0
    assert kaggle.submissions == 2

    # Changed files: another version, and nothing to submit before it is pushed.
    (built / "kernel" / "inference.py").write_text("print(2)\n")
    assert "was changed since" in refused("submit", "--go")
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked["CreateDatasetVersion"] == 0, "only the script changed"
    bundle(built, b"other head")
    assert "was changed since" in refused("submit")
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked["CreateDatasetVersion"] == 1
    assert (record(built)["files_version"], record(built)["kernel_version"]) == (2, 4)
    assert "submission" not in record(built)


def test_the_files_travel_as_a_model(kaggle, built, paw):
    write_kernel(built / "kernel", dataset_sources=[], model_sources=[f"{DATA}/pyTorch/default"])
    assert "Model" in paw("kernel-push").out
    for version in (1, 2):
        outcome = paw("kernel-push", "--go")
        assert outcome.code == 0, outcome.err
        saved = kaggle.requests["SaveKernel"][-1]
        assert (saved.model_data_sources, saved.dataset_data_sources) == ([f"{DATA}/pyTorch/default/{version}"], [])
        assert record(built)["files_version"] == version
        bundle(built, b"other head")
    asked = [kaggle.asked[method] for method in ("CreateModel", "CreateModelInstance", "CreateModelInstanceVersion")]
    assert asked == [1, 1, 1]
    assert {request.type.name for request in kaggle.requests["StartBlobUpload"]} == {"MODEL"}


@pytest.mark.parametrize(
    ("method", "code"), [("GetDatasetStatus", 403), ("GetDatasetStatus", 404), ("GetDataset", 403)]
)
def test_a_name_that_kaggle_does_not_have_or_will_not_show_is_made(kaggle, built, paw, method, code):
    if method == "GetDataset":
        kaggle.versions = ["x"]
    kaggle.faults[method] = [fault(code, "Permission 'datasets.get' was denied")]
    assert paw("kernel-push", "--go").code == 0
    assert (kaggle.asked["CreateDataset"], kaggle.kernel) == (1, 1)


@pytest.mark.parametrize("statuses", ["REPROCESSING REPROCESSING READY", "READY REPROCESSING BLOBS_RECEIVED READY"])
def test_files_in_work_are_waited_for_before_the_upload_and_before_the_kernel(kaggle, built, paw, clock, statuses):
    # Kaggle calls the old version ready while the new one is being made: the number tells them apart.
    kaggle.versions, kaggle.statuses, before = ["a", "b", "c", "d"], statuses.split(), []
    kaggle.start_blob_upload = lambda request: (
        before.append(kaggle.statuses[0]) or type(kaggle).start_blob_upload(kaggle, request)
    )
    outcome = paw("kernel-push", "--go")
    assert outcome.code == 0, outcome.err
    assert clock.waited
    assert before[0] == ("REPROCESSING" if statuses.startswith("READY") else "READY")
    assert kaggle.statuses == ["READY"]
    assert (len(kaggle.versions), record(built)["files_version"]) == (5, 5)


def test_a_refused_upload_is_never_remembered_as_done(kaggle, built, paw, refused):
    kaggle.versions = ["old"]
    kaggle.faults["CreateDatasetVersion"] = [fault(403, "You cannot edit this dataset")]
    line = refused("kernel-push", "--go")
    assert "You cannot edit this dataset" in line
    assert "403" in line
    assert not (built.parent / "pushed").exists()
    kaggle.versions.append("by somebody else")  # the version rises
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked["CreateDatasetVersion"] == 2
    assert kaggle.blobs == 3, "the files that had arrived are not sent again"
    kept = record(built)
    assert kept["files_version"] == 3
    assert kept["files_hash"] in kaggle.versions[2]


@pytest.mark.parametrize("made", [True, False])
def test_an_upload_whose_answer_was_lost_is_looked_for(kaggle, built, paw, made):
    kaggle.versions = ["old"]
    (kaggle.after if made else kaggle.faults)["CreateDatasetVersion"] = [fault(502)]
    outcome = paw("kernel-push", "--go")
    if made:
        assert outcome.code == 0, outcome.err
    else:
        assert outcome.code == 2
        assert kaggle.kernel == 0
        assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked["CreateDatasetVersion"] == (1 if made else 2)
    assert kaggle.blobs == (3 if made else 6), "files that may be used up are sent again"
    assert record(built)["files_version"] == 2


def test_without_a_note_a_lost_upload_is_not_taken_for_ours(kaggle, built, paw, refused):
    write_kernel(built / "kernel", dataset_sources=[], model_sources=[f"{DATA}/pyTorch/default"])
    kaggle.after["CreateModelInstance"] = ["cut"]
    assert "surely" in refused("kernel-push", "--go")
    assert paw("kernel-push", "--go").code == 0
    assert (kaggle.model, record(built)["files_version"]) == (2, 2)


@pytest.mark.parametrize(("versions", "due"), [(None, 1), (["old"], 2)])
def test_a_push_that_was_cut_off_while_kaggle_worked_uploads_nothing_again(kaggle, built, paw, refused, versions, due):
    kaggle.versions, kaggle.statuses = versions, ["READY" if versions else "BLOBS_RECEIVED", "BLOBS_RECEIVED"]
    assert "not ready after" in refused("kernel-push", "--go")
    kaggle.statuses = ["BLOBS_RECEIVED", "READY"]
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.blobs == 3
    assert record(built)["files_version"] == due


def test_no_answer_is_asked_again_less_and_less_often(kaggle, built, paw, clock):
    down = [fault(503), fault(500, "An error"), fault(429, "Too many", Retry_After="400"), "cut", "cut"]
    kaggle.faults["GetDatasetStatus"] = [None, *down]
    kaggle.faults["GetKernelSessionStatus"] = [*down, fault(404, "Not found"), fault(200)]
    outcome = paw("kernel-push", "--go")
    assert outcome.code == 0, outcome.err
    assert clock.waited[:5] == [40, 80, 400, 300, 300]
    assert (kaggle.asked["CreateDataset"], kaggle.kernel) == (1, 1)
    kaggle.faults["GetKernelSessionStatus"] = [fault(503)]
    assert paw("kernel-status").code == 0
    kaggle.faults["GetKernelSessionStatus"] = [fault(503)] * 200
    assert paw("kernel-status", "--wait", "60").code == 2
    assert clock.time < 3600 * 3


@pytest.mark.parametrize(
    ("faults", "refusals", "parts"),
    [
        ({"CreateDataset": [fault]}, {}, ("Nope",)),
        ({}, {"CreateDataset": "Your private dataset quota of 200 GB is used up"}, ("200 GB", "old versions")),
        ({"PUT bundle.json": [fault]}, {}, ("run again",)),
        ({"SaveKernel": [fault]}, {}, ("Nope", "saved in the browser")),
        ({}, {"SaveKernel": "Notebook not found"}, ("Notebook not found", "saved in the browser")),
        ({}, {"SaveKernel": "Maximum batch GPU session count of 2 reached."}, ("count of 2", "Active Events")),
        ({}, {"SaveKernel": "Maximum weekly GPU quota of 30.00 hours has been reached."}, ("30.00 hours", "settings")),
        ({}, {"SaveKernel": "You must accept this competition's rules"}, ("/rules",)),
    ],
)
def test_what_kaggle_refuses_is_one_line_with_its_words(kaggle, built, paw, refused, faults, refusals, parts):
    for method, found in faults.items():
        kaggle.faults[method] = [make(403, "Nope") for make in found]
    kaggle.refusals = refusals
    line = refused("kernel-push", "--go")
    assert all(part in line for part in parts), line
    assert KEY not in line
    if {"PUT bundle.json", "CreateDataset"} & (faults.keys() | refusals.keys()):
        assert kaggle.kernel == 0
        assert not (built.parent / "pushed").exists()
    assert "was not pushed" in refused("submit", "--go")
    kaggle.refusals = {}
    assert paw("kernel-push", "--go").code == 0
    assert len(kaggle.versions) == 1


@pytest.mark.parametrize(
    "damage",
    [
        {"invalid_dataset_sources": [DATA]},
        {"invalid_competition_sources": [DATA]},
        {"_version_number": None},
        {"url": "https://www.kaggle.com/code/anna/other"},
    ],
)
def test_a_kernel_without_a_source_a_number_or_its_name_is_no_push(kaggle, built, refused, damage):
    def other(request):
        answer = type(kaggle).save_kernel(kaggle, request)
        for name, value in damage.items():
            setattr(answer, name, value)
        return answer

    kaggle.save_kernel = other
    assert KERNEL in refused("kernel-push", "--go")
    assert "was not pushed" in refused("submit", "--go")


def test_data_that_fails_on_kaggle_is_said_and_uploaded_again(kaggle, built, paw, refused):
    kaggle.versions, kaggle.statuses = ["old"], ["READY", "FAILED"]
    assert "failed" in refused("kernel-push", "--go")
    assert kaggle.kernel == 0
    kaggle.statuses = ["FAILED", "READY"]
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.asked["CreateDatasetVersion"] == 2


def test_a_failed_kernel_shows_its_log_without_secrets(kaggle, built, paw):
    lines = [f"line {n}" for n in range(50)] + [f'{{"key":"{KEY}"}}']
    kaggle.sessions, kaggle.failure = ["RUNNING", "ERROR"], f"Out of memory {KEY}"
    kaggle.log = json.dumps([{"stream_name": "stdout", "time": n, "data": f"{line}\n"} for n, line in enumerate(lines)])
    outcome = paw("kernel-push", "--go")
    assert outcome.code == 2
    assert "Out of memory" in outcome.err
    assert "  line 49" in outcome.err
    assert "  line 1\n" not in outcome.err
    assert KEY not in outcome.err + outcome.out
    assert paw("submit", "--go").code == 2
    assert kaggle.submissions == 0


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "without a submission.csv"),
        ("", "Id, Pawpularity"),
        (EIGHT.replace("b,", "a,"), "row 3"),
        (EIGHT.replace("38.1", "0.5"), "0.5"),
        (EIGHT.replace("38.1", "nan"), "row 3"),
        ("Id,Pawpularity\na,38\nb,41.5\n", "8 test photos"),
        (re.sub(r"38\.\d", "37.27", EIGHT), "mean prediction"),
    ],
)
def test_an_output_that_must_not_be_submitted(kaggle, built, refused, text, part):
    kaggle.output = {"other.csv": b"x"} if text is None else {"submission.csv": text.encode()}
    assert part in refused("kernel-push", "--go")
    assert part in refused("submit", "--go")
    assert kaggle.submissions == 0


def test_runs_of_other_photos_are_not_submitted(kaggle, built, paw, refused):
    bundle(built, trained_on=OTHER)
    assert paw("kernel-push", "--go").code == 0
    assert "600 photos" in paw("submit").err
    assert "ARGS=--anyway" in refused("submit", "--go")
    assert kaggle.submissions == 0
    assert paw("submit", "--go", "--anyway").code == 0
    assert kaggle.submissions == 1


@pytest.mark.parametrize(
    ("code", "text", "part"),
    [(403, "You must accept the rules", "/rules"), (400, "Your team has used its submission allowance (5).", "UTC")],
)
def test_a_refused_submission_may_be_sent_again(kaggle, built, paw, refused, code, text, part):
    assert paw("kernel-push", "--go").code == 0
    kaggle.faults["CreateCodeSubmission"] = [fault(code, text)]
    line = refused("submit", "--go")
    assert text in line
    assert part in line
    assert "submission" not in record(built)
    assert paw("submit", "--go").code == 0


@pytest.mark.parametrize("lost", ["cut", 502, "no number"])
def test_a_submission_whose_answer_was_lost_is_not_sent_twice_unasked(kaggle, built, paw, refused, lost):
    assert paw("kernel-push", "--go").code == 0
    if lost == "no number":
        from tests.kaggle.fake_kaggle import made

        kaggle.create_code_submission = lambda request: made(
            "ApiCreateCodeSubmissionResponse", message="Could not submit"
        )
    else:
        kaggle.after["CreateCodeSubmission"] = [lost if lost == "cut" else fault(lost)]
    assert "no certain answer" in refused("submit", "--go")
    assert "ARGS=--again" in refused("submit", "--go")
    assert kaggle.asked["CreateCodeSubmission"] == 1
    kaggle.__dict__.pop("create_code_submission", None)
    assert paw("submit", "--go", "--again").code == 0
    assert record(built)["submission"] > 1000


@pytest.mark.parametrize("name", ["inference", "train-toy"])
def test_nothing_is_uploaded_that_was_not_built(kaggle, built, paw, refused, name):
    assert paw("kernel-train", "--run", "toy", "--user", "anna").code == 0
    place = built if name == "inference" else built / "train" / "toy"
    assert paw("kernel-push", "--name", name).code == 0
    odd = place / "dataset" / ".env"
    odd.write_text(TOKEN)
    assert ".env: was not built" in refused("kernel-push", "--name", name, "--go")
    odd.unlink()
    file = next(path for path in (place / "dataset").iterdir() if path.name != "SHA256SUMS")
    file.write_bytes(b"changed")
    assert file.name in refused("kernel-push", "--name", name, "--go")
    assert not kaggle.asked


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "KAGGLE_USER is not known"),
        (("--user", "ben"), "was built for KAGGLE_USER"),
        (("--user", "anna;rm"), "KAGGLE_USER"),
        (("--name", "../x"), "must be inference"),
        (("--name", "train-x"), "make kernel-train"),
    ],
)
def test_words_that_must_not_be_pushed(built, refused, words, part):
    write_kernel(built / "kernel", id="KAGGLE_USER/pawpularity-inference")
    assert part in refused("kernel-push", *words)


def test_slugs_are_kaggles(kaggle):
    from slugify import slugify

    for title in ("pawpularity train a.b_c", "  Two  Words! ", "VGG19_bn"):
        assert slug_of(title) == slugify(title)


def test_a_training_kernel_is_pushed_and_left_to_itself(kaggle, work, paw, refused):
    assert paw("kernel-train", "--run", "toy", "--user", "anna", "kernel.carrier=model").code == 0
    kaggle.sessions = ["QUEUED", "RUNNING", "RUNNING", "COMPLETE"]
    outcome = paw("kernel-push", "--name", "train-toy", "--go")
    assert outcome.code == 0, outcome.err
    assert kaggle.asked["GetKernelSessionStatus"] == 1, "nobody waits eleven hours"
    assert kaggle.requests["SaveKernel"][0].enable_internet
    assert kaggle.requests["SaveKernel"][0].model_data_sources == ["anna/pawpularity-train-toy-files/pyTorch/default/1"]
    assert "running" in paw("kernel-status", "--name", "train-toy").out
    assert "still running" in refused("kernel-fetch", "--name", "train-toy", "--go")
    assert "anna/pawpularity-train-toy version 1" in paw("kernel-fetch", "--name", "train-toy").out
    assert "make kernel-fetch NAME=train-toy GO=1" in paw("kernel-status", "--name", "train-toy").err
    assert "left no archive" in refused("kernel-fetch", "--name", "train-toy", "--go")
    kaggle.output["run-toy.zip"] = b"no zip"
    assert "is damaged" in refused("kernel-fetch", "--name", "train-toy", "--go")
    assert "NAME=train-RUN" in refused("kernel-fetch", "--go"), "not the inference kernel"


def test_a_token_is_asked_about_and_used(kaggle, built, paw, refused, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    assert "no credentials that Kaggle takes" in refused("kernel-push", "--go"), "it is none of Kaggle's"
    kaggle.token, kaggle.faults["IntrospectToken"] = TOKEN, [fault(503)]
    assert paw("kernel-push", "--go").code == 0
    assert kaggle.kernel == 1


def test_without_credentials_or_with_those_that_kaggle_does_not_take(kaggle, built, refused, monkeypatch):
    kaggle.faults["GetDatasetStatus"] = [fault(401, "Unauthenticated")]
    assert "token" in refused("kernel-push", "--go")
    asked = kaggle.asked.total()
    monkeypatch.setenv("KAGGLE_USERNAME", "ben")
    assert "ben" in refused("kernel-push", "--go")
    monkeypatch.delenv("KAGGLE_KEY")
    assert "access_token" in refused("kernel-push", "--go")
    assert kaggle.asked.total() == asked


@pytest.mark.slow
def test_the_oldest_client_does_the_same():
    """These tests and those of the download once more, with the oldest versions that pyproject.toml allows."""
    oldest = Path(os.environ.get("PAWPULARITY_KAGGLE_OLDEST") or Path(sys.prefix) / "kaggle-oldest")
    if "PAWPULARITY_KAGGLE_VERSION" in os.environ:
        import kaggle

        assert kaggle.__version__ == os.environ["PAWPULARITY_KAGGLE_VERSION"]
        return
    if not (oldest / "kaggle").is_dir():
        pytest.skip(f"{oldest} holds no kaggle 2.2.4; make test installs it there")
    paths = [str(oldest), *filter(None, [os.environ.get("PYTHONPATH")])]
    files = [f"tests/kaggle/test_{name}.py" for name in ("push", "download")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files], cwd=ROOT, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PAWPULARITY_KAGGLE_VERSION": "2.2.4"}, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "skipped" not in done.stdout
