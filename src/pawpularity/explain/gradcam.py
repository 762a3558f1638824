"""Grad-CAM (Selvaraju et al. 2017) of a score, through the `grad-cam` package, signed and in score points.

A cell of the map is what its features add to the score, to first order: the sum over channels of activation times the channel's
mean gradient. For a network that pools the mean and goes on linearly the cells sum to the score without its bias, exactly.
Where the head treats places differently (VGG's fully connected layers), the mean gradient is no place's own: the cells are
compared with activation x gradient, and if they are another map, they are not called score points. Nothing is clipped. The
package's own map, clipped at zero and scaled to 0..1, is kept beside it (`arrays["scaled"]`).

Guards against what the package does silently: one photo and one target (it cuts its list of targets to the shorter), a score in
float32 (it fails on bfloat16), an input that asks for a gradient (a frozen backbone gives none), copies of the activations (on
a CPU a later step in place overwrites what it keeps), a network that is left as it was (`at_rest`: its modes, its `.grad`), and
no `with` block (which swallows an IndexError). The map is compared with autograd's at `forward_features`, which uses no hooks.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pawpularity.errors import UserError
from pawpularity.explain.gradient import asking_input, at_rest, why_flat
from pawpularity.explain.layers import Layer, bypass, find_layer, last_features
from pawpularity.explain.saliency import Map, Saliency
from pawpularity.explain.scored import PhotoScore

TOLERANCE = 1e-3  # of the largest cell, between the package's map and autograd's
_PART = 0.01  # of the gradient past a layer, from which on the map shows only a part
_APART = 0.1  # root mean square, of the first-order cells': from which on cells are no first-order points


class _Scored(nn.Module):
    """What the package is given: it must not reach the network, whose `.grad` it would clear and which it would leave in `eval`."""

    def __init__(self, score: PhotoScore, device: torch.device) -> None:
        super().__init__()
        self.score = score
        self.device = nn.Parameter(torch.zeros((), device=device))  # the package asks a parameter where it is

    def forward(self, x: Tensor) -> Tensor:
        return self.score.exact(x)[:, None]


def gradcam(score: PhotoScore, x: Tensor, *, layer: str | None = None) -> Saliency:
    """The map of one photo, `x` (3, H, W) from `PhotoScore.input_of`, upsampled (bilinear) from `arrays["cells"]`.

    `layer`: a module of the backbone by timm's name (default: the rule of `layers`). Raises UserError for a layer that cannot be
    used, and where the package's map is not autograd's.
    """
    with at_rest(score.network):
        x = x.detach().clone().float()
        found = find_layer(score, x, layer)
        past = bypass(score, x, found)
        activation, slope, scaled, points = _through_the_package(score, x, found)
        cells = _cells(activation, slope)
        if not np.isfinite(cells).all():
            raise UserError(
                "Grad-CAM: the map holds what is not a number (the training diverged); train with a lower train.lr"
            )
        agreement = _agreement(score, x, found, cells) if found.last else None
        empty = "" if slope.any() else why_flat(score, x)
    apart = _apart(activation, slope, cells)
    size = float(np.abs(cells).sum())
    facts: dict[str, Any] = {
        "layer": found.name, "cells": list(found.cells), "channels": found.channels, "score": points,
        "cells_sum": float(cells.sum()), "negative": float(np.abs(cells[cells < 0]).sum()) / size if size else 0.0,
        "bypass": past, "apart": apart, "agreement": agreement,
    }  # fmt: skip
    warnings = {
        f"the map is zero everywhere: {empty or 'the layer returns zeros, or its gradients cancel'}": not cells.any(),
        "every cell lowers the score: the package's own map, clipped at zero, is empty": (cells < 0).any() and cells.max() <= 0,
        f"layer {found.name} is not everything: {100 * past:.0f} % of the gradient goes past it, so the map shows a part of the "
        "score": past > _PART,
        f"the head treats the places of this layer differently: the map differs by {100 * apart:.0f} % from what each cell adds "
        "to the score": apart > _APART,
    }  # fmt: skip
    tall, wide = found.cells
    unit = f"score points that a cell of {tall} x {wide} adds, to first order"
    if apart > _APART:
        unit = f"activation x the channel's mean gradient, {tall} x {wide} cells; no score points"
    planes = torch.from_numpy(cells)[None, None]
    upsampled = nn.functional.interpolate(planes, size=x.shape[-2:], mode="bilinear", align_corners=False)
    return Saliency(
        "gradcam", upsampled[0, 0].numpy(), unit, facts=facts, arrays={"cells": cells, "scaled": scaled},
        warnings=tuple(line for line, holds in warnings.items() if holds),
    )  # fmt: skip


def _through_the_package(score: PhotoScore, x: Tensor, layer: Layer) -> tuple[Tensor, Tensor, Map, float]:
    """Activations and gradients (C, h, w), the package's own map (H, W) in 0..1, and the score."""
    # Imported here: it brings matplotlib and scikit-learn along.
    from pytorch_grad_cam import GradCAM  # type: ignore[import-untyped]
    from pytorch_grad_cam.utils.model_targets import RawScoresOutputTarget  # type: ignore[import-untyped]

    package = GradCAM(_Scored(score, x.device), [layer.module], reshape_transform=layer.planes)
    try:
        scaled = package(input_tensor=asking_input(x[None]), targets=[RawScoresOutputTarget()])
        held = package.activations_and_grads
        if len(held.activations) != 1 or len(held.gradients) != 1:
            raise UserError(f"Grad-CAM: layer {layer.name} gave several activations or gradients; use RISE")
        activation, slope = held.activations[0][0].clone(), held.gradients[0][0].clone()
        points = float(package.outputs.detach()[0, 0])
    finally:
        package.activations_and_grads.release()
        package.outputs = None  # holds the graph
    return activation, slope, np.asarray(scaled[0], dtype=np.float32), points


def _cells(activation: Tensor, slope: Tensor) -> Map:
    """(h, w): sum over channels of activation x mean gradient. In float64: the terms cancel."""
    weights = slope.double().mean(dim=(-2, -1), keepdim=True)
    cells: Map = (weights * activation.double()).sum(dim=-3).float().cpu().numpy()
    return cells


def _apart(activation: Tensor, slope: Tensor, cells: Map) -> float:
    """How far `cells` are from what each adds to first order, as a share of that map's root mean square; 0 for no map."""
    first = (slope.double() * activation.double()).sum(dim=-3).cpu().numpy()
    size = float(np.sqrt(np.mean(first**2)))
    return float(np.sqrt(np.mean((cells - first) ** 2))) / size if size else 0.0


def _agreement(score: PhotoScore, x: Tensor, layer: Layer, cells: Map) -> float:
    """The largest difference to the map that autograd gives at `forward_features`, as a share of its largest cell."""
    features = last_features(score, x)
    assert features is not None
    features.requires_grad_(True)
    network, net = score.network, score.network.backbone
    metadata = None if score.metadata is None else torch.tensor(score.metadata, device=x.device)[None]
    points = network.points(network.regress(net.forward_head(features.clone()), metadata))  # type: ignore[operator]
    (slope,) = torch.autograd.grad(points.sum(), features)
    expected = _cells(layer.planes(features.detach())[0], layer.planes(slope)[0])
    largest, off = float(np.abs(expected).max()), float(np.abs(cells - expected).max())
    share = off / largest if largest else (float("inf") if off else 0.0)
    if share > TOLERANCE:
        raise UserError(
            f"Grad-CAM: the package's map at layer {layer.name} of {network.model.backbone} is {100 * share:.2g} % off autograd's "
            "at the last features; use RISE"
        )
    return share
