"""How the members of a bundle become one score, also where some of them have no answer."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Blend:
    """How members become a score: clip(intercept + sum of weight x member, 1, 100)."""

    intercept: float
    weights: Mapping[str, float]
    means: Mapping[str, float]
    """each member's mean out-of-fold prediction"""
    mean: float
    """the blend's own"""

    def __call__(self, scores: Mapping[str, Floats], rows: int) -> Floats:
        """Blended scores, (rows,), of the members that answered. NaN is an answer that is none.

        Where members are absent the others take their weight, each about its own mean: intercept + sum of all weights x
        means + W (sum of present weights x (member - its mean)), W = all weights / those present. With all of them this
        is the blend itself.
        """
        given = np.stack([scores.get(name, np.full(rows, np.nan)) for name in self.weights])
        weights = np.array(list(self.weights.values()))[:, None]
        means = np.array([self.means[name] for name in self.weights])[:, None]
        there = np.isfinite(given)
        present = (weights * there).sum(axis=0)
        whole = there.all(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(whole, 1.0, weights.sum() / present)
            apart = (
                self.intercept
                + (weights * means).sum()
                + share * (weights * np.where(there, given - means, 0.0)).sum(axis=0)
            )
        full = self.intercept + (weights * np.where(there, given, 0.0)).sum(axis=0)
        blended = np.where(whole, full, apart)
        return np.clip(np.where(np.isfinite(blended), blended, self.mean), 1.0, 100.0)
