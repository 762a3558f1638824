"""Where Kaggle put things: by looking, because it has moved them before.

`/kaggle/input/SLUG` of old, `/kaggle/input/competitions/SLUG` and `/kaggle/input/datasets/OWNER/SLUG` of late: the
contest's data is the folder that holds its tables, wherever that is.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from pawpularity.errors import UserError

DEPTH = 4
"""Folders below the input folder: datasets/OWNER/SLUG/ and one more."""
SLUG = "petfinder-pawpularity-score"
_PHOTOS = ("train", "test")
_TABLE = "test.csv"


def folders(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """`root` and the folders below it, outer ones first, in name order; folders of photos are not looked into."""
    yield root
    if depth == 0:
        return
    try:
        with os.scandir(root) as entries:
            below = sorted(entry.name for entry in entries if entry.is_dir() and entry.name not in _PHOTOS)
    except OSError:
        return
    for name in below:
        yield from folders(root / name, depth - 1)


def find_competition(root: Path) -> Path:
    """The contest's folder below `root`. Raises UserError where there is none, or several of equal right."""
    found = [folder for folder in folders(root) if _is_contest(folder)]
    named = [folder for folder in found if folder.name == SLUG] or found
    if not named:
        there = ", ".join(str(folder.relative_to(root)) for folder in list(folders(root, 2))[1:21]) or "nothing"
        raise UserError(
            f"{root}: holds no competition data (a folder with {_TABLE} and its photos; there: {there}); add the competition "
            f'to the kernel (competition_sources: "{SLUG}") and accept its rules'
        )
    if len(named) > 1:
        raise UserError(f"{root}: holds competition data twice ({named[0]}, {named[1]}); name one with --data")
    return named[0]


def _is_contest(folder: Path) -> bool:
    return (folder / _TABLE).is_file() and ((folder / "sample_submission.csv").is_file() or (folder / "test").is_dir())
