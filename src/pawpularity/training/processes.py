"""One fold over several processes that `torchrun` started: PyTorch's DistributedDataParallel, and what must be agreed on.

Every process goes through the same fit. A batch is the same as one process would train on, and is dealt out; gradients are
weighted by the shares and averaged, so that a step is the step of one process, up to the order of its sums. GPUs are
joined by NCCL, CPUs by gloo. What is no gradient goes over a gloo group of its own, which waits as long as it takes:
one process makes the trunk's states while the others have nothing to do.

The first process alone writes files. A fault of one process is a fault of all, so that none waits for a dead one.
"""

import inspect
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers import convert_sync_batchnorm
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pawpularity.device import Compute, choose, choose_for
from pawpularity.errors import UserError
from pawpularity.features.load import Inputs
from pawpularity.models.network import METADATA_COLUMNS, Network
from pawpularity.models.split import Chain
from pawpularity.predictor import SCORED_AT_ONCE, score_rows
from pawpularity.signals import Stopped
from pawpularity.training.launch import Launch

Value = TypeVar("Value")
Rows = NDArray[np.int64]
Tail = Callable[[Tensor, Tensor], Tensor]
"""Raw numbers, (B,), from states at the cut and metadata."""

SEED_STEP = 1_000_003
"""Between the noise seeds of two processes; folds and seeds of runs lie closer together."""
# What gloo, torch's store and NCCL say of a process that is gone.
_LOST = re.compile(r"closed by peer|reset by peer|Broken pipe|remote process exited|gloo.*[Tt]imed out", re.DOTALL)


@dataclass(frozen=True)
class Processes:
    """The processes that share a training; alone by default, where everything here is done by doing nothing."""

    launch: Launch = field(default_factory=Launch)
    group: Any = None
    """gloo, for what is no gradient."""

    @property
    def size(self) -> int:
        """How many."""
        return self.launch.size

    @property
    def first(self) -> bool:
        """Whether this one writes files."""
        return self.launch.first

    @property
    def seed_offset(self) -> int:
        """Added to the seed of dropout, which must not be the same in every share of a batch."""
        return SEED_STEP * self.launch.rank

    def share(self, batch: Rows) -> Rows:
        """This process's part of a batch; the parts differ by one item at most."""
        return batch if self.size == 1 else np.array_split(batch, self.size)[self.launch.rank]

    def require_shares(self, smallest: int) -> None:
        """Raise UserError where a batch of `smallest` items leaves a process without any."""
        if smallest < self.size:
            raise UserError(
                f"{self.size} processes and a batch of {smallest}: one would have nothing to do; raise train.batch_size, "
                f"or start {smallest} processes at most"
            )

    def agreed(self, work: Callable[[], Value]) -> Value:
        """`work()`. A UserError of one process is raised by all."""
        if self.size == 1:
            return work()
        fault: UserError | None = None
        try:
            value = work()
        except UserError as error:
            fault = error
        faults: list[UserError | None] = [None] * self.size
        distributed.all_gather_object(faults, fault, group=self.group)
        if fault is None:
            fault = next((one for one in faults if one is not None), None)
        if fault is not None:
            raise fault
        return value

    def in_turn(self, work: Callable[[], Value]) -> Value:
        """`work()`, by one process of every machine before the others, who then find on disk what it made."""
        if self.launch.local_rank == 0:
            value = self.agreed(work)
            self.agreed(lambda: None)
            return value
        self.agreed(lambda: None)
        return self.agreed(work)

    def from_first(self, value: Value) -> Value:
        """The first process's `value`."""
        if self.size == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, src=0, group=self.group)
        return held[0]

    def to_first(self, value: Value) -> list[Value]:
        """Every process's `value` in the first one, nothing in the others."""
        if self.size == 1:
            return [value]
        held: list[Any] = [None] * self.size if self.first else []
        distributed.gather_object(value, held or None, dst=0, group=self.group)
        return held

    def largest(self, *numbers: int) -> tuple[int, ...]:
        """The largest of each number over the processes."""
        if self.size == 1:
            return numbers
        held = torch.tensor(numbers)
        distributed.all_reduce(held, op=distributed.ReduceOp.MAX, group=self.group)
        return tuple(held.tolist())

    def total(self, *numbers: Tensor) -> tuple[float, ...]:
        """The sum of each number over the processes."""
        if self.size == 1:
            return tuple(float(number) for number in numbers)
        held = torch.stack(numbers).double().cpu()
        distributed.all_reduce(held, group=self.group)
        return tuple(held.tolist())

    def mean_loss(self, loss: Tensor, mine: int, whole: int) -> Tensor:
        """The mean loss of `mine` items, weighted so that the mean over processes is that of all `whole` items."""
        return loss if self.size == 1 else loss * (mine * self.size / whole)

    def parallel(self, network: Network, tail: Tail, size: int) -> Tail:
        """`tail`, such that going backward through it averages the gradients of `network` over the processes.

        `size`: of its photos, pixels. The network is on its device, in evaluation mode.
        """
        if self.size == 1:
            return tail
        # Statistics need no broadcast before each pass: they are frozen, or SyncBatchNorm keeps them the same.
        known = inspect.signature(DistributedDataParallel).parameters
        unasked = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # torch < 2.15
        without: dict[str, Any] = {unasked: False}
        inside = _Tail(network, network.tail)
        shared = DistributedDataParallel(inside, **without)
        # After the first pass it sorts the gradients anew. A fit that goes on would add up its first step in another order
        # than one that was never stopped; so a pass that moves nothing comes before all of them.
        with torch.no_grad():
            state = network.trunk(torch.zeros(1, size, size, 3, device=network.mean.device))
        shared(state, torch.zeros(1, METADATA_COLUMNS, device=network.mean.device)).sum().backward()
        network.zero_grad(set_to_none=True)
        inside.tail = tail
        return shared

    def require_statistics(self, network: Network, compute: Compute) -> None:
        """Raise UserError for BatchNorms that would learn their statistics where these cannot be shared: on a CPU."""
        if self.size > 1 and compute.device.type != "cuda" and (name := _learning_norm(network)) is not None:
            raise UserError(
                f"{self.size} processes on a CPU cannot share the statistics that {name} learns; add train.frozen_bn=true, "
                "or train in one process"
            )

    def share_statistics(self, network: Network, compute: Compute) -> None:
        """Let the BatchNorms learn from the whole batch, not from the share of one process. Raises as `require_statistics`."""
        self.require_statistics(network, compute)
        if self.size > 1 and _learning_norm(network) is not None:
            network.backbone = convert_sync_batchnorm(network.backbone)
            network.chain = Chain(network.backbone)  # its blocks held on to the old ones
            network.eval()

    def score_rows(
        self,
        network: Network,
        inputs: Inputs,
        rows: Rows,
        metadata: NDArray[np.float32],
        compute: Compute,
        *,
        view: int | Rows,
    ) -> NDArray[np.float64]:
        """As `predictor.score_rows`, in its very batches: each is scored by one process, and known to all."""
        if self.size == 1:
            return score_rows(network, inputs, rows, metadata, compute, view=view)
        mine = np.arange(len(rows)) // SCORED_AT_ONCE % self.size == self.launch.rank
        views = np.broadcast_to(np.asarray(view, dtype=np.int64), rows.shape)[mine]
        own = self.agreed(lambda: score_rows(network, inputs, rows[mine], metadata[mine], compute, view=views))
        scores = torch.zeros(len(rows), dtype=torch.float64)
        scores[torch.from_numpy(mine)] = torch.from_numpy(own)
        distributed.all_reduce(scores, group=self.group)
        known: NDArray[np.float64] = scores.numpy()
        return known

    @contextmanager
    def whole_machine(self) -> Iterator[None]:
        """Inside, torch may use the cores of all processes of this machine: the others wait."""
        threads = torch.get_num_threads()
        if self.size > 1:
            torch.set_num_threads(threads * self.launch.local_size)
        try:
            yield
        finally:
            if self.size > 1:
                torch.set_num_threads(threads)


