"""RISE: its masks against torch's own interpolation and exact moments, its map against scores whose map has a closed form.

f = c + sum of a_p times what the photo shows at p.
"""

import json
import math
import resource
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from pawpularity.errors import UserError
from pawpularity.explain.panel import differs_from_zero
from pawpularity.explain.players import DESIGNS, SHOWN, MaskDesign, grid_of
from pawpularity.explain.rise import Spread, block_map, constant_score, rise

SIDE = 32
PHOTO = torch.ones(1, SIDE, SIDE, dtype=torch.float64)
y, x = np.mgrid[:SIDE, :SIDE]
EFFECT = 0.20 * np.exp(-((y - 10) ** 2 + (x - 12) ** 2) / 15) - 0.12 * np.exp(-((y - 22) ** 2 + (x - 20) ** 2) / 25)
"""Score points per pixel: a patch that helps, and one that harms."""


@dataclass
class Additive:
    """`constant` + sum of effects + noise that no mask explains: a sine of far too many turns."""

    effect: np.ndarray
    constant: float = 40.0
    noise: float = 0.0

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        shown = batch[:, 0].double()
        points = (shown * torch.from_numpy(self.effect)).sum(dim=(1, 2))
        turns = (shown * torch.from_numpy(np.cos(3.0 * np.arange(SIDE * SIDE)).reshape(SIDE, SIDE))).sum((1, 2))
        return self.constant + points + self.noise * 2**0.5 * torch.sin(1e4 * turns)


def closed_form(effect: np.ndarray, cells: int = 8) -> np.ndarray:
    """K a / Var, K(p, q) = Cov(M_p, M_q): what RISE makes of additive effects, however many masks it takes."""
    grid = grid_of(*effect.shape, cells)
    down, across = (np.einsum("spk,sqk->pq", t, t) / len(t) for t in (grid.rows, grid.columns))
    return down @ effect @ across.T / 4 / grid.variance


TRUTH = closed_form(EFFECT)


def off(a: np.ndarray, b: np.ndarray = TRUTH) -> float:
    return float(np.linalg.norm(a.astype(float) - b) / np.linalg.norm(b))


def scale(a: np.ndarray, b: np.ndarray = TRUTH) -> float:
    """How many times `b` is in `a`: noise that is none of `b` does not count."""
    return float((a.astype(float) * b).sum() / (b**2).sum())


