"""`train` and `jobs` as commands: one fold, all folds, several at once, several processes; what stands there is checked."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from tests.conftest import TOY

from pawpularity import Predictor
from pawpularity.cli import main
from pawpularity.errors import UserError
from pawpularity.evaluation.oof import read_oof
from pawpularity.runs import Run
from pawpularity.training import fold as folds_module

WORDS = ("--config", "scratch", *TOY, "train.warmup_epochs=0", "folds.k=3")


def train(paw, data, *more):
    return paw("train", "--data", data, *WORDS, *more)


def test_all_folds_leave_the_contract(work, drawn, paw):
    done = train(paw, drawn, "--run", "a", "--json", "-", "predict.flip=true")
    assert done.code == 0, done.err
    row = json.loads(done.out)
    oof = pd.read_csv("oof/a/oof.csv", dtype={"Id": str})
    table = pd.read_csv(drawn / "train.csv", dtype={"Id": str}).sort_values("Id", ignore_index=True)
    assert oof["Id"].tolist() == table["Id"].tolist()
    np.testing.assert_array_equal(oof["target"], table["Pawpularity"])
    assert row["score"]["rmse"] == pytest.approx(
        float(np.sqrt(np.mean((oof["target"] - oof["prediction"]) ** 2))), abs=1e-6
    )
    for fold in range(3):
        names = {path.name for path in Path(f"oof/a/fold{fold}").iterdir()}
        assert names == {"predictions.csv", "metrics.json", "history.csv", "head.safetensors"}
    metrics = json.loads(Path("oof/a/fold0/metrics.json").read_text())
    assert {
        "rmse_with_flip",
        "rmse_without_flip",
        "constant_rmse",
        "seconds",
        "dtype_reason",
        "versions",
    } <= metrics.keys()
    assert "next: make" in done.err
    assert train(paw, drawn, "--run", "a", "predict.flip=true").code == 0, "nothing is left to do"


@pytest.mark.parametrize("words", [("train.lr=0.001",), ("folds.seed=1",), ("model.weights=none", "train.seed=1")])
def test_a_run_refuses_other_settings(words, work, drawn, paw, refused):
    assert train(paw, drawn, "--run", "a", "--fold", 0, "train.epochs=1").code == 0
    line = refused("train", "--data", drawn, *WORDS, "--run", "a", "--fold", 1, "train.epochs=1", *words)
    assert "oof/a" in line
    assert (
        train(paw, drawn, "--run", "a", "--fold", 1, "train.epochs=1", "cache.budget_gb=3", "train.workers=0").code == 0
    )


def test_a_run_refuses_other_data(work, shelter, paw, refused):
    assert train(paw, shelter, "--run", "a", "--fold", 0, "train.epochs=1").code == 0
    table = pd.read_csv(shelter / "train.csv", dtype={"Id": str})
    table.loc[0, "Pawpularity"] = 101 - table.loc[0, "Pawpularity"]
    table.to_csv(shelter / "train.csv", index=False)
    assert "data" in refused("train", "--data", shelter, *WORDS, "--run", "a", "--fold", 1, "train.epochs=1")


def test_a_fold_that_another_process_trains_is_left_to_it(work, drawn, paw, refused):
    assert train(paw, drawn, "--run", "a", "--fold", 0, "train.epochs=1").code == 0
    with FileLock("oof/a/.fold1.lock"):
        words = ("train", "--data", drawn, *WORDS, "--run", "a", "--fold", 1, "train.epochs=1")
        assert "fold1" in refused(*words)
        done = paw(*words, "--skip-taken")
    assert done.code == 0
    assert not Path("oof/a/fold1").exists()


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize(
    "other", [("model.output=linear", "train.loss=huber"), ("photos.size=40", "--fresh"), ("train.seed=1",)]
)
def test_a_run_in_training_cannot_become_another(other, fold, work, drawn, paw, monkeypatch):
    """The second command starts while the first one is in its first epoch: nothing of the run is finished yet."""
    real, codes = folds_module._train_fold, []
    words = ("train", "--data", str(drawn), *WORDS, "--run", "a", "train.epochs=1")

    def train_fold(*given, **more):
        monkeypatch.setattr(folds_module, "_train_fold", real)
        before = Path("oof/a/config.json").read_bytes()
        codes.append(main([*words, *other, "--fold", str(fold)]))
        assert Path("oof/a/config.json").read_bytes() == before
        real(*given, **more)

    monkeypatch.setattr(folds_module, "_train_fold", train_fold)
    assert paw(*words, "--fold", 0).code == 0
    assert codes == [2]
    assert not Path("oof/a/fold1").exists()
    rows = pd.read_csv("oof/a/fold0/predictions.csv", dtype={"Id": str})
    columns = pd.read_csv(drawn / "train.csv", dtype={"Id": str}).set_index("Id").loc[rows["Id"]]
    scores = Predictor.load("oof/a").predict([drawn / "train" / f"{name}.jpg" for name in rows["Id"]], columns)
    np.testing.assert_allclose(scores, rows["prediction"], atol=1e-3)


def test_a_run_that_never_finished_an_epoch_may_change_its_mind(work, drawn, paw, monkeypatch):
    """Random frozen weights of another seed too: those of the first start are not used again."""
    words = ("train", "--data", drawn, *WORDS, "--run", "a", "--fold", 0, "train.epochs=1", "model.unfrozen=9")

    def fit_fold(*_, **__):
        raise UserError("the loss is no longer finite")

    with monkeypatch.context() as patch:
        patch.setattr(folds_module, "fit_fold", fit_fold)
        assert paw(*words).code == 2
    assert Path("oof/a/frozen.safetensors").is_file()
    assert paw(*words, "train.seed=1").code == 0
    assert Predictor.load("oof/a").networks


def test_folds_of_other_settings_are_never_mixed(work, drawn, paw, refused):
    for run, fold, loss in (("a", 0, "bce"), ("b", 1, "mse")):
        assert train(paw, drawn, "--run", run, "--fold", fold, "train.epochs=1", f"train.loss={loss}").code == 0
    shutil.copytree("oof/b/fold1", "oof/a/fold1")
    for words in (("oof", "a"), ("predict", "--run", "a", "--data", drawn), ("explain", "--run", "a", "--data", drawn),
                  ("kernel", "--runs", "a"), ("train", "--data", drawn, *WORDS, "--run", "a", "train.epochs=1")):  # fmt: skip
        assert "train.loss" in refused(*words)
    assert not Path("oof/a/fold2").exists()
    shutil.rmtree("oof/a/fold1")
    assert paw("oof", "a").code == 0


def test_labels_alone_cannot_be_trained_on(work, drawn, refused):
    shutil.copy(drawn / "train.csv", "labels.csv")
    assert "no photos" in refused("train", "--data", "labels.csv", *WORDS)
    assert not Path("oof/scratch-labels").exists()


def test_a_batch_in_parts_trains_as_a_whole_one(work, drawn, paw):
    """Without BatchNorm's statistics and dropout, which see another part of a batch each time."""
    words = ("--fold", 0, "train.epochs=2", "train.frozen_bn=true", "model.dropout=0", "model.metadata_dropout=0")
    for run, parts in (("one", 1), ("parts", 3)):
        assert train(paw, drawn, "--run", run, *words, f"train.accumulation={parts}").code == 0
    one, parts = (pd.read_csv(f"oof/{run}/fold0/predictions.csv")["prediction"] for run in ("one", "parts"))
    np.testing.assert_allclose(parts, one, atol=0.05)


