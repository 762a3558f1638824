"""RISE for a score: hide parts of a photo at random, and see where hiding changes the score.

    found = rise(score, photo)          # photo: (C, H, W), the score's input; score: (B, C, H, W) -> (B,)
    found.map, found.standard_error     # (H, W) score points
    found.verdict                       # "precise", "budget spent" or "no signal found", after found.masks masks

The unit: the average change of the score, in points, when a place *and its cell-sized surroundings* go from hidden to shown while
the rest of the photo is half hidden. Neighbouring pixels share their surroundings, so the sum over a region is not what the region
is worth. Positive raises the score. The masks blur the map by about half a cell; more masks do not sharpen it, more cells do.

Weights: `centred` (score minus mean score, over the unconditional Var(M_p)) gives that unit. `score` is the published map
E[f M] / p (Petsiuk, Das and Saenko 2018), `squared-error` minus the same of the squared distance to the photo's own score, which is
blind to an effect's sign. Of a score around 40 that varies by 2 or 3 points the published map is almost pure noise; it is here
for comparison.

Masks come in blocks (`masks`), the same for every photo and score with one seed. After every block the relative standard error is
looked at: it stops at `precision`, or when `budget` masks are spent. Same call, same bytes on a CPU.
"""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from pawpularity.errors import UserError, nearest
from pawpularity.explain.masks import DESIGNS, Block, Floats, MaskDesign
from pawpularity.explain.players import Grid, grid_of
from pawpularity.explain.rise_result import LEAST_BLOCKS, UNITS, Rise, Running

Score = Callable[[Tensor], Tensor]
SMALLEST = 32
"""Pixels a side: of a smaller photo a cell would be a handful of pixels."""
MOST_MASKS = 10_000_000
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
    photos). `batch_size`: masked photos per call of the score, at most a block's. `on_block` gets the result so far after a block.
    Raises UserError for wrong options, small photos and scores that are not finite; ConstantScore.
    """
    plan = MaskDesign(cells, design, seed)
    _check(plan, masks, weights, precision, budget, batch_size)
    blocks = plan.blocks_for(masks) if isinstance(masks, int) else budget // plan.block_size
    photo, hidden = _prepared(photo, baseline, cells)
    grid = grid_of(photo.shape[1], photo.shape[2], cells)
    whole, nothing = _answers(score, [torch.stack([photo, hidden])])
    running = Running(plan, grid, weights, precision, (float(whole), float(nothing)), blocks)
    notes = _notes(masks, plan, blocks)
    for number in range(blocks):
        block = plan.block(number)
        answers = _answers(score, _masked(photo, hidden, grid, block, batch_size))
        if number == 0 and answers.std() <= CONSTANT * abs(answers.mean()):
            raise ConstantScore(
                f"rise: the score is {answers.mean():.6g} whatever is hidden; the network does not look at the photo, "
                "its score is clipped, or the photo is the baseline itself"
            )
        running.add(block, answers)
        if on_block is not None:
            on_block(running.result(notes))
        if masks == "auto" and running.precise:
            break
    return running.result(notes)


@torch.inference_mode()
def constant_score(score: Score, photo: Tensor) -> float | None:
    """The score of `photo` (C, H, W) where hiding parts of it changes nothing, so that no map of it means anything; else None.

    Takes two scores, and a block of masks where they are equal. Raises UserError for a score that is not finite.
    """
    whole, nothing = score(torch.stack([photo, torch.zeros_like(photo)])).double().tolist()
    if not math.isfinite(whole) or not math.isfinite(nothing):
        raise UserError("its score is not a number (the training diverged)")
    if abs(whole - nothing) > CONSTANT * abs(whole):
        return None
    try:
        rise(score, photo, masks=1)
    except ConstantScore:
        return float(whole)
    return None


def _prepared(photo: Tensor, baseline: Tensor | None, cells: int) -> tuple[Tensor, Tensor]:
    """The photo and what hidden places show, (C, H, W) each, in float32 or more whatever the score computes in."""
    if photo.ndim != 3 or not photo.is_floating_point():
        raise UserError(f"rise: a photo must be floats (C, H, W), not {photo.dtype} {tuple(photo.shape)}")
    least = max(SMALLEST, 2 * cells)
    if min(photo.shape[1:]) < least:
        raise UserError(
            f"rise: the photo is {photo.shape[1]} x {photo.shape[2]} px; {cells} x {cells} cells need {least} or more a side"
        )
    photo = photo.to(torch.promote_types(photo.dtype, torch.float32))
    hidden = torch.zeros_like(photo) if baseline is None else baseline.to(photo).expand_as(photo)
    if not (torch.isfinite(photo).all() and torch.isfinite(hidden).all()):
        raise UserError("rise: the photo, or the baseline, holds something that is not a number")
    return photo, hidden


def _masked(photo: Tensor, hidden: Tensor, grid: Grid, block: Block, batch_size: int) -> Iterator[Tensor]:
    """Batches of the photo behind a block's masks."""
    difference = photo - hidden
    for start in range(0, len(block.grids), batch_size):
        part = slice(start, start + batch_size)
        yield (grid.masks(block.grids[part], block.shifts[part], photo) * difference).add_(hidden)


def _answers(score: Score, batches: Iterable[Tensor]) -> Floats:
    """(n,) scores of all batches together."""
    answers = []
    for batch in batches:
        answers.append(score(batch))
        if answers[-1].shape != (len(batch),):
            raise UserError(
                f"rise: the score must be ({len(batch)},) for a batch of {len(batch)}, not {tuple(answers[-1].shape)}"
            )
    scores: Floats = torch.cat(answers).double().cpu().numpy()  # the one wait for the device
    if not np.isfinite(scores).all():
        raise UserError("rise: the score of the photo, whole or masked, is not a number; try train.dtype=float32")
    return scores


def _check(plan: MaskDesign, masks: str | int, weights: str, precision: float, budget: int, batch_size: int) -> None:
    for right, words in (
        (plan.name in DESIGNS, f"there is no design {plan.name}{nearest(plan.name, DESIGNS)}"),
        (weights in UNITS, f"there are no weights {weights}{nearest(weights, UNITS)}"),
        (2 <= plan.cells <= 32, f"cells={plan.cells} must be 2 to 32"),
        (plan.seed >= 0, f"seed={plan.seed} must be 0 or more"),
        (batch_size >= 1, f"batch_size={batch_size} must be 1 or more"),
        (masks == "auto" or isinstance(masks, int), f'masks={masks} must be "auto" or a number'),
        (isinstance(masks, str) or 1 <= masks <= MOST_MASKS, f"masks={masks} must be 1 to {MOST_MASKS}"),
        (0 < precision < math.inf, f"precision={precision} must be above 0: the relative standard error to stop at"),
    ):
        if not right:
            raise UserError(f"rise: {words}")
    if masks == "auto" and not plan.block_size <= budget <= MOST_MASKS:
        raise UserError(f"rise: budget={budget} must be one block, {plan.block_size} masks, to {MOST_MASKS}")


def _notes(masks: str | int, plan: MaskDesign, blocks: int) -> tuple[str, ...]:
    size = plan.block_size
    notes = []
    if isinstance(masks, int) and masks != blocks * size:
        notes.append(f"{masks} masks were asked for, {blocks * size} taken: whole blocks of {size}")
    if blocks < LEAST_BLOCKS:
        notes.append(
            f"a map of fewer than {LEAST_BLOCKS} blocks ({LEAST_BLOCKS * size} masks) is coarse and has no error bar"
        )
    return tuple(notes)
