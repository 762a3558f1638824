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

Masks come in blocks (`masks`), the same for every photo and score with one seed. After every block the relative standard error is
looked at: it stops at `precision`, or when `budget` masks are spent. Same call, same bytes on a CPU.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from pawpularity.errors import UserError
from pawpularity.explain.masks import DESIGNS, Block, Floats, MaskDesign
from pawpularity.explain.players import Grid, grid_of
from pawpularity.explain.rise_result import LEAST_BLOCKS, UNITS, Rise

Score = Callable[[Tensor], Tensor]
CONSTANT = 1e-6  # sd over |mean| below which only the last digits of a float32 score changed


class ConstantScore(UserError):
    """A score that no mask changes."""


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
    `masks.DESIGNS`. `baseline`: what a hidden place shows, broadcastable to the photo (default 0, the mean colour of normalised
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
        found.notes.append(
            f"{masks} masks were asked for, {blocks * plan.block_size} taken: whole blocks of {plan.block_size}"
        )
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
    scores: Floats = (
        torch.cat([score(batch) for batch in batches]).double().cpu().numpy()
    )  # the one wait for the device
    if not np.isfinite(scores).all():
        raise UserError("rise: the score is not a number (the training diverged); try train.dtype=float32")
    return scores
