"""Where the rows of a table of predictions come from, and so what may be expected of them at best.

On the contest's data no one of 3,538 teams got an R2 above 0.34, so far more is a sign of leakage. On a drawn shelter the
truth is known: its own noise floor, and every score's noise. Of other data nothing is known, and no alarm is given.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.dataset import CONTEST, is_drawn
from pawpularity.data.tables import ID, TARGET, read_cells, read_train
from pawpularity.errors import UserError
from pawpularity.evaluation.sources import Source
from pawpularity.files import read_json
from pawpularity.sample import SAMPLE
from pawpularity.sample.spec import TRAIN, photo_id

CONTEST_KIND, DRAWN_KIND, OTHER_KIND = "contest", "drawn", "other"
_SEEDS = 1000  # drawn shelters of these seeds are known by their Ids alone
_FIRST = 64  # of their photos; a table that holds one row in five has one of these in all but 1 of 1.6 million cases
_HEX = re.compile(r"[0-9a-f]{32}([._-].*)?")


@dataclass(frozen=True, eq=False)
class Origin:
    """What kind of data it is, and how that is known."""

    kind: str
    """contest, drawn or other"""
    why: str
    folder: Path | None = None
    """the data folder, if its truth is at hand or the user named it; `folder_of` looks further"""
    floor: float | None = None
    """RMSE of the true conditional mean over the drawn shelter, points"""
    expected: NDArray[np.float64] | None = None
    """(n,) the true conditional mean of each row's score, of a drawn shelter"""


def origin_of(source: Source, data: Path | None = None) -> Origin:
    """What the rows of `source` are. `data` is the folder they come from, if the user named one.

    Raises UserError where `data` does not know the rows.
    """
    ids = source.table[ID].tolist()
    folders = [data] if data is not None else [folder for folder in (_recorded(source), CONTEST, SAMPLE) if folder]
    for folder in folders:
        if data is not None and not folder.exists():
            raise UserError(f"--data {folder}: there is no such folder or file")
        if not is_drawn(folder):
            if data is not None and not set(ids) & set(read_train(data)[ID]):
                raise _of_others(source, data)
            continue
        truth = expected_scores(folder)
        if set(ids) <= truth.keys():
            why = f"the shelter drawn in {folder}"
            return Origin(DRAWN_KIND, why, folder, floor_of(folder), np.array([truth[i] for i in ids]))
        if data is not None:
            unknown = next(i for i in ids if i not in truth)
            raise UserError(f"--data {data}: does not know {unknown}; name the data these predictions are of")
    at_hand = data if data is not None and data.is_dir() else None
    if (seed := _drawn_seed(ids)) is not None:
        return Origin(
            DRAWN_KIND, f"the Ids are those of a drawn shelter of seed {seed} (its truth is not at hand)", at_hand
        )
    whole = bool(np.all((source.target == np.rint(source.target)) & (source.target >= 1) & (source.target <= 100)))
    if whole and all(_HEX.fullmatch(name) for name in ids):
        return Origin(CONTEST_KIND, "the Ids and whole scores of 1-100 are as the contest's", at_hand)
    return Origin(OTHER_KIND, "the Ids or scores are not as the contest's, so nothing is known of what is possible",
                  at_hand)  # fmt: skip


def folder_of(source: Source, origin: Origin) -> Path | None:
    """The first folder whose train.csv knows rows of `source`, with their scores: the origin's, its run's, or one in input/."""
    for folder in dict.fromkeys(filter(None, (origin.folder, _recorded(source), CONTEST, SAMPLE))):
        with suppress(UserError):
            rows_known(source, read_train(folder), str(folder))
            return folder
    return None


def rows_known(source: Source, table: pd.DataFrame, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows of `source` that the table knows, their places in it). Raises UserError for no such row, or another score."""
    place_of = {name: place for place, name in enumerate(table[ID])}
    ids = source.table[ID].tolist()
    rows = np.array([row for row, name in enumerate(ids) if name in place_of], dtype=np.int64)
    if len(rows) == 0:
        raise _of_others(source, where)
    place = np.array([place_of[ids[row]] for row in rows], dtype=np.int64)
    scores = table[TARGET].to_numpy(dtype=np.float64)[place]
    # A unit of the six decimals a target is written with.
    unequal = np.flatnonzero(np.abs(scores - source.target[rows]) > 1e-6)
    if len(unequal):
        row = int(unequal[0])
        raise UserError(
            f"--data {where}: gives {ids[rows[row]]} a score of {scores[row]:g}, {source.path} has {source.target[rows[row]]:g} "
            f"({len(unequal)} rows differ); name the data these predictions are of"
        )
    return rows, place


def _of_others(source: Source, where: Path | str) -> UserError:
    return UserError(f"--data {where}: knows none of the {len(source.table)} rows of {source.path} (the first is "
                     f"{source.table[ID].iloc[0]}); name the data these predictions are of")  # fmt: skip


def expected_scores(folder: Path) -> dict[str, float]:
    """The true conditional mean of every photo's score in a drawn shelter, by Id."""
    cells = read_cells(folder / "truth" / "parts.csv", (ID, "expected"))
    return dict(zip(cells.columns[ID], cells.numbers("expected", "the expected score").tolist(), strict=True))


def floor_of(folder: Path) -> float:
    """RMSE of the true conditional mean over the shelter drawn in `folder`. Raises UserError for a damaged truth."""
    file = folder / "truth" / "floor.json"
    known = read_json(file, "the drawn shelter's truth")
    try:
        return float(known["floor"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: holds no number called floor; draw the shelter again") from None


def _recorded(source: Source) -> Path | None:
    own = source.run.record["data"].get("folder") if source.run is not None else None
    return Path(own) if own and Path(own).is_dir() else None


def _drawn_seed(ids: Sequence[str]) -> int | None:
    """The seed of the drawn shelter that `ids` come from; None if none is known."""
    known = _first_photos()
    return next((known[name] for name in ids if name in known), None)


@cache
def _first_photos() -> dict[str, int]:
    return {photo_id(seed, TRAIN, index): seed for seed in range(_SEEDS) for index in range(_FIRST)}
