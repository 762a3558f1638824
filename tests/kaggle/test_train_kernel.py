"""The training kernel: what is built, its script run in a copy of Kaggle's folders at toy size, and the way home."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import yaml
from filelock import FileLock, Timeout
from tests.conftest import ROOT, TOY

from pawpularity.config import resolve
from pawpularity.kaggle import fetch
from pawpularity.kaggle.fetch import bring_home
from pawpularity.kaggle.train_kernel import NEEDS, PAINTER
from pawpularity.runs import Run

# A tail behind frozen random tensors, so that a trunk has to travel as well; three folds of 20 photos.
SMALL = (*TOY, "model.unfrozen=6", "folds.k=3", "train.epochs=1", "train.warmup_epochs=0", "train.frozen_bn=false")
CONTEST = "petfinder-pawpularity-score"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """kernels/train/train.py as a module."""
    spec = importlib.util.spec_from_file_location("kaggle_train", ROOT / "kernels" / "train" / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def contest(drawn: Path, work: Path) -> Path:
    """The toy shelter under the contest's name, where `make data` would put it."""
    return Path(shutil.copytree(drawn, work / "input" / CONTEST))


def kaggle_tree(place: Path, contest: Path, dataset: Path) -> Path:
    """Kaggle's folders with the contest's data and the data set under today's mounts."""
    (place / "input" / "competitions").mkdir(parents=True)
    (place / "input" / "competitions" / CONTEST).symlink_to(contest)
    (place / "working").mkdir()
    (place / "temp").mkdir()
    attach(place, dataset)
    return place


def attach(place: Path, dataset: Path) -> Path:
    mount = place / "input" / "datasets" / "anna" / "files"
    shutil.rmtree(mount, ignore_errors=True)
    shutil.copytree(dataset, mount, ignore=shutil.ignore_patterns("dataset-metadata.json"))
    return mount


def run_script(place: Path, kernel: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The built script as Kaggle starts it: the package is not on its path."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, str(kernel / "train.py")], cwd=place / "working", capture_output=True, text=True, timeout=300,
        env=clean | {"PAWPULARITY_KAGGLE": str(place)} | environment,
    )  # fmt: skip


