"""`pawpularity oof` and `pawpularity compare`, over real runs at toy size and anybody's CSVs."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.cli import main
from pawpularity.evaluation.label_noise import LabelNoise
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.oof import read_oof
from pawpularity.evaluation.sources import open_source

TOY = ("--config", "sample", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "folds.k=2")
PEERS = ("v31", "v44", "v12", "v19", "v57", "v63", "v62", "v1")


@pytest.fixture(scope="module")
def trained(drawn, tmp_path_factory):
    """A checkout with seeds 0 to 2 of one recipe, one of another learning rate, a leaky one, and half a run."""
    place = tmp_path_factory.mktemp("trained")
    (place / "configs").symlink_to(Path(__file__).resolve().parents[2] / "configs")
    (place / "toy").symlink_to(drawn)
    runs = {"s0": ("train.seed=0",), "s1": ("train.seed=1",), "s2": ("train.seed=2",), "other": ("train.lr=0.01",),
            "leaky": ("train.split=leaky", "train.augment=none", "train.copies=authors"),
            "half": ("train.seed=3", "--fold", "0")}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for run, words in runs.items():
            assert main(["train", "--data", "toy", *TOY, "--run", run, *words]) == 0
    return place


@pytest.fixture
def runs(trained, work):
    """The trained runs, in the current folder."""
    shutil.copytree(trained / "oof", "oof")
    Path("toy").symlink_to(trained / "toy")
    return work


@pytest.fixture
def figures(runs):
    """RMSE of the complete runs, straight from their predictions."""
    tables = {run: read_oof(Path(f"oof/{run}/oof.csv")) for run in ("s0", "s1", "s2", "other", "leaky")}
    return {run: rmse(table["target"], table["prediction"]) for run, table in tables.items()}


def rows_of(paw, *words):
    done = paw("oof", *words, "--json", "-")
    assert done.code == 0, done.err
    return json.loads(done.out)["runs"]


def test_the_table_says_what_its_json_holds(runs, paw, figures):
    text, rows = paw("oof").out, rows_of(paw)
    assert {row["run"]: row["score"]["rmse"] for row in rows if row["folds"] == "2/2"} == pytest.approx(figures)
    lines = {line.split()[0]: line for line in text.splitlines() if re.search(r" \d/2 ", line)}
    assert list(lines) == [row["run"] for row in rows], "in the same order"
    honest = [row["score"]["rmse"] for row in rows if not row["leaky"]]
    assert honest == sorted(honest)
    assert [bool(row["leaky"]) for row in rows] == sorted(bool(row["leaky"]) for row in rows), "leaky ones come last"
    for row in rows:
        s, line = row["score"], lines[row["run"]]
        assert line.split()[1:4] == [row["folds"], str(s["n"]), f"{s['rmse']:.3f}"]
        assert f"[{s['low']:.2f}, {s['high']:.2f}]" in line
        assert f" {s['constant_rmse']:.3f} " in line
        assert f" {s['r2']:.3f} " in line
        assert ("indicative" in line) == (s["n"] < 50)
        assert s["low"] < s["rmse"] < s["high"]
    assert text.startswith("data: toy\n")


def test_details_say_what_their_json_holds(runs, paw):
    done = paw("oof", "s1", "--json", "found.json")
    (found,) = json.loads(Path("found.json").read_text())["runs"]
    assert rows_of(paw, "s1") == [found]
    source = open_source("s1")
    s, b = found["score"], found["breakdown"]
    assert s["rmse"] == pytest.approx(rmse(source.target, source.prediction))
    assert s["constant_rmse"] == pytest.approx(rmse(source.target, source.constant))
    for words in (
        f"s1: {s['n']} rows, folds 2/2; drawn data: the shelter drawn in toy\n",
        f"RMSE         {s['rmse']:.4f}, 95 % [{s['low']:.3f}, {s['high']:.3f}]\n",
        f"constant     {s['constant_rmse']:.4f} (the training rows' mean); sd of these rows {s['sd']:.4f}",
        f"R2           {s['r2']:.3f}, 95 % [{s['r2_low']:.3f}, {s['r2_high']:.3f}]",
        f"folds        {b['folds'][0]['rmse']:.2f} {b['folds'][1]['rmse']:.2f}\n",
        f"sd {b['fold_sd']:.3f}, mean {b['mean_of_folds']:.4f}",
        f"correlation  {b['correlation']:.3f}; predictions {b['lowest']:.1f} to {b['highest']:.1f}",
        f"target = {b['intercept']:.3f} + {b['slope']:.3f} x prediction",
        f"noise floor  {found['floor']:.3f}",
        "no alarm: knows the noise",
    ):
        assert words in done.out
    for band in b["bands"]:
        assert re.search(
            rf"{re.escape(band['name'])} +{band['n']} +{band['rmse']:.2f} +{100 * band['share']:.1f} %", done.out
        )
    assert sum(band["n"] for band in b["bands"]) == s["n"] == 60


def test_seeds_are_recognised(runs, paw, figures):
    own = {run: figures[run] for run in ("s0", "s1", "s2")}
    mean, sd = np.mean(list(own.values())), np.std(list(own.values()), ddof=1)
    (found,) = rows_of(paw, "s1")
    assert found["seeds"] == {"runs": pytest.approx(own), "mean": pytest.approx(mean), "sd": pytest.approx(sd)}
    values = ", ".join(f"{run} {value:.3f}" for run, value in own.items())
    assert f"seeds        mean {mean:.3f}, sd {sd:.3f}: {values}\n" in paw("oof", "s1").out
    by_rank = ", ".join(sorted(own, key=own.__getitem__))
    text = paw("oof").out
    assert f"seeds: {by_rank} differ in train.seed alone: mean {mean:.3f}, sd {sd:.3f}" in text
    assert text.count("seeds:") == 1, "of nothing else are there two"


def test_two_seeds_are_few(runs, paw):
    shutil.rmtree("oof/s2")
    assert "(two only)" in paw("oof").out
    assert "(from two; take three or more): s0 " in paw("oof", "s0").out


@pytest.mark.parametrize("run", ["other", "leaky"])
def test_other_settings_are_no_seed(runs, paw, run):
    (found,) = rows_of(paw, run)
    assert list(found["seeds"]["runs"]) == [run]
    assert found["seeds"]["sd"] is None
    assert "seeds        one: what another seed would give is not known" in paw("oof", run).out


def test_half_a_run_is_no_seed_yet(runs, paw):
    (found,) = rows_of(paw, "half")
    assert sorted(found["seeds"]["runs"]) == ["s0", "s1", "s2"]
    assert found["folds"] == "1/2"
    assert "RMSE" in paw("oof", "half").out


def test_the_same_seed_again_is_no_second_opinion(runs, paw):
    shutil.copytree("oof/s0", "oof/again")
    assert list(rows_of(paw, "s0")[0]["seeds"]["runs"]) == ["s0", "s1", "s2"]
    assert list(rows_of(paw, "again")[0]["seeds"]["runs"]) == ["again", "s1", "s2"]
    for name in ("s1", "s2"):
        shutil.rmtree(f"oof/{name}")
    assert "seeds:" not in paw("oof").out
    assert rows_of(paw, "s0")[0]["seeds"]["sd"] is None


def test_a_csv_named_as_a_run_does_not_stand_for_it(runs, paw):
    for name in ("s0", "s1"):
        table = read_oof(Path(f"oof/{name}/oof.csv"))
        table.assign(prediction=table["prediction"] + 30).to_csv(f"{name}.csv", index=False)
    assert "seeds:" not in paw("oof", "s0.csv", "s1.csv").out
    assert "seeds: " in paw("oof", "s0.csv", "s0", "s1").out
    mean = np.mean([row["score"]["rmse"] for row in rows_of(paw, "s0", "s1")])
    assert f"alone: mean {mean:.3f}" in paw("oof", "s0", "s1", "s0.csv", "s1.csv").out


def test_a_leaky_run_is_flagged_wherever_it_stands(runs, paw):
    flagged = [line.split()[0] for line in paw("oof").out.splitlines() if "LEAKY BY DESIGN" in line]
    assert flagged == ["leaky"]
    assert "LEAKY BY DESIGN (train.split=leaky)" in paw("oof", "leaky").out
    assert "LEAKY" not in paw("oof", "s0").out
    assert {row["run"]: row["leaky"] for row in rows_of(paw)}["leaky"] is True
    done = paw("compare", "s0", "leaky", "--draws", "100")
    assert "leaky is leaky by design" in done.err
    assert "leaky by design" not in paw("compare", "s0", "s1", "--draws", "100").err


def test_unfinished_and_damaged_runs(runs, paw, refused):
    assert {row["run"]: row["folds"] for row in rows_of(paw)}["half"] == "1/2"
    shutil.rmtree("oof/half/fold0")
    assert "no fold is trained yet" in next(line for line in paw("oof").out.splitlines() if line.startswith("half"))
    assert refused("oof", "half") == "oof/half: 0 of 2 folds are there; run: make train RUN=half"
    assert "0 of 2 folds are there" in refused("compare", "s0", "half")
    record = json.loads(Path("oof/s1/config.json").read_text())
    record["config"]["train"]["no_such_key"] = 1
    Path("oof/s1/config.json").write_text(json.dumps(record))
    done = paw("oof")
    assert done.code == 0, "one damaged run does not hide the others"
    assert "seeds: " in done.out
    assert list(rows_of(paw, "s0")[0]["seeds"]["runs"]) == ["s0", "s2"]


@pytest.mark.parametrize(
    "harm",
    [lambda whole: whole.decode().encode("utf-16"), lambda whole: whole.replace(b"\n", b"\r\n"), lambda whole: b"\xff"],
)
def test_a_damaged_copy_of_the_folds_is_made_again(runs, paw, harm):
    """oof.csv holds what the folds hold, to the byte: it is theirs that count."""
    file, before = Path("oof/s0/oof.csv"), paw("oof").out
    whole = file.read_bytes()
    file.write_bytes(harm(whole))
    done = paw("oof")
    assert (done.code, done.out) == (0, before), done.err
    assert file.read_bytes() == whole


def without(file, key, **more):
    metrics = json.loads(Path(file).read_text()) | more
    del metrics[key]
    Path(file).write_text(json.dumps(metrics))


@pytest.mark.parametrize("key", ["low", "high", "indicative", "epochs", "seconds", "predictions_hash"])
def test_figures_that_lack_one_leave_the_run_out(runs, paw, key):
    without("oof/s1/fold1/metrics.json", key)
    done = paw("oof")
    assert done.code == 0, done.err
    assert (
        "left out s1: oof/s1/fold1/metrics.json: is not what was written there; run: make train FOLD=1 RUN=s1"
        in done.err
    )
    assert "s0 " in done.out


def test_a_probe_that_lost_what_it_chose_is_left_out(runs, paw):
    """Made of a trained run: of its folders a probe's differ in their kind, and in what was chosen for how many epochs."""
    record = json.loads(Path("oof/s1/config.json").read_text()) | {"kind": "head"}
    Path("oof/s1/config.json").write_text(json.dumps(record))
    for fold in (0, 1):
        without(f"oof/s1/fold{fold}/metrics.json", "epochs", chosen="alpha 10")
    assert "alpha 10" in next(line for line in paw("oof").out.splitlines() if line.startswith("s1 "))
    without("oof/s1/fold1/metrics.json", "chosen")
    done = paw("oof")
    assert done.code == 0, done.err
    assert "left out s1: oof/s1/fold1/metrics.json: is not what was written there; run: make probe" in done.err


