"""Files from outside: targets that went through float32, columns on another scale, rows that no model scored."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.errors import UserError
from pawpularity.evaluation.foreign import filler, read_foreign


def table(n=300, seed=0):
    """A model's predictions of whole scores."""
    random = np.random.default_rng(seed)
    target = np.clip(np.rint(random.gamma(3.5, 11, n)), 1, 100)
    prediction = 38 + 0.4 * (target - 38) + random.normal(0, 9, n)
    return pd.DataFrame({"Id": [f"{i:032x}" for i in range(n)], "fold": np.arange(n) % 5, "target": target,
                         "prediction": prediction})  # fmt: skip


def read(value, scale=None):
    value.to_csv("theirs.csv", index=False)
    return read_foreign(Path("theirs.csv"), "theirs.csv", scale)


def bfloat16(values):
    """The upper half of float32's bits, rounded."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    return (((bits + 0x8000) >> 16) << 16).view(np.float32).astype(np.float64)


ROUNDED = {
    "float32": lambda t: (np.float32(t) / np.float32(100) * np.float32(100)).astype(np.float64),
    "logarithm": lambda t: np.exp(np.log(t).astype(np.float32)).astype(np.float32).astype(np.float64),
    "float16": lambda t: (t / 100).astype(np.float16).astype(np.float64) * 100,
    "bfloat16": lambda t: bfloat16(t / 100) * 100,
}


@pytest.mark.parametrize("how", ROUNDED)
def test_rounded_targets_are_the_whole_scores(work, how):
    rounded = ROUNDED[how](table()["target"].to_numpy())
    assert (rounded != table()["target"]).any()
    assert (read(table().assign(target=rounded))["target"] == table()["target"]).all()
    assert (read(table().assign(target=rounded / 100, prediction=table()["prediction"] / 100), 100)["target"]
            == table()["target"]).all()  # fmt: skip


def test_other_targets_stay_what_they_are(work):
    for target in (table()["target"].where(table().index != 3, 50.1), table()["target"] + 0.07 * np.arange(300), 20.4):
        np.testing.assert_allclose(read(table().assign(target=target))["target"], target)


def test_targets_of_a_few_folds_may_be_rounded(work):
    for how in ("float16", "bfloat16"):
        target = table()["target"].where(table().index % 10 > 0, ROUNDED[how](table()["target"]))
        assert (target != table()["target"]).any()
        assert (read(table().assign(target=target))["target"] == table()["target"]).all()


@pytest.mark.parametrize("unknown", [0.0, -1.0, 999.0])
def test_rows_whose_score_is_not_known_are_named(work, unknown):
    with pytest.raises(UserError, match=r"12 of 300 targets.*not known"):
        read(table().assign(target=table()["target"].where(table().index % 25 > 0, unknown)))
    ten = table().assign(target=(table()["target"] / 10).round())
    assert ten["target"].min() == 0
    assert read(ten)["target"].equals(ten["target"]), "another scale"


def test_hundredths_and_tens_are_told_from_scores(work, capsys):
    rows = table()
    with pytest.raises(UserError, match=r"predictions .*--scale 0\.01"):
        read(rows.assign(prediction=rows["prediction"] * 100))
    mended = read(rows.assign(prediction=rows["prediction"] * 100), 0.01)
    np.testing.assert_allclose(mended["prediction"], rows["prediction"], atol=1e-5)
    assert (mended["target"] == rows["target"]).all()
    read(rows.assign(target=rows["target"] / 10, prediction=rows["prediction"] / 10))
    assert "--scale 10" in capsys.readouterr().err


OTHER_SCALES = {
    "z-scores": (lambda x: (x - 38) / 20, ("prediction", "target")),
    "eight bits": (lambda x: 2.55 * x, ("prediction", "target")),
    "z-scores, predictions alone": (lambda x: (x - 38) / 20, ("prediction",)),
    "logarithms, predictions alone": (np.log, ("prediction",)),
    "tens, predictions alone": (lambda x: x / 10, ("prediction",)),
}


@pytest.mark.parametrize("how", OTHER_SCALES)
def test_a_column_on_another_scale_is_not_read_in_silence(work, capsys, how):
    change, columns = OTHER_SCALES[how]
    rows = table().assign(prediction=table()["prediction"].clip(2, 99))
    read(rows)
    assert "scale" not in capsys.readouterr().err
    read(rows.assign(**{name: change(rows[name]) for name in columns}))
    assert "scale" in capsys.readouterr().err


def test_rounding_costs_no_alarm_no_comparison_and_no_metadata(drawn, work, paw):
    labels = pd.read_csv(drawn / "train.csv", dtype={"Id": str})
    labels.to_csv("train.csv", index=False)
    own = pd.DataFrame({"Id": labels["Id"], "fold": np.arange(60) % 5, "target": labels["Pawpularity"].astype(float)})
    random = np.random.default_rng(0)
    for name in "ab":
        own.assign(prediction=own["target"] + random.normal(0, 9, 60)).to_csv(f"{name}.csv", index=False)
    pd.read_csv("b.csv").assign(target=ROUNDED["float32"](own["target"].to_numpy())).to_csv("b.csv", index=False)
    assert paw("compare", "a.csv", "b.csv", "--draws", 100).code == 0
    assert "metadata of 60 rows" in paw("errors", "b.csv", "--data", "train.csv", "--draws", 100, "--full").out
    # Labels that were rounded are the same labels.
    labels.assign(Pawpularity=ROUNDED["float32"](own["target"].to_numpy())).to_csv("train.csv", index=False)
    assert "metadata of 60 rows" in paw("errors", "a.csv", "--data", "train.csv", "--draws", 100, "--full").out
    leak = table().assign(prediction=table()["target"] + random.normal(0, 3, 300))
    leak.assign(target=ROUNDED["float32"](leak["target"].to_numpy())).to_csv("leak.csv", index=False)
    assert "LEAK" in paw("leakcheck", "leak.csv").out


def test_data_whose_scores_differ_are_not_left_out_in_silence(drawn, work, paw):
    Path("input").mkdir()
    Path("input/petfinder-pawpularity-score").mkdir()
    labels = pd.read_csv(drawn / "train.csv", dtype={"Id": str})
    labels.to_csv("input/petfinder-pawpularity-score/train.csv", index=False)
    target = labels["Pawpularity"].where(labels.index > 0, 101 - labels["Pawpularity"])
    pd.DataFrame({"Id": labels["Id"], "fold": np.arange(60) % 5, "target": target, "prediction": 20 + np.arange(60) / 3}).to_csv(
        "mine.csv", index=False)  # fmt: skip
    assert "1 rows differ" in paw("errors", "mine.csv", "--draws", 100).err


# --- The scale --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stray", [1.00003, -0.02, 1.7, 37.0])
def test_a_stray_value_does_not_hide_the_scale(work, capfd, stray):
    share = table()["prediction"] / 100
    value = table().assign(prediction=share.where(share.index != 7, stray))
    with pytest.raises(UserError, match="--scale 100"):
        read(value)
    found = read(value, 100)
    np.testing.assert_allclose(found["prediction"], 100 * value["prediction"], atol=1e-6)
    np.testing.assert_array_equal(found["target"], table()["target"])
    assert "times 100" in capfd.readouterr().err


@pytest.mark.parametrize("scale", [10, 100, 0.1])
def test_the_users_scale_is_for_the_columns_that_need_it(work, scale):
    other = table().assign(prediction=table()["prediction"] / scale)
    for value in (other, table(), other.assign(target=table()["target"] / scale)):
        np.testing.assert_allclose(
            read(value, scale)[["target", "prediction"]], table()[["target", "prediction"]], atol=1e-5
        )


def test_targets_are_not_scaled_alone(work):
    with pytest.raises(UserError, match="one scale"):
        read(table().assign(target=table()["target"] / 100), 100)


# --- Rows that were never scored --------------------------------------------------------------------------------------


UNSCORED = {
    "two folds of zeros": lambda t: t["prediction"].where(t["fold"] < 3, 0.0),
    "two folds of their means": lambda t: t["prediction"].where(t["fold"] < 3, 37.0 + t["fold"]),
    "rounded, a fold of zeros": lambda t: t["prediction"].round().where(t["fold"] < 4, 0.0),
    "zeros here and there": lambda t: t["prediction"].where(t.index % 11 > 0, 0.0),
    "each fold's mean here and there": lambda t: t["prediction"].where(t.index % 11 > 0, 38 + t["fold"] / 7),
    "the mean here and there": lambda t: t["prediction"].where(t.index % 11 > 0, 38.04),
    "999 twice, among many ties": lambda t: t["prediction"].round().where(t.index > 1, 999.0),
    "-999 twice": lambda t: t["prediction"].where(t.index > 1, -999.0),
    "-999 once": lambda t: t["prediction"].where(t.index > 0, -999.0),
    "shares, -1 here and there": lambda t: (t["prediction"] / 100).where(t.index % 30 > 0, -1.0),
}


@pytest.mark.parametrize("how", UNSCORED)
def test_rows_that_no_model_scored_are_named(work, how):
    value = table().assign(prediction=UNSCORED[how])
    with pytest.raises(UserError, match="no model scored") as error:
        read(value, 100)
    count = sum(value["prediction"] != table()["prediction"].round() if "rounded" in how or "ties" in how else
                value["prediction"] != table()["prediction"] / (100 if "shares" in how else 1))  # fmt: skip
    assert how == "shares, -1 here and there" or f"{count} of 300" in str(error.value)


def test_a_fold_below_zero_is_no_fold(work, refused):
    table().assign(fold=np.where(np.arange(300) % 5 == 2, -1, 0)).to_csv("theirs.csv", index=False)
    table(seed=1).to_csv("other.csv", index=False)
    for words in (("oof", "theirs.csv"), ("leakcheck", "theirs.csv"), ("ensemble", "theirs.csv", "other.csv")):
        assert "60 of 300" in refused(*words)


LEGAL = {
    "a constant": lambda t: 38.0,
    "the constant of each fold": lambda t: 37 + t["fold"] / 7,
    "hardly trained, one other": lambda t: 38 + t["prediction"] / 1e4 + 0.5 * (t.index == 9),
    "clipped below": lambda t: t["prediction"].clip(30, 100),
    "clipped above": lambda t: t["prediction"].clip(1, 55),
    "clipped at nought": lambda t: (t["prediction"] - 30).clip(0),
    "clipped fold by fold": lambda t: t["prediction"].clip(30 + t["fold"], 50 - t["fold"]),
    "whole numbers": lambda t: t["prediction"].round(),
    "half precision": lambda t: t["prediction"].astype(np.float16),
    "two leaves": lambda t: np.where(t["prediction"] > 60, 70.0, 35.0),
    "ten leaves": lambda t: (t["prediction"] // 10) * 10 + 5,
    "a table of answers": lambda t: t["target"].where(t.index % 2 > 0, 38.04),
    "a fold each": lambda t: t["prediction"],
}


@pytest.mark.parametrize("how", LEGAL)
def test_ties_that_models_make_are_predictions(work, how):
    value = table().assign(prediction=LEGAL[how])
    assert len(read(value.assign(fold=np.arange(300)) if how == "a fold each" else value)) == 300


def test_clipping_is_hardly_ever_called_a_filler():
    random = np.random.default_rng(0)
    found = [
        filler(np.clip(random.normal(38, 12, n), low, 100)).any()
        for n in (40, 300, 3000)
        for low in (0, 10, 20)
        for _ in range(60)
    ]
    assert sum(found) <= 1
