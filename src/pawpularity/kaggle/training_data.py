"""What the runs of a bundle were trained on: the contest's photos, or others, whose score there would say nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pawpularity.data.dataset import is_drawn
from pawpularity.data.tables import ID, read_cells
from pawpularity.evaluation.oof import run_folds
from pawpularity.files import text_hash
from pawpularity.kaggle.contents import Bundle
from pawpularity.runs import Run

CONTEST_IDS = "67f0c419872d"
"""`ids_hash` of the contest's train.csv, 9,912 photos."""


@dataclass(frozen=True)
class Material:
    """Training photos."""

    name: str
    """the data folder's"""
    photos: int
    drawn: bool
    """known to be a drawn shelter"""
    contest: bool
    """known to be the contest's, every one"""

    def __str__(self) -> str:
        if self.contest:
            return f"trained on the contest's {self.photos} photos"
        if not self.name:
            return "trained on what this bundle does not say (it was built by an older version)"
        return f"trained on {self.name}: {self.photos} {'drawn ' if self.drawn else ''}photos, not the contest's"


def material(run: Run) -> Material:
    """What `run` was trained on. Raises UserError where its folds file is gone, or its predictions are.

    The contest's photos are known by their Ids, in whatever folder they lie.
    """
    data = run.record["data"]
    ids = _ids(run)
    name = str(data["name"])
    places = [Path(data["folder"])] if data.get("folder") else [Path("input") / name]
    drawn = any(is_drawn(place) for place in places)
    return Material(name, len(ids), drawn, not drawn and ids_hash(ids) == CONTEST_IDS)


def material_of(bundle: Bundle) -> Material:
    """What a bundle says of it; nothing is known of one that does not."""
    said = bundle.about.get("data")
    if not isinstance(said, dict):
        return Material("", 0, drawn=False, contest=False)
    return Material(str(said["name"]), int(said["photos"]), bool(said["drawn"]), bool(said["contest"]))


def ids_hash(ids: Iterable[str]) -> str:
    """12 hex digits over the Ids, whatever their order."""
    return text_hash("ids 1", *sorted(ids))


def _ids(run: Run) -> list[str]:
    """All photos of the split, also those of folds that are not trained yet."""
    if len(run.trained_folds()) < run.k:
        return [str(name) for name in run_folds(run).frame[ID]]
    return [name for fold in range(run.k) for name in read_cells(run.predictions_file(fold), (ID,)).columns[ID]]