def test_a_few_large_groups_of_near_duplicates(work, paw):
    """Three groups of four: by what spread there is between these, the noise's interval would end at infinity, or at 184."""
    for seed in (1, 5, 8):
        group = np.repeat(np.arange(3), 4)
        target = np.rint(np.random.default_rng(seed).normal(40, 10, 12)) - 15 + 20 * group
        table = odd(12, target=target, prediction=target + 5 - 10 * (np.arange(12) % 2), fold=group)
        table.to_csv("few.csv", index=False)
        table.assign(group=table["fold"])[["Id", "group", "fold"]].to_csv("folds.csv", index=False)
        (found,) = rows_of(paw, "few.csv", "--folds", "folds.csv")
        noise = found["explainable"]["noise"]
        assert noise["pairs"] == 9
        assert (noise["low"], noise["high"]) == pytest.approx((0.6878 * noise["sd"], 1.8256 * noise["sd"]), rel=1e-3)
        assert f"noise {noise['sd']:.1f} points [" in paw("oof", "few.csv", "--folds", "folds.csv").out


def test_ends_that_nobody_knows_are_dashes(work, monkeypatch, paw):
    """A published figure may have an open end."""
    odd(60).to_csv("odd.csv", index=False)
    open_ended = LabelNoise(5.0, 4.0, float("inf"), 8, "published: so")
    monkeypatch.setattr("pawpularity.evaluation.leaderboard.noise_for", lambda source, origin: open_ended)
    done = paw("oof", "odd.csv", "--json", "found.json")
    assert done.code == 0, done.err
    (found,) = json.loads(Path("found.json").read_text())["runs"]
    assert found["explainable"]["ceiling_low"] is found["explainable"]["noise"]["high"] is None
    assert re.search(r"of the R2 0\.\d\d \[-, 0\.\d\d\] that label noise allows", done.out)
    assert "noise 5.0 points [4.0, -]: published: so" in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("oof", "nosuch"), "oof/nosuch: holds no run"),
        (("oof", "s0", "nosuch"), "oof/nosuch: holds no run"),
        (("oof", "../s0"), "there is no such file"),
        (("oof", "s0", "--sacle", "100"), 'unknown option --sacle; did you mean "--scale"?'),
        (("oof", "--json"), "expected one argument"),
        (("oof", "s0", "train.lr=1"), "oof/train.lr=1: holds no run"),
        (("oof", "s0", "--data", "nowhere"), "there is no such folder"),
        (("compare",), "needs two or more runs or CSVs"),
        (("compare", "s0"), "needs two or more runs or CSVs"),
        (("compare", "s0", "s0"), "is given twice"),
        (("compare", "s0", "half"), "1 of 2 folds are there"),
        (("compare", "s0", "nosuch"), "holds no run"),
        (("compare", "s0", "s1", "--draws", "99"), "must be 100 to 1000000"),
        (("compare", "s0", "s1", "--draws", "-5"), "must be 100 to 1000000"),
        (("compare", "s0", "s1", "--draws", "1000000000000"), "must be 100 to 1000000"),
        (("compare", "s0", "s1", "--draws", "1e4"), "invalid int"),
        (("compare", "s0", "s1", "--config", "sample"), "unknown option --config"),
    ],
)
def test_wrong_words(runs, refused, words, said):
    assert said in refused(*words)


