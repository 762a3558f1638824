"""How like each other two maps are: rank correlation, signed and of their sizes, and structural similarity."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.floating[Any]]

LIKENESSES = ("signed", "absolute", "ssim")


def likeness_of(one: Map, other: Map) -> tuple[float, float, float]:
    """By LIKENESSES; 0 for a map that is the same everywhere beside one that is not (nothing of it is left)."""
    from scipy.stats import spearmanr

    if np.ptp(one) == 0.0 or np.ptp(other) == 0.0:
        return 0.0, 0.0, 0.0
    signed = float(spearmanr(one, other, axis=None).statistic)
    sizes = np.abs(one), np.abs(other)
    absolute = 0.0 if any(np.ptp(size) == 0.0 for size in sizes) else float(spearmanr(*sizes, axis=None).statistic)
    return signed, absolute, ssim(one, other)


def ssim(one: Map, other: Map) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window of sd 1.5, K 0.01 and 0.03) of two maps (H, W).

    Each is first divided by its own spread, as maps of different networks have different scales, and both are then shifted
    to begin at 0: below it, SSIM's product of two negative factors would call a map and its opposite alike.
    """
    from scipy.ndimage import gaussian_filter

    a, b = ((np.asarray(v, np.float64) - np.mean(v)) / max(float(np.std(v)), 1e-300) for v in (one, other))
    least = min(a.min(), b.min())
    a, b, extent = a - least, b - least, max(a.max(), b.max()) - least
    steady, contrast = (0.01 * extent) ** 2, (0.03 * extent) ** 2

    def blur(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(gaussian_filter(values, 1.5, truncate=3.5))

    mean_a, mean_b = blur(a), blur(b)
    spread_a, spread_b, joint = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + steady) * (2 * joint + contrast)
    return float((top / ((mean_a**2 + mean_b**2 + steady) * (spread_a + spread_b + contrast))).mean())
