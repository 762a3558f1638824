"""Grad-CAM (Selvaraju et al. 2017) of a score, through the `grad-cam` package, signed and in score points.

A cell of the map is what its features add to the score, to first order: the sum over channels of activation times the channel's
mean gradient. For a network that pools the mean and goes on linearly the cells sum to the score without its bias, exactly.
Where the head treats places differently (VGG's fully connected layers), the mean gradient is no place's own: the cells are
compared with activation x gradient, and if they are another map, they are not called score points. Nothing is clipped.

It is taken at what timm's `forward_features` returns, the last place where features still have places: everything the score
knows of the photo goes through it. A vision transformer that pools its class token takes nothing from the other tokens after the
last attention, so there it is taken at the normalised input of the last block.

Guards against what the package does silently: a score in float32 (it fails on bfloat16), an input that asks for a gradient (a
frozen backbone gives none), copies of the activations (on a CPU a later step in place overwrites what it keeps), a network that
is left as it was, and no `with` block (which swallows an IndexError).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pawpularity.errors import UserError
from pawpularity.explain.gradient import asking_input, at_rest, why_flat
from pawpularity.explain.saliency import Saliency
from pawpularity.explain.scored import PhotoScore
from pawpularity.models.network import Network

_APART = 0.1  # root mean square, of the first-order cells': from which on cells are no first-order points


class _Halves(nn.Module):
    """The network cut at its last features, for the package: it would clear the `.grad` of any parameter that it reaches."""

    def __init__(self, score: PhotoScore, device: torch.device) -> None:
        super().__init__()
        self.parts = (score.network, score.columns(1, device))  # in a tuple, so not registered as a part
        self.features = nn.Identity()
        self.device = nn.Parameter(torch.zeros((), device=device))  # the package asks a parameter where it is

    def forward(self, x: Tensor) -> Tensor:
        network, metadata = self.parts
        net: Any = network.backbone
        pooled = net.forward_head(self.features(net.forward_features(network.laid_out(x))))
        return network.points(network.regress(pooled, metadata))[:, None]


def gradcam(score: PhotoScore, x: Tensor) -> Saliency:
    """The map of one photo, `x` (3, H, W) from `PhotoScore.input_of`, upsampled (bilinear) from `arrays["cells"]`.

    Raises UserError for a network whose last features have no places.
    """
    # Imported here: it brings matplotlib and scikit-learn along.
    from pytorch_grad_cam import GradCAM  # type: ignore[import-untyped]
    from pytorch_grad_cam.utils.model_targets import RawScoresOutputTarget  # type: ignore[import-untyped]

    network = score.network
    net: Any = network.backbone
    if not hasattr(net, "forward_head"):
        raise UserError(f"Grad-CAM: {network.model.backbone} does not say where its features end; use RISE")
    halves, target = _Halves(score, x.device), RawScoresOutputTarget()
    by_token = getattr(net, "global_pool", None) == "token" and hasattr(net, "blocks")
    layer = net.blocks[-1].norm1 if by_token else halves.features
    with at_rest(network):
        inputs = asking_input(x[None])
        package = GradCAM(halves, [layer], reshape_transform=lambda output: planes(network, output))
        try:
            package(input_tensor=inputs, targets=[target])
            held = package.activations_and_grads
            # In float64: the terms cancel.
            activation, slope = held.activations[0].double().numpy(), held.gradients[0].double().numpy()
            cells = package.get_cam_image(inputs, layer, [target], activation, slope)[0].astype(np.float32)
        finally:
            package.activations_and_grads.release()
            package.outputs = None  # holds the graph
        if not np.isfinite(cells).all():
            raise UserError("Grad-CAM: the map is not a number (the training diverged); train with a lower train.lr")
        empty = "" if cells.any() else why_flat(score, x)
    first = (activation * slope)[0].sum(axis=0)
    size = float(np.sqrt(np.mean(first**2)))
    apart = float(np.sqrt(np.mean((cells - first) ** 2))) / size if size else 0.0
    tall, wide = cells.shape
    unit = f"score points that a cell of {tall} x {wide} adds, to first order"
    if apart > _APART:
        unit = f"activation x the channel's mean gradient, {tall} x {wide} cells; no score points"
    warnings = {
        f"the map is zero everywhere: {empty}": bool(empty),
        "the class token's own way goes past this layer, so the map shows a part of the score": by_token,
        f"the head treats the places of this layer differently: the map differs by {100 * apart:.0f} % from what each cell adds "
        "to the score": apart > _APART,
    }  # fmt: skip
    upsampled = nn.functional.interpolate(torch.from_numpy(cells)[None, None], size=x.shape[-2:], mode="bilinear")
    return Saliency(
        "gradcam", upsampled[0, 0].numpy(), unit, facts={"cells": [tall, wide], "apart": apart}, arrays={"cells": cells},
        warnings=tuple(line for line, holds in warnings.items() if holds),
    )  # fmt: skip


def planes(network: Network, output: Tensor) -> Tensor:
    """A copy of features as (B, channels, h, w). They come so, as (B, h, w, C) (Swin) or as tokens (B, prefix + h w, C) (ViT).

    Raises UserError for features without places, and for other layouts.
    """
    net: Any = network.backbone
    grid = getattr(getattr(net, "patch_embed", None), "grid_size", None)
    found = output
    if output.ndim == 4 and output.shape[1] == output.shape[2] != output.shape[3]:  # photos are square
        found = output.permute(0, 3, 1, 2)
    elif output.ndim == 3 and grid and output.shape[1] == grid[0] * grid[1] + getattr(net, "num_prefix_tokens", 0):
        found = output[:, -grid[0] * grid[1] :].mT.reshape(len(output), -1, *grid)
    if found.ndim != 4 or not 1 < found.shape[2] == found.shape[3]:
        shape = tuple(output.shape[1:])
        raise UserError(f"Grad-CAM: the features of {network.model.backbone} have no places (shape {shape}); use RISE")
    return found.clone()
