"""Encoders: timm networks that never saw the scores. Heads are fitted on their features.

Their features are `pooled` (the output before the classifier) or `logits` (the classifier's own output, a thousand classes for
ImageNet weights; the contest's winner found them better than the layer below). Several encoders form one backbone: they see the
same photo, each at its own size and normalised in its own way, and their features are concatenated.

`configs/encoders/NAME.yaml` lists encoders by name, with the size of their photos and the licence of their weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pawpularity.errors import UserError, nearest
from pawpularity.models.backbone import Backbone, build_backbone

if TYPE_CHECKING:
    from pawpularity.config import Config, Model

FOLDER = Path("configs/encoders")
FEATURES = ("pooled", "logits")


@dataclass(frozen=True)
class Encoder:
    """What is needed to build one."""

    backbone: str
    """timm's name, with its weights tag"""
    size: int
    """pixels a side that it sees"""
    features: str = "pooled"
    args: dict[str, Any] = field(default_factory=dict)
    """for timm.create_model"""
    weights: str = "imagenet"
    licence: str = ""
    """of the weights, as their authors name it"""

    @property
    def name(self) -> str:
        """timm's name, and what is taken from it."""
        pool = self.args.get("global_pool")
        return self.backbone + (f"-{pool}" if pool else "") + ("-logits" if self.features == "logits" else "")

    @classmethod
    def of(cls, config: "Config", features: str = "pooled") -> "Encoder":
        """The backbone of the settings, with the weights from before training."""
        model = config.model
        return cls(model.backbone, config.photos.size, features, model.args, model.weights)


def read_encoders(words: Sequence[str], like: Encoder) -> list[Encoder]:
    """The encoders that `words` name: lists (configs/encoders/WORD.yaml), or timm's names with the other settings of `like`.

    Raises UserError for an unknown name, for a list that is not readable, and for an encoder named twice.
    """
    found: list[Encoder] = []
    for word in words:
        path = Path(word) if word.endswith((".yaml", ".yml")) else FOLDER / f"{word}.yaml"
        if path.is_file():
            found += _list(path, like)
        else:
            args = like.args if word == like.backbone else {}
            found.append(Encoder(word, like.size, like.features, args, like.weights))
    names = [encoder.name for encoder in found]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--encoders: names {repeated} twice; name it once")
    return found


def _list(path: Path, like: Encoder) -> list[Encoder]:
    from pawpularity.config import read_yaml  # not at the top: Kaggle's image lacks pydantic

    entries = read_yaml(path).get("encoders")
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: must hold a list `encoders`, as configs/encoders/classic.yaml does")
    known = Encoder.__dataclass_fields__
    encoders = []
    for entry in entries:
        if not isinstance(entry, dict) or "backbone" not in entry:
            raise UserError(f"{path}: each encoder is written {{backbone: NAME, size: PIXELS, licence: NAME}}")
        if unknown := next((key for key in entry if key not in known), None):
            raise UserError(f"{path}: {unknown}: unknown key{nearest(str(unknown), known)}")
        settings: dict[str, Any] = {"size": like.size, "weights": like.weights, "features": like.features} | entry
        one = Encoder(**settings)
        if not isinstance(one.size, int) or not 32 <= one.size <= 2048 or one.features not in FEATURES:
            raise UserError(f"{path}: {one.backbone}: size must be 32..2048, features one of {', '.join(FEATURES)}")
        encoders.append(one)
    return encoders


class Encoders(nn.Module):
    """Several encoders as one network: a photo, normalised for the first one, to the features of all, (B, sum of widths)."""

    def __init__(self, backbones: Sequence[Backbone]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(backbone.net for backbone in backbones)
        self.sizes = [backbone.size for backbone in backbones]
        first = _statistics(backbones[0])
        for at, backbone in enumerate(backbones):
            mean, std = _statistics(backbone)
            # (pixels - mean) / std of this one, from that of the first
            self.register_buffer(f"scale{at}", first[1] / std, persistent=False)
            self.register_buffer(f"shift{at}", (first[0] - mean) / std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, sum of widths) from (B, 3, H, W)."""
        return torch.cat([net(self.seen(x, at)) for at, net in enumerate(self.nets)], dim=1)

    def seen(self, x: Tensor, at: int) -> Tensor:
        """The photo as encoder `at` sees it."""
        size = self.sizes[at]
        if x.shape[-1] != size:
            x = interpolate(x.float(), (size, size), mode="bicubic", antialias=True, align_corners=False)
        scaled: Tensor = x * getattr(self, f"scale{at}") + getattr(self, f"shift{at}")
        return scaled


def _statistics(backbone: Backbone) -> tuple[Tensor, Tensor]:
    return torch.tensor(backbone.mean).view(1, 3, 1, 1), torch.tensor(backbone.std).view(1, 3, 1, 1)


def build_encoders(encoders: Sequence[Encoder], *, size: int, seed: int, weights: str | None = None) -> Backbone:
    """The encoders as one backbone for photos of `size` pixels a side, in evaluation mode. Random weights depend on `seed`.

    `weights` replaces their own (a saved run rebuilds them with "none"). Raises UserError as `build_backbone`, and for logits of a
    network without a classifier.
    """
    built = [_built(encoder, seed, weights) for encoder in encoders]
    if len(built) == 1 and built[0].size == size:
        return built[0]
    first = built[0]
    return Backbone(
        Encoders(built).eval(), sum(one.width for one in built), first.mean, first.std, first.weights_file, size
    )


def _built(encoder: Encoder, seed: int, weights: str | None) -> Backbone:
    logits, model = encoder.features == "logits", cast("Model", encoder)  # it has the same three settings
    try:
        backbone = build_backbone(model, size=encoder.size, seed=seed, weights=weights, classifier=logits)
    except UserError as error:
        if not logits:
            raise
        # Raises what is wrong apart from the classifier.
        build_backbone(model, size=encoder.size, seed=seed, weights=weights)
        raise UserError(f"--features logits needs the classifier too, pooled does not: {error}") from None
    if logits and not getattr(backbone.net, "num_classes", 0):
        raise UserError(f"--features logits: {encoder.backbone} has no classifier; take --features pooled")
    return backbone


def encoders_of(record: Mapping[str, Any]) -> list[Encoder]:
    """The encoders in a run's config.json."""
    return [Encoder(**one) for one in record["head"]["encoders"]]
