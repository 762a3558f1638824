"""The inputs of a network, batch by batch: photos, or cached features of its frozen part.

Both work on (row, view) pairs and know no epochs; both give the trained head the same features. `PixelInputs` runs the frozen
part each time, `FeatureInputs` reads from the memory map.
"""

import json
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pawpularity.data.augment import Augmenter
from pawpularity.data.photo_cache import Photos
from pawpularity.data.photos import ordered_map
from pawpularity.device import Compute
from pawpularity.features.build import FeatureCache
from pawpularity.features.store import FeatureFile, Rows
from pawpularity.models.network import Network
from pawpularity.transforms import Pipeline

Batch = tuple[Rows, Rows]
"""(positions in a list of rows, their views)"""


class Inputs(Protocol):
    """Where batches come from. `rows` are rows of the training data, not of the photo cache."""

    def take(self, rows: Rows, views: Rows) -> Tensor:
        """One batch, on the CPU."""
        ...

    def feed(self, rows: Rows, batches: Iterable[Batch], workers: int, pin: bool) -> Iterator[tuple[Tensor, Rows]]:
        """(batch, positions) for every one of `batches`, prepared ahead; `positions` index `rows`."""
        ...

    def features(self, network: Network, x: Tensor) -> Tensor:
        """What the network's frozen blocks give for a batch on its device."""
        ...


@dataclass
class PixelInputs:
    """Photos as uint8, (B, size, size, 3): the frozen part runs each time."""

    photos: Photos
    photo_rows: Rows
    """(n,) where each row's photo is"""
    pipeline: Pipeline | None = None
    """transforms of random views"""
    _loader: "tuple[Rows, list[Batch], DataLoader[NDArray[np.uint8]]] | None" = field(default=None, repr=False)

    def take(self, rows: Rows, views: Rows) -> Tensor:
        """(B, size, size, 3) uint8."""
        return torch.from_numpy(self._batches(rows)[np.arange(len(rows)), views])

    def _batches(self, rows: Rows) -> "_Batches":
        return _Batches(self.photos.pixels, self.photos.seeds, self.photo_rows[rows], self.pipeline)

    def feed(self, rows: Rows, batches: Iterable[Batch], workers: int, pin: bool) -> Iterator[tuple[Tensor, Rows]]:
        """As `Inputs.feed`; `workers` processes augment, 0 = this one."""
        if self._loader is None or self._loader[0] is not rows:
            due: list[Batch] = []  # refilled for each pass, because the workers outlive it
            loader = DataLoader(
                self._batches(rows),
                batch_size=None,
                sampler=due,
                # Arrays, not tensors: those would travel through /dev/shm, which Docker limits to 64 MB, and hold open files.
                collate_fn=lambda batch: batch,
                num_workers=workers,
                persistent_workers=workers > 0,
                # Its own generator: else each pass takes a number from torch's global one, and dropout depends on workers.
                generator=torch.Generator(),
                worker_init_fn=_start_worker,
            )
            self._loader = (rows, due, loader)
        _, due, loader = self._loader
        due[:] = batches
        for pixels, (positions, _) in zip(loader, due, strict=True):
            x = torch.from_numpy(pixels)
            yield (x.pin_memory() if pin else x), positions

    def features(self, network: Network, x: Tensor) -> Tensor:
        """Runs the frozen blocks."""
        return network.frozen_features(x)


@dataclass
class FeatureInputs:
    """Cached features from a file."""

    file: FeatureFile
    photo_rows: Rows

    def take(self, rows: Rows, views: Rows) -> Tensor:
        """(B, *shape)."""
        return self.file.take(self.file.slots(self.photo_rows[rows], views))

    def feed(self, rows: Rows, batches: Iterable[Batch], workers: int, pin: bool) -> Iterator[tuple[Tensor, Rows]]:
        """As `Inputs.feed`; one thread reads ahead."""

        def read(batch: Batch) -> tuple[Tensor, Rows]:
            positions, views = batch
            found = self.take(rows[positions], views)
            return (found.pin_memory() if pin else found), positions

        return ordered_map(read, batches, 1)

    def features(self, network: Network, x: Tensor) -> Tensor:
        """Returns `x`, which holds cached features already."""
        return x


def open_inputs(
    cache: FeatureCache | None,
    photos: Photos,
    photo_rows: Rows,
    network: Network,
    compute: Compute,
    rows: Rows,
    views: Rows,
    pipeline: Pipeline | None = None,
) -> Inputs:
    """Cached features of the pairs (`rows[i]`, `views[i]`) if blocks are frozen and the features fit the budget, else photos."""
    file = None if cache is None else cache.open(network, compute, photo_rows[rows], views, pipeline=pipeline)
    return PixelInputs(photos, photo_rows, pipeline) if file is None else FeatureInputs(file, photo_rows)


class _Batches(TorchDataset[NDArray[np.uint8]]):
    """Item (positions, views): one batch of augmented photos."""

    def __init__(
        self, pixels: NDArray[np.uint8], seeds: NDArray[np.uint64], photo_rows: Rows, pipeline: Pipeline | None
    ) -> None:
        self.pixels, self.seeds, self.photo_rows, self.pipeline = pixels, seeds, photo_rows, json.dumps(pipeline)

    def __getitem__(self, batch: Batch) -> NDArray[np.uint8]:
        positions, views = batch
        at = self.photo_rows[positions]
        if not views.any():
            return np.array(self.pixels[at])
        apply = _augmenter(self.pixels.shape[1], self.pipeline).apply
        pairs = zip(at, views, strict=True)
        return np.stack([apply(np.asarray(self.pixels[row]), int(view), int(self.seeds[row])) for row, view in pairs])


@cache
def _augmenter(size: int, pipeline: str) -> Augmenter:
    return Augmenter(size, json.loads(pipeline))  # one per process: its transforms take a while to build


def _start_worker(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
