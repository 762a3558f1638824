"""On a drawn shelter it is known what moves a photo's score, where it is, and by how many points: does a map find it?

    parts = read_parts(data, photo_id, size=96)           # {"tongue": Part(mask, points), ...} in the network's input
    rows = find(map, parts)                               # one row a part: pointing and energy beside chance
    summarise_parts(maps, parts_of_the_photos, groups)    # over photos, with intervals, and beside other photos' maps

Signs count: of a part that raises the score (tongue, eyes) the map's highest place and its positive energy are looked at,
of one that lowers it (clutter, an odd pose, a second pet) the lowest place and the negative energy, of one worth nothing
(an accessory) the strongest place and the energy of either sign. Chance is the share of the picture that the part takes. A
blob in the middle beats that, as pets sit there; so the maps of other photos are tried on the same parts.

The contrast is no place but a difference between the background and the pet: its row is the background's.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pawpularity.errors import UserError
from pawpularity.evaluation.bootstrap import Groups
from pawpularity.explain.estimate import Estimate, estimates, plain, proportion, table
from pawpularity.sample.labels import ACCESSORY, BACKGROUND, BODY, CLUTTER, LEFT_EYE, RIGHT_EYE, SECOND_PET, TONGUE

# Where each part of sample.spec.PARTS is on a label map.
PLACES = {"tongue": (TONGUE,), "eyes": (LEFT_EYE, RIGHT_EYE), "contrast": (BACKGROUND,), "clutter": (CLUTTER,),
          "pose": (BODY,), "pets": (SECOND_PET,), "accessory": (ACCESSORY,)}  # fmt: skip
FEW = 5  # photos below which nothing is concluded
OTHERS = 5  # other photos whose maps are tried on each photo's parts

Mask = NDArray[np.bool_]
Map = NDArray[np.floating[Any]]


class Part(NamedTuple):
    """Where a part is, (H, W), and how many points it gives or takes."""

    mask: Mask
    points: float


def read_parts(data: Path, photo_id: str, *, size: int, fit: str = "squash") -> dict[str, Part]:
    """The parts seen on a photo of train.csv or test.csv, in the geometry of the network's input (size x size).

    Raises UserError where `data` is no drawn shelter, or the photo is not one of its.
    """
    file = data / "truth" / "parts.csv"
    if not file.is_file():
        raise UserError(f"{data}: is no drawn shelter ({file} is missing), so nothing is known about its photos; "
                        "draw one with: make sample")  # fmt: skip
    rows = _rows(file, file.stat().st_mtime_ns)
    if photo_id not in rows:
        raise UserError(f"{file}: has no photo {photo_id}; its photos are those of train.csv and test.csv")
    try:
        points = {part: float(rows[photo_id][part]) for part in PLACES}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file}: the points of photo {photo_id} cannot be read; draw the shelter again") from None
    labels = read_labels(data / "truth" / "labels" / f"{photo_id}.png", size, fit)
    found = {part: Part(np.isin(labels, numbers), points[part]) for part, numbers in PLACES.items()}
    return {part: one for part, one in found.items() if one.mask.any()}


def read_labels(file: Path, size: int, fit: str) -> NDArray[np.uint8]:
    """A label map, (size, size), cut and squashed as `competition.photos` does its photo, each place by its nearest."""
    try:
        with Image.open(file) as image:
            if fit == "crop":
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                image = image.crop((left, top, left + side, top + side))  # type: ignore[assignment]
            return np.array(image.resize((size, size), Image.Resampling.NEAREST))
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise UserError(f"{file}: {reason}; draw the shelter again") from None


def is_constant(values: Map) -> bool:
    """Whether the map says the same of every place, and so nothing."""
    return bool(np.ptp(values) == 0.0)


def pointing(values: Map, part: Part) -> float:
    """1 if the place that the map (H, W) names first is in the part, else 0; of equal places the share that is; nan for a
    constant map."""
    if is_constant(values):
        return float("nan")
    aimed = _aimed(values, part.points)
    return float(part.mask[aimed == aimed.max()].mean())


def energy(values: Map, part: Part) -> float:
    """Share of the map's energy of the part's sign that lies in the part; nan for a constant map or one without any."""
    aimed = np.maximum(_aimed(values, part.points), 0.0)
    total = float(aimed.sum())
    return float("nan") if total == 0.0 or is_constant(values) else float(aimed[part.mask].sum()) / total


def _aimed(values: Map, points: float) -> NDArray[np.float64]:
    signed = np.asarray(values, dtype=np.float64)
    return np.abs(signed) if points == 0 else signed * np.sign(points)


@dataclass(frozen=True)
class PartRow:
    """One part of one photo, as one map finds it."""

    part: str
    points: float
    share: float
    """Of the picture: the chance level of pointing and of energy."""
    pointing: float
    energy: float
    constant: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: plain(value) for name, value in vars(self).items()}


def find(values: Map, parts: Mapping[str, Part]) -> list[PartRow]:
    """Every part of a photo, as the map (H, W) finds it. Raises ValueError where they differ in shape."""
    for name, part in parts.items():
        if part.mask.shape != values.shape:
            raise ValueError(f"the map has shape {values.shape}, {name} has {part.mask.shape}")
    constant = is_constant(values)
    return [
        PartRow(name, p.points, float(p.mask.mean()), pointing(values, p), energy(values, p), constant)
        for name, p in parts.items()
    ]


@dataclass(frozen=True)
class PartSummary:
    """One part over the photos that show it with points (an accessory: that show it)."""

    part: str
    points: float
    """Mean over the photos."""
    pointing: Estimate
    share: Estimate
    """Of the picture: chance."""
    energy: Estimate
    excess: Estimate
    """Energy less the share of the picture, photo by photo."""
    over_others: Estimate
    """Energy less that of other photos' maps on the same part."""
    constant: int

    @property
    def verdict(self) -> str:
        """In words, by the lower ends of the intervals."""
        if self.constant and self.constant == self.share.n:
            return "constant maps"
        if self.excess.n < FEW:
            return "too few photos" if self.share.n < FEW else "maps have no energy of this sign"
        above, own = self.excess.low > 0, self.over_others.low > 0
        if self.points == 0:
            return "credited, though worth nothing" if above and own else "left alone"
        if above:
            return "found" if own else "no better than another photo's map"
        return "opposite sign or elsewhere" if self.excess.high < 0 else "not found"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = {name: v.to_dict() for name, v in vars(self).items() if isinstance(v, Estimate)}
        return {"part": self.part, "points": self.points, **figures, "constant": self.constant, "verdict": self.verdict}


