"""Table 1 through the real command at toy size: its cells, going on, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.studies.leakage.replay import replay

SMALL = ("photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "train.dtype=float32")
WORDS = ("--backbones", "densenet161", "--copies", "none", "authors", *SMALL)


def test_cells_are_what_they_say_and_are_not_trained_twice(shelter, work, paw):
    outcome = paw("table1", "--data", shelter, *WORDS, "--json", "cells.json")
    assert outcome.code == 0, outcome.err
    cells = {(c["copies"], c["split"]): c for c in json.loads(Path("cells.json").read_text())["cells"]}
    assert cells.keys() == {("none", "honest"), ("none", "leaky"), ("authors", "honest"), ("authors", "leaky")}
    scores = pd.read_csv(shelter / "train.csv")["Pawpularity"].to_numpy(dtype=float)
    known = replay(scores, "authors")
    leaky = cells["authors", "leaky"]
    assert (leaky["n"], leaky["with_copy_in_training"]) == (known.validation, known.siblings)
    assert leaky["constant_rmse"] == pytest.approx(known.constant_rmse)
    assert leaky["sd"] == pytest.approx(known.sd)
    assert leaky["paper_rmse"] is None  # another net, other data
    assert (cells["none", "leaky"]["n"], cells["none", "leaky"]["with_copy_in_training"]) == (6, 0)
    for rule in ("none", "authors"):
        honest = cells[rule, "honest"]
        assert honest["n"] == 60
        oof = pd.read_csv(f"oof/table1-small-densenet161-{rule}-toy/oof.csv")
        assert honest["rmse"] == pytest.approx(np.sqrt(np.mean((oof["target"] - oof["prediction"]) ** 2)), abs=1e-5)
        config = json.loads(Path(f"oof/table1-small-densenet161-{rule}-toy/config.json").read_text())["config"]["train"]
        assert (config["copies"], config["split"], config["augment"]) == (rule, "honest", "none")
    predictions = pd.read_csv("oof/table1/leaky-small-densenet161-authors-toy.csv")
    assert leaky["rmse"] == pytest.approx(
        np.sqrt(np.mean((predictions["target"] - predictions["prediction"]) ** 2)), abs=1e-5
    )
    frame, page = pd.read_csv("oof/table1/table1-toy-part.csv"), Path("oof/table1/table1-toy-part.md").read_text()
    assert len(frame) == 4
    assert frame["machine"].notna().all()
    assert f"**{leaky['rmse']:.2f}**" in page
    again = paw("table1", "--data", shelter, *WORDS, "--json", "again.json")
    assert "items to train on" not in again.err
    assert "folds 0" not in again.err
    assert json.loads(Path("again.json").read_text()) == json.loads(Path("cells.json").read_text())


@pytest.mark.parametrize("damage", ["predictions", "figures", "another file"])
def test_a_changed_cell_is_trained_again(shelter, work, paw, damage):
    words = ("table1", "--data", shelter, "--backbones", "vgg19_bn", "--copies", "authors", *SMALL)
    first = paw(*words).out
    file = next(Path("oof/table1").glob("leaky-*.csv"))
    whole = file.read_bytes()
    about = file.with_suffix(".json")
    if damage == "predictions":
        file.write_bytes(whole[:-9])
    elif damage == "figures":
        value = json.loads(about.read_text())
        about.write_text(json.dumps(value | {"row": value["row"] | {"rmse": 1.234}}))
    else:
        about.write_text("[1]")
    outcome = paw(*words)
    assert "was made with other settings or other data, or was changed; trained again" in outcome.err
    assert file.read_bytes() == whole
    assert (
        outcome.out.split(" s |")[0].rsplit("|", 1)[0] == first.split(" s |")[0].rsplit("|", 1)[0]
    )  # all but the time


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--config", "densenet161"), "own configs"),
        (("--copies", "author"), 'did you mean "authors"'),
        (("--backbones", "densenet"), 'did you mean "densenet161"'),
        (("train.copies=paper",), "leave it out"),
        (("train.split=leaky",), "leave it out"),
        (("--backbones", "densenet161", "folds.k=3"), "leave it out"),
    ],
)
def test_bad_words(shelter, work, refused, words, said):
    assert said in refused("table1", "--data", shelter, *words)


def test_labels_alone_cannot_make_it(shelter, work, refused):
    assert "labels only" in refused("table1", "--data", shelter / "train.csv", *SMALL)
