"""The command line itself: help, speed, unknown words, exit codes, one-way imports, no network."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

from pawpularity import cli
from pawpularity.command_line import Verb

SRC = Path(__file__).resolve().parents[1] / "src" / "pawpularity"


def test_help_lists_every_verb_and_imports_nothing_heavy():
    code = (
        "import sys; from pawpularity.cli import main; main(['--help']);"
        "print([m for m in ('torch', 'numpy', 'pandas', 'omegaconf', 'PIL') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    # --help ends with SystemExit(0) before the second print; the modules are asked for in another way then.
    assert done.returncode == 0
    for verb in ("data", "sample", "folds", "train", "oof", "predict", "all", "clean-cache"):
        assert verb in done.stdout
    code = "import sys; from pawpularity import cli; cli.parser(cli.verbs()).format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pandas", "omegaconf", "PIL", "timm"} & set(loaded)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], 'there is no verb "trian"; did you mean "train"?'),
        (["train", "--fodl", "0"], 'unknown option --fodl; did you mean "--fold"?'),
        (["train", "--fold", "x"], "invalid int value"),
        (["train", "--fold"], "expected one argument"),
        (["train", "train.lrr=1"], 'did you mean "train.lr"'),
        (["train", "--run", "../x", "--config", "sample"], "must be letters"),
        (["train", "--config", "densnet161"], 'did you mean "densenet161"'),
        (["train", "--data", "nowhere"], "nowhere"),
        (["oof"], "make train FOLD=0"),
        (["oof", "nothing"], "holds no run"),
        (["sample", "--photos", "0"], "photos"),
        (["sample", "extra"], "unknown option extra"),
    ],
)
def test_wrong_words_end_with_two_and_one_line(work, refused, words, said):
    assert said in refused(*words)
    assert not (work / "input").exists(), "no shelter is drawn for a command that cannot run"


def test_settings_may_stand_between_options(work, refused):
    assert "train.lrr" in refused("train", "train.lr=1", "--fold", "0", "train.lrr=1", "--config", "sample")


def test_a_defect_is_a_traceback_and_not_two(monkeypatch, work):
    def broken(options):
        raise ValueError("a defect of ours")

    monkeypatch.setattr(cli, "verbs", lambda: {"oof": Verb("oof", "", broken, configured=False)})
    with pytest.raises(ValueError, match="defect"):
        cli.main(["oof"])


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "no disk space"), (errno.EACCES, "permission denied")])
def test_a_full_or_closed_disk_is_the_users_to_mend(monkeypatch, work, refused, number, said):
    def full(options):
        raise OSError(number, os.strerror(number), "oof/x")

    monkeypatch.setattr(cli, "verbs", lambda: {"oof": Verb("oof", "", full, configured=False)})
    assert said in refused("oof")


def test_imports_go_one_way():
    """The FLOORS of the house stand in pyproject.toml, under [tool.importlinter]: a new room is named there, or this fails."""
    assert lint_imports(config_filename=str(SRC.parents[1] / "pyproject.toml"), no_cache=True) == 0


def test_albumentations_is_imported_in_one_place():
    users = [p for p in SRC.rglob("*.py") if "import albumentations" in p.read_text()]
    assert users == [SRC / "data" / "augment.py"]


def test_everything_imports_without_a_network():
    """Every module is imported with sockets forbidden: nothing may phone home on import."""
    code = """
import importlib, pkgutil, socket, pawpularity
from pawpularity import cli
import os
os.environ.update(cli.ENVIRONMENT)
def refuse(*a, **k): raise AssertionError("a connection was tried")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
for module in pkgutil.walk_packages(pawpularity.__path__, "pawpularity."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("quiet")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "quiet", done.stderr
