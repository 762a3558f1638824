"""RISE's masks. The players are the cells of a grid; a design says which cells each mask shows.

A mask is a grid of cells, enlarged bilinearly to the photo and shifted by up to a cell. A block of masks depends only on
(seed, number), so equal seeds share their masks. The designs:

- `orthogonal`: a block is a Hadamard array with permuted columns and random column signs, followed by the same array with every
  cell flipped (fold-over). The masks of a block share one shift; 8 x 8 cells make 128 masks. Each mask alone is uniform on
  {0, 1}^64, and over a block all cells are uncorrelated, so the effects of cells do not mix. Shifts use the four quarters of a
  cell in a random order before any quarter comes again.
- `independent`: every cell and every mask's shift is drawn independently, as published (Petsiuk, Das and Saenko, BMVC 2018). A
  block has the same number of masks.

The interpolation is separable: mask = rows @ grid @ columns', two small products with a table per shift. A weighted sum of
masks with one shift is the same product of the summed grid, so masks need not be kept.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.linalg import hadamard
from torch import Tensor

Floats = NDArray[np.float64]

DESIGNS = ("orthogonal", "independent")
SHOWN = 0.5
"""Probability that a cell is shown, and the mean of every mask at every pixel. Fold-over needs one half."""
QUARTERS = 4
"""Strata of the orthogonal design's shifts."""


@dataclass(frozen=True)
class Block:
    """Some masks, for photos of any size."""

    grids: Floats  # (n, cells, cells) of 0 (hidden) and 1 (shown)
    shifts: Floats  # (n, 2) in [0, 1): down and to the right, in cells
    stratum: int  # which quarter of a cell the shift lies in; 0 for independent masks, whose shifts lie anywhere


@dataclass(frozen=True)
class MaskDesign:
    """All blocks of masks of one seed."""

    cells: int = 8
    name: str = "orthogonal"
    seed: int = 0

    @property
    def block_size(self) -> int:
        """Masks of a block: twice the smallest power of two that has a column for every cell."""
        return 2 * (1 << (self.cells * self.cells - 1).bit_length())

    @property
    def strata(self) -> int:
        """The number of strata from which the blocks' shifts are drawn in turn."""
        return QUARTERS if self.name == "orthogonal" else 1

    def blocks_for(self, masks: int) -> int:
        """The number of whole blocks that hold at least `masks` masks."""
        return -(-masks // self.block_size)

    def block(self, number: int) -> Block:
        """The `number`-th block, counted from 0."""
        generator = np.random.default_rng([self.seed, DESIGNS.index(self.name), number])
        size, columns = self.block_size, self.cells * self.cells
        if self.name == "independent":
            drawn = generator.random((size, columns)) < SHOWN
            grids = drawn.reshape(size, self.cells, self.cells).astype(np.float64)
            return Block(grids, generator.random((size, 2)), 0)
        half = _hadamard(size // 2)[:, generator.permutation(size // 2)[:columns]]
        half = half * generator.choice([-1.0, 1.0], columns)
        grids = (1.0 + np.concatenate([half, -half])) / 2
        # One generator for each round of four blocks: any block can be drawn alone, and the four lie in four quarters.
        round_, place = divmod(number, QUARTERS)
        stratum = int(np.random.default_rng([self.seed, len(DESIGNS), round_]).permutation(QUARTERS)[place])
        shift = (np.array(divmod(stratum, 2)) + generator.random(2)) / 2
        return Block(grids.reshape(size, self.cells, self.cells), np.broadcast_to(shift, (size, 2)), stratum)


@lru_cache(maxsize=4)
def _hadamard(order: int) -> Floats:
    array: Floats = hadamard(order).astype(np.float64)
    return array


@dataclass(frozen=True, eq=False)
class Grid:
    """Interpolation tables by shift, for photos of one size: `rows` (cell height, H, cells), `columns` (cell width, W, cells)."""

    rows: Floats
    columns: Floats

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.rows.shape[1], self.columns.shape[1]

    @cached_property
    def variance(self) -> Floats:
        """(H, W): Var(M_p) over masks and shifts. At 224 px and 8 cells 0.0997 inside, 0.138 at an edge, 0.191 in a corner.

        A mask's mean is 1/2 at every pixel for every shift, so the variance between shifts adds nothing.
        """
        down, across = ((table**2).sum(axis=2).mean(axis=0) for table in (self.rows, self.columns))
        variance: Floats = SHOWN * (1 - SHOWN) * np.outer(down, across)
        return variance

    def weighted_sum(self, weights: Floats, block: Block) -> Floats:
        """(H, W): sum of weights_i M_i over a block."""
        down, across = self._pixels(block.shifts)
        if (down == down[0]).all() and (across == across[0]).all():
            one: Floats = self.rows[down[0]] @ np.tensordot(weights, block.grids, axes=1) @ self.columns[across[0]].T
            return one
        # Every mask has its own shift. Side by side they are still one product, (H, n cells) by (n cells, W).
        left = np.einsum("n,nhk->hnk", weights, self.rows[down]).reshape(self.size[0], -1)
        right = (block.grids @ self.columns[across].transpose(0, 2, 1)).reshape(-1, self.size[1])
        many: Floats = left @ right
        return many

    def masks(self, grids: Floats, shifts: Floats, like: Tensor) -> Tensor:
        """(n, 1, H, W) masks of `like`'s dtype, made on its device."""
        down, across = self._pixels(shifts)
        if (down == down[0]).all() and (across == across[0]).all():
            down, across = down[:1], across[:1]  # one table for all masks
        rows, columns = (
            torch.from_numpy(table[at]).to(like.device, like.dtype)
            for table, at in ((self.rows, down), (self.columns, across))
        )
        return (rows @ torch.from_numpy(grids).to(like.device, like.dtype) @ columns.mT).unsqueeze(1)

    def _pixels(self, shifts: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shifts in whole pixels, uniform over a cell."""
        pixels = np.floor(shifts * [len(self.rows), len(self.columns)]).astype(np.int64)
        return pixels[:, 0], pixels[:, 1]


@lru_cache(maxsize=8)
def grid_of(height: int, width: int, cells: int) -> Grid:
    """The grid for photos of one size, made once."""
    return Grid(_windows(height, cells), _windows(width, cells))


def _windows(size: int, cells: int) -> Floats:
    """(shifts, size, cells): the grid enlarged to the photo and one cell more, cropped at every shift.

    As the authors do it, except for the outermost half cell: they mirror the grid, `interpolate` repeats its edge.
    """
    cell = -(-size // cells)
    unit = torch.eye(cells, dtype=torch.float64)[None]
    drawn = F.interpolate(unit, size=(cells + 1) * cell, mode="linear", align_corners=False)[0]
    windows: Floats = drawn.unfold(1, size, 1)[:, :cell].permute(1, 2, 0).contiguous().numpy()
    return windows
