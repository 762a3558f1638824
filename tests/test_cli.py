"""The command line and the Makefile: words arrive as they were typed, faults are one line, and help is quick."""

import importlib
import inspect
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tests.conftest import ROOT

from pawpularity import cli
from pawpularity.command_line import make_words, spread
from pawpularity.errors import UserError

COMMANDS = typer.main.get_command(cli.app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_group_an_example_and_a_function_that_takes_its_options(name):
    command = COMMANDS[name]
    assert command.rich_help_panel
    assert command.epilog.startswith("Example: ")
    module, _, attribute = cli.TARGETS[name].rpartition(".")
    takes = inspect.signature(getattr(importlib.import_module(f"pawpularity.{module}"), attribute)).parameters
    options = {param.name for param in command.params} - {"help", "full"}  # the command line itself reads --full
    resolved = {"config", "data", "run", "settings"} if "context" in takes else set()
    assert set(takes) - resolved == options - resolved | ({"context"} if resolved else set())


def test_a_renamed_command_answers_with_its_new_name(refused):
    assert "heads" in refused("probe", "--backbones", "x")
    assert "heads" in refused("--make", "probe")


def test_make_help_and_the_makefile_name_every_command():
    assert (ROOT / "docs/commands.txt").read_text() == cli.commands_text()
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (line,) = [line for line in makefile.splitlines() if line.startswith("COMMANDS := ")]
    assert sorted(line.split()[2:]) == sorted(COMMANDS)


def run_in_a_new_process(*words):
    """Exit code, standard error, and whether torch or pandas was imported."""
    code = f"import sys\nfrom pawpularity.cli import main\ncode = main({list(words)!r})\nprint('torch' in sys.modules, code)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    heavy, code = done.stdout.split()[-2:]
    return int(code), done.stderr, heavy == "True"


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["trian"], "train"),
        (["train", "--flod", "0"], "--flod"),
        (["train", "--fold", "x"], "--fold"),
        (["train", "--fold", "7"], "--fold"),
        (["train", "lr=0.1"], "train.lr"),
        (["train", "train.lr=20"], "1e-09..10"),
        (["train", "--config", "densenet"], "densenet161"),
        (["train", "train.augment=[ColourJitter]"], "ColorJitter"),
        (["train", "--data", "nowhere"], "nowhere"),
        (["train", "--run", "a/b"], "a/b"),
        (["predict", "--run", "none"], "oof/none"),
        (["oof", "train.lr=1"], "train.lr=1"),
    ],
)
def test_a_typing_mistake_is_one_line_before_torch_is_imported(words, key):
    code, err, heavy = run_in_a_new_process(*words)
    (line,) = [line for line in err.splitlines() if line.startswith("pawpularity: ")]
    assert (code, heavy) == (2, False)
    assert key in line


def test_help_needs_nothing_heavy():
    code, _, heavy = run_in_a_new_process("train", "--help")
    assert (code, heavy) == (0, False)


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch, capfd):
    monkeypatch.setattr("pawpularity.evaluation.leaderboard.run_names", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["oof"])


@pytest.mark.parametrize(
    ("error", "said"),
    [(OSError(28, "x", "full"), "full"), (PermissionError(13, "x", "locked"), "locked"), (MemoryError(), "memory"),
     (OSError(24, os.strerror(24), "oof/a.csv"), "ulimit"), (OSError(23, os.strerror(23)), "ulimit"),
     (RuntimeError("Too many open files. Communication with the workers is no longer possible."), "ulimit")],
)  # fmt: skip
def test_what_the_machine_lacks_is_one_line(error, said, monkeypatch, refused):
    def fail(*_):
        raise error

    monkeypatch.setattr("pawpularity.evaluation.leaderboard.run_names", fail)
    line = refused("oof")
    assert said in line
    assert "another place" not in line


HOSTILE = ["a;touch pwned", "a&&touch pwned", "$(touch pwned)", "`touch pwned`", "$(shell touch pwned)", "${file >pwned,x}",
           "a\ntouch pwned", "$HOME", "$$HOME", "*", "a#b", "%", "a\\b", "it's", 'say "a"', "a  b", "--x=1 -- y"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_no_character_of_a_word_is_a_command(make, text):
    code, told, err = make("predict", f"RUN={text}", f"ARGS={shlex.quote('k=' + text)}", f"model.weights={text}")
    assert code == 0, err
    assert told == ["predict", "--run", text, f"k={text}", f"model.weights={text}", ""]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "FOLD=0", "train.lr=1e-4", "CONFIG=x"], ["train", "--fold", "0", "train.lr=1e-4", "--config", "x"]),
        (["compare", "RUNS=a 'b c.csv' d"], ["compare", "a", "b c.csv", "d"]),
        (["coach", "PHOTO=a.jpg b.jpg", "RUN=r"], ["coach", "a.jpg", "b.jpg", "--run", "r"]),
        (["oof", "RUN=a"], ["oof", "a"]),
        (["submit", "GO=1", "KAGGLE_USER=me"], ["submit", "--go", "--user", "me"]),
        (["submit", "GO=0"], ["submit"]),
        (["bench", "BENCH=all"], ["bench", "--what", "all"]),
    ],
)
def test_words_become_options_positions_and_settings(make, words, told):
    assert make(*words)[1][:-1] == told


def test_the_storages_address_is_no_word_of_the_command(make):
    assert make("tune", "STORAGE=postgresql://me:secret@host/x")[1] == ["tune", "postgresql://me:secret@host/x"]


@pytest.mark.parametrize(
    ("words", "key"),
    [(["train", "FLOD=0"], "FOLD"), (["submit", "GO=yes"], "GO=yes"), (["oof", "FOLD=0"], "FOLD"), (["trian"], "train"),
     (["oof", "RUN='a"], "quote")],
)  # fmt: skip
def test_misspelt_and_misplaced_words_end_it(make, words, key):
    code, told, err = make(*words)
    assert (code, told) == (2, [])
    assert key in err.splitlines()[0]


def test_several_names_behind_one_option():
    found = spread(COMMANDS["report"], ["--runs", "a", "b c", "--out", "x", "--json", "-"])
    assert found == ["--runs", "a", "--runs", "b c", "--out", "x", "--json", "-"]
    assert spread(COMMANDS["train"], ["train.lr=1", "--fold", "0"]) == ["--set", "train.lr=1", "--fold", "0"]
    longer_than_a_file_name = f"model.args={{{'a' * 300}: 1}}"
    assert spread(COMMANDS["train"], [longer_than_a_file_name]) == ["--set", longer_than_a_file_name]


def test_a_quote_left_open_is_refused():
    with pytest.raises(UserError, match="quote"):
        make_words(typer.main.get_command(cli.app), "train", " -- ARGS=it's")


def test_importing_the_package_reaches_no_network_and_nothing_heavy():
    code = ("import socket, sys\nsocket.socket.connect = None\nimport pawpularity\nassert 'torch' not in sys.modules\n"
            "from pawpularity import Predictor")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
