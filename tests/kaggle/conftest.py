"""Trained runs for the kernel's tests: two behind one random trunk, one without, and their blend."""

import shutil
from pathlib import Path

import pytest
from tests.conftest import ROOT, TOY

from pawpularity.cli import main


@pytest.fixture(scope="session")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the runs `near`, `far` (the same trunk, cut deeper, mirrored) and `whole`, of two folds, and `blend`."""
    place = tmp_path_factory.mktemp("trained")
    (place / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(drawn, place / "input" / "toy")
    words = [
        "train",
        "--config",
        "scratch",
        "--data",
        "input/toy",
        *TOY,
        "train.epochs=1",
        "train.warmup_epochs=0",
        "folds.k=2",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main([*words, "--run", "near", "model.unfrozen=8"]) == 0
        assert main([*words, "--run", "far", "model.unfrozen=20", "predict.flip=true"]) == 0
        assert main([*words, "--run", "whole", "model.unfrozen=all", "photos.size=40", "train.seed=1"]) == 0
        assert main(["ensemble", "near", "far", "whole", "--run", "blend", "--method", "ridge"]) == 0
    return place


@pytest.fixture
def checkout(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `trained` as the current folder, for a test to build in and to damage."""
    place = Path(shutil.copytree(trained, tmp_path / "checkout", symlinks=True))
    monkeypatch.chdir(place)
    return place
