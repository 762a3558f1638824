"""RISE for a score: hide parts of a photo at random, and see where hiding moves the score.

    found = rise(score, photo)          # photo: (C, H, W) in the score's own input space; score: (B, C, H, W) -> (B,)
    found.map, found.standard_error     # (H, W) score points
    found.verdict                       # "precise", "budget spent" or "no signal found", after found.masks masks

The unit: the average change of the score, in points, when a place *and its cell-sized surroundings* go from hidden to shown while
the rest of the photo is half hidden. Neighbouring pixels mean nearly the same surroundings, so pixels must not be summed: the sum
over a region is not what the region is worth. Positive raises the score. The map is blurred by the masks' own width (for 8 x 8
cells half a cell's worth), which no number of masks sharpens; more cells do.

Weights: `centred` (score minus mean score, over the unconditional Var(M_p)) gives that unit. `score` is the published map
E[f M] / p (Petsiuk, Das and Saenko 2018), `squared-error` minus the same of the squared distance to the photo's own score, which is
blind to the sign of an effect. With a score around 40 that moves by 2 or 3 points the published map is almost pure noise. It is
here for comparison.

Masks come in blocks (`masks.py`): the i-th block of a seed is the same for every photo, score and call. After every block the
relative standard error is looked at, and it stops when that reaches `precision` or the `budget` of masks is spent. Same call, same
bytes on a CPU; another batch size changes what the score's own arithmetic changes, for float32 networks some 1e-6 of the score.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pawpularity.errors import UserError, nearest
from pawpularity.explain.masks import DESIGNS, Block, Floats, MaskDesign, MaskTables, mask_tables
from pawpularity.explain.rise_result import LEAST_BLOCKS, UNITS, Rise, Running

Score = Callable[[Tensor], Tensor]
SMALLEST = 32
"""Pixels: of a smaller photo a cell would be a handful of pixels."""
MOST_CELLS = 32
MOST_MASKS = 10_000_000
STILL = 1e-6  # sd over |mean| below which a float32 score did not move but in its last digits


class StillScore(UserError):
    """A score that no mask moves."""


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
    substrate: Tensor | None = None,
    on_block: Callable[[Rise], object] | None = None,
) -> Rise:
    """The map of one photo (C, H, W) by one score; see the top of this module for what it means.

    `masks`: "auto" stops at `precision` or `budget`; a number takes exactly so many, rounded up to whole blocks. `cells`: per side.
    `design`: "orthogonal", or "independent" as published. `substrate`: what a hidden place shows, broadcastable to the photo
    (default 0, the mean colour of normalised photos). `batch_size`: masked photos per call of the score, at most a block's.
    `on_block` is given the result so far after every block.
    Raises UserError for wrong options, photos below 32 px, scores that are no numbers, and scores that no mask moves.
    """
    return rise_together(
        [score], [photo], masks=masks, cells=cells, design=design, weights=weights, precision=precision, budget=budget,
        seed=seed, batch_size=batch_size, substrate=substrate,
        on_block=None if on_block is None else lambda found: on_block(found[0]),
    )[0]  # fmt: skip


@torch.inference_mode()
def rise_together(
    scores: Score | Sequence[Score],
    photos: Tensor | Sequence[Tensor],
    *,
    masks: str | int = "auto",
    cells: int = 8,
    design: str = "orthogonal",
    weights: str = "centred",
    precision: float = 0.2,
    budget: int = 2048,
    seed: int = 0,
    batch_size: int = 64,
    substrate: Tensor | None = None,
    on_block: Callable[[list[Rise]], object] | None = None,
) -> list[Rise]:
    """`rise` of scores[i] on photos[i] for all i, on the same masks: one map each, whose differences have small errors.

    One score, or one photo (C, H, W), goes with all of the other. Sizes may differ. All go on until the last is precise,
    so that they share every block; call `rise` for each where that is not needed (it draws the same masks).
    """
    pairs = _pairs(scores, photos)
    plan = MaskDesign(cells, design, seed)
    _check(plan, masks, weights, precision, budget, batch_size)
    blocks, notes = _blocks(plan, masks, budget)
    subjects = [
        _Subject(
            score,
            photo,
            substrate,
            plan,
            weights,
            precision,
            blocks,
            f" of photo {place + 1}" if len(pairs) > 1 else "",
        )
        for place, (score, photo) in enumerate(pairs)
    ]
    for number in range(blocks):
        block = plan.block(number)
        answers = _scored(subjects, block, min(batch_size, plan.block_size), number)
        for subject, own in zip(subjects, answers, strict=True):
            if number == 0:
                subject.require_movement(own)
            subject.running.add(block, own)
        if on_block is not None:
            on_block([subject.running.result(notes) for subject in subjects])
        if masks == "auto" and all(subject.running.precise for subject in subjects):
            break
    return [subject.running.result(notes) for subject in subjects]


@torch.inference_mode()
def still(score: Score, photo: Tensor) -> float | None:
    """The score of `photo` (C, H, W) where hiding parts of it does nothing, so that no map of it means anything; else None.

    Takes two scores, and a block of masks where they are the same. Raises UserError for a score that is no number.
    """
    whole, nothing = (float(end) for end in score(torch.stack([photo, torch.zeros_like(photo)])).double())
    if not math.isfinite(whole) or not math.isfinite(nothing):
        raise UserError("its score is no number (the training diverged)")
    if abs(whole - nothing) > STILL * abs(whole):
        return None
    try:
        rise(score, photo, masks=1)
    except StillScore:
        return whole
    return None


class _Subject:
    """One photo and the score it is explained by."""

    def __init__(
        self,
        score: Score,
        photo: Tensor,
        substrate: Tensor | None,
        plan: MaskDesign,
        weights: str,
        precision: float,
        most: int,
        name: str,
    ) -> None:
        self.score, self.name = score, name
        if not isinstance(photo, Tensor) or photo.ndim != 3 or not photo.is_floating_point():
            raise UserError(
                f"rise: the photo{name} must be a float tensor (channels, height, width) as the score takes it"
            )
        height, width = photo.shape[1:]
        if min(height, width) < max(SMALLEST, 2 * plan.cells):
            raise UserError(
                f"rise: the photo{name} is {height} x {width} px; {plan.cells} x {plan.cells} cells need "
                f"{max(SMALLEST, 2 * plan.cells)} or more a side"
            )
        if not torch.isfinite(photo).all():
            raise UserError(f"rise: the photo{name} holds something that is no number")
        # Masks and sums are at least float32, whatever the score computes in.
        self.photo = photo.to(torch.promote_types(photo.dtype, torch.float32))
        self.hidden = torch.zeros_like(self.photo)
        if substrate is not None:
            try:
                self.hidden = substrate.to(self.photo).expand_as(self.photo)
            except RuntimeError:
                raise UserError(
                    f"rise: a substrate of shape {tuple(substrate.shape)} does not fit a photo of {tuple(photo.shape)}"
                ) from None
            if not torch.isfinite(self.hidden).all():
                raise UserError("rise: the substrate holds something that is no number")
        self.difference = self.photo - self.hidden
        self.plain = substrate is None
        self.tables = mask_tables(height, width, plan.cells)
        ends = self.answers(torch.stack([self.photo, self.hidden]))
        if not torch.isfinite(ends).all():
            raise UserError(f"rise: the score{name} is no number for the photo itself, or for the substrate alone")
        whole, nothing = (float(end) for end in ends.double())
        self.running = Running(plan, self.tables, weights, precision, whole, nothing, most)

    @property
    def kind(self) -> tuple[tuple[int, int], torch.device, torch.dtype]:
        """What photos must have in common to be multiplied with one and the same tensor of masks."""
        return self.tables.size, self.photo.device, self.photo.dtype

    def masked(self, masks: Tensor) -> Tensor:
        """(n, C, H, W) of (n, 1, H, W) masks."""
        masked = masks * self.difference
        return masked if self.plain else masked.add_(self.hidden)

    def answers(self, batch: Tensor) -> Tensor:
        """The score's (n,)."""
        answers = self.score(batch)
        if not isinstance(answers, Tensor) or answers.shape != (len(batch),):
            given = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
            raise UserError(f"rise: the score must answer ({len(batch)},) for a batch of {len(batch)}, not {given}")
        return answers

    def require_movement(self, scores: Floats) -> None:
        """Raise UserError where hiding parts of the photo does nothing to its score."""
        mean, sd = float(scores.mean()), float(scores.std())
        if sd <= STILL * abs(mean) or sd == 0:
            raise StillScore(
                f"rise: the score{self.name} is {mean:.6g} whatever is hidden; the network does not look at the photo, "
                "its score is clipped, or the photo is the substrate itself"
            )


