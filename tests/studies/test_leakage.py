"""The paper's leak: the replay against torch's own split and sums by hand, the experiment through the command at toy size."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import TOY

from pawpularity.config import resolve
from pawpularity.context import folds_of
from pawpularity.data.augment import copies
from pawpularity.data.dataset import Dataset
from pawpularity.evaluation.metrics import rmse
from pawpularity.studies.leakage import answers_table, honest_samples, lookup, over_seeds, paper_list, replay
from pawpularity.training.samples import TrainingData, fold_samples, paper_split, samples_of

SCRATCH = ("--config", "scratch", *TOY, "train.warmup_epochs=0")
CONFIG = resolve("scratch", [*TOY, "train.warmup_epochs=0", "train.copies=authors"])
SCORES = np.array([5.0, 30.0, 55.0, 70.0] * 30)


@pytest.mark.parametrize("rule", ["authors", "paper", "none"])
def test_the_replay_by_hand(rule):
    """Sample by sample; the paper's text draws the kind of its copies, which is that of seed 0 whatever the split's seed."""
    values = []
    for seed in range(200):
        rows, copy_of, validated = paper_list(SCORES, rule, seed)
        assert np.stack([rows, copy_of], axis=1).tolist() == np.argwhere(copies(SCORES, rule, 0)).tolist()
        trained = {int(row) for row in rows[~validated]}
        mean = SCORES[rows[~validated]].mean()
        answers, known, own_mean = lookup(SCORES, rows, validated)
        assert known.tolist() == [int(row) in trained for row in rows[validated]]
        assert own_mean == pytest.approx(mean)
        due = [SCORES[row] if int(row) in trained else mean for row in rows[validated]]
        assert answers == pytest.approx(due)
        values.append(rmse(SCORES[rows[validated]], due))
    found = over_seeds(SCORES, rule)["lookup_rmse"]
    assert (found["mean"], found["sd"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert replay(np.full(100, 30.0), rule)["r2"] is None, "scores that do not vary"
    whole = replay(SCORES, rule)
    assert whole["lookup_rmse"] == pytest.approx(values[42])
    assert whole["r2"] == pytest.approx(1 - (values[42] / whole["sd"]) ** 2)
    table = answers_table([f"p{row:03d}" for row in range(len(SCORES))][::-1], SCORES, rule)
    assert rmse(table["target"], table["prediction"]) == pytest.approx(values[42])
    assert table["Id"].is_unique
    assert table["Id"].is_monotonic_increasing


@pytest.fixture
def data(drawn, work):
    dataset = Dataset.load(drawn, Path(".cache"))
    return TrainingData.load(dataset, folds_of(dataset, CONFIG), CONFIG)


def test_the_experiments_samples_are_the_replays_and_the_honest_ones_share_no_photo(data, drawn):
    every = np.arange(len(data.scores))
    training, validation = paper_split(CONFIG, data, every)
    table = pd.read_csv(drawn / "train.csv")["Pawpularity"].to_numpy(dtype=float)
    rows, copy_of, validated = paper_list(table, "authors")
    assert data.photo_rows[validation.rows].tolist() == rows[validated].tolist()
    assert validation.copies.tolist() == copy_of[validated].tolist()
    assert len(training) + len(validation) == len(samples_of(CONFIG, data.scores, every))
    honest = honest_samples(training, validation, data.groups)
    assert set(training.rows) & set(validation.rows)
    assert not set(data.groups[honest.rows]) & set(data.groups[validation.rows])


def test_a_leaky_fold_trains_on_copies_of_its_photos_and_an_honest_one_does_not(data):
    scored = np.arange(0, 60, 5)
    training = np.setdiff1d(np.arange(60), scored)
    assert not np.isin(fold_samples(CONFIG, data.scores, training, scored, 0, 5).rows, scored).any()
    leaky = CONFIG.with_values({"train.split": "leaky", "train.augment": "none"})
    samples = fold_samples(leaky, data.scores, training, scored, 0, 5)
    leaked = np.isin(samples.rows, scored)
    assert leaked.any()
    assert (samples.copies[leaked] > 0).all(), "never the photo itself"
    assert set(training) <= set(samples.rows[samples.copies == 0])


def test_the_command_trains_both_ways_and_its_figures_are_those_of_its_table(drawn, work, paw):
    done = paw("leakage", "--data", drawn, *SCRATCH, "--json", "out.json")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) <= 20
    value = json.loads(Path("out.json").read_text())["experiment"]
    (folder,) = Path("oof/leakage").iterdir()
    table = pd.read_csv(folder / "predictions.csv", dtype={"Id": str})
    rmses = {}
    for way in value["ways"]:
        part = table[table["scored"] == way["scored"]]
        rmses[way["trained"], way["scored"]] = way["rmse"]
        assert way["rmse"] == pytest.approx(rmse(part["target"], part[way["trained"]]), abs=1e-5)
        assert way["n"] == len(part)
    assert len(rmses) == 4
    leaky = table[table["scored"] == "leaky"]
    of = dict(iter(leaky.groupby("copy_trained_on")))
    for known, word in ((True, "with"), (False, "without")):
        due = rmse(of[known]["target"], of[known]["leaky"])
        assert value[f"leaky_rmse_{word}_sibling"] == pytest.approx(due, abs=1e-5)
    assert (value["validation"], value["siblings"]) == (len(leaky), len(of[True]))
    for scored, compared in value["honest_minus_leaky"].items():
        assert compared["difference"] == pytest.approx(rmses["honest", scored] - rmses["leaky", scored])
    assert not set(table.loc[table["scored"] == "honest", "Id"]) & set(leaky["Id"])
    before = [(folder / name).read_bytes() for name in ("predictions.csv", "leakage.png")]
    assert len(before[1]) > 10_000
    paw("leakage", "--data", drawn, *SCRATCH)
    assert [(folder / name).read_bytes() for name in ("predictions.csv", "leakage.png")] == before
    assert "no run" in paw("oof").err, "it is not listed as a run"


@pytest.mark.parametrize(
    "words",
    [("--copies", "all"), ("--copies", "none"), ("train.split=leaky",), ("train.mixup=0.5",), ("--labels", "x.csv")],
)
def test_wrong_words(drawn, work, refused, words):
    assert words[0].partition("=")[0] in refused("leakage", "--data", drawn, *SCRATCH, *words)


def test_labels_need_no_photos_and_must_be_there(drawn, work, paw, refused):
    assert "x.csv" in refused("leakage", "--labels", "x.csv")
    found = json.loads(paw("leakage", "--labels", drawn / "train.csv", "--copies", "none", "--json", "-").out)
    assert (found["samples"], found["siblings"]) == (60, 0)
    assert found["lookup_rmse"] == found["constant_rmse"]
