"""Which layer Grad-CAM reads, found by a rule instead of a list of names, and checked.

The rule: the last module, of those that run once when the photo is scored, whose output is what timm's `forward_features`
returns. It is the last place where features still have places, and everything the score knows of the photo goes through it:
`layer4.2` of a ResNet-152, `features.52` of a VGG-19-BN, `features.norm5` of a DenseNet, `bn2` of an EfficientNet. A vision
transformer that pools its class token takes nothing from the other tokens after the last attention, so there it is the
normalised input of the last block.

Layouts: (B, C, h, w), (B, h, w, C) as in Swin, and tokens (B, prefix + h w, C) as in ViT and BEiT. Others are refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pawpularity.errors import UserError, nearest
from pawpularity.explain.gradient import asking_input
from pawpularity.explain.scored import PhotoScore

Planes = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """Where Grad-CAM is taken."""

    name: str  # within the backbone, as timm names it
    module: nn.Module
    planes: Planes  # from the module's output to a copy of it as (B, channels, h, w)
    channels: int
    cells: tuple[int, int]  # (h, w)
    last: bool  # whether its output is what `forward_features` returns, so that nothing goes past it


@dataclass(frozen=True)
class _Seen:
    """What one module returned while the photo was scored."""

    calls: int
    shape: tuple[int, ...]
    is_last: bool


def find_layer(score: PhotoScore, x: Tensor, name: str | None = None) -> Layer:
    """The layer by the rule above, or the one called `name`, for photos like `x` (3, H, W).

    Raises UserError where there is none, it does not run exactly once, or its output has no places (1 x 1, or a layout that is not
    known).
    """
    net: Any = score.network.backbone
    title = score.network.model.backbone
    modules = {key: module for key, module in net.named_modules() if key}
    if name is not None and name not in modules:
        raise UserError(f"Grad-CAM: {title} has no layer {name}{nearest(name, modules)}"[:400])
    features = last_features(score, x)
    seen = _outputs(modules, lambda: score.exact(x[None]), features)
    usable = [key for key, one in seen.items() if one.calls == 1 and not isinstance(planes_of(net, one.shape, x), str)]
    instead = f"name one that has, such as {usable[-1]}, or use RISE" if usable else "use RISE"
    if name is None:
        inside = {} if features is None else _outputs(modules, lambda: last_features(score, x), None)
        last = [key for key, one in seen.items() if one.calls == 1 and one.is_last and key in inside]
        if not last:
            raise UserError(f"Grad-CAM: no layer of {title} returns what its forward_features does; {instead}")
        name = last[-1]
        if name in usable and len(seen[name].shape) == 3 and getattr(net, "global_pool", None) == "token":
            name = f"blocks.{len(net.blocks) - 1}.norm1"
    one = seen.get(name)
    if one is None or one.calls > 1:
        raise UserError(f"Grad-CAM: layer {name} of {title} does not run exactly once as a module; {instead}")
    planes = planes_of(net, one.shape, x)
    if isinstance(planes, str):
        raise UserError(f"Grad-CAM: the features of layer {name} of {title} {planes}; {instead}")
    _, channels, height, width = planes(torch.zeros(one.shape, device="meta")).shape
    return Layer(name, modules[name], planes, channels, (height, width), one.is_last)


def planes_of(net: nn.Module, shape: tuple[int, ...], x: Tensor) -> Planes | str:
    """How an output of `shape`, of one photo `x` (3, H, W), becomes planes (1, C, h, w); or why it cannot, in words."""
    tall, wide = x.shape[-2:]
    if len(shape) == 4 and shape[0] == 1:
        plain = shape[2] * wide == shape[3] * tall
        turned = shape[1] * wide == shape[2] * tall
        if plain and turned:  # as many channels as rows: the net itself must say
            plain = getattr(net, "output_fmt", "NCHW") != "NHWC"
        if plain or turned:
            if min(shape[2:] if plain else shape[1:3]) < 2:
                return f"have no places at {tall} x {wide} px (shape {shape})"
            # A copy: on the CPU the package keeps the output itself, which a later step in place would overwrite.
            return (lambda output: output.clone()) if plain else (lambda output: output.permute(0, 3, 1, 2).clone())
    grid: Any = getattr(getattr(net, "patch_embed", None), "grid_size", None)
    if len(shape) == 3 and shape[0] == 1 and grid is not None:
        prefix = shape[1] - grid[0] * grid[1]
        if min(grid) > 1 and prefix == getattr(net, "num_prefix_tokens", 0):
            return lambda output: (
                output[:, prefix:].reshape(len(output), *grid, output.shape[2]).permute(0, 3, 1, 2).clone()
            )
    return f"are of shape {shape}, whose places are not known"


def last_features(score: PhotoScore, x: Tensor) -> Tensor | None:
    """What timm's `forward_features` returns for a photo `x` (3, H, W), batch of one; None where a net has none."""
    network = score.network
    forward: Callable[[Tensor], Any] | None = getattr(network.backbone, "forward_features", None)
    if forward is None:
        return None
    with torch.no_grad():
        features = forward(network.laid_out(x[None].float()))
    return features if isinstance(features, Tensor) else None


def bypass(score: PhotoScore, x: Tensor, layer: Layer) -> float:
    """The share of the score's gradient that reaches the photo past `layer`: 0 where everything goes through it.

    Raises UserError where nothing goes through it. To be called within `at_rest`.
    """
    kept: list[Tensor] = []

    def points(hook: Callable[..., Any]) -> Tensor:
        handle = layer.module.register_forward_hook(hook)
        try:
            return score.exact(inputs)
        finally:
            handle.remove()

    inputs = asking_input(x[None])
    whole, through = torch.autograd.grad(
        points(lambda module, given, output: kept.append(output)).sum(), [inputs, kept[0]], allow_unused=True
    )
    if not whole.any():
        return 0.0
    if through is None or not layer.planes(through).any():
        raise UserError(f"Grad-CAM: no gradient of the score reaches the places of layer {layer.name}; use RISE")
    rest = points(lambda module, given, output: output.detach())
    if not rest.requires_grad:
        return 0.0
    (past,) = torch.autograd.grad(rest.sum(), inputs)
    return float(past.norm() / whole.norm())


def _outputs(modules: Mapping[str, nn.Module], run: Callable[[], object], features: Tensor | None) -> dict[str, _Seen]:
    """What every module that runs returns, in the order in which they end."""
    seen: dict[str, _Seen] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, given: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                before = seen.pop(name, None)
                # Compared at once: the next module may work in place.
                same = (
                    features is not None
                    and output.shape == features.shape
                    and torch.allclose(output, features, rtol=1e-4, atol=1e-5, equal_nan=True)
                )
                seen[name] = _Seen(1 + (before.calls if before else 0), tuple(output.shape), same)

        return look

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return seen
