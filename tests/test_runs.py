"""A finished run: what was changed by hand is noticed, what belongs together stays together."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import ROOT

from pawpularity import Predictor
from pawpularity.cli import main
from pawpularity.context import context
from pawpularity.errors import UserError
from pawpularity.runs import Run, check_name, fingerprint

TOY = ("--config", "sample", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "folds.k=2")


@pytest.fixture(scope="module")
def made(drawn, tmp_path_factory):
    """A checkout with the runs a and b on the data `toy`, and their blend."""
    place = tmp_path_factory.mktemp("made")
    (place / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(drawn, place / "toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for run, seed in (("a", 0), ("b", 1)):
            assert main(["train", "--data", "toy", *TOY, "--run", run, f"train.seed={seed}", "predict.flip=true"]) == 0
        assert main(["ensemble", "a", "b", "--run", "blend", "--method", "mean", "--draws", "100"]) == 0
    return place


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A copy of `made` as the current folder."""
    copy = Path(shutil.copytree(made, tmp_path / "place", symlinks=True))
    monkeypatch.chdir(copy)
    return copy


def drop_a_row(file):
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def flatter(file):
    table = pd.read_csv(file, dtype={"Id": str})
    table.assign(prediction=table["target"]).to_csv(file, index=False, float_format="%.6f")


def swap(file):
    table = pd.read_csv(file, dtype={"Id": str})
    table.assign(fold=1 - table["fold"]).to_csv(file, index=False)


def cut(file):
    file.write_bytes(file.read_bytes()[:-7])


def empty(file):
    file.write_bytes(b"")


HARMS = [
    ("oof/a/fold0/predictions.csv", drop_a_row, ("oof", "a")),
    ("oof/a/fold0/predictions.csv", flatter, ("oof", "a")),
    ("oof/a/fold0/predictions.csv", empty, ("compare", "a", "b")),
    ("oof/a/fold0/metrics.json", cut, ("oof", "a")),
    ("oof/a/config.json", cut, ("oof", "a")),
    ("oof/a/config.json", empty, ("predict", "--run", "a", "--data", "toy")),
    ("oof/blend/oof.csv", flatter, ("oof", "blend")),
    ("oof/blend/config.json", cut, ("predict", "--run", "blend", "--data", "toy")),
    ("oof/a/fold0/head.safetensors", cut, ("predict", "--run", "a", "--data", "toy")),
    ("oof/a/fold0/head.safetensors", empty, ("explain", "--run", "a", "--data", "toy", "--n", "1")),
    ("oof/folds/*.csv", swap, ("train", "--data", "toy", *TOY, "--run", "c")),
]


@pytest.mark.parametrize(
    ("file", "harm", "words"), HARMS, ids=lambda value: getattr(value, "__name__", str(value)[:40])
)
def test_a_damaged_artefact_is_one_line_that_names_it(file, harm, words, place, refused):
    (path,) = Path().glob(file)
    harm(path)
    line = refused(*words)
    assert path.name in line or path.parent.name in line


def test_another_folds_head_is_refused(place):
    """It fits, and has seen the photos it would be scored on."""
    shutil.copy("oof/a/fold1/head.safetensors", "oof/a/fold0/head.safetensors")
    assert Predictor.load("oof/a", folds=[1]).networks
    with pytest.raises(UserError, match="fold 0"):
        Predictor.load("oof/a", folds=[0])


def test_one_damaged_run_does_not_hide_the_others(place, paw):
    Path("oof/b/config.json").write_text("{}")
    done = paw("oof")
    assert done.code == 0
    assert " b" in done.err
    assert "\na " in done.out


def test_oof_csv_goes_when_a_fold_goes(place, paw):
    shutil.rmtree("oof/a/fold1")
    assert json.loads(paw("oof", "a", "--json", "-").out)["runs"][0]["folds"] == "1/2"
    assert not Path("oof/a/oof.csv").exists()


def test_the_predictor_scores_files_arrays_and_tables_alike(place):
    predictor = Predictor.load("oof/a")
    test = pd.read_csv("toy/test.csv", dtype={"Id": str})
    photos = [Path("toy/test") / f"{name}.jpg" for name in test["Id"]]
    scores = predictor.predict(photos, test)
    np.testing.assert_array_equal(scores, predictor.predict(photos, test[test.columns[::-1]]))
    np.testing.assert_array_equal(scores, predictor.predict(predictor.decode(photos), test))
    assert predictor.predict(str(photos[0])).shape == (1,)
    for bad in (lambda: predictor.predict([]), lambda: predictor.predict(photos, test.drop(columns="Eyes")),
                lambda: predictor.predict(photos[:1], [[np.nan] * 12]), lambda: predictor.predict(photos[:1], [[0] * 11]),
                lambda: predictor.predict(np.zeros((1, 5, 5, 3), np.uint8))):  # fmt: skip
        with pytest.raises(UserError):
            bad()


def test_predict_writes_the_mean_of_a_blends_runs(place, paw, refused):
    for run in ("a", "b", "blend"):
        assert paw("predict", "--run", run).code == 0
    a, b, blend = (pd.read_csv(f"submissions/{run}.csv")["Pawpularity"] for run in ("a", "b", "blend"))
    np.testing.assert_allclose(blend, (a + b) / 2, atol=1e-5)
    assert paw("predict", "--run", "a", "--out", "plain.csv", "predict.flip=false").code == 0
    assert Path("plain.csv").read_bytes() != Path("submissions/a.csv").read_bytes()
    assert json.loads(Path("submissions/a.json").read_text())["run"] == "a"
    assert ".csv" in refused("predict", "--run", "a", "--out", "s.json")
    assert "train.lr" in refused("predict", "--run", "a", "train.lr=1")


def test_the_cache_is_cleaned_whole_and_nothing_else(place, paw, refused):
    Path("raw").mkdir()
    Path("raw/photo.jpg").write_text("")
    assert "raw" in refused("clean-cache", "--folder", "raw", "--yes")
    assert Path("raw/photo.jpg").exists()
    assert paw("clean-cache", "--yes").code == 0
    assert not Path(".cache").exists()


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "/tmp/x", "..", "", "a\n", "a b", "$(id)", "-x", "a\0", "é", "folds", "x" * 200]
)
def test_a_runs_name_is_one_folders(name):
    with pytest.raises(UserError):
        check_name(name)


@pytest.mark.parametrize(
    ("config", "data", "words", "name"),
    [(None, "toy", [], "sample-toy"), ("scratch,paper", "toy", [], "scratch-paper-toy"), (None, "my pets é", [], "sample-my-pets"),
     ("small/vgg19_bn", "toy", [], "small-vgg19_bn-toy"), (None, "toy", ["model.backbone=resnet18.a1_in1k"], "resnet18-toy")],
)  # fmt: skip
def test_a_run_is_named_after_what_it_is(config, data, words, name, work, drawn):
    shutil.copytree(drawn, data)
    chosen = context(config, data, None, words)
    assert chosen.run.name == name
    again = context(*chosen.words[1:6:2], chosen.words[6:])
    assert again.run == chosen.run
    assert again.config == chosen.config


def test_a_fingerprint_ignores_what_decides_no_figure(place):
    record = Run.open(Path("oof/a")).record
    own = fingerprint(record)
    record["config"]["cache"]["budget_gb"] = 1.0
    record["config"]["train"]["workers"] = 3
    assert fingerprint(record) == own
    record["config"]["train"]["lr"] = 1.0
    assert fingerprint(record) != own
