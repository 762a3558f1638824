"""A finished run: what was changed by hand is noticed, what belongs together stays together."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.conftest import QUICK_RUN

from pawpularity import Predictor
from pawpularity.cli import main
from pawpularity.context import context
from pawpularity.errors import UserError
from pawpularity.runs import Run, check_name, fingerprint

BLEND = ("ensemble", "a", "b", "--run", "blend", "--method", "mean", "--draws", "100")


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


@pytest.mark.parametrize(
    ("file", "harm", "words"),
    [("oof/a/fold0/predictions.csv", flatter, ("oof", "a")), ("oof/a/fold0/predictions.csv", empty, ("compare", "a", "b")),
     ("oof/a/fold0/metrics.json", cut, ("oof", "a")), ("oof/a/config.json", cut, ("oof", "a")),
     ("oof/a/config.json", empty, ("predict", "--run", "a")), ("oof/blend/oof.csv", flatter, ("oof", "blend")),
     ("oof/a/fold0/head.safetensors", cut, ("predict", "--run", "a", "--data", "toy")),
     ("oof/a/fold0/head.safetensors", empty, ("explain", "--run", "a", "--data", "toy", "--n", "1")),
     ("oof/folds/*.csv", swap, ("train", "--data", "toy", *QUICK_RUN, "--run", "c"))],
)  # fmt: skip
def test_a_damaged_artefact_is_one_line_that_names_it(file, harm, words, runs, refused):
    assert "blend" not in file or main(list(BLEND)) == 0
    (path,) = Path().glob(file)
    harm(path)
    line = refused(*words)
    assert path.name in line or path.parent.name in line


def test_another_folds_head_is_refused(runs):
    """It fits, and has seen the photos it would be scored on."""
    shutil.copy("oof/a/fold1/head.safetensors", "oof/a/fold0/head.safetensors")
    assert Predictor.load("oof/a", folds=[1]).networks
    with pytest.raises(UserError, match="fold 0"):
        Predictor.load("oof/a", folds=[0])


def test_oof_csv_goes_when_a_fold_goes(runs, paw):
    shutil.rmtree("oof/a/fold1")
    assert "1/2" in paw("oof", "a").out
    assert not Path("oof/a/oof.csv").exists()


def test_the_predictor_scores_files_arrays_and_tables_alike(runs):
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


def test_predict_writes_the_mean_of_the_folds_and_of_the_blend(runs, paw, refused):
    assert main(list(BLEND)) == 0
    for run in ("a", "b", "blend"):
        assert paw("predict", "--run", run).code == 0
    a, b, blend = (pd.read_csv(f"submissions/{run}.csv")["Pawpularity"] for run in ("a", "b", "blend"))
    np.testing.assert_allclose(blend, (a + b) / 2, atol=1e-5)
    assert paw("predict", "--run", "a", "--out", "plain.csv", "predict.flip=false").code == 0
    assert Path("plain.csv").read_bytes() != Path("submissions/a.csv").read_bytes()
    assert json.loads(Path("submissions/a.json").read_text())["run"] == "a"
    assert ".csv" in refused("predict", "--run", "a", "--out", "s.json")
    assert "train.lr" in refused("predict", "--run", "a", "train.lr=1")


def test_the_cache_is_cleaned_whole_and_nothing_else(runs, paw, refused):
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
     ("small/vgg19_bn", "toy", [], "small-vgg19_bn-toy"), (None, "toy", ["model.backbone=resnet18.a1_in1k"], "resnet18-toy"),
     ("densenet161", "toy", ["model={backbone: mobilenetv2_100}"], "mobilenetv2_100-toy"),
     ("densenet161", "toy", ["model.backbone=densenet161.tv_in1k"], "densenet161-toy"),
     ("densenet161", "toy", ["model.backbone=hf-hub:timm/resnet18.a1_in1k"], "resnet18-toy"),
     ("densenet161", "toy", ["model.backbone=resnet18", "model.backbone=mobilenetv2_100"], "mobilenetv2_100-toy")],
)  # fmt: skip
def test_a_run_is_named_after_what_it_is(config, data, words, name, work, drawn):
    shutil.copytree(drawn, data)
    chosen = context(config, data, None, words)
    assert chosen.run.name == name
    again = context(*chosen.words[1:6:2], chosen.words[6:])
    assert again.run == chosen.run
    assert again.config == chosen.config


def test_a_fingerprint_ignores_what_decides_no_figure(runs):
    record = Run.open(Path("oof/a")).record
    own = fingerprint(record)
    record["config"]["cache"]["budget_gb"] = 1.0
    record["config"]["train"]["workers"] = 3
    assert fingerprint(record) == own
    record["config"]["train"]["lr"] = 1.0
    assert fingerprint(record) != own
