"""Building a trunk beside its bare forward pass: decoding must hide behind the computation."""

import shutil
from typing import Any

import numpy as np
import torch

from pawpularity.device import Compute
from pawpularity.features.build import BATCH, FeatureCache
from pawpularity.features.build import run_blocks as run
from pawpularity.models.network import build_network
from pawpularity.studies.benchmark.machine import PeakMemory, side_by_side
from pawpularity.studies.benchmark.train import Shelter, settings


def bench_cache(name: str, unfrozen: int | None, data: Shelter, compute: Compute, repeats: int) -> list[dict[str, Any]]:
    """Rows of the table for one backbone: bare trunk, building from JPEGs, building from decoded photos."""
    config = settings(name, unfrozen)
    network = build_network(config, fold=0).place(compute.device)
    size, count = config.photos.size, len(data.paths)
    rows, views = np.arange(count), np.zeros(count, dtype=np.int64)
    noise = torch.randint(0, 256, (BATCH, size, size, 3), dtype=torch.uint8)

    def bare() -> None:
        for _ in range(-(-count // BATCH)):
            run(network, compute, noise, 0, network.frozen_blocks).cpu()

    def build(cache: str, *, decoded: bool) -> None:
        folder = data.folder / cache
        shutil.rmtree(folder / "features" if decoded else folder, ignore_errors=True)
        file = FeatureCache(folder / "features", data.photos(size, cache), size, 1e6).open(
            network, compute, rows, views
        )
        assert file is not None

    with PeakMemory() as peak:
        timings = side_by_side(
            [bare, lambda: build("jpeg", decoded=False), lambda: build("decoded", decoded=True)],
            compute,
            repeats,
        )
    full = -(-count // BATCH) * BATCH  # the last batch is filled up, and that costs the bare pass as much
    return [
        {
            "backbone": name,
            "unfrozen": config.model.unfrozen,
            "device": compute.device.type,
            "dtype": compute.dtype_name,
            "states": count,
            "way": way,
            "ms_per_state": 1e3 * timing.median / full,
            "share_of_bare_throughput": timings[0].median / timing.median,
            "spread": timing.spread,
            "repeats": repeats,
            "peak_anonymous_mb": peak.mb,
        }
        for way, timing in zip(("bare trunk", "from JPEGs", "from decoded photos"), timings, strict=True)
    ]
