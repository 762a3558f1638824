"""What RISE found: a map in score points, its standard error, and how the masks' scores became both.

A block of masks gives one map, unbiased for itself; the result is the mean of the blocks' maps and its error comes from their
spread. Independent blocks differ in everything. Orthogonal ones take their shifts from four strata in turn, so that their mean
varies less than their spread says: from two blocks a stratum on, the error is taken from the spread within the strata
(Cochran, Sampling Techniques, 3rd ed., chapter 5; degrees of freedom: blocks - 4). Before that it is that of all blocks
(blocks - 1), which is on the safe side.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from pawpularity.errors import UserError
from pawpularity.explain.masks import SHOWN, Block, Floats, MaskDesign, MaskTables
from pawpularity.explain.saliency import Saliency

UNITS = {
    "centred": "score points, when a place and its cell-sized surroundings go from hidden to shown, the rest half hidden",
    "score": "score points, mean score of the masks that show the place (its constant, the mean score, included)",
    "squared-error": "score points squared, minus the mean squared distance to the photo's score where the place is shown",
}
"""What one pixel of a map means, by the masks' weights. Pixels overlap in what they mean and must not be summed."""
LEAST_BLOCKS = 4
"""A spread of fewer blocks says little of an error."""


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


@dataclass(frozen=True, eq=False)
class Estimate:
    """A map and its error."""

    map: NDArray[np.float32]
    """(H, W), signed. Never clipped or scaled to its own maximum."""
    standard_error: NDArray[np.float32] | None
    """(H, W), in the map's unit; None below four blocks. Of maps with a constant in them, the error of the rest."""
    degrees: int
    """Of freedom of the standard error: for Student's t."""
    relative_error: float | None
    """||SE|| / sqrt(||map||^2 - ||SE||^2), of the map without its constant; infinite where the map is no larger than its
    error; None below four blocks."""
    blocks: int
    masks: int

    @property
    def coarse(self) -> bool:
        """Whether it is a first look: fewer than four blocks, no error known."""
        return self.standard_error is None

    def interval(self, level: float = 0.95) -> NDArray[np.float32]:
        """(H, W): half the width of each pixel's own interval, by Student's t. Raises UserError where no error is known."""
        if self.standard_error is None:
            raise UserError(f"rise: {self.blocks} blocks give no error bar; take {LEAST_BLOCKS} or more")
        quantile = scipy.stats.t.ppf((1 + level) / 2, self.degrees)
        half: NDArray[np.float32] = (quantile * self.standard_error).astype(np.float32)
        return half


def relative_error(mean: Floats, variance: Floats) -> float:
    """||SE|| / sqrt(max(||map||^2 - ||SE||^2, 0)): a map's own energy is inflated by that of its error."""
    noise = float(variance.sum())
    signal = float((mean**2).sum()) - noise
    return math.sqrt(noise / signal) if signal > 0 else math.inf


@dataclass(frozen=True, eq=False)
class Rise(Estimate):
    """One photo's map by one score. `a - b` is the difference of two maps, with an error of its own."""

    mean_score: float
    """Over the masks, as is `sd_score`: how much there is to explain."""
    sd_score: float
    photo_score: float
    substrate_score: float
    """Of the photo shown whole and hidden whole."""
    r2: float | None
    """Share of the scores' variance that a linear model of the photo's cells explains, adjusted for its number of cells."""
    precision: float
    weights: str
    design: MaskDesign
    tables: MaskTables = field(repr=False)
    scores: Floats = field(repr=False)
    """(masks,): of every masked photo, in the design's order."""
    history: tuple[tuple[int, float], ...] = field(repr=False)
    """(masks, relative error) after every block from the fourth on."""
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What one pixel means."""
        return UNITS[self.weights]

    @property
    def verdict(self) -> str:
        """`precise`, `budget spent`, or `no signal found`: the error is as large as what it leaves of the map."""
        if self.relative_error is not None:
            if self.relative_error <= self.precision:
                return "precise"
            if self.relative_error >= 1:
                return "no signal found"
        return "budget spent"

    def block_maps(self) -> NDArray[np.float32]:
        """(blocks, H, W), made anew from the scores; their mean is the map."""
        return np.stack([(part + constant).astype(np.float32) for _, part, constant in self._parts()])

    def weighted(self, weights: str) -> "Rise":
        """The same masks and scores under other weights; the score is not asked again."""
        return self._replayed(weights, self.blocks)

    def first(self, blocks: int) -> "Rise":
        """What the first `blocks` blocks alone give."""
        if not 1 <= blocks <= self.blocks:
            raise UserError(f"rise: has {self.blocks} blocks, not {blocks}")
        return self._replayed(self.weights, blocks)

    def saliency(self) -> Saliency:
        """As every method gives its map."""
        known = self.relative_error is not None and math.isfinite(self.relative_error)
        facts: dict[str, Any] = {
            "masks": self.masks, "blocks": self.blocks, "verdict": self.verdict, "coarse": self.coarse,
            "relative_error": self.relative_error if known else None, "degrees": self.degrees,
            "history": [[masks, error if math.isfinite(error) else None] for masks, error in self.history],
            "mean_score": self.mean_score, "sd_score": self.sd_score, "photo_score": self.photo_score,
            "substrate_score": self.substrate_score, "r2": self.r2, "design": self.design.name, "cells": self.design.cells,
            "weights": self.weights, "seed": self.design.seed, "precision": self.precision,
        }  # fmt: skip
        warnings = list(self.notes)
        if self.verdict == "no signal found":
            warnings.append(f"no signal found: after {self.masks} masks the map is no larger than its error")
        return Saliency("rise", self.map, self.unit, self.standard_error, facts, {}, tuple(warnings))

    def __sub__(self, other: "Rise") -> Estimate:
        """The difference of two maps on the same masks: what they share cancels out of its error.

        Raises UserError where the masks or the weights differ.
        """
        ours, theirs = ((r.design, r.tables.size, r.weights, r.blocks) for r in (self, other))
        if ours != theirs:
            raise UserError(
                "rise: a difference needs two maps of the same masks, size and weights; make them by rise_together"
            )
        spread = Spread(self.design.strata, self.tables.size)
        constant = 0.0
        for (stratum, a, of_a), (_, b, of_b) in zip(self._parts(), other._parts(), strict=True):
            spread.add(stratum, a - b)
            constant += (of_a - of_b) / self.blocks
        return Estimate(**_estimated(spread, constant, self.design.block_size))

    def _parts(self) -> Iterator[tuple[int, Floats, float]]:
        size = self.design.block_size
        for number in range(self.blocks):
            block = self.design.block(number)
            scores = self.scores[number * size : (number + 1) * size]
            yield block.stratum, *block_map(block, scores, self.tables, self.weights, self.design, self.photo_score)

    def _replayed(self, weights: str, blocks: int) -> "Rise":
        running = Running(
            self.design, self.tables, weights, self.precision, self.photo_score, self.substrate_score, blocks
        )
        for number, scores in enumerate(self.scores.reshape(self.blocks, -1)[:blocks]):
            running.add(self.design.block(number), scores)
        return running.result(self.notes)


def block_map(
    block: Block, scores: Floats, tables: MaskTables, weights: str, design: MaskDesign, photo_score: float
) -> tuple[Floats, float]:
    """One block's map (H, W) less its constant, and that constant."""
    n = len(scores)
    if weights == "centred":
        # Orthogonal blocks are balanced, so nothing is lost by centring and the sum is divided by n.
        divisor = n if design.name == "orthogonal" else n - 1
        return tables.weighted_sum((scores - scores.mean()) / divisor, block) / tables.variance, 0.0
    given = scores if weights == "score" else -((scores - photo_score) ** 2)
    constant = float(given.mean())
    return tables.weighted_sum(given / (n * SHOWN), block) - constant, constant


