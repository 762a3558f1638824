"""The losses that `train.loss` names. A new one is a function here, its line in LOSSES, and its name in config.py."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss, mse_loss

from pawpularity.config import Train

Loss = Callable[[Tensor, Tensor, Tensor, Train], Tensor]
"""loss(raw, points, target, train): the mean loss of a batch, a scalar, float32 and differentiable.

`raw` (B,) are the network's raw numbers, `points` (B,) its score points behind `model.output`, `target` (B,) the true scores in
points (with mixup also between whole ones).
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


LOSSES: dict[str, Loss] = {"bce": bce, "mse": mse, "huber": huber}
