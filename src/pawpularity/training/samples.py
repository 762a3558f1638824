"""What is trained on and what is watched: items, (row, copy) pairs, where a photo and each of its copies is one item.

`honest`: the items of a fold are its training rows and their copies. `leaky` repeats the paper's mistake on purpose, to
show what it does: copies are dealt out like photos of their own, so that a photo may be scored while its mirror image, with
the very score to be predicted, was trained on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pawpularity.data.augment import FLIP, ORIGINAL, Schedule, copies
from pawpularity.schema import Config

Rows = NDArray[np.int64]
Pairs = tuple[Rows, Rows]
"""(rows, views), each (m,)"""


@dataclass(frozen=True, eq=False)
class Items:
    """Photos and copies of photos: item i is copy `copies[i]` (0 = the photo as it is) of row `rows[i]`."""

    rows: Rows
    copies: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def schedule(self, config: Config, seed: int) -> Schedule:
        """When each item is shown how."""
        train = config.train
        return Schedule(train.augment, self.copies, epochs=train.epochs, views=train.views, seed=seed)

    def take(self, chosen: NDArray[np.bool_] | Rows) -> "Items":
        """Some of them."""
        return Items(self.rows[chosen], self.copies[chosen])


def as_they_are(rows: Rows) -> Items:
    """The photos of `rows`, uncopied: what is watched and scored."""
    return Items(rows, np.full(len(rows), ORIGINAL, dtype=np.int64))


NOTHING = as_they_are(np.empty(0, dtype=np.int64))


def items_of(config: Config, scores: NDArray[np.float64], rows: Rows) -> Items:
    """`rows` and their copies under `train.copies`, in row order.

    `scores` are the whole table's, (N,): a photo's copies must not depend on the fold.
    """
    at, copy_of = np.nonzero(copies(scores, config.train.copies, config.train.seed)[rows])
    return Items(rows[at], copy_of.astype(np.int64))


def fold_items(config: Config, scores: NDArray[np.float64], training: Rows, scored: Rows, fold: int, k: int) -> Items:
    """What a fold is trained on besides its training rows' photos as they are: their copies, and what leaks.

    Under `train.split=leaky` every copy is dealt into a fold of its own, whatever its photo's: copies of scored photos in
    other folds leak into the training, and as many copies of training photos are missing from it.
    """
    honest = items_of(config, scores, training)
    if config.train.split == "honest":
        return honest
    every = items_of(config, scores, np.arange(len(scores)))
    # One lot per item of the whole table, so that all folds deal the same way.
    dealt = np.random.default_rng([config.train.seed, 0x1EA4]).integers(k, size=len(every))
    known = np.isin(every.rows, np.concatenate([training, scored]))
    mine = np.isin(every.rows, training)
    return every.take(np.where(every.copies == ORIGINAL, mine, known & (dealt != fold)))


def shown(config: Config, items: Items, seed: int = 0) -> Pairs:
    """(rows, views) of every pair that any epoch of a fit on `items` shows."""
    at, views = items.schedule(config, seed).all()
    return items.rows[at], views


def looked_at(*parts: Pairs | Items) -> Pairs:
    """Pairs and items, as they are, in one list."""
    pairs = [(part.rows, part.copies) if isinstance(part, Items) else part for part in parts]
    return np.concatenate([rows for rows, _ in pairs]), np.concatenate([views for _, views in pairs])


def scored_pairs(config: Config, rows: Rows) -> Pairs:
    """(rows, views) that scoring `rows` looks at: the photos, and with `predict.flip` their mirror images."""
    own = as_they_are(rows)
    return looked_at(own, (rows, np.full(len(rows), FLIP))) if config.predict.flip else (own.rows, own.copies)
