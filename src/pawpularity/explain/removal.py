"""Removing places of a photo: the orders of removal (a map's, random ones as coarse as the map, the centre first), and ROAD.

ROAD (Rong et al. 2022, "A Consistent and Efficient Evaluation Strategy for Attribution Methods") fills removed places in from
their surroundings, so that no baseline favours a map. Every pixel of a hole is the weighted mean of its eight neighbours (1/6
beside, 1/12 across a corner), with a little noise. pytorch-grad-cam has the same fill (the tests compare them), two to three times
slower. Its metric removes nothing where a map is flat, and its noise has no seed.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.ndimage import gaussian_filter
from scipy.sparse.linalg import splu
from torch import Tensor

from pawpularity.explain.players import Floats
from pawpularity.explain.rise import Score

Ranks = NDArray[np.int32]
SHARES = (0.1, 0.3, 0.5)
NOISE = 0.01  # as published, in the units of the normalised photo
# Bilinear interpolation of a grid of cells blurs white noise with a triangle, whose sd is cell / sqrt(6).
_FIELD_SD = 1.0 / 6.0**0.5


def random_fields(shape: tuple[int, int], cell: float, count: int, seed: Sequence[int]) -> Floats:
    """(count, H, W): smooth normal noise, about as coarse as a bilinearly enlarged grid with cells of `cell` pixels."""
    reach = int(np.ceil(4 * cell * _FIELD_SD))
    noise = np.random.default_rng([*seed, 0xFA17]).standard_normal((count, shape[0] + 2 * reach, shape[1] + 2 * reach))
    smooth = gaussian_filter(noise, (0, cell * _FIELD_SD, cell * _FIELD_SD), mode="constant")
    fields: Floats = smooth[:, reach : reach + shape[0], reach : reach + shape[1]]
    return fields


def grain(values: NDArray[np.floating[Any]]) -> float:
    """Coarseness of `values` (H, W; not constant): pixels over which the autocorrelation falls to a half, mean of both axes."""
    centred = np.asarray(values, np.float64) - np.mean(values)
    lengths = []
    for lines in (centred, centred.T):
        width = lines.shape[1]
        power = np.abs(np.fft.rfft(lines, 2 * width, axis=1)) ** 2  # padded, so that nothing wraps around
        products = np.fft.irfft(power.sum(axis=0))[:width] / np.arange(width, 0, -1)
        correlation = products / products[0]
        below = int(np.argmax(correlation < 0.5)) or width - 1
        lengths.append(np.interp(0.5, correlation[[below, below - 1]], [below, below - 1]))
    return float(np.mean(lengths))


def centre_first(shape: tuple[int, int]) -> Floats:
    """(H, W): a blob, highest in the middle, with the photo's proportions."""
    down, across = (np.linspace(-1.0, 1.0, side) for side in shape)
    blob: Floats = np.exp(-2.0 * (down[:, None] ** 2 + across[None] ** 2))
    return blob


def ranks_of(values: NDArray[np.floating[Any]], ties: Floats) -> Ranks:
    """The rank of every place, (H, W), 0 = the highest; equal places in the order of `ties` (H, W)."""
    order = np.lexsort((-ties.ravel(), -values.ravel()))
    ranks = np.empty(order.size, dtype=np.int32)
    ranks[order] = np.arange(order.size, dtype=np.int32)
    return ranks.reshape(values.shape)


@lru_cache(maxsize=2)
def _neighbours(height: int, width: int) -> Any:
    """(pixels, pixels), sparse: weights of the eight neighbours, 1/6 beside and 1/12 across a corner."""
    down, across = (sparse.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(n, n)) for n in (height, width))
    beside = sparse.kron(down, sparse.eye_array(width)) + sparse.kron(sparse.eye_array(height), across)
    return (beside / 6 + sparse.kron(down, across) / 12).tocsr()


def filled(photo: NDArray[np.floating[Any]], removed: NDArray[np.bool_]) -> Floats:
    """`photo` (C, H, W) with the `removed` places (H, W; not all) filled in from the rest by one sparse solve, without noise."""
    hole = removed.ravel()
    values = np.asarray(photo, dtype=np.float64).reshape(len(photo), -1).copy()
    weights = _neighbours(*removed.shape)[hole]
    system = sparse.diags_array(weights.sum(axis=1)) - weights[:, hole]
    # The system is symmetric and diagonally dominant, so a symmetric ordering without pivoting is stable, and faster.
    solver = splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    values[:, hole] = solver.solve(weights[:, ~hole] @ values[:, ~hole].T).T
    return values.reshape(photo.shape)


def road(score: Score, x: Tensor, ranks: Ranks, *, seed: int = 0) -> Floats:
    """ROAD of each order in score points, (orders,). Positive if the places that rank high hold the score up.

    It is the mean over `SHARES` of half of (score without the lowest-ranked share - score without the highest-ranked share).
    `ranks` (orders, H, W): 0 = the place that is removed first. The same seed gives every order the same noise, so a reversed
    order has minus the value of the order, except for that noise.
    """
    photo, total = x.detach().double().cpu().numpy(), ranks[0].size
    noise = NOISE * np.random.default_rng([seed, 0x80AD]).standard_normal(photo.shape)
    found = []
    for rank in ranks:
        counts = [round(share * total) for share in SHARES]
        holes = [hole for count in counts for hole in (rank < count, rank >= total - count)]
        pictures = torch.from_numpy(np.stack([filled(photo, hole) + noise * hole for hole in holes])).to(x)
        without = score(pictures).detach().double().cpu().numpy().reshape(-1, 2)
        found.append((without[:, 1] - without[:, 0]).mean() / 2.0)
    return np.array(found)
