"""Where the score of whole groups of photos comes from: mean signed RISE maps, their differences with errors, four figures.

    make explain GROUP=scores        # high, middle and low thirds of the true scores
    make explain GROUP="eyes face"   # with and without, by metadata column; contrast: above and below the median

The paper averages maps that were each scaled to their own maximum, clipped at zero, and shows the pictures. Here maps stay
signed and in score points, each photo's from `explain.group_blocks` blocks of masks: more photos with fewer masks beat
fewer photos with more. The i-th photos of a group's sides share their masks.

Four figures say what a picture only suggests. Energy is the squared map, and squared noise would count as energy, so it is
taken as the product of different blocks' maps, whose noises are independent; where there is no signal it is zero on average.

- inside: share of the energy inside the subject's mask (`hypotheses.subject`), less the subject's share of the photo
- spread: root mean squared distance of the energy from its centre, shares of the photo's side (spread evenly: 0.41)
- centre x, centre y: where the energy's centre lies, 0 (left, top) to 1
- balance: mean of the map over its root mean square, -1 (all of it lowers) to 1 (all of it raises)

Where the energy's own interval reaches down to zero, no figure is given: no signal found.

Intervals: bootstrap over photos, near-duplicates together. The difference map is tested as a whole: the largest |difference /
error| against its distribution under the wild bootstrap, so that looking at thousands of places finds nothing by luck more
than once in twenty times; over several groups the p are adjusted by Holm. Below six photos a side there is no such test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.tables import METADATA
from pawpularity.errors import UserError, nearest
from pawpularity.evaluation.bootstrap import bootstrap_sums, group_sums, interval
from pawpularity.evaluation.effects import CLAIMS, CONTRAST
from pawpularity.explain.extremes import Scored

SCORES, PREDICTIONS = "scores", "predictions"
FIGURES = {
    "inside": "energy inside the subject less its share of the photo",
    "spread": "root mean squared distance of the energy from its centre, sides",
    "centre x": "centre of the energy, 0 left to 1 right",
    "centre y": "centre of the energy, 0 top to 1 bottom",
    "balance": "mean of the map over its root mean square",
}
PLACES = ("spread", "centre x", "centre y")  # of them, those that are no more or less than something
DRAWS = 2000
FEWEST = 2  # photos on a side, near-duplicates counting as one
FEWEST_TESTED = 6  # with fewer signs to draw, noise alone is a difference: 1 v 8 in 97 %, 3 v 3 in 84, 5 v 48 in 14
_COARSE = 28  # sides of the map that is tested as a whole: RISE's cells are far larger

Floats = NDArray[np.float64]


def known_groups() -> list[str]:
    """What GROUP= takes: scores, predictions, the hypotheses' columns first, then the other columns."""
    claimed = [claim.column for claim in CLAIMS]
    return [SCORES, PREDICTIONS, *(word_of(name) for name in dict.fromkeys([*claimed, *METADATA]))]


def word_of(column: str) -> str:
    """A column's name as one word: `Subject Focus` -> `subject-focus`."""
    return column.lower().replace(" ", "-")


def sides_of(group: str, rows: Sequence[Scored], table: pd.DataFrame, contrast: Floats | None) -> dict[str, list[int]]:
    """Which of `rows` are on each side of `group`: thirds for scores and predictions, else with and without.

    `table` (metadata) and `contrast` (levels, NaN = not measured) are aligned with `rows`. Raises UserError for a word that is
    no group, and for a side with fewer than two photos.
    """
    if group not in known_groups():
        raise UserError(f"GROUP={group}: is no group{nearest(group, known_groups())}")
    if group in (SCORES, PREDICTIONS):
        values = np.array([row.target if group == SCORES else row.prediction for row in rows])
        low, high = np.quantile(values, [1 / 3, 2 / 3])
        sides = {"high": values > high, "middle": (values > low) & (values <= high), "low": values <= low}
    elif group == CONTRAST:
        if contrast is None:
            raise UserError(f"GROUP={CONTRAST}: is measured from photos, and these data have none")
        middle = np.nanmedian(contrast)
        sides = {"above the median": contrast > middle, "below the median": contrast <= middle}
    else:
        column = next(name for name in METADATA if word_of(name) == group)
        shown = table[column].to_numpy() == 1
        sides = {f"with {column}": shown, f"without {column}": ~shown}
    for name, mask in sides.items():
        if mask.sum() < FEWEST:
            raise UserError(
                f"GROUP={group}: {int(mask.sum())} of {len(rows)} photos are {name}; each side needs {FEWEST} or more"
            )
    return {name: np.flatnonzero(mask).tolist() for name, mask in sides.items()}


