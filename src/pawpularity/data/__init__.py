"""Data: tables, photos, their cache, folds. `CONTEST` is where the competition's data lies."""

from pathlib import Path

DUPLICATES = "apdw16-of-64-thumb16-1"
"""The rule by which two photos are one (`duplicates`), in the names of caches and of folds files."""
CONTEST = Path("input/petfinder-pawpularity-score")


def is_drawn(folder: Path) -> bool:
    """Whether the folder holds a drawn sample, whose true floor is known (`truth/floor.json`)."""
    return (folder / "truth" / "floor.json").is_file()
