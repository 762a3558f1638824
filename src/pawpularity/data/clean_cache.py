"""The command `clean-cache`: show what the cache folder holds, and delete it."""

import shutil
import sys
from pathlib import Path

from pawpularity.console import confirm, emit, log, next_step, table
from pawpularity.errors import UserError
from pawpularity.files import size_text

# First letters of the names of everything that this project has ever cached.
OURS = ("photos", "duplicates", "fingerprints", "missing-", "trunk", "features")


def clean_cache(folder: Path = Path(".cache"), *, yes: bool = False) -> None:
    """Show the sizes of what `folder` holds, and delete it after a question (`yes`: without).

    Raises UserError if the folder holds other files, or while another process fills it.
    """
    if not folder.is_dir():
        log(f"{folder}: nothing is cached")
        next_step("make train FOLD=0")
        return
    parts = sorted(folder.iterdir())
    foreign = next(
        (f"holds {part.name}, which is no cached file" for part in parts if not part.name.startswith(OURS)), None
    )
    if folder.is_symlink() or foreign:
        raise UserError(f"clean-cache: {folder} {foreign or 'is a link'}; nothing was deleted; name the cache folder")
    sizes = [sum(file.stat().st_size for file in (part, *part.rglob("*")) if file.is_file()) for part in parts]
    rows = [(part, size_text(size)) for part, size in zip(parts, sizes, strict=True)]
    text = table(("cached", "size"), [*rows, ("in all", size_text(sum(sizes)))])
    emit(None, f"{text}\nall of it can be made again from input/", None)
    if not yes and not sys.stdin.isatty():
        raise UserError("clean-cache: add --yes (make clean-cache YES=1) to delete these")
    if not yes and not confirm("delete?"):
        log("nothing was deleted")
        next_step("make clean-cache YES=1")
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
