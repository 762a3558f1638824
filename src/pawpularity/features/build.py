"""Fill trunk files: run the frozen part of a network once per (photo, view), as far as it was not run before.

`Trunks` belongs to one table of photos. `Trunks.open(network, compute, rows, views)` gives the file that holds the states
of these pairs, made on the way: photos are decoded and augmented by threads while the network computes, a deeper cut starts
from the states of a shallower one that is there, and a build that was killed goes on where it stopped. Before it starts it
says how much disk and time it will take; where the disk budget is too small it says so and gives None.

Every batch has the same size (the last one is filled up), so that a state does not depend on which other photos were
asked for: other batch sizes may pick other kernels, and differ in the last digits.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.console import log
from pawpularity.data.augment import RANDOM, Augmenter
from pawpularity.data.photo_cache import Photos
from pawpularity.data.photos import ordered_map, prefetch, thread_count
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.features.store import TrunkFile, about_of, stored
from pawpularity.files import OTHER_CACHE, require_space, size_text
from pawpularity.models.network import Network

BATCH = 32
Rows = NDArray[np.int64]
PairSource = Callable[[NDArray[np.int64]], Iterator[tuple[NDArray[np.int64], Tensor]]]
"""From (photo, view) pairs to some of them and what the network is fed for these, a batch at a time."""


@dataclass
class Trunks:
    """The trunk files of one table of photos."""

    folder: Path
    """`cache.folder`/trunk"""
    photos: Photos
    size: int
    budget_gb: float
    _files: dict[str, TrunkFile] = field(default_factory=dict)
    _said: set[str] = field(default_factory=set)

    @cached_property
    def augmenter(self) -> Augmenter:
        """Makes the augmentations."""
        return Augmenter(self.size)

    def open(
        self, network: Network, compute: Compute, photos: Rows, views: Rows, *, build: bool = True
    ) -> TrunkFile | None:
        """The file with the states of the pairs (`photos[i]`, `views[i]`) at the network's cut; None: not within the budget.

        `network` is on `compute.device`, in evaluation mode as far as it is frozen. None as well where nothing is frozen.
        Without `build` None as well where states are missing. Raises UserError for bad photos, or a full or unwritable disk;
        what was finished until then is kept.
        """
        if network.cut == 0 or not self.photos.key:
            return None
        if self.budget_gb == 0:
            self.say_once("trunk   cache.budget_gb is 0: the frozen part runs in every epoch, which is slower")
            return None
        file = self._file(network, compute, network.cut)
        dropped = file.check(photos, views)
        if dropped:
            log(f"trunk   {file.folder}: {dropped} damaged part(s) found; their states are made again")
        missing = np.flatnonzero(file.slots(photos, views) < 0)
        if not len(missing):
            return file
        if not build:
            return None
        pairs = np.unique(np.stack([photos[missing], views[missing]], axis=1), axis=0)
        if not self._affordable(file, len(pairs)):
            return None
        needed = len(pairs) * file.row_bytes + self.photos.undecoded_bytes
        require_space(self.folder, needed, "the trunk's states and the decoded photos", OTHER_CACHE)
        with file.building():
            file.check(photos, views)
            file.mend()
            pairs = pairs[file.slots(pairs[:, 0], pairs[:, 1]) < 0]
            if len(pairs):
                self._build(file, network, compute, pairs)
            file.finish()
        return file

    def _file(self, network: Network, compute: Compute, cut: int) -> TrunkFile:
        weights = network.trunk_hash(cut)
        key = f"{cut} {weights} {compute.device.type} {compute.dtype_name} {network.channels_last}"
        if key not in self._files:
            state = run(network, compute, torch.zeros(1, self.size, self.size, 3, dtype=torch.uint8), 0, cut)
            shape = (state.shape[2], state.shape[3], state.shape[1]) if state.ndim == 4 else tuple(state.shape[1:])
            about = self._about(network, compute, cut, weights) | {
                "shape": list(shape),
                "dtype": str(state.dtype).removeprefix("torch."),
            }
            name = re.sub(r"[^A-Za-z0-9]+", "-", network.model.backbone.partition(".")[0])
            self._files[key] = TrunkFile(self.folder, f"{name}-{cut}", about, len(self.photos))
        return self._files[key]

    def _about(self, network: Network, compute: Compute, cut: int, weights: str) -> dict[str, Any]:
        return {
            "backbone": network.model.backbone.partition(".")[0],  # its tag changes no answer; the weights are hashed
            "args": {name: repr(value) for name, value in network.model.args.items()},
            "cut": cut,
            "block": network.chain.blocks[cut - 1].name,
            "weights": weights,
            "photos": self.photos.key,
            "device": compute.device.type,
            "compute": compute.dtype_name,
            "channels_last": network.channels_last,
            "batch": BATCH,
            "versions": {name: version(name) for name in ("torch", "timm", "albumentations", "opencv-python-headless")},
        }

    def _affordable(self, file: TrunkFile, rows: int) -> bool:
        there = sum(part.stat().st_size for part in self.folder.glob("*/states.bin"))
        needed = rows * file.row_bytes
        if there + needed <= self.budget_gb * 1e9:
            return True
        others = f", {size_text(there)} of them taken already (make clean-cache shows them)" if there else ""
        self.say_once(
            f"trunk   {rows:,} states of {size_text(file.row_bytes)} would take {size_text(needed)}, and cache.budget_gb "
            f"allows {size_text(self.budget_gb * 1e9)}{others}: the frozen part runs in every epoch, which is slower"
        )
        return False

    def say_once(self, line: str) -> None:
        """Say a line that every fold would repeat."""
        if line not in self._said:
            self._said.add(line)
            log(line)

    def _shallower(self, file: TrunkFile, network: Network, compute: Compute) -> TrunkFile | None:
        """The deepest file before this cut, of the same frozen weights."""
        cuts = set()
        for about in self.folder.glob(f"{file.folder.name.rpartition('-')[0].rpartition('-')[0]}-*/about.json"):
            cut = (about_of(about.parent) or {}).get("cut")
            if isinstance(cut, int) and 0 < cut < network.cut:
                cuts.add(cut)
        for cut in sorted(cuts, reverse=True):
            other = self._file(network, compute, cut)
            if other.folder.is_dir():
                other.load()
                if other.shards:
                    return other
        return None

    def _build(self, file: TrunkFile, network: Network, compute: Compute, pairs: NDArray[np.int64]) -> None:
        """Compute and append the states of `pairs`, which are sorted by photo."""
        shallow = self._shallower(file, network, compute)
        from_shallow = np.zeros(len(pairs), dtype=bool)
        if shallow is not None:
            shallow.check(pairs[:, 0], pairs[:, 1])
            from_shallow = shallow.slots(pairs[:, 0], pairs[:, 1]) >= 0
        network.place(compute.device).eval()
        note = (
            f", {from_shallow.sum():,} of them from kept states at {shallow.about['block']}"
            if from_shallow.any() and shallow
            else ""
        )
        log(
            f"trunk   {network.model.backbone} up to {file.about['block']}: {len(pairs):,} views of "
            f"{len(np.unique(pairs[:, 0])):,} photos, {size_text(file.row_bytes)} each{note}, "
            f"{size_text(len(pairs) * file.row_bytes)} in {file.folder}; "
            f"{_clock(self._seconds(network, compute, pairs, from_shallow))}"
        )
        with _Progress(len(pairs)) as progress:
            if from_shallow.any():
                assert shallow is not None
                source = self._states(shallow)
                fill(file, network, compute, pairs[from_shallow], source, shallow.about["cut"], progress.add)
            if not from_shallow.all():
                fill(file, network, compute, pairs[~from_shallow], self._augmented, 0, progress.add)

    def _states(self, shallow: TrunkFile) -> PairSource:
        def source(pairs: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
            for start in range(0, len(pairs), BATCH):
                part = pairs[start : start + BATCH]
                yield part, shallow.take(shallow.slots(part[:, 0], part[:, 1]))

        return source

    def _augmented(self, pairs: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        photos, first = np.unique(pairs[:, 0], return_index=True)
        views = dict(zip(photos.tolist(), np.split(pairs[:, 1], first[1:]), strict=True))

        def augment(item: tuple[int, NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
            row, pixels = item
            seed = int(self.photos.seeds[row])
            return [self.augmenter.apply(pixels, int(view), seed) for view in views[row]]

        batch = np.empty((BATCH, self.size, self.size, 3), dtype=np.uint8)
        start = filled = 0
        for augmented in ordered_map(augment, self.photos.each(photos), thread_count()):
            for image in augmented:
                batch[filled] = image
                filled += 1
                if filled == BATCH:
                    yield pairs[start : start + BATCH], torch.from_numpy(batch)
                    batch = np.empty_like(batch)
                    start, filled = start + BATCH, 0
        if filled:
            yield pairs[start:], torch.from_numpy(batch[:filled])

    def _seconds(
        self, network: Network, compute: Compute, pairs: NDArray[np.int64], from_shallow: NDArray[np.bool_]
    ) -> float:
        """Seconds the build will take, by a few photos of noise; decoding runs beside it and is not counted."""
        if len(pairs) < 4 * BATCH:
            return 0.0
        # A generator of its own: the training that waits for this draws its dropout from the global one.
        noise = torch.Generator().manual_seed(0)
        x = torch.randint(0, 256, (BATCH // 4, self.size, self.size, 3), dtype=torch.uint8, generator=noise)
        run(network, compute, x[:2], 0, network.cut)
        started = time.perf_counter()
        run(network, compute, x, 0, network.cut)
        compute.synchronise()
        each = (time.perf_counter() - started) / len(x)
        augmenting = 0.002 * (self.size / 224) ** 2 * float((pairs[:, 1] >= RANDOM).mean())
        return float((~from_shallow).sum()) * (each + augmenting)


class _Progress:
    """A bar over states; where standard error is no terminal, a line every half minute."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.said = total, 0, time.perf_counter()
        from tqdm import tqdm

        self.bar = tqdm(total=total, desc="trunk", unit="state", leave=False, disable=None)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add(self, rows: int) -> None:
        """`rows` more are done."""
        self.done += rows
        self.bar.update(rows)
        if self.bar.disable and time.perf_counter() - self.said > 30:
            self.said = time.perf_counter()
            log(f"trunk   {self.done:,} of {self.total:,} states")


