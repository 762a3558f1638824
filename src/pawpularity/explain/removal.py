"""Ways to remove places of a photo: orders of removal (a map's own, random ones as coarse as a map, the centre first), and ROAD.

ROAD (Rong et al. 2022, "A Consistent and Efficient Evaluation Strategy for Attribution Methods") fills removed places in from
their surroundings, so that no baseline favours a map: every pixel of a hole is the weighted mean of its eight neighbours (1/6
beside, 1/12 across a corner), with a little noise. pytorch-grad-cam has the same fill (the tests compare), two to three times
slower; its metric removes nothing at all where a map is flat, and draws its noise unseeded.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.explain.masks import Floats
from pawpularity.explain.rise import Score

Ranks = NDArray[np.int32]
SHARES = (0.1, 0.3, 0.5)
NOISE = 0.01  # as published, in the units of the normalised photo
# Linear interpolation between the corners of cells blurs white noise by a triangle, whose sd is cell / sqrt(6).
_FIELD_SD = 1.0 / 6.0**0.5


def random_fields(shape: tuple[int, int], cell: float, count: int, seed: Sequence[int]) -> Floats:
    """(count, H, W): smooth normal noise, about as coarse as a grid of `cell` pixels read between its corners."""
    from scipy.ndimage import gaussian_filter

    reach = int(np.ceil(4 * cell * _FIELD_SD))
    noise = np.random.default_rng([*seed, 0xFA17]).standard_normal((count, shape[0] + 2 * reach, shape[1] + 2 * reach))
    smooth = gaussian_filter(noise, (0, cell * _FIELD_SD, cell * _FIELD_SD), mode="constant")
    fields: Floats = smooth[:, reach : reach + shape[0], reach : reach + shape[1]]
    return fields


def grain(values: NDArray[np.floating[Any]]) -> float:
    """Pixels over which the autocorrelation of `values` (H, W) falls to a half, the mean of across and down; nan for a constant."""
    centred = np.asarray(values, np.float64) - np.mean(values)
    if np.ptp(values) == 0.0:
        return float("nan")
    lengths = []
    for lines in (centred, centred.T):
        width = lines.shape[1]
        power = np.abs(np.fft.rfft(lines, 2 * width, axis=1)) ** 2  # padded, so that nothing wraps around
        products = np.fft.irfft(power.sum(axis=0))[:width] / np.arange(width, 0, -1)
        correlation = products / products[0]
        below = np.flatnonzero(correlation < 0.5)
        at = int(below[0]) if len(below) else width - 1
        step = correlation[at - 1] - correlation[at]
        lengths.append(at - 1 + (correlation[at - 1] - 0.5) / step if step > 0 else float(at))
    return float(np.mean(lengths))


def centre_first(shape: tuple[int, int]) -> Floats:
    """(H, W): a blob, highest in the middle, with the picture's own proportions."""
    down, across = (np.linspace(-1.0, 1.0, side) for side in shape)
    blob: Floats = np.exp(-2.0 * (down[:, None] ** 2 + across[None] ** 2))
    return blob


def ranks_of(values: NDArray[np.floating[Any]], ties: Floats) -> Ranks:
    """Rank of every place, (H, W), 0 = the highest; equal ones in the order of `ties` (H, W)."""
    order = np.lexsort((-ties.ravel(), -values.ravel()))
    ranks = np.empty(order.size, dtype=np.int32)
    ranks[order] = np.arange(order.size, dtype=np.int32)
    return ranks.reshape(values.shape)


def filled(photo: NDArray[np.floating[Any]], removed: NDArray[np.bool_]) -> Floats:
    """`photo` (C, H, W) with the `removed` (H, W) places filled in from the rest, without noise, by one sparse solve."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import splu

    whole = np.asarray(photo, dtype=np.float64).copy()
    if removed.all():  # nothing is left to fill in from: the photo's mean colour
        whole[:] = whole.mean(axis=(1, 2), keepdims=True)
    if removed.all() or not removed.any():
        return whole
    outside, known = -2, -1
    number = np.pad(np.full(removed.shape, known), 1, constant_values=outside)
    count = int(removed.sum())
    number[1:-1, 1:-1][removed] = np.arange(count)
    values = np.pad(whole, ((0, 0), (1, 1), (1, 1)))
    y, x = (place + 1 for place in np.nonzero(removed))
    weights, sums = np.zeros(count), np.zeros((count, len(whole)))
    entries: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    for down, across in np.ndindex(3, 3):
        if (down, across) == (1, 1):
            continue
        weight = 1 / 6 if 1 in (down, across) else 1 / 12
        at = y + down - 1, x + across - 1
        beside = number[at]
        weights += weight * (beside != outside)
        seen, unknown = beside == known, np.flatnonzero(beside >= 0)
        sums[seen] += weight * values[:, at[0][seen], at[1][seen]].T
        entries.append((np.full(len(unknown), -weight), unknown, beside[unknown]))
    entries.append((weights, np.arange(count), np.arange(count)))
    data, rows, columns = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    system = coo_matrix((data, (rows, columns)), shape=(count, count)).tocsc()
    # The system is symmetric and diagonally dominant: an order of its own kind, and no pivoting.
    solver = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    whole[:, removed] = solver.solve(sums).T
    return whole


def road(
    score: Score,
    x: Tensor,
    ranks: NDArray[np.integer[Any]],
    *,
    shares: Sequence[float] = SHARES,
    noise: float = NOISE,
    seed: int = 0,
    batch_size: int = 64,
) -> Floats:
    """ROAD combined in score points, (orders,): the mean over `shares` of half of (score without the share ranked lowest - score
    without the share ranked highest). Positive where what ranks high is what holds the score up.

    `ranks` (orders, H, W): 0 = the place that is removed first. The same seed draws the same noise for every order, so the reverse
    of an order has minus its value but for that noise.
    """
    photo, total = x.detach().double().cpu().numpy(), ranks[0].size
    grains = noise * np.random.default_rng([seed, 0x80AD]).standard_normal(photo.shape)
    waiting: list[Tensor] = []
    scores: list[NDArray[Any]] = []

    def ask() -> None:
        if waiting:
            scores.append(score(torch.stack(waiting).to(x)).detach().double().cpu().numpy())
            waiting.clear()

    for rank in ranks:
        for share in shares:
            count = round(share * total)
            for removed in (rank < count, rank >= total - count):
                waiting.append(torch.from_numpy(filled(photo, removed) + grains * removed))
        if len(waiting) >= batch_size:
            ask()
    ask()
    without = np.concatenate(scores).reshape(len(ranks), len(shares), 2)
    combined: Floats = ((without[..., 1] - without[..., 0]) / 2.0).mean(axis=1)
    return combined
