import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.errors import UserError
from pawpularity.evaluation.leaderboard import details
from pawpularity.evaluation.sources import groups_of_all, is_file_word, open_source, open_sources

TOY = ("--config", "sample", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "folds.k=2")


def table(n=40, folds=4, seed=0):
    """Predictions of n photos, as anybody might bring them; the scores are the same whatever the seed."""
    random, scores = np.random.default_rng(seed), np.random.default_rng(99)
    target = np.clip(np.rint(scores.normal(40, 20, n)), 2, 100)
    prediction = np.round(40 + 0.5 * (target - 40) + random.normal(0, 8, n), 4)
    ids = [f"{i:032x}" for i in range(n)]
    return pd.DataFrame({"Id": ids, "fold": np.arange(n) % folds, "target": target, "prediction": prediction})


@pytest.fixture
def csv(work):
    """Writes a table into the current folder and returns its path."""

    def write(name="mine.csv", value=None, **options):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        (table() if value is None else value).to_csv(name, index=False, **options)
        return name

    return write


@pytest.fixture
def run(work, shelter, paw):
    """A run called r with both folds."""
    done = paw("train", "--data", shelter, *TOY, "--run", "r")
    assert done.code == 0, done.err
    return Path("oof/r")


def test_a_csv_is_what_it_declares(csv):
    source = open_source(csv("their/model.csv"))
    assert (source.name, source.run, source.groups, source.complete) == ("model", None, None, True)
    pd.testing.assert_frame_equal(source.table, table(), check_dtype=False)
    assert source.fold.dtype == np.int64
    wanted = [table().query("fold != @fold")["target"].mean() for fold in source.fold]
    np.testing.assert_allclose(source.constant, wanted)


def test_ids_are_text(csv):
    ids = ["007", "7", "1e3", "NA", "null", "ä ö"]
    source = open_source(csv(value=table(6).assign(Id=ids)))
    assert sorted(source.table["Id"]) == sorted(ids)


def test_words_are_files_or_runs(csv, run, refused):
    assert is_file_word("x.csv")
    assert is_file_word("SOME.CSV")
    assert not is_file_word("r")
    assert open_source("r").name == "r"
    csv("no-ending")
    assert is_file_word("no-ending")
    assert open_source("no-ending").run is None
    assert "there is no such file" in refused("oof", "x.csv")
    assert "there is no such file" in refused("oof", "not/there")
    assert "is a folder; name a CSV, or a run below oof/ by its name alone" in refused("oof", "oof/r")
    assert "oof/x: holds no run (config.json is missing); runs there: r" in refused("oof", "x")


def test_a_run_brings_its_groups_and_its_constant(run, shelter):
    source = open_source("r")
    assert (source.name, len(source.table), source.complete) == ("r", 60, True)
    record = json.loads((run / "config.json").read_text())
    folds = pd.read_csv(record["folds"]["file"], dtype={"Id": str}).sort_values("Id")
    assert source.table["Id"].tolist() == folds["Id"].tolist()
    assert source.groups.tolist() == folds["group"].tolist()
    assert source.fold.tolist() == folds["fold"].tolist()
    truth = pd.read_csv(shelter / "train.csv").sort_values("Id")["Pawpularity"]
    assert source.target.tolist() == truth.tolist()
    means = [source.target[source.fold != fold].mean() for fold in source.fold]
    np.testing.assert_allclose(source.constant, means)
    # The same rows as a file: the groups come with --folds alone.
    shutil.copy(run / "oof.csv", "copy.csv")
    assert open_source("copy.csv").groups is None
    assert open_source("copy.csv", folds=Path(record["folds"]["file"])).groups.tolist() == source.groups.tolist()


