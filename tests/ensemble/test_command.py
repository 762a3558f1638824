"""`pawpularity ensemble` through the real command: what it prints and writes, what reads it, what is refused."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.cli import main
from pawpularity.data.folds import read_folds
from pawpularity.ensemble.methods import LOWEST, NAMES
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.oof import read_oof, read_run
from pawpularity.runs import Run

TOY = ("--config", "sample", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "folds.k=2")
QUICK = ("--draws", 200)


def made(n=240, m=3, seed=0):
    random = np.random.default_rng(seed)
    signal = random.normal(38, 9, n)
    target = np.clip(np.rint(signal + random.normal(0, 12, n)), 1, 100)
    return pd.DataFrame({"Id": [f"{i:04d}" for i in range(n)], "fold": np.arange(n) % 4, "target": target}), np.clip(
        signal[:, None] + random.normal(0, 5, (n, m)), 1, 100
    )


def save(name, table, prediction):
    Path(name).parent.mkdir(exist_ok=True)
    table.assign(prediction=prediction).to_csv(name, index=False)
    return name


@pytest.fixture
def files(work):
    """Three CSVs of the same 240 rows, and their table."""
    table, predictions = made()
    return [save(f"m{j}.csv", table, predictions[:, j]) for j in range(3)], table, predictions


@pytest.fixture(scope="module")
def trained(drawn, tmp_path_factory):
    """A checkout with the toy shelter in mine/ and three trained runs of it."""
    place = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(place)
    try:
        (place / "configs").symlink_to(Path(__file__).resolve().parents[2] / "configs")
        shutil.copytree(drawn, "mine")
        for seed, name in enumerate(("a", "b", "c")):
            assert main(["train", "--data", "mine", *TOY, "--run", name, f"train.seed={seed}"]) == 0
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def runs(trained, work):
    """A copy of it that a test may damage, as the current folder."""
    for name in ("mine", "oof", ".cache"):
        shutil.copytree(trained / name, name)


def weights_of(name="ensemble"):
    return json.loads(Path(f"oof/{name}/weights.json").read_text())


def test_files_leave_a_run_that_the_table_reads(files, paw):
    words, table, predictions = files
    done = paw("ensemble", *words, *QUICK, "--json", "figures.json")
    assert done.code == 0, done.err
    first = done.out.splitlines()[0]
    assert "taken as declared" in first
    assert "no member ever saw the rows it scores, nor chose its epoch on them" in first
    assert "`pawpularity leakcheck`" in first
    assert "by 4 folds: the fold column that all members share" in done.out
    assert "near-duplicates are not known" in done.out
    assert "flatters it" in done.out
    assert "simplex: the default for 240 rows" in done.out
    said = json.loads(Path("figures.json").read_text())
    assert [row["method"] for row in said["methods"]] == list(NAMES)
    figure = next(row for row in said["methods"] if row["method"] == "simplex")
    assert figure["low"] < figure["rmse"] < figure["high"]
    assert figure["difference_low"] < figure["difference"] < figure["difference_high"]
    assert figure["same_rows_rmse"] < figure["rmse"]
    own_constant = np.array([table["target"][table["fold"] != fold].mean() for fold in table["fold"]])
    assert said["constant_rmse"] == pytest.approx(rmse(table["target"], own_constant))
    assert [member["rmse"] for member in said["members"]] == pytest.approx(
        [rmse(table["target"], predictions[:, j]) for j in range(3)]
    )
    run = Run.open(Path("oof/ensemble"))
    assert run.kind == "ensemble"
    kept, weights = read_run(run), weights_of()
    assert rmse(kept["target"], kept["prediction"]) == pytest.approx(figure["rmse"], abs=1e-5)
    assert weights["rmse"]["cross_fitted"] == figure["rmse"]
    assert weights["rmse"]["same_rows"] == figure["same_rows_rmse"]
    blend = weights["intercept"] + predictions @ [member["weight"] for member in weights["members"]]
    assert rmse(table["target"], np.clip(blend, 1, 100)) == pytest.approx(figure["same_rows_rmse"])
    assert [member["source"] for member in weights["members"]] == ["file"] * 3
    assert [member["mean_prediction"] for member in weights["members"]] == pytest.approx(predictions.mean(axis=0))
    assert weights["mean_prediction"] == pytest.approx(kept["prediction"].mean(), abs=1e-6)
    folds = read_folds(Path(run.record["folds"]["file"]))
    assert (folds.folds_of(table["Id"]) == table["fold"]).all()
    assert json.loads(Path("oof/ensemble/folds.json").read_text())["hash"] == folds.hash == run.record["folds"]["hash"]
    assert run.record["data"]["name"] == "files"
    row = json.loads(paw("oof", "ensemble", "--json", "-").out)["runs"][0]
    assert row["score"]["rmse"] == pytest.approx(figure["rmse"], abs=1e-5)
    assert row["score"]["constant_rmse"] == pytest.approx(said["constant_rmse"], abs=1e-5)
    assert row["folds"] == "4/4"


def test_the_same_command_gives_the_same_bytes(files, paw):
    def kept():
        return {path.name: path.read_bytes() for path in Path("oof/ensemble").iterdir()}

    outputs = []
    for _ in range(2):
        done = paw("ensemble", *files[0], *QUICK, "--method", "hill-climb+affine")
        outputs.append((done.out, kept()))
    assert outputs[0] == outputs[1]
    assert "hill-climb+affine: asked for" in outputs[0][0]


def test_other_fold_columns_work_and_are_told(files, paw):
    words, table, predictions = files
    save("m2.csv", table.assign(fold=np.arange(240) % 7), predictions[:, 2])
    done = paw("ensemble", *words, *QUICK)
    assert done.code == 0, done.err
    assert "by 5 folds: dealt anew with seed 0, because m0 and m2 have different folds" in done.out
    assert Run.open(Path("oof/ensemble")).k == 5
    assert paw("oof", "ensemble").code == 0


def test_groups_of_a_folds_file(files, paw):
    """Rows in identical pairs: groups keep them together in dealt folds; in the members' own folds they are told."""
    words, table, _ = files
    pairs = table[["Id"]].assign(group=np.arange(240) // 2, fold=np.arange(240) // 2 % 3)
    pairs.to_csv("pairs.csv", index=False)
    done = paw("ensemble", *words, *QUICK, "--folds", "pairs.csv")
    assert done.code == 0, done.err
    assert "near-duplicates: 240 rows in 120 group(s)" in done.out
    assert "120 of them span(s) folds" in done.out
    assert paw("oof", "ensemble").code == 0
    for word, table_fold in zip(words, (3, 4, 5), strict=True):
        read_oof(Path(word)).assign(fold=np.arange(240) % table_fold).to_csv(word, index=False)
    done = paw("ensemble", *words, *QUICK, "--folds", "pairs.csv")
    assert "span(s)" not in done.out
    folds = read_folds(Path("oof/ensemble/folds.csv"))
    assert len(folds.frame["group"].unique()) == 120
    assert (folds.frame["fold"][::2].to_numpy() == folds.frame["fold"][1::2].to_numpy()).all()


def test_predictions_on_a_0_1_scale(files, paw, refused):
    words, table, predictions = files
    save("m2.csv", table, predictions[:, 2] / 100)
    assert "add --scale 100" in refused("ensemble", *words)
    assert not Path("oof").exists()
    assert paw("ensemble", *words, *QUICK, "--scale", 100).code == 0
    scaled = weights_of()
    save("m2.csv", table, predictions[:, 2])
    assert paw("ensemble", *words, *QUICK).code == 0
    assert [m["weight"] for m in scaled["members"]] == pytest.approx([m["weight"] for m in weights_of()["members"]])


def test_wrong_words(files, refused):
    words, _, _ = files
    assert "needs two members or more, 1 given" in refused("ensemble", words[0])
    assert "is given twice" in refused("ensemble", words[0], words[1], "./m0.csv")
    shutil.copy("m0.csv", "copy.csv")
    assert "hold the same predictions" in refused("ensemble", "m0.csv", "m1.csv", "copy.csv")
    assert 'did you mean "simplex"?' in refused("ensemble", *words, "--method", "simplx")
    assert "valid: best, hill-climb" in refused("ensemble", *words, "--method", "zzz")
    assert "there is no such file" in refused("ensemble", *words, "gone.csv")
    assert "holds no run" in refused("ensemble", "m0.csv", "m1")
    assert "must be letters" in refused("ensemble", *words, "--run", "../x")
    assert "must be 100 or more" in refused("ensemble", *words, "--draws", 5)
    assert "must be 0 or more" in refused("ensemble", *words, "--seed", -1)
    assert "must be above 0" in refused("ensemble", *words, "--scale", 0)
    assert "nowhere.csv" in refused("ensemble", *words, "--folds", "nowhere.csv")
    assert 'unknown option --metod; did you mean "--method"?' in refused("ensemble", *words, "--metod", "mean")
    assert "fewer than two finished runs of one data set (none)" in refused("ensemble")
    assert not Path("oof").exists()


def test_a_blend_is_no_member_and_no_file_can_score_photos(files, refused, paw, shelter):
    words, _, _ = files
    done = paw("ensemble", *words[:2], *QUICK)
    assert "cannot score photos with it: no networks are kept of m0, m1" in done.err
    assert "is a blend" in refused("ensemble", "ensemble", words[2])
    for data in ((), ("--data", shelter)):
        line = refused("predict", "--run", "ensemble", "--config", "sample", *data)
        assert "its member m0 is a file of predictions" in line
    assert not Path("submissions").exists()


def test_runs_blend_by_their_own_folds_and_score_photos(runs, paw, refused):
    done = paw("ensemble", *QUICK, "--method", "nnls+affine")
    assert done.code == 0, done.err
    assert "members a b c: all finished runs below oof/" in done.err
    record = json.loads(Path("oof/ensemble/config.json").read_text())
    trained = json.loads(Path("oof/a/config.json").read_text())
    assert record["folds"] == trained["folds"]
    assert record["data"] == trained["data"]
    assert not Path("oof/ensemble/folds.csv").exists()
    assert paw("oof").code == 0
    weights = weights_of()
    assert [member["source"] for member in weights["members"]] == ["run"] * 3
    for name in ("a", "b", "c", "ensemble"):
        done = paw("predict", "--run", name)
        assert done.code == 0, done.err
    alone = [pd.read_csv(f"submissions/{name}.csv")["Pawpularity"].to_numpy() for name in ("a", "b", "c")]
    wanted = weights["intercept"] + np.stack(alone, axis=1) @ [member["weight"] for member in weights["members"]]
    got = pd.read_csv("submissions/ensemble.csv")["Pawpularity"]
    np.testing.assert_allclose(got, np.clip(wanted, 1, 100), atol=5e-6)
    assert not np.allclose(got, np.mean(alone, axis=0), atol=1e-3), "weights, not the mean"
    origin = json.loads(Path("submissions/ensemble.json").read_text())
    assert origin["blend"]["intercept"] == weights["intercept"]
    path = Path("oof/ensemble/weights.json")
    text = path.read_text()
    path.write_text(text.replace('"intercept": ', '"intercept": 1'))
    assert "was changed since the blend was made" in refused("predict", "--run", "ensemble")
    path.unlink()
    assert "weights.json is missing" in refused("predict", "--run", "ensemble")
    assert "would overwrite" in refused("ensemble", "a", "b", "--run", "c")


def test_a_member_without_weight_is_not_predicted(runs, paw, refused):
    assert paw("ensemble", "a", "b", "c", *QUICK, "--method", "best").code == 0
    chosen = next(member["name"] for member in weights_of()["members"] if member["weight"])
    for name in {"a", "b", "c"} - {chosen}:
        shutil.rmtree(f"oof/{name}")
    assert paw("predict", "--run", "ensemble").code == 0
    assert paw("predict", "--run", chosen).code == 0
    assert Path("submissions/ensemble.csv").read_bytes() == Path(f"submissions/{chosen}.csv").read_bytes()


def test_a_blend_from_before_weights_were_kept_is_a_mean(runs, paw):
    assert paw("ensemble", "a", "b", *QUICK, "--method", "mean", "--run", "mean").code == 0
    assert paw("predict", "--run", "mean", "--out", "new.csv").code == 0
    record = Path("oof/mean/config.json")
    Path("oof/mean/weights.json").unlink()
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "weights_hash"}))
    assert paw("predict", "--run", "mean", "--out", "old.csv").code == 0
    assert Path("new.csv").read_bytes() == Path("old.csv").read_bytes()
    assert pd.read_csv("new.csv")["Pawpularity"].min() >= LOWEST


