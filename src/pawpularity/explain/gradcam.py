"""Grad-CAM (Selvaraju et al. 2017) of a score, through the `grad-cam` package, signed and in score points.

A cell of the map is what its features add to the score, to first order: the sum over channels of activation times the mean
gradient of that channel. For a network that pools the mean and goes on linearly the cells sum to the score without its bias,
exactly. Where the head sees places apart (VGG's fully connected layers), gradients differ from place to place and their mean is
not any place's own: the cells are then compared with activation x gradient, and if they are another map, they are not called
score points. Nothing is clipped. The package's own map, clipped at zero and scaled to 0..1, is kept beside it (`arrays["scaled"]`).

What the package does quietly is guarded here: it is given one photo and one target (its list of targets is cut to the
shorter), a score in float32 (it fails on bfloat16), an input that asks for a gradient (a frozen trunk has none else), copies of
the activations (on a CPU a later step in place overwrites what it keeps), a network that is put back as it was found
(`at_rest`: its modes, its `.grad`), and no `with` block (which swallows an IndexError). The map is compared with autograd's at
`forward_features`, which knows no hooks.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pawpularity.errors import UserError
from pawpularity.explain.gradient import asking_input, at_rest, why_flat
from pawpularity.explain.layers import Layer, bypass, find_layer, last_features, score_of_features
from pawpularity.explain.saliency import Saliency
from pawpularity.explain.scored import PhotoScore

TOLERANCE = 1e-3  # of the largest cell, between the package's map and autograd's
_PART = 0.01  # of the gradient past a layer, from which on the map shows only a part
_APART = 0.1  # root mean square, of the first-order cells': from which on cells are no first-order points


class _Scored(nn.Module):
    """What the package is given. The network is out of its reach: it would clear every `.grad` and leave it in `eval`."""

    def __init__(self, score: PhotoScore, device: torch.device) -> None:
        super().__init__()
        self.score = score
        self.device = nn.Parameter(torch.zeros((), device=device))  # the package asks a parameter where it is

    def forward(self, x: Tensor) -> Tensor:
        return self.score.exact(x)[:, None]


def gradcam(score: PhotoScore, x: Tensor, *, layer: str | None = None) -> Saliency:
    """The map of one photo, `x` (3, H, W) as from `PhotoScore.input_of`, upsampled (bilinear) from `arrays["cells"]`.

    `layer`: a module of the backbone by timm's name (default: the rule of `layers`). Raises UserError for a layer that will
    not do, and where the package's map is not the one autograd gives.
    """
    if x.ndim != 3:
        raise ValueError(f"one photo, (3, H, W), not {tuple(x.shape)}")
    warnings: list[str] = []
    with at_rest(score.network):
        x = x.detach().clone().float()
        found = find_layer(score, x, layer)
        past = 0.0 if found.last else bypass(score, x, found)
        activation, slope, scaled, points = _through_the_package(score, x, found)
        cells = _cells(activation, slope)
        apart = _apart(activation, slope, cells)
        if not np.isfinite(cells).all():
            raise UserError(
                "Grad-CAM: the map holds what is no number (the training diverged); train with a lower train.lr"
            )
        agreement = _agreement(score, x, found, cells) if found.last else None
        if not slope.any():
            warnings.append(f"the map is zero everywhere: {_why_empty(score, x, found)}")
        elif not cells.any():
            warnings.append(
                "the map is zero everywhere: the layer answers zeros, or its gradients cancel in every channel"
            )
        elif not (cells > 0).any():
            warnings.append("every cell lowers the score: the package's own map, clipped at zero, is empty")
    if past > _PART:
        warnings.append(
            f"layer {found.name} is not all there is: {100 * past:.0f} % of the gradient's size goes past it, so the "
            "map shows a part of the score"
        )
    if apart > _APART:
        warnings.append(
            "the head sees the places of this layer apart: a cell is activation x the channel's mean gradient, which is not what "
            f"the cell adds to the score (that map differs by {100 * apart:.0f} % of its size)"
        )
    height, width = x.shape[-2:]
    size = np.abs(cells).sum()
    facts: dict[str, Any] = {
        "layer": found.name,
        "cells": list(found.cells),
        "channels": found.channels,
        "score": points,
        "cells_sum": float(cells.sum()),
        "negative": float(np.abs(cells[cells < 0]).sum() / size) if size else 0.0,
        "bypass": past,
        "apart": apart,
        "agreement": agreement,
    }
    planes = torch.from_numpy(cells)[None, None]
    upsampled = nn.functional.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False)
    return Saliency(
        method="gradcam",
        map=upsampled[0, 0].numpy(),
        unit=(
            f"score points that a cell of {found.cells[0]} x {found.cells[1]} adds, to first order"
            if apart <= _APART
            else f"activation x the channel's mean gradient, {found.cells[0]} x {found.cells[1]} cells; no score points"
        ),
        facts=facts,
        arrays={"cells": cells, "scaled": scaled},
        warnings=tuple(warnings),
    )


def _through_the_package(
    score: PhotoScore, x: Tensor, layer: Layer
) -> tuple[Tensor, Tensor, NDArray[np.float32], float]:
    """Activations and gradients (C, h, w) on the CPU, the package's own map (H, W) in 0..1, and the score."""
    # Imported here: it brings matplotlib and scikit-learn along.
    from pytorch_grad_cam import GradCAM  # type: ignore[import-untyped]
    from pytorch_grad_cam.utils.model_targets import RawScoresOutputTarget  # type: ignore[import-untyped]

    inputs, targets = asking_input(x[None]), [RawScoresOutputTarget()]
    package = GradCAM(_Scored(score, x.device), [layer.module], reshape_transform=layer.planes)
    try:
        scaled = package(input_tensor=inputs, targets=targets)
        held = package.activations_and_grads
        if len(held.activations) != 1 or len(held.gradients) != 1:
            raise UserError(f"Grad-CAM: layer {layer.name} gave {len(held.activations)} activations and {len(held.gradients)} "
                            "gradients instead of one of each; use RISE")  # fmt: skip
        activation, slope = held.activations[0][0].clone(), held.gradients[0][0].clone()
        points = float(package.outputs.detach()[0, 0])
    finally:
        package.activations_and_grads.release()
        package.outputs = None  # holds the graph
    return activation, slope, np.asarray(scaled[0], dtype=np.float32), points


