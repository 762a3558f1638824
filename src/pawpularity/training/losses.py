"""The losses that `train.loss` names. A new one is a function here, its line in LOSSES, and its name in config.py."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, huber_loss, mse_loss

from pawpularity.config import Train
from pawpularity.models.network import HIGHEST, LOWEST

Loss = Callable[[Tensor, Tensor, Tensor, Train], Tensor]
"""loss(raw, points, target, train): the mean loss of a batch, a scalar, float32 and differentiable.

`raw` (B,) or (B, bins) are the network's raw numbers, `points` (B,) its score points behind `model.output`, `target` (B,) the true
scores in points (with mixup also between whole ones).
"""


def bce(raw: Tensor, points: Tensor, target: Tensor, train: Train) -> Tensor:
    """Binary cross-entropy on score / 100; config.py requires a sigmoid output."""
    return binary_cross_entropy_with_logits(raw, target / 100.0)


def mse(raw: Tensor, points: Tensor, target: Tensor, train: Train) -> Tensor:
    """Mean squared error in points."""
    return mse_loss(points, target)


def huber(raw: Tensor, points: Tensor, target: Tensor, train: Train) -> Tensor:
    """Huber's loss in points: squared up to `train.huber_delta`, linear beyond."""
    return huber_loss(points, target, delta=train.huber_delta)


def bins(raw: Tensor, points: Tensor, target: Tensor, train: Train) -> Tensor:
    """Cross-entropy with soft labels: all chance on the two bins beside the score, so that their mean is the score."""
    at = (target[:, None] - LOWEST) / (HIGHEST - LOWEST) * (raw.shape[1] - 1)
    near = (1.0 - (at - torch.arange(raw.shape[1], device=raw.device)).abs()).clamp(min=0.0)
    return cross_entropy(raw, near)


def ordinal(raw: Tensor, points: Tensor, target: Tensor, train: Train) -> Tensor:
    """Binary cross-entropy of every step from 1 to 100: passed, not passed, or the share of it that the score passes."""
    passed = (target[:, None] - LOWEST) / (HIGHEST - LOWEST) * raw.shape[1]
    return binary_cross_entropy_with_logits(
        raw, (passed - torch.arange(raw.shape[1], device=raw.device)).clamp(0.0, 1.0)
    )


LOSSES: dict[str, Loss] = {"bce": bce, "mse": mse, "huber": huber, "bins": bins, "ordinal": ordinal}