def test_unfinished_runs_and_several_data_sets(runs, paw, refused):
    shutil.rmtree("oof/c/fold1")
    assert "1 of 2 folds are there; run: make train RUN=c" in refused("ensemble", "a", "b", "c")
    done = paw("ensemble", *QUICK)
    assert "members a b:" in done.err
    shutil.rmtree("oof/b/fold1")
    assert "fewer than two finished runs of one data set (a)" in refused("ensemble")


def test_several_data_sets_are_not_mixed(runs, refused):
    for name in ("a", "b"):
        shutil.copytree(f"oof/{name}", f"oof/other-{name}")
        file = Path(f"oof/other-{name}/config.json")
        record = json.loads(file.read_text())
        record["data"] |= {"name": "other", "hash": "0" * 12}
        file.write_text(json.dumps(record))
    assert "several data sets (mine: a b c; other: other-a other-b); name those to blend" in refused("ensemble")


def test_runs_and_files_together(runs, paw, refused):
    random = np.random.default_rng(0)
    table = read_oof(Path("oof/a/oof.csv"))
    table.assign(prediction=table["target"] + random.normal(0, 9, len(table))).to_csv("far.csv", index=False)
    done = paw("ensemble", "a", "far.csv", *QUICK, "--method", "mean")
    assert done.code == 0, done.err
    assert "by 2 folds: the fold column that all members share" in done.out
    run = Run.open(Path("oof/ensemble"))
    assert run.record["data"] == Run.open(Path("oof/a")).record["data"]
    assert run.record["folds"]["file"] == "oof/ensemble/folds.csv"
    assert "far is a file of predictions" in refused("predict", "--run", "ensemble")
