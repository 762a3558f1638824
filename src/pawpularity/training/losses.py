"""The losses, by the names that `train.loss` takes. A new one is a function here and its line in LOSSES.

The configuration reads the names, and so do the scripts on Kaggle: torch is imported inside the functions only.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Settings(Protocol):
    """What a loss may know of the section `train`."""

    @property
    def huber_delta(self) -> float:
        """Score points."""


Loss = Callable[["Tensor", "Tensor", "Tensor", Settings], "Tensor"]
"""loss(raw, points, target, train): the mean loss of a batch, a scalar, all of them float32 and differentiable.

`raw` (B,) are the network's raw numbers, `points` (B,) its score points behind `model.output`, `target` (B,) the true scores in
points (with mixup between whole ones).
"""


def bce(raw: "Tensor", points: "Tensor", target: "Tensor", train: Settings) -> "Tensor":
    """Binary cross-entropy on score / 100; the schema sees to it that the output is a sigmoid."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    return binary_cross_entropy_with_logits(raw, target / 100.0)


def mse(raw: "Tensor", points: "Tensor", target: "Tensor", train: Settings) -> "Tensor":
    """Mean squared error in points."""
    from torch.nn.functional import mse_loss

    return mse_loss(points, target)


def huber(raw: "Tensor", points: "Tensor", target: "Tensor", train: Settings) -> "Tensor":
    """Huber's loss in points: squared up to `train.huber_delta`, linear beyond."""
    from torch.nn.functional import huber_loss

    return huber_loss(points, target, delta=train.huber_delta)


LOSSES: dict[str, Loss] = {"bce": bce, "mse": mse, "huber": huber}
