"""The network: photo and metadata in, one raw number out, and the rule that turns it into score points.

    photo    -> timm backbone -> pooled features -> linear + ReLU (image_width)      \\
                                                                                      > MLP with dropout -> 1 raw number
    metadata -> twelve columns + "absent" flag   -> MLP of growing widths with ReLUs  /

Photos come as uint8 (B, H, W, 3) and are normalised on the device with the backbone's own statistics. Metadata may be
absent: the columns are then zero and the flag is one. Training does this to a share of the rows
(`model.metadata_dropout`).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pawpularity.models.backbone import (
    Backbone,
    as_tensor_stats,
    build_backbone,
    freeze,
    set_training,
    trained_names,
)
from pawpularity.models.lora import add_lora
from pawpularity.models.split import Split
from pawpularity.models.weights import tensors_hash

if TYPE_CHECKING:
    from pawpularity.config import Config, Model

METADATA_COLUMNS = 12
LOWEST, HIGHEST = 1.0, 100.0
BINNED = ("bins", "ordinal")


class Network(nn.Module):
    """Backbone, metadata branch and fusion. `forward` gives the raw number; `points` turns it into a score."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        model: "Model",
        *,
        channels_last: bool = False,
        frozen_bn: bool = False,
        fitted: nn.Module | None = None,
    ) -> None:
        """`fitted`: a head from pooled features and metadata to score points, in place of one that is trained."""
        super().__init__()
        self.model = model
        self.backbone = backbone.net
        self.channels_last, self.frozen_bn = channels_last, frozen_bn
        self.size = backbone.size
        self.split = Split(backbone.net, backbone.size)
        unfrozen = self.split.tensors(model.unfrozen)
        self.frozen_blocks = self.split.frozen_blocks(unfrozen)
        self.recomputes = False
        """whether blocks are computed again for the gradient (`train.grad_checkpointing`)"""
        self.register_buffer("mean", as_tensor_stats(backbone.mean), persistent=False)
        self.register_buffer("std", as_tensor_stats(backbone.std), persistent=False)
        self.unfrozen_note = freeze(self.backbone, unfrozen)
        if model.lora:
            trained = [module for block in self.split.blocks[self.frozen_blocks :] for module in block.modules]
            self.unfrozen_note = f"LoRA of rank {model.lora} on {add_lora(trained, model.lora)} layers of the backbone"
        self.fitted = fitted
        if fitted is not None:
            return
        self.image = nn.Sequential(nn.Linear(backbone.width, model.image_width), nn.ReLU())
        joined = model.image_width
        self.metadata: nn.Sequential | None = None
        if model.metadata == "use":
            self.metadata = _mlp(METADATA_COLUMNS + 1, model.metadata_widths, dropout=0.0)
            joined += model.metadata_widths[-1]
        self.fusion = nn.Sequential(nn.Dropout(model.dropout), *_mlp(joined, model.fusion_widths, model.dropout))
        outputs = model.bins if model.output in BINNED else 1
        self.score = nn.Linear(model.fusion_widths[-1] if model.fusion_widths else joined, outputs)

    def train(self, mode: bool = True) -> "Network":
        """Like `nn.Module.train`, but frozen parts of the backbone stay in evaluation mode."""
        super().train()  # LeViT's and TinyViT's cached attention biases are dropped by this alone, up to timm 1.0.24
        super().train(mode)
        set_training(self.backbone, mode, frozen_bn=self.frozen_bn)
        return self

    def normalise(self, photos: Tensor) -> Tensor:
        """(B, H, W, 3) pixels in 0..255, of any dtype, to the (B, 3, H, W) float input of the backbone."""
        # The permuted view of a row-major photo already is channels_last; the plain layout is made explicitly.
        x = photos.permute(0, 3, 1, 2).float()
        return (self.laid_out(x) - self.mean) / self.std

    def laid_out(self, features: Tensor) -> Tensor:
        """`features` in the network's memory layout. Cached features always come channels last."""
        if features.ndim != 4:
            return features
        return features.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    def place(self, device: torch.device) -> "Network":
        """Move to `device`, in the memory layout it computes in (`train.channels_last`)."""
        self.channels_last = self.channels_last and not (
            device.type == "cpu" and any(map(_fails_in_onednn, self.modules()))
        )
        if device.type == "mps" and self.fitted is not None:
            self.fitted.float()  # that device has no float64
        self.to(device)
        if self.channels_last:
            self.to(memory_format=torch.channels_last)
        return self

    def frozen_features(self, photos: Tensor) -> Tensor:
        """What the frozen blocks give for photos as in `normalise`: the same in every epoch, as nothing there is trained.

        With no frozen block it is the normalised photo.
        """
        return self.split.run(self.normalise(photos), 0, self.frozen_blocks)

    def head(self, features: Tensor, metadata: Tensor | None = None) -> Tensor:
        """The trained head: raw numbers, (B,) or (B, bins), from frozen features and (B, 12) metadata (None: absent)."""
        x = self.laid_out(features)
        if not self.frozen_blocks and x.shape[-1] != self.size:  # a smaller photo than the network was split for
            return self.regress(self.backbone(x), metadata)
        recomputed = self.recomputes and self.training
        return self.regress(self.split.run(x, self.frozen_blocks, recomputed=recomputed), metadata)

    def regress(self, pooled: Tensor, metadata: Tensor | None) -> Tensor:
        """Raw numbers, (B,) or (B, bins), from the backbone's pooled features and metadata."""
        if self.fitted is not None:
            scores: Tensor = self.fitted(pooled, metadata)
            return scores
        parts = [self.image(pooled)]
        if self.metadata is not None:
            parts.append(self.metadata(self._with_flag(metadata, len(pooled), pooled.device)))
        raw: Tensor = self.score(self.fusion(torch.cat(parts, dim=1)))
        return raw if self.model.output in BINNED else raw.squeeze(1)

    def forward(self, photos: Tensor, metadata: Tensor | None = None) -> Tensor:
        """Raw numbers, (B,) or (B, bins), before the output rule: head(frozen_features(photos), metadata)."""
        return self.head(self.frozen_features(photos), metadata)

    def stages(self) -> dict[str, list[nn.Module]]:
        """What lies behind the backbone, the last first."""
        if self.fitted is not None:
            return {"score": [self.fitted]}
        fusion: list[nn.Module] = [self.fusion] if self.metadata is None else [self.fusion, self.metadata]
        return {"score": [self.score], "fusion": fusion, "image": [self.image]}

    def _with_flag(self, metadata: Tensor | None, rows: int, device: torch.device) -> Tensor:
        if metadata is None:
            absent = torch.ones(rows, 1, device=device)
            return torch.cat([torch.zeros(rows, METADATA_COLUMNS, device=device), absent], dim=1)
        absent = torch.zeros(rows, 1, device=device)
        if self.training and self.model.metadata_dropout > 0:
            absent = (torch.rand(rows, 1, device=device) < self.model.metadata_dropout).float()
        return torch.cat([metadata.float() * (1 - absent), absent], dim=1)

    def points(self, raw: Tensor) -> Tensor:
        """Score points before clipping, (B,), in float32, by `model.output`: 100 sigmoid(raw), relu(raw), raw; the mean of
        scores from 1 to 100 with the chances softmax(raw); 1 plus steps that are passed with the chances sigmoid(raw)."""
        raw = raw.float()
        if self.model.output == "sigmoid":
            return 100.0 * torch.sigmoid(raw)
        if self.model.output == "bins":
            scores = torch.linspace(LOWEST, HIGHEST, self.model.bins, device=raw.device)
            return torch.softmax(raw, 1) @ scores
        if self.model.output == "ordinal":
            return LOWEST + torch.sigmoid(raw).mean(1) * (HIGHEST - LOWEST)
        return torch.relu(raw) if self.model.output == "relu" else raw

    def clipped(self, raw: Tensor) -> Tensor:
        """Score points as predicted: clipped to the contest's 1..100."""
        return self.points(raw).clamp(LOWEST, HIGHEST)

    def trained_state(self) -> dict[str, Tensor]:
        """What training changes (`head.safetensors`): unfrozen backbone tensors and every layer after them."""
        inside = {f"backbone.{name}" for name in trained_names(self.backbone, frozen_bn=self.frozen_bn)}
        return {k: v for k, v in self.state_dict().items() if k in inside or not k.startswith("backbone.")}

    def frozen_state(self) -> dict[str, Tensor]:
        """What training does not change (`frozen.safetensors`): the rest of the backbone."""
        trained = self.trained_state()
        return {k: v for k, v in self.state_dict().items() if k not in trained}

    def frozen_hash(self, stop: int | None = None) -> str:
        """12 hex digits over what decides the features before block `stop` (default: all frozen blocks)."""
        tensors: dict[str, Tensor] = {"mean": self.mean, "std": self.std}
        for position, block in enumerate(self.split.blocks[: self.frozen_blocks if stop is None else stop]):
            tensors |= {f"{position}.{name}": tensor for name, tensor in block.tensors().items()}
        return tensors_hash(tensors)


