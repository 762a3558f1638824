"""LoRA (Hu et al. 2022): train a product of two thin matrices that is added to a layer's weight, instead of the weight.

The layer's weight is frozen as it was, so a fold's file holds little more than the thin matrices.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """weight + up @ down. `up` is zero at first, so training starts from the layer as it was."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(rank, rows, columns)
        self.up = nn.Parameter(torch.zeros(rows, rank))
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight, of the same shape."""
        return weight + (self.up @ self.down).view_as(weight)


def add_lora(modules: Iterable[nn.Module], rank: int) -> int:
    """Give the linear and 1x1 layers of `modules` a trained change of `rank`, freeze the rest; returns how many layers."""
    layers: dict[int, nn.Module] = {}
    for module in modules:
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        layers |= {id(layer): layer for layer in module.modules() if _fits(layer)}
    for layer in layers.values():
        weight = layer.get_parameter("weight")
        parametrize.register_parametrization(layer, "weight", LowRank(weight, rank))
    return len(layers)


def _fits(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and all(size == 1 for size in layer.kernel_size)
    return isinstance(layer, nn.Linear)
