"""Being asked to stop while a fold trains: by SIGTERM (a machine that is taken away) or Ctrl-C.

The first of them is noted and waits for the end of the step, so that the loop can keep its state; a second Ctrl-C waits
for nothing.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pawpularity.signals import Stopped, handled


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
    with handled(request.note, signal.SIGTERM, signal.SIGINT):
        yield request
    if request.asked is not None:  # it came after the last step
        raise Stopped(request.asked)
