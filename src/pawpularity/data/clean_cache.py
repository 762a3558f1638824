"""The command `clean-cache`: show what the cache folder holds, and delete it."""

import shutil
import sys
from pathlib import Path

from pawpularity.console import confirm, emit, log, next_step, table
from pawpularity.errors import UserError
from pawpularity.files import size_text

# The beginnings of names that this project gives to what it caches.
OURS = ("photos", "duplicates", "fingerprints", "missing-", "trunk", "features")


def clean_cache(folder: Path = Path(".cache"), *, yes: bool = False) -> None:
    """Show the sizes of what `folder` holds, and delete it after a question (`yes`: without).

    Raises UserError where anything in the folder is not ours, and while another process fills it.
    """
    if not folder.is_dir():
        log(f"{folder}: nothing is cached")
        return
    parts = sorted(folder.iterdir())
    foreign = next((f"{part.name} is in it" for part in parts if not part.name.startswith(OURS)), None)
    if folder.is_symlink() or foreign:
        raise UserError(f"clean-cache: {folder} is no cache of ours ({foreign or 'a link'}); nothing was deleted")
    sizes = [sum(file.stat().st_size for file in (part, *part.rglob("*")) if file.is_file()) for part in parts]
    rows = [(part, size_text(size)) for part, size in zip(parts, sizes, strict=True)]
    text = table(("cached", "size"), [*rows, ("in all", size_text(sum(sizes)))])
    emit(None, f"{text}\neverything here can be made again from input/", None)
    if not yes and not sys.stdin.isatty():
        raise UserError("clean-cache: add --yes (make clean-cache YES=1) to delete these")
    if not yes and not confirm("delete?"):
        log("kept")
        return
    _refuse_locked(folder)
    shutil.rmtree(folder)
    log(f"deleted {folder}")
    next_step("make train FOLD=0")


def _refuse_locked(folder: Path) -> None:
    from filelock import FileLock, Timeout

    for lock in folder.rglob("*.lock"):  # `.lock` is one too
        try:
            FileLock(lock, timeout=0).acquire().lock.release()
        except Timeout:
            raise UserError(f"clean-cache: another process is filling {lock.parent}; wait for it") from None
