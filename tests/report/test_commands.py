"""The commands that stand on the page do what they say: names with spaces, copies, blends of anybody's files."""

import html
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.report.test_report import made

from pawpularity.console import make_word
from pawpularity.evaluation.predictions import open_predictions

pytestmark = pytest.mark.slow


def words_of(command, verb, key):
    """The words that `make VERB KEY="..."` hands to the command behind it: a shell reads them, then the command."""
    make, found, *settings = shlex.split(command)
    assert (make, found) == ("make", verb)
    return shlex.split(next(value for name, _, value in (word.partition("=") for word in settings) if name == key))


def commands_on(text, verb):
    """The commands of one verb under the page's tables and pictures, each once."""
    found = re.findall(rf"Made by <code>(make {verb} .*?)</code>", text)
    return list(dict.fromkeys(html.unescape(command) for command in found))


def test_a_copy_is_no_second_run_and_a_name_may_hold_a_space(at, paw):
    shutil.copytree("oof/a", "oof/a again")
    page, value, text = made(paw, "--runs", "a", "a again", "b")
    assert {row["run"] for row in value["runs"]} == {"a", "a again", "b"}
    assert ", the lowest of 2 on these rows" in page.sections["runs"]
    assert [[row["name"] for row in pair["others"]] for pair in value["paired"]] == [["b"]]
    assert value["copies"] == [{"run": "a again", "of": "a"}]
    for key in ("runs", "paired"):
        assert "a again holds the same predictions as a." in page.sections[key]
    (command,) = commands_on(text, "compare")
    assert paw("compare", *words_of(command, "compare", "RUNS"), "--draws", "200").code == 0
    named = html.unescape(re.search("This page: <code>(.*?)</code>", text)[1])
    assert words_of(named, "report", "RUNS") == ["a", "a again", "b"]
    page, value, _ = made(paw, "--runs", "a again", "a")
    assert value["paired"] == []
    assert "a holds the same predictions as a again. Two runs that score" in page.sections["paired"]
    assert "the best of" not in page.sections["runs"]


def test_a_blend_of_files_names_them_and_what_they_are_of(at, paw):
    Path("my files").mkdir()
    files = [f"my files/{name}.csv" for name in ("one", "two")]
    for name, file in zip("ab", files, strict=True):
        table = open_predictions(name).table
        table.assign(Id="other-" + table["Id"]).to_csv(file, index=False)
    assert paw("ensemble", *files, "--run", "of-files", "--method", "ridge", "--seed", "3", "--draws", "200").code == 0
    before = Path("oof/of-files/weights.json").read_bytes()
    page, _, text = made(paw, "--runs", "of-files")
    assert "path/to/one.csv path/to/two.csv" in page.sections["ensemble"]
    assert "Made of CSVs whose paths are not kept (one, two): put yours into the command." in page.sections["ensemble"]
    assert "results on CSVs whose data are not known here</title>" in text
    page, value, text = made(paw, "--runs", "of-files", *files)
    assert "paths are not kept" not in page.sections["ensemble"]
    (command,) = commands_on(text, "ensemble")
    assert words_of(command, "ensemble", "MEMBERS") == files
    Path("oof/of-files/weights.json").unlink()
    words = [*files, "--method", *words_of(command, "ensemble", "METHOD"), "--run", *words_of(command, "ensemble", "RUN"),
             *words_of(command, "ensemble", "ARGS")]  # fmt: skip
    assert paw("ensemble", *words).code == 0
    assert Path("oof/of-files/weights.json").read_bytes() == before
    assert "data: files" not in text
    rows = next(rows for key, rows in page.tables if key == "ensemble")
    figures = {row["run"]: row["score"] for row in value["runs"]}
    for name, row in (("one", rows[1]), ("two", rows[2])):
        assert row[-1] == f"{figures[name]['rmse']:.3f} ({figures[name]['constant_rmse']:.3f})"


@pytest.mark.parametrize(
    ("words", "due"),
    [
        (["a"], "RUNS=a"),
        (["a", "b"], 'RUNS="a b"'),
        (["my run", "a"], "RUNS=\"'my run' a\""),
        (["it's"], None),
        (['say "a"', "$HOME", "`b`", "c!"], None),
    ],
)
def test_words_pass_the_shell_and_the_command(words, due):
    found = make_word("RUNS", *words)
    assert due in (found, None)
    told = subprocess.run(["bash", "-c", f"printf %s {found}"], capture_output=True, text=True, check=True).stdout
    assert shlex.split(told.removeprefix("RUNS=")) == words  # what make hands on is in tests/test_cli.py
