"""`train.log`: the curves that a tracker shows are those of history.csv; a package that is missing is named at once."""

import csv
from pathlib import Path

import pytest
from tests.conftest import TOY

WORDS = ("--config", "scratch", *TOY, "train.warmup_epochs=0", "folds.k=3", "--fold", "0", "--run", "a")


def test_tensorboard_holds_the_curves_and_the_settings(work, drawn, paw):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert paw("train", "--data", drawn, *WORDS, "train.log=tensorboard", "train.stop=early").code == 0
    events = accumulator.EventAccumulator("oof/a/log/fold0").Reload()
    with Path("oof/a/fold0/history.csv").open() as file:
        history = list(csv.DictReader(file))
    for name in ("train_rmse", "inner_rmse", "lr"):
        told = [(event.step, event.value) for event in events.Scalars(name)]
        kept = [(int(row["epoch"]), float(row[name])) for row in history if row[name]]
        assert kept
        assert [step for step, _ in told] == [epoch for epoch, _ in kept]
        assert [value for _, value in told] == pytest.approx([value for _, value in kept], rel=1e-5)
    assert "train.lr" in next(Path("oof/a/log").rglob("hparams.yml")).read_text()


def test_a_package_that_is_missing_is_named(work, drawn, refused, monkeypatch):
    monkeypatch.setattr("pawpularity.training.trackers.find_spec", lambda name: None)
    assert "wandb" in refused("train", "--data", drawn, *WORDS, "train.log=wandb")
    assert not Path("oof/a").exists()
