"""`pawpularity oof`, over trained runs at toy size and anybody's CSVs."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.evaluation.leaderboard import breakdown
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.oof import read_oof
from pawpularity.evaluation.predictions import open_predictions


@pytest.fixture
def more(runs):
    """Beside the runs a and b: a again, a as a leaky run, and half of b."""
    for source, name in (("a", "again"), ("a", "leaky"), ("b", "half")):
        shutil.copytree(f"oof/{source}", f"oof/{name}")
    file = Path("oof/leaky/config.json")
    record = json.loads(file.read_text())
    record["config"]["train"]["split"] = "leaky"
    file.write_text(json.dumps(record))
    _without_settings("leaky")
    shutil.rmtree("oof/half/fold1")


@pytest.fixture
def figures(more):
    """RMSE of the complete runs, straight from their predictions."""
    tables = {run: read_oof(Path(f"oof/{run}/oof.csv")) for run in ("a", "b", "leaky")}
    return {run: rmse(table["target"], table["prediction"]) for run, table in tables.items()}


def rows_of(paw, *words):
    done = paw("oof", *words, "--json", "-")
    assert done.code == 0, done.err
    return json.loads(done.out)["runs"]


def line_of(text, name):
    return next(line for line in text.splitlines() if line.startswith(f"{name} "))


def test_the_table_says_what_its_json_holds(paw, figures):
    text, rows = paw("oof", "--full").out, {row["run"]: row for row in rows_of(paw)}
    assert {run: rows[run]["score"]["rmse"] for run in figures} == pytest.approx(figures)
    assert list(rows)[-1] == "leaky", "after everything honest, whatever its figure"
    honest = [row["score"]["rmse"] for row in list(rows.values())[:-1]]
    assert honest == sorted(honest)
    for run, row in rows.items():
        s, line = row["score"], line_of(text, run)
        cells = f"{row['folds']} {s['n']} {s['rmse']:.2f} [{s['low']:.2f}, {s['high']:.2f}] {s['constant_rmse']:.2f} {s['sd']:.2f}"
        assert cells in " ".join(line.split())
        assert ("LEAKY" in line) == (run == "leaky")
    assert (rows["half"]["folds"], rows["half"]["score"]["indicative"]) == ("1/2", True)


def test_details_say_what_their_json_holds(more, paw):
    done = paw("oof", "b", "--full", "--json", "found.json")
    (found,) = json.loads(Path("found.json").read_text())["runs"]
    s, b, source = found["score"], found["breakdown"], open_predictions("b")
    assert s["rmse"] == pytest.approx(rmse(source.target, source.prediction))
    assert s["constant_rmse"] == pytest.approx(rmse(source.target, source.constant))
    for value in (s["rmse"], s["low"], s["high"], s["constant_rmse"], found["floor"], *(fold["rmse"] for fold in b["folds"]),
                  *(band["rmse"] for band in b["bands"])):  # fmt: skip
        assert f"{value:.2f}" in done.out
    assert "knows the noise" in done.out
    assert sum(band["n"] for band in b["bands"]) == s["n"] == 60


def test_runs_that_differ_in_their_seed_alone_are_recognised(paw, figures):
    """Of two with one seed the first counts; half a run and a leaky one do not."""
    (line,) = (line for line in paw("oof").out.splitlines() if line.startswith("seeds:"))
    values = [figures["a"], figures["b"]]
    assert f"mean {np.mean(values):.2f}, sd {np.std(values, ddof=1):.2f}" in line
    names = re.findall(r"(\w+) \d", line.rpartition(":")[2])
    assert len(names) == 2
    assert set(names) - {"a", "again"} == {"b"}
    table = read_oof(Path("oof/b/oof.csv"))
    table.assign(prediction=table["prediction"] + 30).to_csv("b.csv", index=False)
    assert "seeds:" not in paw("oof", "a", "b.csv").out, "a file named as a run does not stand for it"


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A terminal on which no note is wrapped."""
    monkeypatch.setenv("COLUMNS", "400")


