"""Files that appear whole or not at all, and the hashes that name them.

Every artefact is written beside its place and moved there with `os.replace`, so a killed process or a full disk never
leaves half a file behind under the real name. Hashes are BLAKE2b, cut to 12 hex digits where they name a file.
"""

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, overload

from pawpularity.errors import UserError

_UNFIT = "backslashreplace"  # how a file name that is no UTF-8 is written into text
OTHER_CACHE = ", or set cache.folder to another disk"
"""`remedy` of `require_space` for files in the cache."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move it to `path` when the block ends well. Nothing is left when it does not.

    A device or a pipe (/dev/null) is written into and not replaced. Raises UserError where `path` is a folder.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a file; name a file")
    with _beside(path) as folder:
        temporary = folder / path.name
        yield temporary
        try:
            if path.exists() and not path.is_file():
                path.write_bytes(temporary.read_bytes())
            else:
                temporary.replace(path)
        except OSError as error:
            error.filename = str(path)
            raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `path`, whole, when the block ends well. Nothing is left when it does not."""
    with _beside(path) as folder:
        fresh = folder / path.name
        fresh.mkdir()
        yield fresh
        if path.exists():
            path.rename(folder / "replaced")
        fresh.rename(path)


def require_not_input(option: str, out: str | Path, *inputs: Path) -> None:
    """Raise UserError if writing to the file or folder `out` could replace one of `inputs`, files or folders."""
    place = Path(out).resolve()
    if hit := next(
        (one for one in inputs if place == one.resolve() or (one.is_file() and place == one.resolve().parent)), None
    ):
        raise UserError(f"{option} {out}: could replace {hit}, which is read; name another place")


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A scratch folder on the disk of `path`. What killed processes left there an hour ago or more is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name[:100]}.*.part"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent))
    try:
        yield scratch
    except OSError as error:
        # A full disk names no file, or the temporary one.
        if error.filename is None or str(scratch) in str(error.filename):
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends, whole or not at all."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", errors=_UNFIT, newline="\n") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. NaN and infinity are refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@overload
def plain(value: Mapping[str, Any]) -> dict[str, Any]: ...
@overload
def plain(value: float | list[Any] | None) -> Any: ...
def plain(value: Any) -> Any:
    """`value` ready for JSON, at any depth: NaN and infinity become None, tuples lists, numpy's numbers Python's."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    number = value.item() if hasattr(value, "item") else value  # a numpy number, recognised without importing numpy
    return None if isinstance(number, float) and not math.isfinite(number) else number


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file of ours. Raises UserError naming `what` and the file when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{what}: {path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:  # not text, not JSON, a number of 5,000 digits, 1e5 brackets
        raise UserError(f"{what}: {path} cannot be read ({error}); delete it and make it again") from None


def short_name(name: str, longest: int = 60) -> str:
    """`name`, if longer than `longest` characters cut to that, with a hash at its end; for names of files made from it."""
    return name if len(name) <= longest else f"{name[: longest - 7]}-{text_hash(name)[:6]}"


def file_hash(path: Path) -> str:
    """BLAKE2b (128 bits, hex) of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def content_hash(text: str) -> str:
    """`file_hash` of a file that would hold `text` as UTF-8."""
    return hashlib.blake2b(text.encode(errors=_UNFIT), digest_size=16).hexdigest()


def text_hash(*parts: str) -> str:
    """12 hex digits of BLAKE2b over the parts, each ended by a zero byte so that ("ab","c") and ("a","bc") differ."""
    digest = hashlib.blake2b(digest_size=6)
    for part in parts:
        digest.update(part.encode(errors=_UNFIT))
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
