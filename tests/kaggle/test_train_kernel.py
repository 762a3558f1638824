"""The training kernel: what is built, its script run in a copy of Kaggle's folders at toy size, and the way home."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from tests.conftest import ROOT, TOY

from pawpularity.config import resolve
from pawpularity.kaggle.train_kernel import needed_packages

# A head behind frozen random tensors, so that a frozen part has to travel as well; three folds of 20 photos.
SMALL = (*TOY, "model.unfrozen=6", "folds.k=3", "train.epochs=1", "train.warmup_epochs=0", "train.frozen_bn=false")
CONTEST = "petfinder-pawpularity-score"
MOUNT = "input/models/anna/files/pytorch/default/1"
"""Of a model; a data set lies less deep."""


@pytest.fixture(scope="module")
def script():
    """kernels/train/train.py as a module."""
    spec = importlib.util.spec_from_file_location("kaggle_train", ROOT / "kernels" / "train" / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def contest(drawn, work):
    """The toy sample under the contest's name, where `make data` would put it."""
    return Path(shutil.copytree(drawn, work / "input" / CONTEST))


@pytest.fixture
def home(contest, work, paw):
    """The built kernel of folds 0 and 2."""
    done = paw("kernel-train", "--config", "sample", "--run", "toy", "--folds", "0", "2", "--user", "anna", *SMALL)
    assert done.code == 0, done.err
    return work / "kernels" / "build" / "train" / "toy"


@pytest.fixture
def kaggle(home, contest, tmp_path):
    """Kaggle's folders with the contest's data and the data set under today's deepest mounts."""
    place = tmp_path / "kaggle"
    (place / "input" / "competitions").mkdir(parents=True)
    (place / "input" / "competitions" / CONTEST).symlink_to(contest)
    (place / "working").mkdir()
    (place / "temp").mkdir()
    attach(place, home)
    return place


def attach(place, home):
    mount = place / MOUNT
    shutil.rmtree(mount, ignore_errors=True)
    shutil.copytree(home / "dataset", mount)