def require_two(group: str, sides: Mapping[str, Sequence[int]], rows: Sequence[Scored]) -> None:
    """Raise UserError where all photos of a side are near-duplicates of one another: nothing tells its maps' luck."""
    for name, places in sides.items():
        if len({rows[place].group for place in places}) < FEWEST:
            raise UserError(f"GROUP={group}: the {len(places)} photos {name} are near-duplicates of one another; each side needs "
                            f"{FEWEST} or more that are not (a larger N draws more)")  # fmt: skip


def drawn_from(side: Sequence[int], rows: Sequence[Scored], n: int, seed: int) -> list[int]:
    """`n` photos of a side at random (all of fewer), as a function of the seed and the side's Ids alone."""
    ordered = sorted(side, key=lambda place: rows[place].id)
    order = np.random.default_rng([seed, 0x6E0]).permutation(len(ordered))[:n]
    return [ordered[place] for place in order]


@dataclass(frozen=True, eq=False)
class Mapped:
    """One photo's blocks of masks, and where its subject is."""

    blocks: NDArray[np.float32]
    """(B, H, W), B >= 2: RISE's map by each block alone, score points"""
    subject: NDArray[np.bool_] | None
    """(H, W); None where no plausible subject was found"""
    cluster: int
    """near-duplicates share a number"""
    target: float

    @property
    def map(self) -> Floats:
        """(H, W) all blocks together."""
        mean: Floats = self.blocks.mean(axis=0, dtype=np.float64)
        return mean

    def energy(self) -> Floats:
        """(H, W) the squared map without the square of its noise: the mean of products of different blocks' maps."""
        blocks = self.blocks.astype(np.float64)
        count = len(blocks)
        free: Floats = (blocks.sum(axis=0) ** 2 - (blocks**2).sum(axis=0)) / (count * (count - 1))
        return free

    def sums(self) -> Floats:
        """What the figures of a group are ratios of; see `_figures`."""
        energy = self.energy()
        height, width = energy.shape
        x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
        known = self.subject is not None
        inside = float((energy * self.subject).mean()) if self.subject is not None else 0.0
        total = float(energy.mean())
        return np.array([
            1.0, total, float((energy @ x).mean() / width), float((energy.T @ y).mean() / height),
            float((energy * (x[None, :] ** 2 + y[:, None] ** 2)).mean()),
            inside, total * known, float(self.subject.mean()) if self.subject is not None else 0.0, float(known),
            float(self.map.mean()), self.target,
        ])  # fmt: skip


def _figures(sums: Floats) -> dict[str, Floats]:
    """The figures of FIGURES, and `energy`, from sums (..., 11) over photos; NaN where there is no energy."""
    count, total, by_x, by_y, by_square, inside, known, area, masks, mean, _ = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        energy = np.where(total > 0, total, np.nan)
        x, y = by_x / energy, by_y / energy
        return {
            "energy": total / count,
            "inside": inside / np.where(known > 0, known, np.nan) - area / masks,
            "spread": np.sqrt(np.maximum(by_square / energy - x**2 - y**2, 0.0)),
            "centre x": x,
            "centre y": y,
            "balance": mean / count / np.sqrt(energy / count),
        }