def fill(
    file: TrunkFile,
    network: Network,
    compute: Compute,
    pairs: NDArray[np.int64],
    source: PairSource,
    start: int,
    done: Callable[[int], None],
) -> None:
    """Run blocks `start` .. cut over what `source` yields for `pairs`, and append the states shard by shard."""
    held = np.empty((file.shard_rows, file.row_bytes), dtype=np.uint8)
    first = rows = 0
    for part, x in prefetch(source(pairs), 2):
        states = stored(run(network, compute, _filled_up(x), start, network.cut))[: len(part)]
        taken = 0
        while taken < len(part):
            room = min(len(part) - taken, len(held) - rows)
            held[rows : rows + room] = states[taken : taken + room]
            rows, taken = rows + room, taken + room
            if rows == len(held):
                file.append(pairs[first : first + rows], held)
                first, rows = first + rows, 0
        done(len(part))
    if rows:
        file.append(pairs[first : first + rows], np.ascontiguousarray(held[:rows]))
    if first + rows != len(pairs):
        raise UserError(f"{file.folder}: {len(pairs) - first - rows} photos did not come; run again")


@torch.inference_mode()
def run(network: Network, compute: Compute, x: Tensor, start: int, stop: int) -> Tensor:
    """The state before block `stop`, of photos (uint8; `start` 0) or of states before block `start`."""
    x = x.to(compute.device, non_blocking=True)
    with compute.autocast():
        return network.chain.run(network.laid_out(x) if start else network.normalise(x), start, stop)


def _filled_up(x: Tensor) -> Tensor:
    if len(x) == BATCH:
        return x
    return torch.cat([x, x[-1:].expand(BATCH - len(x), *x.shape[1:])])


def _clock(seconds: float) -> str:
    if seconds < 1:
        return "a moment"
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