def _scored(subjects: Sequence[_Subject], block: Block, batch_size: int, number: int) -> list[Floats]:
    """A block's scores, float64 (n,), of every subject. Each batch of masks is made once for all of one size."""
    answers: list[list[Tensor]] = [[] for _ in subjects]
    for start in range(0, len(block.grids), batch_size):
        part = slice(start, start + batch_size)
        made: dict[object, Tensor] = {}
        for subject, own in zip(subjects, answers, strict=True):
            if subject.kind not in made:
                made[subject.kind] = _masks(subject.tables, block, part, subject.photo)
            own.append(subject.answers(subject.masked(made[subject.kind])))
    found = []
    for subject, own in zip(subjects, answers, strict=True):
        scores = torch.cat(own).double().cpu().numpy()  # the one wait for the device in a block
        if not np.isfinite(scores).all():
            batch = int(np.flatnonzero(~np.isfinite(scores))[0]) // batch_size
            raise UserError(
                f"rise: the score{subject.name} is no number in batch {batch + 1} of block {number + 1} "
                f"(masks of {batch_size}); try train.dtype=float32"
            )
        found.append(scores)
    return found


def _masks(tables: MaskTables, block: Block, part: slice, like: Tensor) -> Tensor:
    return tables.masks(block.grids[part], block.shifts[part], like)


