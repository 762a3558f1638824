"""The gradient of a score: how fast it moves, to first order, when a pixel gets brighter.

Taken in float32 of the score before it is clipped. The network's input is normalised by the backbone's standard
deviations; they are divided out, so a figure means score points per unit of pixel value, where black is 0 and white is 1 (per
1/255: divide by 255). The map is the sum over the three channels, signed: what making the place brighter would do. That is
not what hiding the place would do: a dark place whose gradient is negative speaks for the score. So beside it stands the
*effect*, gradient x (photo - mean colour), in score points: to first order what the score gains when the place goes from
hidden to shown (Shrikumar et al. 2016). It is what hiding can bear out, and what the map is judged by.

`of="squared-error"` is the paper's variant, the gradient of (target - score)^2: the same map times -2 (target - score), so
its sign says whether brightening moves the score away from the target, not whether it raises it. `smooth=n` is SmoothGrad
(Smilkov et al. 2017): the mean of n gradients of the photo with Gaussian noise, whose standard deviation is `noise` times the
range of pixel values.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pawpularity.errors import UserError, nearest
from pawpularity.explain.saliency import Saliency
from pawpularity.explain.scored import PhotoScore
from pawpularity.models.network import Network

KINDS = ("score", "squared-error")
UNITS = {
    "score": "score points per unit of pixel value (0..1), all three channels together",
    "squared-error": "squared score points per unit of pixel value (0..1), all three channels together",
}
_BATCH = 16  # noisy copies at once


@contextmanager
def at_rest(network: Network) -> Iterator[None]:
    """Gradients of the photo alone, in float32: evaluation mode, no parameter asks for a gradient, no autocast.

    When the block ends, every module's mode and every parameter's `requires_grad` are what they were.
    """
    modes = [(module, module.training) for module in network.modules()]
    asking = [parameter for parameter in network.parameters() if parameter.requires_grad]
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(network.mean.device.type, enabled=False):
        try:
            network.eval()
            for parameter in asking:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in asking:
                parameter.requires_grad_(True)
            for module, mode in modes:
                module.training = mode


def asking_input(x: Tensor) -> Tensor:
    """A float32 copy of inputs that asks for a gradient, wherever `x` was made (inference mode included)."""
    return x.detach().clone().float().requires_grad_(True)


def gradient(
    score: PhotoScore,
    x: Tensor,
    *,
    of: str = "score",
    target: float | None = None,
    smooth: int = 0,
    noise: float = 0.15,
    seed: int = 0,
) -> Saliency:
    """The map of one photo, `x` (3, H, W) as from `PhotoScore.input_of`. `arrays["channels"]` is (3, H, W), unsummed.

    `target`: the photo's true score, which `squared-error` needs. `smooth`: noisy copies (0 = the photo itself); from two on
    the map has a standard error, over copies. A gradient that is zero everywhere is answered with a warning that says why.
    Raises UserError for an unknown `of`, a missing target, and a gradient that is no number.
    """
    if x.ndim != 3:
        raise ValueError(f"one photo, (3, H, W), not {tuple(x.shape)}")
    if of not in KINDS:
        raise UserError(f'gradient of "{of}": is not known{nearest(of, KINDS)}')
    if (target is None) != (of == "score"):
        raise UserError("gradient of squared-error: needs the photo's true score, and that of score none")
    if smooth < 0 or noise < 0:
        raise UserError(f"smooth {smooth}, noise {noise:g}: must be 0 or more")
    network = score.network
    to_pixels = 255.0 / network.std  # from per unit of input to per unit of pixel value 0..1, by channel
    with at_rest(network):
        clean = float(score.exact(x.detach().clone()[None])[0].detach())
        total = torch.zeros_like(x, dtype=torch.float64)
        squares = torch.zeros_like(total[0])
        for batch in _copies(x.detach(), smooth, noise, seed, to_pixels[0]):
            inputs = asking_input(batch)
            points = score.exact(inputs)
            value = points if target is None else (target - points) ** 2
            (slopes,) = torch.autograd.grad(value.sum(), inputs)
            slopes = (slopes * to_pixels).double()
            total += slopes.sum(dim=0)
            squares += slopes.sum(dim=1).square().sum(dim=0)
        count = max(smooth, 1)
        channels = (total / count).cpu().numpy()
        effect = (total / count / to_pixels[0] * x).sum(dim=0).cpu().numpy()  # zero in x is the mean colour
        if not np.isfinite(channels).all():
            raise UserError("the score's gradient is no number (its training diverged); train it with a lower train.lr")
        summed = channels.sum(axis=0)
        error = None
        if smooth > 1:
            spread = (squares.cpu().numpy() - count * summed**2) / (count - 1)
            error = np.sqrt(np.maximum(spread, 0.0) / count).astype(np.float32)
        warnings: tuple[str, ...] = ()
        if not channels.any():
            met = target is not None and target == clean
            reason = "the score is exactly the target, where the squared error is flat" if met else why_flat(score, x)
            warnings = (f"the gradient is zero everywhere: {reason}",)
    facts: dict[str, Any] = {"of": of, "score": clean}
    facts |= {} if target is None else {"target": float(target)}
    facts |= {"smooth": smooth, "noise": noise, "seed": seed} if smooth else {}
    return Saliency(
        method="gradient",
        map=summed.astype(np.float32),
        unit=UNITS[of],
        standard_error=error,
        facts=facts,
        arrays={"channels": channels.astype(np.float32)},
        effect=effect.astype(np.float32) if of == "score" else None,
        warnings=warnings,
    )


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


@torch.no_grad()
def why_flat(score: PhotoScore, x: Tensor) -> str:
    """Why no pixel of a photo `x` (3, H, W) moves its score, in a few words."""
    network = score.network
    features = network.split.run(network.laid_out(x[None].float()))
    points = float(score.exact(x[None])[0])
    if not features.any():
        return "the backbone's features are all zero for this photo (dead ReLUs)"
    if network.model.output == "relu" and points == 0.0:
        return "the relu output is dead for this photo (it answers 0 whatever changes); train with model.output=sigmoid"
    if network.model.output == "sigmoid" and points in (0.0, 100.0):
        return f"the sigmoid output is saturated at {points:.0f} for this photo"
    if not network.image(features).any():
        return "the head's first layer answers only zeros for this photo (dead ReLUs)"
    return "the head lets nothing of the photo through to the score (dead ReLUs, or weights that are zero)"
