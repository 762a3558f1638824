"""The main job through the real commands, at toy size: train, table, predict, all."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity import Predictor
from pawpularity.data.folds import read_folds
from pawpularity.errors import UserError
from pawpularity.evaluation.oof import read_oof

TOY = (
    "--config",
    "sample",
    "photos.size=32",
    "train.epochs=2",
    "train.warmup_epochs=0",
    "train.batch_size=16",
    "folds.k=3",
)


def record(run):
    return json.loads((Path("oof") / run / "config.json").read_text())


def test_a_fold_leaves_everything(work, shelter, paw):
    done = paw("train", "--data", shelter, *TOY, "--fold", 1)
    assert done.code == 0, done.err
    run = Path("oof/sample-toy")
    assert "out-of-fold RMSE" in done.out
    assert "constant" in done.out
    assert "noise floor" in done.err
    assert "the CPU" in done.err or "train.dtype" in done.err
    kept = {p.name for p in (run / "fold1").iterdir()}
    assert kept == {"predictions.csv", "metrics.json", "history.csv", "head.safetensors"}
    assert not (run / "oof.csv").exists()
    table, folds = read_oof(run / "fold1/predictions.csv"), read_folds(Path(record("sample-toy")["folds"]["file"]))
    assert set(table["Id"]) == set(folds.frame.loc[folds.frame["fold"] == 1, "Id"])
    assert (run / "fold1/predictions.csv").read_text().splitlines()[0] == "Id,fold,target,prediction"
    truth = pd.read_csv(shelter / "train.csv").set_index("Id")["Pawpularity"]
    assert (table["target"].to_numpy() == truth.loc[table["Id"]].to_numpy()).all()
    metrics = json.loads((run / "fold1/metrics.json").read_text())
    assert metrics["rmse"] == pytest.approx(np.sqrt(((table["target"] - table["prediction"]) ** 2).mean()), abs=1e-6)
    others = truth.drop(table["Id"])
    assert metrics["constant_rmse"] == pytest.approx(np.sqrt(((table["target"] - others.mean()) ** 2).mean()))
    assert {"epochs", "seconds", "seed", "device", "dtype", "dtype_reason", "n"} <= metrics.keys()
    assert len((run / "fold1/history.csv").read_text().splitlines()) == 3
    config = record("sample-toy")
    assert {"config", "data", "folds", "weights", "git_commit", "versions", "machine"} <= config.keys()
    assert str(work) not in json.dumps(config), "no path of this machine"


def test_the_same_command_twice_gives_the_same_bytes(work, shelter, paw):
    for run in ("one", "two"):
        assert paw("train", "--data", shelter, *TOY, "--fold", 0, "--run", run, "train.augment=strong").code == 0
    one, two = (Path("oof") / run / "fold0" for run in ("one", "two"))
    assert (one / "predictions.csv").read_bytes() == (two / "predictions.csv").read_bytes()
    before = (one / "head.safetensors").read_bytes()
    for _ in range(3):
        assert paw("train", "--data", shelter, *TOY, "--fold", 0, "--run", "one", "train.augment=strong").code == 0
        assert (one / "head.safetensors").read_bytes() == before


def test_all_folds_then_table_then_submission(work, shelter, paw):
    assert paw("train", "--data", shelter, *TOY, "--fold", 2).code == 0
    first = Path("oof/sample-toy/fold2/head.safetensors").stat().st_mtime_ns
    done = paw("train", "--data", shelter, *TOY, "model.weights=none", "model.unfrozen=9", "--run", "frozen")
    assert done.code == 0, done.err
    assert "only the tail is trained" in done.err
    assert "no BatchNorm ever learns" in done.err
    done = paw("train", "--data", shelter, *TOY)
    assert done.code == 0, done.err
    assert "fold 2 is trained already" in done.err
    assert Path("oof/sample-toy/fold2/head.safetensors").stat().st_mtime_ns == first
    table = read_oof(Path("oof/sample-toy/oof.csv"))
    assert len(table) == 60
    assert list(table["Id"]) == sorted(table["Id"])
    shown = paw("oof", "--json", "-")
    rows = {row["run"]: row for row in json.loads(shown.out)["runs"]}
    score = rows["sample-toy"]["score"]
    assert score["n"] == 60
    assert score["rmse"] == pytest.approx(np.sqrt(((table["target"] - table["prediction"]) ** 2).mean()))
    mean = {k: table.loc[table["fold"] != k, "target"].mean() for k in range(3)}
    assert score["constant_rmse"] == pytest.approx(np.sqrt(((table["target"] - table["fold"].map(mean)) ** 2).mean()))
    assert score["low"] < score["rmse"] < score["high"]
    text = paw("oof").out
    assert "sample-toy" in text
    assert "frozen" in text

    done = paw("predict", "--data", shelter, "--run", "frozen")
    assert done.code == 0, done.err
    submission = pd.read_csv("submissions/frozen.csv")
    assert list(submission.columns) == ["Id", "Pawpularity"]
    assert list(submission["Id"]) == list(pd.read_csv(shelter / "test.csv")["Id"])
    assert submission["Pawpularity"].between(1, 100).all()
    origin = json.loads(Path("submissions/frozen.json").read_text())
    assert origin["folds"] == {"frozen": [0, 1, 2]}
    assert origin["run"] == "frozen"

    # A random trunk is kept by the run, once; the packaged one is not. The tails hold nothing of either.
    assert Path("oof/frozen/frozen.safetensors").is_file()
    assert not Path("oof/sample-toy/frozen.safetensors").exists()

    # One predictor: what it says of a photo is what out-of-fold and submission say.
    predictor = Predictor.load("oof/frozen", folds=[1])
    rows_of_fold = read_oof(Path("oof/frozen/fold1/predictions.csv"))
    train = pd.read_csv(shelter / "train.csv", dtype={"Id": str}).set_index("Id")
    some = rows_of_fold["Id"].head(4)
    columns = train.loc[some].drop(columns="Pawpularity").to_numpy()
    again = predictor.predict([shelter / "train" / f"{i}.jpg" for i in some], columns)
    np.testing.assert_allclose(again, rows_of_fold["prediction"].head(4), atol=1e-3)
    alone = predictor.predict([shelter / "train" / f"{some[0]}.jpg"])
    assert 1 <= alone[0] <= 100


@pytest.fixture
def trained(work, shelter, paw):
    assert (
        paw("train", "--data", shelter, *TOY, "--fold", 0, "model.weights=none", "model.unfrozen=9", "--run", "r").code
        == 0
    )
    return shelter


def test_a_run_refuses_other_settings_data_and_trunks(trained, paw, refused):
    words = ("train", "--data", trained, *TOY, "--fold", 0, "model.weights=none", "model.unfrozen=9", "--run", "r")
    assert "train.lr was 0.001, is 0.01" in refused(*words, "train.lr=0.01")
    assert paw(*words, "train.workers=1").code == 0, "how fast it computes may differ"
    table = pd.read_csv(trained / "train.csv", dtype={"Id": str})
    table.loc[0, "Pawpularity"] = 101 - table.loc[0, "Pawpularity"]
    table.to_csv(trained / "train.csv", index=False)
    assert "its data had hash" in refused(*words)
    assert (Path("oof/r/fold0/predictions.csv")).is_file(), "nothing was lost"


def test_damaged_runs_are_refused_by_name(trained, refused):
    tail, trunk = Path("oof/r/fold0/head.safetensors"), Path("oof/r/frozen.safetensors")
    whole = tail.read_bytes()
    tail.write_bytes(whole[:-10])
    assert "head.safetensors" in refused("predict", "--data", trained, "--run", "r")
    tail.write_bytes(whole)
    data = bytearray(trunk.read_bytes())
    data[-1] ^= 1
    trunk.write_bytes(bytes(data))
    assert "trained behind" in refused("predict", "--data", trained, "--run", "r")
    assert not Path("submissions").exists()
    csv = Path("oof/r/fold0/predictions.csv")
    good = csv.read_text()
    for bad, said in (
        (good.replace("Id,", "id,", 1), 'column "Id" is missing'),
        (good + good.splitlines()[1] + "\n", "keep one of them"),
        ("\n".join([*good.splitlines()[:-1], good.splitlines()[-1].rsplit(",", 1)[0] + ",nan"]), "is empty"),
        ("Id,fold,target,prediction\n", "no rows"),
    ):
        csv.write_text(bad)
        assert said in refused("oof", "r")
    csv.write_text(good)
    Path("oof/r/config.json").write_text("{")
    assert "config.json" in refused("oof", "r")


def test_metadata_must_be_there_if_training_always_had_it(work, shelter, paw):
    assert paw("train", "--data", shelter, *TOY, "--fold", 0, "--run", "m", "model.metadata_dropout=0").code == 0
    predictor = Predictor.load("oof/m")
    photo = next((shelter / "train").iterdir())
    with pytest.raises(UserError, match="metadata"):
        predictor.predict([photo])
    assert predictor.predict([photo], [[0] * 12]).shape == (1,)
    with pytest.raises(UserError, match="shape"):
        predictor.predict([photo], [[0] * 11])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda d: (d / "train.csv").unlink(), "train.csv"),
        (lambda d: shutil.rmtree(d / "train"), "labels only"),
        (lambda d: next((d / "train").iterdir()).write_bytes(b""), "empty"),
        (lambda d: next((d / "train").iterdir()).write_bytes(b"not an image"), "not a JPEG"),
        (lambda d: next((d / "train").iterdir()).unlink(), ".jpg"),
    ],
)
def test_bad_data_ends_with_two_and_leaves_no_run(work, shelter, refused, damage, said):
    damage(shelter)
    assert said in refused("train", "--data", shelter, *TOY, "--fold", 0)
    assert not list(Path("oof").glob("*/fold*")) if Path("oof").exists() else True


@pytest.mark.parametrize("fold", [-1, 3, 99])
def test_fold_out_of_range(work, shelter, refused, fold):
    assert "0..2" in refused("train", "--data", shelter, *TOY, "--fold", fold)


def test_a_fold_that_another_process_trains_is_left_alone(work, shelter, paw, refused):
    from filelock import FileLock

    assert paw("train", "--data", shelter, *TOY, "--fold", 0).code == 0
    with FileLock("oof/sample-toy/.fold0.lock"):
        assert "another process" in refused("train", "--data", shelter, *TOY, "--fold", 0)


def test_a_broken_write_leaves_the_old_fold(work, shelter, paw, monkeypatch):
    assert paw("train", "--data", shelter, *TOY, "--fold", 0).code == 0
    before = Path("oof/sample-toy/fold0/predictions.csv").read_bytes()
    import pawpularity.training.fold as train

    def full(path, tensors, metadata):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(train, "save_tensors", full)
    done = paw("train", "--data", shelter, *TOY, "--fold", 0)
    assert done.code == 2
    assert "no disk space" in done.err
    assert Path("oof/sample-toy/fold0/predictions.csv").read_bytes() == before
    assert not list(Path("oof/sample-toy").glob(".fold0*.part"))


def test_all_from_estimate_to_submission(work, shelter, paw, refused):
    (work / "input").mkdir()
    shutil.copytree(shelter, "input/sample")
    words = ("all", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "folds.k=2")
    assert "YES=1" in refused(*words)
    assert not Path("oof").exists(), "nothing was trained without a go-ahead"
    done = paw(*words, "--yes")
    assert done.code == 0, done.err
    assert "time at most" in done.err
    runs = ["small-resnet152", "small-vgg19_bn", "small-densenet161", "small-efficientnet_b7"]
    tables = [read_oof(Path("oof") / run / "oof.csv") for run in runs]
    blend = read_oof(Path("oof/mean/oof.csv"))
    np.testing.assert_allclose(blend["prediction"], np.mean([t["prediction"] for t in tables], axis=0), atol=1e-6)
    members = []
    for run in runs:
        assert run in done.out
        assert paw("predict", "--run", run).code == 0
        members.append(pd.read_csv(f"submissions/{run}.csv")["Pawpularity"])
    mean = pd.read_csv("submissions/mean.csv")["Pawpularity"]
    np.testing.assert_allclose(mean, np.mean(members, axis=0), atol=2e-6)
    again = paw(*words, "--yes")
    assert again.code == 0
    assert "mean" in paw("oof").out


def test_labels_alone_give_folds_and_say_so(work, shelter, paw, refused):
    csv = work / "labels" / "train.csv"
    csv.parent.mkdir()
    shutil.copy(shelter / "train.csv", csv)
    done = paw("folds", "--data", csv, "folds.k=3", "--json", "-")
    assert done.code == 0, done.err
    assert "no duplicates were looked for" in done.err
    assert json.loads(done.out)["hash"]
    assert "labels only" in refused("train", "--data", csv, *TOY, "--fold", 0)


def test_real_input_gives_an_oof_file_of_20_photos(work, real, paw):
    done = paw("train", "--fold", 0, "--run", "real100", "--data", real / "pawpularity-100", "photos.size=64", "train.epochs=1",
               "model.backbone=mobilenetv2_100", f"model.weights={real / 'weights'}")  # fmt: skip
    assert done.code == 0, done.err
    table = read_oof(Path("oof/real100/fold0/predictions.csv"))
    assert len(table) == 20
    assert "indicative" in done.out
    assert not Path("oof/real100/frozen.safetensors").exists(), "a folder's weights are named, not copied"
    assert paw("predict", "--run", "real100", "--data", real / "pawpularity-100").code == 0
    assert len(pd.read_csv("submissions/real100.csv")) == 8


def test_folds_of_the_real_labels(work, real, paw):
    done = paw("folds", "--data", real / "pawpularity-labels" / "train.csv", "--json", "-")
    table = json.loads(done.out)["folds"]
    assert sum(row["photos"] for row in table) == 9912
    means = [row["mean"] for row in table]
    assert max(means) - min(means) < 0.1
