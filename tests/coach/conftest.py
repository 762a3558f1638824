"""A toy run, trained on the photo alone, and the coach prepared for it: made once for this room's tests."""

import os
from pathlib import Path

import pytest

from pawpularity.cli import main
from pawpularity.coach import evaluate_tips as twins

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (
    "--config",
    "sample",
    "photos.size=64",
    "train.epochs=2",
    "train.warmup_epochs=0",
    "folds.k=3",
    "train.dtype=float32",
)


@pytest.fixture(scope="session")
def coached(tmp_path_factory, drawn):
    """A checkout with run `toy` (three folds, without metadata) on the toy shelter, for which the coach has answered once."""
    place = tmp_path_factory.mktemp("coached")
    (place / "configs").symlink_to(ROOT / "configs")
    before = Path.cwd()
    pairs, twins.PAIRS = twins.PAIRS, 2
    os.chdir(place)
    try:
        words = ["train", "--data", str(drawn), "--run", "toy", *TRAIN, "model.metadata=none"]
        assert main(words) == 0
        photo = sorted((drawn / "test").glob("*.jpg"))[0]
        assert (
            main(["coach", str(photo), "--run", "toy", "--data", str(drawn), "--json", str(place / "first.json")]) == 0
        )
    finally:
        os.chdir(before)
        twins.PAIRS = pairs
    return place


@pytest.fixture
def bench(coached, monkeypatch):
    """The same as the current folder."""
    monkeypatch.chdir(coached)
    return coached
