"""`python -m pawpularity VERB ...`, the same as `pawpularity VERB ...`."""

import sys

from pawpularity.cli import main

sys.exit(main())
