"""A stopped training resumes from its checkpoint, with the same order of data, and ends where an uninterrupted one does."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from safetensors import safe_open
from tests.conftest import TOY

from pawpularity.signals import Stopped
from pawpularity.training import loop as loops
from pawpularity.training.checkpoint import Checkpointer

WORDS = ("--config", "scratch", *TOY, "train.epochs=6", "train.warmup_epochs=0", "folds.k=3", "--fold", "0")
WAYS = {
    "cosine": (),
    "early, refit": ("train.schedule=plateau", "train.stop=early", "train.refit=true", "train.patience=0"),
    "ema, mixup": ("train.ema=0.9", "train.mixup=0.3", "train.augment=strong"),
    "soup of checks, refit": (
        "train.schedule=plateau",
        "train.stop=early",
        "train.refit=true",
        "train.soup=3",
        "train.checks=2",
        "train.stop_patience=9",
        "train.layer_decay=0.7",
        "train.cutmix=1",
        "train.clip_grad=1",
    ),
    "cached features": ("model.unfrozen=9", "train.manifold_mixup=0.3"),
}


def predictions(run):
    return pd.read_csv(f"oof/{run}/fold0/predictions.csv")["prediction"].to_numpy()


class Interrupt:
    """Asks for an end after some steps, as SIGTERM would."""

    def __init__(self, monkeypatch, steps):
        self.left = steps
        real = loops.Loop._checkpoint_due

        def due(loop):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(loop)

        monkeypatch.setattr(loops.Loop, "_checkpoint_due", due)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("steps", [1, 8, 14])
def test_a_stop_at_any_step_changes_nothing(way, steps, work, drawn, paw, monkeypatch):
    words = ("train", "--data", drawn, *WORDS, *WAYS[way])
    assert paw(*words, "--run", "whole").code == 0
    with monkeypatch.context() as patch:
        Interrupt(patch, steps)
        stopped = paw(*words, "--run", "stopped")
    assert stopped.code == 143
    assert "same command" in stopped.err
    (file,) = Path("oof/stopped").glob(".fold0.checkpoint.safetensors")
    with safe_open(file, "pt") as opened:
        state = json.loads(json.loads(opened.metadata()["pawpularity"])["state"])
    assert {"check", "step", "history"} <= state.keys()
    done = paw(*words, "--run", "stopped")
    assert "resuming" in done.err
    assert not file.exists()
    np.testing.assert_allclose(predictions("stopped"), predictions("whole"), atol=1e-3)
    history = pd.read_csv("oof/stopped/fold0/history.csv")
    assert history["epoch"].tolist() == list(range(1, len(history) + 1))


@pytest.fixture
def stopped(work, drawn, paw, monkeypatch):
    """A fold that was stopped half way: the command and the checkpoint."""
    words = ["train", "--data", drawn, *WORDS, "--run", "a"]
    with monkeypatch.context() as patch:
        Interrupt(patch, 5)
        assert paw(*words).code == 143
    (file,) = Path("oof/a").glob(".fold0.checkpoint.safetensors")
    return words, file


def test_a_damaged_checkpoint_is_dropped_and_said(stopped, paw):
    words, file = stopped
    file.write_bytes(file.read_bytes()[:-10])
    done = paw(*words)
    assert (done.code, "dropped" in done.err, "resuming" in done.err) == (0, True, False)


@pytest.mark.parametrize(
    "change", ["train.lr=0.001", "photos.size=40", "train.seed=4", "train.dtype=bfloat16", "torch"]
)
def test_hours_of_work_are_not_thrown_away_unasked(change, stopped, paw, refused, monkeypatch):
    words, file = stopped
    before = file.read_bytes(), Path("oof/a/config.json").read_bytes()
    if change == "torch":
        monkeypatch.setattr("pawpularity.training.checkpoint.version", lambda package: "0.0")
    else:
        words = [*words, change]
    assert "--fresh" in refused(*words)
    assert (file.read_bytes(), Path("oof/a/config.json").read_bytes()) == before
    done = paw(*words, "--fresh")
    assert (done.code, "resuming" in done.err) == (0, False)


def test_a_fold_in_training_is_not_called_stopped(stopped, refused):
    words, _ = stopped
    with FileLock("oof/a/.fold0.lock"):
        assert "another process" in refused(*words, "train.lr=0.001")


def test_a_full_disk_does_not_end_the_training(work, drawn, paw, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pawpularity.training.checkpoint.save_tensors", full)
    done = paw("train", "--data", drawn, *WORDS, "--run", "a", "train.epochs=1")
    assert done.code == 0
    assert "no checkpoint" in done.err


def test_history_grows_with_every_epoch(work, drawn, paw, monkeypatch):
    lengths = []
    real = Checkpointer.save

    def save(keeper, tensors, state):
        lengths.append(len(Path("oof/a/fold0/history.csv").read_text().splitlines()) - 1)
        real(keeper, tensors, state)

    monkeypatch.setattr(Checkpointer, "save", save)
    assert paw("train", "--data", drawn, *WORDS, "--run", "a", "train.epochs=3").code == 0
    assert lengths == [1, 2, 3]


def test_a_second_ctrl_c_waits_for_nothing():
    from pawpularity.signals import StopRequest

    request = StopRequest()
    request.note(signal.SIGINT, None)
    with pytest.raises(Stopped):
        request.note(signal.SIGINT, None)
