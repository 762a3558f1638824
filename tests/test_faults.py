"""Faults of the machine - no memory, a full or a read-only disk, two commands at once, a kill: one line, or nothing changed."""

import shutil
from pathlib import Path

import pytest
import torch
from tests.conftest import ROOT, TOY

from pawpularity.cli import main

SHORT = (*TOY, "train.epochs=1", "train.warmup_epochs=0", "folds.k=2")
TRAIN = ("train", "--config", "scratch", "--data", "input/toy", "--run", "toy", "model.unfrozen=8", *SHORT)


@pytest.fixture(scope="module")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with one trained run, `toy`, of two folds."""
    place = tmp_path_factory.mktemp("faults")
    (place / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(drawn, place / "input" / "toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(list(TRAIN)) == 0
    return place


@pytest.fixture
def checkout(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `trained` as the current folder."""
    place = tmp_path / "checkout"
    shutil.copytree(trained, place, symlinks=True)
    monkeypatch.chdir(place)
    return place


CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
                   "allocate 4503599627370496 bytes. Error code 12 (Cannot allocate memory)")  # fmt: skip
GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.")
OWN = "end other programs that use it"
WORDS = {
    "train": (*TRAIN, "--fold", "0"),
    "tune": ("tune", *TRAIN[1:], "--trials", "2"),
    "predict": ("predict", "--run", "toy"),
    "explain": ("explain", "--run", "toy", "--n", "2", "explain.methods=[rise]", "explain.masks=128"),
    "probe": ("probe", "--data", "input/toy", "--backbones", "test_resnet", "model.weights=none", "photos.size=32"),
}
SHORTAGES = [
    ("train", "training.loop.Loop.epoch", CPU, "lower train.batch_size"),
    ("train", "training.loop.Loop.epoch", MemoryError(), "lower train.batch_size"),
    ("train", "training.loop.Loop.epoch", GPU, "lower train.batch_size"),
    ("train", "trunk.build.run", CPU, "lower photos.size"),
    ("tune", "search.objective.fit_fold", CPU, "lower train.batch_size"),
    ("predict", "model.network.Network.tail", GPU, "compute on the CPU with PAWPULARITY_DEVICE=cpu"),
    ("predict", "model.network.Network.tail", CPU, OWN),
    ("explain", "explain.rise._scored", GPU, "lower explain.batch_size"),
    ("probe", "trunk.build.run", MemoryError("Unable to allocate 9 GiB for an array"), "lower photos.size"),
]


@pytest.mark.parametrize(("verb", "place", "error", "cure"), SHORTAGES)
def test_too_little_memory_is_one_line_that_says_what_to_lower(
    checkout, refused, monkeypatch, verb, place, error, cure
):
    shutil.rmtree(checkout / ".cache")

    def short(*args, **more):
        raise error.with_traceback(None)

    monkeypatch.setattr(f"pawpularity.{place}", short)
    line = refused(*WORDS[verb])
    assert line.startswith(f"{verb}: {'the GPU has ' if error is GPU else ''}not enough memory; {cure}"), line
    assert line.endswith(OWN)
    assert not list(checkout.rglob("*.part"))


def test_a_runtime_error_of_another_kind_keeps_its_traceback(checkout, paw, monkeypatch):
    def broken(*args, **more):
        raise RuntimeError("shapes (3,) and (4,) do not match")

    monkeypatch.setattr("pawpularity.training.loop.Loop.epoch", broken)
    with pytest.raises(RuntimeError, match="do not match"):
        paw(*WORDS["train"])
