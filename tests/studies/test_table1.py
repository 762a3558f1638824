"""Table 1 through the real command at toy size: its cells, resuming, and what it refuses."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pawpularity.evaluation.metrics import rmse
from pawpularity.studies.leakage import replay

SMALL = ("photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "train.dtype=float32")


def test_cells_are_what_they_say_and_are_not_trained_twice(drawn, work, paw):
    words = ("table1", "--data", drawn, "--backbones", "densenet161", "--copies", "none", "authors", *SMALL)
    done = paw(*words, "--json", "cells.json")
    assert done.code == 0, done.err
    cells = {(c["copies"], c["split"]): c for c in json.loads(Path("cells.json").read_text())["cells"]}
    assert cells.keys() == {("none", "honest"), ("none", "leaky"), ("authors", "honest"), ("authors", "leaky")}
    leaky = cells["authors", "leaky"]
    known = replay(pd.read_csv(drawn / "train.csv")["Pawpularity"].to_numpy(dtype=float))
    assert (leaky["n"], leaky["with_copy_in_training"]) == (known["validation"], known["siblings"])
    assert (leaky["constant_rmse"], leaky["sd"]) == (pytest.approx(known["constant_rmse"]), pytest.approx(known["sd"]))
    assert leaky["paper_rmse"] is None, "another net, other data"
    assert (cells["none", "leaky"]["n"], cells["none", "leaky"]["with_copy_in_training"]) == (6, 0)
    for rule in ("none", "authors"):
        run, honest = Path(f"oof/table1-small-densenet161-{rule}-toy"), cells[rule, "honest"]
        leaky_file = f"oof/table1/leaky-small-densenet161-{rule}-toy.csv"
        for path, cell in ((run / "oof.csv", honest), (leaky_file, cells[rule, "leaky"])):
            table = pd.read_csv(path)
            assert cell["n"] == len(table)
            assert cell["rmse"] == pytest.approx(rmse(table["target"], table["prediction"]), abs=1e-5)
        assert honest["with_copy_in_training"] == 0
        train = json.loads((run / "config.json").read_text())["config"]["train"]
        assert (train["copies"], train["split"], train["augment"]) == (rule, "honest", "none")
    frame, page = pd.read_csv("oof/table1/table1-toy-part.csv"), Path("oof/table1/table1-toy-part.md").read_text()
    assert len(frame) == 4
    assert f"{leaky['rmse']:.2f}" in page

    def times():
        return {path: path.stat().st_mtime_ns for path in Path("oof").glob("table1*/**/*") if path.suffix != ".lock"}

    # Stopped anywhere, the same command continues: what is there is not trained again, what is gone or of other settings is.
    before = times()
    again = paw(*words, "--json", "again.json")
    assert again.code == 0, again.err
    assert json.loads(Path("again.json").read_text()) == json.loads(Path("cells.json").read_text())
    changed = {path.name for path, time in times().items() if before.get(path) != time}
    assert changed <= {"table1-toy-part.csv", "table1-toy-part.md"}
    gone = Path("oof/table1/leaky-small-densenet161-none-toy.json")
    whole, predictions = gone.with_suffix(".csv").read_bytes(), (Path("oof/table1-small-densenet161-none-toy/fold1"))
    due = (predictions / "predictions.csv").read_bytes()
    value = json.loads(gone.read_text())
    gone.write_text(json.dumps(value | {"fingerprint": {}}))
    for path in predictions.iterdir():
        path.unlink()
    predictions.rmdir()
    assert paw(*words).code == 0
    assert (gone.with_suffix(".csv").read_bytes(), (predictions / "predictions.csv").read_bytes()) == (whole, due)
    assert json.loads(gone.read_text())["row"] | {"seconds": 0} == value["row"] | {"seconds": 0}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--copies", "author"), 'did you mean "authors"'),
        (("--backbones", "densenet"), 'did you mean "densenet161"'),
        (("train.copies=paper",), "train.copies"),
        (("train.split=leaky",), "train.split"),
        (("folds.k=3",), "folds.k"),
        (("train.lrr=3",), "train.lr"),
    ],
)
def test_wrong_words(drawn, work, refused, words, said):
    assert said in refused("table1", "--data", drawn, *words)


def test_labels_alone_cannot_make_it(drawn, work, refused):
    shutil.copy(drawn / "train.csv", "labels.csv")
    assert "no photos" in refused("table1", "--data", "labels.csv", *SMALL)
