"""Trained runs for the kernel's tests: two behind one random frozen backbone, one without, and their blend."""

import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from tests.conftest import ROOT, TOY

from pawpularity.cli import main
from pawpularity.kaggle.bundle import SUMS, write_sums


@pytest.fixture(scope="session")
def trained(drawn, tmp_path_factory):
    """A checkout with runs of two folds: `near`, `far` (trained deeper, mirrored), `whole`; their `blend` and its kernel."""
    place = tmp_path_factory.mktemp("trained")
    (place / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(drawn, place / "input" / "toy")
    short = ("train.epochs=1", "train.warmup_epochs=0", "folds.k=2")
    words = ["train", "--config", "scratch", "--data", "input/toy", *TOY, *short]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main([*words, "--run", "near", "model.unfrozen=8"]) == 0
        assert main([*words, "--run", "far", "model.unfrozen=20", "predict.flip=true"]) == 0
        assert main([*words, "--run", "whole", "model.unfrozen=all", "photos.size=40", "train.seed=1"]) == 0
        assert main(["ensemble", "near", "far", "whole", "--run", "blend", "--method", "ridge"]) == 0
        assert main(["kernel", "--runs", "blend", "--user", "someone"]) == 0
    return place


@pytest.fixture
def checkout(trained, tmp_path, monkeypatch):
    """A copy of `trained` as the current folder, for a test to build in and to damage."""
    place = Path(shutil.copytree(trained, tmp_path / "checkout", symlinks=True))
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def built(checkout):
    """kernels/build/ of the blend."""
    return checkout / "kernels" / "build"


@pytest.fixture
def edit():
    """`edit(dataset, key=value)`: change bundle.json and sign it again, as somebody would on purpose."""

    def change(dataset, **values):
        file = dataset / "bundle.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
        sign(dataset)

    return change


def sign(dataset):
    """Write SHA256SUMS again."""
    (dataset / SUMS).unlink()
    write_sums(dataset)


class FakeClock:
    """Time that passes only when somebody waits."""

    def __init__(self):
        self.time, self.waited = 0.0, []

    def monotonic(self):
        return self.time

    def sleep(self, seconds):
        self.waited.append(seconds)
        self.time += seconds


@pytest.fixture
def clock(monkeypatch):
    from pawpularity.kaggle import api

    fake = FakeClock()
    monkeypatch.setattr(api, "time", fake)
    return fake


KEY = "fedcba9876543210fedcba9876543210"


@pytest.fixture
def kaggle(tmp_path, monkeypatch, clock):
    """The server in Kaggle's place, a clock that waits for nobody, and a legacy key in the environment."""
    if importlib.util.find_spec("kaggle") is None:
        pytest.skip('the kaggle package is not installed: pip install -e ".[kaggle]"')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in [name for name in os.environ if name.startswith(("KAGGLE_", "XDG_CONFIG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KAGGLE_USERNAME", "anna")
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    monkeypatch.setattr(tempfile, "tempdir", None)
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk import kaggle_env
    from tests.kaggle.fake_kaggle import FakeKaggle

    monkeypatch.setattr(KaggleApi, "config", str(tmp_path / "home" / "kaggle.json"))
    server = FakeKaggle()
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, server.url)
    yield server
    server.stop()
