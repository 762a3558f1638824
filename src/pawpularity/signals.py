"""Ctrl-C and SIGTERM (from a scheduler that takes the machine back): both end a command; training first writes a checkpoint.

Files appear whole or not at all, so nothing is lost. Imports nothing heavy.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the command. The message, if any, says what is saved and how to resume."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def exit_code(self) -> int:
        """As a shell counts: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises `Stopped`; Ctrl-C raises KeyboardInterrupt by itself."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled(end, signal.SIGTERM):
        yield


class StopRequest:
    """The signal, if any, that asked a command to stop."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal's number; None until one arrives."""

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler. The first signal lets the current step finish; a second Ctrl-C stops at once."""
        if self.number is not None and number == signal.SIGINT:
            raise Stopped(number)
        self.number = number


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Inside, SIGTERM and Ctrl-C are noted in the `StopRequest` instead of ending the program."""
    request = StopRequest()
    with _handled(request.note, signal.SIGTERM, signal.SIGINT):
        yield request


@contextmanager
def _handled(handler: "signal._HANDLER", *numbers: signal.Signals) -> Iterator[None]:
    is_main = threading.current_thread() is threading.main_thread()  # no other thread may set handlers
    # Ignored signals stay ignored (nohup).
    wanted = [number for number in numbers if is_main and signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