def _fails_in_onednn(module: nn.Module) -> bool:
    """Whether torch's convolution on a CPU writes beyond its memory in channels_last: RepVGG, MobileOne, FastViT crash."""
    return (
        isinstance(module, nn.Conv2d)
        and module.in_channels < 16
        and all(size == 1 for size in module.kernel_size)
        and any(step != 1 for step in module.stride)
    )


def _mlp(width: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for out in widths:
        layers += [nn.Linear(width, out), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = out
    return nn.Sequential(*layers)


def _level(model: "Model", score: float) -> Tensor:
    """The bias with which a network whose other outputs are zero answers `score`."""
    if model.output in ("relu", "linear"):
        return torch.tensor(score)
    share = score / 100.0 if model.output == "sigmoid" else (score - LOWEST) / (HIGHEST - LOWEST)
    share = min(max(share, 0.01), 0.99)
    odds = math.log(share / (1.0 - share))
    if model.output != "bins":
        return torch.tensor(odds)
    at, last = torch.arange(model.bins), torch.tensor(model.bins - 1.0)
    return at * odds - torch.lgamma(at + 1.0) - torch.lgamma(last - at + 1.0)  # a binomial distribution


def build_network(
    config: "Config", *, fold: int, training_mean: float | None = None, weights: str | None = None
) -> Network:
    """The network of `config`, its head seeded by (train.seed, fold) and its backbone by train.seed alone.

    `training_mean` (score points) sets the last bias so that the untrained network answers about the mean: a relu
    output then cannot start dead, and no epoch is spent on finding the level. `weights` as in `build_backbone`.
    """
    seed = config.train.seed
    backbone = build_backbone(config.model, size=config.photos.size, seed=seed, weights=weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed * 1009 + fold + 1)
        network = Network(
            backbone, config.model, channels_last=config.train.channels_last, frozen_bn=config.train.frozen_bn
        )
    if training_mean is not None:
        with torch.no_grad():
            network.score.bias.copy_(_level(config.model, training_mean))
    return network.eval()