class Running:
    """A map in the making: blocks of scores in, `most` at most, and a `Rise` out whenever one is asked for."""

    def __init__(
        self,
        design: MaskDesign,
        tables: MaskTables,
        weights: str,
        precision: float,
        photo_score: float,
        substrate_score: float,
        most: int,
    ) -> None:
        self.design, self.tables, self.weights, self.precision = design, tables, weights, precision
        self.photo_score, self.substrate_score = photo_score, substrate_score
        self.spread = Spread(design.strata, tables.size)
        # One array from the start: a small one kept after every block would leave holes between the large batches that
        # are freed, too small for the next ones, and memory would grow by a batch a block.
        self._scores = np.empty((most, design.block_size))
        self.constant = 0.0
        self.history: list[tuple[int, float]] = []
        columns = 1 + design.cells**2
        self._products, self._with_scores = np.zeros((columns, columns)), np.zeros(columns)

    def add(self, block: Block, scores: Floats) -> None:
        """Scores (n,) of the photo behind a block's masks."""
        part, constant = block_map(block, scores, self.tables, self.weights, self.design, self.photo_score)
        self.spread.add(block.stratum, part)
        blocks = self.spread.blocks
        self._scores[blocks - 1] = scores
        self.constant += (constant - self.constant) / blocks
        columns = np.column_stack([np.ones(len(scores)), self.tables.cell_means(block) - SHOWN])
        # Not by BLAS: waking its threads for so small a product took longer than the product, on a busy machine 8 ms.
        self._products += np.einsum("ni,nj->ij", columns, columns)
        self._with_scores += columns.T @ scores
        variance = self.spread.variance
        if variance is not None:
            self.history.append((blocks * self.design.block_size, relative_error(self.spread.mean, variance)))

    @property
    def precise(self) -> bool:
        """Whether the error is down to what was asked."""
        return bool(self.history) and self.history[-1][1] <= self.precision

    def result(self, notes: tuple[str, ...] = ()) -> Rise:
        """What the blocks so far say."""
        scores = self._scores[: self.spread.blocks].ravel().copy()
        return Rise(
            **_estimated(self.spread, self.constant, self.design.block_size),
            mean_score=float(scores.mean()), sd_score=float(scores.std()), photo_score=self.photo_score,
            substrate_score=self.substrate_score, r2=self._r2(scores), precision=self.precision, weights=self.weights,
            design=self.design, tables=self.tables, scores=scores, history=tuple(self.history), notes=notes,
        )  # fmt: skip

    def _r2(self, scores: Floats) -> float | None:
        # A single block's 64 cells fit every odd function of its 128 masks; several blocks alias differently.
        left = len(scores) - len(self._products)
        total = float(((scores - scores.mean()) ** 2).sum())
        if self.spread.blocks < LEAST_BLOCKS or left <= 0 or total == 0:
            return None
        slopes = np.linalg.lstsq(self._products, self._with_scores, rcond=None)[0]
        explained = float(slopes @ self._with_scores) - len(scores) * float(scores.mean()) ** 2
        return 1 - (1 - explained / total) * (len(scores) - 1) / left


def _estimated(spread: Spread, constant: float, block_size: int) -> dict[str, Any]:
    """The fields of an `Estimate`."""
    mean, variance = spread.mean, spread.variance
    return {
        "map": (mean + constant).astype(np.float32),
        "standard_error": None if variance is None else np.sqrt(variance).astype(np.float32),
        "degrees": spread.degrees,
        "relative_error": None if variance is None else relative_error(mean, variance),
        "blocks": spread.blocks,
        "masks": spread.blocks * block_size,
    }