@pytest.mark.slow
def test_trained_there_goes_on_here(
    contest: Path, work: Path, tmp_path: Path, paw: Callable[..., Any], refused: Callable[..., str]
) -> None:
    built = paw("kernel-train", "--config", "sample", "--run", "toy", "--folds", "0", "2", "--user", "anna", *SMALL)
    assert built.code == 0, built.err
    home = work / "kernels" / "build" / "train" / "toy"
    metadata = json.loads((home / "kernel" / "kernel-metadata.json").read_text())
    assert metadata["enable_internet"] is True
    assert metadata["machine_shape"] == "NvidiaTeslaT4"
    assert metadata["dataset_sources"] == ["anna/pawpularity-train-toy-files"]
    place = kaggle_tree(tmp_path / "kaggle", contest, home / "dataset")
    # Two GPUs by their list; without a driver each process then computes on the CPU.
    cards = tmp_path / "cards"
    cards.mkdir()
    (cards / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: Tesla T4 (UUID: x)'\necho 'GPU 1: Tesla T4 (UUID: y)'\n")
    (cards / "nvidia-smi").chmod(0o755)
    done = run_script(place, home / "kernel", PATH=f"{cards}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 0, done.stdout + done.stderr
    starts = [done.stdout.index(text) for text in ("fold 0: starts on GPU 0", "fold 2: starts on GPU 1", ": trained")]
    assert starts == sorted(starts)  # at once, not one after the other
    report = json.loads((place / "working" / "run-toy.json").read_text())
    assert report["folds"] == {"0": "trained", "2": "trained"}
    assert sorted(path.name for path in (place / "working").iterdir()) == ["run-toy.json", "run-toy.zip"]
    assert list((place / "temp").iterdir()) == []

    # Home: the folds join the run that would be trained here, by the same folds file, and the rest is trained here.
    archive = place / "working" / "run-toy.zip"
    fetched = paw("kernel-fetch", "--zip", archive)
    assert fetched.code == 0, fetched.err
    assert "fold 0: out-of-fold RMSE" in fetched.out
    assert (
        json.loads((work / "oof" / "toy" / "fold0" / "metrics.json").read_text())["git_commit"] is None
    )  # the wheel's
    rest = paw("train", "--config", "sample", "--data", contest, "--run", "toy", *SMALL)
    assert rest.code == 0, rest.err
    assert "fold 0 is trained already" in rest.err
    assert (work / "oof" / "toy" / "oof.csv").is_file()
    assert len(list((work / "oof" / "folds").glob("*.csv"))) == 1
    # The same fold trained here: the same but for the order in which threads add.
    assert paw("train", "--config", "sample", "--data", contest, "--run", "here", "--fold", 0, *SMALL).code == 0
    there, here = (pd.read_csv(work / "oof" / name / "fold0" / "predictions.csv") for name in ("toy", "here"))
    assert there["Id"].tolist() == here["Id"].tolist()
    assert there["prediction"].to_numpy() == pytest.approx(here["prediction"].to_numpy(), abs=0.01)
    # It feeds the inference bundle.
    bundle = paw("kernel", "--runs", "toy", "--user", "anna")
    assert bundle.code == 0, bundle.err
    assert "3 tails" in bundle.out

    assert "kept as it is" in paw("kernel-fetch", "--zip", archive).err
    shutil.rmtree(work / "oof" / "toy" / "fold0")
    settings = json.loads((work / "oof" / "toy" / "config.json").read_text())
    settings["config"]["train"]["lr"] = 0.5
    (work / "oof" / "toy" / "config.json").write_text(json.dumps(settings))
    assert "other settings: train.lr was 0.5" in refused("kernel-fetch", "--zip", archive)
    assert not (work / "oof" / "toy" / "fold0").exists()
    assert not list((work / "oof").glob(".fetched*"))

    # The next version goes on from what this one left, under the mount of old; fold 0 is not trained twice.
    assert (
        paw(
            "kernel-train", "--config", "sample", "--run", "toy", "--folds", "0", "--user", "anna", "--resume", *SMALL
        ).code
        == 0
    )
    assert json.loads((home / "kernel" / "kernel-metadata.json").read_text())["kernel_sources"] == [
        "anna/pawpularity-train-toy"
    ]
    attach(place, home / "dataset")
    (place / "input" / "pawpularity-train-toy").mkdir()
    archive.rename(place / "input" / "pawpularity-train-toy" / archive.name)
    again = run_script(place, home / "kernel")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "goes on from" in again.stdout
    assert "fold 0 is trained already" in again.stderr
    with zipfile.ZipFile(archive) as zipped:
        assert {name.split("/")[2] for name in zipped.namelist() if "tail" in name} == {"fold0", "fold2"}


def test_the_time_is_up_before_it_began(
    contest: Path, work: Path, tmp_path: Path, paw: Callable[..., Any], refused: Callable[..., str]
) -> None:
    assert paw("kernel-train", "--config", "sample", "--run", "toy", *SMALL).code == 0
    home = work / "kernels" / "build" / "train" / "toy"
    place = kaggle_tree(tmp_path / "kaggle", contest, home / "dataset")
    order = place / "input" / "datasets" / "anna" / "files" / "order.json"
    order.write_text(json.dumps(json.loads(order.read_text()) | {"hours": 0.0}))
    done = run_script(place, home / "kernel")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fold 1 is NOT trained: not begun" in done.stdout
    assert "holds no run" in refused("kernel-fetch", "--zip", place / "working" / "run-toy.zip")
    # Not built for anybody yet, so that it cannot be pushed.
    assert "KAGGLE_USER is not known yet" in refused("kernel-push", "--name", "train-toy", "--go")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda place: shutil.rmtree(place / "input" / "datasets"), "0 folders below"),
        (lambda place: (place / "input" / "competitions" / CONTEST).unlink(), "accept the contest's rules"),
        (lambda place: next((place / "input").rglob("default.yaml")).write_text("{}"), "default.yaml is damaged"),
        (lambda place: next((place / "input").rglob("*.whl")).unlink(), ".whl is missing"),
    ],
)
def test_what_is_missing_on_kaggle_is_one_line(
    contest: Path, work: Path, tmp_path: Path, paw: Callable[..., Any], damage: Callable[[Path], Any], says: str
) -> None:
    assert paw("kernel-train", "--config", "sample", "--run", "toy", *SMALL).code == 0
    home = work / "kernels" / "build" / "train" / "toy"
    place = kaggle_tree(tmp_path / "kaggle", contest, home / "dataset")
    damage(place)
    done = run_script(place, home / "kernel")
    assert done.returncode == 2
    assert says in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_same_words_build_the_same_bytes(work: Path, paw: Callable[..., Any]) -> None:
    found = []
    for _ in range(2):
        assert (
            paw(
                "kernel-train", "--config", "densenet161,paper", "--folds", "3,1", "--user", "anna", "--hours", "9"
            ).code
            == 0
        )
        place = work / "kernels" / "build" / "train" / "densenet161-paper"
        found.append({path.name: path.read_bytes() for path in place.rglob("*") if path.is_file()})
    assert found[0] == found[1]
    order = json.loads(found[0]["order.json"])
    assert (order["folds"], order["hours"], order["config"]) == ([3, 1], 9.0, "densenet161-paper-")
    assert PAINTER in order["needs"]  # its copies are painted by albumentations
    resolved = yaml.safe_load(found[0]["densenet161-paper-.yaml"])
    assert resolved["model"]["backbone"] == "densenet161.tv_in1k"
    assert resolved["train"]["copies"] == "paper"
    assert "cache" not in resolved
    assert sum(map(len, found[0].values())) < 3e6
    assert not any(path.is_dir() for path in (place / "dataset").iterdir())


