"""What RISE found: a map in score points with its standard error, and how the masks' scores become both.

A block of masks gives one unbiased map; the result is the mean of the blocks' maps, and its error comes from their spread.
Independent blocks differ in everything. Orthogonal ones take their shifts from four strata in turn, so their mean varies less than
their spread suggests: from two blocks a stratum on the error is taken from the spread within strata (Cochran, Sampling Techniques,
3rd ed., chapter 5; degrees of freedom: blocks - 4), before that from all blocks (blocks - 1), which is on the safe side.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pawpularity.explain.masks import SHOWN, Block, Floats, MaskDesign
from pawpularity.explain.players import Grid
from pawpularity.explain.saliency import Map, Saliency
from pawpularity.files import plain

UNITS = {
    "centred": "score points, when a place and its cell-sized surroundings go from hidden to shown, the rest half hidden",
    "score": "score points, mean score of the masks that show the place (its constant, the mean score, included)",
    "squared-error": "score points squared, minus the mean squared distance to the photo's score where the place is shown",
}
"""What one pixel of a map means, by the masks' weights."""
LEAST_BLOCKS = 4
"""Of fewer blocks no error is given."""


def relative_error(mean: Floats, variance: Floats) -> float:
    """||SE|| / sqrt(max(||map||^2 - ||SE||^2, 0)): a map's own energy is inflated by that of its error."""
    noise = float(variance.sum())
    signal = float((mean**2).sum()) - noise
    return math.sqrt(noise / signal) if signal > 0 else math.inf


@dataclass(frozen=True, eq=False, repr=False)
class Rise:
    """One photo's map by one score."""

    map: Map  # (H, W), signed, never clipped or scaled to its own maximum
    standard_error: (
        Map | None
    )  # (H, W), in the map's unit; None below four blocks. Of maps with a constant, of the rest
    degrees: int  # of freedom of the standard error, for Student's t
    relative_error: (
        float | None
    )  # of the map without its constant; inf: no larger than its error; None below four blocks
    photo_score: float  # of the photo shown whole
    baseline_score: float  # of the photo hidden whole
    precision: float
    weights: str
    design: MaskDesign
    grid: Grid
    scores: Floats  # (masks,): of every masked photo, in the design's order
    history: tuple[tuple[int, float], ...]  # (masks, relative error) after every block from the fourth on
    notes: tuple[str, ...] = ()

    @property
    def masks(self) -> int:
        """How many were taken."""
        return len(self.scores)

    @property
    def blocks(self) -> int:
        """In how many blocks."""
        return self.masks // self.design.block_size

    @property
    def coarse(self) -> bool:
        """Whether there are too few blocks for an error."""
        return self.standard_error is None

    @property
    def mean_score(self) -> float:
        """Over the masks."""
        return float(self.scores.mean())

    @property
    def sd_score(self) -> float:
        """Over the masks: how much there is to explain."""
        return float(self.scores.std())

    @property
    def verdict(self) -> str:
        """`precise`, `budget spent`, or `no signal found`: the error is as large as what it leaves of the map."""
        if self.relative_error is not None and self.relative_error <= self.precision:
            return "precise"
        return "no signal found" if self.relative_error is not None and self.relative_error >= 1 else "budget spent"

    @cached_property
    def r2(self) -> float | None:
        """Share of the scores' variance that a linear model of the photo's cells explains, adjusted for its number of cells."""
        left = self.masks - 1 - self.design.cells**2
        # A single block's 64 cells fit every odd function of its 128 masks; several blocks alias differently.
        if self.coarse or left <= 0 or self.sd_score == 0:
            return None
        means = np.concatenate([self.grid.cell_means(block) for block, _ in self._blocks()])
        rows = np.column_stack([np.ones(self.masks), means - SHOWN])
        rest = self.scores - rows @ np.linalg.lstsq(rows, self.scores, rcond=None)[0]
        return 1 - float((rest**2).sum()) / self.masks / self.sd_score**2 * (self.masks - 1) / left

    def weighted(self, weights: str) -> "Rise":
        """The same masks and scores under other weights."""
        ends = self.photo_score, self.baseline_score
        running = Running(self.design, self.grid, weights, self.precision, ends, self.blocks)
        for block, scores in self._blocks():
            running.add(block, scores)
        return running.result(self.notes)

    def saliency(self) -> Saliency:
        """As every method gives its map."""
        facts = plain({
            "masks": self.masks, "blocks": self.blocks, "verdict": self.verdict, "coarse": self.coarse,
            "relative_error": self.relative_error, "degrees": self.degrees, "history": self.history,
            "mean_score": self.mean_score, "sd_score": self.sd_score, "photo_score": self.photo_score,
            "baseline_score": self.baseline_score, "r2": self.r2, "design": self.design.name, "cells": self.design.cells,
            "weights": self.weights, "seed": self.design.seed, "precision": self.precision,
        })  # fmt: skip
        warnings = self.notes
        if self.verdict == "no signal found":
            warnings += (f"no signal found: after {self.masks} masks the map is no larger than its error",)
        return Saliency("rise", self.map, UNITS[self.weights], self.standard_error, facts, {}, warnings)

    def _blocks(self) -> Iterator[tuple[Block, Floats]]:
        for number, scores in enumerate(self.scores.reshape(self.blocks, -1)):
            yield self.design.block(number), scores


