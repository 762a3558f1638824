"""RISE for a score: hide parts of a photo at random, and see where hiding changes the score.

    found = rise(score, photo)          # photo: (C, H, W), the score's input; score: (B, C, H, W) -> (B,)
    found.map, found.standard_error     # (H, W) score points
    found.verdict                       # "precise", "budget spent" or "no signal found", after found.masks masks

The unit: the average change of the score, in points, when a place *and its cell-sized surroundings* go from hidden to shown while
the rest of the photo is half hidden. Positive raises the score. Neighbouring pixels share their surroundings, so the sum over a
region is not the effect of the region. The masks blur the map by about half a cell; more cells sharpen it, more masks do not.

Weights: `centred` (score minus mean score, over the unconditional Var(M_p)) gives that unit. `score` is the published map
E[f M] / p (Petsiuk, Das and Saenko 2018), for comparison: for a score around 40 that varies by 2 or 3 points it is almost pure
noise.

Masks come in blocks (`players`), the same for every photo and score of one seed. After every block the relative standard error is
computed. RISE stops at `precision`, or when `budget` masks are spent. On a CPU the same call gives the same bytes.

A block gives one unbiased map. The result is the mean of the blocks' maps, and its error comes from their spread. Independent
blocks have nothing in common. Orthogonal blocks take their shifts from four strata in turn, so their mean varies less than their
spread suggests. With at least two blocks in every stratum, the error comes from the spread within strata (Cochran, Sampling
Techniques, 3rd ed., chapter 5; degrees of freedom: blocks - 4). Before that it comes from all blocks (blocks - 1), which
overstates it.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from pawpularity.errors import UserError
from pawpularity.explain.players import DESIGNS, SHOWN, Block, Floats, Grid, MaskDesign, grid_of
from pawpularity.explain.saliency import Map, Saliency
from pawpularity.files import plain

Score = Callable[[Tensor], Tensor]
CONSTANT = 1e-6  # sd over |mean| of the scores, below which only the last digits of float32 changed
UNITS = {
    "centred": "score points, when a place and its cell-sized surroundings go from hidden to shown, the rest half hidden",
    "score": "score points, mean score of the masks that show the place (its constant, the mean score, included)",
}
"""What one pixel of a map means, by the masks' weights."""
MIN_BLOCKS = 4
"""With fewer blocks there is no standard error."""


class ConstantScore(UserError):
    """No mask changes the score."""


def relative_error(mean: Floats, variance: Floats) -> float:
    """||SE|| / sqrt(max(||map||^2 - ||SE||^2, 0)). The error's energy is subtracted because it is part of the map's."""
    noise = float(variance.sum())
    signal = float((mean**2).sum()) - noise
    return math.sqrt(noise / signal) if signal > 0 else math.inf


def block_map(block: Block, scores: Floats, grid: Grid, design: MaskDesign, weights: str = "centred") -> Floats:
    """(H, W): the map from one block of masks, without the constant of `score` weights."""
    n = len(scores)
    if weights == "score":
        published: Floats = grid.weighted_sum(scores / (n * SHOWN), block) - scores.mean()
        return published
    # Orthogonal blocks are balanced: centring costs no degree of freedom, so the divisor is n.
    divisor = n if design.name == "orthogonal" else n - 1
    centred: Floats = grid.weighted_sum((scores - scores.mean()) / divisor, block) / grid.variance
    return centred


class Spread:
    """Running mean and variance of maps (H, W) from strata that are drawn in turn. Memory does not grow with the maps."""

    def __init__(self, strata: int, size: tuple[int, int]) -> None:
        self.counts = np.zeros(strata, dtype=np.int64)
        self.sums = np.zeros((strata, *size))
        self.squares = np.zeros(size)

    def add(self, stratum: int, value: Floats) -> None:
        """Count one more map."""
        self.counts[stratum] += 1
        self.sums[stratum] += value
        self.squares += value**2

    @property
    def blocks(self) -> int:
        """The number of maps so far."""
        return int(self.counts.sum())

    @property
    def mean(self) -> Floats:
        """(H, W)."""
        mean: Floats = self.sums.sum(axis=0) / self.blocks
        return mean

    @property
    def degrees(self) -> int:
        """Degrees of freedom of `variance`."""
        return self.blocks - (len(self.counts) if self.counts.min() >= 2 else 1)

    @property
    def variance(self) -> Floats | None:
        """(H, W): variance of `mean`; None below four blocks."""
        n, strata = self.blocks, len(self.counts)
        if n < MIN_BLOCKS:
            return None
        if self.counts.min() < 2:
            return np.maximum(self.squares - n * self.mean**2, 0.0) / (n - 1) / n
        means = self.sums / self.counts[:, None, None]
        within = np.maximum(self.squares - (self.sums * means).sum(axis=0), 0.0)
        # An unfinished round is a sample, without replacement, of the strata's means.
        rest = n % strata
        unfinished = rest * (1 - rest / strata) * means.var(axis=0, ddof=1) / n**2 if rest else 0.0
        variance: Floats = within / (n - strata) / n + unfinished
        return variance


