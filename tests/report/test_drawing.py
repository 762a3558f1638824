"""Drawings: the page's colours, ids of their own, bands of quantiles, labels that fit."""

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from pawpularity.errors import UserError
from pawpularity.report.components import Section, Table, as_written, chance, collect, duration
from pawpularity.report.drawing import BLUE, INK, Mark, Row, drawn, forest, forest_height
from pawpularity.report.plots import curves, error_by_band, quantile_bands, read_history, scatter, trial_history

ROWS = [Row("one", "1.0 [0.5, 1.5]", [Mark(1.0, 0.5, 1.5, BLUE)], [(2.0, INK)]),
        Row("a name that is far too long to stand beside its own figures", "2.0 [1.0, 3.0]", [Mark(2.0, 1.0, 3.0)])]  # fmt: skip


def parsed(markup):
    return ElementTree.fromstring(markup.replace("<svg ", '<svg xmlns:xlink="x" ', 1))


def test_a_drawing_is_in_the_pages_colours_and_has_ids_of_its_own():
    markup = drawn("one", forest_height(ROWS), lambda axes: forest(axes, ROWS, "points"), 'what it "shows" & <says>')
    tree = parsed(markup)
    assert tree.get("aria-label") == 'what it "shows" & <says>'
    assert all(one.get("id").startswith("one-") for one in tree.iter() if one.get("id"))
    assert "var(--c0)" in markup
    assert "var(--ink)" in markup
    assert "<style" not in markup, "its rules would reach the rest of the page"
    left = set(re.findall(r"#[0-9a-f]{6}\b", markup)) - {"#000000", "#ffffff"}
    assert not left, "a colour that dark mode cannot change"
    assert not re.search(r"https?:", markup)
    words = [text.text for text in tree.iter() if text.tag.endswith("text")]
    assert "1.0 [0.5, 1.5]" in words, "text that can be found and read aloud"


def test_the_same_drawing_gives_the_same_bytes():
    random = np.random.default_rng(0)
    target = random.uniform(1, 100, 300)

    def once(name):
        return drawn(name, 300, lambda axes: scatter(axes, target, target + random.normal(0, 0, 300), 38.0), "alt")

    assert once("a") == once("a")
    assert parsed(once("a")) is not None
    assert once("a").replace('"a-', '"b-').replace("#a-", "#b-") == once("b")


def test_quantile_bands_are_those_of_pandas():
    random = np.random.default_rng(1)
    prediction = random.normal(40, 10, 1000)
    target = prediction + random.normal(0, 15, 1000)
    edges, points = quantile_bands(target, prediction)
    bins = pd.qcut(prediction, 8)
    due = pd.Series(target).groupby(bins, observed=True).quantile([0.05, 0.25, 0.5, 0.75, 0.95]).unstack().to_numpy().T
    assert points.shape == (5, 8)
    # pandas closes its bins on the right: rows that are an edge themselves change sides.
    assert np.abs(points - due).max() < 1.5
    assert edges[0] == prediction.min()
    assert edges[-1] == prediction.max()


@pytest.mark.parametrize("n", [1, 20, 49])
def test_few_rows_have_no_bands(n):
    edges, points = quantile_bands(np.arange(n, dtype=float), np.arange(n, dtype=float))
    assert len(edges) == 0
    assert points.shape == (5, 0)
    assert "svg" in drawn("few", 200, lambda axes: scatter(axes, np.full(n, 50.0), np.full(n, 40.0), 38.0), "alt")


def test_a_label_that_would_run_into_its_figures_is_shortened():
    markup = drawn("long", forest_height(ROWS), lambda axes: forest(axes, ROWS, "points"), "alt")
    assert ROWS[1].label not in markup
    words = [text.text for text in parsed(markup).iter() if text.tag.endswith("text")]
    short = next(text for text in words if text and "…" in text)
    assert short.startswith("a name")
    assert short.endswith("figures")
    assert len(short) < 45


def test_curves_of_runs_with_and_without_inner_rows(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,train_rmse,inner_rmse,lr,seconds\n1,20.5,21.0,0.1,1\n2,18.0,,0.1,1\n")
    history = read_history(path)
    assert history["train_rmse"].tolist() == [20.5, 18.0]
    assert np.isnan(history["inner_rmse"][1])
    markup = drawn("curves", 250, lambda axes: curves(axes, [history, history], 19.0, 20.0), "alt")
    assert markup.count("inner rows") == 1, "a legend of one line for all folds"
    without = {**history, "inner_rmse": np.full(2, np.nan)}
    assert "inner rows" not in drawn("curves", 250, lambda axes: curves(axes, [without], 19.0, 20.0), "alt")


@pytest.mark.parametrize(
    "text", ["", "epoch,train_rmse,inner_rmse\n", "epoch,train_rmse\n1,2\n", "epoch,train_rmse,inner_rmse\n1,x,\n"]
)
def test_a_damaged_history_is_named(tmp_path, text):
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"history\.csv.*train the fold again"):
        read_history(path)


def test_trials_of_every_fate_and_of_none():
    for finished, pruned in (([], []), ([(0, 15.0)], []), ([], [(1, 20.0)]), ([(0, 15.0), (2, 14.0)], [(1, 1e6)])):
        assert "svg" in drawn("t", 200, lambda axes, f=finished, p=pruned: trial_history(axes, f, p), "alt")


def test_bands_that_a_run_lacks_are_gaps():
    series = [
        ("one", [{"name": "<=20", "rmse": 20.0}, {"name": "100", "rmse": 40.0}]),
        ("two", [{"name": "31-40", "rmse": 9.0}]),
    ]
    markup = drawn("bands", 250, lambda axes: error_by_band(axes, series), "alt")
    words = [text.text for text in parsed(markup).iter() if text.tag.endswith("text")]
    assert [word for word in words if word in ("≤20", "31–40", "100")] == ["≤20", "31–40", "100"]


def test_words_stand_left_and_figures_right():
    table = Table(
        "", ["run", "what", "n", "RMSE"], [["a", "network", "600", "15.2"], ["b", "-", "-", "no fold"]], "make oof"
    )
    assert table.wordy == [True, False, False, False]
    table = Table("", ["run", "what"], [["a", "network"], ["b", "probe"], ["c", "12"]], "make oof")
    assert table.wordy == [True, True]


def test_the_state_of_a_section():
    assert Section("x", "X", "x", "make x").state == "not made"
    assert Section("x", "X", "x", "make x", faults=["broken"]).state == "cannot be shown"
    assert Section("x", "X", "x", "make x", [Table("", [], [], "")], ["broken"]).state == "made"


def test_a_part_that_cannot_be_read_costs_itself_alone(tmp_path):
    def broken():
        with as_written(tmp_path / "x.json", "explain", "make explain"):
            raise KeyError("photos")

    table = Table("", [], [], "")
    blocks, faults = collect([lambda: [table], broken, lambda: [table]])
    assert blocks == [table, table]
    assert len(faults) == 1
    assert "x.json: is not what explain writes (KeyError: 'photos'); run: make explain" in faults[0]


@pytest.mark.parametrize(("seconds", "words"), [(None, "-"), (67.2, "67 s"), (426.0, "7.1 min"), (11520.0, "3.2 h")])
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_chances():
    assert [chance(p) for p in (None, 1.0, 0.0123, 0.00001)] == ["-", "1.0000", "0.0123", "<.0001"]