def _without_settings(run):
    """As before folds recorded them: a changed config.json is no other training's."""
    for path in Path("oof", run).glob("fold*/metrics.json"):
        metrics = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in metrics.items() if key != "settings"}))


def test_runs_of_a_search_are_marked_wherever_they_stand(runs, paw):
    shutil.move("oof/a", "oof/found-trial3")
    shutil.copytree("oof/b", "oof/my-trial7")  # the user's own name
    for run in ("found-trial3", "b"):
        record = json.loads(Path(f"oof/{run}/config.json").read_text())
        record["config"]["search"]["found_by"] = "found"
        Path(f"oof/{run}/config.json").write_text(json.dumps(record))
    marks = {"found-trial3": "trial of a search", "b": "tuned by a search"}
    listed = paw("oof").out
    for name, mark in marks.items():
        assert mark in line_of(listed, name)
        assert mark in paw("oof", name).out
        assert mark in paw("oof", f"oof/{name}/oof.csv").out, "its file is no stranger's"
        assert "search" not in line_of(listed, "my-trial7")
        for words in (("compare", *marks, "--draws", 100), ("ensemble", *marks, "--draws", 100)):
            assert f"{name} ({mark})" in paw(*words).err
    assert paw("report", "--runs", "found-trial3", "--runs", "b").code == 0
    page = Path("oof/report.html").read_text()
    assert all(f"{name} ({mark})" in page for name, mark in marks.items())
    assert "blend of runs of a search" in line_of(paw("oof").out, "ensemble")
    shutil.copytree("oof/b", "oof/c")
    shutil.rmtree("oof/ensemble")
    shutil.rmtree("oof/my-trial7")
    assert "members b c" in paw("ensemble", "--draws", 100).err, "trials are no members unless they are named"


def test_different_recipes_of_single_seeds_are_not_told_apart(runs, paw):
    record = json.loads(Path("oof/b/config.json").read_text())
    record["config"]["train"]["lr"] = 0.5
    Path("oof/b/config.json").write_text(json.dumps(record))
    _without_settings("b")
    assert "Fewer than 3 seeds: a, b" in paw("oof").out
    assert "three seeds" in paw("compare", "a", "b", "--draws", 100).err


def test_the_explained_share_of_a_real_file(real, work, paw):
    paw("oof", real / "oof-peers" / "v31.csv", "--json", "found.json")
    (found,) = json.loads(Path("found.json").read_text())["runs"]
    r2 = 1 - (17.4695 / 20.5910) ** 2
    assert found["explainable"]["share"] == pytest.approx(r2 / (1 - (10.7 / 20.5910) ** 2), abs=1e-4)
    folds = [fold["rmse"] for fold in found["breakdown"]["folds"]]
    assert found["breakdown"]["fold_sd"] == pytest.approx(np.std(folds, ddof=1))


def test_unfinished_and_damaged_runs(more, paw, refused):
    shutil.rmtree("oof/half/fold0")
    assert "no fold" in line_of(paw("oof").out, "half")
    for words in (("oof", "half"), ("compare", "a", "half")):
        assert "0 of 2 folds" in refused(*words)
    assert "leaky by design" in refused("ensemble", "b", "oof/leaky/oof.csv")
    Path("oof/b/fold1/metrics.json").write_text("{}")
    done = paw("oof")
    assert (done.code, "left out b:" in done.err) == (0, True), "one damaged run does not hide the others"
    assert line_of(done.out, "a")
    assert "leaky" in paw("compare", "a", "leaky", "--draws", "100").err


def test_without_any_run(work, refused):
    assert "make train" in refused("oof")
    assert "no run" in refused("oof", "nosuch")


