"""Start the processes that share a training on this machine: torchrun's own launcher, its endings turned into ours.

`pawpularity train --processes 2` is `torchrun --standalone --nproc-per-node 2 -m -- pawpularity train`, without torchrun's page
of tracebacks when a process ends with a line of its own. Several machines start torchrun themselves.
"""

import logging
import os
import sys
from collections.abc import Sequence

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from pawpularity.device import require_gpus, usable_gpus
from pawpularity.errors import UserError

OURS = (2, 130, 143)
"""Exit codes after which everything was said: a fault of the user's, Ctrl-C, SIGTERM."""


def start(processes: int, words: Sequence[str]) -> None:
    """Run `pawpularity *words` in `processes` processes that train together; leaves this one with their exit code if not 0.

    Raises UserError for more processes than GPUs, or cores where there is none.
    """
    gpus = usable_gpus()
    cores = os.cpu_count() or 1
    if gpus:
        require_gpus(processes, gpus)
    elif processes > cores:
        raise UserError(f"--processes {processes}: this machine has {cores} cores and no GPU; take {cores} at most")
    # Each its share of the cores; torchrun would give every process one thread, and say so at length.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // processes)))
    arguments = torchrun.parse_args(  # type: ignore[no-untyped-call]
        ["--standalone", "--nproc-per-node", str(processes), "-m", "--", "pawpularity", *words]
    )
    # The processes speak for themselves.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    try:
        torchrun.run(arguments)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        codes = [failure.exitcode for _, failure in sorted(error.failures.items())]
        sys.exit(next((code for code in OURS if code in codes), 1))
    except SignalException as stop:
        sys.exit(128 + stop.sigval)
