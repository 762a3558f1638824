"""Benchmarks of an epoch, a prediction and a build of cached features: the plain loop of public solutions and this project's.

An epoch is timed four ways over the same samples, which include the paper's copies:

- `plain float32`: every photo is decoded in every epoch; the whole timm network runs in float32.
- `plain bfloat16` or `plain float16`: the same under autocast in channels_last. Where half precision is no faster, `plain
  channels_last` in float32 takes its place.
- `features cold`: our first epoch: photos are decoded, frozen features computed and stored, the head trained.
- `features warm`: every further epoch, fold and trial: only the head is trained.

The plain loops train BatchNorm as usual; the trained head keeps BatchNorm's statistics fixed (`train.frozen_bn`).
"""

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pawpularity.config import Config
from pawpularity.data.augment import Augmenter
from pawpularity.data.dataset import Dataset
from pawpularity.data.photo_cache import Photos
from pawpularity.data.photos import decode
from pawpularity.data.tables import ID, METADATA, TARGET
from pawpularity.device import Compute, choose
from pawpularity.features.build import BATCH as BUILD_BATCH
from pawpularity.features.build import FeatureCache
from pawpularity.features.load import PixelInputs
from pawpularity.models.network import Network, build_network
from pawpularity.predictor import score_heads
from pawpularity.studies.benchmark import BATCH, Rows, side_by_side, spread
from pawpularity.training.fit import NOTHING, fit_samples
from pawpularity.training.loop import Hooks, worker_count
from pawpularity.training.samples import Samples, TrainingData, samples_of

EPOCHS = 10  # of a whole training, for `ten_epochs_times_plain_half`
FOLDS, PREDICTED = 5, 64  # networks and photos of the prediction benchmark


@dataclass(frozen=True)
class Bench:
    """One backbone, with the photos and settings of its tables."""

    name: str
    config: Config
    folder: Path
    """Photos in the contest's layout"""
    repeats: int
    compute: Compute

    @cached_property
    def dataset(self) -> Dataset:
        """The photos and their table."""
        return Dataset.load(self.folder, self.folder.parent / "cache")

    @cached_property
    def samples(self) -> Samples:
        """The samples of one epoch."""
        scores = self.dataset.train[TARGET].to_numpy(np.float64)
        return samples_of(self.config, scores, np.arange(len(scores)))

    def data(self, cache: str) -> TrainingData:
        """The photos as our training reads them; a new `cache` starts cold."""
        table, size, folder = self.dataset.train, self.config.photos.size, self.folder.parent / f"{self.name}-{cache}"
        photos = self.dataset.photos(size, self.config.photos.fit, folder)
        metadata, scores = table[list(METADATA)].to_numpy(np.float32), table[TARGET].to_numpy(np.float64)
        every = np.arange(len(table))
        return TrainingData(
            photos, every, metadata, scores, every, FeatureCache(folder / "features", photos, size, 1e6)
        )

    def network(self, fold: int = 0) -> Network:
        """A new network on the device."""
        return build_network(self.config, fold=fold).place(self.compute.device)

    def row(self, **figures: Any) -> dict[str, Any]:
        """A row of a table: backbone, depth and device, then `figures`."""
        about = {"backbone": self.name, "unfrozen": self.config.model.unfrozen, "device": self.compute.device.type}
        return about | figures


class PlainPhotos(TorchDataset[Any]):
    """(pixels, metadata, score) as public solutions read them: every sample decodes its file again."""

    def __init__(self, bench: Bench) -> None:
        table, self.samples, self.photos = bench.dataset.train, bench.samples, bench.config.photos
        self.paths = [bench.folder / "train" / f"{name}.jpg" for name in table[ID]]
        self.metadata, self.scores = np.array(table[list(METADATA)], np.float32), np.array(table[TARGET], np.float32)

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def augmenter(self) -> Augmenter:
        """Created in the worker process that augments."""
        return Augmenter(self.photos.size)

    def __getitem__(self, sample: int) -> Any:
        row, copy = self.samples.rows[sample], int(self.samples.copies[sample])
        pixels = self.augmenter.apply(decode(self.paths[row], self.photos.size, self.photos.fit), copy, 0)
        return np.array(pixels), self.metadata[row], self.scores[row]


class PlainLoop:
    """The loop of public solutions: a DataLoader, the whole network, one optimiser step a batch."""

    def __init__(self, bench: Bench) -> None:
        self.compute, self.network = bench.compute, bench.network().train()
        self.optimiser = torch.optim.AdamW(
            [p for p in self.network.parameters() if p.requires_grad], bench.config.train.lr
        )
        device = bench.compute.device.type
        workers = worker_count(bench.config.train.workers, device)
        self.loader = DataLoader(PlainPhotos(bench), BATCH, shuffle=True, num_workers=workers,
                                 persistent_workers=workers > 0, pin_memory=device == "cuda")  # fmt: skip

    def epoch(self) -> None:
        """Every sample once."""
        for batch in self.loader:
            self.step(batch, self.network)

    def step(self, batch: Iterable[Tensor], forward: Callable[[Tensor, Tensor], Tensor]) -> None:
        """One step of the optimiser."""
        x, metadata, scores = (part.to(self.compute.device, non_blocking=True) for part in batch)
        with self.compute.autocast():
            raw = forward(x, metadata)
        loss = binary_cross_entropy_with_logits(raw.float(), scores / 100)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()


