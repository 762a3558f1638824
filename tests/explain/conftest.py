"""What tests of the command share: a checkout with a small run, and words that make it quick."""

import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from pawpularity.cli import main
from pawpularity.explain import explain

ROOT = Path(__file__).resolve().parents[2]
TOY = ("photos.size=64", "model.backbone=test_resnet", "model.weights=none", "train.epochs=1", "train.batch_size=16",
       "train.dtype=float32", "train.warmup_epochs=0", "folds.k=2")  # fmt: skip
# As little as shows everything: four blocks of masks have an error bar.
QUICK = ("--masks", "512", "explain.road=false", "explain.sanity_photos=0", "explain.smooth=0")


def made(folder: Path) -> dict[str, bytes]:
    """Every file of `folder` as bytes."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture(scope="session")
def explained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a drawn sample and a run of two folds."""
    place = tmp_path_factory.mktemp("trained")
    (place / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(drawn, place / "toy")
    before = Path.cwd()
    os.chdir(place)
    try:
        assert main(["train", "--data", "toy", "--run", "toy", *TOY]) == 0
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def at(explained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current folder; maps are judged in few steps."""
    monkeypatch.setattr(explain, "judge", partial(explain.judge, steps=4, baselines=("blur",)))
    monkeypatch.setattr(explain, "SANITY_BLOCKS", 2)
    place = tmp_path / "place"
    shutil.copytree(explained, place, symlinks=True)
    monkeypatch.chdir(place)
    return place
