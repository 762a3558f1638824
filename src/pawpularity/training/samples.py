"""Training samples (a photo, or a copy of one) and their batches.

`honest`: the samples of a fold are its training rows and their copies. `leaky` repeats the paper's mistake on purpose, to show
what it does: copies are split like photos of their own, so that a photo may be scored while its mirror image, with the very
score to be predicted, was trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pawpularity.config import Config
from pawpularity.data.augment import ORIGINAL, Schedule, copies, schedule_of
from pawpularity.data.dataset import Dataset
from pawpularity.data.folds import Folds
from pawpularity.data.photo_cache import Photos
from pawpularity.data.tables import METADATA, TARGET
from pawpularity.device import Compute
from pawpularity.features.build import FeatureCache
from pawpularity.features.load import Inputs, open_inputs
from pawpularity.models.network import Network
from pawpularity.transforms import Pipeline

Rows = NDArray[np.int64]
Pairs = tuple[Rows, Rows]
"""(rows, views), each (m,)"""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """A data set as arrays aligned by row and sorted by Id, so that the table's row order decides nothing."""

    photos: Photos
    """in the order of the table file"""
    photo_rows: Rows
    """(N,) where in `photos` each row's photo is"""
    metadata: NDArray[np.float32]
    """(N, 12)"""
    scores: NDArray[np.float64]
    """(N,) points"""
    groups: Rows
    """(N,) near-duplicates share a number"""
    cache: FeatureCache | None = None
    """cached features of these photos; None = none are kept, the frozen part runs every time"""

    @classmethod
    def load(cls, dataset: Dataset, folds: Folds, config: Config) -> "TrainingData":
        """The photos of `dataset` as `config` decodes them."""
        ids = dataset.train["Id"].tolist()
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)
        table = dataset.train.iloc[order]
        folder = Path(config.cache.folder)
        photos = dataset.photos(config.photos.size, config.photos.fit, folder)
        return cls(
            photos=photos,
            photo_rows=order,
            metadata=table[list(METADATA)].to_numpy(dtype=np.float32),
            scores=table[TARGET].to_numpy(dtype=np.float64),
            groups=folds.groups_of(table["Id"]),
            cache=FeatureCache(folder / "features", photos, config.photos.size, config.cache.budget_gb),
        )

    def mean(self, rows: Rows) -> float:
        """The constant prediction: the mean score of the training rows."""
        return float(self.scores[rows].mean())

    def inputs(
        self, network: Network, compute: Compute, pairs: Pairs, pipeline: Pipeline | None = None, *, cached: bool = True
    ) -> Inputs:
        """What `network` is fed for (row, view) `pairs`: cached features if they fit the budget, else photos.

        `pipeline`: the transforms of random views. `cached`: whether cached features will do.
        """
        cache = self.cache if cached else None
        return open_inputs(cache, self.photos, self.photo_rows, network, compute, *pairs, pipeline)


@dataclass(frozen=True, eq=False)
class Samples:
    """Photos and copies of photos: sample i is copy `copies[i]` (0 = the photo itself) of row `rows[i]`."""

    rows: Rows
    copies: Rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def pairs(self) -> Pairs:
        """(rows, views) of the samples without augmentation."""
        return self.rows, self.copies

    def schedule(self, config: Config, seed: int) -> Schedule:
        """Which augmentation of each sample is shown in which epoch."""
        return schedule_of(config.train, self.copies, seed)

    def take(self, chosen: NDArray[np.bool_] | Rows) -> "Samples":
        """Some of them."""
        return Samples(self.rows[chosen], self.copies[chosen])


def originals(rows: Rows) -> Samples:
    """The photos of `rows` without copies: what is watched and scored."""
    return Samples(rows, np.full(len(rows), ORIGINAL, dtype=np.int64))


def samples_of(config: Config, scores: NDArray[np.float64], rows: Rows) -> Samples:
    """`rows` and their copies under `train.copies`, in row order.

    `scores` are the whole table's, (N,): a photo's copies must not depend on the fold.
    """
    at, copy_of = np.nonzero(copies(scores, config.train.copies, config.train.seed)[rows])
    return Samples(rows[at], copy_of.astype(np.int64))


def fold_samples(
    config: Config, scores: NDArray[np.float64], training: Rows, scored: Rows, fold: int, k: int
) -> Samples:
    """What a fold is trained on: its training rows and their copies.

    Under `train.split=leaky` every copy is put into a fold of its own, whatever its photo's: copies of scored photos in other
    folds leak into the training, and as many copies of training photos are missing from it.
    """
    if config.train.split == "honest":
        return samples_of(config, scores, training)
    every = samples_of(config, scores, np.arange(len(scores)))
    # One draw per sample of the whole table, so that all folds split the same way.
    drawn = np.random.default_rng([config.train.seed, 0x1EA4]).integers(k, size=len(every))
    known = np.isin(every.rows, np.concatenate([training, scored]))
    mine = np.isin(every.rows, training)
    return every.take(np.where(every.copies == ORIGINAL, mine, known & (drawn != fold)))


def random_tenth(samples: int, seed: int = 42) -> NDArray[np.bool_]:
    """Which of `samples` the paper's `torch.utils.data.random_split`, 90 to 10, puts into the validation set: (samples,)."""
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed)).numpy()
    chosen = np.zeros(samples, dtype=bool)
    chosen[order[int(0.9 * samples) :]] = True
    return chosen


def paper_split(config: Config, data: TrainingData, rows: Rows) -> tuple[Samples, Samples]:
    """The paper's split of the photos `rows` and their copies: (training, validation) samples, copies on both sides."""
    samples = samples_of(config, data.scores, rows)
    # The paper's list, and so its random tenth, is in table order; rows are sorted by Id here.
    samples = samples.take(np.lexsort((samples.copies, data.photo_rows[samples.rows])))
    chosen = random_tenth(len(samples))
    return samples.take(~chosen), samples.take(chosen)


def augmented(config: Config, samples: Samples, seed: int = 0) -> Pairs:
    """(rows, views) of every pair that any epoch of a fit on `samples` shows."""
    at, views = samples.schedule(config, seed).all()
    return samples.rows[at], views


def joined_pairs(*parts: Pairs) -> Pairs:
    """Several lists of (rows, views) as one."""
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([views for _, views in parts])


class EpochBatches:
    """Shuffled batches of equal size, give or take one: a function of (seed, epoch) alone.

    BatchNorm would fail on a last batch of one photo, and a short batch has a noisy gradient.
    """

    def __init__(self, samples: int, batch_size: int, seed: int) -> None:
        self.samples, self.seed = samples, seed
        self.batches = max(1, min(-(-samples // batch_size), samples // 2))

    def __len__(self) -> int:
        return self.batches

    def of(self, epoch: int) -> Iterator[Rows]:
        """Positions of the samples in every batch of `epoch`."""
        order = np.random.default_rng([self.seed, epoch, 0x5F]).permutation(self.samples)
        yield from np.array_split(order, self.batches)
