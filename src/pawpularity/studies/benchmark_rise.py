"""Benchmark of RISE: how many masks orthogonal blocks and independent masks (centred, and as published) need for the same error.

The score is a ridge regression on standardised features of a pretrained network, fitted on the folder's first hundred photos with a
fixed penalty: realistic enough to have interactions, and easy to reproduce. The published estimator's error depends on the score's
mean and sd over masks, so every row has both.

Errors are standard errors in the unit of the map. `agreement` says whether they can be trusted: the squared distance between the
two designs' maps, which have no mask in common, over the sum of their squared errors. It is about 1 if both errors are right, and
larger if a map is biased or an error too small.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from pawpularity.config import Model
from pawpularity.console import log, track
from pawpularity.data.photos import decode
from pawpularity.data.tables import ID, TARGET, read_train
from pawpularity.device import Compute, choose
from pawpularity.explain.players import SHOWN
from pawpularity.explain.rise import Rise, rise
from pawpularity.models.backbone import as_tensor_stats, build_backbone
from pawpularity.studies.benchmark import Rows, side_by_side

ALPHA = 1780.0
"""The penalty, on sums of squares of standardised features. It is fixed: chosen on a hundred photos it would be so large that only
the mean is left."""
PRECISION = 0.2
FITTED = 100
BLOCKS = {"orthogonal": 16, "independent": 8}
BATCH, MASKS = 64, 512
REAL, DRAWN = ("mobilenetv2_100", 128), ("test_resnet", 96)
"""Network and photo size: with the user's weights, and with the packaged weights."""
Score = Callable[[Tensor], Tensor]


def bench_rise(folder: Path, weights: str | None, backbone: str, maps: int, repeats: int) -> Rows:
    """A row for each photo and one of medians, which also has RISE's time over that of the forward passes alone.

    `folder`: in the contest's layout. `weights`: as `model.weights`; None: the packaged ones. `backbone`: a timm name, or empty.
    """
    name, size = REAL if weights else DRAWN
    model, compute = Model(backbone=backbone or name, weights=weights or "drawn"), choose()
    log(f"device  {compute}")
    table = read_train(folder)[:FITTED]
    pixels = np.stack([decode(folder / "train" / f"{photo}.jpg", size, "squash") for photo in table[ID]])
    score, photos = ridge_score(model, pixels, table[TARGET].to_numpy(np.float64), compute)
    chosen = np.linspace(0, len(table), min(maps, len(table)), endpoint=False).astype(int).tolist()
    figures = [compared(score, photos[row]) for row in track(chosen, "explaining")]
    middle = {key: float(np.median([row[key] for row in figures])) for key in figures[0]}
    cost = _cost(score, photos[chosen[-1]], compute, repeats)
    about = {"net": model.backbone, "size": size, "device": compute.device.type, "dtype": compute.dtype_name}
    rows: Rows = [{**about, "photo": str(table[ID].iloc[row])[:8], **found, **dict.fromkeys(cost)}
                  for row, found in zip(chosen, figures, strict=True)]  # fmt: skip
    return [*rows, {**about, "photo": f"median of {len(chosen)}", **middle, **cost}]


def ridge_score(model: Model, pixels: Any, scores: Any, compute: Compute) -> tuple[Score, Tensor]:
    """The ridge as a score of normalised photos (B, 3, H, W), and the normalised photos it was fitted on."""
    backbone = build_backbone(model, size=pixels.shape[1], seed=0)
    mean, std = (as_tensor_stats(stats).to(compute.device) for stats in (backbone.mean, backbone.std))
    net = backbone.net.to(compute.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    photos = (torch.from_numpy(pixels).to(compute.device).permute(0, 3, 1, 2).float() - mean) / std

    @torch.inference_mode()
    def features(x: Tensor) -> Tensor:
        with compute.autocast():
            found: Tensor = net(x.contiguous(memory_format=torch.channels_last))
        return found.float()

    table = torch.cat([features(part) for part in torch.split(photos, BATCH)]).double().cpu().numpy()
    scaler = StandardScaler().fit(table)
    ridge = Ridge(ALPHA).fit(scaler.transform(table), scores)
    slopes = ridge.coef_ / scaler.scale_
    weights, intercept = (
        torch.tensor(slopes).float().to(compute.device),
        float(ridge.intercept_ - scaler.mean_ @ slopes),
    )
    return lambda x: features(x) @ weights + intercept, photos


def compared(score: Score, photo: Tensor) -> dict[str, float]:
    """The designs on one photo: the masks each needs for the same squared error, relative to orthogonal blocks."""
    ours, other = (
        rise(score, photo, masks=n * 128, design=design, precision=PRECISION) for design, n in BLOCKS.items()
    )
    # The published map less its mean score is mean(f (M - 1/2)) / p; times p / Var(M_p) it has our unit.
    published = _noise(other.weighted("score"), SHOWN / ours.grid.variance)
    noise, centred = _noise(ours), _noise(other)
    signal = max(float((ours.map.astype(np.float64) ** 2).sum()) - noise, 0.0)
    with np.errstate(divide="ignore"):
        per_signal, per_signal_published = (
            float(np.divide(error * found.masks, signal)) for error, found in ((noise, ours), (published, other))
        )
    return {
        "mean_score": ours.mean_score,
        "sd_score": ours.sd_score,
        "agreement": float(((ours.map.astype(np.float64) - other.map) ** 2).sum()) / (noise + centred),
        "ours_masks": per_signal / PRECISION**2,
        "times_centred": centred * other.masks / (noise * ours.masks),
        "times_published": published * other.masks / (noise * ours.masks),
        "published_500_error_over_map": (per_signal_published / 500) ** 0.5,
    }


def _noise(found: Rise, scale: Any = 1.0) -> float:
    """Squared L2 error of a map."""
    assert found.standard_error is not None
    return float(((found.standard_error.astype(np.float64) * scale) ** 2).sum())


def _cost(score: Score, photo: Tensor, compute: Compute, repeats: int) -> dict[str, float]:
    """RISE's time per mask, and its overhead over the forward passes of the same batches."""
    ready = photo.expand(BATCH, -1, -1, -1).clone()

    def bare() -> None:
        for _ in range(MASKS // BATCH):
            score(ready).cpu()

    timings = side_by_side([bare, lambda: rise(score, photo, masks=MASKS, batch_size=BATCH)], compute, repeats)
    forward, whole = map(min, timings)  # the minimum: other work on the machine only adds time
    return {"ms_per_mask": 1e3 * whole / MASKS, "overhead_percent": 100 * (whole / forward - 1)}
