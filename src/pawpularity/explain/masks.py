"""The designs of RISE's masks: which cells of a grid each mask shows. A block of masks is a function of (seed, number) alone, so
whoever uses the same seed shares masks.

- `orthogonal`: a block is a Hadamard array with its columns permuted and their signs drawn, then the same array with every cell
  flipped (fold-over), all behind one shift: 128 masks for 8 x 8 cells. Every mask alone is uniform on {0, 1}^64, and over the
  block all cells are uncorrelated, so that no cell's effect blurs another's. Shifts go through the four quarters of a cell in a
  random order before any quarter comes again.
- `independent`: every cell and every mask's shift on its own, as published (Petsiuk, Das and Saenko, BMVC 2018); a block has as
  many masks.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

Floats = NDArray[np.float64]

DESIGNS = ("orthogonal", "independent")
SHOWN = 0.5
"""Probability that a cell is shown, and the mean of every mask at every pixel. Fold-over needs one half."""
QUARTERS = 4
"""Strata of the orthogonal design's shifts."""


@dataclass(frozen=True)
class Block:
    """Some masks, whatever the photo's size."""

    grids: Floats  # (n, cells, cells) of 0 (hidden) and 1 (shown)
    shifts: Floats  # (n, 2) in [0, 1): down and to the right, in cells
    stratum: int  # which quarter of a cell the shift lies in; 0 for independent masks, whose shifts lie anywhere


@dataclass(frozen=True)
class MaskDesign:
    """Every block of masks of a seed."""

    cells: int = 8
    name: str = "orthogonal"
    seed: int = 0

    @property
    def block_size(self) -> int:
        """Masks of a block: twice the smallest power of two that has a column for every cell."""
        return 2 * (1 << (self.cells * self.cells - 1).bit_length())

    @property
    def strata(self) -> int:
        """How many strata the blocks' shifts are drawn from in turn."""
        return QUARTERS if self.name == "orthogonal" else 1

    def blocks_for(self, masks: int) -> int:
        """Whole blocks that hold `masks` masks or more."""
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
        # One generator a round of four blocks, so that they lie in four quarters whoever draws which.
        round_, place = divmod(number, QUARTERS)
        stratum = int(np.random.default_rng([self.seed, len(DESIGNS), round_]).permutation(QUARTERS)[place])
        shift = (np.array(divmod(stratum, 2)) + generator.random(2)) / 2
        return Block(grids.reshape(size, self.cells, self.cells), np.broadcast_to(shift, (size, 2)), stratum)


@lru_cache(maxsize=4)
def _hadamard(order: int) -> Floats:
    array: Floats = hadamard(order).astype(np.float64)
    return array
