"""The players, the parts of a photo that a mask hides or shows: cells of a grid, drawn up to the photo bilinearly and shifted by
up to a cell.

The interpolation is separable: mask = rows @ grid @ columns', two small products with a table per shift. A weighted sum of
masks behind one shift is the same product of a summed grid, so no masks are kept.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.explain.masks import SHOWN, Block, Floats


@dataclass(frozen=True, eq=False)
class Grid:
    """The cells of photos of one size. `rows`: (cell height, H, cells), `columns`: (cell width, W, cells), a table per shift."""

    rows: Floats
    columns: Floats

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.rows.shape[1], self.columns.shape[1]

    @cached_property
    def variance(self) -> Floats:
        """(H, W): Var(M_p) over masks and shifts. At 224 px and 8 cells 0.0997 inside, 0.138 at an edge, 0.191 in a corner.

        A mask's mean is 1/2 at every pixel behind every shift, so the variance between shifts adds nothing.
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
        # A shift for every mask: side by side they are still one product, (H, n cells) by (n cells, W).
        left = np.einsum("n,nhk->hnk", weights, self.rows[down]).reshape(self.size[0], -1)
        right = (block.grids @ self.columns[across].transpose(0, 2, 1)).reshape(-1, self.size[1])
        many: Floats = left @ right
        return many

    def masks(self, grids: Floats, shifts: Floats, like: Tensor) -> Tensor:
        """(n, 1, H, W) masks of `like`'s dtype, made on its device."""
        down, across = self._pixels(shifts)
        if (down == down[0]).all() and (across == across[0]).all():
            down, across = down[:1], across[:1]  # one table serves all
        rows, columns = (
            torch.from_numpy(table[at]).to(like.device, like.dtype)
            for table, at in ((self.rows, down), (self.columns, across))
        )
        return (rows @ torch.from_numpy(grids).to(like.device, like.dtype) @ columns.mT).unsqueeze(1)

    def _pixels(self, shifts: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shifts in pixels: a uniform share of a cell becomes a uniform whole number of its pixels."""
        pixels = np.floor(shifts * [len(self.rows), len(self.columns)]).astype(np.int64)
        return pixels[:, 0], pixels[:, 1]


@lru_cache(maxsize=8)
def grid_of(height: int, width: int, cells: int) -> Grid:
    """The grid for photos of one size, made once."""
    return Grid(_windows(height, cells), _windows(width, cells))


def _windows(size: int, cells: int) -> Floats:
    """(shifts, size, cells): the grid drawn up to one cell more than the photo, and cut out at every shift.

    As the authors do it, but for the outermost half cell: they mirror the grid there, `interpolate` repeats its edge.
    """
    cell = -(-size // cells)
    unit = torch.eye(cells, dtype=torch.float64)[None]
    drawn = F.interpolate(unit, size=(cells + 1) * cell, mode="linear", align_corners=False)[0]
    windows: Floats = drawn.unfold(1, size, 1)[:, :cell].permute(1, 2, 0).contiguous().numpy()
    return windows
