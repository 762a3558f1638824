"""Going on within a fold that several processes train: all of them stop after the same step, and the first writes the state.

The file is the one process's, with every other process's random states and sums beside the first one's: `random:cpu@1`. A
training goes on only with as many processes as it was stopped with.
"""

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch import Tensor

from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.files import text_hash
from pawpularity.models.network import Network
from pawpularity.runs import Run
from pawpularity.training.checkpoint import Keeper, Kept, belongings, read_state
from pawpularity.training.processes import Processes, lost
from pawpularity.training.stop import StopRequest

_OWN = ("random:", "sum:")
"""Tensors that differ from process to process."""


class SharedKeeper(Keeper):
    """A `Keeper` of several processes, each of which has one and calls it after the same steps."""

    def __init__(
        self, path: Path, fold: int, belongs: Mapping[str, str], request: StopRequest, processes: Processes
    ) -> None:
        super().__init__(path, fold, belongs, request)
        self.together, self._agreed = processes, 0
        request.patient = True  # torchrun hands on what the terminal may have told us already

    @property
    def processes(self) -> int:
        """How many train together."""
        return self.together.size

    @property
    def asked(self) -> int | None:
        """The signal that any process was sent before the last step they agreed about."""
        return self._agreed or None

    def find(self, network: Network) -> Kept | None:
        """As `Keeper.find`. Raises UserError too where another machine does not see the same file."""
        kept = self.together.agreed(partial(super().find, network) if self.together.first else lambda: None)
        due = self.together.from_first(None if kept is None else _print(kept))
        if due is None:
            return None
        return self.together.agreed(partial(self._own, kept, due))

    def _own(self, kept: Kept | None, due: str) -> Kept:
        """The state with this process's tensors."""
        if kept is not None:
            return kept
        found = read_state(self.path)
        if not isinstance(found, Kept) or _print(found) != due:
            raise UserError(
                f"{self.path}: is not the file that the first process sees; all machines must share this folder"
            )
        end = f"@{self.together.launch.rank}"
        own = {name.removesuffix(end): tensor for name, tensor in found.tensors.items() if name.endswith(end)}
        mine = Kept(found.tensors | own, found.numbers)
        self._going_on(mine)
        return mine

    def due(self) -> bool:
        """Whether the state should be kept now: the first process's clock says so, or any was asked to stop."""
        late = self.together.first and time.perf_counter() >= self.next
        self._agreed, keep = self.together.largest(self.request.asked or 0, int(late))
        return bool(self._agreed or keep)

    def _gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        own = {name: tensor.cpu() for name, tensor in tensors.items() if name.startswith(_OWN)}
        for rank, theirs in enumerate(self.together.to_first(own)):
            if rank:
                tensors |= {f"{name}@{rank}": tensor for name, tensor in theirs.items()}
        return tensors

    def _write(self, tensors: dict[str, Tensor], text: str) -> None:
        if self.together.first:
            super()._write(tensors, text)
        # The others wait: one that ended would have the first ended by torchrun, in the middle of its writing.
        self.together.from_first(None)

    @contextmanager
    def helped(self) -> Iterator[None]:
        """As `Keeper.helped`; nor is the end of another process a fault. At the end all agree whether they were asked to stop."""
        try:
            with super().helped():
                yield
                (asked,) = self.together.largest(self.request.asked or 0)
        except RuntimeError as error:
            if not lost(error):
                raise
            raise self.broken_off(signal.SIGTERM) from error
        if asked:
            raise self.broken_off(asked)

    @contextmanager
    def scoring(self, keep: Callable[[], None]) -> Iterator[None]:
        """Nothing is broken off: the others wait for this process's scores. A request is obeyed after the next step."""
        yield

    def remove(self) -> None:
        """The fold is finished, or starts anew."""
        if self.together.first:
            super().remove()


def keeper_of(run: Run, fold: int, compute: Compute, request: StopRequest, processes: Processes) -> Keeper:
    """The keeper of one fold of `run`."""
    path, belongs = run.folder / f".fold{fold}.resume.safetensors", belongings(run, fold, compute)
    if processes.size == 1:
        return Keeper(path, fold, belongs, request)
    return SharedKeeper(path, fold, belongs, request, processes)


def _print(kept: Kept) -> str:
    """Which state it is."""
    return text_hash(json.dumps(kept.numbers))
