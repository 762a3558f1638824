"""The file of cached features: one row per (photo, view), memory-mapped.

    .cache/features/NAME-HASH/
      about.json     what the features are of: weights, block, photos, dtype, device, versions; HASH hashes it
      features.bin   rows of equal size, channels last
      index.jsonl    one line per finished shard: its first row, its (photo, view) pairs

A line is appended to the index when its rows are on the disk, so a killed build loses one shard. Only the holder of the lock
writes.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.data.photo_cache import one_builder
from pawpularity.files import text_hash, write_json

SHARD_BYTES = 32_000_000
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """Rows `start` .. `start + len(pairs)` of features.bin."""

    start: int
    pairs: Rows
    """(rows, 2): photo, view"""

    @property
    def end(self) -> int:
        """The row behind the last one."""
        return self.start + len(self.pairs)


class FeatureFile:
    """Features before one block of one network, for one table of photos."""

    def __init__(self, root: Path, name: str, about: Mapping[str, Any], photos: int) -> None:
        """`about` holds `shape` (of one row), `dtype` (torch's name) and everything else that decides the features."""
        self.about = dict(about)
        self.folder = root / f"{name}-{text_hash(json.dumps(self.about, sort_keys=True))}"
        self.rows_file, self.photos = self.folder / "features.bin", photos
        self.shape: tuple[int, ...] = tuple(about["shape"])
        self.dtype: torch.dtype = getattr(torch, about["dtype"])
        self.row_bytes: int = math.prod(self.shape) * self.dtype.itemsize
        self.shard_rows = max(32, min(1024, SHARD_BYTES // self.row_bytes // 32 * 32))
        self.load()

    def load(self) -> None:
        """Read the index."""
        index, rows = self.folder / "index.jsonl", self.rows_file
        self.shards: list[Shard] = []
        size = rows.stat().st_size // self.row_bytes if rows.is_file() else 0
        for line in index.read_text(encoding="utf-8", errors="replace").splitlines() if index.is_file() else []:
            try:
                start, pairs, *_ = json.loads(line)
                shard = Shard(int(start), np.array(pairs, dtype=np.int64).reshape(-1, 2))
            except (ValueError, TypeError):
                continue  # the line of a killed build
            if shard.end <= size and (shard.pairs[:, 0] < self.photos).all():
                self.shards.append(shard)
        self._map()

    def _map(self) -> None:
        self._slots: dict[int, Rows] = {}
        for shard in self.shards:
            for view in np.unique(shard.pairs[:, 1]):
                slots = self._slots.setdefault(int(view), np.full(self.photos, -1, dtype=np.int64))
                at = np.flatnonzero(shard.pairs[:, 1] == view)
                slots[shard.pairs[at, 0]] = shard.start + at
        self._rows: Tensor | None = None

    def slots(self, photos: Rows, views: Rows) -> Rows:
        """Where the pairs lie, (pairs,); -1 for those that are missing."""
        found = np.full(len(photos), -1, dtype=np.int64)
        for view in np.unique(views):
            if (table := self._slots.get(int(view))) is not None:
                at = views == view
                found[at] = table[photos[at]]
        return found

    def take(self, slots: Rows) -> Tensor:
        """Features in `slots`, (B, *shape), channels first where they have channels; one copy out of the memory map."""
        if self._rows is None:
            # Copy-on-write, because torch wants writable memory; nothing writes, so nothing is copied.
            end = max(shard.end for shard in self.shards)
            raw = np.memmap(self.rows_file, dtype=np.uint8, mode="c", shape=(end, self.row_bytes))
            self._rows = torch.from_numpy(raw).view(self.dtype)
        rows = self._rows.index_select(0, torch.from_numpy(slots)).view(len(slots), *self.shape)
        return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows

    @contextmanager
    def building(self) -> Iterator[None]:
        """Hold the write lock, and reread the index, which another process may have extended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with one_builder(self.folder / ".lock", f"features {self.folder.name}"):
            if about_of(self.folder) != self.about:
                write_json(self.folder / "about.json", self.about)
            self.load()
            yield

    def append(self, pairs: Rows, rows: NDArray[np.uint8]) -> None:
        """Inside `building`: write a shard, `rows` (len(pairs), row_bytes), and then its line of the index."""
        start = max((shard.end for shard in self.shards), default=0)
        with self.rows_file.open("r+b" if self.rows_file.is_file() else "w+b") as file:
            file.seek(start * self.row_bytes)
            file.write(rows.data)
            file.flush()
            os.fsync(file.fileno())
        with (self.folder / "index.jsonl").open("a", encoding="utf-8", newline="\n") as index:
            index.write(json.dumps([start, pairs.ravel().tolist()]) + "\n")
        self.shards.append(Shard(start, pairs))
        self._map()


def about_of(folder: Path) -> dict[str, Any] | None:
    """What a folder's about.json says; None where it is missing or damaged."""
    try:
        found = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def to_rows(features: Tensor) -> NDArray[np.uint8]:
    """A batch of features as bytes, (B, row_bytes), channels last."""
    rows = features.permute(0, 2, 3, 1) if features.ndim == 4 else features
    return rows.contiguous().cpu().flatten(1).view(torch.uint8).numpy()
