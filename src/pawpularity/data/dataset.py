"""A data folder as one object: its tables, where its photos are, and the hashes that name their content.

`Dataset.load(folder, cache_folder)` takes a folder in Kaggle's layout (`train.csv`, `train/ID.jpg`, and for `load_test`
`test.csv`, `test/ID.jpg`), or labels alone: a folder without `train/`, or a CSV file. Hashes are computed when first
asked for; they depend on the rows and the photos' bytes, never on the folder's place, file times or the row order.
"""

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pawpularity.data.photo_cache import Photos, content_print, photos_of
from pawpularity.data.photos import (
    PhotoError,
    bar,
    fault,
    file_stat,
    in_order,
    photo_faults,
    refuse,
    thread_count,
)
from pawpularity.data.tables import ID, METADATA, TARGET, read_test, read_train
from pawpularity.errors import UserError
from pawpularity.files import text_hash, write_text

CONTEST = Path("input/petfinder-pawpularity-score")

# A file younger than this may still change within one tick of the file system's clock, so its hash is not remembered.
SETTLED_S = 2.0


def is_drawn(folder: Path) -> bool:
    """Whether the folder holds a drawn shelter, whose true floor is known (`truth/floor.json`)."""
    return (folder / "truth" / "floor.json").is_file()


@dataclass(frozen=True, eq=False)
class Rows:
    """A table and its photos: `part` is "train" or "test", the photo of a row is `folder/PART/ID.jpg`."""

    folder: Path
    part: str
    table: pd.DataFrame
    has_photos: bool
    cache_folder: Path

    @cached_property
    def paths(self) -> list[Path]:
        """Photo files, aligned with `table`. Raises UserError where the folder has no photos."""
        photos = self.folder / self.part
        if not self.has_photos:
            raise UserError(
                f"{self.folder}: has labels only; this needs the photos, as {photos / 'ID.jpg'} beside {self.part}.csv"
            )
        return [photos / f"{name}.jpg" for name in self.table[ID]]

    @cached_property
    def fingerprints(self) -> list[str]:
        """Content hash of every photo, aligned with `table`."""
        return fingerprints(self.paths, self.cache_folder)

    @cached_property
    def hash(self) -> str:
        """12 hex digits over the rows (sorted) and their photos' content."""
        columns = [ID, *METADATA] + ([TARGET] if TARGET in self.table else [])
        prints = self.fingerprints if self.has_photos else ["no photo"] * len(self.table)
        # tolist() makes Python numbers, whose repr does not change with numpy's version.
        cells = [self.table[name].tolist() for name in columns]
        rows = sorted("\x1f".join(map(str, row)) for row in zip(*cells, prints, strict=True))
        return text_hash("dataset 1", self.part, *rows)

    @cached_property
    def photo_key(self) -> str:
        """12 hex digits over the photos' content in row order: the key of everything cached row by row.

        Unlike `hash` it changes with the row order (row i of a cache must be row i of the table) and not with labels.
        """
        return text_hash("photos 1", *self.fingerprints)

    def photos(self, size: int, fit: str, cache_folder: Path | None = None) -> Photos:
        """The photos as squares of `size` pixels, aligned with `table`, decoded when they are first needed."""
        cache = cache_folder or self.cache_folder
        return photos_of(self.paths, self.fingerprints, size=size, fit=fit, folder=cache, key=self.photo_key)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training table, its photos if there are any, and (when asked for) the test part of the same folder."""

    folder: Path
    name: str
    train: pd.DataFrame
    has_photos: bool
    cache_folder: Path

    @staticmethod
    def load(folder: Path, cache_folder: Path) -> "Dataset":
        """Read `folder`, or a CSV file (labels only). Raises UserError for a bad table or listing missing photos."""
        table = read_train(folder)
        place = folder if folder.is_dir() else folder.parent
        has_photos = folder.is_dir() and _has_photos(place, "train", table, cache_folder)
        return Dataset(place, place.resolve().name or "data", table, has_photos, cache_folder)

    @property
    def hash(self) -> str:
        """12 hex digits over the sorted training rows and their photos' content."""
        return self.rows("train").hash

    @property
    def is_drawn(self) -> bool:
        """Whether this is a drawn shelter."""
        return is_drawn(self.folder)

    def rows(self, part: str = "train") -> Rows:
        """The "train" or "test" part. The test part is read when first asked for."""
        return self._train_rows if part == "train" else self._test_rows

    def photo_paths(self, part: str = "train") -> list[Path]:
        """Photo files aligned with the part's table. Raises UserError where there are none."""
        return self.rows(part).paths

    def photo_key(self) -> str:
        """12 hex digits over the training photos in row order; see `Rows.photo_key`."""
        return self._train_rows.photo_key

    def photos(self, size: int, fit: str, cache_folder: Path | None = None, part: str = "train") -> Photos:
        """The part's photos, aligned with its table; see `Rows.photos`."""
        return self.rows(part).photos(size, fit, cache_folder)

    @cached_property
    def _train_rows(self) -> Rows:
        return Rows(self.folder, "train", self.train, self.has_photos, self.cache_folder)

    @cached_property
    def _test_rows(self) -> Rows:
        return load_test(self.folder, self.cache_folder)


