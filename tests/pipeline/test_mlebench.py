"""MLE-bench's split and grader: the same rows as by its own rule, and what its grader refuses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split

from pawpularity.data.tables import read_train
from pawpularity.pipeline.mlebench import split_rows

TOY = ("--config", "scratch", "photos.size=32", "folds.k=2", "train.epochs=1", "train.warmup_epochs=0", "train.dtype=float32",
       "model.backbone=test_resnet")  # fmt: skip


def test_the_contests_split_has_the_benchmarks_rows(real):
    labels = real / "pawpularity-labels/train.csv"
    known, hidden = train_test_split(pd.read_csv(labels), test_size=0.1, random_state=0)
    own_known, own_hidden = split_rows(read_train(labels))
    assert (len(own_known), len(own_hidden)) == (8920, 992)
    assert own_known["Id"].tolist() == known["Id"].tolist()
    assert own_hidden["Pawpularity"].tolist() == hidden["Pawpularity"].tolist()


def test_a_run_learns_without_the_hidden_scores_and_is_graded_on_them(shelter, work, paw):
    done = paw("mlebench", "--data", shelter, *TOY, "--json", "-")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    labels = pd.read_csv(shelter / "train.csv")
    known, hidden = train_test_split(labels, test_size=0.1, random_state=0)
    folder = next(Path("input").glob("mlebench*"))
    assert set(pd.read_csv(folder / "train.csv")["Id"]) == set(known["Id"])
    assert "Pawpularity" not in pd.read_csv(folder / "test.csv").columns
    assert pd.read_csv(folder / "sample_submission.csv")["Pawpularity"].nunique() == 1
    scores = pd.read_csv(found["submission"]).set_index("Id")["Pawpularity"][hidden["Id"]]
    assert found["rmse"] == pytest.approx(root_mean_squared_error(hidden["Pawpularity"], scores), abs=1e-5)
    assert found["n"] == len(hidden)
    constant = np.full(len(hidden), known["Pawpularity"].mean())
    assert found["constant_rmse"] == pytest.approx(root_mean_squared_error(hidden["Pawpularity"], constant))


def test_a_file_is_graded_as_it_is_or_refused(shelter, work, paw, refused):
    hidden = split_rows(read_train(shelter))[1]
    hidden[["Id", "Pawpularity"]].to_csv("best.csv", index=False)
    done = paw("mlebench", "--data", shelter, "--submission", "best.csv", "--json", "-")
    assert json.loads(done.out)["place"] == "gold"
    bad = {"short": hidden[1:], "other": hidden.assign(Id=[f"x{i}" for i in range(len(hidden))]),
           "range": hidden.assign(Pawpularity=0.5), "twice": pd.concat([hidden, hidden[:1]])}  # fmt: skip
    for name, rows in bad.items():
        rows[["Id", "Pawpularity"]].to_csv(f"{name}.csv", index=False)
        refused("mlebench", "--data", shelter, "--submission", f"{name}.csv")
    refused("mlebench", "--data", shelter, "--submission", "none.csv")
