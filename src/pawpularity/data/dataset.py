"""A data folder as one object: its table, its photo files, and hashes of their content.

`Dataset.load(folder, cache_folder)` takes a folder in Kaggle's layout (`train.csv`, `train/ID.jpg`), or labels alone: a
folder without `train/`, or a CSV file (which has photos where they are in `train/` beside it). `load_test` takes the test
part (`test.csv`, `test/ID.jpg`). Hashes are computed when first needed. They depend on the rows and the photos' bytes,
never on the folder's place, file times or row order.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pawpularity.console import track
from pawpularity.data import data_name, is_drawn
from pawpularity.data.photo_cache import Photos, fingerprint, photos_of
from pawpularity.data.photos import PhotoError, ordered_map, photo_stat, read_photo, refuse, thread_count
from pawpularity.data.tables import ID, METADATA, TARGET, find_near, near_name, read_test, read_train
from pawpularity.errors import UserError, printable
from pawpularity.files import text_hash, write_text


@dataclass(frozen=True, eq=False)
class Rows:
    """A table and its photos: `part` is "train" or "test", the photo of a row is `folder/PART/ID.jpg`."""

    folder: Path
    part: str
    table: pd.DataFrame
    has_photos: bool
    cache_folder: Path

    def require_photos(self) -> None:
        """Raise UserError where the folder has no photos."""
        if not self.has_photos:
            table, photo = self.folder / f"{self.part}.csv", self.folder / self.part / "ID.jpg"
            raise UserError(f"--data: has labels but no photos; this command needs {table} and the photos as {photo}")

    @cached_property
    def paths(self) -> list[Path]:
        """Photo files, aligned with `table`. Raises UserError where the folder has no photos."""
        self.require_photos()
        return [self.folder / self.part / f"{name}.jpg" for name in self.table[ID]]

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
        folder = cache_folder or self.cache_folder
        return photos_of(self.paths, self.fingerprints, size=size, fit=fit, folder=folder, key=self.photo_key)


@dataclass(frozen=True, eq=False)
class Dataset(Rows):
    """The training part of a data folder, or labels alone."""

    name: str

    @staticmethod
    def load(folder: Path, cache_folder: Path) -> "Dataset":
        """Read `folder`, or a CSV file. Raises UserError for a bad table or listing missing photos.

        A CSV file has photos if any of them is in `train/` beside it, else it is labels alone.
        """
        table, place = read_train(folder), _place(folder)
        has_photos = (folder.is_dir() or _any_photo(place / "train", table)) and _has_photos(
            place, "train", table, cache_folder
        )
        # Several label files may lie in one folder.
        other = not folder.is_dir() and folder.name != "train.csv"
        return Dataset(
            place, "train", table, has_photos, cache_folder, data_name(folder.with_suffix("") if other else place)
        )

    @property
    def train(self) -> pd.DataFrame:
        """The table: columns Id, the twelve metadata columns, Pawpularity."""
        return self.table

    @property
    def is_drawn(self) -> bool:
        """Whether this is a drawn sample."""
        return is_drawn(self.folder)


def load_test(folder: Path, cache_folder: Path) -> Rows:
    """Read the test part of a folder, or of the folder of a CSV file: `test.csv` beside a `train.csv`, else the file itself.

    Raises UserError for a bad table, or listing all photos missing from `test/`.
    """
    place = _place(folder)
    table = read_test(place if folder.name == "train.csv" else folder)
    return Rows(place, "test", table, _has_photos(place, "test", table, cache_folder), cache_folder)


def fingerprints(paths: Sequence[Path], cache_folder: Path) -> list[str]:
    """Content hash (BLAKE2b, 16 hex digits) of each photo file, in the order of `paths`, which lie in one folder.

    Hashes are cached in `cache_folder/fingerprints/` by name, size and times (mtime and ctime), so only new and changed
    files are read. Raises UserError listing the files that are missing or unreadable.
    """
    record = cache_folder / "fingerprints" / f"{text_hash(str(paths[0].parent.resolve()))}.json"
    known: dict[str, list[Any]] = {}
    with suppress(OSError, ValueError):  # missing or damaged: the photos are read again
        known = json.loads(record.read_text(encoding="utf-8"))

    def current_entry(path: Path) -> list[Any] | PhotoError:
        try:
            about = photo_stat(path)
            times = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
            entry = known.get(path.name)
            return entry if entry and entry[:3] == times else [*times, fingerprint(read_photo(path))]
        except PhotoError as error:
            return error

    found = list(track(ordered_map(current_entry, paths, thread_count()), "reading photos", total=len(paths)))
    faults = [(path, entry.reason) for path, entry in zip(paths, found, strict=True) if isinstance(entry, PhotoError)]
    refuse(faults, len(paths), record.with_suffix(".bad.txt"))
    entries = [entry for entry in found if not isinstance(entry, PhotoError)]
    updated = known | {path.name: entry for path, entry in zip(paths, entries, strict=True)}
    if updated != known:
        with suppress(OSError):  # only speed is lost where the cache cannot be written
            write_text(record, json.dumps(updated) + "\n")
    return [str(entry[3]) for entry in entries]


def _place(folder: Path) -> Path:
    return folder if folder.is_dir() else folder.parent


def _any_photo(photos: Path, table: pd.DataFrame) -> bool:
    """Whether the folder `photos` holds one of the table's, by its name or a near one."""
    if not photos.is_dir():
        return False
    near = _near_photos(photos)
    return any(near_name(name) in near for name in table[ID])


def _has_photos(folder: Path, part: str, table: pd.DataFrame, cache_folder: Path) -> bool:
    """Whether `folder/PART/` exists. Raises UserError if it is no folder, or lacks photos of the table."""
    photos = folder / part
    if not os.path.lexists(photos):
        return False
    if not photos.is_dir():  # a broken link would quietly turn the data into labels alone
        raise UserError(
            f"{photos}: is no folder (or a broken link); put the photos into it, or remove it for labels alone"
        )
    present = {entry.name for entry in photos.iterdir()}
    if all(f"{name}.jpg" in present for name in table[ID]):
        return True
    near = _near_photos(photos)
    faults: list[tuple[Path, str]] = []
    for name in table[ID]:
        if f"{name}.jpg" in present:
            continue
        other = find_near(name, near)
        faults.append((photos / f"{name}.jpg", f'missing (found "{printable(other)}")' if other else "missing"))
    remedy = "replace them, or drop their rows"
    if any("found" in reason for _, reason in faults):
        remedy = f"rename them, or correct the Ids: a photo's name is exactly {photos}/, its Id, and .jpg"
    refuse(faults, len(table), cache_folder / f"missing-{part}.txt", remedy)
    return True


def _near_photos(folder: Path) -> dict[str, str]:
    """Files in `folder` and in folders directly inside it, by their `near_name`; of one such name the nearest place counts."""
    found: dict[str, str] = {}
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    for path in [*sorted(folder.iterdir()), *(file for one in inner for file in sorted(one.iterdir()))]:
        if not path.is_dir():
            found.setdefault(near_name(path.name), str(path.relative_to(folder)))
    return found
