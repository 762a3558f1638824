"""RISE's masks against torch's own interpolation, exact moments, and the uniform distribution they must keep."""

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F

from pawpularity.explain.masks import MaskDesign, mask_tables

DESIGNS = ("orthogonal", "independent")


@pytest.mark.parametrize(("size", "figures"), [(224, (0.0997, 0.1380, 0.1910)), (128, (0.0996, 0.1379, 0.1909))])
def test_variance_of_a_mask_inside_at_an_edge_and_in_a_corner(size, figures):
    variance = mask_tables(size, size, 8).variance
    middle = size // 2
    assert [variance[at] for at in ((middle, middle), (0, middle), (0, 0))] == pytest.approx(figures, abs=5e-5)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(("height", "width", "cells"), [(64, 64, 8), (50, 67, 7)])
def test_masks_are_the_grid_interpolated_and_cut_out(design, height, width, cells):
    block, tables = MaskDesign(cells, design, seed=3).block(1), mask_tables(height, width, cells)
    down, across = -(-height // cells), -(-width // cells)
    large = F.interpolate(
        torch.from_numpy(block.grids)[:, None], size=((cells + 1) * down, (cells + 1) * across), mode="bilinear"
    )
    corners = np.floor(block.shifts * [down, across]).astype(int)
    due = torch.stack([large[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(corners)])
    made = tables.masks(block.grids, block.shifts, torch.zeros(1))
    assert made.dtype == torch.float32
    assert made.shape == (len(block.grids), 1, height, width)
    assert (made - due).abs().max() < 1e-6
    # The weighted sum and the cells' means are made without the masks, and must be theirs.
    weights = np.random.default_rng(0).normal(size=len(block.grids))
    assert tables.weighted_sum(weights, block) == pytest.approx(np.tensordot(weights, due[:, 0].numpy(), 1), abs=1e-9)
    edges_y, edges_x = (np.arange(cells + 1) * side // cells for side in (height, width))
    means = tables.cell_means(block).reshape(-1, cells, cells)
    part = due[:, 0, edges_y[2] : edges_y[3], edges_x[4] : edges_x[5]].mean(dim=(1, 2)).numpy()
    assert means[:, 2, 4] == pytest.approx(part, abs=1e-9)


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
    mean = mask_tables(64, 64, cells).weighted_sum(np.full(design.block_size, 1 / design.block_size), block)
    assert mean == pytest.approx(np.full((64, 64), 0.5), abs=1e-12)


@pytest.mark.parametrize("row", [0, 3, 6])
def test_every_mask_of_a_block_is_uniform_for_itself(row):
    # 2 x 2 cells have sixteen grids; each must be as frequent as any other, over seeds and over blocks.
    grids = [MaskDesign(2, seed=seed).block(number).grids[row] for seed in range(800) for number in range(2)]
    counts = np.bincount([int(grid.reshape(-1) @ [1, 2, 4, 8]) for grid in grids], minlength=16)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    large = np.stack([MaskDesign(8, seed=seed).block(0).grids[row].reshape(-1) for seed in range(1500)]) - 0.5
    assert np.abs(large.mean(axis=0)).max() < 4.5 * 0.5 / 1500**0.5
    pairs = (large.T @ large / 1500)[np.triu_indices(64, 1)]
    assert np.abs(pairs).max() < 5 * 0.25 / 1500**0.5


def test_shifts_go_through_the_quarters_and_are_uniform():
    for seed in range(5):
        blocks = [MaskDesign(seed=seed).block(number) for number in range(12)]
        for start in (0, 4, 8):
            assert {block.stratum for block in blocks[start : start + 4]} == {0, 1, 2, 3}
        for block in blocks:
            down, across = block.shifts[0]
            assert int(2 * down) * 2 + int(2 * across) == block.stratum
            assert (block.shifts == block.shifts[0]).all()
    third = np.stack([MaskDesign(seed=seed).block(2).shifts[0] for seed in range(1000)])
    assert all(scipy.stats.kstest(side, "uniform").pvalue > 1e-3 for side in third.T)
    alone = np.concatenate([MaskDesign(name="independent", seed=seed).block(0).shifts for seed in range(10)])
    assert all(scipy.stats.kstest(side, "uniform").pvalue > 1e-3 for side in alone.T)


@pytest.mark.parametrize("design", DESIGNS)
def test_moments_of_the_masks_over_blocks(design):
    tables = mask_tables(32, 32, 8)
    masks = torch.cat(
        [tables.masks(b.grids, b.shifts, torch.zeros(1)) for b in (MaskDesign(8, design).block(i) for i in range(48))]
    )[:, 0].double().numpy()  # fmt: skip
    assert masks.mean(axis=0) == pytest.approx(np.full((32, 32), 0.5), abs=0.03)
    assert masks.var(axis=0) == pytest.approx(tables.variance, rel=0.12)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_block_is_a_function_of_seed_and_number(design):
    one, again, next_, other = (MaskDesign(8, design, seed).block(i) for seed, i in ((0, 2), (0, 2), (0, 3), (1, 2)))
    assert np.array_equal(one.grids, again.grids)
    assert np.array_equal(one.shifts, again.shifts)
    for block in (next_, other):
        assert not np.array_equal(one.grids, block.grids)
        assert not np.array_equal(one.shifts, block.shifts)
