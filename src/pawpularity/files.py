"""Files that appear whole or not at all, and the hashes that name them.

Every artefact is written beside its place and moved there with `os.replace`, so a killed process or a full disk never
leaves half a file behind under the real name. Hashes are BLAKE2b, cut to 12 hex digits where they name a file.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, overload

from pawpularity.errors import UserError

OTHER_CACHE = ", or set cache.folder to another disk"
"""The remedy of `require_space` for what goes into the cache."""
DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What `zipfile` raises for archives whose bytes were changed: a wrong sum, a cut stream, a method it does not know, a flag that
says encrypted (RuntimeError), an offset before the start (ValueError)."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` when the block ends well, remove it when it does not."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder where a file should be written; name a file")
    if path.exists() and not path.is_file():
        # /dev/null, a pipe: written into, never replaced (as root a rename would take the device away from everybody).
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / "whole"
            with path.open("wb") as device:
                device.write((Path(folder) / "whole").read_bytes())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_overs(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files of mode 600; give the artefact the mode any other new file would get.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, name):  # a full disk names no file, and the temporary one is soon gone
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_left_overs(path: Path, *, older_than_s: float = 3600.0) -> None:
    """Remove what killed processes left while making `path`: `.NAME.*.part` beside it.

    The age keeps the hands off what another process is writing; with a lock that keeps others out it may be 0.
    """
    for left in path.parent.glob(f".{path.name}.*.part"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime >= older_than_s:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends, whole or not at all."""
    with written_whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@overload
def plain(value: Mapping[str, Any]) -> dict[str, Any]: ...
@overload
def plain(value: float | list[Any] | None) -> Any: ...
def plain(value: Any) -> Any:
    """`value` for JSON: at any depth what is not finite becomes None, a tuple a list, a number of numpy's Python's own."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    number = value.item() if hasattr(value, "item") else value  # numpy need not be imported to be known
    return None if isinstance(number, float) and not math.isfinite(number) else number


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file of ours. Raises UserError naming `what` and the file when it is absent or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{what}: {path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:  # not text, not JSON, a number of 5,000 digits, 1e5 brackets
        raise UserError(f"{what}: {path} cannot be read ({error}); delete it and make it again") from None


def file_hash(path: Path) -> str:
    """BLAKE2b (128 bits, hex) of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def content_hash(text: str) -> str:
    """`file_hash` of a file that would hold `text` as UTF-8."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def text_hash(*parts: str) -> str:
    """12 hex digits of BLAKE2b over the parts, each ended by a zero byte so that ("ab","c") and ("a","bc") differ."""
    digest = hashlib.blake2b(digest_size=6)
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def size_text(count: float) -> str:
    """A number of bytes for people: kB, MB or GB."""
    if count < 1e5:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def require_space(folder: Path, needed: int, what: str, remedy: str = "") -> None:
    """Raise UserError, which ends with `remedy`, if the disk of `folder` has fewer than `needed` bytes (plus 5 %) free."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed * 1.05:
        raise UserError(
            f"no disk space: {what} needs {size_text(needed)} in {folder}, {size_text(free)} are free; "
            f"free some{remedy}"
        )
