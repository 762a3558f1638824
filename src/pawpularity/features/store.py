"""The file of trunk states: what the frozen part of a network answered, one row per (photo, view), memory-mapped.

    .cache/trunk/NAME-HASH/
      about.json     what the states are of: weights, cut, photos, decoding, dtype, device, versions; the folder's HASH is its
      states.bin     rows of equal size, channels last
      index.jsonl    one line per finished shard: where its rows begin, which (photo, view) pairs they are, their checksum

A line is appended to the index after its rows were written, so a killed build loses the shard in hand and no more; a row
that no line vouches for does not exist. Checksums are compared when a process first reads a shard: a shard that does not
match is forgotten and made again. Only the holder of the lock writes.
"""

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.console import log
from pawpularity.errors import UserError
from pawpularity.files import text_hash, write_json, write_text

VERSION = 1
SHARD_BYTES = 32_000_000


@dataclass(frozen=True)
class Shard:
    """Rows `start` .. `start + len(pairs)` of states.bin."""

    start: int
    pairs: NDArray[np.int64]
    """(rows, 2): photo, view"""
    checksum: int

    def line(self) -> str:
        """The shard's line of the index, which carries a checksum of its own."""
        body = json.dumps({"start": self.start, "pairs": self.pairs.ravel().tolist(), "checksum": self.checksum})
        return f"{zlib.crc32(body.encode()):08x} {body}\n"

    @staticmethod
    def read(line: str) -> "Shard | None":
        """The shard of a line; None for a torn or altered one."""
        check, _, body = line.rstrip("\n").partition(" ")
        if check != f"{zlib.crc32(body.encode()):08x}":
            return None
        try:
            fields = json.loads(body)
            pairs = np.array(fields["pairs"], dtype=np.int64).reshape(-1, 2)
            return Shard(int(fields["start"]), pairs, int(fields["checksum"]))
        except (ValueError, KeyError, TypeError):
            return None