@pytest.mark.parametrize("configs", ["default", "sample", "densenet161,paper"])
def test_there_the_settings_are_what_they_are_here(
    work: Path,
    tmp_path: Path,
    script: ModuleType,
    paw: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    configs: str,
) -> None:
    words = ("train.epochs=3", "train.lr=0.002")
    assert paw("kernel-train", "--config", configs, "--run", "toy", *words).code == 0
    here = resolve(configs, words)
    dataset, there = work / "kernels" / "build" / "train" / "toy" / "dataset", tmp_path / "there"
    order = json.loads((dataset / "order.json").read_text())
    there.mkdir()
    script.lay_out(dataset, order, there)
    monkeypatch.chdir(there)
    assert resolve(order["config"]) == here
    assert here.train.epochs == 3


def test_offline_carries_the_weights(work: Path, paw: Callable[..., Any], refused: Callable[..., str]) -> None:
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
        (("--folds", "0", "9"), "--folds 9: is no fold"),
        (("--folds", "x"), "--folds x: is no fold"),
        (("--hours", "12"), "must lie in 0.05..11.75"),
        (("--hours", "nan"), "must lie in"),
        (("--run", "a" * 60), "too long a name for Kaggle"),
        (("--run", "../x"), "--run"),
        (("--user", "Not A User"), "is no Kaggle user name"),
        (("--data", "x"), "leave --data out"),
        (("train.epoch=3",), "unknown key"),
    ],
)
def test_refusals(work: Path, refused: Callable[..., str], words: tuple[str, ...], part: str) -> None:
    assert part in refused("kernel-train", "--config", "sample", *words)
    assert not (work / "kernels").exists() or not list((work / "kernels").rglob("*.part"))


def test_what_the_image_lacks(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = {
        "torch": "2.9.0+cu128",
        "torchvision": "0.24.0+cu128",
        "numpy": "2.0.2",
        "timm": "1.0.9",
        "opencv-python": "4.13.0",
    }
    modules = {"torch", "torchvision", "numpy", "timm", "cv2"}

    def version(name: str) -> str:
        if name not in here:
            raise importlib.metadata.PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: object() if name in modules else None)
    monkeypatch.setattr(script.importlib.metadata, "version", version)
    needs = [need for need in [*NEEDS, PAINTER] if need["module"] in {*modules, "imagehash", "albumentations"}]
    assert script.lacking(needs) == ["timm>=1.0.15", "ImageHash>=4.3.1", "albumentations==2.0.8"]
    here["torch"] = "2.5.1"
    with pytest.raises(script.Fault, match=r"torch 2\.5\.1; torch>=2\.6 is needed and not replaced"):
        script.lacking(needs)
    with pytest.raises(script.Fault, match="the internet is off"):
        script.install(["x>=1"], tmp_path, False)
    asked: list[list[str]] = []
    monkeypatch.setattr(
        script.subprocess, "run", lambda words: asked.append(words) or subprocess.CompletedProcess(words, 0)
    )
    script.install(["timm>=1.0.15"], tmp_path, True)
    assert asked[0][-1] == "timm>=1.0.15"
    frozen = (tmp_path / "frozen.txt").read_text()
    assert re.search(r"^torch==\d", frozen, re.MULTILINE)  # pip may not touch it
    assert not re.search(r"^timm==", frozen, re.MULTILINE)


