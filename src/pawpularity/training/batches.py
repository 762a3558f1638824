"""Which items make a batch: shuffled anew every epoch, of equal size, a function of (seed, epoch) alone."""

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


class EpochBatches:
    """Shuffled batches of equal size, give or take one.

    Equal sizes, because a last batch of one photo would have no variance for BatchNorm, and a short one a loud gradient.
    """

    def __init__(self, items: int, batch_size: int, seed: int) -> None:
        self.items, self.seed = items, seed
        # Never a batch of one: BatchNorm has no variance to divide by.
        self.batches = max(1, min(-(-items // batch_size), items // 2))

    def __len__(self) -> int:
        return self.batches

    def of(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """The items of every batch of `epoch`."""
        order = np.random.default_rng([self.seed, epoch, 0x5F]).permutation(self.items)
        yield from np.array_split(order, self.batches)


def worker_count(asked: int, device: str) -> int:
    """`train.workers`: -1 means none on a CPU (it has better things to do), else up to 8, one per core but one."""
    if asked >= 0:
        return asked
    return 0 if device == "cpu" else max(0, min(8, (os.cpu_count() or 1) - 1))
