"""An epoch four ways, in one run: the plain loop of public solutions, and the tail behind stored states.

- `plain float32`: every photo decoded every epoch, the whole net in float32, as public solutions do;
- `plain bfloat16` or `plain float16`: the same under autocast in channels_last, the half precision that the table's columns
  speak of; `plain channels_last` in its place where half precision is no faster, and float32 is the machine's best;
- `trunk cold`: our first epoch: photos decoded, trunk run and stored, tail trained;
- `trunk warm`: every further epoch, fold and trial: the tail alone.

All four run the project's own training loop over the same items of a drawn shelter of large photos, with the paper's copies.
One way after the other, each with a warm-up: how far the machine was from idle shows in `spread`.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pawpularity.config import resolve
from pawpularity.data.photo_cache import Photos, fingerprint, photos_of
from pawpularity.data.photos import decode
from pawpularity.device import Compute, choose
from pawpularity.features.build import Trunks
from pawpularity.models.network import Network, build_network
from pawpularity.sample.draw import draw_shelter
from pawpularity.schema import Config
from pawpularity.studies.benchmark.machine import PeakMemory, Timing, side_by_side
from pawpularity.studies.benchmark.roofline import Roofline, floor_of
from pawpularity.training.batches import EpochBatches
from pawpularity.training.fit import Loop
from pawpularity.training.labelled import LabelledPhotos
from pawpularity.training.samples import items_of, shown
from pawpularity.training.step import loss_of

BATCH = 64
LARGE = 1024  # px of the drawn photos: decoding one takes what a contest photo takes
EPOCHS = 10
# As the authors froze, but for DenseNet-161, whose last 100 tensors are the project's yardstick (the authors trained 82).
DEPTHS = {"densenet161": 100, "resnet152": 65, "vgg19_bn": 18, "efficientnet_b7": 109}


class DecodedEachTime:
    """Looks like an array of photos, and decodes the file whenever a row is asked for."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths, self.shape = paths, (len(paths), size, size, 3)

    def __getitem__(self, row: int) -> NDArray[np.uint8]:
        return decode(self.paths[row], self.shape[1], "squash")


@dataclass
class Shelter:
    """Large photos on disk, their scores, and a folder for caches."""

    paths: list[Path]
    scores: NDArray[np.float64]
    folder: Path

    def photos(self, size: int, cache: str) -> Photos:
        """The photos through a photo cache of its own; another `cache` starts cold."""
        prints = [fingerprint(path.read_bytes()) for path in self.paths]
        return photos_of(self.paths, prints, size=size, fit="squash", folder=self.folder / cache, key="bench")

    def undecoded(self, size: int) -> Photos:
        """The photos without any cache."""
        pixels: Any = DecodedEachTime(self.paths, size)
        return Photos("", np.arange(len(self.paths), dtype=np.uint64), pixels)

    def rows(self, photos: Photos, trunks: Trunks | None = None) -> LabelledPhotos:
        """As the training loop takes them."""
        n = len(self.scores)
        return LabelledPhotos(photos, np.arange(n), np.zeros((n, 12), np.float32), self.scores, np.arange(n), trunks)


@contextmanager
def shelter(photos: int) -> Iterator[Shelter]:
    """A drawn shelter in a temporary folder, removed afterwards."""
    import pandas as pd

    with tempfile.TemporaryDirectory(prefix="pawpularity-bench-") as name:
        folder = Path(name)
        draw_shelter(folder / "photos", photos=photos, size=LARGE, seed=11, test_photos=1, progress=False)
        table = pd.read_csv(folder / "photos" / "train.csv")
        paths = [folder / "photos" / "train" / f"{one}.jpg" for one in table["Id"]]
        yield Shelter(paths, table["Pawpularity"].to_numpy(dtype=np.float64), folder)


def settings(name: str, unfrozen: int | None) -> Config:
    """Config `name` at depth `unfrozen` (None: its own), with nothing but the training steps in its loop."""
    depth = [] if unfrozen is None else [f"model.unfrozen={unfrozen}"]
    return resolve(name, ["model.weights=none", "train.stop=none", "train.schedule=cosine", f"train.epochs={EPOCHS}",
                          f"train.batch_size={BATCH}", "train.augment=none", "train.copies=authors",
                          "train.workers=0", *depth])  # fmt: skip