ALONE = Processes()


@contextmanager
def joined(dtype: str) -> Iterator[tuple[Processes, Compute]]:
    """The processes that torchrun started, connected, and what this one computes on; alone where it started none.

    Raises UserError for more processes than GPUs, or GPUs that compute in different formats; Stopped where another process ended.
    """
    launch = Launch.of_environment()
    if launch.size == 1:
        yield ALONE, choose(dtype)
        return
    compute = choose_for(dtype, launch.local_rank, launch.local_size)
    distributed.init_process_group("nccl" if compute.device.type == "cuda" else "gloo")
    processes = Processes(launch, distributed.new_group(backend="gloo", timeout=timedelta(days=365)))
    try:
        processes.agreed(lambda: _alike(processes, compute))
        yield processes, compute
    except RuntimeError as error:
        if not lost(error):
            raise
        line = f"another of the {launch.size} processes ended; what was finished is kept; the same command goes on from there"
        raise Stopped(signal.SIGTERM, line) from error
    distributed.destroy_process_group()


def lost(error: RuntimeError) -> bool:
    """Whether it says that another process is gone."""
    return bool(_LOST.search(str(error)))


def _alike(processes: Processes, compute: Compute) -> None:
    mine = f"{compute.device.type} in {compute.dtype_name}"
    theirs = processes.from_first(mine)
    if mine != theirs:
        raise UserError(f"process 0 computes on {theirs} and process {processes.launch.rank} on {mine}; "
                        "set train.dtype, or take equal GPUs")  # fmt: skip


class _Tail(nn.Module):
    """The tail as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, network: Network, tail: Tail) -> None:
        super().__init__()
        self.network, self.tail = network, tail

    def forward(self, state: Tensor, columns: Tensor) -> Tensor:
        return self.tail(state, columns)


def _learning_norm(network: Network) -> str | None:
    """The first BatchNorm that learns statistics in training."""
    network.train()
    norms = (name for name, module in network.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    found = next((name for name in norms if network.get_submodule(name).training), None)
    network.eval()
    return found
