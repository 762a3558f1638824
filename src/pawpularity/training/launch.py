"""Being one of several processes that `torchrun` started: what its environment says of them, and who speaks.

torchrun starts the same command several times and tells each process by the environment which one it is. All of them go
the same way and find the same faults; the first alone is seen. Imports nothing heavy: the command line needs it before
any verb does.
"""

import io
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from pawpularity.errors import UserError

VERB = "train"
"""The one that several processes can share."""
PATIENCE = 5.0
"""Seconds that a process with a fault waits for the first one to say it."""


@dataclass(frozen=True)
class Launch:
    """Which of how many processes this one is."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes on this machine."""
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether it speaks, and writes files."""
        return self.rank == 0

    @classmethod
    def of_environment(cls) -> "Launch":
        """As torchrun says: RANK of WORLD_SIZE, LOCAL_RANK of LOCAL_WORLD_SIZE; one process where it says nothing."""
        words = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")]
        if not all(word.isdecimal() for word in words) or int(words[1]) < 2:
            return cls()
        return cls(*(int(word) for word in words))


def refuse_several(verb: str) -> None:
    """Raise UserError where torchrun started several processes for a verb that is one process's."""
    size = Launch.of_environment().size
    if size > 1 and verb != VERB:
        raise UserError(
            f"{verb}: cannot be shared by {size} processes (torchrun); only {VERB} can; start it without torchrun"
        )


def one_voice(command: Callable[[], int]) -> int:
    """`command()`, its exit code; of several processes only the first is seen.

    torchrun ends the others as soon as one fails, so one that fails waits a while: the first has the same fault to say.
    It says a fault that nobody else had. A defect's traceback is always shown.
    """
    if Launch.of_environment().first:
        return command()
    heard = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(heard):
        code = command()
    if code == 2:
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(code))
        time.sleep(PATIENCE)
        sys.stderr.writelines(heard.getvalue().splitlines(keepends=True)[-1:])
    return code
