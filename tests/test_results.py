"""Every figure that a document quotes from a kept result is that result's; quotes.csv says which."""

import csv
import json
import re

import pytest
from tests.conftest import ROOT

RESULTS = ROOT / "docs" / "results"
with (RESULTS / "quotes.csv").open() as file:
    QUOTES = [tuple(row.values()) for row in csv.DictReader(file)]


def test_every_result_says_where_it_comes_from():
    for path in RESULTS.glob("*.json"):
        kept = json.loads(path.read_text())
        assert kept["command"].startswith("pawpularity "), path
        assert len(kept["commit"].removesuffix("+changes")) == 40, path
        assert kept["machine"]["processor"], path


@pytest.mark.parametrize(("document", "result", "quote"), QUOTES)
def test_a_quoted_figure_is_the_results(document, result, quote):
    """`quote` is the sentence with `{r[key]:.2f}` in the figures' places."""
    kept = json.loads((RESULTS / f"{result}.json").read_text())["result"]
    expected = re.sub(r"(?<=\d)%", " %", quote.format(r=kept))
    assert expected in " ".join((ROOT / document).read_text().split())


def test_table_1_shows_every_cell():
    cells = json.loads((RESULTS / "table1.json").read_text())["result"]["cells"]
    table = (ROOT / "docs/table1-sample.md").read_text()
    assert len(cells) == 24
    for cell in cells:
        assert f"**{cell['rmse']:.2f}** [{cell['low']:.2f}, {cell['high']:.2f}] | {cell['constant_rmse']:.2f}" in table


def test_the_table_of_speeds_is_the_benchmarks():
    table = (ROOT / "docs/feature-cache.md").read_text()
    with (ROOT / "docs/benchmarks/train-cpu.csv").open() as file:
        warm = [row for row in csv.DictReader(file) if row["way"] == "features warm"]
    assert len(warm) == 4
    for row in warm:
        ratios = f"| **{float(row['times_plain_float32']):.1f} x** | **{float(row['times_plain_half']):.1f} x** |"
        assert f"{float(row['ms_per_image']):.1f} {ratios}" in table
