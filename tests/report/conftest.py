"""A checkout in which everything was run at toy size: what a report is made of."""

import os
import shutil
from pathlib import Path

import pytest
from tests.conftest import ROOT

from pawpularity.cli import main
from pawpularity.studies.table1 import COLUMNS, write_table

TOY = ("--config", "sample", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "folds.k=2")
LEAKY = ("train.split=leaky", "train.augment=none", "train.copies=authors")
FEW = ("--draws", "200")


def cell(backbone: str, split: str, rmse: float) -> dict[str, object]:
    """A cell of Table 1 as table1 makes it."""
    own: dict[str, object] = {
        "backbone": backbone, "copies": "authors", "split": split, "rmse": rmse, "low": rmse - 1, "high": rmse + 1,
        "constant_rmse": 20.8 if split == "honest" else 26.7, "sd": 20.0, "r2": 0.4, "n": 60 if split == "honest" else 11,
        "indicative": split != "honest",
        "photos": 60, "with_copy_in_training": 0 if split == "honest" else 7, "epochs": 2, "seconds": 9.0, "device": "cpu",
        "dtype": "float32", "machine": "a processor, 2 cores", "paper_rmse": None if split == "honest" else 9.3,
    }  # fmt: skip
    assert own.keys() == set(COLUMNS)
    return own


@pytest.fixture(scope="session")
def everything(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, one of them leaky, half a run, a blend, and what every verb with a section of its own leaves."""
    place = tmp_path_factory.mktemp("everything")
    shutil.copytree(ROOT / "configs", place / "configs")
    shutil.copytree(drawn, place / "toy")
    before = Path.cwd()
    os.chdir(place)
    commands = [
        ["train", "--data", "toy", *TOY, "--run", "a"],
        ["train", "--data", "toy", *TOY, "--run", "b", "train.seed=1"],
        ["train", "--data", "toy", *TOY, "--run", "leaky", *LEAKY],
        ["train", "--data", "toy", *TOY, "--run", "half", "--fold", "0", "train.lr=0.01"],
        ["ensemble", "a", "b", *FEW, "--run", "blend"],
        ["errors", "a", *FEW, "--top", "3"],
        ["hypotheses", "--data", "toy/train.csv", "--run", "leaky", *FEW, "folds.k=2"],
        ["explain", "--run", "a", "--data", "toy", "--n", "1", "--masks", "512", "explain.road=false", "explain.sanity_photos=0",
         "explain.methods=[gradient,rise]", "explain.smooth=0"],
        ["explain", "--run", "a", "--data", "toy", "--group", "eyes", "--n", "2", "--masks", "256"],
        ["robustness", "--run", "a", "--data", "toy", "--photos", "4"],
        ["tune", "--data", "toy", *TOY, "--run", "found", "--trials", "2", "search.top=1"],
    ]  # fmt: skip
    try:
        for words in commands:
            assert main(words) == 0, words
        shutil.rmtree("oof/sample-toy")  # the search's own default: the very predictions of a
        assert main(["checklist"]) == 0
        write_table([cell("net", "honest", 15.9), cell("net", "leaky", 14.6)], Path("toy"))
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def at(everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may damage, as the current folder."""
    place = Path(shutil.copytree(everything, tmp_path / "place"))
    monkeypatch.chdir(place)
    return place
