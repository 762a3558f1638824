"""The optimiser of a fit, and the rates and kept weights that follow from how it goes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from torch import Tensor

from pawpularity.config import Train
from pawpularity.errors import UserError, nearest
from pawpularity.models.network import Network

FUSED = ("adam", "adamw")


def require_trainable(network: Network, train: Train) -> None:
    """Raise UserError for an optimiser that timm does not know, or a `train.start_size` that the backbone cannot see."""
    if train.optimizer not in (known := list_optimizers(exclude_filters=["lookahead_*"])):
        raise UserError(
            f"train.optimizer={train.optimizer}: timm has no such optimiser{nearest(train.optimizer, known)}"
        )
    if train.start_size:
        side = rounded(train.start_size)
        try:
            with torch.no_grad():
                network.backbone(torch.zeros(1, 3, side, side, device=network.mean.device))
        except (AssertionError, RuntimeError) as error:
            why = (str(error) or type(error).__name__).splitlines()[0][:100]
            raise UserError(
                f"train.start_size={side}: the backbone takes one size ({why}); a ViT may take model.args.dynamic_img_size=true"
            ) from None


def rounded(size: float) -> int:
    """The nearest multiple of 32 pixels, at least 32."""
    return max(32, 32 * round(size / 32))


def optimiser_for(network: Network, train: Train, device: str) -> torch.optim.Optimizer:
    """timm's optimiser of that name for what the network trains."""
    fused = {"fused": device != "mps"} if train.optimizer in FUSED else {}
    groups = parameter_groups(network, train)
    made: torch.optim.Optimizer = create_optimizer_v2(
        groups, opt=train.optimizer, lr=train.lr, weight_decay=train.weight_decay, **fused
    )
    return made


def parameter_groups(network: Network, train: Train) -> list[dict[str, Any]]:
    """Trained parameters by rate and weight decay; the layers after the backbone, which learn at `train.lr`, come first.

    A block's rate is `train.layer_decay` of the next one's (ULMFiT: Howard and Ruder 2018; BEiT).
    """
    blocks = network.split.blocks
    distance = {id(p): len(blocks) - at for at, block in enumerate(blocks) for p in block.parameters()}
    groups: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            scale = train.layer_decay ** distance.get(id(parameter), 0)
            groups.setdefault((scale, train.decay_norms or parameter.ndim > 1), []).append(parameter)
    ordered = sorted(groups.items(), key=lambda item: -item[0][0])
    return [
        {"params": parameters, "scale": scale, "lr": train.lr * scale} | ({} if decays else {"weight_decay": 0.0})
        for (scale, decays), parameters in ordered
    ]


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the layers after the backbone; those of the blocks follow."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["scale"]


def cosine(train: Train, step: float, steps_an_epoch: int) -> float:
    """The rate at `step`: linear warm-up, then half a cosine to zero at the last step."""
    warm, total = train.warmup_epochs * steps_an_epoch, train.epochs * steps_an_epoch
    if step < warm:
        return train.lr * (step + 1) / (warm + 1)
    return train.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(total - warm, 1)))


class EarlyStopping:
    """The best check, early stopping and the plateau schedule: functions of the inner RMSEs in their order.

    So a resumed fit replays its history into a new EarlyStopping. Without an inner split the last check is the best, and
    nothing stops early.
    """

    def __init__(self, train: Train, optimiser: torch.optim.Optimizer, *, watching: bool) -> None:
        self.train, self.watching = train, watching
        self.checks, self.best, self.best_rmse = 0, 0, math.inf
        patience = (train.patience + 1) * train.checks - 1
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.1, patience=patience)

    @property
    def over(self) -> bool:
        """Whether the best check is too long ago."""
        return self.checks - self.best >= self.train.stop_patience * self.train.checks

    def update(self, inner_rmse: float) -> None:
        """Record a check, and set the rate after it."""
        self.checks += 1
        if not self.watching or inner_rmse < self.best_rmse:
            self.best, self.best_rmse = self.checks, inner_rmse
        if self.watching and self.train.schedule == "plateau" and not self.over:
            self.plateau.step(inner_rmse)


@dataclass(frozen=True)
class Kept:
    """Weights that may be kept."""

    check: int
    rmse: float
    """on the inner split; NaN if there is none"""
    state: Mapping[str, Tensor]


def mean_state(kept: Sequence[Kept]) -> dict[str, Tensor]:
    """The mean of several weights. Counters are the first's."""

    def mean(name: str, first: Tensor) -> Tensor:
        if len(kept) == 1 or not first.is_floating_point():
            return first
        return torch.stack([one.state[name].float() for one in kept]).mean(0).to(first.dtype)

    return {name: mean(name, first) for name, first in kept[0].state.items()}
