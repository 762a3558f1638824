"""`pawpularity`, and `python -m pawpularity`."""

import os
import sys
from typing import NoReturn

from pawpularity.cli import main
from pawpularity.signals import nothing_more_to_say
from pawpularity.training.launch import Launch


def command() -> NoReturn:
    """One command, and the end of the process with its code."""
    code = main()
    nothing_more_to_say()
    if code and Launch.of_environment().size > 1:
        # Threads that connect it to the others still wait for them: taken apart in the usual way, they abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    command()
