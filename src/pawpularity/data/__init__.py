"""Data: tables, photos, their cache, folds. `CONTEST` is where the competition's data lies."""

from pathlib import Path

CONTEST = Path("input/petfinder-pawpularity-score")


def is_drawn(folder: Path) -> bool:
    """Whether the folder holds a drawn sample, whose true floor is known (`truth/floor.json`)."""
    return (folder / "truth" / "floor.json").is_file()
