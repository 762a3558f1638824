"""The backbone: any timm network by name, its weights, and how much of it is frozen.

Unfrozen depth counts parameter tensors from the end, in the order in which the network registers them, as the paper does:
densenet161 has 482 without its classifier, and the authors froze the first 400, so `model.unfrozen` is 82.
Frozen parts get no gradient, and their BatchNorm, dropout and stochastic depth stay in evaluation mode.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.models import get_deprecated_models, register_model
from timm.models.vgg import VGG
from torch import Tensor, nn

from pawpularity.errors import UserError, nearest
from pawpularity.models.weights import Filter, find_weights, load_backbone

if TYPE_CHECKING:
    from pawpularity.config import Model


@register_model  # type: ignore[untyped-decorator]
def vgg_bn(
    pretrained: bool = False,
    cfg: tuple[int | str, ...] = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    head: bool = True,
    **arguments: Any,
) -> VGG:
    """timm's VGG with batch normalisation and free widths: `model.args: {cfg: [16, M, 32, M], head: false}`.

    timm's own VGG entries fix their layers. `head: false` leaves out the two 4096-wide layers, which hold 119 of
    VGG-19's 140 million parameters.
    """
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        arguments.pop(key, None)
    net = VGG(list(cfg), norm_layer=nn.BatchNorm2d, mlp_ratio=1.0 if head else 1e-3, **arguments)
    if not head:
        net.pre_logits = nn.Identity()
    return net


@dataclass(frozen=True)
class Backbone:
    """A timm network without its classifier, the statistics of its input and the width of its output."""

    net: nn.Module
    width: int
    """Pooled features per photo, from a dry run (timm's `num_features` is wrong for VGG)."""
    mean: tuple[float, ...]
    """Per channel, of pixels in 0..1, from the net's own `pretrained_cfg`."""
    std: tuple[float, ...]
    weights_file: Path | None
    """None = random weights."""
    size: int
    """Pixels a side of the photos it was built for."""


def build_backbone(
    model: "Model", *, size: int, seed: int, weights: str | None = None, classifier: bool = False
) -> Backbone:
    """Build `model.backbone` with `num_classes=0` (with `classifier`: with its own one) and load its weights.

    Random weights depend on `seed` alone, so all folds of a run share one frozen part. `weights` replaces
    `model.weights` (a saved run rebuilds its network with "none" before it loads its tensors).
    Raises UserError for an unknown name, arguments timm refuses, or a photo size the network cannot take.
    """
    name = model.backbone
    architecture, _, tag = name.partition(".")
    if current := get_deprecated_models().get(architecture):
        raise UserError(f"model.backbone={name}: is called {current} now")
    if not timm.is_model(architecture):
        known = nearest(architecture, timm.list_models())[:200]
        raise UserError(f"model.backbone={name}: timm {timm.__version__} has no such network{known}")
    if tag and name not in (published_tags := timm.list_pretrained(f"{architecture}.*")):
        raise UserError(f"model.backbone={name}: no such weights tag; timm has {', '.join(published_tags) or 'none'}")
    path = find_weights(name, model.weights if weights is None else weights)
    with _filter_of_timm() as filters:
        net = _create(name, model.args, seed, classifier, pretrained=path is not None)
    published: dict[str, Any] = getattr(net, "pretrained_cfg", None) or {}
    if path is not None:

        def names_with_classifier() -> set[str]:
            return set(_create(name, model.args, seed, classifier=True).state_dict())

        load_backbone(net, path, None if classifier else published.get("classifier"), names_with_classifier, *filters)
    net.eval()
    try:
        with torch.inference_mode():
            features = net(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, AttributeError, LookupError) as error:
        raise UserError(f"{name} cannot run with {_cause(model, size, published)}: {_first_line(error)}") from None
    if features.ndim != 2:
        raise UserError(f"model.backbone={name}: gives {tuple(features.shape)} instead of one row a photo")
    mean, std = published.get("mean") or (0.485, 0.456, 0.406), published.get("std") or (0.229, 0.224, 0.225)
    return Backbone(net, int(features.shape[1]), tuple(mean), tuple(std), path, size)


def _cause(model: "Model", size: int, published: dict[str, Any]) -> str:
    """What of the settings a network cannot run with, and the cure where it is built for one size."""
    fixed, own = published.get("fixed_input_size"), (published.get("input_size") or (3, 0, 0))[-1]
    built = model.args.get("img_size", own)
    if fixed and built != size:
        return f"photos.size={size} (its own is {own}); set model.args.img_size={size}, or photos.size={built}"
    return f"model.args={model.args}" if model.args else f"photos.size={size} (its own is {own})"


@contextmanager
def _filter_of_timm() -> Iterator[list[Filter]]:
    """Collects the filter that timm would pass a file's tensors through, for a network built inside with `pretrained`.

    It differs from network to network (FlexiViT resamples in its own way), and timm hands it to its loader alone.
    """
    found: list[Filter] = []

    def note(*_: Any, filter_fn: Filter | None = None, **__: Any) -> None:
        found.extend([filter_fn] if filter_fn is not None else [])

    builder = timm.models._builder
    loader, builder.load_pretrained = builder.load_pretrained, note
    try:
        yield found
    finally:
        builder.load_pretrained = loader


def _create(name: str, args: dict[str, Any], seed: int, classifier: bool, *, pretrained: bool = False) -> nn.Module:
    reserved = {
        "pretrained",
        "num_classes",
        "checkpoint_path",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "features_only",
    }
    if bad := reserved & args.keys():
        raise UserError(f"model.args: {sorted(bad)[0]} is set by the project; remove it")
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in args.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            classes = {} if classifier else {"num_classes": 0}
            net: nn.Module = timm.create_model(name, pretrained=pretrained, **classes, **arguments)
            return net
        except Exception as error:  # timm's networks raise many kinds
            raise UserError(f"model.args={args}: timm cannot build {name} with them ({_first_line(error)})") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def freeze(net: nn.Module, unfrozen: int | None) -> str:
    """Let only the last `unfrozen` parameter tensors of `net` be trained (None = all; clipped); returns a line for the user."""
    parameters = list(net.parameters())
    trained = len(parameters) if unfrozen is None else min(unfrozen, len(parameters))
    for position, parameter in enumerate(parameters):
        parameter.requires_grad_(position >= len(parameters) - trained)
    more = f" (model.unfrozen={unfrozen} was clipped to them)" if trained < (unfrozen or 0) else ""
    return f"{trained} of the backbone's {len(parameters)} parameter tensors are trained{more}"


def set_training(net: nn.Module, mode: bool, *, frozen_bn: bool = False) -> None:
    """`net.train(mode)` that leaves every frozen module in evaluation mode, and with `frozen_bn` every one with statistics.

    A module with parameters trains if any of them does; one with statistics only if all of its do (half a frozen
    BatchNorm must not move them). A module without parameters (dropout, stochastic depth) trains if a trained
    parameter was registered before it: until then there is nothing behind it to regularise.
    """
    net.train(mode)
    if not mode:
        return
    reached = False
    for module in net.modules():
        own = list(module.parameters())
        reached = reached or any(p.requires_grad for p in module.parameters(recurse=False))
        trained = [p.requires_grad for p in own] or [reached]
        statistics = any(buffer.is_floating_point() for buffer in _saved_buffers(module).values())
        module.training = (all(trained) and not frozen_bn) if statistics else any(trained)


def _saved_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The module's own buffers that `state_dict` holds."""
    hidden = module._non_persistent_buffers_set
    return {name: buffer for name, buffer in module.named_buffers(recurse=False) if name not in hidden}


def trained_names(net: nn.Module, *, frozen_bn: bool = False) -> set[str]:
    """Names in `net.state_dict()` that training can change: trained parameters, and the buffers of modules that train.

    A tensor of a shared module has several names (CoaT).
    """
    modes = {module: module.training for module in net.modules()}
    set_training(net, True, frozen_bn=frozen_bn)
    names = {name for name, parameter in net.named_parameters(remove_duplicate=False) if parameter.requires_grad}
    for prefix, module in net.named_modules(remove_duplicate=False):
        if module.training:
            names |= {f"{prefix}.{buffer}" if prefix else buffer for buffer in _saved_buffers(module)}
    # A checkpoint within an epoch calls this too, so the training modes are restored.
    for module, mode in modes.items():
        module.training = mode
    return names


def count_parameters(net: nn.Module, *, trained_only: bool = False) -> int:
    """Parameters (scalars, not tensors) of `net`."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad or not trained_only)


def as_tensor_stats(values: tuple[float, ...]) -> Tensor:
    """Channel statistics of pixels in 0..1 as a (1, 3, 1, 1) tensor for pixels in 0..255."""
    return torch.tensor(values, dtype=torch.float32).mul(255.0).view(1, -1, 1, 1)
