"""What a command leaves photo by photo, so that a stopped one can be resumed.

    FOLDER/fingerprint.json     everything that decides the results
    FOLDER/records/NAME.json    one photo's figures
    FOLDER/maps/NAME.npz        one photo's raw maps

A command with the same fingerprint skips finished photos; another one clears the folder when its first photo is finished. The
file a visitor starts from (index.html, ...) is removed then and written last: where it is, the rest is whole.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pawpularity.errors import UserError
from pawpularity.explain.saliency import Saliency, read_maps, write_maps
from pawpularity.files import read_json, write_json


class Results:
    """The folder of one command. `files`: what else the command writes there, the last one last."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], files: Sequence[str]) -> None:
        self.folder, self.files = folder, files
        self.fingerprint = json.loads(json.dumps(fingerprint))
        own = folder / "fingerprint.json"
        foreign = [name for name in ("config.json", "maps", *files) if (folder / name).exists()]
        if foreign and not own.is_file():
            raise UserError(
                f"{folder}: holds {foreign[0]}, which explain did not write; name another folder with --out"
            )
        self.current = own.is_file() and read_json(own, "explain") == self.fingerprint

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands out. Raises UserError for one at work."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                yield
        except Timeout:
            raise UserError(f"{self.folder}: another command is writing here; wait for it, or use --out") from None

    def done(self, name: str) -> bool:
        """Whether the photo was finished by the same command."""
        return self.current and self._record(name).is_file()

    def add(self, name: str, record: Mapping[str, Any], maps: Mapping[str, Saliency] | None = None) -> None:
        """One photo is finished. The results of another command are removed."""
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
        """What `add` was given for the photo."""
        return read_json(self._record(name), name)

    def maps(self, name: str) -> dict[str, Saliency]:
        """The photo's maps; its record holds `methods`, what `Saliency.about` says of each."""
        return read_maps(self.folder / "maps" / f"{name}.npz", self.record(name)["methods"])

    def _record(self, name: str) -> Path:
        return self.folder / "records" / f"{name}.json"