class Way:
    """One way through an epoch: a network, an optimiser, its inputs; `epoch()` runs one."""

    def __init__(self, config: Config, rows: LabelledPhotos, compute: Compute) -> None:
        self.config, self.compute, self.rows = config, compute, rows
        self.network = build_network(config, fold=0)
        self.loop = Loop(config, rows, self.network, compute, 0, None, None)
        items = items_of(config, rows.scores, np.arange(len(rows.scores)))
        self.items, self.schedule, self.shown = items.rows, items.schedule(config, 0), shown(config, items)
        self.batches = EpochBatches(len(self.items), BATCH, 0)
        self.done = 0

    def open(self) -> None:
        """Get the inputs: with a trunk, compute its states as far as they are not there."""
        self.loop.inputs = self.rows.inputs(self.network, self.compute, *self.shown)

    def epoch(self) -> None:
        """One epoch."""
        self.loop.epoch(self.items, self.schedule.of(self.done % EPOCHS), self.batches, self.done % EPOCHS)
        self.done += 1

    def step(self) -> tuple[int, Callable[[], None]]:
        """Items of a batch, and a function that runs one step on it, without the reading of its batch."""
        items = next(iter(self.batches.of(0)))
        x = self.loop.inputs.take(self.items[items], self.schedule.of(0)[items]).to(self.compute.device)
        target = torch.full((len(items),), 38.0, device=self.compute.device)
        columns = torch.zeros(len(items), 12, device=self.compute.device)
        self.network.train()

        def step() -> None:
            with self.compute.autocast():
                raw = self.network.tail(self.loop.inputs.state(self.network, x), columns)
            self.loop.optimiser.zero_grad(set_to_none=True)
            loss_of(self.network, raw, target, self.config.train).backward()  # type: ignore[no-untyped-call]
            self.loop.optimiser.step()

        return len(items), step

    def floor(self) -> Roofline:
        """Of one such step."""
        return floor_of(self.step()[1], self.compute.device)


def bench_train(
    name: str, unfrozen: int | None, data: Shelter, compute: Compute, repeats: int, frozen_bn: bool
) -> list[dict[str, Any]]:
    """Rows of the table for one backbone. `frozen_bn` holds for the tail; the plain loops train BatchNorm as usual."""
    base = settings(name, unfrozen)
    size = base.photos.size
    float32 = choose("float32", str(compute.device))
    slow = Way(with_train(base, channels_last=False, dtype="float32"), data.rows(data.undecoded(size)), float32)
    half = Way(with_train(base, channels_last=True, dtype=compute.dtype_name), data.rows(data.undecoded(size)), compute)
    photos = data.photos(size, f"cold-{name}")
    trunks = Trunks(data.folder / f"cold-{name}" / "trunk", photos, size, 1e6)
    ours_config = with_train(base, channels_last=True, dtype=compute.dtype_name, frozen_bn=frozen_bn)
    ours = Way(ours_config, data.rows(photos, trunks), compute)
    # Warm kernels, cold files: what a second backbone of a session would meet.
    _warm(ours.network, compute, size)
    with PeakMemory() as build_peak:
        started = time.perf_counter()
        ours.open()
        compute.synchronise()
        build = time.perf_counter() - started
    slow.open()
    half.open()
    peaks: list[float] = []
    timings: list[Timing] = []
    for way, turns in ((slow, repeats), (half, repeats), (ours, 3 * repeats)):
        with PeakMemory() as peak:
            timings += side_by_side([way.epoch], compute, turns)
        peaks.append(peak.mb)
    floors = [way.floor() for way in (slow, half, ours)]
    n = len(ours.items)
    each = [timing.median / n for timing in timings]
    cold = build / n + each[2]
    total = EPOCHS * each[1] / (build / n + EPOCHS * each[2])
    common = {
        "backbone": name,
        "unfrozen": base.model.unfrozen,
        "device": compute.device.type,
        "items": n,
        "epochs": EPOCHS,
    }
    best = "channels_last" if compute.dtype == torch.float32 else compute.dtype_name
    rows = []
    for label, seconds, timing, floor, peak_mb in (
        ("plain float32", each[0], timings[0], floors[0], peaks[0]),
        (f"plain {best}", each[1], timings[1], floors[1], peaks[1]),
        ("trunk cold", cold, None, None, build_peak.mb),
        ("trunk warm", each[2], timings[2], floors[2], peaks[2]),
    ):
        least = floor.seconds / _batch_of(n) if floor is not None else None
        rows.append(common | {
            "way": label,
            "ms_per_image": 1e3 * seconds,
            "images_per_s": 1 / seconds,
            "times_plain_float32": each[0] / seconds,
            "times_plain_half": each[1] / seconds,
            "ten_epochs_times_plain_half": total if label.startswith("trunk") else None,
            "floor_ms": None if least is None else 1e3 * least,
            "times_floor": None if least is None else seconds / least,
            "spread": None if timing is None else timing.spread,
            "repeats": 1 if timing is None else len(timing.seconds),
            "peak_anonymous_mb": peak_mb,
        })  # fmt: skip
    return rows


def _batch_of(items: int) -> float:
    """Items of the batch whose floor was taken: batches are of equal size, give or take one."""
    return items / len(EpochBatches(items, BATCH, 0))


def with_train(config: Config, **train: Any) -> Config:
    """`config` with other `train` settings; nothing is checked."""
    return replace(config, train=replace(config.train, **train))


def _warm(network: Network, compute: Compute, size: int) -> None:
    network.to(compute.device).eval()
    with torch.inference_mode(), compute.autocast():
        network.trunk(torch.zeros(32, size, size, 3, dtype=torch.uint8, device=compute.device))
    network.train()
