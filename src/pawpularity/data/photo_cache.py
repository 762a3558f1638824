"""Memory-mapped arrays with one row a photo: every file is decoded once, for all epochs, folds, runs and processes.

`CachedRows` holds any bytes made of each photo, in a `.npy` file. `Photos` are the decoded pixels of a table, in
`CACHE/photos/KEY-SIZE-FIT-DECODER.npy`.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pawpularity.console import Progress, log
from pawpularity.data.photos import (
    DECODER,
    PhotoError,
    Pixels,
    decode,
    ordered_map,
    read_photo,
    refuse,
    thread_count,
)
from pawpularity.errors import UserError
from pawpularity.files import OTHER_CACHE, atomic_file, require_space, text_hash


def fingerprint(data: bytes) -> str:
    """16 hex digits of BLAKE2b over a photo file's bytes."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


@dataclass(frozen=True)
class CachedRows:
    """`make_row(path)` for every path: uint8 (len(paths), *shape), cached in `file`. Nothing is made until it is needed.

    A file of another length or shape is made again. A killed process leaves no file behind.
    """

    file: Path
    paths: Sequence[Path]
    make_row: Callable[[Path], Pixels]
    shape: tuple[int, ...]
    what: str
    """Names the work, for the progress bar."""

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return len(self.paths) * int(np.prod(self.shape))

    def existing(self) -> Pixels | None:
        """The read-only memory map, or None where the file is missing or cut short."""
        try:
            rows = np.load(self.file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        whole = (len(self.paths), *self.shape)
        return rows if isinstance(rows, np.memmap) and rows.shape == whole and rows.dtype == np.uint8 else None

    def open(self) -> Pixels:
        """The read-only memory map, made first if need be. Raises UserError as `stream` does."""
        if (found := self.existing()) is not None:
            return found
        for _ in self.stream():
            pass
        if (found := self.existing()) is None:
            raise UserError(f"{self.file}: changed while it was made; run again")
        return found

    def stream(self) -> Iterator[Pixels]:
        """All rows in order, while a thread pool makes them. The file appears when the last row has been read.

        A second process waits for the first. Raises UserError listing every bad photo, or where the disk is too small.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with one_builder(self.file.with_name(f"{self.file.name}.lock"), self.file.name):
            if (found := self.existing()) is not None:
                yield from found
                return
            require_space(self.file.parent, self.size, self.what, OTHER_CACHE)
            yield from self._written()

    def _written(self) -> Iterator[Pixels]:
        def attempt(path: Path) -> Pixels | PhotoError:
            try:
                return self.make_row(path)
            except PhotoError as error:
                return error

        header = {"descr": "|u1", "fortran_order": False, "shape": (len(self.paths), *self.shape)}
        faults: list[tuple[Path, str]] = []
        # Plain writes: on a full disk they raise an error, where a writable memory map ends in SIGBUS.
        with (
            atomic_file(self.file) as temporary,
            temporary.open("wb") as out,
            Progress(len(self.paths), self.what) as progress,
        ):
            np.lib.format.write_array_header_1_0(out, header)
            for path, row in zip(self.paths, ordered_map(attempt, self.paths, thread_count()), strict=True):
                progress.add()
                if isinstance(row, PhotoError):
                    faults.append((path, row.reason))
                elif not faults:
                    out.write(np.ascontiguousarray(row).data)
                    yield row
            refuse(faults, len(self.paths), self.file.with_suffix(".bad.txt"))


@dataclass(frozen=True)
class Photos:
    """The photos of a table as squares of pixels; row i is the table's photo i. They are decoded when first needed."""

    key: str
    """Names content, order, size and decoder; empty = their features are not cached."""
    seeds: NDArray[np.uint64]
    """(n,) seeds of the photos' random augmentations, from their content."""
    rows: CachedRows | Pixels
    """Cached on disk, or in memory already."""

    @staticmethod
    def of(pixels: Pixels) -> "Photos":
        """Photos from pixels in memory, (n, size, size, 3)."""
        return Photos("", np.arange(len(pixels), dtype=np.uint64), pixels)

    def __len__(self) -> int:
        return len(self.seeds)

    @cached_property
    def pixels(self) -> Pixels:
        """All photos, uint8 (n, size, size, 3), memory-mapped. Raises UserError as `CachedRows.stream` does."""
        return self.rows.open() if isinstance(self.rows, CachedRows) else self.rows

    @property
    def undecoded_bytes(self) -> int:
        """Disk that decoding them will take; 0 if they are decoded already."""
        return self.rows.size if isinstance(self.rows, CachedRows) and self.rows.existing() is None else 0

    def each(self, wanted: NDArray[np.int64]) -> Iterator[tuple[int, Pixels]]:
        """(row, pixels) of the rows `wanted`, which must ascend. Without a cache file all photos are decoded on the way."""
        if isinstance(self.rows, CachedRows) and self.rows.existing() is None:
            needed = set(wanted.tolist())
            yield from ((row, pixels) for row, pixels in enumerate(self.rows.stream()) if row in needed)
        else:
            yield from ((row, np.asarray(self.pixels[row])) for row in wanted.tolist())


def photos_of(paths: Sequence[Path], prints: Sequence[str], *, size: int, fit: str, folder: Path, key: str) -> Photos:
    """`Photos` of files whose content has the fingerprints `prints`, kept in `folder/photos/`.

    `key` must name the photos' content and their order; `size` and `fit` are as for `decode`.
    """
    expected = dict(zip(paths, prints, strict=True))

    def make(path: Path) -> Pixels:
        # The cache is named by content, so only the bytes that were hashed may be decoded.
        data = read_photo(path)
        if fingerprint(data) != expected[path]:
            raise PhotoError(path, "changed while it was read")
        return decode(data, size, fit)

    file = folder / "photos" / f"{key}-{size}-{fit}-{text_hash(DECODER)}.npy"
    seeds = np.array([int(value[:16], 16) for value in prints], dtype=np.uint64)
    return Photos(file.stem, seeds, CachedRows(file, paths, make, (size, size, 3), "decoding photos"))


@contextmanager
def one_builder(lock_file: Path, what: str) -> Iterator[None]:
    """Hold a lock. While another process holds it, log that it is making `what`, and wait."""
    from filelock import FileLock, Timeout

    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        log(f"{what}: another process is making it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
