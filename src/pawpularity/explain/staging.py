"""Where a command's findings grow until they are whole: `.part/` inside the folder they will be shown in.

A stopped command goes on from what is there, if it is the very same command on the very same things (its recipe says);
else it starts anew. What was shown before stays until everything new is there. `index.html`, or whatever file a visitor
starts from, is moved last: where it is, the rest is, and of one piece.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pawpularity.errors import UserError
from pawpularity.files import read_json, write_json
from pawpularity.verb import say

_PART, _DONE, _RECIPE = ".part", ".done", "recipe.json"


@contextmanager
def staged(
    folder: Path, recipe: Mapping[str, Any], *, started: Sequence[str] = (), shown: Sequence[str] = ()
) -> Iterator[Path]:
    """`folder/.part/`, to be filled; `publish` then shows it. `recipe`: everything that decides what is made, as JSON.

    `started`: names in it whose presence means that an earlier, stopped command did some of the work. Raises UserError
    where the folder cannot be one, or another command is filling it.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file where a folder is needed; move it away, or name another with --out")
    foreign = (
        [] if (folder / ".lock").exists() else [name for name in ("config.json", *shown) if (folder / name).exists()]
    )
    if foreign:
        raise UserError(
            f"{folder}: holds {foreign[0]}, which no such command put there; name another folder with --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{folder}: another command is filling it; wait for its end, or name another with --out"
        ) from None
    try:
        shutil.rmtree(folder / _DONE, ignore_errors=True)  # killed while it was moved: what is left is no longer whole
        part = folder / _PART
        wanted = json.loads(json.dumps(recipe))
        try:
            same = part.is_dir() and read_json(part / _RECIPE, "a stopped command") == wanted
        except UserError:
            same = False
        if part.exists() and not same:
            say(f"a stopped command with other settings had begun in {folder}; this one starts anew")
            shutil.rmtree(part)
        if same and any((part / name).exists() for name in started):
            say(f"going on with what a stopped command left in {part}")
        part.mkdir(exist_ok=True)
        write_json(part / _RECIPE, wanted)
        yield part
    finally:
        lock.release()


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
