"""A timm backbone as a list of blocks, so that it can be split between any two: run(run(x, 0, n), n) equals the backbone.

The blocks are timm's own modules, called in timm's own order; nothing of timm is copied. On the same batch, in float32 and
evaluation mode, a split backbone equals timm's own output to the last bit. (Another batch size may pick other convolution
kernels and so differ in the last digits.)

- ResNet: stem, then every residual block, then pooling.
- VGG: every convolution with its BatchNorm and ReLU (the ReLU works in place, so it stays with what it overwrites) and
  every pooling; the two wide layers; pooling.
- DenseNet: stem, then every dense layer (what passes between them is the features concatenated so far), every transition,
  the last norm, pooling.
- EfficientNet, MobileNet: stem, then every block of every stage, the last convolution, pooling.
- ConvNeXt, Swin, ViT: stem, then every block (with a stage's reduction before its first), the norm, pooling.
- Any other network is one block: it runs whole.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.convnext import ConvNeXt
from timm.models.densenet import DenseNet
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vgg import VGG
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


@dataclass(frozen=True)
class Block:
    """One step of the backbone: a function of the features before it, and the modules whose parameters it uses."""

    name: str
    run: Callable[[Tensor], Tensor]
    modules: tuple[nn.Module, ...]
    own: tuple[nn.Parameter, ...] = ()
    """Parameters that belong to the network itself (a ViT's class token and position table)."""

    def parameters(self) -> list[nn.Parameter]:
        """The block's parameter tensors, in timm's order."""
        return [*self.own, *(parameter for module in self.modules for parameter in module.parameters())]

    def tensors(self) -> dict[str, Tensor]:
        """Everything the block's answer depends on: parameters and buffers."""
        found = {f"own.{number}": parameter.detach() for number, parameter in enumerate(self.own)}
        for number, module in enumerate(self.modules):
            found |= {f"{number}.{name}": tensor for name, tensor in module.state_dict().items()}
        return found


class Split:
    """The blocks of a backbone built with `num_classes=0`, from photo to pooled features."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.blocks: list[Block] = list(_blocks(net))
        # A split needs every parameter on one side of it, in the order in which unfrozen depth counts.
        in_order = [id(p) for block in self.blocks for p in block.parameters()]
        if in_order != [id(p) for p in net.parameters()]:
            self.blocks = [_whole(net)]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Split":
        # The blocks hold the network's modules; a copy (a moving average) must hold the copied ones.
        return Split(copy.deepcopy(self.net, memo))

    def __len__(self) -> int:
        return len(self.blocks)

    def __call__(self, x: Tensor) -> Tensor:
        """The pooled features of photos (B, 3, H, W): every block."""
        return self.run(x)

    def run(self, features: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """The features before block `stop` (None: the pooled ones), from those before block `start`.

        The features before block 0 are the normalised photo, (B, 3, H, W).
        """
        for block in self.blocks[start:stop]:
            features = block.run(features)
        return features

    def frozen_blocks(self, unfrozen: int | None) -> int:
        """Blocks that are wholly frozen when the last `unfrozen` parameter tensors are trained (None: all are)."""
        total = sum(len(block.parameters()) for block in self.blocks)
        frozen = 0 if unfrozen is None else max(0, total - unfrozen)
        seen = 0
        for position, block in enumerate(self.blocks):
            seen += len(block.parameters())
            if seen > frozen:
                return position
        # Nothing of the backbone is trained: its features are the pooled ones.
        return len(self.blocks)


def _whole(net: nn.Module) -> Block:
    return Block("its end", net, (net,))


def _sequence(name: str, modules: Iterable[nn.Module]) -> Block:
    parts = tuple(modules)

    def run(x: Tensor) -> Tensor:
        for part in parts:
            x = part(x)
        return x

    return Block(name, run, parts)


def _head(net: nn.Module, *modules: nn.Module) -> Block:
    return Block("its pooled features", net.forward_head, modules)  # type: ignore[arg-type]


def _blocks(net: nn.Module) -> Iterable[Block]:
    # Exact types: a subclass may do something else between the same modules.
    if type(net) is ResNet:
        return _resnet(net)
    if type(net) is VGG:
        return _vgg(net)
    if type(net) is DenseNet:
        return _densenet(net)
    if type(net) in (EfficientNet, MobileNetV3):
        return _efficientnet(net)
    if type(net) is ConvNeXt:
        return _staged(net, "stem", "stages", "norm_pre")
    if type(net) is SwinTransformer:
        return _staged(net, "patch_embed", "layers", "norm")
    if type(net) is VisionTransformer:
        return _vit(net)
    return [_whole(net)]


def _resnet(net: nn.Module) -> Iterable[Block]:
    yield _sequence("stem", [net.conv1, net.bn1, net.act1, net.maxpool])  # type: ignore[list-item]
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for name, block in getattr(net, stage).named_children():
            yield _sequence(f"{stage}.{name}", [block])
    yield _head(net)


def _vgg(net: nn.Module) -> Iterable[Block]:
    group: list[nn.Module] = []
    first = 0
    for position, module in enumerate(net.features):  # type: ignore[arg-type]
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and group:
            yield _sequence(f"features.{first}", group)
            group, first = [], position
        group.append(module)
    yield _sequence(f"features.{first}", group)
    yield _head(net, net.pre_logits)  # type: ignore[arg-type]


def _densenet(net: nn.Module) -> Iterable[Block]:
    stem: list[nn.Module] = []
    for name, module in net.features.named_children():  # type: ignore[union-attr]
        if name.startswith("denseblock"):
            if stem:
                yield _sequence("stem", stem)
                stem = []
            for layer_name, layer in module.named_children():
                yield Block(f"{name}.{layer_name}", _dense(layer), (layer,))
        elif name.startswith(("transition", "norm5")):
            yield _sequence(name, [module])
        else:
            stem.append(module)
    yield _head(net)


def _dense(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda features: torch.cat([features, layer(features)], 1)


def _efficientnet(net: nn.Module) -> Iterable[Block]:
    yield _sequence("stem", [net.conv_stem, net.bn1])  # type: ignore[list-item]
    for stage_name, stage in net.blocks.named_children():  # type: ignore[union-attr]
        for name, block in stage.named_children():
            yield _sequence(f"blocks.{stage_name}.{name}", [block])
    if type(net) is MobileNetV3:
        # Its last convolution comes after pooling and belongs to the head.
        yield _head(net, net.conv_head, *([net.norm_head] if hasattr(net, "norm_head") else []))  # type: ignore[arg-type]
        return
    yield _sequence("conv_head", [net.conv_head, net.bn2])  # type: ignore[list-item]
    yield _head(net)


def _staged(net: nn.Module, stem: str, stages: str, norm: str) -> Iterable[Block]:
    yield _sequence(stem, [getattr(net, stem)])
    for number, stage in enumerate(getattr(net, stages)):
        yield _sequence(f"{stages}.{number}.downsample", [stage.downsample])
        for name, block in stage.blocks.named_children():
            yield _sequence(f"{stages}.{number}.{name}", [block])
    yield _sequence(norm, [getattr(net, norm)])
    yield _head(net, net.head)  # type: ignore[arg-type]


def _vit(net: nn.Module) -> Iterable[Block]:
    vit: Any = net

    def embed(x: Tensor) -> Tensor:
        embedded: Tensor = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(x))))
        return embedded

    own = tuple(net.parameters(recurse=False))
    yield Block("embed", embed, (vit.patch_embed, vit.pos_drop, vit.patch_drop, vit.norm_pre), own)
    for name, block in vit.blocks.named_children():
        yield _sequence(f"blocks.{name}", [block])
    yield _sequence("norm", [vit.norm])
    # An attention pool has parameters of its own; the check above then keeps the network whole.
    yield _head(net, vit.fc_norm, vit.head)
