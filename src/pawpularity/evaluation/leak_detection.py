"""A leak meter for anybody's out-of-fold predictions: signs that a row's score was known to what predicted it.

Without photos: the alarms of `evaluation.alarm`, and, where near-duplicates are known, whether predictions follow the score
of one posting of a photo rather than of the other. With photos: for every row the nearest photo of ANOTHER fold in the space
of a frozen network (what its training set held that looks most alike), the error by how alike it is, what copying that
neighbour's score would have scored, and which neighbours are copies. How alike a copy looks is measured on the photos
themselves: a sample of them is mirrored and cropped, and a neighbour as near as those are is suspected; whether the two
pictures are one, mirrored or cropped or not, is then decided by their hashes.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.evaluation.alarm import Sign, leak_signs
from pawpularity.evaluation.bands import BANDS
from pawpularity.evaluation.bootstrap import bootstrap_sums, interval
from pawpularity.evaluation.metrics import Score, rmse
from pawpularity.evaluation.origin import CONTEST_KIND, OTHER_KIND, Origin
from pawpularity.evaluation.sources import Source
from pawpularity.files import plain

COPIES_BAR = 0.05  # share of rows with a copy in another fold; 0.8 % of the contest's photos were posted twice
ACROSS, SPANNING = "copies across folds", "groups that span folds"
COPIES_AT_LEAST = 10  # rows
BLIND_BELOW = 1000
PAIRS_AT_LEAST = 10
PAIR_BAR = 0.3
DECILES = 10
_TILE = 2048  # rows compared at a time: 2048 x 9,912 similarities are 81 MB

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The most alike row of another fold."""

    at: Rows
    """(n,) its row; -1 where every row is of one fold"""
    similarity: Floats
    """(n,) cosine of standardised features, -1..1"""


@dataclass(frozen=True)
class Decile:
    """Rows by how alike their nearest neighbour in another fold is, the least alike first."""

    n: int
    similarity: float
    """median"""
    rmse: float
    copying_rmse: float
    """of answering with the neighbour's score"""
    constant_rmse: float


