"""`Saliency`, a signed map of one photo with its unit and standard error; and `Results`, the folder that maps are saved in.

A command saves its results photo by photo, so that it can be stopped and resumed:

    FOLDER/fingerprint.json     everything that decides the results
    FOLDER/records/NAME.json    one photo's figures
    FOLDER/maps/NAME.npz        one photo's raw maps

A command with the same fingerprint skips finished photos. A command with another fingerprint clears the folder when its first
photo is finished. The file that readers open first (index.html, ...) is removed then and written last. If it exists, the rest is
complete.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from pawpularity.errors import UserError
from pawpularity.files import atomic_file, read_json, write_json

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Saliency:
    """The map of one photo by one method. Nothing in it is clipped, or scaled to its own maximum."""

    method: str  # `gradient`, `gradcam`, `rise`
    map: Map  # (H, W): positive where the place raises the score
    unit: str  # what one of the map's numbers means, such as `score points from hidden to shown`
    standard_error: Map | None = None  # (H, W), in the map's unit; None if the method has none
    facts: dict[str, Any] = field(default_factory=dict)  # figures about the map: masks, relative error, cells, ...
    arrays: dict[str, Map] = field(default_factory=dict)  # other raw arrays, such as Grad-CAM's cells
    warnings: tuple[str, ...] = ()  # what a reader must know before trusting the map, one line each
    effect: Map | None = None
    """(H, W), score points: what showing the place adds, to first order. Only if the map says something else, as a gradient does
    (what brightening the place does). Tests that hide and show places judge the effect then."""

    @property
    def judged(self) -> Map:
        """(H, W): what tests that hide and show places judge: the effect, or else the map."""
        return self.map if self.effect is None else self.effect

    def about(self) -> dict[str, Any]:
        """Unit, facts and warnings, for JSON."""
        return {"unit": self.unit, "facts": self.facts, "warnings": list(self.warnings)}


def write_maps(path: Path, maps: Mapping[str, Saliency]) -> None:
    """Write the raw maps as `.npz`, float32: METHOD, METHOD_standard_error, METHOD_effect, METHOD_NAME (other arrays)."""
    arrays: dict[str, Map] = {}
    for name, saliency in maps.items():
        parts = {"": saliency.map, "_standard_error": saliency.standard_error, "_effect": saliency.effect}
        parts |= {f"_{key}": value for key, value in saliency.arrays.items()}
        arrays |= {name + suffix: np.asarray(value, np.float32) for suffix, value in parts.items() if value is not None}
    write_arrays(path, arrays)


def write_arrays(path: Path, arrays: Mapping[str, Map]) -> None:
    """Write arrays as `.npz` without pickle."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_maps(path: Path, methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Saliency]:
    """The maps that `write_maps` wrote; `methods`: each one's `about()`."""
    with np.load(path, allow_pickle=False) as arrays:
        return {
            name: Saliency(
                name, arrays[name], about["unit"], arrays.get(f"{name}_standard_error"), about["facts"],
                effect=arrays.get(f"{name}_effect"), warnings=tuple(about["warnings"]),
            )
            for name, about in methods.items()
        }  # fmt: skip


class Results:
    """The results folder of one command. `files`: what else the command writes there, in that order."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], files: Sequence[str]) -> None:
        self.folder, self.files = folder, files
        self.fingerprint = json.loads(json.dumps(fingerprint))
        foreign = [name for name in ("config.json", "maps", *files) if (folder / name).exists()]
        if foreign and not (folder / "fingerprint.json").is_file():
            raise UserError(
                f"{folder}: holds {foreign[0]}, which explain did not write; name another folder with --out"
            )
        self.current = self._matches()

    def _matches(self) -> bool:
        """Whether the results in the folder have this fingerprint."""
        record = self.folder / "fingerprint.json"
        return record.is_file() and bool(read_json(record, "explain") == self.fingerprint)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder. Raises UserError if another command is writing there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                self.current = self._matches()  # another command may have finished since
                yield
        except Timeout:
            raise UserError(f"{self.folder}: another command is writing here; wait for it, or use --out") from None

    def done(self, name: str) -> bool:
        """Whether the photo was finished by a command with the same fingerprint."""
        return self.current and self._record(name).is_file()

    def add(self, name: str, record: Mapping[str, Any], maps: Mapping[str, Saliency] | None = None) -> None:
        """Save a finished photo. The first one removes results with another fingerprint."""
        if not self.current:
            for old in (self.folder / name for name in ("records", "maps", *self.files)):
                shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
            write_json(self.folder / "fingerprint.json", self.fingerprint)
            self.current = True
        (self.folder / self.files[-1]).unlink(missing_ok=True)
        if maps is not None:
            write_maps(self.folder / "maps" / f"{name}.npz", maps)
        write_json(self._record(name), record)

    def record(self, name: str) -> Any:
        """The photo's record, as given to `add`."""
        return read_json(self._record(name), name)

    def maps(self, name: str) -> dict[str, Saliency]:
        """The photo's maps. Its record must hold `methods`: by method, `Saliency.about()`."""
        return read_maps(self.folder / "maps" / f"{name}.npz", self.record(name)["methods"])

    def _record(self, name: str) -> Path:
        return self.folder / "records" / f"{name}.json"
