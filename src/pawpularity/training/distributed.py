"""One fold on several GPUs or CPU processes, through accelerate: launch, devices, shared scoring.

`pawpularity train --processes 2` starts the same command twice with torchrun, which `accelerate launch --multi_gpu` uses too
(accelerate's own launcher starts a single process on a CPU). accelerate's checkpoints are not used: they are pickles.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from numpy.typing import NDArray

from pawpularity.device import Compute, choose
from pawpularity.errors import UserError
from pawpularity.signals import Stopped

PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def accelerator_for(compute: Compute) -> tuple[Accelerator, Compute]:
    """The accelerator of this process, and `compute` with the process's own device.

    Raises UserError for float16 where there is no GPU.
    """
    precision = PRECISIONS[compute.dtype_name]
    if precision == "fp16" and compute.device.type == "cpu":
        raise UserError("train.dtype=float16 needs a GPU; use auto, bfloat16 or float32")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    if compute.device.type == "cuda" and compute.device.index is not None:
        torch.cuda.set_device(compute.device)
    accelerator = Accelerator(mixed_precision=precision, cpu=compute.device.type == "cpu")
    return accelerator, replace(compute, device=accelerator.device) if accelerator.num_processes > 1 else compute


def choose_compute(dtype: str) -> Compute:
    """As `device.choose`; of several processes each gets a GPU of its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return choose(dtype)


def launch(processes: int, words: Sequence[str]) -> None:
    """Run `pawpularity *words` in `processes` processes that train together; exits with their code if it is not 0.

    Raises UserError for more processes than GPUs, or than cores where there is no GPU.
    """
    on_gpu = torch.cuda.is_available() and os.environ.get("PAWPULARITY_DEVICE", "cuda").startswith("cuda")
    most = torch.cuda.device_count() if on_gpu else os.cpu_count() or 1
    if processes > most:
        raise UserError(f"--processes {processes}: this machine has {most} {'GPUs' if on_gpu else 'cores and no GPU'}")
    threads = max(1, (os.cpu_count() or 1) // processes)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
               "-m", "--", "pawpularity", *words]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | ({} if on_gpu else {"ACCELERATE_USE_CPU": "true"})
    # A session of its own: Ctrl-C reaches this process only, which then asks the others to stop once.
    child = subprocess.Popen(command, start_new_session=True, env=environment)
    try:
        code = child.wait()
    except KeyboardInterrupt as stop:
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise Stopped(stop.number if isinstance(stop, Stopped) else signal.SIGINT) from None
    if code:
        sys.exit(code if code in (2, 130, 143) else 1)


def score_together(
    accelerator: Accelerator, score: Callable[[NDArray[np.int64]], NDArray[np.float64]], rows: int
) -> NDArray[np.float64]:
    """`score(positions)` of 0..rows-1, (rows,): each process scores a part, and all get the whole."""
    if accelerator.num_processes == 1:
        return score(np.arange(rows))
    mine = np.array_split(np.arange(rows), accelerator.num_processes)[accelerator.process_index]
    return np.concatenate(gather_object([score(mine)]))