@dataclass(frozen=True)
class Copies:
    """Neighbours in another fold that look like copies."""

    bar: float
    """similarity from which a neighbour is suspected to be one"""
    looked_at: int
    """rows with a photo"""
    suspected: int
    rows: int
    share: float
    rmse: float
    """of the rows that have one; NaN where there are none"""
    other_rmse: float
    copying_rmse: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON; figures of no rows are null."""
        return plain(asdict(self))


def standardised(features: NDArray[np.float32], *, by: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """`features` (n, width), every column with mean 0 and sd 1 over `by` (default: themselves), every row of length 1."""
    base = features if by is None else by
    sd = base.std(axis=0)
    scaled = (features - base.mean(axis=0)) / np.where(sd > 1e-6, sd, 1.0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (scaled / np.maximum(length, 1e-12)).astype(np.float32)
    return unit


def nearest_across_folds(unit: NDArray[np.float32], fold: Rows) -> Neighbours:
    """For each row of `unit` (n, width) the most similar row whose `fold` (n,) is another."""
    n = len(unit)
    at, best = np.empty(n, dtype=np.int64), np.empty(n)
    for start in range(0, n, _TILE):
        part = slice(start, start + _TILE)
        alike = unit[part] @ unit.T
        alike[fold[part][:, None] == fold[None, :]] = -np.inf
        found = alike.argmax(axis=1)
        value = alike[np.arange(len(found)), found].astype(np.float64)
        there = np.isfinite(value)
        at[part], best[part] = np.where(there, found, -1), np.where(there, value, np.nan)
    return Neighbours(at, best)


def deciles(source: Source, rows: Rows, near: Neighbours) -> list[Decile]:
    """The error by similarity, of `rows` (those with photos); `near` is aligned with them."""
    order = np.argsort(near.similarity, kind="stable")
    target, prediction, constant = source.target[rows], source.prediction[rows], source.constant[rows]
    copied = target[near.at]
    return [
        Decile(len(part), float(np.median(near.similarity[part])), rmse(target[part], prediction[part]),
               rmse(target[part], copied[part]), rmse(target[part], constant[part]))
        for part in np.array_split(order, min(DECILES, len(order)))
    ]  # fmt: skip


def copies_of(source: Source, rows: Rows, near: Neighbours, bar: float, chosen: NDArray[np.bool_]) -> Copies:
    """What the rows with a copy in another fold score; `chosen` says which of `rows` they are, `bar` who was suspected."""
    target, prediction = source.target[rows], source.prediction[rows]

    def of(mask: NDArray[np.bool_], answer: Floats) -> float:
        return rmse(target[mask], answer[mask]) if mask.any() else float("nan")

    return Copies(
        bar=bar,
        looked_at=len(rows),
        suspected=int((near.similarity >= bar).sum()),
        rows=int(chosen.sum()),
        share=float(chosen.mean()),
        rmse=of(chosen, prediction),
        other_rmse=of(~chosen, prediction),
        copying_rmse=of(chosen, target[near.at]),
    )


def copies_sign(copies: Copies) -> Sign:
    """Raised where far more rows have a copy in another fold than photos are posted twice."""
    return Sign(
        ACROSS, copies.share >= COPIES_BAR and copies.rows >= COPIES_AT_LEAST,
        f"{copies.rows} of {copies.looked_at} rows with a photo ({100 * copies.share:.1f} %) have a copy of it in another fold, of "
        f"{copies.suspected} that have one as alike as a mirror image or crop (similarity {copies.bar:.3f}); alarm from "
        f"{100 * COPIES_BAR:.0f} % (0.8 % of the contest's photos were posted twice)",
    )  # fmt: skip


def pair_sign(source: Source) -> Sign | None:
    """Whether predictions of two postings of one photo differ as their scores do. None with too few pairs.

    They look the same, so an honest network can hardly tell which of the two was scored higher. One that trained on a
    copy of the row alone can (slope towards 1); one that trained on the other posting alone answers with that one's score
    (towards -1). Where copies of both were trained on, it answers with their mean, and nothing is seen here.
    """
    if source.groups is None:
        return None
    order = np.argsort(source.groups, kind="stable")
    same = np.flatnonzero(np.diff(source.groups[order]) == 0)
    a, b = order[same], order[same + 1]
    dy, dp = source.target[a] - source.target[b], source.prediction[a] - source.prediction[b]
    if len(a) < PAIRS_AT_LEAST or not dy.any():
        return None
    # Groups of three give two pairs that share a photo: the pairs of a group are drawn together.
    sums = bootstrap_sums(np.stack([dp * dy, dy * dy], axis=1), source.groups[a], draws=4000)
    low, high = interval(sums[:, 0] / np.maximum(sums[:, 1], 1e-12))
    slope = float((dp @ dy) / (dy @ dy))
    return Sign(
        "near-duplicates", low > PAIR_BAR or high < -PAIR_BAR,
        f"where {len(a)} pairs of postings of one photo differ in score, predictions follow by {slope:+.2f} points a point, 95 % "
        f"[{low:+.2f}, {high:+.2f}]; alarm beyond +-{PAIR_BAR} (1: a copy of the row was "
        "trained on, -1: the other posting)",
    )  # fmt: skip


def extremes_remark(source: Source, kind: str) -> str:
    """How far predictions reach, and the error at the ends of the scale, where honest ones are worst."""
    ends = [("<=20", source.target <= BANDS[0][1]), ("100", source.target > BANDS[-2][1])]
    parts = [
        f"{name}: {rmse(source.target[m], source.prediction[m]):.1f} (n {int(m.sum())})" for name, m in ends if m.any()
    ]
    return (
        f"predictions {source.prediction.min():.1f} to {source.prediction.max():.1f}; RMSE of true scores {', '.join(parts)}"
        + (" (an honest blend of the contest: 24 and 43)" if kind == CONTEST_KIND else "")
    )


def spanning_sign(source: Source) -> Sign | None:
    """Whether known near-duplicates stand in other folds than their twins; None where no groups are known."""
    if source.groups is None:
        return None
    _, index = np.unique(source.groups, return_inverse=True)
    low, high = np.full(index.max() + 1, np.iinfo(np.int64).max), np.full(index.max() + 1, -1)
    np.minimum.at(low, index, source.fold)
    np.maximum.at(high, index, source.fold)
    rows, several = int((low < high)[index].sum()), int((np.bincount(index) > 1).sum())
    share = rows / len(index)
    return Sign(
        SPANNING, rows >= COPIES_AT_LEAST and share >= COPIES_BAR,
        f"{int((low < high).sum())} of {several} groups of near-duplicates span folds: {rows} rows ({100 * share:.1f} %); "
        f"alarm from {100 * COPIES_BAR:.0f} %",
    )  # fmt: skip


def signs_of(source: Source, result: Score, origin: Origin, copies: Copies | None) -> list[Sign]:
    """Every sign that can be looked for here; on data of unknown kind the folds' own alone."""
    signs = leak_signs(source, result, origin)
    if origin.kind != OTHER_KIND and (pairs := pair_sign(source)) is not None:
        signs.append(pairs)
    if copies is not None:
        signs.append(copies_sign(copies))
    if (spanning := spanning_sign(source)) is not None:
        signs.append(spanning)
    return signs


def verdict_of(signs: list[Sign]) -> str:
    """leak; folds, where only the folds are at fault; pass; none where nothing could be looked for."""
    raised = {sign.name for sign in signs if sign.raised}
    if raised - {ACROSS, SPANNING}:
        return "leak"
    if raised:
        return "folds"
    return "pass" if any(sign.name not in (ACROSS, SPANNING) for sign in signs) else "none"


def blind_remark(n: int) -> str | None:
    """What a pass does not say, of few rows. From the contest's rows with a share of them known to +-5 points."""
    if n >= BLIND_BELOW:
        return None
    return (
        f"{n} rows show large leaks only: where 30 % of the scores are known, R2's alarm is raised in 5 % of cases at 20 rows, "
        "30 % at 100, 98 % at 992"
    )
