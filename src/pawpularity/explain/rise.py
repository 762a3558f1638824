"""RISE for a score: hide parts of a photo at random, and see where hiding changes the score.

    found = rise(score, photo)          # photo: (C, H, W), the score's input; score: (B, C, H, W) -> (B,)
    found.map, found.standard_error     # (H, W) score points
    found.verdict                       # "precise", "budget spent" or "no signal found", after found.masks masks

The unit: the average change of the score, in points, when a place *and its cell-sized surroundings* go from hidden to shown while
the rest of the photo is half hidden. Neighbouring pixels share their surroundings, so the sum over a region is not what the region
is worth. Positive raises the score. The masks blur the map by about half a cell; more masks do not sharpen it, more cells do.

Weights: `centred` (score minus mean score, over the unconditional Var(M_p)) gives that unit. `score` is the published map
E[f M] / p (Petsiuk, Das and Saenko 2018). Of a score around 40 that varies by 2 or 3 points it is almost pure noise; it is here
for comparison.

Masks come in blocks (`players`), the same for every photo and score with one seed. After every block the relative standard error is
looked at: it stops at `precision`, or when `budget` masks are spent. Same call, same bytes on a CPU.

A block gives one unbiased map; the result is the mean of the blocks' maps, and its error comes from their spread. Independent
blocks differ in everything. Orthogonal ones take their shifts from four strata in turn, so their mean varies less than their
spread suggests: from two blocks a stratum on the error is taken from the spread within strata (Cochran, Sampling Techniques, 3rd
ed., chapter 5; degrees of freedom: blocks - 4), before that from all blocks (blocks - 1), which is on the safe side.
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
CONSTANT = 1e-6  # sd over |mean| below which only the last digits of a float32 score changed
UNITS = {
    "centred": "score points, when a place and its cell-sized surroundings go from hidden to shown, the rest half hidden",
    "score": "score points, mean score of the masks that show the place (its constant, the mean score, included)",
}
"""What one pixel of a map means, by the masks' weights."""
LEAST_BLOCKS = 4
"""Of fewer blocks no error is given."""


class ConstantScore(UserError):
    """A score that no mask changes."""


def relative_error(mean: Floats, variance: Floats) -> float:
    """||SE|| / sqrt(max(||map||^2 - ||SE||^2, 0)): a map's own energy is inflated by that of its error."""
    noise = float(variance.sum())
    signal = float((mean**2).sum()) - noise
    return math.sqrt(noise / signal) if signal > 0 else math.inf


def block_map(block: Block, scores: Floats, grid: Grid, design: MaskDesign, weights: str = "centred") -> Floats:
    """(H, W): the map by one block's masks, without the constant that `score` weights have."""
    n = len(scores)
    if weights == "score":
        published: Floats = grid.weighted_sum(scores / (n * SHOWN), block) - scores.mean()
        return published
    # Orthogonal blocks are balanced, so centring costs no degree of freedom and the sum is divided by n.
    divisor = n if design.name == "orthogonal" else n - 1
    centred: Floats = grid.weighted_sum((scores - scores.mean()) / divisor, block) / grid.variance
    return centred


class Spread:
    """Mean and spread of maps (H, W) from strata that are drawn in turn, in memory that does not grow with them."""

    def __init__(self, strata: int, size: tuple[int, int]) -> None:
        self.counts = np.zeros(strata, dtype=np.int64)
        self.sums = np.zeros((strata, *size))
        self.squares = np.zeros(size)

    def add(self, stratum: int, value: Floats) -> None:
        """One more map."""
        self.counts[stratum] += 1
        self.sums[stratum] += value
        self.squares += value**2

    @property
    def blocks(self) -> int:
        """Maps so far."""
        return int(self.counts.sum())

    @property
    def mean(self) -> Floats:
        """(H, W)."""
        mean: Floats = self.sums.sum(axis=0) / self.blocks
        return mean

    @property
    def degrees(self) -> int:
        """Of freedom, of `variance`."""
        return self.blocks - (len(self.counts) if self.counts.min() >= 2 else 1)

    @property
    def variance(self) -> Floats | None:
        """(H, W): of `mean`; None below four blocks."""
        n, strata = self.blocks, len(self.counts)
        if n < LEAST_BLOCKS:
            return None
        if self.counts.min() < 2:
            return np.maximum(self.squares - n * self.mean**2, 0.0) / (n - 1) / n
        means = self.sums / self.counts[:, None, None]
        within = np.maximum(self.squares - (self.sums * means).sum(axis=0), 0.0)
        # An unfinished round is a sample, without replacement, of the strata's own means.
        rest = n % strata
        unfinished = rest * (1 - rest / strata) * means.var(axis=0, ddof=1) / n**2 if rest else 0.0
        variance: Floats = within / (n - strata) / n + unfinished
        return variance


