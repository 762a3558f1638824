"""Bootstrap, permutations and sign flips over whole groups of near-duplicates; Holm's correction.

The seed alone decides every result. Ten thousand draws of fifteen columns of 9,912 rows take about a second: a draw
counts how often each group came up, and all sums are one matrix product.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 10_000
_BATCH = 128  # draws whose counts are held at once: 10 MB for 9,912 groups

Floats = NDArray[np.float64]
Groups = NDArray[np.int64] | None


def group_sums(columns: ArrayLike, groups: Groups = None) -> Floats:
    """Sums of `columns` (n,) or (n, c) over each group (None: every row its own): (groups, c), float64."""
    values = np.asarray(columns, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if groups is None:
        return values
    _, index = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(index.max()) + 1, values.shape[1]))
    np.add.at(sums, index, values)
    return sums


def bootstrap_sums(columns: ArrayLike, groups: Groups = None, *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Sums of `columns` (n, c) over `draws` resamples of whole groups with replacement: (draws, c).

    A mean is a ratio of two such sums (a column of ones counts the rows, since groups differ in size). The same seed,
    number of groups and draws give the same resamples, so columns of separate calls stay paired.
    """
    sums = group_sums(columns, groups)
    count = len(sums)
    random = np.random.default_rng([seed, 0xB007])
    drawn = np.empty((draws, sums.shape[1]))
    for start in range(0, draws, _BATCH):
        picked = (random.integers(0, count, count) for _ in range(min(_BATCH, draws - start)))
        times = np.array([np.bincount(one, minlength=count) for one in picked], dtype=np.float64)
        drawn[start : start + _BATCH] = times @ sums
    return drawn


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of draws, (low, high)."""
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(np.asarray(values, dtype=np.float64), [tail, 100.0 - tail])
    return float(low), float(high)


def permutations(n: int, groups: Groups = None, *, draws: int = DRAWS, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Random orders of n rows, (n,) each: groups change places with groups of their own size, as blocks.

    This cannot detect an effect of the group's size itself; 0.8 % of the contest's photos are in groups of more than one.
    """
    random = np.random.default_rng([seed, 0x9E12])
    _, index, sizes = np.unique(np.arange(n) if groups is None else groups, return_inverse=True, return_counts=True)
    by_group = np.split(np.argsort(index, kind="stable"), np.cumsum(sizes)[:-1])
    blocks = [np.stack([by_group[g] for g in np.flatnonzero(sizes == size)]) for size in np.unique(sizes)]
    for _ in range(draws):
        order = np.empty(n, dtype=np.int64)
        for block in blocks:
            order[block] = block[random.permutation(len(block))]
        yield order


def sign_flip_p(differences: ArrayLike, groups: Groups = None, *, draws: int = DRAWS, seed: int = 0) -> Floats:
    """Two-sided p of each column of paired `differences` (n,) or (n, c): (c,). Fisher's randomisation test.

    Whole groups flip their sign together. The observed order counts among the draws (Phipson and Smyth 2010), so p is
    never 0.
    """
    sums = group_sums(differences, groups)
    random = np.random.default_rng([seed, 0xF11B])
    reached = np.ones(sums.shape[1])
    # A float sum in another order differs in its last digits; a tie must count as reached.
    threshold = np.abs(sums.sum(axis=0)) - 1e-9 * np.maximum(np.abs(sums).sum(axis=0), 1e-300)
    for start in range(0, draws, _BATCH):
        size = min(_BATCH, draws - start)
        signs = random.integers(0, 2, (size, len(sums)), dtype=np.int8) * 2.0 - 1.0
        reached += (np.abs(signs @ sums) >= threshold).sum(axis=0)
    p: Floats = reached / (draws + 1)
    return p


def holm(p: ArrayLike) -> Floats:
    """Holm's adjusted p (Holm 1979), in the order given: times m, m-1, ... from the smallest, never falling, at most 1."""
    # Not statsmodels' multipletests: it collects garbage on every call, 0.25 s in a process that has imported torch.
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return adjusted
