"""The file of cached features: one row per (photo, view), memory-mapped.

    .cache/features/NAME-HASH/
      about.json     what the features are of: weights, block, photos, dtype, device, versions; HASH is its
      features.bin   rows of equal size, channels last
      index.jsonl    one line per finished shard: its first row, its (photo, view) pairs, the checksum of its rows

A line is appended to the index after its rows were written, so a killed build loses one shard. A shard whose checksum does not
match when a process first reads it is forgotten and computed again. Only the holder of the lock writes.
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.console import log
from pawpularity.files import text_hash, write_json, write_text

SHARD_BYTES = 32_000_000
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """Rows `start` .. `start + len(pairs)` of features.bin."""

    start: int
    pairs: Rows
    """(rows, 2): photo, view"""
    checksum: int

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from another shard at the same place."""
        return self.start, self.checksum

    def line(self) -> str:
        """The shard's line of the index."""
        return json.dumps([self.start, self.pairs.ravel().tolist(), self.checksum]) + "\n"


class FeatureFile:
    """Features before one block of one network, for one table of photos."""

    def __init__(self, root: Path, name: str, about: Mapping[str, Any], photos: int) -> None:
        """`about` holds `shape` (of one row), `dtype` (torch's name) and everything else that decides the features."""
        self.about = dict(about)
        self.folder = root / f"{name}-{text_hash(json.dumps(self.about, sort_keys=True))}"
        self.photos = photos
        self.shape: tuple[int, ...] = tuple(about["shape"])
        self.dtype: torch.dtype = getattr(torch, about["dtype"])
        self.row_bytes: int = math.prod(self.shape) * self.dtype.itemsize
        self.shard_rows = max(32, min(1024, SHARD_BYTES // self.row_bytes // 32 * 32))
        self._sound: set[tuple[int, int]] = set()
        self._damaged: set[tuple[int, int]] = set()
        self.load()

    @property
    def rows_file(self) -> Path:
        """The rows."""
        return self.folder / "features.bin"

    def load(self) -> None:
        """Read the index."""
        index, rows = self.folder / "index.jsonl", self.rows_file
        self.shards: list[Shard] = []
        size = rows.stat().st_size // self.row_bytes if rows.is_file() else 0
        for line in index.read_text(encoding="utf-8", errors="replace").splitlines() if index.is_file() else []:
            try:
                start, pairs, checksum = json.loads(line)
                shard = Shard(int(start), np.array(pairs, dtype=np.int64).reshape(-1, 2), int(checksum))
            except (ValueError, TypeError):
                continue  # the line of a killed build
            inside = shard.start + len(shard.pairs) <= size and (shard.pairs[:, 0] < self.photos).all()
            if inside and shard.key not in self._damaged:
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

    def verify(self, photos: Rows, views: Rows) -> None:
        """Forget shards that hold any of these pairs and do not match their checksum."""
        used = self.slots(photos, views)
        starts = np.array(sorted(shard.start for shard in self.shards), dtype=np.int64)
        touched = set(starts[np.unique(np.searchsorted(starts, used[used >= 0], side="right") - 1)].tolist())
        unread = [shard for shard in self.shards if shard.start in touched and shard.key not in self._sound]
        if not unread:
            return
        with self.rows_file.open("rb") as file:
            damaged = {shard.key for shard in unread if self._checksum(file, shard) != shard.checksum}
        self._sound |= {shard.key for shard in unread} - damaged
        if damaged:
            log(f"features {self.folder}: {len(damaged)} damaged part(s) found; they are computed again")
            self._damaged |= damaged
            self.load()

    def _checksum(self, file: BinaryIO, shard: Shard) -> int:
        file.seek(shard.start * self.row_bytes)
        left, value = len(shard.pairs) * self.row_bytes, 0
        while left and (part := file.read(min(left, 1 << 22))):
            value, left = zlib.crc32(part, value), left - len(part)
        return value

    def take(self, slots: Rows) -> Tensor:
        """Features in `slots`, (B, *shape), channels first where they have channels; one copy out of the memory map."""
        if self._rows is None:
            # Copy-on-write, because torch wants writable memory; nothing writes, so nothing is copied.
            end = max(shard.start + len(shard.pairs) for shard in self.shards)
            raw = np.memmap(self.rows_file, dtype=np.uint8, mode="c", shape=(end, self.row_bytes))
            self._rows = torch.from_numpy(raw).view(self.dtype)
        rows = self._rows.index_select(0, torch.from_numpy(slots)).view(len(slots), *self.shape)
        return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows

    @contextmanager
    def building(self) -> Iterator[None]:
        """Hold the write lock, and know what another builder did meanwhile."""
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=1)
        except Timeout:
            log(f"features {self.folder.name}: another process is computing them; waiting")
            lock.acquire()
        try:
            if about_of(self.folder) != self.about:
                write_json(self.folder / "about.json", self.about)
            self.load()
            if self._damaged:
                write_text(self.folder / "index.jsonl", "".join(shard.line() for shard in self.shards))
            yield
        finally:
            lock.release()

    def append(self, pairs: Rows, rows: NDArray[np.uint8]) -> None:
        """Inside `building`: write a shard, `rows` (len(pairs), row_bytes), and then its line of the index."""
        start = max((shard.start + len(shard.pairs) for shard in self.shards), default=0)
        shard = Shard(start, pairs, zlib.crc32(rows.data))
        with self.rows_file.open("r+b" if self.rows_file.is_file() else "w+b") as file:
            file.seek(start * self.row_bytes)
            file.write(rows.data)
        with (self.folder / "index.jsonl").open("a", encoding="utf-8", newline="\n") as index:
            index.write(shard.line())
        self._sound.add(shard.key)
        self.shards.append(shard)
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
