"""The paper's protocol, replayed from the labels alone: copy first, split second, and what that lets a label do.

The authors' published code makes one flat list of photos and transformed copies, keeps no photo's Id, and splits that list
at random, 90 to 10, with seed 42. So most validation items have a copy of themselves, with the very score to be predicted,
in the training set. `replay` rebuilds that list and that split to the digit and asks what somebody would score who never
looks at a picture: answer with the label of a copy that was trained on, else with the training items' mean.

Items stand in table order, a photo's own in the order original, flip, blur, crop (`views.copies`, rule `authors`).
`torch.randperm` is what `random_split` draws, so the very items of the authors' validation set are found.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.augment import AUGMENTATIONS, copies
from pawpularity.evaluation.metrics import rmse
from pawpularity.files import plain

SEED = 42
TRAINED_SHARE = 0.9
SEEDS = 200

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ItemSplit:
    """A list of items and which of them are validated on."""

    rows: Rows
    """(items,) the photo of each item, a row of the table"""
    copies: Rows
    """(items,) 0 = the photo as it is, 1-3 = its flip, blur, crop"""
    validated: NDArray[np.bool_]
    """(items,)"""


@dataclass(frozen=True)
class Replay:
    """What the split lets a label do; RMSEs in score points."""

    photos: int
    items: int
    copied_photos: int
    validation: int
    siblings: int
    sibling_share: float
    training_mean: float
    lookup_rmse: float
    constant_rmse: float
    sd: float
    r2: float
    leaked_mean: float
    leaked_sd: float
    other_mean: float
    other_sd: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON; figures of no rows are null."""
        return plain(vars(self))


def item_split(scores: Floats, rule: str = "authors", *, seed: int = SEED) -> ItemSplit:
    """The items of `scores` (n,), in table order, under `rule`, and the random tenth of them that is validated on."""
    rows, copy_of = np.nonzero(copies(scores, rule, 0))
    return ItemSplit(rows, copy_of, validated_items(len(rows), seed))


def validated_items(items: int, seed: int) -> NDArray[np.bool_]:
    """The random tenth of `items` that torch's `random_split`, seeded with `seed`, validates on: (items,)."""
    import torch

    order = torch.randperm(items, generator=torch.Generator().manual_seed(seed)).numpy()
    chosen = np.zeros(items, dtype=bool)
    chosen[order[int(TRAINED_SHARE * items) :]] = True
    return chosen


def siblings_of(split: ItemSplit) -> NDArray[np.bool_]:
    """For each validation item, in list order, whether a copy of the same photo is trained on."""
    trained = np.zeros(int(split.rows.max()) + 1, dtype=bool)
    trained[split.rows[~split.validated]] = True
    siblings: NDArray[np.bool_] = trained[split.rows[split.validated]]
    return siblings


def lookup(scores: Floats, split: ItemSplit) -> tuple[Floats, float]:
    """Answers for the validation items without looking, and the training items' mean: a copy's label, else that mean."""
    mean = float(scores[split.rows[~split.validated]].mean())
    return np.where(siblings_of(split), scores[split.rows[split.validated]], mean), mean


def replay(scores: Floats, rule: str = "authors") -> Replay:
    """The protocol on `scores` (n,), in table order."""
    split = item_split(scores, rule)
    target, known = scores[split.rows[split.validated]], siblings_of(split)
    answers, mean = lookup(scores, split)
    value, sd = rmse(target, answers), float(target.std())

    def spread(part: Floats) -> tuple[float, float]:
        return (float(part.mean()), float(part.std())) if len(part) else (float("nan"), float("nan"))

    leaked, other = spread(target[known]), spread(target[~known])
    return Replay(
        photos=len(scores),
        items=len(split.rows),
        copied_photos=len(np.unique(split.rows[split.copies > 0])),
        validation=len(target),
        siblings=int(known.sum()),
        sibling_share=float(known.mean()),
        training_mean=mean,
        lookup_rmse=value,
        constant_rmse=rmse(target, np.full(len(target), mean)),
        sd=sd,
        r2=1 - (value / sd) ** 2 if sd > 0 else float("nan"),
        leaked_mean=leaked[0],
        leaked_sd=leaked[1],
        other_mean=other[0],
        other_sd=other[1],
    )


def over_seeds(scores: Floats, rule: str = "authors") -> dict[str, Any]:
    """Mean, sd over SEEDS seeds from 0 (ddof 1), least and greatest of the figures that depend on the split's luck."""
    rows, copy_of = np.nonzero(copies(scores, rule, 0))
    figures = np.empty((SEEDS, 3))
    for i in range(SEEDS):
        chosen = validated_items(len(rows), i)
        split = ItemSplit(rows, copy_of, chosen)
        target, (answers, mean) = scores[rows[chosen]], lookup(scores, split)
        figures[i] = siblings_of(split).mean(), rmse(target, answers), rmse(target, np.full(len(target), mean))
    return {"seeds": SEEDS} | {
        name: {"mean": float(v.mean()), "sd": float(v.std(ddof=1)), "low": float(v.min()), "high": float(v.max())}
        for name, v in zip(("sibling_share", "lookup_rmse", "constant_rmse"), figures.T, strict=True)
    }


def answers_table(ids: list[str], scores: Floats, rule: str = "authors") -> pd.DataFrame:
    """The lookup's answers as a table of predictions, a row per validation item: Id (of copies `ID-flip`), fold, target,
    prediction. So that a leak meter may be tried on it."""
    split = item_split(scores, rule)
    answers, _ = lookup(scores, split)
    rows, copy_of = split.rows[split.validated], split.copies[split.validated]
    names = [
        ids[r] if not c else f"{ids[r]}-{AUGMENTATIONS[c]}"
        for r, c in zip(rows.tolist(), copy_of.tolist(), strict=True)
    ]
    table = pd.DataFrame({"Id": names, "fold": 0, "target": scores[rows], "prediction": answers})
    return table.sort_values("Id", ignore_index=True)
