"""What a network is fed, a batch at a time: photos, or states of its trunk that were computed before.

Both know (row, view) pairs and nothing of epochs; both give the tail the same states. `PixelInputs` runs the trunk each
time, `FeatureInputs` reads it from the memory map.
"""

import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pawpularity.data.augment import Painter
from pawpularity.data.photo_cache import Photos
from pawpularity.device import Compute
from pawpularity.features.build import FeatureCache, ahead
from pawpularity.features.store import FeatureFile
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

    def features(self, network: Network, x: Tensor) -> Tensor:
        """What the network's frozen blocks give for a batch on its device."""
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
        painter = Painter(pixels.shape[1])
        at = self.photo_rows[rows]
        painted = (painter.paint(np.asarray(pixels[p]), int(v), int(seeds[p])) for p, v in zip(at, views, strict=True))
        return torch.from_numpy(np.stack(list(painted)))

    def feed(self, rows: Rows, batches: Iterable[Batch], workers: int, pin: bool) -> Iterator[tuple[Tensor, Rows]]:
        """As `Inputs.feed`; `workers` processes paint, 0 = this one."""
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
        _, keys, loader = self._loader
        due = list(batches)
        keys[:] = [list(zip(positions.tolist(), views.tolist(), strict=True)) for positions, views in due]
        for x, (positions, _) in zip(loader, due, strict=True):
            yield x, positions

    def features(self, network: Network, x: Tensor) -> Tensor:
        """Runs the frozen blocks."""
        return network.frozen_features(x)


@dataclass
class FeatureInputs:
    """States from a trunk file."""

    file: FeatureFile
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

        return ahead(read(), 2)

    def features(self, network: Network, x: Tensor) -> Tensor:
        """They are cached features already."""
        return x


def open_inputs(
    trunks: FeatureCache | None,
    photos: Photos,
    photo_rows: Rows,
    network: Network,
    compute: Compute,
    rows: Rows,
    views: Rows,
) -> Inputs:
    """States of the pairs (`rows[i]`, `views[i]`) if the network has a trunk and they fit the budget, else the photos."""
    file = None if trunks is None else trunks.open(network, compute, photo_rows[rows], views)
    return PixelInputs(photos, photo_rows) if file is None else FeatureInputs(file, photo_rows)


class _Keys(list[list[tuple[int, int]]]):
    """The (position, view) pairs of every batch of the next pass; worker processes outlive a pass."""


class _Painted(TorchDataset[Tensor]):
    """Item (position, view): a training item as it is seen in one epoch."""

    def __init__(self, pixels: NDArray[np.uint8], seeds: NDArray[np.uint64], photo_rows: Rows) -> None:
        self.pixels, self.seeds, self.photo_rows = pixels, seeds, photo_rows
        self.painter: Painter | None = None  # made by the process that paints: its thread-local part cannot travel

    def __len__(self) -> int:
        return len(self.photo_rows)

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        if self.painter is None:
            self.painter = Painter(self.pixels.shape[1])
        position, view = key
        at = self.photo_rows[position]
        # A copy: a painter may hand back a view of the read-only map, which torch must not write to.
        return torch.from_numpy(np.array(self.painter.paint(np.asarray(self.pixels[at]), view, int(self.seeds[at]))))


def _single_thread(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process to answer
