"""Runs by name and anybody's CSVs."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pawpularity.evaluation.predictions import groups_of_all, is_file_word, open_predictions, open_several


def table(n=40, folds=4, seed=0):
    """Predictions of n photos; the scores are the same whatever the seed."""
    random, scores = np.random.default_rng(seed), np.random.default_rng(99)
    target = np.clip(np.rint(scores.normal(40, 20, n)), 2, 100)
    prediction = np.round(40 + 0.5 * (target - 40) + random.normal(0, 8, n), 4)
    ids = [f"{i:032x}" for i in range(n)]
    return pd.DataFrame({"Id": ids, "fold": np.arange(n) % folds, "target": target, "prediction": prediction})


@pytest.fixture
def csv(work):
    """Writes a table into the current folder and returns its path."""

    def write(name="mine.csv", value=None):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        (table() if value is None else value).to_csv(name, index=False)
        return name

    return write


def test_a_csv_is_what_it_declares(csv):
    found = open_predictions(csv("their/model.csv", table()[::-1]))
    assert (found.name, found.run, found.groups, found.complete) == ("model", None, None, True)
    pd.testing.assert_frame_equal(found.table, table(), check_dtype=False)
    np.testing.assert_allclose(found.constant, [table().query("fold != @k")["target"].mean() for k in found.fold])
    same = open_predictions(csv("copy.csv"))
    other = open_predictions(csv("other.csv", table(seed=1)))
    assert same.predictions_hash == found.predictions_hash != other.predictions_hash


def test_words_are_files_or_runs(csv, refused):
    assert [is_file_word(word) for word in ("x.csv", "SOME.CSV", "a/b", "r")] == [True, True, True, False]
    assert "no such file" in refused("oof", "a/b")
    Path("folder.csv").mkdir()
    assert "folder" in refused("oof", "folder.csv")


@pytest.mark.parametrize("columns", [["prediction"], ["prediction", "target"]])
def test_a_scale_of_zero_to_one_is_asked_about(csv, refused, columns):
    value = table()
    value[columns] = value[columns] / 100
    assert "--scale" in refused("oof", csv(value=value))
    pd.testing.assert_frame_equal(open_predictions("mine.csv", scale=100).table, table(), check_dtype=False)
    csv(value=table())
    pd.testing.assert_frame_equal(open_predictions("mine.csv", scale=100).table, table(), check_dtype=False)


@pytest.mark.parametrize("scale", ["0", "-100", "nan", "inf", "x"])
def test_scales_that_mean_nothing(csv, refused, scale):
    assert "--scale" in refused("oof", csv(), f"--scale={scale}")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda t: t[1:], "0" * 32),
        (lambda t: t.assign(Id=t["Id"].str.replace("00", "x")), "different photos"),
        (lambda t: t.assign(target=t["target"].where(t.index != 3, 77)), f"{3:032x}"),
        (lambda t: t.assign(prediction=table()["prediction"]), "the same predictions"),
    ],
)
def test_only_the_same_rows_are_compared(csv, refused, change, word):
    assert word in refused("compare", csv("a.csv"), csv("b.csv", change(table(seed=1))))


def test_files_of_one_name_are_named_by_their_folder(csv, refused):
    names = [csv(f"{folder}/oof.csv", table(seed=seed)) for seed, folder in enumerate(("a", "b"))]
    assert [one.name for one in open_several([*names, csv("c.csv", table(seed=2))])] == ["a-oof", "b-oof", "c"]
    deep = [csv(f"{folder}/same/oof.csv", table(seed=seed)) for seed, folder in enumerate(("a", "b"))]
    assert "rename" in refused("compare", *deep)


def test_findings_about_one_file_do_not_replace_those_about_another(csv, paw):
    """Files of one name, names that differ in what no folder may hold, and a name that a run or the sample could have."""
    names = [
        "x.csv",
        "a/oof.csv",
        "b/oof.csv",
        "c/a/oof.csv",
        "a b.csv",
        "a-b.csv",
        "a_b/oof.csv",
        "a b/oof.csv",
        "sample.csv",
    ]
    folders = [open_predictions(csv(name, table(seed=seed))).folder_name for seed, name in enumerate(names)]
    assert len({name.casefold() for name in folders}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+\.csv", name) for name in folders)
    assert folders[0] == "x.csv"
    assert open_predictions(Path("a/../a/oof.csv").resolve().as_posix()).folder_name == folders[1], "the same file"
    for name in names[1:3]:
        assert paw("leakcheck", name).code == 0
    assert len(list(Path("oof/leakcheck").glob("*/check.json"))) == 2


def test_groups_of_a_folds_file(csv):
    table()[["Id"]].assign(group=np.arange(40) // 2, fold=np.arange(40) // 2 % 4).to_csv("folds.csv", index=False)
    assert open_predictions(csv(), folds=Path("folds.csv")).groups.tolist() == (np.arange(40) // 2).tolist()


@settings(deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: st.lists(st.lists(st.integers(0, 5), min_size=n, max_size=n), max_size=3)))
def test_joined_groups_are_the_components_of_all(known):
    found = groups_of_all([SimpleNamespace(groups=groups) for groups in (None, *map(np.array, known))])
    if not known:
        assert found is None
        return
    n = len(known[0])
    together = np.array([[any(one[i] == one[j] for one in known) for j in range(n)] for i in range(n)])
    reached = np.linalg.matrix_power(together.astype(int), n) > 0
    assert ((found[:, None] == found) == reached).all()