def _pairs(scores: Score | Sequence[Score], photos: Tensor | Sequence[Tensor]) -> list[tuple[Score, Tensor]]:
    own = [photos] if isinstance(photos, Tensor) and photos.ndim == 3 else list(photos)
    by = [scores] if callable(scores) else list(scores)
    if not own or not by:
        raise UserError("rise: needs a photo and a score at least")
    if len(by) == 1:
        by *= len(own)
    elif len(own) == 1:
        own *= len(by)
    if len(own) != len(by):
        raise UserError(f"rise: {len(by)} scores do not go with {len(own)} photos; give as many, or one of either")
    return list(zip(by, own, strict=True))


def _check(plan: MaskDesign, masks: str | int, weights: str, precision: float, budget: int, batch_size: int) -> None:
    if plan.name not in DESIGNS:
        raise UserError(f"rise: there is no design {plan.name}{nearest(str(plan.name), DESIGNS)}")
    if weights not in UNITS:
        raise UserError(f"rise: there are no weights {weights}{nearest(str(weights), UNITS)}")
    if not isinstance(plan.cells, int) or not 2 <= plan.cells <= MOST_CELLS:
        raise UserError(f"rise: cells={plan.cells} must be a whole number from 2 to {MOST_CELLS}")
    if not isinstance(plan.seed, int) or plan.seed < 0:
        raise UserError(f"rise: seed={plan.seed} must be a whole number, 0 or more")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"rise: batch_size={batch_size} must be a whole number above 0")
    if masks != "auto" and (not isinstance(masks, int) or masks < 1):
        raise UserError(f'rise: masks={masks} must be "auto" or a number above 0')
    if (budget if masks == "auto" else int(masks)) > MOST_MASKS:
        raise UserError(f"rise: more than {MOST_MASKS} masks were asked for; a map is precise long before")
    if not math.isfinite(precision) or precision <= 0:
        raise UserError(f"rise: precision={precision} must be above 0: the relative standard error to stop at")
    if masks == "auto" and budget < plan.block_size:
        raise UserError(f"rise: budget={budget} is below one block, {plan.block_size} masks; allow at least as many")


def _blocks(plan: MaskDesign, masks: str | int, budget: int) -> tuple[int, tuple[str, ...]]:
    """How many blocks at most, and what must be said of that."""
    size = plan.block_size
    notes = []
    if isinstance(masks, int):
        blocks = -(-masks // size)
        if blocks * size != masks:
            notes.append(f"{masks} masks were asked for, {blocks * size} taken: whole blocks of {size}")
    else:
        blocks = budget // size
    if blocks < LEAST_BLOCKS:
        notes.append(
            f"a map of fewer than {LEAST_BLOCKS} blocks ({LEAST_BLOCKS * size} masks) is coarse and has no error bar"
        )
    return blocks, tuple(notes)
