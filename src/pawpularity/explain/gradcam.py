"""Grad-CAM (Selvaraju et al. 2017) of a score, through the `grad-cam` package, signed and in score points.

A cell of the map says what its features add to the score, to first order: the sum over channels of activation times the channel's
mean gradient. For a network with mean pooling and a linear head the cells sum exactly to the score without its bias. Nothing is
clipped. A head may treat places differently (VGG's fully connected layers); then the mean gradient holds for no single place. So
the cells are compared with activation x gradient. If the two maps differ, the cells are not called score points.

The layer is what timm's `forward_features` returns: the last features that have places, through which all of the photo reaches
the score. A vision transformer that pools its class token uses no other token after the last attention. There the layer is the
normalised input of the last block.

Precautions against what the package does silently: the score is in float32 (the package fails on bfloat16); the input requires a
gradient (a frozen backbone gives none); activations are copied (on a CPU a later in-place step overwrites them); the network is
left unchanged; and there is no `with` block (it swallows an IndexError).
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pawpularity.errors import UserError, nearest
from pawpularity.explain.gradient import at_rest, input_with_gradient, why_flat
from pawpularity.explain.saliency import Saliency
from pawpularity.explain.scored import PhotoScore
from pawpularity.models.network import Network

AUTO = "auto"
CURE = "name another layer (explain.layer=NAME), or use RISE"
_APART = 0.1  # largest difference (RMS, as a share of activation x gradient) at which the cells count as score points


class _SplitAtFeatures(nn.Module):
    """The network, with an identity layer at its last features for the package to hook.

    The network is not a submodule: the package would clear the `.grad` of its parameters.
    """

    def __init__(self, score: PhotoScore, device: torch.device) -> None:
        super().__init__()
        self.parts = (score.network, score.columns(1, device))  # a tuple, so that no submodule is registered
        self.features = nn.Identity()
        self.device = nn.Parameter(torch.zeros((), device=device))  # the package reads the device from a parameter

    def forward(self, x: Tensor) -> Tensor:
        network, metadata = self.parts
        net: Any = network.backbone
        pooled = net.forward_head(self.features(net.forward_features(network.laid_out(x))))
        return network.points(network.regress(pooled, metadata))[:, None]


def gradcam(score: PhotoScore, x: Tensor, layer_name: str = AUTO) -> Saliency:
    """The map of one photo, `x` (3, H, W) from `PhotoScore.input_of`, upsampled (bilinear) from `arrays["cells"]`.

    `layer_name`: a module of the backbone, in place of its last features. Raises UserError for features without places, and for
    features that the score does not depend on.
    """
    # Imported here: it imports matplotlib and scikit-learn.
    from pytorch_grad_cam import GradCAM  # type: ignore[import-untyped]
    from pytorch_grad_cam.utils.model_targets import RawScoresOutputTarget  # type: ignore[import-untyped]

    network = score.network
    net: Any = network.backbone
    if not hasattr(net, "forward_head"):
        raise UserError(f"Grad-CAM: {network.model.backbone} does not say where its features end; use RISE")
    split, target = _SplitAtFeatures(score, x.device), RawScoresOutputTarget()
    by_token = (
        layer_name == AUTO
        and getattr(net, "global_pool", None) == "token"
        and hasattr(getattr(net, "blocks", [None])[-1], "norm1")
    )
    layer = (
        net.blocks[-1].norm1 if by_token else split.features if layer_name == AUTO else module_of(network, layer_name)
    )
    with at_rest(network):
        inputs = input_with_gradient(x[None])
        package = GradCAM(split, [layer], reshape_transform=lambda output: planes(network, output))
        held = package.activations_and_grads
        try:
            package(input_tensor=inputs, targets=[target])
            # In float64: the terms cancel.
            activation, slope = held.activations[0].double().numpy(), held.gradients[0].double().numpy()
            cells = package.get_cam_image(inputs, layer, [target], activation, slope)[0].astype(np.float32)
        except (AttributeError, IndexError):  # the package found no features, or no gradient of theirs
            if layer_name == AUTO:
                raise
            raise UserError(
                f"explain.layer={layer_name}: is not run on the way to the score; name a module inside it"
            ) from None
        finally:
            held.release()
            package.outputs = None  # it holds the graph
        if not np.isfinite(cells).all():
            raise UserError("Grad-CAM: the map is not a number (the training diverged); train with a lower train.lr")
        if not slope.any() and inputs.grad is not None and inputs.grad.any():
            raise UserError(
                f"Grad-CAM: the score of {network.model.backbone} does not go through the places of this layer; {CURE}"
            )
        empty = "" if cells.any() else why_flat(score, x)
    first_order = (activation * slope)[0].sum(axis=0)
    size = float(np.sqrt(np.mean(first_order**2)))
    apart = float(np.sqrt(np.mean((cells - first_order) ** 2))) / size if size else 0.0
    tall, wide = cells.shape
    unit = f"score points that a cell of {tall} x {wide} adds, to first order"
    if apart > _APART:
        unit = f"activation x the channel's mean gradient, {tall} x {wide} cells; no score points"
    warnings = {
        f"the map is zero everywhere: {empty}": bool(empty),
        "the class token bypasses this layer, so the map shows only a part of the score": by_token,
        f"the head treats the places of this layer differently: the map differs by {100 * apart:.0f} % from what each cell adds "
        "to the score": apart > _APART,
    }  # fmt: skip
    upsampled = nn.functional.interpolate(torch.from_numpy(cells)[None, None], size=x.shape[-2:], mode="bilinear")
    return Saliency(
        "gradcam", upsampled[0, 0].numpy(), unit, facts={"cells": [tall, wide], "apart": apart}, arrays={"cells": cells},
        warnings=tuple(line for line, holds in warnings.items() if holds),
    )  # fmt: skip


def module_of(network: Network, name: str) -> nn.Module:
    """The module of the backbone that `explain.layer` names. Raises UserError where there is none that can be mapped."""
    names: dict[str, nn.Module] = dict(network.backbone.named_modules())
    if name not in names or not name:
        outer = [known for known in names if known.count(".") < 2]
        raise UserError(f"explain.layer={name}: {network.model.backbone} has no such layer{nearest(name, outer)}"[:600])
    if hasattr(network.backbone, "reroll"):
        raise UserError(
            f"explain.layer={name}: {network.model.backbone} shuffles the places of its inner layers; use auto or RISE"
        )
    return names[name]


def planes(network: Network, output: Any) -> Tensor:
    """A copy of features as (B, C, h, w). They come as such, as (B, h, w, C) (Swin), or as tokens (B, prefix + h w, C) (ViT).

    Raises UserError for features without places, and for other layouts.
    """
    shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
    found = output
    if len(shape) == 3 and shape[0] == shape[1] != shape[2]:  # photos are square
        found = output.permute(0, 3, 1, 2)
    elif len(shape) == 2:
        known = int(getattr(network.backbone, "num_prefix_tokens", 0))
        for prefix in (known, 0, 1, 2):
            side = math.isqrt(max(0, shape[0] - prefix))
            if side and side * side + prefix == shape[0]:
                found = output[:, prefix:].mT.reshape(len(output), -1, side, side)
                break
    if not shape or found.ndim != 4 or not 1 < found.shape[2] == found.shape[3]:
        raise UserError(f"Grad-CAM: the features of {network.model.backbone} have no places (shape {shape}); {CURE}")
    copied: Tensor = found.clone()
    return copied
