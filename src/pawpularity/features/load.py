"""What a network is fed, a batch at a time: photos, or states of its trunk that were computed before.

Both know (row, view) pairs and nothing of epochs; both give the tail the same states. `PixelInputs` runs the trunk each
time, `StateInputs` reads it from the memory map.
"""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pawpularity.data.augment import Augmenter
from pawpularity.data.photo_cache import Photos
from pawpularity.data.photos import prefetch
from pawpularity.device import Compute
from pawpularity.features.build import Trunks
from pawpularity.features.store import TrunkFile
from pawpularity.models.network import Network

Rows = NDArray[np.int64]
Batch = tuple[Rows, Rows]
"""(positions in a list of rows, their views)"""


class Inputs(Protocol):
    """Where batches come from. `rows` are rows of the labelled table, not of the photo cache."""

    def take(self, rows: Rows, views: Rows) -> Tensor:
        """One batch, on the CPU."""
        ...

    def feed(self, rows: Rows, batches: "Iterable[Batch]", workers: int, pin: bool) -> Iterator[tuple[Tensor, Rows]]:
        """(batch, positions) for every one of `batches`, prepared ahead; `positions` index `rows`."""
        ...

    def state(self, network: Network, x: Tensor) -> Tensor:
        """States at the network's cut, of a batch on its device."""
        ...


@dataclass
class PixelInputs:
    """Photos as uint8, (B, size, size, 3): the trunk runs each time they are seen."""

    photos: Photos
    photo_rows: Rows
    """(n,) where each row's photo is"""
    _loader: "tuple[Rows, _Keys, DataLoader[Tensor]] | None" = field(default=None, repr=False)

    def take(self, rows: Rows, views: Rows) -> Tensor:
        """(B, size, size, 3) uint8."""
        pixels, seeds = self.photos.pixels, self.photos.seeds
        if not views.any():
            return torch.from_numpy(np.array(pixels[self.photo_rows[rows]]))
        augmenter = Augmenter(pixels.shape[1])
        at = self.photo_rows[rows]
        augmented = (
            augmenter.apply(np.asarray(pixels[p]), int(v), int(seeds[p])) for p, v in zip(at, views, strict=True)
        )
        return torch.from_numpy(np.stack(list(augmented)))

    def feed(self, rows: Rows, batches: Iterable[Batch], workers: int, pin: bool) -> Iterator[tuple[Tensor, Rows]]:
        """As `Inputs.feed`; `workers` processes augment, 0 = this one."""
        if self._loader is None or self._loader[0] is not rows:
            keys = _Keys()
            items = _Painted(self.photos.pixels, self.photos.seeds, self.photo_rows[rows])
            loader = DataLoader(
                items,
                batch_sampler=keys,
                num_workers=workers,
                persistent_workers=workers > 0,
                # Its own generator: else each pass takes a number from torch's global one, and dropout depends on workers.
                generator=torch.Generator(),
                pin_memory=pin,
                worker_init_fn=_single_thread,
                collate_fn=torch.stack,
            )
            self._loader = (rows, keys, loader)
            HELPERS.died = None
        _, keys, loader = self._loader
        due = list(batches)
        keys[:] = [list(zip(positions.tolist(), views.tolist(), strict=True)) for positions, views in due]
        for x, (positions, _) in zip(HELPERS.awaited(loader), due, strict=True):
            yield x, positions

    def state(self, network: Network, x: Tensor) -> Tensor:
        """Runs the trunk."""
        return network.trunk(x)


@dataclass
class StateInputs:
    """States from a trunk file."""

    file: TrunkFile
    photo_rows: Rows

    def take(self, rows: Rows, views: Rows) -> Tensor:
        """(B, *state)."""
        return self.file.take(self.file.slots(self.photo_rows[rows], views))

    def feed(self, rows: Rows, batches: Iterable[Batch], workers: int, pin: bool) -> Iterator[tuple[Tensor, Rows]]:
        """As `Inputs.feed`; one thread reads ahead."""

        def read() -> Iterator[tuple[Tensor, Rows]]:
            for positions, views in batches:
                states = self.take(rows[positions], views)
                yield (states.pin_memory() if pin else states), positions

        return prefetch(read(), 2)

    def state(self, network: Network, x: Tensor) -> Tensor:
        """They are states already."""
        return x


def open_inputs(
    trunks: Trunks | None,
    photos: Photos,
    photo_rows: Rows,
    network: Network,
    compute: Compute,
    rows: Rows,
    views: Rows,
) -> Inputs:
    """States of the pairs (`rows[i]`, `views[i]`) if the network has a trunk and they fit the budget, else the photos."""
    file = None if trunks is None else trunks.open(network, compute, photo_rows[rows], views)
    return PixelInputs(photos, photo_rows) if file is None else StateInputs(file, photo_rows)


class Helpers:
    """Hears of processes that prepare batches and died, and says so where a batch is awaited.

    PyTorch's handler of SIGCHLD raises wherever the program is: also while it keeps its state, and while it says what else
    the death broke. Once this one stands, it raises there only while a batch is awaited, and else at the next batch.
    """

    def __init__(self) -> None:
        self.died: RuntimeError | None = None
        """What PyTorch said of a death that no batch was awaited at; a new loader has new processes."""
        self._awaiting = False
        self._theirs: Callable[[int, FrameType | None], object] = lambda number, frame: None

    def awaited(self, loader: "DataLoader[Tensor]") -> Iterator[Tensor]:
        """The batches of `loader`.

        Raises RuntimeError ("DataLoader worker (pid ...") or what the broken pipe raised (EOFError, OSError) for a process
        that was killed.
        """
        with self._wait():
            batches = iter(loader)  # the first one sets PyTorch's handler
        self._take_over()
        while True:
            with self._wait():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    @contextmanager
    def _wait(self) -> Iterator[None]:
        self._awaiting = True
        try:
            if self.died is not None:
                raise self.died
            yield
        finally:
            self._awaiting = False

    def _take_over(self) -> None:
        theirs = signal.getsignal(signal.SIGCHLD)
        if callable(theirs) and theirs != self._note and threading.current_thread() is threading.main_thread():
            self._theirs = theirs
            signal.signal(signal.SIGCHLD, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        try:
            self._theirs(number, frame)
        except RuntimeError as error:
            if self._awaiting:
                raise
            self.died = error


HELPERS = Helpers()
"""Of this process: signals are a process's own."""


class _Keys(list[list[tuple[int, int]]]):
    """The (position, view) pairs of every batch of the next pass; worker processes outlive a pass."""


class _Painted(TorchDataset[Tensor]):
    """Item (position, view): a training item as it is seen in one epoch."""

    def __init__(self, pixels: NDArray[np.uint8], seeds: NDArray[np.uint64], photo_rows: Rows) -> None:
        self.pixels, self.seeds, self.photo_rows = pixels, seeds, photo_rows
        self.augmenter: Augmenter | None = None  # made by the process that uses it: its thread-local part cannot travel

    def __len__(self) -> int:
        return len(self.photo_rows)

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        if self.augmenter is None:
            self.augmenter = Augmenter(self.pixels.shape[1])
        position, view = key
        at = self.photo_rows[position]
        # A copy: an augmenter may hand back a view of the read-only map, which torch must not write to.
        return torch.from_numpy(np.array(self.augmenter.apply(np.asarray(self.pixels[at]), view, int(self.seeds[at]))))


def _single_thread(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