class Rise:
    """One photo's map by one score, from the blocks that were added so far."""

    def __init__(
        self, design: MaskDesign, grid: Grid, weights: str, precision: float, ends: tuple[float, float], most: int
    ) -> None:
        self.design, self.grid, self.weights, self.precision = design, grid, weights, precision
        self.photo_score, self.baseline_score = ends
        """Of the photo shown whole, and hidden whole."""
        self.history: list[tuple[int, float]] = []
        """(masks, relative error) after every block from the fourth on; inf: no larger than its error"""
        self.notes: list[str] = []
        self.blocks = self.masks = 0
        self._spread = Spread(design.strata, grid.size)
        # One array from the start: small ones kept between the freed batches would make memory grow by a batch a block.
        self._scores = np.empty((most, design.block_size))

    def add(self, block: Block, scores: Floats) -> None:
        """Scores (n,) of the photo behind a block's masks."""
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
        """(H, W), in the map's unit; None below four blocks. Of a map with a constant, of the rest."""
        variance = self._spread.variance
        return None if variance is None else np.sqrt(variance).astype(np.float32)

    @property
    def degrees(self) -> int:
        """Of freedom of the standard error, for Student's t."""
        return self._spread.degrees

    @property
    def relative_error(self) -> float | None:
        """Of the map without its constant; None below four blocks."""
        return self.history[-1][1] if self.history else None

    @property
    def scores(self) -> Floats:
        """(masks,): of every masked photo, in the design's order."""
        return self._scores[: self.blocks].ravel()

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
        """As every method gives its map."""
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
    """The map of one photo (C, H, W) by one score; the top of this module says what it means.

    `masks`: "auto" stops at `precision` or `budget`; a number is rounded up to whole blocks. `cells`: per side. `design`: of
    `players.DESIGNS`. `baseline`: what a hidden place shows, broadcastable to the photo (default 0, the mean colour of normalised
    photos). `batch_size`: masked photos per call of the score, at most a block's. `on_block` gets the result so far after a block,
    which goes on growing. Raises UserError for unknown designs and weights, small photos and scores that are not finite;
    ConstantScore.
    """
    if design not in DESIGNS or weights not in UNITS:
        raise UserError(f"rise: no design {design} ({', '.join(DESIGNS)}) with weights {weights} ({', '.join(UNITS)})")
    if min(photo.shape[1:]) < 2 * cells:
        size = " x ".join(map(str, photo.shape[1:]))
        raise UserError(f"rise: the photo is {size} px; {cells} x {cells} cells need {2 * cells} or more a side")
    plan = MaskDesign(cells, design, seed)
    blocks = max(1, budget // plan.block_size) if masks == "auto" else plan.blocks_for(int(masks))
    photo = photo.to(torch.promote_types(photo.dtype, torch.float32))  # whatever the score computes in
    hidden = torch.zeros_like(photo) if baseline is None else baseline.to(photo).expand_as(photo)
    grid = grid_of(photo.shape[1], photo.shape[2], cells)
    whole, nothing = _answers(score, [torch.stack([photo, hidden])])
    found = Rise(plan, grid, weights, precision, (float(whole), float(nothing)), blocks)
    if masks not in ("auto", blocks * plan.block_size):
        found.notes.append(f"{masks} masks were asked for, {blocks * plan.block_size} taken: whole blocks")
    if blocks < LEAST_BLOCKS:
        least = LEAST_BLOCKS * plan.block_size
        found.notes.append(f"a map of fewer than {LEAST_BLOCKS} blocks ({least} masks) is coarse and has no error bar")
    for number in range(blocks):
        block = plan.block(number)
        answers = _answers(score, _masked(photo, hidden, grid, block, batch_size))
        if number == 0 and answers.std() <= CONSTANT * abs(answers.mean()):
            raise ConstantScore(
                f"rise: the score is {answers.mean():.6g} whatever is hidden; the network does not look at the photo, "
                "its score is clipped, or the photo is the baseline itself"
            )
        found.add(block, answers)
        if on_block is not None:
            on_block(found)
        if masks == "auto" and found.verdict == "precise":
            break
    return found


@torch.inference_mode()
def constant_score(score: Score, photo: Tensor) -> float | None:
    """The score of `photo` (C, H, W) where hiding parts of it changes nothing, so that no map of it means anything; else None.

    Takes two scores, and a block of masks where they are equal. Raises UserError for a score that is not finite.
    """
    whole, nothing = _answers(score, [torch.stack([photo, torch.zeros_like(photo)])])
    if abs(whole - nothing) > CONSTANT * abs(whole):
        return None
    try:
        rise(score, photo, masks=1)
    except ConstantScore:
        return float(whole)
    return None


def _masked(photo: Tensor, hidden: Tensor, grid: Grid, block: Block, batch_size: int) -> Iterator[Tensor]:
    """Batches of the photo behind a block's masks."""
    difference = photo - hidden
    for start in range(0, len(block.grids), batch_size):
        part = slice(start, start + batch_size)
        yield (grid.masks(block.grids[part], block.shifts[part], photo) * difference).add_(hidden)


def _answers(score: Score, batches: Iterable[Tensor]) -> Floats:
    """(n,) scores of all batches together."""
    answers = torch.cat([score(batch) for batch in batches])
    scores: Floats = answers.double().cpu().numpy()  # the one wait for the device
    if not np.isfinite(scores).all():
        raise UserError("rise: the score is not a number (the training diverged); try train.dtype=float32")
    return scores