def test_no_runs_at_all(work, refused):
    assert refused("oof") == "oof/ holds no run yet; run: make train FOLD=0"


def test_compare_says_what_its_json_holds(runs, paw, figures):
    done = paw("compare", "s0", "s1", "other", "--json", "found.json", "--draws", "500")
    found = json.loads(Path("found.json").read_text())
    assert json.loads(paw("compare", "s0", "s1", "other", "--json", "-", "--draws", "500").out) == found
    assert found["first"]["run"] == "s0"
    assert found["first"]["rmse"] == pytest.approx(figures["s0"])
    assert (found["n"], found["draws"], found["grouped"]) == (60, 500, True)
    source = open_source("s0")
    assert found["constant_rmse"] == pytest.approx(rmse(source.target, source.constant))
    assert [row["name"] for row in found["others"]] == ["s1", "other"]
    for row in found["others"]:
        assert row["difference"] == pytest.approx(figures[row["name"]] - figures["s0"])
        line = next(line for line in done.out.splitlines() if line.startswith(row["name"]))
        for words in (f"{row['rmse']:.3f}", f"{row['difference']:+.3f}", f"[{row['low']:+.3f}, {row['high']:+.3f}]",
                      f"{row['p']:.4f}", f"{row['p_holm']:.4f}", row["verdict"]):  # fmt: skip
            assert words in line
    assert done.out.splitlines()[-1] == (
        f"n = 60, constant {found['constant_rmse']:.3f} (the training rows' mean), sd of these rows {found['sd']:.3f}"
    )