def load_test(folder: Path, cache_folder: Path) -> Rows:
    """Read `test.csv` of a folder; its photos and hash are looked at when asked for, the training part not at all.

    Raises UserError for a bad table, or listing all photos missing from `test/`.
    """
    table = read_test(folder)
    return Rows(folder, "test", table, _has_photos(folder, "test", table, cache_folder), cache_folder)


def fingerprints(paths: Sequence[Path], cache_folder: Path) -> list[str]:
    """Content hash (BLAKE2b, 16 hex digits) of each photo file, in the order of `paths`.

    Hashes are remembered in `cache_folder/fingerprints/` by name, size and times (mtime and ctime), so only new and
    changed files are read. Raises UserError listing every file that is absent or unreadable.
    """
    by_folder: dict[Path, list[Path]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, []).append(path)
    hashes: dict[Path, str] = {}
    for folder, members in by_folder.items():
        hashes.update(_folder_fingerprints(folder, members, cache_folder))
    return [hashes[path] for path in paths]


def _has_photos(folder: Path, part: str, table: pd.DataFrame, cache_folder: Path) -> bool:
    """Whether `folder/PART/` is there. Raises UserError if it is, but lacks photos of the table, or is no folder."""
    photos = folder / part
    if not photos.is_dir():
        if os.path.lexists(photos):  # else a link whose disk is away would quietly make labels of a data set
            what = "a link that leads nowhere" if photos.is_symlink() and not photos.exists() else "no folder"
            raise UserError(f"{photos}: is {what}; put the folder of photos there, or take it away for labels alone")
        return False
    try:
        there = {entry.name for entry in photos.iterdir()}
    except OSError as error:
        raise UserError(f"{photos}: cannot be read ({error.strerror}); check its permissions") from None
    faults: list[tuple[Path, str]] = []
    for name in table[ID]:
        if f"{name}.jpg" in there:
            continue
        others = [other for other in (".jpeg", ".png", ".JPG", ".webp") if f"{name}{other}" in there]
        reason = f"missing (found {name}{others[0]}; photos must be .jpg)" if others else "missing"
        faults.append((photos / f"{name}.jpg", reason))
    if faults:
        # All faults in one message: those that are there are looked at too before anybody is sent away.
        absent = {path for path, _ in faults}
        present = [path for name in table[ID] if (path := photos / f"{name}.jpg") not in absent]
        faults += photo_faults(present)
    refuse(sorted(faults), len(table), cache_folder / f"missing-{part}.txt")
    return True


def _folder_fingerprints(folder: Path, paths: Sequence[Path], cache_folder: Path) -> dict[Path, str]:
    memory = cache_folder / "fingerprints" / f"{text_hash(str(folder.resolve()))}.json"
    known = _remembered(memory)
    now = time.time_ns()
    hashes: dict[Path, str] = {}
    stats: dict[Path, list[int]] = {}
    faults: list[tuple[Path, str]] = []
    for path in paths:
        try:
            about = file_stat(path)
        except PhotoError:
            # Not a file at all. Some of the others may be no photos either: all are told at once.
            refuse(photo_faults(paths), len(paths), memory.with_suffix(".bad.txt"))
            raise
        stats[path] = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
        entry = known.get(path.name)
        if isinstance(entry, list) and entry[:3] == stats[path] and len(entry) == 4:
            hashes[path] = entry[3]
    unread = [path for path in stats if path not in hashes]
    if unread:
        with bar(len(unread), "reading photos") as shown:
            for path, value in zip(unread, in_order(_content_hash, unread, thread_count()), strict=True):
                shown.update()
                if isinstance(value, PhotoError):
                    faults.append((path, value.reason))
                    continue
                hashes[path] = value
                if now - max(stats[path][1:]) > SETTLED_S * 1e9:
                    known[path.name] = [*stats[path], value]
                else:
                    known.pop(path.name, None)
    refuse(faults, len(paths), memory.with_suffix(".bad.txt"))
    if not unread:
        return hashes
    # Only speed is lost where the cache cannot be written.
    with suppress(OSError):
        write_text(memory, json.dumps(known) + "\n")
    return hashes


def _remembered(memory: Path) -> dict[str, Any]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _content_hash(path: Path) -> str | PhotoError:
    try:
        return content_print(path.read_bytes())
    except OSError as error:
        return PhotoError(path, fault(error, path))
