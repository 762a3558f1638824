"""`pawpularity errors`: gather what is at hand about a set of predictions, analyse its errors, print and write the report.

Leaves `worst.csv`, `bands.csv`, `shares.csv`, `recency.csv`, `report.txt` and, where photos are at hand, `worst.png`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.dataset import Dataset
from pawpularity.data.duplicates import find_duplicates
from pawpularity.data.photo_facts import PROPERTIES, photo_facts
from pawpularity.data.tables import ID, METADATA
from pawpularity.errors import UserError
from pawpularity.evaluation.contact_sheet import Tile, contact_sheet
from pawpularity.evaluation.label_noise import LabelNoise, noise_for, noise_of_pairs
from pawpularity.evaluation.leak_detection import CONTEST_KIND, DRAWN_KIND, Origin, folder_of, origin_of, rows_known
from pawpularity.evaluation.metrics import BANDS, Band, band_of, error_by_band, rmse
from pawpularity.evaluation.predictions import Predictions
from pawpularity.files import plain, write_text
from pawpularity.studies.errors.analysis import (
    FEWEST_ROWS,
    SIDES,
    WORST_SHARE,
    Gap,
    Share,
    the_gap,
    what_they_share,
    worst_rows,
)
from pawpularity.studies.errors.recency import Recency, recency

MOST_TILES = 60  # thumbnails of a side: a sheet that a viewer still opens
FILES = ("worst.csv", "bands.csv", "shares.csv", "recency.csv", "report.txt", "worst.png")

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AtHand:
    """What a data folder knows of the predictions' rows; everything is aligned with `rows`."""

    folder: Path
    rows: Rows
    """(m,) which of the source's rows the table knows, ascending"""
    metadata: pd.DataFrame
    place: Rows
    """(m,) each row's place in train.csv"""
    paths: list[Path] | None
    facts: pd.DataFrame | None
    """properties of the photos; None for labels alone"""


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything the report says."""

    source: Predictions
    origin: Origin
    at_hand: AtHand | None
    gap: Gap
    constant_rmse: float
    bands: tuple[Band, ...]
    worst: dict[str, Rows]
    """by side, over all rows: the furthest off first"""
    worst_with_photos: dict[str, Rows]
    """the same among the rows whose photos are at hand, if these are not all"""
    compared: int
    """rows in each side's worst 5 %; 0 = too few rows are known"""
    bands_of_compared: dict[str, dict[str, int]]
    shares: list[Share]
    recency: Recency
    own_pairs: LabelNoise | None
    """what the rows' own near-duplicates say of the noise, however few"""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is not defined is null."""
        known = self.at_hand
        worst = worst_table(self).astype(object)
        return plain(
            {
                "run": self.source.name, "n": len(self.source.target), "origin": self.origin.kind,
                "constant_rmse": self.constant_rmse,
                "data": None if known is None else str(known.folder), "known": 0 if known is None else len(known.rows),
                "photos": 0 if known is None or known.paths is None else len(known.paths),
                "gap": self.gap.to_dict(), "bands": [vars(band) for band in self.bands],
                "worst": worst.where(worst.notna(), None).to_dict(orient="records"),
                "compared": {"each_side": self.compared, "by_band": self.bands_of_compared},
                "shares": [share.to_dict() for share in self.shares], "recency": self.recency.to_dict(),
                "noise_of_own_pairs": None if self.own_pairs is None else self.own_pairs.to_dict(),
            }
        )  # fmt: skip


def look_up(source: Predictions, origin: Origin, data: Path | None, cache: Path) -> AtHand | None:
    """What is at hand about the rows: in `data` if the user named it, else where the run was trained, or in input/.

    None where nothing known holds any of the rows. Raises UserError where `data` does not hold them, or other scores.
    """
    if data is not None:
        return _known(source, Dataset.load(data, cache), str(data))
    # A folder that nobody named and that holds other data is not this command's business; one of the same data is, with
    # all its faults.
    folder = folder_of(source, origin)
    return None if folder is None else _known(source, Dataset.load(folder, cache), str(folder))


def _known(source: Predictions, dataset: Dataset, where: str) -> AtHand:
    rows, place = rows_known(source, dataset.train, where)
    table = dataset.train.iloc[place].reset_index(drop=True)
    if not dataset.has_photos:
        return AtHand(dataset.folder, rows, table[list(METADATA)], place, None, None)
    photos = dataset.rows()
    facts = photo_facts(photos).iloc[place].reset_index(drop=True)
    return AtHand(dataset.folder, rows, table[list(METADATA)], place, [photos.paths[i] for i in place], facts)


def with_groups(source: Predictions, at_hand: AtHand | None, cache: Path) -> Predictions:
    """`source` with its near-duplicates found where it does not know them and photos are at hand."""
    if source.groups is not None or at_hand is None or at_hand.paths is None:
        return source
    ids = source.table[ID].to_numpy()[at_hand.rows].tolist()
    # Rows without photos stay alone, above the numbers the others are given.
    groups = len(source.target) + np.arange(len(source.target), dtype=np.int64)
    groups[at_hand.rows] = find_duplicates(ids, at_hand.paths, cache_folder=cache).groups
    return replace(source, groups=groups)


def analyse(source: Predictions, data: Path | None, cache: Path, *, top: int, draws: int) -> Findings:
    """Everything there is to say about the errors of `source`.

    Raises UserError for `data` of other rows, and for predictions that are the targets.
    """
    if np.array_equal(source.prediction, source.target):
        raise UserError(
            f"{source.path}: every prediction is its target, so there are no errors to look at; name another"
        )
    origin = origin_of(source, data)
    at_hand = look_up(source, origin, data, cache)
    source = with_groups(source, at_hand, cache)
    target, prediction, error = source.target, source.prediction, source.prediction - source.target
    gap = the_gap(target, prediction, source.fold, noise_for(source, origin), origin.expected, source.groups,
                  draws=draws)  # fmt: skip
    worst = {side: _astray(error, worst_rows(error, side, top), side) for side in SIDES}
    pictured: dict[str, Rows] = {}
    if at_hand is not None and at_hand.paths is not None and len(at_hand.rows) < len(target):
        rows = at_hand.rows
        pictured = {side: _astray(error, rows[worst_rows(error[rows], side, top)], side) for side in SIDES}
    compared, by_band, shares = 0, {}, []
    if at_hand is not None and len(at_hand.rows) >= FEWEST_ROWS:
        rows = at_hand.rows
        compared = max(1, round(WORST_SHARE * len(rows)))
        for side in SIDES:
            inside = band_of(target[rows][worst_rows(error[rows], side, compared)])
            by_band[side] = {name: int((inside == i).sum()) for i, (name, _) in enumerate(BANDS)}
        values, families = at_hand.metadata.to_numpy(dtype=np.float64), [0] * len(METADATA)
        names = list(METADATA)
        if at_hand.facts is not None:
            values = np.concatenate([values, _standardised(at_hand.facts[list(PROPERTIES)])], axis=1)
            families, names = families + [1] * len(PROPERTIES), names + list(PROPERTIES)
        shares = what_they_share(names, values, error[rows], target[rows], None if source.groups is None else source.groups[rows],
                                 count=compared, families=families, draws=draws)  # fmt: skip
    known = np.arange(len(target)) if at_hand is None else at_hand.rows
    place, facts = (None, None) if at_hand is None else (at_hand.place, at_hand.facts)
    tested = recency(source.table[ID].to_numpy()[known].tolist(), place, target[known], -error[known], facts,
                     hashed=origin.kind in (CONTEST_KIND, DRAWN_KIND))  # fmt: skip
    own_pairs = None if source.groups is None else noise_of_pairs(target, source.groups)
    bands = error_by_band(target, prediction)
    return Findings(source, origin, at_hand, gap, rmse(target, source.constant), bands, worst, pictured, compared, by_band,
                    shares, tested, own_pairs)  # fmt: skip


def _astray(error: NDArray[np.float64], rows: Rows, side: str) -> Rows:
    """Those of `rows` that are off to this side at all: of few rows, or biased ones, the furthest over may lie under."""
    return rows[(error[rows] > 0) if side == SIDES[0] else (error[rows] < 0)]


def worst_table(found: Findings) -> pd.DataFrame:
    """The rows furthest off, over-scored first: among all rows and, where only some have photos, among those too."""
    listed = [("all rows", side, rows) for side, rows in found.worst.items()]
    listed += [("rows with photos", side, rows) for side, rows in found.worst_with_photos.items()]
    place = {int(row): i for i, row in enumerate(found.at_hand.rows)} if found.at_hand is not None else {}
    lines = []
    for among, side, rows in listed:
        for rank, row in enumerate(rows.tolist(), start=1):
            own = found.source.table.iloc[row]
            target, prediction = float(own["target"]), float(own["prediction"])
            line: dict[str, Any] = {"among": among, "side": side, "rank": rank, ID: own[ID], "fold": int(own["fold"]),
                                    "target": target, "prediction": prediction, "error": prediction - target}  # fmt: skip
            if found.origin.expected is not None:
                expected = float(found.origin.expected[row])
                line |= {"expected": expected, "noise": target - expected, "missed": expected - prediction}
            if found.at_hand is not None:
                at = place.get(row)
                for name in METADATA:
                    line[name] = None if at is None else int(found.at_hand.metadata[name].iloc[at])
                if (facts := found.at_hand.facts) is not None:
                    line |= {name: None if at is None else float(facts[name].iloc[at]) for name in PROPERTIES}
            lines.append(line)
    table = pd.DataFrame(lines)
    for name in METADATA:
        if name in table:
            table[name] = table[name].astype("Int64")
    return table


def write_report(found: Findings, text: str, folder: Path) -> list[Path]:
    """Write the files; those of an earlier report that this one does not have are removed. Returns what was written."""
    tables = {
        "worst.csv": worst_table(found),
        "bands.csv": pd.DataFrame([vars(band) | {"share_low": low, "share_high": high} for band in found.bands
                                   for low, high in [found.gap.band_intervals[band.name]]]),
        "shares.csv": pd.DataFrame([vars(share) for share in found.shares]),
        "recency.csv": pd.DataFrame([vars(link) for link in found.recency.links]),
    }  # fmt: skip
    written = []
    for name, table in tables.items():
        if len(table):
            write_text(folder / name, table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
            written.append(folder / name)
    if found.at_hand is not None and found.at_hand.paths is not None:
        rows, captions = zip(*_tiles(found, found.at_hand.paths), strict=True)
        contact_sheet(rows, folder / "worst.png", captions)
        written.append(folder / "worst.png")
    write_text(folder / "report.txt", text + "\n")
    written.append(folder / "report.txt")
    for name in FILES:
        if folder / name not in written:
            (folder / name).unlink(missing_ok=True)
    return written


def _tiles(found: Findings, paths: Sequence[Path]) -> Iterator[tuple[list[Tile], str]]:
    assert found.at_hand is not None
    place = {int(row): i for i, row in enumerate(found.at_hand.rows)}
    among = "" if not found.worst_with_photos else f", of the {len(paths):,} rows whose photos are at hand"
    meaning = {SIDES[0]: "predicted above the true score", SIDES[1]: "predicted below the true score"}
    for side, rows in (found.worst_with_photos or found.worst).items():
        tiles = []
        for row in rows[:MOST_TILES].tolist():
            own = found.source.table.iloc[row]
            target, prediction = float(own["target"]), float(own["prediction"])
            lines = [
                f"true {target:g}, predicted {prediction:.1f}",
                f"{prediction - target:+.1f}, fold {int(own['fold'])}",
            ]
            if found.origin.expected is not None:
                expected = float(found.origin.expected[row])
                lines.append(f"expected {expected:.1f}, noise {target - expected:+.1f}")
            lines += [_ones(found.at_hand, place[row]) or "no metadata set", own[ID][:16]]
            tiles.append(Tile(paths[place[row]], lines))
        yield tiles, f"the {len(tiles)} most {side}: {meaning[side]}{among}"


def _ones(at_hand: AtHand, at: int) -> str:
    return ", ".join(name for name in METADATA if at_hand.metadata[name].iloc[at])


def _standardised(table: pd.DataFrame) -> NDArray[np.float64]:
    values = table.to_numpy(dtype=np.float64)
    sd = values.std(axis=0)
    return np.asarray((values - values.mean(axis=0)) / np.where(sd > 0, sd, 1.0))