def test_real_files_compared(real, work, paw):
    files = [real / "oof-peers" / f"{name}.csv" for name in PEERS]
    done = paw("compare", *files, "--draws", "2000", "--json", "found.json")
    found = json.loads(Path("found.json").read_text())
    assert [row["name"] for row in found["others"]] == list(PEERS[1:])
    v44 = found["others"][0]
    assert v44["difference"] == pytest.approx(0.026, abs=5e-4)
    assert (v44["low"], v44["high"]) == (pytest.approx(-0.085, abs=0.03), pytest.approx(0.135, abs=0.03))
    assert (v44["verdict"], found["others"][-1]["verdict"]) == ("not told apart", "worse")
    (line,) = (line for line in done.out.splitlines() if line.startswith("v44"))
    assert line.split()[:2] == ["v44", "17.495"]
    assert " +0.026 " in line
    assert found["constant_rmse"] == pytest.approx(20.591, abs=1e-3)
    assert not found["grouped"]
    assert "flatters" in done.err


def test_v31_in_detail(real, work, paw):
    done = paw("oof", real / "oof-peers" / "v31.csv")
    for words in ("v31: 9912 rows, folds 10; contest data", "RMSE         17.4695, 95 % [17.1", "mean 17.4670",
                  "correlation  0.532;", "target = 2.938 + 0.91", "       100    288  41.72                  16.6 %"):  # fmt: skip
        assert words in done.out


