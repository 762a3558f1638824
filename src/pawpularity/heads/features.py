"""Frozen features: what an encoder computes from each photo. They are cached on disk and shared by all heads, folds and lists."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pawpularity.console import Progress
from pawpularity.data.augment import ORIGINAL
from pawpularity.data.photo_cache import Photos
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.features.build import FeatureCache
from pawpularity.features.load import open_inputs
from pawpularity.heads.encoders import Encoder, build_encoders
from pawpularity.models.network import Network
from pawpularity.runs import plain_config

BATCH = 64


def channels_last(compute: Compute) -> bool:
    """In half precision it was faster for every network measured, in float32 slower for some (docs/log.md)."""
    return compute.dtype != torch.float32


def frozen_network(encoder: Encoder, compute: Compute, *, size: int, seed: int) -> Network:
    """The encoder as a network that is frozen as a whole, on its device, for photos of `size` pixels a side."""
    backbone = build_encoders([encoder], size=size, seed=seed)
    # The size is no argument of timm's, but belongs into the key of the cached features.
    model = {
        "backbone": encoder.backbone,
        "args": encoder.args | {"seen at": encoder.size},
        "unfrozen": 0,
        "lora": 0,
        "metadata": "none",
    }
    frozen = plain_config({"model": model}).model
    network = Network(backbone, frozen, channels_last=channels_last(compute), frozen_bn=True, fitted=nn.Identity())
    return network.place(compute.device).eval()


def frozen_features(
    photos: Photos,
    photo_rows: NDArray[np.int64],
    encoder: Encoder,
    size: int,
    compute: Compute,
    *,
    seed: int = 0,
    cache: FeatureCache | None = None,
    view: int = ORIGINAL,
) -> NDArray[np.float32]:
    """Features (len(photo_rows), width), float32, of the photos `photo_rows` seen as `view`, cached on disk in `cache`.

    `size`: pixels a side of the photos.
    """
    network = frozen_network(encoder, compute, size=size, seed=seed)
    rows, views = np.arange(len(photo_rows)), np.full(len(photo_rows), view)
    inputs = open_inputs(cache, photos, photo_rows, network, compute, rows, views)
    parts = []
    with Progress(len(rows), encoder.name) as progress, torch.inference_mode():
        for start in range(0, len(rows), BATCH):
            x = inputs.take(rows[start : start + BATCH], views[start : start + BATCH]).to(compute.device)
            with compute.autocast():
                parts.append(inputs.features(network, x).float().cpu().numpy())
            progress.add(len(x))
    features: NDArray[np.float32] = np.concatenate(parts)
    if not np.isfinite(features).all():
        raise UserError(f"{encoder.backbone}: features are not finite in {compute.dtype_name}; try train.dtype=float32")
    return features
