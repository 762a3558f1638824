"""`python -m pawpularity`."""

import os
import sys

from pawpularity.cli import main
from pawpularity.training.launch import Launch

if __name__ == "__main__":
    code = main()
    if code and Launch.of_environment().size > 1:
        # Threads that connect it to the others still wait for them: taken apart in the usual way, they abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