def summarise_parts(
    maps: Sequence[Map], parts: Sequence[Mapping[str, Part]], groups: Groups = None
) -> list[PartSummary]:
    """How `maps` (H, W), one a photo, find the `parts` of their photos; `groups` (photos,) are near-duplicates.

    A part that is there but gives no points (an eye of which the other is shut, a body in a usual pose) is left out.
    """
    found = {
        (i, row.part): row for i, (own, known) in enumerate(zip(maps, parts, strict=True)) for row in find(own, known)
    }
    summaries = []
    for part in PLACES:
        shown = [i for i in range(len(maps)) if (i, part) in found]
        shown = [i for i in shown if part == "accessory" or found[i, part].points != 0]
        if not shown:
            continue
        rows = [found[i, part] for i in shown]
        energies = np.array([row.energy for row in rows])
        shares = np.array([row.share for row in rows])
        others = np.array([_by_others(maps, i, parts[i][part], groups) for i in shown])
        columns = np.column_stack([[r.pointing for r in rows], shares, energies, energies - shares, energies - others])
        aimed, share, inside, excess, over = estimates(columns, None if groups is None else groups[shown])
        if np.isin(columns[:, 0], (0.0, 1.0)).all():  # else places tie, and a photo is hit in part
            aimed = proportion(columns[:, 0], None if groups is None else groups[shown])
        points = float(np.mean([row.points for row in rows]))
        constant = sum(row.constant for row in rows)
        summaries.append(PartSummary(part, points, aimed, share, inside, excess, over, constant))
    return summaries


def _by_others(maps: Sequence[Map], own: int, part: Part, groups: Groups) -> float:
    """Mean energy that the maps of the next few photos (no near-duplicates of this one) have in this photo's part."""
    order = [(own + step) % len(maps) for step in range(1, len(maps))]
    strangers = [i for i in order if groups is None or groups[i] != groups[own]][:OTHERS]
    energies = [energy(maps[i], part) for i in strangers]
    return float(np.nanmean(energies)) if np.isfinite(energies).any() else float("nan")


def parts_text(summaries: Sequence[PartSummary]) -> str:
    """The summaries as aligned text."""
    cells = [
        ["part", "points", "photos", "points at it", "energy in it", "share of picture", "over other photos' maps", ""]
    ]
    for row in summaries:
        cells.append([row.part, f"{row.points:+.1f}", str(row.share.n), row.pointing.text(2, False), row.energy.text(2, False),
                      f"{row.share.mean:.2f}", row.over_others.text(), row.verdict])  # fmt: skip
    return (
        table(cells)
        + "\nmean over photos [95 %]; chance points at a part, and has its energy in it, as often as it is wide"
    )


@lru_cache(maxsize=4)
def _rows(file: Path, changed: int) -> dict[str, dict[str, str]]:
    # `changed` makes a shelter drawn anew be read anew.
    try:
        with file.open(encoding="utf-8", newline="") as text:
            return {row["Id"]: row for row in csv.DictReader(text)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read ({error}); draw the shelter again") from None