@dataclass(frozen=True)
class Figure:
    """One figure of one side, or of the difference of two."""

    value: float | None
    """None: no signal found"""
    low: float | None
    high: float | None
    """95 % interval"""

    def text(self, sign: str = "+") -> str:
        """`+0.12 [-0.03, +0.27]`."""
        if self.value is None:
            return "no signal found"
        value, low, high = (
            f"{round(float(v), 2) + 0.0:{sign}.2f}" for v in (self.value, self.low, self.high) if v is not None
        )
        return f"{value} [{low}, {high}]"


@dataclass(frozen=True, eq=False)
class Part:
    """A mean map, its error, and the figures of FIGURES."""

    name: str
    map: Floats
    """(H, W) mean signed map, score points"""
    standard_error: Floats
    """(H, W), over photos (near-duplicates together); masks' noise is in it"""
    figures: dict[str, Figure]


@dataclass(frozen=True, eq=False)
class Side(Part):
    """The photos of one side together."""

    photos: int
    clusters: int
    mean_score: float


@dataclass(frozen=True, eq=False)
class Difference(Part):
    """The first side less the last."""

    p: float | None
    """chance of a largest |difference / error| like this if the sides' maps were the same everywhere; None: too few photos"""
    threshold: float
    """|difference / error| that is reached somewhere by luck in one of twenty; infinite with too few photos"""


@dataclass(frozen=True, eq=False)
class GroupFindings:
    """Everything about one GROUP."""

    group: str
    sides: list[Side]
    difference: Difference
    backdrop: NDArray[np.uint8]
    """(H, W, 3) the mean of all its photos"""


def findings(
    group: str, sides: Mapping[str, Sequence[Mapped]], backdrop: NDArray[np.uint8], *, draws: int = DRAWS, seed: int = 0
) -> GroupFindings:
    """The mean maps, figures and difference of the mapped photos of each side (each at least two)."""
    everyone = [photo for photos in sides.values() for photo in photos]
    clusters = np.array([photo.cluster for photo in everyone])
    # One table for all sides, a block of columns each: near-duplicates on two sides are drawn together.
    width = len(everyone[0].sums())
    columns = np.zeros((len(everyone), width * len(sides)))
    start = 0
    for place, photos in enumerate(sides.values()):
        for photo in photos:
            columns[start, place * width : (place + 1) * width] = photo.sums()
            start += 1
    seen = _figures(columns.sum(axis=0).reshape(len(sides), width))
    drawn = _figures(bootstrap_sums(columns, clusters, draws=draws, seed=seed).reshape(draws, len(sides), width))
    # A resample may have no photo of a side.
    energies = [drawn["energy"][np.isfinite(drawn["energy"][:, place]), place] for place in range(len(sides))]
    signal = [interval(energy)[0] > 0 for energy in energies]
    found = []
    for place, (name, photos) in enumerate(sides.items()):
        mean, error = _mean_map(photos)
        numbers = {key: _figure(float(seen[key][place]), drawn[key][:, place], signal[place]) for key in FIGURES}
        score = float(np.mean([photo.target for photo in photos]))
        found.append(Side(name, mean, error, numbers, len(photos), len({photo.cluster for photo in photos}), score))
    first, last = found[0], found[-1]
    ends = list(sides.values())
    p: float | None = None
    threshold = float("inf")
    if min(first.clusters, last.clusters) >= FEWEST_TESTED:
        p, threshold = _whole_map_test(ends[0], ends[-1], draws=draws, seed=seed)
    both = signal[0] and signal[-1]
    numbers = {
        key: _figure(float(seen[key][0] - seen[key][-1]), drawn[key][:, 0] - drawn[key][:, -1], both) for key in FIGURES
    }
    error = np.hypot(first.standard_error, last.standard_error)
    difference = Difference(f"{first.name} - {last.name}", first.map - last.map, error, numbers, p, threshold)
    return GroupFindings(group, found, difference, backdrop)