def test_the_needs_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = dict(re.fullmatch(r"([\w-]+)[>=]=([\d.]+)", line).groups() for line in project["dependencies"])  # type: ignore[union-attr]
    for need in [*NEEDS, PAINTER]:
        assert bounds[need["name"]] == need.get("at_least", need.get("exactly"))
    # Of verbs that no training starts.
    rest = {"scikit-learn", "optuna", "plotly", "pg8000", "grad-cam", "matplotlib", "jinja2"}
    assert bounds.keys() - {need["name"] for need in [*NEEDS, PAINTER]} == rest


def test_what_is_in_training_here_is_left_to_it(
    checkout: Path, paw: Callable[..., Any], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, archive = checkout / "oof" / "near", checkout / "run-near.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in [*home.rglob("*"), *(checkout / "oof" / "folds").iterdir()]:
            if path.is_file() and path.suffix != ".lock":
                zipped.write(path, path.relative_to(checkout).as_posix())
    for left in ("fold0/metrics.json", "oof.csv"):
        (home / left).unlink()
    shutil.rmtree(home / "fold1")
    half = {path: path.read_bytes() for path in (home / "fold0").iterdir()}
    asked = []

    def alone(run: Run) -> object:
        asked.append(run.name)
        with pytest.raises(Timeout):
            FileLock(run.folder / ".oof.lock", timeout=0).acquire()
        return assemble(run)

    assemble = fetch.assemble
    monkeypatch.setattr(fetch, "assemble", alone)
    with FileLock(home / ".fold0.lock"):
        words = (*TOY, "train.epochs=1", "train.warmup_epochs=0", "folds.k=2", "model.unfrozen=8", "--run", "near")
        line = refused("train", "--config", "scratch", "--data", "input/toy", "--fold", 0, *words)
        assert "another process is training this fold" in line  # so this is the lock that training holds
        fetched = paw("kernel-fetch", "--zip", archive)
    assert fetched.code == 0, fetched.err
    assert "fold 0 is being trained here: that one is kept" in fetched.err
    assert {path: path.read_bytes() for path in (home / "fold0").iterdir()} == half
    assert "fold 1: out-of-fold RMSE" in fetched.out
    assert not (home / "oof.csv").exists()
    assert paw("kernel-fetch", "--zip", archive).code == 0
    assert (home / "oof.csv").is_file()
    assert asked == ["near", "near"]


@pytest.mark.parametrize(
    ("members", "part"),
    [
        (["oof/toy/../../evil"], "is no part of a run"),
        (["/etc/evil"], "is no part of a run"),
        (["oof/other/config.json"], "is no part of a run"),
        (["oof/toy/fold0/deep/evil"], "is no part of a run"),
        ([], "holds no run"),
    ],
)
def test_archives_that_lead_elsewhere(work: Path, refused: Callable[..., str], members: list[str], part: str) -> None:
    archive = work / "run-toy.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in members:
            zipped.writestr(name, "x")
    assert part in refused("kernel-fetch", "--zip", archive)
    assert not list(work.rglob("evil"))


def test_archives_that_are_none(work: Path, refused: Callable[..., str]) -> None:
    assert "must be called run-NAME.zip" in refused("kernel-fetch", "--zip", "oof.zip")
    assert "is missing" in refused("kernel-fetch", "--zip", "run-toy.zip")
    Path("run-toy.zip").write_bytes(b"PK no")
    assert "is damaged" in refused("kernel-fetch", "--zip", "run-toy.zip")
    with pytest.raises(Exception, match=r"run-other\.zip"):
        bring_home(Path("run-toy.zip"), "other")


def test_two_runs_do_not_share_a_kernel(work: Path, paw: Callable[..., Any], refused: Callable[..., str]) -> None:
    assert paw("kernel-train", "--run", "a_b").code == 0
    assert paw("kernel-train", "--run", "a_b").code == 0  # the same run, built again
    home = work / "kernels" / "build" / "train"
    for other in ("a-b", "A.b"):
        line = refused("kernel-train", "--run", other)
        assert "pawpularity-train-a-b, as it does run a_b (kernels/build/train/a_b)" in line
        assert not (home / other).exists()
    # Pushed once and no longer built: Kaggle has it still.
    (home / "a_b").rename(work / "away")
    pushed = work / "kernels" / "pushed" / "train-a_b.json"
    pushed.parent.mkdir()
    pushed.write_text("{}")
    assert "as it does run a_b (kernels/pushed/train-a_b.json)" in refused("kernel-train", "--run", "a-b")
    pushed.unlink()
    assert paw("kernel-train", "--run", "a-b").code == 0