# --- Masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(("height", "width", "cells"), [(64, 64, 8), (50, 67, 7)])
def test_masks_are_the_grid_interpolated_and_cut_out(design, height, width, cells):
    block, grid = MaskDesign(cells, design, seed=3).block(1), grid_of(height, width, cells)
    down, across = -(-height // cells), -(-width // cells)
    size = (cells + 1) * down, (cells + 1) * across
    large = F.interpolate(torch.from_numpy(block.grids)[:, None], size=size, mode="bilinear")
    corners = np.floor(block.shifts * [down, across]).astype(int)
    due = torch.stack([large[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(corners)])
    made = grid.masks(block.grids, block.shifts, torch.zeros(1))
    assert made.dtype == torch.float32
    assert (made - due).abs().max() < 1e-6
    # The weighted sum is made without the masks, and must be theirs.
    weights = np.random.default_rng(0).normal(size=len(block.grids))
    assert grid.weighted_sum(weights, block) == pytest.approx(np.tensordot(weights, due[:, 0].numpy(), 1), abs=1e-9)


@pytest.mark.parametrize("cells", [2, 3, 4, 7, 8, 16])
def test_a_block_is_balanced_and_its_cells_are_uncorrelated(cells):
    design = MaskDesign(cells)
    block = design.block(5)
    signs = 2 * block.grids.reshape(design.block_size, -1) - 1
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert not signs.sum(axis=0).any(), "fold-over shows every cell in half of the masks"
    assert np.array_equal(signs.T @ signs, design.block_size * np.eye(cells * cells))
    # Odd products of three cells vanish too: no pairwise interaction can pass for a cell's own effect.
    assert not ((signs[:, 0] * signs[:, 1]) @ signs[:, 2:]).any()
    assert design.block_size == {2: 8, 3: 32, 4: 32, 7: 128, 8: 128, 16: 512}[cells]
    assert (block.shifts == block.shifts[0]).all(), "one shift a block"


def test_every_mask_of_a_block_is_uniform_for_itself():
    # 2 x 2 cells have sixteen grids; each must be as frequent as any other, over seeds and over blocks.
    grids = [MaskDesign(2, seed=seed).block(number).grids[3] for seed in range(800) for number in range(2)]
    counts = np.bincount([int(grid.reshape(-1) @ [1, 2, 4, 8]) for grid in grids], minlength=16)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_shifts_go_through_the_quarters_and_are_uniform():
    for seed in range(5):
        blocks = [MaskDesign(seed=seed).block(number) for number in range(12)]
        for start in (0, 4, 8):
            assert {block.stratum for block in blocks[start : start + 4]} == {0, 1, 2, 3}
        for block in blocks:
            down, across = block.shifts[0]
            assert int(2 * down) * 2 + int(2 * across) == block.stratum
    third = np.stack([MaskDesign(seed=seed).block(2).shifts[0] for seed in range(1000)])
    alone = np.concatenate([MaskDesign(name="independent", seed=seed).block(0).shifts for seed in range(10)])
    assert all(scipy.stats.kstest(side, "uniform").pvalue > 1e-3 for side in (*third.T, *alone.T))


@pytest.mark.parametrize("design", DESIGNS)
def test_a_block_is_a_function_of_seed_and_number_and_has_the_moments_of_the_masks(design):
    one, again, next_, other = (MaskDesign(8, design, seed).block(i) for seed, i in ((0, 2), (0, 2), (0, 3), (1, 2)))
    assert np.array_equal(one.grids, again.grids)
    assert np.array_equal(one.shifts, again.shifts)
    for block in (next_, other):
        assert not np.array_equal(one.grids, block.grids)
        assert not np.array_equal(one.shifts, block.shifts)
    grid = grid_of(32, 32, 8)
    blocks = [MaskDesign(8, design).block(i) for i in range(48)]
    masks = torch.cat([grid.masks(b.grids, b.shifts, torch.zeros(1)) for b in blocks])[:, 0].double().numpy()
    assert masks.mean(axis=0) == pytest.approx(np.full((32, 32), 0.5), abs=0.03)
    assert masks.var(axis=0) == pytest.approx(grid.variance, rel=0.12)


# --- The map and its error --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cells", "masks", "near"), [(8, 2048, 0.05), (7, 2048, 0.1), (4, 1024, 0.1), (12, 4096, 0.1)])
def test_an_additive_score_gives_its_closed_form(cells, masks, near):
    """7 x 7 cells take 49 of the 64 columns; 4 x 4 a smaller array; 12 x 12 a larger one."""
    found = rise(Additive(EFFECT), PHOTO, masks=masks, cells=cells)
    assert off(found.map, closed_form(EFFECT, cells)) < near
    assert scale(found.map, closed_form(EFFECT, cells)) == pytest.approx(1, abs=0.03)
    assert found.photo_score == pytest.approx(40 + EFFECT.sum())
    assert found.baseline_score == 40
    assert found.mean_score == pytest.approx(40 + EFFECT.sum() / 2)


def test_an_oblong_photo_of_three_channels_with_another_baseline():
    photo = torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    baseline = torch.tensor([0.5, 0.1, 0.9], dtype=torch.float64)[:, None, None]
    weights = torch.randn(3, 40, 56, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 10
    found = rise(lambda batch: (batch * weights).sum((1, 2, 3)), photo, masks=4096, baseline=baseline)
    assert found.map.shape == (40, 56)
    assert found.baseline_score == pytest.approx(float((baseline * weights).sum()))
    due = closed_form((weights * (photo - baseline)).sum(0).numpy())
    assert off(found.map, due) < 0.25
    assert scale(found.map, due) == pytest.approx(1, abs=0.03)
    assert off(found.map, closed_form((weights * photo).sum(0).numpy())) > 0.5, "else the baseline was not seen"


def test_same_call_same_bytes_and_batch_size_and_dtype_do_not_matter():
    one, again = (rise(Additive(EFFECT, noise=0.1), PHOTO, masks=512, seed=5) for _ in range(2))
    assert one.map.tobytes() == again.map.tobytes()
    assert one.standard_error.tobytes() == again.standard_error.tobytes()
    smooth = rise(Additive(EFFECT), PHOTO, masks=512, seed=5)
    for batch_size, dtype in ((7, torch.float64), (1000, torch.float64), (64, torch.float32)):
        other = rise(Additive(EFFECT), PHOTO.to(dtype), masks=512, seed=5, batch_size=batch_size)
        assert other.map == pytest.approx(smooth.map, abs=1e-5)


@pytest.mark.parametrize(("design", "noise", "blocks"), [("orthogonal", 2.0, 9), ("independent", 0.5, 8)])
def test_unbiased_over_seeds_and_the_error_is_calibrated(design, noise, blocks):
    seeds = range(40)
    total, inside, actual, said = np.zeros_like(TRUTH), [], 0.0, 0.0
    for seed in seeds:
        found = rise(Additive(EFFECT, noise=noise), PHOTO, masks=blocks * 128, design=design, seed=seed, batch_size=128)
        total += found.map
        miss = found.map - TRUTH
        inside.append(float((np.abs(miss) <= scipy.stats.t.ppf(0.975, found.degrees) * found.standard_error).mean()))
        actual, said = actual + float((miss**2).sum()), said + float((found.standard_error**2).sum())
        assert found.degrees == (blocks - 4 if design == "orthogonal" else blocks - 1)
    assert 0.93 <= np.mean(inside) <= 0.97
    assert actual / said == pytest.approx(1, abs=0.15)
    # The mean of 40 maps is nearer by the root of 40, as it is only where nothing is biased.
    assert off(total / len(seeds)) < 1.5 * (actual / len(seeds)) ** 0.5 / np.linalg.norm(TRUTH) / len(seeds) ** 0.5


def test_the_published_weights():
    found = rise(Additive(EFFECT), PHOTO, masks=1024, weights="score")
    # E[f M] / p = E f + Cov(f, M) / p.
    due = found.mean_score + TRUTH * found.grid.variance / 0.5
    assert off(found.map - found.mean_score, due - found.mean_score) < 0.07
    assert found.relative_error < 0.1, "the constant must not count as signal, nor hide it"
    assert found.weighted("centred").map.tobytes() == rise(Additive(EFFECT), PHOTO, masks=1024).map.tobytes()
    independent = rise(Additive(EFFECT, constant=4000.0), PHOTO, masks=512, design="independent", weights="score")
    assert independent.verdict == "no signal found"


@pytest.mark.parametrize("design", DESIGNS)
def test_a_blocks_map_is_the_sum_over_its_masks(design):
    """Against masks that are made, one by one, and numpy's covariance: in float64, to its digits."""
    plan, grid = MaskDesign(8, design, seed=3), grid_of(SIDE, 40, 8)
    block = plan.block(2)
    masks = grid.masks(block.grids, block.shifts, PHOTO)[:, 0].numpy()
    scores = np.random.default_rng(0).normal(40, 3, len(masks))
    n = len(scores)
    centred = ((scores - scores.mean())[:, None, None] * masks).sum(axis=0)
    # Sampled masks lose a degree of freedom to their mean; balanced ones do not.
    divisor = n if design == "orthogonal" else n - 1
    np.testing.assert_allclose(
        block_map(block, scores, grid, plan), centred / divisor / grid.variance, rtol=1e-9, atol=1e-9
    )
    published = (scores[:, None, None] * masks).mean(axis=0) / SHOWN
    np.testing.assert_allclose(block_map(block, scores, grid, plan, "score") + scores.mean(), published, rtol=1e-9)


def test_the_error_within_strata_is_cochrans():
    """Two rounds of four strata, each d off its mean: a variance of 2 d^2 within, over n blocks."""
    spread = Spread(4, (1, 1))
    for sign in (1, -1):
        for stratum, mean in enumerate((1.0, 4.0, -2.0, 9.0)):
            spread.add(stratum, np.array([[mean + sign * 0.3]]))
    assert spread.variance[0, 0] == pytest.approx(2 * 0.3**2 / 8)
    # A ninth block: five rows of one more degree of freedom, and a fourth of a round on top.
    spread.add(1, np.array([[4.0]]))
    within = 8 * 0.3**2 / (9 - 4) / 9
    assert spread.variance[0, 0] == pytest.approx(within + (1 - 1 / 4) * np.var([1, 4, -2, 9], ddof=1) / 81)
    # Four blocks of one round: no spread within is known yet, so all of it counts.
    early = Spread(4, (1, 1))
    for stratum, mean in enumerate((1.0, 4.0, -2.0, 9.0)):
        early.add(stratum, np.array([[mean]]))
    assert (early.degrees, early.variance[0, 0]) == (3, pytest.approx(np.var([1, 4, -2, 9], ddof=1) / 4))


def test_it_stops_when_it_is_precise_and_says_when_it_is_not():
    easy = rise(Additive(EFFECT), PHOTO)
    assert (easy.masks, easy.verdict) == (512, "precise"), "it never decides before four blocks"
    harder = rise(Additive(EFFECT, noise=3.0), PHOTO, precision=0.2, budget=128 * 40)
    assert harder.verdict == "precise"
    assert 512 < harder.masks < 128 * 40
    assert harder.relative_error <= 0.2 < harder.history[-2][1]
    short = rise(Additive(EFFECT, noise=3.0), PHOTO, precision=0.2, budget=600)
    assert (short.masks, short.verdict) == (512, "budget spent")
    nothing = rise(Additive(0 * EFFECT, noise=1.0), PHOTO, seed=1)
    assert (nothing.masks, nothing.verdict) == (2048, "no signal found")
    given = nothing.saliency()
    assert any("no signal found" in line for line in given.warnings)
    json.dumps(given.facts, allow_nan=False)


def test_results_on_the_way_and_few_masks():
    seen = []
    found = rise(Additive(EFFECT, noise=3.0), PHOTO, masks=700, on_block=lambda one: seen.append((one.masks, one.map)))
    assert [masks for masks, _ in seen] == [128 * n for n in range(1, 7)]
    assert seen[-1][1].tobytes() == found.map.tobytes()
    assert "700 masks" in found.notes[0]
    coarse = rise(Additive(EFFECT), PHOTO, masks=100)
    assert (coarse.masks, coarse.blocks, coarse.verdict) == (128, 1, "budget spent")
    assert (coarse.standard_error, coarse.relative_error) == (None, None)
    assert any("no error bar" in line for line in coarse.saliency().warnings)


def test_where_a_map_differs_from_zero_by_students_t():
    found = rise(Additive(EFFECT, noise=3.0), PHOTO, masks=8 * 128)
    beyond = differs_from_zero(found.saliency())
    own = np.abs(found.map) > scipy.stats.t.ppf(0.975, 4) * found.standard_error
    assert (beyond == own).mean() > 0.999  # float32 against float64 at the edge
    assert beyond.sum() < (np.abs(found.map) > 1.96 * found.standard_error).sum()


def test_memory_does_not_grow_with_the_masks():
    photo = torch.ones(3, 160, 160)
    bright = lambda batch: 40 + batch[:, 0, :12, 8:20].sum((1, 2)) / 10  # noqa: E731
    peaks = []
    for masks in (512, 512, 4096):
        rise(bright, photo, masks=masks)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)  # MB on Linux
    assert peaks[2] < peaks[1] + 100, "kept masks would be 420 MB, a batch lost in every block 630"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"photo": torch.ones(3, 40, 40), "cells": 32}, "need 64 or more"),
        ({"photo": torch.full((1, 32, 32), math.inf)}, "not a number"),
        ({"score": lambda batch: torch.full((len(batch),), 44.25)}, "is 44.25 whatever is hidden"),
        ({"photo": torch.zeros(1, 32, 32)}, "whatever is hidden"),
        ({"score": lambda batch: Additive(EFFECT)(batch) * math.inf}, "not a number"),
        ({"design": "orthogonl"}, "orthogonl"),
        ({"weights": "center"}, "center"),
    ],
)
def test_refusals(words, said):
    words = {"score": Additive(EFFECT), "photo": PHOTO} | words
    with pytest.raises(UserError, match=said):
        rise(words.pop("score"), words.pop("photo"), **words)


def test_what_a_constant_score_is():
    photo = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    corner = lambda batch: 40 + batch[:, :, :8, :8].mean((1, 2, 3))  # noqa: E731
    assert constant_score(corner, photo) is None
    assert constant_score(lambda batch: 40.5 + 1e-7 * corner(batch), photo) == pytest.approx(40.5, abs=1e-4)

    def between(batch):  # whole and hidden it is 40, in between it is not
        shown = batch.mean((1, 2, 3)) / photo.mean()
        return 40 + shown * (1 - shown)

    assert constant_score(between, photo) is None