def block_map(
    block: Block, scores: Floats, grid: Grid, design: MaskDesign, weights: str = "centred", photo_score: float = 0.0
) -> tuple[Floats, float]:
    """One block's map (H, W) less its constant, and that constant."""
    n = len(scores)
    if weights == "centred":
        # Orthogonal blocks are balanced, so centring costs no degree of freedom and the sum is divided by n.
        divisor = n if design.name == "orthogonal" else n - 1
        return grid.weighted_sum((scores - scores.mean()) / divisor, block) / grid.variance, 0.0
    given = scores if weights == "score" else -((scores - photo_score) ** 2)
    constant = float(given.mean())
    return grid.weighted_sum(given / (n * SHOWN), block) - constant, constant


class Spread:
    """Running mean and spread of maps (H, W) from strata that are drawn in turn (Welford's update, one a stratum)."""

    def __init__(self, strata: int, size: tuple[int, int]) -> None:
        self.counts = np.zeros(strata, dtype=np.int64)
        self.means = np.zeros((strata, *size))
        self.squares = np.zeros((strata, *size))

    def add(self, stratum: int, value: Floats) -> None:
        """One more map."""
        self.counts[stratum] += 1
        step = value - self.means[stratum]
        self.means[stratum] += step / self.counts[stratum]
        self.squares[stratum] += step * (value - self.means[stratum])

    @property
    def blocks(self) -> int:
        """Maps so far."""
        return int(self.counts.sum())

    @property
    def mean(self) -> Floats:
        """(H, W)."""
        mean: Floats = np.tensordot(self.counts / self.blocks, self.means, axes=1)
        return mean

    @property
    def degrees(self) -> int:
        """Of freedom, of `variance`."""
        return self.blocks - (len(self.counts) if self._stratified else 1)

    @property
    def variance(self) -> Floats | None:
        """(H, W): of `mean`; None below four blocks."""
        n, strata = self.blocks, len(self.counts)
        if n < LEAST_BLOCKS:
            return None
        within: Floats = self.squares.sum(axis=0)
        if not self._stratified:
            between = np.tensordot(self.counts, (self.means - self.mean) ** 2, axes=1)
            all_: Floats = (within + between) / (n - 1) / n
            return all_
        # An unfinished round is a sample, without replacement, of the strata's own means.
        rest = n % strata
        unfinished = rest * (1 - rest / strata) * self.means.var(axis=0, ddof=1) / n**2 if rest else 0.0
        return within / (n - strata) / n + unfinished

    @property
    def _stratified(self) -> bool:
        return bool(self.counts.min() >= 2) and len(self.counts) > 1


class Running:
    """A map in the making: blocks of scores in, a `Rise` out whenever one is asked for."""

    def __init__(
        self, design: MaskDesign, grid: Grid, weights: str, precision: float, ends: tuple[float, float], most: int
    ) -> None:
        self.design, self.grid, self.weights, self.precision, self.ends = design, grid, weights, precision, ends
        self.spread = Spread(design.strata, grid.size)
        # One array from the start: small ones kept between the freed batches would make memory grow by a batch a block.
        self._scores = np.empty((most, design.block_size))
        self.constant = 0.0
        self.history: list[tuple[int, float]] = []

    def add(self, block: Block, scores: Floats) -> None:
        """Scores (n,) of the photo behind a block's masks."""
        part, constant = block_map(block, scores, self.grid, self.design, self.weights, self.ends[0])
        self.spread.add(block.stratum, part)
        blocks = self.spread.blocks
        self._scores[blocks - 1] = scores
        self.constant += (constant - self.constant) / blocks
        if (variance := self.spread.variance) is not None:
            self.history.append((blocks * self.design.block_size, relative_error(self.spread.mean, variance)))

    @property
    def precise(self) -> bool:
        """Whether the error is down to what was asked."""
        return bool(self.history) and self.history[-1][1] <= self.precision

    def result(self, notes: tuple[str, ...]) -> Rise:
        """What the blocks so far say."""
        variance = self.spread.variance
        return Rise(
            map=(self.spread.mean + self.constant).astype(np.float32),
            standard_error=None if variance is None else np.sqrt(variance).astype(np.float32),
            degrees=self.spread.degrees, relative_error=self.history[-1][1] if self.history else None,
            photo_score=self.ends[0], baseline_score=self.ends[1], precision=self.precision,
            weights=self.weights, design=self.design, grid=self.grid,
            scores=self._scores[: self.spread.blocks].ravel().copy(), history=tuple(self.history), notes=notes,
        )  # fmt: skip
