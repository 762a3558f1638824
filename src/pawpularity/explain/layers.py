"""Which layer Grad-CAM reads, found by a rule instead of a list of names, and checked.

The rule: the last module, of those that run once when the photo is scored, whose output is what timm's `forward_features`
returns. That is the last place where the features still have places, and everything the score knows of the photo goes through
it: `layer4.2` of a ResNet-152, `features.52` of a VGG-19-BN, `features.norm5` of a DenseNet, `bn2` of an EfficientNet. The
class token of a vision transformer that pools by it takes nothing from the others after the last attention, so there it is
the normalised input of the last block.

Layouts: (B, C, h, w), (B, h, w, C) as in Swin, and tokens (B, prefix + h w, C) as in ViT and BEiT. Others are refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    name: str
    """Within the backbone, as timm names it."""
    module: nn.Module
    planes: Planes
    """From the module's output to a copy of it as (B, channels, h, w)."""
    channels: int
    cells: tuple[int, int]
    """(h, w)"""
    last: bool
    """Whether its output is what `forward_features` returns, so that nothing goes past it."""


@dataclass(frozen=True)
class _Seen:
    """What one module answered while the photo was scored."""

    calls: int
    shape: tuple[int, ...]
    is_last: bool


def find_layer(score: PhotoScore, x: Tensor, name: str | None = None) -> Layer:
    """The layer by the rule above, or the one called `name`, for photos like `x` (3, H, W).

    Raises UserError where there is no such layer, it does not run or runs several times, its output has no places (1 x 1,
    or a layout that is not known).
    """
    net: Any = score.network.backbone
    modules = {key: module for key, module in net.named_modules() if key}
    if name is not None and name not in modules:
        raise UserError(f"Grad-CAM: {_title(score)} has no layer {name}{nearest(name, modules)}"[:400])
    features = last_features(score, x)
    inside = set() if features is None else _run_and_see(modules, lambda: last_features(score, x), None).keys()
    seen = _run_and_see(modules, lambda: score.exact(x[None]), features)
    if name is not None:
        return _named(score, x, name, seen)
    fallback = f"; name one that has places, such as {_latest(score, x, seen)}, or use RISE"
    candidates = [key for key, one in seen.items() if one.calls == 1 and one.is_last and key in inside]
    if not candidates:
        raise UserError(f"Grad-CAM: no layer of {_title(score)} gives what its forward_features returns{fallback}")
    chosen = candidates[-1]
    planes = planes_of(net, seen[chosen].shape, x)
    tokens = len(seen[chosen].shape) == 3
    if tokens and getattr(net, "global_pool", None) == "token" and not isinstance(planes, str):
        return _named(score, x, f"blocks.{len(net.blocks) - 1}.norm1", seen)
    if isinstance(planes, str):
        raise UserError(f"Grad-CAM: the last features of {_title(score)} {planes}{fallback}")
    return _layer(chosen, modules[chosen], planes, seen[chosen], last=True)


def _named(score: PhotoScore, x: Tensor, name: str, seen: dict[str, _Seen]) -> Layer:
    title = _title(score)
    module = dict(score.network.backbone.named_modules()).get(name)
    one = seen.get(name)
    if module is None or one is None:
        raise UserError(f"Grad-CAM: layer {name} of {title} is not run as one module when a photo is scored; name one that is, "
                        f"such as {_latest(score, x, seen)}")  # fmt: skip
    if one.calls > 1:
        raise UserError(f"Grad-CAM: layer {name} of {title} is run {one.calls} times for a photo, so which one is not clear; "
                        f"name another, such as {_latest(score, x, seen)}")  # fmt: skip
    planes = planes_of(score.network.backbone, one.shape, x)
    if isinstance(planes, str):
        raise UserError(f"Grad-CAM: layer {name} of {title} {planes}; name one that has places, such as "
                        f"{_latest(score, x, seen)}")  # fmt: skip
    return _layer(name, module, planes, one, last=one.is_last)


def _layer(name: str, module: nn.Module, planes: Planes, seen: _Seen, *, last: bool) -> Layer:
    _, channels, height, width = planes(torch.zeros(seen.shape, device="meta")).shape
    return Layer(name, module, planes, channels, (height, width), last)


