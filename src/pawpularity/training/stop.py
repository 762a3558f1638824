"""Being asked to stop: SIGTERM (a machine that is taken away) and Ctrl-C.

Outside the training loop both end the command at once: what is written there is written whole. While a fold trains, the
first of them is noted and waits for the end of the step, so that the loop can keep its state; a second Ctrl-C waits for
nothing. Imports nothing heavy: the command line needs it before any verb does.
"""

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 0.05
"""Between looks whether an import is done."""


class Stopped(KeyboardInterrupt):
    """The user or the machine asked for an end; `line` says what is kept and how to go on, if anything is known."""

    def __init__(self, signal_number: int, line: str = "") -> None:
        super().__init__(line)
        self.signal_number, self.line = signal_number, line

    @property
    def exit_code(self) -> int:
        """As a shell counts: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.signal_number


class StopRequest:
    """Whether somebody asked for an end, and whether it may come at once."""

    def __init__(self) -> None:
        self.asked: int | None = None
        """The signal's number."""
        self.at_once = False
        """Set where nothing would be lost by breaking off."""
        self.patient = False
        """Set where a second Ctrl-C may be the first one, told twice: by the terminal and by torchrun."""

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self.at_once or (self.asked is not None and number == signal.SIGINT and not self.patient):
            raise Stopped(number)
        self.asked = number


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside, signals are noted in the `StopRequest` instead of ending the program."""
    request = StopRequest()
    with _handled(request.note, signal.SIGTERM, signal.SIGINT):
        yield request
    if request.asked is not None:  # it came after the last step
        raise Stopped(request.asked)


@contextmanager
def terminable(here: FrameType) -> Iterator[None]:
    """Inside, SIGTERM and Ctrl-C raise `Stopped`; within an import that is called from `here`, when that is done.

    An exception in the middle of an import of torch aborts the program ("terminate called after throwing ...").
    """

    def end(number: int, frame: FrameType | None) -> None:
        if not _importing(frame, here):
            raise Stopped(number)
        again = threading.Timer(AGAIN_S, _tell_again, [number])
        again.daemon = True
        again.start()

    with _handled(end, signal.SIGTERM, signal.SIGINT):
        yield


def _importing(frame: FrameType | None, here: FrameType) -> bool:
    while frame is not None and frame is not here:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _tell_again(number: int) -> None:
    if sys.platform == "win32":
        _thread.interrupt_main(number)
    elif (main := threading.main_thread().ident) is not None:
        signal.pthread_kill(main, number)  # also wakes it where it waits


@contextmanager
def _handled(handler: "signal._HANDLER", *numbers: signal.Signals) -> Iterator[None]:
    # Only the main thread may set handlers; a signal that the parent told us to ignore (nohup, a shell's &) stays ignored.
    mine = threading.current_thread() is threading.main_thread()
    heard = [n for n in numbers if mine and signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
