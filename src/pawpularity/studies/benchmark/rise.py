"""RISE's masks for the same error: orthogonal blocks beside independent masks, centred and as published.

The score is a ridge on the standardised features of a pretrained network, fitted on the folder's own first photos (at most a
hundred) with a fixed penalty: real enough to have interactions, and anybody can make it again. How far it moves over masks
decides the published estimator's error, so its mean and sd are printed beside every gain.

Errors are standard errors, in the unit of the map: blocks of either design spread, and their spread is the error of their mean.
That the standard errors tell the truth is `agreement`: the squared distance between the two designs' maps, which have no mask in
common, over the sum of their squared errors. It is 1 where both are right, and grows where one is biased or too sure of itself.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pawpularity.config import Model
from pawpularity.console import log
from pawpularity.data.dataset import Dataset
from pawpularity.data.photos import decode
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.explain.masks import SHOWN
from pawpularity.explain.rise import rise
from pawpularity.explain.rise_result import Rise
from pawpularity.heads.ridge import Weights, fold_models
from pawpularity.models.backbone import as_tensor_stats, build_backbone
from pawpularity.sample.draw import draw_shelter
from pawpularity.studies.benchmark.machine import PeakMemory

ALPHA = 1780.0
"""The penalty, on sums of squares of standardised features. Chosen on a hundred photos it runs off to nothing but the mean."""
PRECISION = 0.2
FITTED = 100
BLOCKS = {"orthogonal": 16, "independent": 8}
REAL, DRAWN = ("mobilenetv2_100", 128), ("test_resnet", 96)
"""Network and photo size with weights of the user's, and with those that come with the package."""


@dataclass(frozen=True, eq=False)
class RidgeScore:
    """Score points, (B,), of normalised photos (B, 3, H, W): a frozen network and a linear head."""

    net: nn.Module
    mean: Tensor
    std: Tensor
    compute: Compute
    slopes: Tensor | None = None
    intercept: float = 0.0

    def input_of(self, path: Path, size: int) -> Tensor:
        """(3, H, W) on the device."""
        pixels = torch.from_numpy(decode(path, size, "squash")).to(self.compute.device)
        normalised: Tensor = (pixels.permute(2, 0, 1).float() - self.mean[0]) / self.std[0]
        return normalised

    @torch.inference_mode()
    def features(self, x: Tensor) -> Tensor:
        """(B, width) float32."""
        with self.compute.autocast():
            features: Tensor = self.net(x.contiguous(memory_format=torch.channels_last))
        return features.float()

    def __call__(self, x: Tensor) -> Tensor:
        """The scores; the head must have been fitted."""
        assert self.slopes is not None
        return self.features(x) @ self.slopes + self.intercept


def bench_rise(
    data: Path | None,
    weights: str | None,
    backbone: str | None,
    compute: Compute,
    *,
    maps: int,
    drawn: int,
    repeats: int,
) -> list[dict[str, Any]]:
    """One row a photo and one of their medians, which also tells what RISE costs beside the bare forward passes.

    `data`: a folder in the contest's layout, else `drawn` photos are drawn; `weights`: as `model.weights`, else the package's.
    Raises UserError for folders without photos, weights that are not there, and less than one photo to explain.
    """
    if maps < 1:
        raise UserError(f"--maps {maps}: explain one photo at least")
    name, size = REAL if weights else DRAWN
    name = backbone or name
    with _paths(data, drawn) as (paths, scores):
        maps = min(maps, len(paths))
        score = fitted(Model(backbone=name, weights=weights or "drawn"), size, compute, paths[:FITTED], scores[:FITTED])
        chosen = np.linspace(0, len(paths[:FITTED]), maps, endpoint=False).astype(int)
        rows = []
        for place, row in enumerate(chosen):
            log(f"rise: photo {place + 1} of {maps} ...")
            x = score.input_of(paths[row], size)
            rows.append({"net": name, "size": size, "device": compute.device.type, "dtype": compute.dtype_name,
                         "photo": paths[row].stem[:8], **compared(score, x)})  # fmt: skip
    median = {
        key: float(np.median([row[key] for row in rows])) if isinstance(value, float) else value
        for key, value in rows[0].items()
    }
    cost = _cost(score, x, compute, repeats)
    for row in rows:
        row.update(dict.fromkeys(cost))
        row.update(_seconds(row, cost["ms_per_mask"]))
    median |= cost
    return [*rows, median | _seconds(median, cost["ms_per_mask"]) | {"photo": f"median of {len(rows)}"}]


def fitted(
    model: Model, size: int, compute: Compute, paths: list[Path], scores: np.ndarray[Any, np.dtype[np.float64]]
) -> RidgeScore:
    """The ridge on standardised features of `model.backbone`, on all the photos given."""
    backbone = build_backbone(model, size=size, seed=0)
    mean, std = (as_tensor_stats(stats).to(compute.device) for stats in (backbone.mean, backbone.std))
    net = backbone.net.to(compute.device).to(memory_format=torch.channels_last)
    bare = RidgeScore(net, mean, std, compute)
    parts = [torch.stack([bare.input_of(path, size) for path in paths[i : i + 64]]) for i in range(0, len(paths), 64)]
    features = torch.cat([bare.features(part) for part in parts]).cpu().numpy()
    head: Weights = fold_models(features, scores, np.zeros(len(scores), dtype=np.int64)).weights((), [ALPHA])
    slopes = head.columns[:, 0]
    intercept = head.intercept - float(head.mean @ slopes)
    return RidgeScore(net, mean, std, compute, torch.from_numpy(slopes).float().to(compute.device), intercept)