def planes_of(net: nn.Module, shape: tuple[int, ...], x: Tensor) -> Planes | str:
    """How an output of `shape`, of one photo `x` (3, H, W), becomes planes (1, C, h, w); or why it cannot, in words."""
    place: Any = net
    if len(shape) == 4 and shape[0] == 1:
        tall, wide = x.shape[-2:]
        plain = shape[2] * wide == shape[3] * tall
        turned = shape[1] * wide == shape[2] * tall
        if plain and turned:  # as many channels as rows: the net itself must say
            plain = getattr(place, "output_fmt", "NCHW") != "NHWC"
        if not (plain or turned):
            return f"are of shape {shape}, whose places are not known"
        if min(shape[2:] if plain else shape[1:3]) < 2:
            return f"have no places at {tall} x {wide} px (shape {shape})"
        # A copy: on the CPU the package keeps the output itself, which a later step in place would overwrite.
        return (lambda output: output.clone()) if plain else (lambda output: output.permute(0, 3, 1, 2).clone())
    grid = getattr(getattr(place, "patch_embed", None), "grid_size", None)
    if len(shape) == 3 and shape[0] == 1 and grid is not None:
        prefix = shape[1] - grid[0] * grid[1]
        if min(grid) > 1 and prefix == getattr(place, "num_prefix_tokens", 0):
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


def score_of_features(score: PhotoScore, features: Tensor) -> Tensor:
    """Unclipped points, (1,), of what `forward_features` returned: the rest of the network, without its hooks."""
    network, net = score.network, score.network.backbone
    columns = None
    if score.metadata is not None:
        columns = torch.tensor(score.metadata, device=features.device)[None]
    return network.points(network.regress(net.forward_head(features), columns))  # type: ignore[operator]


def bypass(score: PhotoScore, x: Tensor, layer: Layer) -> float:
    """The share of the score's gradient that reaches the photo past `layer`: 0 where everything goes through it.

    Raises UserError where nothing goes through it. To be asked within `at_rest`.
    """
    kept: list[Tensor] = []
    handle = layer.module.register_forward_hook(lambda module, inputs, output: kept.append(output))
    inputs = asking_input(x[None])
    try:
        points = score.exact(inputs)
    finally:
        handle.remove()
    whole, through = torch.autograd.grad(points.sum(), [inputs, kept[0]], allow_unused=True)
    if not whole.any():
        return 0.0
    if through is None or not layer.planes(through).any():
        raise UserError(f"Grad-CAM: no gradient of the score reaches the places of layer {layer.name} of {_title(score)}, so its "
                        "map would be empty; use RISE")  # fmt: skip
    handle = layer.module.register_forward_hook(lambda module, inputs, output: output.detach())
    try:
        points = score.exact(inputs)
    finally:
        handle.remove()
    if not points.requires_grad:
        return 0.0
    (past,) = torch.autograd.grad(points.sum(), inputs)
    return float(past.norm() / whole.norm())


@contextmanager
def _watched(modules: dict[str, nn.Module], look: Callable[[str, Tensor], None]) -> Iterator[None]:
    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, inputs, output: look(name, output) if isinstance(output, Tensor) else None

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _run_and_see(modules: dict[str, nn.Module], run: Callable[[], object], features: Tensor | None) -> dict[str, _Seen]:
    """What every module that runs answers, in the order in which they end."""
    seen: dict[str, _Seen] = {}

    def look(name: str, output: Tensor) -> None:
        before = seen.pop(name, None)
        # Compared at once: the next module may work in place.
        same = (
            features is not None
            and output.shape == features.shape
            and torch.allclose(output, features, rtol=1e-4, atol=1e-5, equal_nan=True)
        )
        seen[name] = _Seen(1 + (before.calls if before else 0), tuple(output.shape), same)

    with _watched(modules, look), torch.no_grad():
        run()
    return seen


def _latest(score: PhotoScore, x: Tensor, seen: dict[str, _Seen]) -> str:
    """The last layer that would do, for messages."""
    net = score.network.backbone
    fit = [name for name, one in seen.items() if one.calls == 1 and not isinstance(planes_of(net, one.shape, x), str)]
    return fit[-1] if fit else "none at this photo size"


def _title(score: PhotoScore) -> str:
    return score.network.model.backbone