def test_a_breakdown_by_hand(work):
    columns = {"fold": [0, 0, 1, 1], "target": [10, 20, 60, 100], "prediction": [20.0, 20, 50, 80]}
    pd.DataFrame({"Id": list("abcd"), **columns}).to_csv("x.csv", index=False)
    found = breakdown(open_predictions("x.csv"))
    assert [(b["name"], b["n"], b["bias"]) for b in found["bands"]] == [
        ("<=20", 2, 5),
        ("41-60", 1, -10),
        ("100", 1, -20),
    ]
    assert [b["share"] for b in found["bands"]] == pytest.approx([1 / 6, 1 / 6, 4 / 6])
    assert [fold["rmse"] for fold in found["folds"]] == pytest.approx([np.sqrt(50), np.sqrt(250)])
    assert [fold["constant_rmse"] for fold in found["folds"]] == pytest.approx([np.hypot(65, 5), np.hypot(65, 20)])
    assert (found["lowest"], found["highest"]) == (20, 80)


def test_no_line_grows_with_the_folds_or_the_runs(work, paw):
    """As many folds as rows, and names of forty runs, none of which is asked for."""
    for name, seed in (("a", 0), ("b", 1)):
        prediction = odd(400)["prediction"] + np.random.default_rng(seed).normal(0, 1, 400)
        odd(400, fold=range(400), prediction=prediction).to_csv(f"{name}.csv", index=False)
    for i in range(40):
        Path(f"oof/a-run-with-a-longer-name-{i}").mkdir(parents=True)
        Path(f"oof/a-run-with-a-longer-name-{i}/config.json").write_text("{}")
    for words in (("oof", "a.csv"), ("oof", "a.csv", "b.csv"), ("leakcheck", "a.csv"), ("errors", "a.csv", "--draws", 100),
                  ("ensemble", "a.csv", "b.csv", "--draws", 100), ("oof", "nosuch"), ("ensemble",)):  # fmt: skip
        done = paw(*words)
        assert max(map(len, (done.out + done.err).splitlines())) <= 500, words
    assert "31 more" in paw("oof", "nosuch").err


def odd(n=60, **columns):
    random = np.random.default_rng(0)
    target = np.clip(np.rint(random.normal(40, 20, n)), 1, 100)
    prediction = 40 + 0.4 * (target - 40) + random.normal(0, 8, n)
    table = pd.DataFrame({"Id": [f"{i:032x}" for i in range(n)], "fold": np.arange(n) % 5, "target": target,
                          "prediction": prediction})  # fmt: skip
    return table.assign(**columns)


@pytest.mark.parametrize(
    "table",
    [odd(1), odd(2), odd(60, prediction=38.0), odd(60, target=38.0), odd(60, target=38.0, prediction=38.0),
     odd(60, prediction=odd()["target"]), odd(60, fold=odd()["fold"] + 40), odd(60, fold=3), odd(60, fold=range(60)),
     odd(60, prediction=-odd()["prediction"]), odd(60, prediction=odd()["prediction"] * 1e7), odd(60, fold=[0] * 59 + [1])],
)  # fmt: skip
def test_odd_tables_say_nothing_odd(work, paw, table, recwarn):
    table.to_csv("odd.csv", index=False)
    (found,) = rows_of(paw, "odd.csv")
    text = paw("oof", "odd.csv").out
    assert not re.search(r"\b(nan|inf|None)\b", text)
    assert max(map(len, text.splitlines())) <= 200
    assert found["score"]["rmse"] == pytest.approx(rmse(table["target"], table["prediction"]))
    assert found["score"]["low"] * (1 - 1e-9) <= found["score"]["rmse"] <= found["score"]["high"] * (1 + 1e-9)
    table.assign(prediction=table["prediction"] + 7).to_csv("other.csv", index=False)
    done = paw("compare", "odd.csv", "other.csv", "--draws", "200")
    assert (done.code, re.search(r"\b(nan|inf|None)\b", done.out)) == (0, None), done.err
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]
