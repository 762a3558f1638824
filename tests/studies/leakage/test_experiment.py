"""The leaky and the honest way with a network: what each may see, and the real commands at toy size."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import TOY

from pawpularity.config import resolve
from pawpularity.context import folds_of
from pawpularity.data.dataset import Dataset
from pawpularity.studies.leakage.experiment import honest_items, paper_settings, split_by_items
from pawpularity.studies.leakage.replay import item_split
from pawpularity.training.fold import labelled_photos
from pawpularity.training.samples import fold_items, items_of

CONFIG = resolve("scratch", [*TOY, "train.copies=authors", "train.warmup_epochs=0"])


@pytest.fixture
def rows(shelter, work):
    dataset = Dataset.load(shelter, Path(".cache"))
    return labelled_photos(dataset, folds_of(dataset, CONFIG), CONFIG)


def test_items_are_the_papers_in_table_order(rows, shelter):
    split = split_by_items(CONFIG, rows, np.arange(len(rows.scores)))
    table = pd.read_csv(shelter / "train.csv")["Pawpularity"].to_numpy(dtype=float)
    theirs = item_split(table, "authors")
    place = rows.photo_rows[split.validation.rows]
    assert place.tolist() == theirs.rows[theirs.validated].tolist()
    assert split.validation.copies.tolist() == theirs.copies[theirs.validated].tolist()
    assert (rows.scores[split.validation.rows] == table[place]).all()


def test_the_honest_way_shares_no_photo_nor_duplicate_with_what_is_validated(rows):
    every = np.arange(len(rows.scores))
    split = split_by_items(CONFIG, rows, every)
    honest = honest_items(split.training, split.validation, rows.groups)
    assert not set(rows.groups[honest.rows]) & set(rows.groups[split.validation.rows])
    assert split.leaked.any()
    assert set(split.training.rows) & set(split.validation.rows)
    assert len(split.training) + len(split.validation) == len(items_of(CONFIG, rows.scores, every))


def test_a_leaky_fold_trains_on_copies_of_its_photos_and_an_honest_one_does_not(rows):
    scored = np.arange(0, 60, 5)
    training = np.setdiff1d(np.arange(60), scored)
    honest = fold_items(CONFIG, rows.scores, training, scored, 0, 5)
    assert not np.isin(honest.rows, scored).any()
    leaky_config = resolve(
        "scratch", [*TOY, "train.copies=authors", "train.split=leaky", "train.augment=none", "train.warmup_epochs=0"]
    )
    leaky = fold_items(leaky_config, rows.scores, training, scored, 0, 5)
    leaked = np.isin(leaky.rows, scored)
    assert leaked.any()
    assert (leaky.copies[leaked] > 0).all()  # never the photo itself
    assert set(training) <= set(leaky.rows[leaky.copies == 0])


def test_paper_settings_leave_nothing_random():
    config = paper_settings(resolve("sample", []))
    assert (config.train.copies, config.train.augment, config.train.views) == ("authors", "none", 0)


def test_the_command(shelter, work, paw):
    words = ("leakage", "--data", shelter, "--config", "scratch", *TOY, "train.warmup_epochs=0")
    outcome = paw(*words, "--json", "out.json")
    assert outcome.code == 0, outcome.err
    assert "The same network trained both ways" in outcome.out
    value = json.loads(Path("out.json").read_text())["experiment"]
    assert {(w["trained"], w["scored"]) for w in value["ways"]} == {
        (a, b) for a in ("leaky", "honest") for b in ("leaky", "honest")
    }
    folder = Path("oof/leakage/scratch-toy")
    table = pd.read_csv(folder / "predictions.csv", dtype={"Id": str})
    for way in value["ways"]:
        part = table[table["scored"] == way["scored"]]
        assert way["rmse"] == pytest.approx(np.sqrt(np.mean((part["target"] - part[way["trained"]]) ** 2)), abs=1e-5)
        assert way["n"] == len(part)
    of = dict(iter(table[table["scored"] == "leaky"].groupby("copy_trained_on")))
    for known, word in ((True, "with"), (False, "without")):
        due = np.sqrt(np.mean((of[known]["target"] - of[known]["leaky"]) ** 2))
        assert value[f"leaky_rmse_{word}_sibling"] == pytest.approx(due, abs=1e-5)
    assert value["siblings"] == len(of[True])
    # The constant is the mean of the items the leaky network trains on; it is also what the lookup answers without a copy.
    target = table.loc[table["scored"] == "leaky", "target"]
    constant = next(w["constant_rmse"] for w in value["ways"] if (w["trained"], w["scored"]) == ("leaky", "leaky"))
    away = np.sqrt(constant**2 - np.var(target))
    means = (target.mean() - away, target.mean() + away)
    lookups = [np.sqrt(np.sum((of[False]["target"] - mean) ** 2) / len(target)) for mean in means]
    assert min(abs(value["lookup_rmse"] - lookup) for lookup in lookups) < 1e-6
    rmses = {(w["trained"], w["scored"]): w["rmse"] for w in value["ways"]}
    for scored, compared in value["honest_minus_leaky"].items():
        assert compared["difference"] == pytest.approx(rmses["honest", scored] - rmses["leaky", scored])
    held = set(table.loc[table["scored"] == "honest", "Id"])
    assert not held & set(table.loc[table["scored"] == "leaky", "Id"])
    assert (folder / "leakage.png").stat().st_size > 10_000
    before = (folder / "predictions.csv").read_bytes(), (folder / "leakage.png").read_bytes()
    paw(*words)
    assert ((folder / "predictions.csv").read_bytes(), (folder / "leakage.png").read_bytes()) == before
    # It is no run: the table over runs does not see it.
    assert "holds no run yet" in paw("oof").err


def test_a_leaky_run_is_named_as_such_everywhere(shelter, work, paw, refused):
    words = (
        "--data",
        shelter,
        "--config",
        "scratch",
        *TOY,
        "train.warmup_epochs=0",
        "folds.k=2",
        "train.copies=authors",
    )
    assert "LEAKY BY DESIGN" in paw("train", "--run", "bad", "train.split=leaky", "train.augment=none", *words).err
    paw("train", "--run", "good", *words)
    table = paw("oof").out
    assert [("LEAKY" in line) for line in table.splitlines() if line.startswith(("bad", "good"))].count(True) == 1
    assert "leaky by design" in refused("ensemble", "good", "bad")
    assert "leaky by design" in paw("compare", "good", "bad").err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--copies", "all"), "must be authors, paper or none"),
        (("--copies", "none", "train.warmup_epochs=0"), "leaks nothing"),
        (("--labels", "x.csv"), "is missing"),
        (("train.split=leaky", "train.augment=none", "train.warmup_epochs=0"), "makes none"),
        (("train.mixup=0.5", "train.warmup_epochs=0"), "sets itself"),
        (("--labels", "x.csv", "train.lr=1e-3"), "takes no train.lr=1e-3"),
    ],
)
def test_bad_words(shelter, work, refused, words, said):
    more = () if "--labels" in words else ("--data", shelter, "--config", "scratch", *TOY)
    assert said in refused("leakage", *more, *words)


def test_labels_and_data_are_one_too_many(shelter, work, refused):
    assert "give one of them" in refused("leakage", "--labels", shelter / "train.csv", "--data", shelter)


def test_the_figures_asked_for(real, work, paw):
    value = json.loads(paw("leakage", "--labels", real / "pawpularity-labels" / "train.csv", "--json", "-").out)
    assert {key: value[key] for key in ("items", "validation", "siblings")} == {
        "items": 16962,
        "validation": 1697,
        "siblings": 990,
    }
    assert round(value["lookup_rmse"], 3) == 9.305
    assert round(value["constant_rmse"], 3) == 27.556
    assert value["over_seeds"]["seeds"] == 200
