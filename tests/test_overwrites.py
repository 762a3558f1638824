"""No output replaces an input: the command refuses, and the input is what it was."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


@pytest.mark.parametrize(
    "words",
    ["oof own.csv --json own.csv", "errors own.csv --data toy --out .", "errors toy/own.csv --data toy --out toy",
     "leakcheck own.csv --out .", "hypotheses --data toy --out toy", "hypotheses --data toy --run toy/own.csv --out toy",
     "predict --run a --data toy --out toy/test.csv", "predict --run a --data toy --out toy/sample_submission.csv",
     "coach pet.jpg --run a --data toy --out pet.jpg"],
)  # fmt: skip
def test_an_output_never_replaces_an_input(runs, refused, unharmed, words):
    rows = pd.read_csv("toy/train.csv", dtype={"Id": str}).rename(columns={"Pawpularity": "target"})
    rows["fold"], rows["prediction"] = np.arange(len(rows)) % 4, 38 + np.sin(np.arange(len(rows)))
    for place in ("own.csv", "toy/own.csv"):
        rows[["Id", "fold", "target", "prediction"]].to_csv(place, index=False)
    shutil.copy(next(Path("toy/train").glob("*.jpg")), "pet.jpg")
    with unharmed(runs):
        assert "--out" in (line := refused(*words.split())) or "--json" in line


def test_a_folder_beside_the_inputs_is_not_refused(runs, paw):
    done = paw("predict", "--run", "a", "--data", "toy", "--out", "toy/mine.csv")
    assert done.code == 0, done.err
