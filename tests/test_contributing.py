"""docs/contributing.md does what it says: each of its four additions, made word for word in a copy, works."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import TOY

from pawpularity.cli import main

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "contributing.md").read_text()
RUN = ("train", "--data", "toy", "--fold", 0, *TOY, "folds.k=2", "train.epochs=1", "train.warmup_epochs=0",
       "train.loss=mse")  # fmt: skip


def recipe(title: str) -> tuple[str, str]:
    """The one block of code below a heading that begins with `title`: its language and its text."""
    (part,) = [part for part in GUIDE.split("\n### ") if part.startswith(title)]
    ((language, text),) = re.findall(r"^```(\w+)\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
    return language, text


def patched(place: Path, title: str) -> Path:
    """The first file of the copy at `place` that the recipe touches, after it did."""
    language, text = recipe(title)
    if language == "yaml":
        file = place / re.match(r"# (\S+)\n", text)[1]
        assert not file.exists()
        file.write_text(text)
        return file
    _, *parts = re.split(r"^\+\+\+ (\S+)\n", text, flags=re.MULTILINE)
    files = [place / name for name in parts[::2]]
    for file, part in zip(files, parts[1::2], strict=True):
        source = file.read_text()
        for hunk in re.split(r"^@@.*\n", part, flags=re.MULTILINE)[1:]:
            lines = hunk.splitlines(keepends=True)
            assert {line[0] for line in lines} <= set("+- ")
            before, after = ("".join(line[1:] for line in lines if line[0] != other) for other in "+-")
            assert source.count(before) == 1, before
            source = source.replace(before, after)
        file.write_text(source)
    return files[0]


@pytest.fixture(scope="module")
def first(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package and its configs beside a drawn shelter, and one fold of a run `mse`, trained before any change."""
    place = tmp_path_factory.mktemp("checkout")
    shutil.copytree(
        ROOT / "src" / "pawpularity", place / "src" / "pawpularity", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "configs", place / "configs")
    shutil.copytree(drawn, place / "toy")
    before = Path.cwd()
    os.chdir(place)
    try:
        assert main([str(word) for word in (*RUN, "--run", "mse")]) == 0
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def checkout(first: Path, tmp_path: Path) -> Path:
    """A copy of that for a test to change."""
    return Path(shutil.copytree(first, tmp_path / "checkout"))


def paw(place: Path, *words: object, code: int = 0) -> str:
    """The command of the copy at `place`; everything that it said."""
    done = subprocess.run(
        [sys.executable, "-m", "pawpularity", *map(str, words)],
        cwd=place, env=os.environ | {"PYTHONPATH": str(place / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def predictions(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "fold0" / "predictions.csv", dtype={"Id": str})


def test_the_layers_are_the_ones_that_are_linted() -> None:
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    (block,) = re.findall(r"^## Layers\n.*?^```\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert block.strip().splitlines() == layers


@pytest.mark.slow
def test_a_backbone(checkout: Path) -> None:
    file = patched(checkout, "A backbone")
    words = ("photos.size=32", "folds.k=2", "train.epochs=1", "model.weights=none")
    said = paw(checkout, "train", "--data", "toy", "--config", file.stem, "--fold", 0, *words)
    assert "40 of the backbone's 140 parameter tensors are trained" in said
    assert len(predictions(checkout / "oof" / f"{file.stem}-toy")) == len(predictions(checkout / "oof" / "mse"))


def test_a_loss(checkout: Path) -> None:
    patched(checkout, "A loss")
    paw(checkout, *RUN, "--run", "mae", "train.loss=mae")
    record = json.loads((checkout / "oof" / "mae" / "config.json").read_text())
    assert record["config"]["train"]["loss"] == "mae"
    ours, mse = predictions(checkout / "oof" / "mae"), predictions(checkout / "oof" / "mse")
    assert list(ours["Id"]) == list(mse["Id"])
    assert np.abs(ours["prediction"] - mse["prediction"]).max() > 0.01


@pytest.mark.slow
def test_a_saliency_method(checkout: Path) -> None:
    patched(checkout, "A saliency method")
    words = (
        "--n",
        1,
        "explain.cells=4",
        "explain.road=false",
        "explain.sanity_photos=2",
        "explain.methods=[occlusion]",
    )
    said = paw(checkout, "explain", "--data", "toy", "--run", "mse", *words)
    assert re.search(r"^occlusion +blur", said, re.MULTILINE)
    folder = checkout / "oof" / "mse" / "explain"
    table = pd.read_csv(folder / "explain.csv", dtype={"Id": str})
    assert set(table["method"]) == {"occlusion"}
    for name in table["Id"]:
        values = np.load(folder / "maps" / f"{name}.npz")["occlusion"]
        assert values.shape == (32, 32)
        assert len(np.unique(values)) > 8, "cells of a 4 x 4 grid"
        assert (folder / "panels" / f"{name}.png").is_file()
    assert "score points lost when the cell is hidden" in (folder / "index.html").read_text()


def test_a_hypothesis(checkout: Path) -> None:
    patched(checkout, "A hypothesis")
    labels = checkout / "toy" / "train.csv"
    said = paw(checkout, "hypotheses", "--data", labels, "--draws", 200, "--out", "found")
    assert re.search(r"^6 .*Human", said, re.MULTILINE)
    scores = pd.read_csv(labels)
    means = scores.groupby("Human")["Pawpularity"].mean()
    rows = json.loads((checkout / "found/hypotheses.json").read_text())["tested"]
    (row,) = [row for row in rows if row["hypothesis"] == 6]
    assert row["effect"] == pytest.approx(means[1] - means[0])
