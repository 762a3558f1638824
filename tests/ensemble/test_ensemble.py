"""`pawpularity ensemble` through the command: what it prints and writes, what reads it, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.data.folds import read_folds
from pawpularity.ensemble.methods import NAMES
from pawpularity.ensemble.record import blend_command
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.oof import read_oof
from pawpularity.runs import Run

QUICK = ("--draws", 200)
BLEND = Path("oof/ensemble")


def save(name, table, prediction):
    table.assign(prediction=prediction).to_csv(name, index=False)
    return name


@pytest.fixture
def files(work):
    """Three CSVs of the same 240 rows, their table, and predictions (240, 3)."""
    random = np.random.default_rng(0)
    signal = random.normal(38, 9, 240)
    target = np.clip(np.rint(signal + random.normal(0, 12, 240)), 1, 100)
    table = pd.DataFrame({"Id": [f"{i:04d}" for i in range(240)], "fold": np.arange(240) % 4, "target": target})
    predictions = np.clip(signal[:, None] + random.normal(0, 5, (240, 3)), 1, 100)
    return [save(f"m{j}.csv", table, predictions[:, j]) for j in range(3)], table, predictions


def weights_of():
    return json.loads((BLEND / "weights.json").read_text())


def test_a_blend_at_the_constant_says_so_whatever_its_members_are(files, paw):
    words, table, _ = files
    noise = np.random.default_rng(1).normal(0, 12, (2, 240))
    idle = [save(f"idle{j}.csv", table, table["target"].mean() + noise[j]) for j in range(2)]
    for members, due in ((idle, True), (words, False)):
        done = paw("ensemble", *members, *QUICK, "--method", "mean", "--json", "figures.json")
        said = json.loads(Path("figures.json").read_text())
        gain = next(row["difference"] for row in said["methods"] if row["method"] == "mean")
        assert gain < 0, "it gains over its best member"
        assert (said["to_constant"]["better"], "NO BETTER THAN THE CONSTANT" in done.out) == (not due, due)
        assert said["to_constant"]["difference"] == pytest.approx(said["methods"][1]["rmse"] - said["constant_rmse"])


def test_intervals_of_few_groups_are_indicative_however_many_rows_they_have(files, paw):
    _, table, predictions = files
    for size, due in ((4, False), (5, True)):  # 60 groups, 48
        groups = np.arange(240) // size
        words = [save(f"m{j}.csv", table.assign(fold=groups % 4), predictions[:, j]) for j in range(2)]
        table[["Id"]].assign(group=groups, fold=groups % 4).to_csv("folds.csv", index=False)
        done = paw("ensemble", *words, *QUICK, "--folds", "folds.csv", "--json", "figures.json")
        assert json.loads(Path("figures.json").read_text())["indicative"] is due
        assert ("indicative" in done.out) is due


def test_files_leave_a_run_that_the_table_reads(files, paw):
    words, table, predictions = files
    done = paw("ensemble", *words, *QUICK, "--json", "figures.json")
    assert done.code == 0, done.err
    assert "m0, m1" in done.err, "they score no photos"
    said, weights, run = json.loads(Path("figures.json").read_text()), weights_of(), Run.open(BLEND)
    assert [row["method"] for row in said["methods"]] == list(NAMES)
    figure = next(row for row in said["methods"] if row["method"] == said["method"] == "mean")
    assert figure["low"] < figure["rmse"] < figure["high"]
    assert figure["difference_low"] < figure["difference"] < figure["difference_high"]
    own_constant = np.array([table["target"][table["fold"] != fold].mean() for fold in table["fold"]])
    assert said["constant_rmse"] == pytest.approx(rmse(table["target"], own_constant))
    blend = weights["intercept"] + predictions @ [member["weight"] for member in weights["members"]]
    assert rmse(table["target"], np.clip(blend, 1, 100)) == pytest.approx(figure["same_rows_rmse"])
    assert weights["rmse"]["cross_fitted"] == figure["rmse"]
    assert (read_folds(Path(run.record["folds"]["file"])).folds_of(table["Id"]) == table["fold"]).all()
    row = json.loads(paw("oof", "ensemble", "--json", "-").out)["runs"][0]
    assert row["score"]["rmse"] == pytest.approx(figure["rmse"], abs=1e-5)
    assert row["score"]["constant_rmse"] == pytest.approx(said["constant_rmse"], abs=1e-5)


def test_the_same_command_gives_the_same_bytes(files, paw):
    words = ("ensemble", *files[0], *QUICK, "--method", "hill-climb+affine", "--seed", 3)
    assert paw(*words).code == 0
    before = {path.name: path.read_bytes() for path in BLEND.iterdir()}
    assert paw(*words).code == 0
    assert {path.name: path.read_bytes() for path in BLEND.iterdir()} == before
    command, members = blend_command(Run.open(BLEND), {weights_of()["members"][0]["hash"]: "m0.csv"})
    assert members == ["m0.csv", "path/to/m1.csv", "path/to/m2.csv"]
    assert command.endswith('METHOD=hill-climb+affine RUN=ensemble ARGS="--seed 3"')


def test_groups_of_a_folds_file(files, paw):
    """Rows in pairs: the members' own folds split them, which is reported; dealt folds keep them whole."""
    words, table, predictions = files
    pairs = table[["Id"]].assign(group=np.arange(240) // 2, fold=np.arange(240) // 2 % 3)
    pairs.to_csv("pairs.csv", index=False)
    assert "120 span" in paw("ensemble", *words, *QUICK, "--folds", "pairs.csv", "--full").out
    assert paw("oof", "ensemble").code == 0
    save("m2.csv", table.assign(fold=np.arange(240) % 7), predictions[:, 2])
    done = paw("ensemble", *words, *QUICK, "--folds", "pairs.csv", "--full")
    assert "m0 and m2 have different folds" in done.out
    folds = read_folds(BLEND / "folds.csv").frame
    assert folds["group"].nunique() == 120
    assert (folds["fold"][::2].to_numpy() == folds["fold"][1::2].to_numpy()).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [(("m0.csv",), "run: make train"), (("m0.csv", "m1.csv", "--method", "simplx"), '"simplex"'),
     (("m0.csv", "m1.csv", "--method", "best+affine"), "--method"), (("m0.csv", "m1.csv", "--run", "../x"), "--run"),
     (("m0.csv", "m1.csv", "--draws", 5), "--draws"), (("m0.csv", "m1.csv", "--seed", -1), "--seed"),
     (("m0.csv", "m1.csv", "--folds", "nowhere.csv"), "nowhere.csv"), ((), "two or more finished runs")],
)  # fmt: skip
def test_wrong_words(files, refused, words, said):
    assert said in refused("ensemble", *words)
    assert not Path("oof").exists()


