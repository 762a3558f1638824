"""The gradient of a score: how fast it changes, to first order, when a pixel gets brighter.

It is computed in float32, of the score before clipping. The backbone's standard deviations are divided out, so the unit is score
points per unit of pixel value (black 0, white 1). The map is the signed sum over the three channels: what brightening a place
does. Hiding a place is something else: a dark place with a negative gradient supports the score. So the map comes with its
*effect*, gradient x (photo - mean colour), in score points: to first order, what the score gains when the place goes from
hidden to shown (Shrikumar et al. 2016). Tests that hide places judge the effect.

`smooth=n` is SmoothGrad (Smilkov et al. 2017): the mean gradient of n copies of the photo with Gaussian noise, whose standard
deviation is `noise` times the range of pixel values.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from pawpularity.errors import UserError
from pawpularity.explain.saliency import Saliency
from pawpularity.explain.scored import PhotoScore
from pawpularity.models.network import Network

UNIT = "score points per unit of pixel value (0..1), all three channels together"
_BATCH = 16  # noisy copies at once


@contextmanager
def at_rest(network: Network) -> Iterator[None]:
    """Gradients with respect to the photo alone, in float32: evaluation mode, no parameter requires a gradient, no autocast.

    At the end every module's mode and every parameter's `requires_grad` are restored.
    """
    modes = [(module, module.training) for module in network.modules()]
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(network.mean.device.type, enabled=False):
        try:
            network.eval()
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)
            for module, mode in modes:
                module.training = mode


def input_with_gradient(x: Tensor) -> Tensor:
    """A float32 copy of inputs that requires a gradient, even where `x` was made in inference mode."""
    return x.detach().clone().float().requires_grad_(True)


def gradient(score: PhotoScore, x: Tensor, *, smooth: int = 0, noise: float = 0.15, seed: int = 0) -> Saliency:
    """The map of one photo, `x` (3, H, W) from `PhotoScore.input_of`.

    `smooth`: number of noisy copies (0 = the photo itself). With two or more the map has a standard error, over copies. A gradient
    that is zero everywhere has a warning that says why. Raises UserError for a gradient that is not finite.
    """
    network = score.network
    to_pixels = 255.0 / network.std  # by channel: slope per unit of input -> slope per unit of pixel value 0..1
    with at_rest(network):
        total = torch.zeros_like(x, dtype=torch.float64)
        squares = torch.zeros_like(total[0])
        for batch in _copies(x.detach(), smooth, noise, seed, to_pixels[0]):
            inputs = input_with_gradient(batch)
            (slopes,) = torch.autograd.grad(score.exact(inputs).sum(), inputs)
            slopes = (slopes * to_pixels).double()
            total += slopes.sum(dim=0)
            squares += slopes.sum(dim=1).square().sum(dim=0)
        count = max(smooth, 1)
        summed = (total / count).sum(dim=0).cpu().numpy()
        effect = (total / count / to_pixels[0] * x).sum(dim=0).cpu().numpy()  # zero in x is the mean colour
        if not np.isfinite(summed).all():
            raise UserError("the score's gradient is not a number (the training diverged); train with a lower train.lr")
        error = None
        if smooth > 1:
            spread = (squares.cpu().numpy() - count * summed**2) / (count - 1)
            error = np.sqrt(np.maximum(spread, 0.0) / count).astype(np.float32)
        warnings = () if total.any() else (f"the gradient is zero everywhere; {why_flat(score, x)}",)
    return Saliency(
        "gradient", summed.astype(np.float32), UNIT, error,
        facts={"smooth": smooth}, effect=effect.astype(np.float32), warnings=warnings,
    )  # fmt: skip


def _copies(x: Tensor, smooth: int, noise: float, seed: int, scale: Tensor) -> Iterator[Tensor]:
    """The photo itself, or `smooth` noisy copies in batches; `scale` (3, 1, 1) turns pixel values 0..1 into input."""
    if not smooth:
        yield x[None]
        return
    # Drawn on the CPU, copy by copy: the same noise on every device and with every batch size.
    random = torch.Generator().manual_seed(seed)
    for start in range(0, smooth, _BATCH):
        drawn = [torch.randn(x.shape, generator=random) for _ in range(min(_BATCH, smooth - start))]
        yield x + noise * scale * torch.stack(drawn).to(x.device)


def why_flat(score: PhotoScore, x: Tensor) -> str:
    """The likely reasons why no pixel of a photo `x` (3, H, W) changes its score."""
    with torch.no_grad():
        points = float(score.exact(x[None])[0])
    return f"at {points:.4g} the {score.network.model.output} output is saturated, or a layer's ReLUs are dead"
