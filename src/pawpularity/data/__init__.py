"""Data: tables, photos, their cache, folds. `CONTEST` is the folder of the competition's data."""

from pathlib import Path

from pawpularity.errors import printable
from pawpularity.files import short_name

DUPLICATES = "apdw16-of-64-thumb16-inside-2"
"""Version of the rule for near-duplicates (`duplicates`), in the names of caches and of folds files."""
CONTEST = Path("input/petfinder-pawpularity-score")


def data_name(folder: Path) -> str:
    """What a data folder is called in names of files and in texts: its own name, printable and not too long."""
    return short_name(printable(folder.resolve().name or "data"))


def is_drawn(folder: Path) -> bool:
    """Whether the folder holds a drawn sample, whose noise floor is known (`truth/floor.json`)."""
    return (folder / "truth" / "floor.json").is_file()
