"""Batches of training items: uint8 until they are on the device, the same whatever prepares them.

An item's random view depends on (seed, epoch, item) alone, and the order of an epoch on (seed, epoch), so zero and
eight worker processes give the same batches.
"""

import os
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pawpularity.training.views import Augment, fixed_views

Key = tuple[int, int]
"""(epoch, item)"""


class Items(Dataset[tuple[Tensor, int]]):
    """Training items: row `rows[i]` of the photo cache seen as view `views[i]`, augmented."""

    def __init__(
        self,
        photos: NDArray[np.uint8],
        rows: NDArray[np.int64],
        views: NDArray[np.int64],
        *,
        augment: str,
        seed: int,
    ) -> None:
        self.photos, self.rows, self.views, self.seed = photos, rows, views, seed
        size = photos.shape[1]
        self.fixed = fixed_views(size)
        self.augment = Augment(augment, size)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        """(H, W, 3) uint8 pixels of an item in an epoch, and the item's number."""
        epoch, item = key
        image = self.fixed[int(self.views[item])](np.asarray(self.photos[self.rows[item]]))
        seed = int(np.random.SeedSequence([self.seed, epoch, item]).generate_state(1)[0])
        # A copy: albumentations may hand back a view of the read-only map, which torch must not write to.
        return torch.from_numpy(np.array(self.augment(image, seed))), item


class EpochBatches(Sampler[list[Key]]):
    """Shuffled batches of one epoch at a time, of equal size give or take one.

    Equal sizes, because a last batch of one photo would have no variance for BatchNorm, and a short one a loud gradient.
    """

    def __init__(self, items: int, batch_size: int, seed: int) -> None:
        self.items, self.seed, self.epoch = items, seed, 0
        # Never a batch of one: BatchNorm has no variance to divide by.
        self.batches = max(1, min(-(-items // batch_size), items // 2))

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng([self.seed, self.epoch, 0x5F]).permutation(self.items)
        for batch in np.array_split(order, self.batches):
            yield [(self.epoch, int(item)) for item in batch]


def loader(items: Items, batches: EpochBatches, *, workers: int, pin: bool) -> DataLoader[tuple[Tensor, int]]:
    """A DataLoader over `batches`; set `batches.epoch` before each pass. `workers=0` prepares them in this process."""
    return DataLoader(
        items,
        batch_sampler=batches,
        num_workers=workers,
        # Its own generator: else each pass takes a number from torch's global one, and dropout then depends on workers.
        generator=torch.Generator(),
        pin_memory=pin,
        persistent_workers=workers > 0,
        worker_init_fn=_single_thread,
        collate_fn=_collate,
    )


def worker_count(asked: int, device: str) -> int:
    """`train.workers`: -1 means none on a CPU (it has better things to do), else up to 8, one per core but one."""
    if asked >= 0:
        return asked
    return 0 if device == "cpu" else max(0, min(8, (os.cpu_count() or 1) - 1))


def _single_thread(worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _collate(samples: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    return torch.stack([pixels for pixels, _ in samples]), torch.tensor([item for _, item in samples])
