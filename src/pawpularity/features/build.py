"""Compute cached features: run the frozen part of a network once per (photo, view), as far as that was not done before.

`FeatureCache` belongs to one table of photos. `FeatureCache.open(network, compute, photos, views)` returns the file with the
features of these pairs, and first computes the missing ones. Threads decode and augment photos while the network computes. A
deeper block starts from the features of a shallower one, and a build that was killed resumes. It first logs how much disk it
needs. If the budget is too small, it logs that and returns None.

Every batch has the same size (the last one is filled up), so that features do not depend on which other photos are in the
batch: another batch size may select other kernels and change the last digits.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.console import Progress, log
from pawpularity.data.augment import Augmenter
from pawpularity.data.photo_cache import Photos
from pawpularity.data.photos import ordered_map, prefetch, thread_count
from pawpularity.device import Compute
from pawpularity.features.store import FeatureFile, Rows, about_of, to_rows
from pawpularity.files import OTHER_CACHE, require_space, size_text
from pawpularity.models.network import Network
from pawpularity.transforms import Pipeline

BATCH = 32
Batches = Iterator[tuple[Rows, Tensor]]
"""(photo, view) pairs and the network's input for them"""


@dataclass
class FeatureCache:
    """The cached features of one table of photos."""

    folder: Path
    """`cache.folder`/features"""
    photos: Photos
    size: int
    budget_gb: float
    _files: dict[str, FeatureFile] = field(default_factory=dict)
    _logged: set[str] = field(default_factory=set)

    def open(
        self, network: Network, compute: Compute, photos: Rows, views: Rows, *, build: bool = True,
        pipeline: Pipeline | None = None,
    ) -> FeatureFile | None:  # fmt: skip
        """The file with the features of the pairs (`photos[i]`, `views[i]`) behind the network's frozen blocks.

        `pipeline`: the transforms of random views. Each list has files of its own, so that a view's number means one picture.

        None where nothing is frozen, where they do not fit the budget, and without `build` where some are missing. `network` is
        on `compute.device`. Raises UserError for bad photos or a full disk; finished shards are kept.
        """
        if network.frozen_blocks == 0 or not self.photos.key:
            return None
        if self.budget_gb == 0:
            self.log_once("features cache.budget_gb is 0: the frozen part runs in every epoch, which is slower")
            return None
        file = self._file(network, compute, network.frozen_blocks, pipeline)
        missing = _missing(file, photos, views)
        if len(missing) and not (build and self._affordable(file, len(missing))):
            return None
        if len(missing):
            needed = len(missing) * file.row_bytes + self.photos.undecoded_bytes
            require_space(self.folder, needed, "cached features and decoded photos", OTHER_CACHE)
            with file.building():
                self._build(file, network, compute, _missing(file, photos, views))
        if build:
            frozen = f"{network.frozen_blocks} of {len(network.split)} blocks"
            self.log_once(f"features {file.folder}: the first {frozen} are frozen and their features cached")
        return file

    def log_once(self, line: str) -> None:
        """Log a line that every fold would repeat."""
        if line not in self._logged:
            self._logged.add(line)
            log(line)

    def _file(self, network: Network, compute: Compute, blocks: int, pipeline: Pipeline | None) -> FeatureFile:
        weights = network.frozen_hash(blocks)
        about_run = (
            blocks,
            weights,
            network.model.args,
            compute.device.type,
            compute.dtype_name,
            network.channels_last,
            pipeline,
        )
        key = " ".join(map(str, about_run))
        if key not in self._files:
            probe = run_blocks(network, compute, torch.zeros(1, self.size, self.size, 3, dtype=torch.uint8), 0, blocks)
            shape = (probe.shape[2], probe.shape[3], probe.shape[1]) if probe.ndim == 4 else tuple(probe.shape[1:])
            about = {
                "backbone": _folder_name(network.model.backbone),  # its tag changes nothing; the weights are hashed
                "args": {name: repr(value) for name, value in network.model.args.items()},
                "blocks": blocks,
                "block": network.split.blocks[blocks - 1].name,
                "weights": weights,
                "photos": self.photos.key,
                "device": compute.device.type,
                "compute": compute.dtype_name,
                "channels_last": network.channels_last,
                "batch": BATCH,
                "shape": list(shape),
                "dtype": str(probe.dtype).removeprefix("torch."),
                "versions": {
                    name: version(name) for name in ("torch", "timm", "albumentations", "opencv-python-headless")
                },
            } | ({"augment": pipeline} if pipeline else {})
            self._files[key] = FeatureFile(
                self.folder, f"{_folder_name(network.model.backbone)}-{blocks}", about, len(self.photos)
            )
        return self._files[key]

    def _affordable(self, file: FeatureFile, rows: int) -> bool:
        used = sum(part.stat().st_size for part in self.folder.glob("*/features.bin"))
        needed = rows * file.row_bytes
        if used + needed <= self.budget_gb * 1e9:
            return True
        taken = f" and {size_text(used)} are taken (make clean-cache shows them)" if used else ""
        self.log_once(
            f"features {rows:,} rows of {size_text(file.row_bytes)} would take {size_text(needed)}; cache.budget_gb allows "
            f"{size_text(self.budget_gb * 1e9)}{taken}: the frozen part runs in every epoch, which is slower"
        )
        return False

    def _shallower(self, file: FeatureFile, network: Network, compute: Compute) -> FeatureFile | None:
        """The deepest file before this block, of the same frozen weights."""
        files = self.folder.glob(f"{_folder_name(network.model.backbone)}-*/about.json")
        depths = {(about_of(about.parent) or {}).get("blocks", 0) for about in files}
        for blocks in sorted(depths & set(range(1, network.frozen_blocks)), reverse=True):
            other = self._file(network, compute, blocks, file.about.get("augment"))
            other.load()
            if other.shards:
                return other
        return None

    def _build(self, file: FeatureFile, network: Network, compute: Compute, pairs: Rows) -> None:
        """Compute and append the features of `pairs`, which are sorted by photo."""
        if not len(pairs):
            return
        network.place(compute.device).eval()
        shallow = self._shallower(file, network, compute)
        known = np.zeros(len(pairs), dtype=bool)
        if shallow is not None:
            known = shallow.slots(pairs[:, 0], pairs[:, 1]) >= 0
        log(
            f"features {network.model.backbone} up to {file.about['block']}: {len(pairs):,} views of "
            f"{len(np.unique(pairs[:, 0])):,} photos, {size_text(file.row_bytes)} each, {known.sum():,} of them from a shallower "
            f"block; {size_text(len(pairs) * file.row_bytes)} in {file.folder}"
        )
        with Progress(len(pairs), "caching features", "views") as progress:
            if shallow is not None and known.any():
                part, blocks = pairs[known], shallow.about["blocks"]
                _fill(file, network, compute, part, _shallow_rows(shallow, part), blocks, progress)
            if not known.all():
                images = self._augmented(pairs[~known], file.about.get("augment"))
                _fill(file, network, compute, pairs[~known], images, 0, progress)

    def _augmented(self, pairs: Rows, pipeline: Pipeline | None) -> Batches:
        """Batches of augmented photos, decoded and augmented by threads."""
        photos, first = np.unique(pairs[:, 0], return_index=True)
        views = dict(zip(photos.tolist(), np.split(pairs[:, 1], first[1:]), strict=True))
        augmenter = Augmenter(self.size, pipeline)

        def augment(decoded: tuple[int, NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
            row, pixels = decoded
            return [augmenter.apply(pixels, int(view), int(self.photos.seeds[row])) for view in views[row]]

        images = (image for photo in ordered_map(augment, self.photos.each(photos), thread_count()) for image in photo)
        for part in _parts(pairs):
            yield part, torch.from_numpy(np.stack([next(images) for _ in part]))


def _folder_name(backbone: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", backbone.partition(".")[0])


def _missing(file: FeatureFile, photos: Rows, views: Rows) -> Rows:
    """The (photo, view) pairs that are not in the file, each once, sorted, (n, 2)."""
    absent = np.flatnonzero(file.slots(photos, views) < 0)
    return np.unique(np.stack([photos[absent], views[absent]], axis=1), axis=0)


def _parts(pairs: Rows) -> Iterator[Rows]:
    return (pairs[start : start + BATCH] for start in range(0, len(pairs), BATCH))


def _shallow_rows(shallow: FeatureFile, pairs: Rows) -> Batches:
    return ((part, shallow.take(shallow.slots(part[:, 0], part[:, 1]))) for part in _parts(pairs))


def _fill(
    file: FeatureFile,
    network: Network,
    compute: Compute,
    pairs: Rows,
    source: Batches,
    start: int,
    progress: Progress,
) -> None:
    """Run blocks from `start` on over what `source` yields of `pairs`, and append the features shard by shard."""
    held: list[NDArray[np.uint8]] = []
    first = rows = 0
    for part, x in prefetch(source, 2):
        full = x if len(x) == BATCH else torch.cat([x, x[-1:].expand(BATCH - len(x), *x.shape[1:])])
        held.append(to_rows(run_blocks(network, compute, full, start, network.frozen_blocks))[: len(part)])
        rows += len(part)
        if rows >= file.shard_rows or first + rows == len(pairs):
            file.append(pairs[first : first + rows], np.ascontiguousarray(np.concatenate(held)))
            held, first, rows = [], first + rows, 0
        progress.add(len(part))


@torch.inference_mode()
def run_blocks(network: Network, compute: Compute, x: Tensor, start: int, stop: int) -> Tensor:
    """The features before block `stop`, of photos (uint8; `start` 0) or of features before block `start`."""
    x = x.to(compute.device, non_blocking=True)
    with compute.autocast():
        return network.split.run(network.laid_out(x) if start else network.normalise(x), start, stop)
