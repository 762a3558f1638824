"""Where a command's findings grow until they are whole: `.part/` inside the folder they will be shown in.

A stopped command goes on from what is there, if it is the very same command on the very same things (its recipe says);
else it starts anew. What was shown before stays until everything new is there. `index.html`, or whatever file a visitor
starts from, is moved last: where it is, the rest is, and of one piece. A command that ends before anything was done leaves
nothing: no folder that was not there, no file of its own.
"""

import errno
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pawpularity.console import log
from pawpularity.errors import UserError
from pawpularity.files import read_json, write_json

_PART, _DONE, _RECIPE, _LOCK = ".part", ".done", "recipe.json", ".lock"


@contextmanager
def staged(
    folder: Path, recipe: Mapping[str, Any], *, started: Sequence[str] = (), shown: Sequence[str] = ()
) -> Iterator[Path]:
    """`folder/.part/`, to be filled; `publish` then shows it. `recipe`: everything that decides what is made, as JSON.

    `started`: folders in it whose files are work that a stopped command need not do again. `shown`: as for `publish`. Raises
    UserError where the folder cannot be one, another command is filling it, or its disk gets full.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file where a folder is needed; move it away, or name another with --out")
    foreign = (
        [] if (folder / _LOCK).exists() else [name for name in ("config.json", *shown) if (folder / name).exists()]
    )
    if foreign:
        raise UserError(
            f"{folder}: holds {foreign[0]}, which no such command put there; name another folder with --out"
        )
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder}: another command is filling it; wait for its end, or name another with --out"
        ) from None
    part = folder / _PART
    try:
        shutil.rmtree(folder / _DONE, ignore_errors=True)  # killed while it was moved: what is left is no longer whole
        wanted = json.loads(json.dumps(recipe))
        try:
            same = part.is_dir() and read_json(part / _RECIPE, "a stopped command") == wanted
        except UserError:
            same = False
        if part.exists() and not same:
            log(f"a stopped command with other settings had begun in {folder}; this one starts anew")
            shutil.rmtree(part)
        if same and _finished(part, started):
            log(f"going on with what a stopped command left in {part}")
        part.mkdir(exist_ok=True)
        write_json(part / _RECIPE, wanted)
        yield part
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        done = _finished(part, started)
        further = f"goes on from the {done} that are finished" if done else "can be given again"
        raise UserError(
            f"{folder}: no disk space left; free some on that disk (runs in oof/ that are not needed, or the cache: make "
            f"clean-cache), and the same command {further}"
        ) from None
    finally:
        if not _finished(part, started):
            shutil.rmtree(part, ignore_errors=True)
        if not part.exists() and not any((folder / name).exists() for name in shown):
            (folder / _LOCK).unlink(missing_ok=True)
            with suppress(OSError):
                for place in made:  # from the inside out, as far as they are empty
                    place.rmdir()
        lock.release()


def _finished(part: Path, started: Sequence[str]) -> int:
    """How many pieces of work `part` holds."""
    return sum(file.is_file() and not file.name.startswith(".") for name in started for file in (part / name).glob("*"))


def publish(folder: Path, names: Sequence[str]) -> None:
    """Move `names` out of `folder/.part/` into `folder`, replacing what is there, the last of them last; drop the rest.

    A name that is not there goes from `folder` too. Of what is replaced, the last name goes first of all.
    """
    done = folder / _DONE
    (folder / _PART).rename(done)
    for name in [names[-1], *names[:-1]]:
        _remove(folder / name)
    for name in names:
        if (done / name).exists():
            (done / name).rename(folder / name)
    shutil.rmtree(done)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
