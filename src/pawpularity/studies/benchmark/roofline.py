"""The floor of a computation: for every operator it runs, what the machine would need at least.

The larger of its FLOPs over the measured matrix rate (of its dtype) and the bytes of its tensors over the measured bandwidth
(of copies of about that size), summed (Williams et al. 2009, per operator). It is the floor of this list of operators: fusing
several into one would lower it, and tensors that stay in a core's cache can beat a copy.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pawpularity.studies.benchmark.machine import bandwidth, bandwidths, matrix_rate

_VIEWS = {"view", "_unsafe_view", "t", "transpose", "permute", "detach", "slice", "select", "expand", "alias", "as_strided",
          "unsqueeze", "squeeze", "split", "split_with_sizes", "reshape", "narrow"}  # fmt: skip


class Roofline(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside the block, adds up the floor of every operator. `seconds` in all, `by_name` per operator."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.by_name: dict[str, float] = defaultdict(float)
        self.flops = 0.0
        self.bytes = 0.0

    @property
    def seconds(self) -> float:
        """The floor."""
        return sum(self.by_name.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator and count it."""
        out = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        if name in _VIEWS:
            return out
        tensors = [leaf for leaf in tree_leaves((args, kwargs or {}, out)) if isinstance(leaf, Tensor)]
        moved = float(sum(map(_bytes, tensors)))
        counter = flop_registry.get(func._overloadpacket)
        flops = float(counter(*args, **(kwargs or {}), out_val=out)) if counter is not None else 0.0
        floor = moved / bandwidth(self.device, moved)
        if flops:
            dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)
            floor = max(floor, flops / matrix_rate(self.device, dtype))
        self.by_name[name] += floor
        self.flops += flops
        self.bytes += moved
        return out


def _bytes(tensor: Tensor) -> int:
    """Memory behind a tensor; an expanded one is read over and over from a cache."""
    real = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        real *= size if stride else 1
    return real * tensor.element_size()


def floor_of(work: Callable[[], None], device: torch.device) -> Roofline:
    """The floor of one call of `work`, forward and backward."""
    matrix_rate(device, torch.float32)
    matrix_rate(device, torch.bfloat16)
    bandwidths(device)  # measured outside: they run operators of their own
    count = Roofline(device)
    with count:
        work()
    return count