def compared(score: RidgeScore, x: Tensor) -> dict[str, Any]:
    """What the designs make of one photo: masks needed for the same squared error, relative to orthogonal blocks."""
    ours, other = (
        rise(score, x, masks=blocks * 128, design=design, precision=PRECISION) for design, blocks in BLOCKS.items()
    )
    published = other.weighted("score")
    # The published map, its mean score taken off, is mean(f (M - 1/2)) / p: p / Var(M_p) brings it to our unit.
    to_ours = SHOWN / ours.grid.variance
    error = {
        "ours": _noise(ours, 1.0) * ours.masks,
        "centred": _noise(other, 1.0) * other.masks,
        "published": _noise(published, to_ours) * other.masks,
    }
    signal = float((ours.map.astype(np.float64) ** 2).sum()) - _noise(ours, 1.0)
    distance = float(((ours.map.astype(np.float64) - other.map) ** 2).sum())
    known = signal > 0
    to_precision = {f"{who}_masks": error[who] / PRECISION**2 / signal if known else np.inf for who in error}
    stops = [masks for masks, relative in ours.history if relative <= PRECISION]
    return {
        "photo_score": ours.photo_score,
        "mean_score": ours.mean_score,
        "sd_score": ours.sd_score,
        "r2": ours.r2,
        "relative_error_512": ours.history[0][1],
        "relative_error_2048": ours.relative_error,
        "stops_at": float(stops[0]) if stops else float(ours.masks),
        "agreement": distance / (_noise(ours, 1.0) + _noise(other, 1.0)),
        **to_precision,
        "times_centred": error["centred"] / error["ours"],
        "times_published": error["published"] / error["ours"],
        "published_500_error_over_map": (error["published"] / 500 / signal) ** 0.5 if known else np.inf,
    }


def _noise(found: Rise, scale: Any) -> float:
    """Squared L2 error of a map."""
    assert found.standard_error is not None
    return float(((found.standard_error.astype(np.float64) * scale) ** 2).sum())


def _seconds(row: dict[str, Any], ms: float) -> dict[str, float]:
    return {f"{who}_s": ms / 1e3 * row[f"{who}_masks"] for who in ("ours", "centred", "published")}


def _cost(score: RidgeScore, x: Tensor, compute: Compute, repeats: int) -> dict[str, Any]:
    """Time of RISE beside the same batches' bare forward passes, and its memory beside no model at all."""
    batch, masks = 64, 512
    ready = x.expand(batch, -1, -1, -1).clone()

    def bare() -> None:
        for _ in range(masks // batch):
            score(ready).cpu()

    def whole() -> None:
        rise(score, x, masks=masks, batch_size=batch)

    # Of a CPU its own time: beside other programs the wall clock tells more of them than of five percent.
    clock = time.process_time if compute.device.type == "cpu" else time.perf_counter
    spent: dict[str, list[tuple[float, float]]] = {"bare": [], "rise": []}
    for turn in range(1 + max(repeats, 3)):
        for name, way in (("bare", bare), ("rise", whole)):
            started = time.perf_counter(), clock()
            way()
            compute.synchronise()
            if turn:  # the first warms up
                spent[name].append((time.perf_counter() - started[0], clock() - started[1]))
    (_, forward), (wall, own) = (
        [min(column) for column in zip(*spent[name], strict=True)] for name in ("bare", "rise")
    )
    plane = torch.linspace(-1, 1, 224, device=x.device).expand(224, 224)
    peaks = {}
    for count in (512, 8192):
        with PeakMemory() as peak:
            rise(
                lambda masked: (masked[:, 0] * plane).mean((1, 2)),
                torch.ones(3, 224, 224, device=x.device),
                masks=count,
            )
        peaks[f"peak_mb_{count}"] = peak.mb - peak.before
    # The fastest of the repeats: what others do on the machine only ever adds.
    return {"ms_per_mask": 1e3 * wall / masks, "overhead_percent": 100 * (own / forward - 1), **peaks}


@contextmanager
def _paths(data: Path | None, drawn: int) -> Iterator[tuple[list[Path], np.ndarray[Any, np.dtype[np.float64]]]]:
    with tempfile.TemporaryDirectory(prefix="pawpularity-bench-") as name:
        if data is None:
            data = Path(name) / "drawn"
            draw_shelter(data, photos=drawn, size=160, seed=11, test_photos=1, progress=False)
        table = Dataset.load(data, Path(name))
        yield table.photo_paths(), table.train["Pawpularity"].to_numpy(dtype=np.float64)
