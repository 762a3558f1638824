"""In which order the places of a photo are removed: a map's own, random ones as coarse as a map, and the centre first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ranks = NDArray[np.int32]

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
    """Pixels over which the autocorrelation of `values` (H, W) falls to a half, the mean of across and down; nan for a
    constant."""
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
