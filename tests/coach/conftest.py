"""A toy run, trained on the photo alone, and what the coach learnt from it: made once for this room's tests."""

import os
from pathlib import Path

import pytest

from pawpularity.cli import main
from pawpularity.coach import evaluate_tips

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ("photos.size=64", "train.epochs=2", "train.warmup_epochs=0", "folds.k=3", "train.dtype=float32",
         "model.metadata=none")  # fmt: skip


@pytest.fixture(scope="session")
def coached(tmp_path_factory, drawn):
    """A checkout with run `toy` (three folds, without metadata) on the toy sample, for which the coach has answered once."""
    place, before, pairs = tmp_path_factory.mktemp("coached"), Path.cwd(), evaluate_tips.PAIRS
    (place / "configs").symlink_to(ROOT / "configs")
    evaluate_tips.PAIRS = 2
    os.chdir(place)
    try:
        assert main(["train", "--config", "sample", "--data", str(drawn), "--run", "toy", *TRAIN]) == 0
        photo = sorted((drawn / "test").glob("*.jpg"))[0]
        assert main(["coach", str(photo), "--run", "toy", "--data", str(drawn), "--json", "first.json"]) == 0
    finally:
        os.chdir(before)
        evaluate_tips.PAIRS = pairs
    return place


@pytest.fixture
def bench(coached, monkeypatch):
    """The same as the current folder."""
    monkeypatch.chdir(coached)
    monkeypatch.setattr(evaluate_tips, "PAIRS", 2)
    return coached