def test_runs_blend_by_their_own_folds_and_score_photos(runs, paw, refused):
    done = paw("ensemble", *QUICK, "--method", "ridge+affine")
    assert done.code == 0, done.err
    assert "members a b" in done.err
    record, trained = (json.loads(Path(f"oof/{name}/config.json").read_text()) for name in ("ensemble", "a"))
    assert (record["folds"], record["data"]) == (trained["folds"], trained["data"])
    assert not (BLEND / "folds.csv").exists()
    for name in ("a", "b", "ensemble"):
        assert paw("predict", "--run", name).code == 0
    weights = weights_of()
    alone = [pd.read_csv(f"submissions/{name}.csv")["Pawpularity"].to_numpy() for name in "ab"]
    wanted = weights["intercept"] + np.stack(alone, axis=1) @ [member["weight"] for member in weights["members"]]
    got = pd.read_csv("submissions/ensemble.csv")["Pawpularity"]
    np.testing.assert_allclose(got, np.clip(wanted, 1, 100), atol=5e-6)
    assert not np.allclose(got, np.mean(alone, axis=0), atol=1e-3), "weights, not the mean"
    path = BLEND / "weights.json"
    path.write_text(path.read_text().replace('"intercept": ', '"intercept": 1'))
    assert "was changed" in refused("predict", "--run", "ensemble")
    assert "would overwrite" in refused("ensemble", "a", "b", "--run", "a")
    assert "is a blend" in refused("ensemble", "ensemble", "a")


def test_a_member_without_weight_is_not_predicted(runs, paw):
    assert paw("ensemble", "a", "b", *QUICK, "--method", "best").code == 0
    chosen = next(member["name"] for member in weights_of()["members"] if member["weight"])
    shutil.rmtree("oof/a" if chosen == "b" else "oof/b")
    for name in ("ensemble", chosen):
        assert paw("predict", "--run", name).code == 0
    assert Path("submissions/ensemble.csv").read_bytes() == Path(f"submissions/{chosen}.csv").read_bytes()


def test_the_default_members_are_finished_runs_of_one_data_set(runs, paw, refused):
    for name in "ab":
        shutil.copytree(f"oof/{name}", f"oof/other-{name}")
        file = Path(f"oof/other-{name}/config.json")
        record = json.loads(file.read_text())
        record["data"] |= {"name": "other", "hash": "0" * 12}
        file.write_text(json.dumps(record))
    assert "other-a other-b" in refused("ensemble")
    shutil.rmtree("oof/other-a/fold1")
    assert "members a b" in paw("ensemble", *QUICK).err
    assert "1 of 2 folds" in refused("ensemble", "a", "other-a")
    table = read_oof(Path("oof/a/oof.csv"))
    save("far.csv", table, table["target"] + np.random.default_rng(0).normal(0, 9, len(table)))
    assert paw("ensemble", "a", "far.csv", *QUICK).code == 0
    assert "far is a file" in refused("predict", "--run", "ensemble", "--data", "toy")
    run = Run.open(BLEND)
    assert run.record["data"] == Run.open(Path("oof/a")).record["data"]
    assert run.record["folds"]["file"] == "oof/ensemble/folds.csv"
