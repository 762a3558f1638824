"""Ctrl-C and SIGTERM while a library is being imported: an exception there aborts torch's C++."""

import importlib
import os
import signal
import sys
import time

import pytest

from pawpularity.training.stop import Stopped, terminable

IMPORTED = """
import os, signal, sys, time
os.kill(os.getpid(), {number})
time.sleep(0.2)  # both signals have come by now
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
def test_elsewhere_the_end_comes_at_once(number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stop:
        stopped_within(lambda: (os.kill(os.getpid(), number), time.sleep(60), pytest.fail("it came later, or never")))
    assert stop.value.exit_code == 128 + number
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_command_that_an_import_called_is_ended_at_once(library):
    """The import around it will not end before the command does."""
    then = """
from pawpularity.training.stop import Stopped, terminable
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