def run_script(place, home, **environment):
    """The built script as Kaggle starts it: the package is not on its path."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, str(home / "kernel" / "train.py")], cwd=place / "working", capture_output=True, text=True,
        timeout=600, env=clean | {"PAWPULARITY_KAGGLE": str(place)} | environment,
    )  # fmt: skip


def test_a_file_of_transforms_travels_by_its_content(contest, work, paw):
    file = work / "mine.yaml"
    file.write_text("- HorizontalFlip: {p: 0.25}\n")
    done = paw("kernel-train", "--config", "sample", "--run", "toy", "--user", "anna", *SMALL, f"train.augment={file}")
    assert done.code == 0, done.err
    file.unlink()
    (sent,) = (work / "kernels" / "build" / "train" / "toy" / "dataset").glob("sample-.yaml")
    assert resolve(str(sent)).train.transforms == [{"HorizontalFlip": {"p": 0.25}}]


@pytest.mark.slow
def test_trained_there_goes_on_here(kaggle, home, contest, work, paw, refused):
    # Two GPUs by their list; without a driver each process then computes on the CPU.
    cards = work / "cards"
    cards.mkdir()
    (cards / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: Tesla T4 (UUID: x)'\necho 'GPU 1: Tesla T4 (UUID: y)'\n")
    (cards / "nvidia-smi").chmod(0o755)
    done = run_script(kaggle, home, PATH=f"{cards}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 0, done.stdout + done.stderr
    starts = [done.stdout.index(text) for text in ("fold 0: starts on GPU 0", "fold 2: starts on GPU 1", ": trained")]
    assert starts == sorted(starts), "at once, not one after the other"
    report = json.loads((kaggle / "working" / "run-toy.json").read_text())
    assert report["folds"] == {"0": "trained", "2": "trained"}
    assert sorted(path.name for path in (kaggle / "working").iterdir()) == ["run-toy.json", "run-toy.zip"]
    assert list((kaggle / "temp").iterdir()) == []

    # Home: the folds join the run that would be trained here, by the same folds file, and the rest is trained here.
    archive = kaggle / "working" / "run-toy.zip"
    fetched = paw("kernel-fetch", "--zip", archive)
    assert fetched.code == 0, fetched.err
    assert "fold 0" in fetched.out
    rest = paw("train", "--config", "sample", "--data", contest, "--run", "toy", *SMALL)
    assert rest.code == 0, rest.err
    assert (work / "oof" / "toy" / "oof.csv").is_file()
    assert len(list((work / "oof" / "folds").glob("*.csv"))) == 1
    # The same fold trained here: the same but for the order in which threads add.
    assert paw("train", "--config", "sample", "--data", contest, "--run", "here", "--fold", 0, *SMALL).code == 0
    there, here = (pd.read_csv(work / "oof" / name / "fold0" / "predictions.csv") for name in ("toy", "here"))
    assert there["Id"].tolist() == here["Id"].tolist()
    assert there["prediction"].to_numpy() == pytest.approx(here["prediction"].to_numpy(), abs=0.01)
    assert "that one is kept" in paw("kernel-fetch", "--zip", archive).err

    # A run of other settings in its place is not joined.
    shutil.rmtree(work / "oof" / "toy" / "fold0")
    record = work / "oof" / "toy" / "config.json"
    kept = record.read_text()
    settings = json.loads(kept)
    settings["config"]["train"]["lr"] = 0.5
    record.write_text(json.dumps(settings))
    assert "train.lr" in refused("kernel-fetch", "--zip", archive)
    assert not (work / "oof" / "toy" / "fold0").exists()
    assert not list((work / "oof").glob(".fetched*"))

    # The next version goes on from what this one left, under the legacy mount; fold 0 is not trained twice.
    words = ("--config", "sample", "--run", "toy", "--folds", "0", "--user", "anna", "--resume", *SMALL)
    assert paw("kernel-train", *words).code == 0
    metadata = json.loads((home / "kernel" / "kernel-metadata.json").read_text())
    assert metadata["kernel_sources"] == ["anna/pawpularity-train-toy"]
    attach(kaggle, home)
    (kaggle / "input" / "pawpularity-train-toy").mkdir()
    archive.rename(kaggle / "input" / "pawpularity-train-toy" / archive.name)
    again = run_script(kaggle, home)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "continues from" in again.stdout
    with zipfile.ZipFile(archive) as zipped:
        assert {name.split("/")[2] for name in zipped.namelist() if "head" in name} == {"fold0", "fold2"}


def test_the_time_is_up_before_it_began(kaggle, home, refused):
    mount = kaggle / MOUNT
    order = mount / "order.json"
    order.write_text(json.dumps(json.loads(order.read_text()) | {"hours": 0.0}))
    sums = (mount / "SHA256SUMS").read_text().splitlines(keepends=True)
    (mount / "SHA256SUMS").write_text("".join(line for line in sums if "order.json" not in line))
    done = run_script(kaggle, home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fold 2 is NOT trained" in done.stdout
    assert "holds no run" in refused("kernel-fetch", "--zip", kaggle / "working" / "run-toy.zip")


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda place: shutil.rmtree(place / MOUNT), "order.json"),
        (lambda place: (place / "input" / "competitions" / CONTEST).unlink(), "accept the contest's rules"),
        (lambda place: next((place / "input").rglob("default.yaml")).write_text("{}"), "default.yaml is damaged"),
        (lambda place: next((place / "input").rglob("*.whl")).unlink(), ".whl is missing"),
    ],
)
def test_what_is_missing_on_kaggle_is_one_line(kaggle, home, damage, part):
    damage(kaggle)
    done = run_script(kaggle, home)
    assert done.returncode == 2
    assert part in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_same_words_build_the_same_bytes_and_the_same_settings(work, tmp_path, script, paw, monkeypatch):
    place = work / "kernels" / "build" / "train" / "toy"
    for configs in ("default", "densenet161,paper"):
        found = []
        for _ in range(2):
            words = f"--config {configs} --run toy --folds 3 1 --hours 9 train.epochs=3 train.lr=2e-5".split()
            assert paw("kernel-train", *words).code == 0
            found.append({path.name: path.read_bytes() for path in place.rglob("*") if path.is_file()})
        assert found[0] == found[1]
        assert sum(map(len, found[0].values())) < 3e6
        order = json.loads(found[0]["order.json"])
        assert (order["folds"], order["hours"]) == ([3, 1], 9.0)
        here, there = resolve(configs, ("train.epochs=3", "train.lr=2e-5")), tmp_path / configs
        there.mkdir()
        script.lay_out(place / "dataset", order, there)
        with monkeypatch.context() as patch:
            patch.chdir(there)
            assert resolve(order["config"]) == here


def test_offline_carries_the_weights(work, paw, refused):
    weights = work / "input" / "weights" / "densenet161.tv_in1k.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    assert paw("kernel-train", "--offline", "--user", "anna").code == 0
    place = work / "kernels" / "build" / "train" / "densenet161"
    assert (place / "dataset" / weights.name).read_bytes() == b"weights"
    order = json.loads((place / "dataset" / "order.json").read_text())
    assert order["places"][weights.name] == f"input/weights/{weights.name}"
    assert json.loads((place / "kernel" / "kernel-metadata.json").read_text())["enable_internet"] is False
    assert "is a place on this machine" in refused("kernel-train", "model.weights=input/weights")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--folds", "0", "9"), "--folds 9"),
        (("--folds", "x"), "--folds x"),
        (("--hours", "12"), "--hours"),
        (("--hours", "nan"), "--hours"),
        (("--run", "a" * 60), "too long a name"),
        (("--run", "../x"), "--run"),
        (("--user", "Not A User"), "KAGGLE_USER"),
        (("--data", "x"), "--data"),
        (("train.epoch=3",), "unknown key"),
    ],
)
def test_refusals(work, refused, words, part):
    assert part in refused("kernel-train", "--config", "sample", *words)
    assert not (work / "kernels").exists()


def test_what_the_image_lacks_is_installed_and_nothing_is_replaced(script, tmp_path, monkeypatch):
    assert {"torch", "timm", "pydantic", "accelerate"} <= {re.split("[>=]", word)[0] for word in needed_packages()}
    here = {
        "torch": "2.9.0+cu128",
        "torchvision": "0.24.0",
        "numpy": "2.0.2",
        "timm": "1.0.9",
        "opencv-python": "4.13.0",
    }

    def version(name):
        if name not in here:
            raise importlib.metadata.PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(script.importlib.metadata, "version", version)
    needs = ["torch>=2.6", "torchvision>=0.21", "numpy>=1.26", "timm>=1.0.15", "opencv-python-headless>=4.10",
             "ImageHash>=4.3.1", "albumentations==2.0.8", "six"]  # fmt: skip
    assert script.lacking(needs) == ["timm>=1.0.15", "ImageHash>=4.3.1", "albumentations==2.0.8", "six"]
    here["torch"] = "2.5.1"
    with pytest.raises(script.Fault, match=r"torch 2\.5\.1"):
        script.lacking(needs)
    with pytest.raises(script.Fault, match="internet is off"):
        script.install(["x>=1"], tmp_path, False)
    asked = []
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(script.subprocess, "run", lambda words: asked.append(words) or done)
    script.install(["timm>=1.0.15"], tmp_path, True)
    assert asked[0][-1] == "timm>=1.0.15"
    constraints = (tmp_path / "constraints.txt").read_text()
    assert re.search(r"^torch==\d", constraints, re.MULTILINE), "pip must not touch it"
    assert not re.search(r"^timm==", constraints, re.MULTILINE)


def test_what_is_in_training_here_is_left_to_it(checkout, paw):
    home, archive = checkout / "oof" / "near", checkout / "run-near.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in [*home.rglob("*"), *(checkout / "oof" / "folds").iterdir()]:
            if path.is_file() and path.suffix != ".lock":
                zipped.write(path, path.relative_to(checkout).as_posix())
    for left in ("fold0/metrics.json", "oof.csv"):
        (home / left).unlink()
    shutil.rmtree(home / "fold1")
    half = {path: path.read_bytes() for path in (home / "fold0").iterdir()}
    with FileLock(home / ".fold0.lock"):  # training holds it
        fetched = paw("kernel-fetch", "--zip", archive)
    assert fetched.code == 0, fetched.err
    assert {path: path.read_bytes() for path in (home / "fold0").iterdir()} == half
    assert "fold 1" in fetched.out
    assert not (home / "oof.csv").exists()
    assert paw("kernel-fetch", "--zip", archive).code == 0
    assert (home / "oof.csv").is_file()


@pytest.mark.parametrize(
    ("members", "part"),
    [
        (["oof/toy/../../../evil", "/etc/evil", "oof/other/config.json"], "holds no run"),
        ([], "holds no run"),
        (None, "is damaged"),
    ],
)
def test_archives_that_are_not_a_run(work, refused, members, part):
    archive = work / "run-toy.zip"
    assert "is missing" in refused("kernel-fetch", "--zip", archive)
    if members is None:
        archive.write_bytes(b"PK no")
    else:
        with zipfile.ZipFile(archive, "w") as zipped:
            for name in members:
                zipped.writestr(name, "x")
    assert part in refused("kernel-fetch", "--zip", archive)
    assert not list(work.parent.rglob("*evil*"))
    assert "run-NAME.zip" in refused("kernel-fetch", "--zip", "oof.zip")