def bench_train(bench: Bench) -> Rows:
    """Rows of the table for one backbone."""
    compute, repeats, n = bench.compute, bench.repeats, len(bench.samples)
    network, size = bench.network(), bench.config.photos.size
    with torch.inference_mode(), compute.autocast():  # warms kernels up, not files
        network.frozen_features(torch.zeros(BUILD_BATCH, size, size, 3, dtype=torch.uint8, device=compute.device))
    data = bench.data("train")
    (built,) = side_by_side([lambda: data.inputs(network, compute, bench.samples.pairs)], compute, 1, warm_up=0)
    timings = []
    for dtype, channels_last in (("float32", False), (compute.dtype_name, True)):
        config = bench.config.with_values({"train.channels_last": channels_last, "train.frozen_bn": False})
        loop = PlainLoop(replace(bench, config=config, compute=choose(dtype, str(compute.device))))
        timings += side_by_side([loop.epoch], compute, repeats)
    seconds: list[float] = []
    config = bench.config.with_values({"train.epochs": 1 + 3 * repeats})
    hooks = Hooks(on_epoch=lambda epoch: seconds.append(epoch.seconds))
    fit_samples(config, data, bench.samples, NOTHING, compute=compute, hooks=hooks)
    timings.append(seconds[1:])
    plain, half, warm = map(median, timings)
    ten = EPOCHS * half / (built[0] + EPOCHS * warm)
    best = "channels_last" if compute.dtype == torch.float32 else compute.dtype_name
    ways = [("plain float32", plain, timings[0]), (f"plain {best}", half, timings[1]),
            ("features cold", built[0] + warm, None), ("features warm", warm, timings[2])]  # fmt: skip
    return [
        bench.row(
            way=way, ms_per_image=1e3 * epoch / n, times_plain_float32=plain / epoch, times_plain_half=half / epoch,
            ten_epochs_times_plain_half=ten if way.startswith("features") else None,
            spread=spread(timing) if timing else None, repeats=len(timing or [1]),
        )
        for way, epoch, timing in ways
    ]  # fmt: skip


def bench_predict(bench: Bench) -> Rows:
    """The row of one backbone, on decoded photos. Five folds should cost one frozen part and five heads."""
    compute, size, rows = bench.compute, bench.config.photos.size, np.arange(PREDICTED)
    networks = [bench.network(fold) for fold in range(FOLDS)]
    pixels = np.random.default_rng(0).integers(0, 256, (PREDICTED, size, size, 3), dtype=np.uint8)
    inputs, x = PixelInputs(Photos.of(pixels), rows), torch.from_numpy(pixels).to(compute.device)

    @torch.inference_mode()
    def frozen() -> Tensor:
        with compute.autocast():
            return networks[0].frozen_features(x)

    @torch.inference_mode()
    def head(features: Tensor) -> Tensor:
        with compute.autocast():
            return networks[0].clipped(networks[0].head(features))

    ways = [partial(score_heads, several, inputs, rows, None, compute) for several in (networks[:1], networks)]
    timings = side_by_side([*ways, frozen, partial(head, frozen())], compute, bench.repeats)
    one, five, frozen_ms, head_ms = (1e3 * median(timing) / PREDICTED for timing in timings)
    return [bench.row(
        dtype=compute.dtype_name, one_model_ms=one, five_folds_ms=five, times_one_model=five / one,
        frozen_ms=frozen_ms, head_ms=head_ms, times_frozen_and_heads=five / (frozen_ms + FOLDS * head_ms),
        spread=max(map(spread, timings[:2])), repeats=bench.repeats,
    )]  # fmt: skip


def bench_cache(bench: Bench) -> Rows:
    """Rows of one backbone: the frozen part alone, and building features from JPEGs and from decoded photos.

    The builds should take no longer than the frozen part: decoding and writing run beside the computation.
    """
    compute, size, network = bench.compute, bench.config.photos.size, bench.network()
    noise = torch.randint(0, 256, (BUILD_BATCH, size, size, 3), dtype=torch.uint8)
    count = len(bench.dataset.train)
    batches = -(-count // BUILD_BATCH)

    @torch.inference_mode()
    def forward_only() -> None:
        for _ in range(batches):
            with compute.autocast():
                network.frozen_features(noise.to(compute.device)).cpu()

    def build(cache: str, removed: str) -> None:
        shutil.rmtree(bench.folder.parent / f"{bench.name}-{cache}" / removed, ignore_errors=True)
        bench.data(cache).inputs(network, compute, (np.arange(count), np.zeros(count, dtype=np.int64)))

    ways: list[Callable[[], None]] = [forward_only, partial(build, "jpeg", ""), partial(build, "decoded", "features")]
    timings = side_by_side(ways, compute, bench.repeats)
    full = batches * BUILD_BATCH  # the last batch is padded to full size and costs as much as the others
    return [
        bench.row(
            dtype=compute.dtype_name, way=way, ms_per_view=1e3 * median(timing) / full,
            share_of_bare_throughput=median(timings[0]) / median(timing), spread=spread(timing), repeats=bench.repeats,
        )
        for way, timing in zip(("frozen part alone", "from JPEGs", "from decoded photos"), timings, strict=True)
    ]  # fmt: skip


BENCHES = {"train": bench_train, "predict": bench_predict, "cache": bench_cache}
