"""The memory-mapped arrays of decoded photos: every file is decoded once, for all epochs, folds and runs.

`Photos` keeps what `decode` answers for a whole table in a read-only `.npy` under the cache folder, opens it when it is
first needed, and hands out rows while they are being decoded. `open_rows` is the same for any other bytes of a photo.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pawpularity.data.photos import (
    DECODER,
    PhotoError,
    Pixels,
    bar,
    decode,
    fault,
    file_stat,
    in_order,
    refuse,
    thread_count,
)
from pawpularity.errors import UserError
from pawpularity.files import OTHER_CACHE, atomic_file, require_space, text_hash


@dataclass(frozen=True)
class Photos:
    """The photos of a table as squares of pixels; row i is the table's photo i. Nothing is decoded until it is needed."""

    key: str
    """Names content, order, size and decoding rule; empty = nothing made of them may be kept on disk."""
    seeds: NDArray[np.uint64]
    """(n,) by content: what a photo's random views are drawn from."""
    rows: "Callable[[], Iterator[Pixels]]"
    """All rows in order, decoded if need be (and then cached once the last one was taken)."""
    opened: Callable[[], Pixels | None]
    """The cached rows if they are there."""
    undecoded_bytes: int = 0
    """Disk that decoding all of them will take, if they are not there."""

    @staticmethod
    def of(pixels: Pixels) -> "Photos":
        """Pixels that are in memory already, (n, size, size, 3)."""
        return Photos("", np.arange(len(pixels), dtype=np.uint64), lambda: iter(pixels), lambda: pixels)

    def __len__(self) -> int:
        return len(self.seeds)

    @cached_property
    def pixels(self) -> Pixels:
        """All photos, read-only uint8 (n, size, size, 3), memory-mapped.

        Made once; a second builder waits for the first. Raises UserError listing every bad photo, or for a full or
        unwritable disk.
        """
        found = self.opened()
        if found is None:
            for _ in self.rows():
                pass
            found = self.opened()
        if found is None:
            raise UserError("the photo cache changed while it was made; run again")
        return found

    def each(self, wanted: NDArray[np.int64]) -> Iterator[tuple[int, Pixels]]:
        """(row, pixels) of the rows `wanted`, which ascend. Photos that are not cached are decoded on the way."""
        found = self.opened()
        if found is not None:
            yield from ((int(row), np.asarray(found[row])) for row in wanted)
            return
        left = iter(wanted.tolist())
        due = next(left, None)
        for row, pixels in enumerate(self.rows()):
            if row == due:
                yield row, pixels
                due = next(left, None)


def photos_of(paths: Sequence[Path], prints: Sequence[str], *, size: int, fit: str, folder: Path, key: str) -> Photos:
    """`Photos` of files whose content has the hashes `prints` (`content_print`), kept in `folder/photos/`.

    `key` must name the photos' content and their order (`Dataset.photo_key`); `size` and `fit` are as for `decode`.
    """
    file = _photo_file(folder, key, size, fit)
    due = dict(zip(paths, prints, strict=True))

    def make(path: Path) -> Pixels:
        # The cache is named by the content that was hashed: what is decoded must be those very bytes.
        try:
            file_stat(path)
            data = path.read_bytes()
        except OSError as error:
            raise PhotoError(path, fault(error, path)) from None
        if data and content_print(data) != due[path]:
            raise PhotoError(path, "changed while it was read")
        try:
            return decode(data, size, fit)
        except PhotoError as error:
            raise PhotoError(path, error.reason) from None

    whole = (len(paths), size, size, 3)
    return Photos(
        key=file.stem,
        seeds=np.array([int(value[:16], 16) for value in prints], dtype=np.uint64),
        rows=lambda: _filling(paths, make, whole, file, "decoding photos", None),
        opened=lambda: _valid(file, whole),
        undecoded_bytes=int(np.prod(whole, dtype=np.int64)),
    )


def content_print(data: bytes) -> str:
    """16 hex digits of BLAKE2b over a photo file's bytes."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _photo_file(folder: Path, key: str, size: int, fit: str) -> Path:
    return folder / "photos" / f"{key}-{size}-{fit}-{text_hash(DECODER)}.npy"


def open_rows(
    paths: Sequence[Path],
    make_row: Callable[[Path], Pixels],
    *,
    shape: tuple[int, ...],
    file: Path,
    progress: str,
    threads: int | None = None,
) -> Pixels:
    """Read-only memory map of `make_row(path)` for every path, uint8 (len(paths), *shape), kept in `file`.

    Made at the first call by a thread pool, with a few rows in memory at a time; a second builder waits for the first.
    A file of another shape or length is made again. Raises UserError as `Photos.pixels` does.
    """
    whole = (len(paths), *shape)
    found = _valid(file, whole)
    if found is None:
        for _ in _filling(paths, make_row, whole, file, progress, threads):
            pass
        found = _valid(file, whole)
    if found is None:
        raise UserError(f"{file}: changed while it was made; run again")
    return found


def _filling(
    paths: Sequence[Path],
    make_row: Callable[[Path], Pixels],
    whole: tuple[int, ...],
    file: Path,
    progress: str,
    threads: int | None,
) -> Iterator[Pixels]:
    """Yield every row in order while it is written; the file takes its place when the last one was taken."""
    if not paths:
        raise UserError(f"{progress}: there are no photos")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file):
            found = _valid(file, whole)  # another process may have made it while this one waited
            if found is not None:
                yield from found
                return
            require_space(file.parent, int(np.prod(whole, dtype=np.int64)), progress, OTHER_CACHE)
            with atomic_file(file) as temporary, temporary.open("wb") as out:
                yield from _written_rows(out, paths, make_row, whole, file, progress, threads or thread_count())
    except OSError as error:
        cause = error.strerror or error
        raise UserError(
            f"{file.parent}: cannot be written ({cause}); free space, or set cache.folder elsewhere"
        ) from None


def _valid(file: Path, shape: tuple[int, ...]) -> Pixels | None:
    """The memory map in `file`, or None where it is absent, cut short or of another shape."""
    try:
        rows = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(rows, np.memmap) or rows.shape != shape or rows.dtype != np.uint8:
        return None
    return rows


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(f"{file}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        print(f"{file.name}: another process is making it; waiting", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _written_rows(
    out: BinaryIO,
    paths: Sequence[Path],
    make_row: Callable[[Path], Pixels],
    whole: tuple[int, ...],
    report: Path,
    progress: str,
    threads: int,
) -> Iterator[Pixels]:
    """Write a .npy file and yield its rows. Plain writes, not a writable map: a full disk is then an error and no SIGBUS."""

    def attempt(path: Path) -> Pixels | PhotoError:
        try:
            return make_row(path)
        except PhotoError as error:
            return error

    header = {"descr": "|u1", "fortran_order": False, "shape": whole}
    np.lib.format.write_array_header_1_0(out, header)
    faults: list[tuple[Path, str]] = []
    with bar(len(paths), progress) as shown:
        for path, row in zip(paths, in_order(attempt, paths, threads), strict=True):
            shown.update()
            if isinstance(row, PhotoError):
                faults.append((path, row.reason))
            elif not faults:
                if row.shape != whole[1:] or row.dtype != np.uint8:
                    raise ValueError(f"row of shape {row.shape}, {row.dtype}; due {whole[1:]}, uint8")
                out.write(np.ascontiguousarray(row).data)
                yield row
    refuse(faults, len(paths), report.with_suffix(".bad.txt"))
