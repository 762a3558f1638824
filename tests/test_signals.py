"""Ctrl-C and SIGTERM wherever they come: imports are finished, what they break is no other error, children are deaf to them."""

import importlib
import os
import signal
import subprocess
import sys
import time

import pytest

from pawpularity import cli
from pawpularity.command_line import Verb
from pawpularity.errors import UserError
from pawpularity.signals import Stopped, deaf_children, terminable

IMPORTED = """
import os, signal, sys, time
os.kill(os.getpid(), {number})
time.sleep(0.2)  # it has come again by now, more than once
{then}
done = True
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    def write(name, number, then=""):
        (tmp_path / f"{name}.py").write_text(IMPORTED.format(number=int(number), then=then))
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        return name

    monkeypatch.syspath_prepend(tmp_path)
    return write


def stopped_within(work):
    with terminable(sys._getframe()):
        work()
        time.sleep(60)  # a word that comes again wakes it


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_import_is_finished_before_the_end(library, number):
    name = library("a_library", number)
    with pytest.raises(Stopped) as stop:
        stopped_within(lambda: importlib.import_module(name))
    assert stop.value.signal_number == number
    assert sys.modules[name].done


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_python_ignores_comes_again(number, capsys):
    class Cleared:
        def __del__(self):
            os.kill(os.getpid(), number)
            time.sleep(60)

    with pytest.raises(Stopped) as stop:
        stopped_within(Cleared)
    assert stop.value.signal_number == number
    assert capsys.readouterr().err == ""


def test_what_else_python_ignores_is_said_as_ever(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)

    class Broken:
        def __del__(self):
            raise ValueError("broken")

    with terminable(sys._getframe()):
        Broken()
    assert [str(what.exc_value) for what in heard] == ["broken"]
    assert sys.unraisablehook == heard.append


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_elsewhere_the_end_comes_at_once(number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stop:
        stopped_within(lambda: (os.kill(os.getpid(), number), time.sleep(60), pytest.fail("it came later, or never")))
    assert stop.value.exit_code == 128 + number
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_command_that_an_import_called_is_ended_at_once(library):
    """The import around it will not end before the command does."""
    then = """
from pawpularity.signals import Stopped, terminable
try:
    with terminable(sys._getframe()):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
except Stopped:
    stopped = True
"""
    name = library("a_script", 0, then)
    importlib.import_module(name)
    assert sys.modules[name].stopped


def test_what_is_ignored_stays_ignored(library):
    """nohup, a shell's `&`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with terminable(sys._getframe()):
            importlib.import_module(library("ignored", signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("other", [UserError, AttributeError, OSError, BrokenPipeError, MemoryError])
def test_what_a_stop_broke_is_a_stop(monkeypatch, capsys, other):
    """OmegaConf's clearing up stumbles over it, and says that a key is wrong."""

    def broken(options):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except BaseException:
            raise other("a key is wrong") from None

    monkeypatch.setattr(cli, "verbs", lambda: {"search": Verb("search", "", broken, configured=False)})
    assert cli.main(["search"]) == 143
    assert capsys.readouterr().err == f"pawpularity: {cli.STOPPED}\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be blocked there")
def test_children_are_deaf_to_ctrl_c_and_their_parent_is_not():
    words = [
        sys.executable,
        "-c",
        "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))",
    ]
    with deaf_children():
        child = subprocess.run(words, capture_output=True, text=True, check=True)
    assert child.stdout == "True\n"
    child = subprocess.run(words, capture_output=True, text=True, check=True)
    assert child.stdout == "False\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be blocked there")
def test_a_ctrl_c_while_children_start_is_not_forgotten():
    started = []

    def start():
        with deaf_children():
            signal.raise_signal(signal.SIGINT)  # of this thread, which has it blocked
            started.append("whole")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert started == ["whole"]


def test_a_ctrl_c_after_the_last_line_ends_the_process_without_a_word():
    code = """
import atexit, os, signal, sys, time
from pawpularity import __main__ as entry
atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(60)))
entry.main = lambda: 3
entry.command()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