class Rise:
    """One photo's map of one score, from the blocks added so far."""

    def __init__(
        self, design: MaskDesign, grid: Grid, weights: str, precision: float, ends: tuple[float, float], most: int
    ) -> None:
        self.design, self.grid, self.weights, self.precision = design, grid, weights, precision
        self.photo_score, self.baseline_score = ends
        """Scores of the whole photo, and of the hidden photo."""
        self.history: list[tuple[int, float]] = []
        """(masks, relative error) after every block from the fourth on; inf: the map is no larger than its error"""
        self.notes: list[str] = []
        self.blocks = self.masks = 0
        self._spread = Spread(design.strata, grid.size)
        # One array from the start: small arrays between the freed batches would fragment memory, by a batch a block.
        self._scores = np.empty((most, design.block_size))

    def add(self, block: Block, scores: Floats) -> None:
        """Add a block: `scores` (n,) of the photo behind its masks."""
        self._scores[self.blocks] = scores
        self.blocks, self.masks = self.blocks + 1, self.masks + len(scores)
        self._spread.add(block.stratum, block_map(block, scores, self.grid, self.design, self.weights))
        if (variance := self._spread.variance) is not None:
            self.history.append((self.masks, relative_error(self._spread.mean, variance)))

    @property
    def map(self) -> Map:
        """(H, W), signed, never clipped or scaled to its own maximum."""
        constant = self.mean_score if self.weights == "score" else 0.0
        return (self._spread.mean + constant).astype(np.float32)

    @property
    def standard_error(self) -> Map | None:
        """(H, W), in the map's unit; None below four blocks. A constant in the map is left out."""
        variance = self._spread.variance
        return None if variance is None else np.sqrt(variance).astype(np.float32)

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the standard error, for Student's t."""
        return self._spread.degrees

    @property
    def relative_error(self) -> float | None:
        """Relative error of the map without its constant; None below four blocks."""
        return self.history[-1][1] if self.history else None

    @property
    def scores(self) -> Floats:
        """(masks,): the score of every masked photo, in the design's order."""
        return self._scores[: self.blocks].ravel()

    @property
    def mean_score(self) -> float:
        """Mean score over the masks."""
        return float(self.scores.mean())

    @property
    def sd_score(self) -> float:
        """Sd of the score over the masks: how much there is to explain."""
        return float(self.scores.std())

    @property
    def verdict(self) -> str:
        """`precise`, `budget spent`, or `no signal found` (the relative error is 1 or more)."""
        error = self.relative_error
        if error is None:
            return "budget spent"
        return "precise" if error <= self.precision else "no signal found" if error >= 1 else "budget spent"

    def weighted(self, weights: str) -> "Rise":
        """The same masks and scores under other weights."""
        ends = self.photo_score, self.baseline_score
        other = Rise(self.design, self.grid, weights, self.precision, ends, self.blocks)
        for number in range(self.blocks):
            other.add(self.design.block(number), self._scores[number])
        return other

    def saliency(self) -> Saliency:
        """The result in the form that all methods share."""
        facts = plain({
            "masks": self.masks, "blocks": self.blocks, "verdict": self.verdict, "relative_error": self.relative_error,
            "degrees": self.degrees, "history": self.history,
        })  # fmt: skip
        warnings = list(self.notes)
        if self.verdict == "no signal found":
            warnings.append(f"no signal found: after {self.masks} masks the map is no larger than its error")
        return Saliency("rise", self.map, UNITS[self.weights], self.standard_error, facts, {}, tuple(warnings))