def rows_of(found: GroupFindings) -> list[dict[str, Any]]:
    """groups.csv: a row per side (and the difference) and figure; empty cells where no signal was found."""
    first, last = found.sides[0], found.sides[-1]
    parts: list[tuple[Part, int, int, float, float | None]] = [
        (side, side.photos, side.clusters, side.mean_score, None) for side in found.sides
    ]
    joint = (first.photos + last.photos, first.clusters + last.clusters, first.mean_score - last.mean_score)
    parts.append((found.difference, *joint, found.difference.p))
    rows = []
    for part, photos, clusters, score, p in parts:
        about = {"group": found.group, "side": part.name, "photos": photos, "clusters": clusters}
        for key, figure in part.figures.items():
            cells = {
                "value": figure.value,
                "low": figure.low,
                "high": figure.high,
                "mean_score": score,
                "p_anywhere": p,
            }
            rounded = {name: None if value is None else round(value, 5) for name, value in cells.items()}
            rows.append(about | {"figure": key} | rounded)
    return rows


def _figure(value: float, drawn: Floats, signal: bool) -> Figure:
    finite = drawn[np.isfinite(drawn)]
    # Where a tenth of the resamples has no energy, or no subject, left, an interval of the others would be of a chosen few.
    if not signal or not np.isfinite(value) or len(finite) < 0.9 * len(drawn):
        return Figure(None, None, None)
    low, high = interval(finite)
    return Figure(value, low, high)


def _mean_map(photos: Sequence[Mapped]) -> tuple[Floats, Floats]:
    maps = np.stack([photo.map for photo in photos])
    mean = maps.mean(axis=0)
    totals = _cluster_totals(maps - mean, photos)
    count = len(totals)
    correction = count / (count - 1) if count > 1 else float("nan")
    return mean, np.sqrt(correction * (totals**2).sum(axis=0)) / len(photos)


def _cluster_totals(maps: Floats, photos: Sequence[Mapped]) -> Floats:
    groups = np.array([photo.cluster for photo in photos])
    return group_sums(maps.reshape(len(maps), -1), groups).reshape(-1, *maps.shape[1:])


def _whole_map_test(first: Sequence[Mapped], last: Sequence[Mapped], *, draws: int, seed: int) -> tuple[float, float]:
    """(p, the 95 % threshold) of the largest |difference / error| over a coarse map, by the wild bootstrap (Wu 1986).

    Each cluster of near-duplicates keeps its side and its size, and its distance from the side's mean takes a random sign. So
    the sides keep their own spreads; photos that change sides would mix them, and a small side of strongly marked maps
    beside a large one of faint ones would then be called different far too often. The error is taken anew each time.
    """
    random = np.random.default_rng([seed, 0x3A7])
    places = _COARSE * _COARSE
    seen: Floats = np.zeros(places)
    seen_variance: Floats = np.zeros(places)
    difference: Floats = np.zeros((draws, places))
    variance: Floats = np.zeros((draws, places))
    for sign, photos in ((1.0, first), (-1.0, last)):
        maps = np.stack(
            [cv2.resize(one.map, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA).ravel() for one in photos]
        )
        sizes, number = _cluster_totals(np.ones((len(photos), 1)), photos), len(photos)
        own = maps.mean(axis=0)
        rest = _cluster_totals(maps - own, photos)
        correction = len(rest) / max(len(rest) - 1, 1) / number**2
        signs = random.choice([-1.0, 1.0], (draws, len(rest)))
        mean = signs @ rest / number
        spread = (rest**2).sum(axis=0) - 2 * mean * ((signs * sizes.T) @ rest) + mean**2 * (sizes**2).sum()
        seen, seen_variance = seen + sign * own, seen_variance + (rest**2).sum(axis=0) * correction
        difference, variance = difference + sign * mean, variance + np.maximum(spread, 0.0) * correction
    # Float sums in another order differ in their last digits: where nothing varies, nothing differs.
    floor = 1e-12 * max(float(np.max(seen**2 + seen_variance)), 1e-300)
    at = float(np.abs(seen / np.sqrt(np.maximum(seen_variance, floor))).max())
    largest = np.abs(difference / np.sqrt(np.maximum(variance, floor))).max(axis=1)
    p = float((1 + (largest >= at * (1 - 1e-9)).sum()) / (draws + 1))
    return p, float(np.quantile(largest, 0.95))
