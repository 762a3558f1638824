"""What a step computes around the network: mixing of a batch, its loss by name, and a compiled tail."""

import os
import shutil
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.errors import UserError
from pawpularity.models.network import Network
from pawpularity.schema import Train
from pawpularity.training.losses import LOSSES

Batch = tuple[Tensor, Tensor, Tensor]
"""(photos or states, metadata, scores), a row an item"""


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.compile(function)`. Raises UserError where there is no C++ compiler for it to use."""
    named = os.environ.get("CXX", "").split()[:1]
    if not any(shutil.which(name) for name in (*named, "g++", "clang++", "c++")):
        raise UserError(
            "train.compile=true needs a C++ compiler (g++), and none is here; install one, or leave it false"
        )
    faster: Callable[..., Tensor] = torch.compile(function)
    return faster


def loss_of(network: Network, raw: Tensor, target: Tensor, train: Train) -> Tensor:
    """Mean loss `train.loss` of raw numbers (B,) against score points (B,)."""
    raw = raw.float()
    return LOSSES[train.loss](raw, network.points(raw), target, train)


def partners(beta: float, items: int, random: np.random.Generator) -> tuple[float, NDArray[np.int64]]:
    """What mixup (Zhang et al. 2018) draws for a batch: every item's share in its mix, and which item the rest comes from."""
    share = float(random.beta(beta, beta))
    return share, random.permutation(items)


def mixed(mine: Batch, other: Batch, share: float) -> Batch:
    """Mixup: photos, metadata and scores of a batch mixed with those of other items.

    Of states at the cut instead of photos it is manifold mixup (Verma et al. 2019) at that one layer.
    """
    (x, columns, target), (other_x, other_columns, other_target) = mine, other
    result = x.float().mul(share).add_(other_x.float(), alpha=1 - share)
    result = result.to(x.dtype) if x.is_floating_point() else result
    return result, share * columns + (1 - share) * other_columns, share * target + (1 - share) * other_target