@torch.inference_mode()
def rise(
    score: Score,
    photo: Tensor,
    *,
    masks: str | int = "auto",
    cells: int = 8,
    design: str = "orthogonal",
    weights: str = "centred",
    precision: float = 0.2,
    budget: int = 2048,
    seed: int = 0,
    batch_size: int = 64,
    baseline: Tensor | None = None,
    on_block: Callable[[Rise], object] | None = None,
) -> Rise:
    """The map of one photo (C, H, W) for one score; the top of this module says what it means.

    `masks`: "auto" stops at `precision` or `budget`; a number is rounded up to whole blocks. `cells`: per side. `design`: one of
    `players.DESIGNS`. `baseline`: what a hidden place shows, broadcastable to the photo (default 0, the mean colour of normalised
    photos). `batch_size`: masked photos per call of the score, at most a block. `on_block` is called after every block with the
    result, which keeps growing. Raises UserError for unknown designs and weights, small photos and scores that are not finite,
    and ConstantScore.
    """
    if design not in DESIGNS or weights not in UNITS:
        raise UserError(f"rise: no design {design} ({', '.join(DESIGNS)}) with weights {weights} ({', '.join(UNITS)})")
    if min(photo.shape[1:]) < 2 * cells:
        size = " x ".join(map(str, photo.shape[1:]))
        raise UserError(f"rise: the photo is {size} px; {cells} x {cells} cells need {2 * cells} or more a side")
    plan = MaskDesign(cells, design, seed)
    blocks = max(1, budget // plan.block_size) if masks == "auto" else plan.blocks_for(int(masks))
    photo = photo.to(torch.promote_types(photo.dtype, torch.float32))  # masks need float32, whatever the score's dtype
    hidden = torch.zeros_like(photo) if baseline is None else baseline.to(photo).expand_as(photo)
    grid = grid_of(photo.shape[1], photo.shape[2], cells)
    photo_score, baseline_score = _scores(score, [torch.stack([photo, hidden])])
    found = Rise(plan, grid, weights, precision, (float(photo_score), float(baseline_score)), blocks)
    if masks not in ("auto", blocks * plan.block_size):
        found.notes.append(f"{masks} masks are rounded up to whole blocks: {blocks * plan.block_size}")
    if blocks < MIN_BLOCKS:
        least = MIN_BLOCKS * plan.block_size
        found.notes.append(f"a map of fewer than {MIN_BLOCKS} blocks ({least} masks) is coarse and has no error bar")
    for number in range(blocks):
        block = plan.block(number)
        scores = _scores(score, _masked(photo, hidden, grid, block, batch_size))
        if number == 0 and scores.std() <= CONSTANT * abs(scores.mean()):
            raise ConstantScore(
                f"rise: the score is {scores.mean():.6g} whatever is hidden; the network ignores the photo, "
                "its score is clipped, or the photo equals the baseline"
            )
        found.add(block, scores)
        if on_block is not None:
            on_block(found)
        if masks == "auto" and found.verdict == "precise":
            break
    return found


@torch.inference_mode()
def constant_score(score: Score, photo: Tensor) -> float | None:
    """The score of `photo` (C, H, W) if hiding parts of the photo never changes it, so that a map would mean nothing; else None.

    Computes two scores, and a block of masks if they are equal. Raises UserError for a score that is not finite.
    """
    photo_score, baseline_score = _scores(score, [torch.stack([photo, torch.zeros_like(photo)])])
    if abs(photo_score - baseline_score) > CONSTANT * abs(photo_score):
        return None
    try:
        rise(score, photo, masks=1)
    except ConstantScore:
        return float(photo_score)
    return None


def _masked(photo: Tensor, hidden: Tensor, grid: Grid, block: Block, batch_size: int) -> Iterator[Tensor]:
    """Batches of the photo behind a block's masks."""
    difference = photo - hidden
    for start in range(0, len(block.grids), batch_size):
        part = slice(start, start + batch_size)
        yield (grid.masks(block.grids[part], block.shifts[part], photo) * difference).add_(hidden)


def _scores(score: Score, batches: Iterable[Tensor]) -> Floats:
    """(n,) scores of all batches."""
    points = torch.cat([score(batch) for batch in batches])
    scores: Floats = points.double().cpu().numpy()  # the only synchronisation with the device
    if not np.isfinite(scores).all():
        raise UserError("rise: the score is not a number (the training diverged); try train.dtype=float32")
    return scores
