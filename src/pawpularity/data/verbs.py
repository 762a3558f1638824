"""`pawpularity clean-cache`."""

import argparse
from pathlib import Path

from pawpularity.command_line import Verb
from pawpularity.console import confirm
from pawpularity.errors import UserError

# What this project puts into its cache folder.
OURS = ("photos", "duplicates", "fingerprints", "missing-", "trunk")


def _clean_cache(options: argparse.Namespace) -> None:
    import shutil
    import sys

    folder = Path(options.folder)
    if not folder.is_dir():
        print(f"{folder}: nothing is cached")
        return
    foreign = [part.name for part in folder.iterdir() if not part.name.startswith(OURS)]
    if folder.is_symlink() or foreign:
        raise UserError(f"clean-cache: {folder} is no cache of ours ({foreign[0] if foreign else 'a link'} is in it); "
                        "nothing was deleted")  # fmt: skip
    total = 0
    for part in sorted(folder.iterdir()):
        size = sum(file.stat().st_size for file in ([part] if part.is_file() else part.rglob("*")) if file.is_file())
        total += size
        print(f"{size / 1e6:10.1f} MB  {part}")
    print(f"{total / 1e6:10.1f} MB  in all; everything here can be made again from input/")
    if not options.yes:
        if not sys.stdin.isatty():
            raise UserError("clean-cache: add --yes (make clean-cache YES=1) to delete these")
        if not confirm("delete?"):
            print("kept")
            return
    from filelock import FileLock, Timeout

    for name in folder.rglob("*.lock"):  # `.lock` is one too
        try:
            FileLock(name, timeout=0).acquire().lock.release()
        except Timeout:
            raise UserError(f"clean-cache: another process is filling {name.parent}; wait for it") from None
    shutil.rmtree(folder)
    print(f"deleted {folder}")


def _clean_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", default=".cache", metavar="DIR", help="the cache folder (default: .cache)")
    parser.add_argument("--yes", action="store_true", help="delete without asking")


VERBS = [
    Verb("clean-cache", "show what the cache holds, and delete it", _clean_cache, _clean_arguments, configured=False),
]