def test_more_processes_than_cores_are_refused(work, drawn, refused):
    assert "--processes 999" in refused("train", "--data", drawn, *WORDS, "--processes", 999)


@pytest.mark.slow
def test_two_processes_and_a_parameter_that_gets_no_gradient(work, drawn, paw, refused):
    words = ("--run", "a", "--processes", 2, "--fold", 0, "model.backbone=efficientvim_m1", "photos.size=64")
    done = train(paw, drawn, *words)
    assert done.code == 0, done.err
    assert "unused" not in done.err
    assert "photos.size" in refused("train", "--data", drawn, *WORDS, *words[:-1])


@pytest.mark.slow
def test_folds_side_by_side(work, drawn, paw):
    assert train(paw, drawn, "--run", "a", "--jobs", 2, "train.epochs=1").code == 0
    assert train(paw, drawn, "--run", "b", "train.epochs=1").code == 0
    ours, theirs = (pd.read_csv(f"oof/{run}/oof.csv")["prediction"] for run in "ab")
    np.testing.assert_allclose(ours, theirs, atol=3)  # another number of threads sums in another order


@pytest.mark.parametrize(("words", "key"), [(("--seeds", "x"), "--seeds"), (("--folds", "9"), "--folds"),
                                            (("--configs", "scratch scratch"), "oof/test_resnet"),
                                            (("--configs", "a", "--config", "b"), "--configs"),
                                            (("--run", "a", "--seeds", "0 1"), "--run")])  # fmt: skip
def test_jobs_that_make_no_sense(words, key, work, drawn, refused):
    assert key in refused("jobs", "--data", drawn, *TOY, "train.warmup_epochs=0", *words)


def test_jobs_of_several_seeds_are_named_after_their_backbone(work, drawn, paw):
    done = paw("jobs", "--config", "densenet161", "--data", drawn, *TOY, "train.warmup_epochs=0", "--seeds", "0 3")
    assert {line.split("--run ")[1].split()[0] for line in done.out.splitlines()} == {
        "test_resnet-toy",
        "test_resnet-toy-seed3",
    }


def test_jobs_quote_every_word(work, drawn, paw):
    data = shutil.copytree(drawn, work / "my $(touch x); 'pets'")
    words = ("model.weights=a b'c", 'model.weights=$(touch x);"y"')
    for word in words:
        done = paw("jobs", "--config", "scratch", "--data", data, *TOY, "train.warmup_epochs=0", word)
        for line in done.out.splitlines():
            assert {word, str(data)} <= set(shlex.split(line))
    assert not Path("x").exists()


def test_several_seeds_are_one_run(work, drawn, paw, refused):
    words = ("train", "--data", drawn, *WORDS, "train.epochs=1", "--run", "small", "--seeds", "0", "7")
    done = paw(*words, "--json", "-")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    singles = [read_oof(Path(f"oof/small-seed{seed}/oof.csv")) for seed in (0, 7)]
    assert Run.open(Path("oof/small-seed7")).config.train.seed == 7
    assert not singles[0]["prediction"].equals(singles[1]["prediction"])
    mean = np.mean([single["prediction"] for single in singles], axis=0)
    np.testing.assert_allclose(read_oof(Path("oof/small-seeds/oof.csv"))["prediction"], mean, atol=1e-4)
    errors = [np.sqrt(np.mean((single["prediction"] - single["target"]) ** 2)) for single in singles]
    assert found["seeds"] == pytest.approx({"mean": np.mean(errors), "sd": np.std(errors, ddof=1)}, abs=1e-4)
    assert paw("predict", "--run", "small-seeds", "--data", drawn).code == 0
    for bad in (("0",), ("0", "0"), ("0", "x")):
        assert "--seeds" in refused(*words[:-2], *bad)