def odd(n=60, **columns):
    random = np.random.default_rng(0)
    target = np.clip(np.rint(random.normal(40, 20, n)), 1, 100)
    prediction = 40 + 0.4 * (target - 40) + random.normal(0, 8, n)
    table = pd.DataFrame({"Id": [f"{i:032x}" for i in range(n)], "fold": np.arange(n) % 5, "target": target,
                          "prediction": prediction})  # fmt: skip
    return table.assign(**columns)


@pytest.mark.parametrize(
    "table",
    [odd(1), odd(2), odd(3), odd(60, prediction=38.0), odd(60, target=38.0), odd(60, target=38.0, prediction=38.0),
     odd(60, prediction=odd()["target"]), odd(60, fold=odd()["fold"] - 7), odd(60, fold=3), odd(60, fold=range(60)),
     odd(60, prediction=-odd()["prediction"]), odd(60, prediction=odd()["prediction"] * 1e7),
     odd(60, target=odd()["target"] * 1e7), odd(60, fold=[0] * 59 + [1])],
)  # fmt: skip
def test_odd_tables_say_nothing_odd(work, paw, table, recwarn):
    table.to_csv("odd.csv", index=False)
    (found,) = rows_of(paw, "odd.csv")
    text = paw("oof", "odd.csv").out
    assert not re.search(r"\b(nan|inf|None)\b", text)
    assert found["score"]["rmse"] == pytest.approx(rmse(table["target"], table["prediction"]))
    assert found["score"]["low"] <= found["score"]["rmse"] * (1 + 1e-9)
    assert found["score"]["rmse"] <= found["score"]["high"] * (1 + 1e-9)
    assert [fold["fold"] for fold in found["breakdown"]["folds"]] == sorted(set(table["fold"]))
    own = "these rows' own mean" if table["fold"].nunique() == 1 else "the training rows' mean"
    assert own in text
    table.assign(prediction=table["prediction"] + 7).to_csv("other.csv", index=False)
    done = paw("compare", "odd.csv", "other.csv", "--draws", "200")
    assert done.code == 0, done.err
    assert not re.search(r"\b(nan|inf|None)\b", done.out)
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_the_mean_of_unequal_folds_may_lie_above_the_pooled_rmse(work, paw):
    """So it must not be promised that it never does."""
    table = odd(60, fold=[0] * 59 + [1])
    table.loc[59, "prediction"] = table["target"][59] + 60
    table.to_csv("odd.csv", index=False)
    (found,) = rows_of(paw, "odd.csv")
    assert found["breakdown"]["mean_of_folds"] > found["score"]["rmse"]
    assert "never" not in paw("oof", "odd.csv").out


def test_the_same_command_gives_the_same_text(runs, paw):
    for words in (("oof",), ("oof", "s0"), ("compare", "s0", "s1", "--draws", "500")):
        assert paw(*words).out == paw(*words).out
