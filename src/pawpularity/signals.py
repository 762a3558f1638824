"""Ctrl-C and SIGTERM, a machine that is taken away, outside the training loop: both end the command at once.

What is written there is written whole, so nothing is lost. `training/stop.py` has the loop's way, which keeps its state
first. Imports nothing heavy: the command line needs it before any verb does.
"""

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 0.05
"""Until a signal that came at a bad moment comes again."""


class Stopped(KeyboardInterrupt):
    """The user or the machine asked for an end; `line` says what is kept and how to go on, if anything is known."""

    def __init__(self, signal_number: int, line: str = "") -> None:
        super().__init__(line)
        self.signal_number, self.line = signal_number, line

    @property
    def exit_code(self) -> int:
        """As a shell counts: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal_number


class Told:
    """Whether an end was asked for."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal's."""

    def obey(self) -> None:
        """Raise `Stopped` if it was: a library that it broke into may have raised anything of its own in its place."""
        if self.number is not None:
            raise Stopped(self.number)


@contextmanager
def terminable(here: FrameType) -> Iterator[Told]:
    """Inside, SIGTERM and Ctrl-C raise `Stopped`; within an import that is called from `here`, when that is done.

    An exception in the middle of an import of torch aborts the program ("terminate called after throwing ..."). One that
    Python ignores, as it does in a `__del__`, is raised again.
    """
    told, ignored = Told(), sys.unraisablehook

    def end(number: int, frame: FrameType | None) -> None:
        if _importing(frame, here):
            _tell_again(number)
        else:
            told.number = number
            raise Stopped(number)

    def unraisable(what: "sys.UnraisableHookArgs") -> None:
        if isinstance(what.exc_value, Stopped):
            _tell_again(what.exc_value.signal_number)
        else:
            ignored(what)

    sys.unraisablehook = unraisable
    try:
        with handled(end, signal.SIGTERM, signal.SIGINT):
            yield told
    finally:
        sys.unraisablehook = ignored


def _importing(frame: FrameType | None, here: FrameType) -> bool:
    while frame is not None and frame is not here:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _tell_again(number: int) -> None:
    again = threading.Timer(AGAIN_S, _tell, [number])
    again.daemon = True
    again.start()


def _tell(number: int) -> None:
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    elif (main := threading.main_thread().ident) is not None:
        signal.pthread_kill(main, number)  # also wakes it where it waits


@contextmanager
def handled(handler: "signal._HANDLER", *numbers: signal.Signals) -> Iterator[None]:
    """Inside, `handler` answers these signals; not those that we were told to ignore (nohup, a shell's &)."""
    mine = threading.current_thread() is threading.main_thread()  # no other may set handlers
    heard = [n for n in numbers if mine and signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started inside never hear Ctrl-C, which a terminal tells all of them: it is ours to answer.

    They inherit it blocked: where they are still starting, ignoring it themselves would come too late.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def nothing_more_to_say() -> None:
    """From here on a Ctrl-C ends the process as it stands; what is taken apart would answer it with tracebacks."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