class FeatureFile:
    """States of one cut of one network for one table of photos."""

    def __init__(self, root: Path, name: str, about: Mapping[str, Any], photos: int) -> None:
        """`about` must hold `shape` (of one stored state), `dtype` (torch's name) and everything that decides the states."""
        self.about = dict(about) | {"version": VERSION}
        identity = json.dumps({k: v for k, v in self.about.items() if k != "version"}, sort_keys=True)
        self.folder = root / f"{name}-{text_hash(identity)}"
        self.photos = photos
        self.shape: tuple[int, ...] = tuple(about["shape"])
        self.dtype: torch.dtype = getattr(torch, about["dtype"])
        self.row_bytes: int = math.prod(self.shape) * self.dtype.itemsize
        self.shards: list[Shard] = []
        self._checked: set[int] = set()
        self._slots: dict[int, NDArray[np.int64]] = {}
        self._rows: Tensor | None = None
        self._torn = False
        self._lock_inode = 0
        self.load()

    @property
    def states_file(self) -> Path:
        """The rows."""
        return self.folder / "states.bin"

    @property
    def shard_rows(self) -> int:
        """Rows of a shard: about 32 MB, so that a killed build loses seconds."""
        rows: int = SHARD_BYTES // self.row_bytes // 32 * 32
        return max(32, min(1024, rows))

    def load(self) -> None:
        """Read the index anew. What another version wrote is not looked at."""
        checked = {(shard.start, shard.checksum) for shard in self.shards if shard.start in self._checked}
        self.shards, self._slots, self._rows, self._torn = [], {}, None, False
        self._read()
        self._checked = {shard.start for shard in self.shards if (shard.start, shard.checksum) in checked}

    def _read(self) -> None:
        if about_of(self.folder) != self.about:
            return
        try:
            index = (self.folder / "index.jsonl").read_bytes()
        except FileNotFoundError:
            return
        size = self.states_file.stat().st_size if self.states_file.is_file() else 0
        for line in index.splitlines(keepends=True):
            shard = Shard.read(line.decode(errors="replace")) if line.endswith(b"\n") else None
            if shard is None or not self._possible(shard, size):
                self._torn = True
                continue
            self.shards.append(shard)
        self._map()

    def _possible(self, shard: Shard, size: int) -> bool:
        """Whether the file has these rows and the table these photos."""
        photos = shard.pairs[:, 0]
        inside = shard.start >= 0 and (shard.start + len(photos)) * self.row_bytes <= size
        return bool(inside and len(photos) and photos.min() >= 0 and photos.max() < self.photos)

    def _map(self) -> None:
        self._slots = {}
        for shard in self.shards:
            for view in np.unique(shard.pairs[:, 1]):
                slots = self._slots.setdefault(int(view), np.full(self.photos, -1, dtype=np.int64))
                at = np.flatnonzero(shard.pairs[:, 1] == view)
                slots[shard.pairs[at, 0]] = shard.start + at
        self._rows = None

    def slots(self, photos: NDArray[np.int64], views: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the pairs lie, (pairs,); -1 for those that are not there."""
        found = np.full(len(photos), -1, dtype=np.int64)
        for view in np.unique(views):
            table = self._slots.get(int(view))
            if table is not None:
                at = views == view
                found[at] = table[photos[at]]
        return found

    def check(self, photos: NDArray[np.int64], views: NDArray[np.int64]) -> int:
        """Compare the checksums of the shards that hold these pairs, forget those that differ, and say how many."""
        used = self.slots(photos, views)
        starts = np.array(sorted(shard.start for shard in self.shards), dtype=np.int64)
        touched = set(starts[np.unique(np.searchsorted(starts, used[used >= 0], side="right") - 1)].tolist())
        bad = set()
        with self.states_file.open("rb") if touched - self._checked else _nothing() as file:
            for shard in self.shards:
                if shard.start in touched and shard.start not in self._checked:
                    assert file is not None
                    if self._checksum(file, shard) == shard.checksum:
                        self._checked.add(shard.start)
                    else:
                        bad.add(shard.start)
        if bad:
            self.shards = [shard for shard in self.shards if shard.start not in bad]
            self._torn = True
            self._map()
        return len(bad)

    def _checksum(self, file: Any, shard: Shard) -> int:
        file.seek(shard.start * self.row_bytes)
        left, value = len(shard.pairs) * self.row_bytes, 0
        while left:
            part = file.read(min(left, 1 << 22))
            if not part:
                return -1
            value, left = zlib.crc32(part, value), left - len(part)
        return value

    def take(self, slots: NDArray[np.int64]) -> Tensor:
        """States in `slots`, (B, *state), channels_last where they have channels; one copy out of the memory map."""
        if self._rows is None:
            # Copy-on-write, because torch wants writable memory; nothing writes, so nothing is copied.
            end = max(shard.start + len(shard.pairs) for shard in self.shards)
            raw = np.memmap(self.states_file, dtype=np.uint8, mode="c", shape=(end, self.row_bytes))
            self._rows = torch.from_numpy(raw).view(self.dtype)
        rows = self._rows.index_select(0, torch.from_numpy(slots)).view(len(slots), *self.shape)
        return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows

    @contextmanager
    def building(self) -> Iterator[None]:
        """Hold the write lock; what another builder did meanwhile is known inside.

        Raises UserError for a folder that cannot be written.
        """
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock")
            try:
                lock.acquire(timeout=1)
            except Timeout:
                log(f"trunk   {self.folder.name}: another process is making it; waiting")
                lock.acquire()
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        try:
            self._lock_inode = (self.folder / ".lock").stat().st_ino
            if (self.folder / "about.json").is_file() and about_of(self.folder) != self.about:
                log(
                    f"trunk   {self.folder}: was written by another version of this program, or damaged; it is made anew"
                )
                for left in (self.folder / "index.jsonl", self.states_file):
                    left.unlink(missing_ok=True)
            write_json(self.folder / "about.json", self.about)
            self.load()
            yield
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        finally:
            lock.release()

    def mend(self) -> None:
        """Inside `building`: write the index without torn lines and forgotten shards."""
        if self._torn:
            write_text(self.folder / "index.jsonl", "".join(shard.line() for shard in self.shards))
            self._torn = False

    def append(self, pairs: NDArray[np.int64], rows: NDArray[np.uint8]) -> None:
        """Inside `building`: write a shard, `rows` (len(pairs), row_bytes), and then its line of the index."""
        shard = Shard(self._room(len(pairs)), pairs, zlib.crc32(rows.data))
        lock = self.folder / ".lock"
        if not lock.is_file() or lock.stat().st_ino != self._lock_inode:
            raise UserError(f"{self.folder}: was deleted while it was filled; run again")
        self.states_file.touch()
        with self.states_file.open("r+b") as file:
            try:
                file.seek(shard.start * self.row_bytes)
                file.write(rows.data)
                file.flush()
            except OSError:
                # A full disk: what no line of the index will vouch for need not fill it.
                file.truncate(max((s.start + len(s.pairs) for s in self.shards), default=0) * self.row_bytes)
                raise
        with (self.folder / "index.jsonl").open("a", encoding="utf-8", newline="\n") as index:
            index.write(shard.line())
        self.shards.append(shard)
        self._checked.add(shard.start)

    def _room(self, rows: int) -> int:
        """The first row where `rows` of them fit: a hole that a forgotten shard left, else the end."""
        end = 0
        for shard in sorted(self.shards, key=lambda shard: shard.start):
            if shard.start - end >= rows:
                return end
            end = shard.start + len(shard.pairs)
        return end

    def finish(self) -> None:
        """Make what was appended readable."""
        self._map()


def about_of(folder: Path) -> dict[str, Any] | None:
    """What a trunk folder's about.json says; None for one that says nothing we could have written."""
    try:
        found = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _unwritable(folder: Path, error: OSError) -> UserError:
    cause = error.strerror or error
    if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError | FileNotFoundError):
        return UserError(
            f"{folder}: cannot be written ({cause}: {error.filename}); delete it (make clean-cache) and run again"
        )
    return UserError(f"{folder}: cannot be written ({cause}); free space, or set cache.folder elsewhere; what is there "
                     "already stays good")  # fmt: skip


def stored(state: Tensor) -> NDArray[np.uint8]:
    """A batch of states as bytes, (B, row_bytes), channels last."""
    rows = state.permute(0, 2, 3, 1) if state.ndim == 4 else state
    return rows.contiguous().cpu().flatten(1).view(torch.uint8).numpy()
