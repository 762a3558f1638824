"""Five folds' prediction beside one full model's: the trunk is shared, so it should cost one trunk and five tails."""

from typing import Any

import numpy as np
import torch

from pawpularity.data.photo_cache import Photos
from pawpularity.device import Compute
from pawpularity.features.load import PixelInputs
from pawpularity.models.network import build_network
from pawpularity.predictor import score_heads
from pawpularity.studies.benchmark.machine import side_by_side
from pawpularity.studies.benchmark.train import settings

FOLDS = 5
PHOTOS = 64


def bench_predict(name: str, unfrozen: int | None, compute: Compute, repeats: int) -> list[dict[str, Any]]:
    """Rows of the table for one backbone, on decoded photos."""
    config = settings(name, unfrozen)
    networks = [build_network(config, fold=fold).place(compute.device) for fold in range(FOLDS)]
    size = config.photos.size
    pixels = np.random.default_rng(0).integers(0, 256, (PHOTOS, size, size, 3), dtype=np.uint8)
    inputs, rows = PixelInputs(Photos.of(pixels), np.arange(PHOTOS)), np.arange(PHOTOS)
    x = torch.from_numpy(pixels).to(compute.device)
    with torch.inference_mode(), compute.autocast():
        state = networks[0].frozen_features(x)

    @torch.inference_mode()
    def trunk() -> None:
        with compute.autocast():
            networks[0].frozen_features(x)

    @torch.inference_mode()
    def tail() -> None:
        with compute.autocast():
            networks[0].clipped(networks[0].head(state))

    def one() -> None:
        score_heads(networks[:1], inputs, rows, None, compute)

    def five() -> None:
        score_heads(networks, inputs, rows, None, compute)

    alone, together, trunk_s, tail_s = side_by_side([one, five, trunk, tail], compute, repeats)
    parts = trunk_s.median + FOLDS * tail_s.median
    return [
        {
            "backbone": name,
            "unfrozen": config.model.unfrozen,
            "device": compute.device.type,
            "dtype": compute.dtype_name,
            "photos": PHOTOS,
            "one_model_ms": 1e3 * alone.median / PHOTOS,
            "five_folds_ms": 1e3 * together.median / PHOTOS,
            "times_one_model": together.median / alone.median,
            "trunk_ms": 1e3 * trunk_s.median / PHOTOS,
            "tail_ms": 1e3 * tail_s.median / PHOTOS,
            "times_trunk_and_tails": together.median / parts,
            "spread": max(alone.spread, together.spread),
            "repeats": repeats,
        }
    ]