def test_an_unfinished_run(run, refused):
    whole = open_source("r")
    shutil.rmtree(run / "fold1")
    said = refused("compare", "r", "x.csv")
    assert said == "oof/r: 1 of 2 folds are there; run: make train RUN=r"
    part = open_source("r", partly=True)
    assert not part.complete
    kept = whole.table[whole.fold == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(part.table, kept)
    assert part.groups.tolist() == whole.groups[whole.fold == 0].tolist()
    # The training rows' mean, though their rows are not at hand: what training wrote down.
    np.testing.assert_allclose(part.constant, whole.target[whole.fold == 1].mean())
    shutil.rmtree(run / "fold0")
    assert "0 of 2 folds are there" in refused("oof", "r")


def test_folds_file_of_other_rows(csv, run, refused):
    file = json.loads((run / "config.json").read_text())["folds"]["file"]
    assert "00000000000000000000000000000000" in refused("oof", csv(), "--folds", file)
    assert "is missing" in refused("oof", csv(), "--folds", "no.csv")
    assert 'column "group" is missing' in refused("oof", csv(), "--folds", csv("other.csv"))


def test_different_rows_are_named(csv, refused):
    fewer = csv("fewer.csv", table()[1:])
    said = refused("compare", csv(), fewer)
    assert f"{'0' * 32} is in the former only (40 rows and 39)" in said
    assert said.startswith("mine.csv and fewer.csv")
    assert refused("compare", fewer, "mine.csv") == said
    other = csv("other.csv", table().assign(target=table()["target"] + np.eye(40)[39]))
    score = table()["target"].iloc[-1]
    said = refused("compare", "mine.csv", other)
    assert f"different targets: {39:032x} is {score:g} and {score + 1:g} (1 rows differ)" in said


def test_targets_written_with_fewer_digits_are_the_same(csv):
    a = csv("a.csv", table().assign(target=table()["target"] / 3))
    b = csv("b.csv", table(seed=1).assign(target=(table()["target"] / 3).round(6)))
    assert len(open_sources([a, b])) == 2


def test_other_folds_of_the_same_rows_may_be_compared(csv):
    a, b = csv("a.csv"), csv("b.csv", table(folds=5, seed=1))
    assert [source.name for source in open_sources([a, b])] == ["a", "b"]


def test_one_given_twice(csv, refused, run):
    csv()
    assert refused("compare", "mine.csv", "./mine.csv") == "./mine.csv: is given twice; name each once"
    assert refused("compare", "r", "r") == "r: is given twice; name each once"
    Path("link.csv").symlink_to("mine.csv")
    assert "is given twice" in refused("compare", "mine.csv", "link.csv")
    csv("again.csv", table().sample(frac=1, random_state=2))
    assert "mine.csv and again.csv hold the same predictions" in refused("compare", "mine.csv", "again.csv")


def test_a_runs_own_oof_csv_is_that_run(run, refused):
    assert "is given twice" in refused("compare", "r", "oof/r/oof.csv")


def test_a_scale_of_one(csv, refused, paw):
    plain, shares = csv("plain.csv"), table()
    shares = shares.assign(prediction=(shares["prediction"] / 100).clip(0, 1))
    said = refused("oof", csv("shares.csv", shares))
    assert said == "shares.csv: every prediction lies in 0..1, so they are on a 0-1 scale, not 1-100; add --scale 100"
    both = csv("both.csv", shares.assign(target=shares["target"] / 100))
    assert "add --scale 100" in refused("compare", plain, both)
    for name in ("shares.csv", both):
        scaled = open_source(name, scale=100)
        np.testing.assert_allclose(scaled.prediction, table()["prediction"].clip(0, 100))
        np.testing.assert_allclose(scaled.target, table()["target"])
    # A table in points is left as it is, so that both kinds can stand side by side.
    np.testing.assert_array_equal(open_source(plain, scale=100).prediction, table()["prediction"])
    found = json.loads(paw("oof", both, "--scale", "100", "--json", "-").out)["runs"][0]
    assert found["score"]["sd"] == pytest.approx(table()["target"].std(ddof=0))


@pytest.mark.parametrize("change", [{"target": 1.01}, {"prediction": 1.01}, {"target": -0.01}, {"prediction": -0.01}])
def test_one_value_outside_makes_it_points(csv, change):
    """A network that hardly leaves 1 is bad, not on another scale."""
    values = table(20).assign(target=0.5, prediction=0.5)
    values.loc[7, list(change)] = list(change.values())
    column = next(iter(change))
    found = open_source(csv(value=values), scale=100).table
    np.testing.assert_array_equal(found[column], values[column])
    assert (found.drop(columns=["Id", "fold", column]) == 50).all(axis=None)


@pytest.mark.parametrize("scale", ["0", "-100", "nan", "inf", "1e300"])
def test_scales_that_mean_nothing(csv, refused, scale):
    assert refused("oof", csv(), f"--scale={scale}").startswith("--scale")
    assert "invalid float" in refused("oof", csv(), "--scale", "x")


def test_files_of_one_name_are_told_apart_by_their_folder(csv, monkeypatch, refused):
    names = [csv(f"{folder}/oof.csv", table(seed=seed)) for seed, folder in enumerate(("a", "b"))]
    other = csv("other.csv", table(seed=2))
    assert [source.name for source in open_sources([*names, other])] == ["a-oof", "b-oof", "other"]
    deep = [csv(f"{folder}/same/oof.csv", table(seed=seed)) for seed, folder in enumerate(("a", "b"))]
    assert refused("compare", *deep) == "two sources are called same-oof; rename one of the files"
    monkeypatch.chdir("a")
    assert [source.name for source in open_sources(["oof.csv", "../b/oof.csv"])] == ["a-oof", "b-oof"]


def test_a_file_named_as_a_run(run):
    table = pd.read_csv("oof/r/oof.csv", dtype={"Id": str})
    table.assign(prediction=table["prediction"] + 1).to_csv("r.csv", index=False)
    names = [source.name for source in open_sources(["r", "r.csv"])]
    assert names == ["r", "work-r"]


def test_one_fold_alone(csv):
    """A hold-out: its own mean is all there is, and it is said."""
    source = open_source(csv(value=table(folds=1)))
    np.testing.assert_allclose(source.constant, table()["target"].mean())
    assert details(source)["score"]["constant_rmse"] == pytest.approx(table()["target"].std(ddof=0))


def test_the_groups_one_of_them_knows_are_everybodys(run, shelter, tmp_path):
    table = pd.read_csv("oof/r/oof.csv", dtype={"Id": str})
    table.assign(prediction=table["prediction"] + 1)[::-1].to_csv("theirs.csv", index=False)
    sources = open_sources(["theirs.csv", "r"])
    assert groups_of_all(sources).tolist() == sources[1].groups.tolist()
    assert groups_of_all(sources[:1]) is None


def test_open_source_raises_one_line():
    with pytest.raises(UserError) as caught:
        open_source("no/such.csv")
    assert "\n" not in str(caught.value)