def _cells(activation: Tensor, slope: Tensor) -> NDArray[np.float32]:
    """(h, w): sum over channels of activation x mean gradient. In float64: the terms cancel."""
    weights = slope.double().mean(dim=(-2, -1), keepdim=True)
    cells: NDArray[np.float32] = (weights * activation.double()).sum(dim=-3).float().cpu().numpy()
    return cells


def _apart(activation: Tensor, slope: Tensor, cells: NDArray[np.float32]) -> float:
    """How far `cells` are from what each adds to first order, as a share of that map's root mean square; 0 for no map."""
    first = (slope.double() * activation.double()).sum(dim=-3).cpu().numpy()
    size = float(np.sqrt(np.mean(first**2)))
    return float(np.sqrt(np.mean((cells - first) ** 2))) / size if size else 0.0


def _agreement(score: PhotoScore, x: Tensor, layer: Layer, cells: NDArray[np.float32]) -> float:
    """The largest difference to the map that autograd gives at `forward_features`, as a share of its largest cell."""
    features = last_features(score, x)
    assert features is not None
    features = features.requires_grad_(True)
    (slope,) = torch.autograd.grad(score_of_features(score, features.clone()).sum(), features)
    expected = _cells(layer.planes(features.detach())[0], layer.planes(slope)[0])
    largest = float(np.abs(expected).max())
    off = float(np.abs(cells - expected).max())
    share = off / largest if largest else (float("inf") if off else 0.0)
    if share > TOLERANCE:
        raise UserError(
            f"Grad-CAM: the package's map at layer {layer.name} of {score.network.model.backbone} is {100 * share:.2g} % off "
            "the one autograd gives at its last features; use RISE"
        )
    return share


def _why_empty(score: PhotoScore, x: Tensor, layer: Layer) -> str:
    """Why no gradient reaches the layer. Raises UserError where some reaches the photo, past it."""
    inputs = asking_input(x[None])
    (whole,) = torch.autograd.grad(score.exact(inputs).sum(), inputs)
    if whole.any():
        raise UserError(
            f"Grad-CAM: no gradient of the score reaches layer {layer.name}, though some reaches the photo; use RISE"
        )
    return why_flat(score, x)
