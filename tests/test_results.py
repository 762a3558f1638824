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
