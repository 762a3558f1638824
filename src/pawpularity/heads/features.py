"""Frozen features: what an encoder, a timm network that never saw the scores, computes from each photo.

They are `pooled` (the output before the classifier) or `logits` (the classifier's own output, a thousand classes for ImageNet
weights; the contest's winner found them better than the layer below).
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pawpularity.config import Model
from pawpularity.console import Progress
from pawpularity.data.augment import ORIGINAL
from pawpularity.data.photo_cache import Photos
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.features.build import FeatureCache
from pawpularity.features.load import open_inputs
from pawpularity.models.backbone import Backbone, build_backbone
from pawpularity.models.network import Network
from pawpularity.models.weights import tensors_hash

BATCH = 64


@dataclass(frozen=True)
class Encoder:
    """A network to take features from, checked but not kept in memory."""

    model: Model
    """Only `backbone`, `args` and `weights` count."""
    kind: str
    width: int
    """Features per photo."""
    weights_hash: str
    """12 hex over all its tensors."""

    @property
    def name(self) -> str:
        """timm's name."""
        return self.model.backbone


def open_encoder(model: Model, kind: str, *, size: int, seed: int) -> Encoder:
    """Build the network once, to check its name, weights and photo size."""
    backbone = build_encoder(model, kind, size=size, seed=seed)
    return Encoder(model, kind, backbone.width, tensors_hash(backbone.net.state_dict()))


def build_encoder(model: Model, kind: str, *, size: int, seed: int) -> Backbone:
    """The network whose output is the features of `kind`, in evaluation mode. Random weights depend on `seed`."""
    try:
        backbone = build_backbone(model, size=size, seed=seed, classifier=kind == "logits")
    except UserError as error:
        if kind == "pooled":
            raise
        build_backbone(model, size=size, seed=seed)  # raises what is wrong but for the classifier
        raise UserError(f"--features logits needs the classifier too, pooled does not: {error}") from None
    if kind == "logits" and not getattr(backbone.net, "num_classes", 0):
        raise UserError(f"--features logits: {model.backbone} has no classifier; take --features pooled")
    return backbone


def frozen_network(model: Model, kind: str, compute: Compute, *, size: int, seed: int) -> Network:
    """The encoder as a network that is frozen as a whole, on its device: `frozen_features(photos)` gives the features."""
    backbone = build_encoder(model, kind, size=size, seed=seed)
    frozen = Model(backbone=model.backbone, args=model.args, weights=model.weights, unfrozen=0, metadata="none")
    # In half precision channels_last was faster for every network measured, in float32 slower for some (docs/log.md).
    network = Network(backbone, frozen, channels_last=compute.dtype != torch.float32, frozen_bn=True)
    return network.place(compute.device).eval()


def frozen_features(
    photos: Photos,
    photo_rows: NDArray[np.int64],
    model: Model,
    kind: str,
    size: int,
    compute: Compute,
    *,
    seed: int = 0,
    cache: FeatureCache | None = None,
    view: int = ORIGINAL,
) -> NDArray[np.float32]:
    """Features (len(photo_rows), width), float32, of the photos `photo_rows` seen as `view`, cached on disk in `cache`."""
    network = frozen_network(model, kind, compute, size=size, seed=seed)
    rows, views = np.arange(len(photo_rows)), np.full(len(photo_rows), view)
    inputs = open_inputs(cache, photos, photo_rows, network, compute, rows, views)
    parts = []
    with Progress(len(rows), f"{kind} {model.backbone}") as progress, torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            x = inputs.take(rows[start : start + BATCH], views[start : start + BATCH]).to(compute.device)
            with compute.autocast():
                parts.append(inputs.features(network, x).float().cpu().numpy())
            progress.add(len(x))
    features: NDArray[np.float32] = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise UserError(f"{model.backbone}: features are not finite in {compute.dtype_name}; try train.dtype=float32")
    return features
