"""Twins of a drawn shelter: the same pet with and without one part. Removing the part has an exact effect; does a map say so?

    twins = read_twins(data, size=96)
    rows = against_twins(twins, scores, maps)     # scores (pairs, 2) of with and without, maps of the photos with the part
    print(twins_text(summarise_twins(rows)))

A map explains the network, so its first judge is what the network's own score does when the part goes; the true effect is
the second, and the network itself can be wrong about that.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.errors import UserError
from pawpularity.evaluation.bootstrap import interval
from pawpularity.explain.estimate import Estimate, estimate, plain, proportion, table
from pawpularity.explain.known_truth import PLACES, Map, Mask, is_constant, read_labels

DRAWS = 1_000
LEGEND = (
    "effect: score with the part less without it, in points (contrast: a strong one of .6 against none); map on it: its mean "
    "over the part; sign: share of pairs whose map has the effect's sign there; balanced: the mean of that share where the part "
    "raises the score and where it lowers it; rank: Spearman's correlation of map x size with the effect [95 %]"
)


@dataclass(frozen=True)
class Twin:
    """A pair of photos that differ in one part."""

    part: str
    photo_with: Path
    photo_without: Path
    effect: float
    """Points the part adds before noise and clipping."""
    effect_expected: float
    """What it adds to the expected score."""
    place: Mask
    """(size, size): the part, on the photo that shows it."""


def read_twins(data: Path, *, size: int, fit: str = "squash") -> list[Twin]:
    """The pairs of `data`, in the geometry of the network's input. Raises UserError where it has none."""
    folder = data / "pairs"
    file = folder / "pairs.csv"
    if not file.is_file():
        if not (data / "truth" / "parts.csv").is_file():
            raise UserError(f"{data}: is no drawn shelter, so it has no twins; draw one with: make sample")
        raise UserError(f"{data}: was drawn without twins; draw it with: pawpularity sample --twins 5 --into DIR")
    twins = []
    try:
        with file.open(encoding="utf-8", newline="") as text:
            rows = list(csv.DictReader(text))
        for row in rows:
            labels = read_labels(folder / "labels" / f"{row['Id_with']}.png", size, fit)
            own, other = (folder / "photos" / f"{row[name]}.jpg" for name in ("Id_with", "Id_without"))
            twins.append(Twin(row["part"], own, other, float(row["effect"]), float(row["effect_expected"]),
                              np.isin(labels, PLACES[row["part"]])))  # fmt: skip
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read ({error}); draw the shelter again") from None
    return twins


@dataclass(frozen=True)
class TwinRow:
    """One pair: what the part does, and what the map says of its place."""

    part: str
    effect: float
    effect_expected: float
    effect_network: float
    """The network's score with the part less that without, points."""
    map_mean: float
    """Mean of the map over the part's place."""
    map_sum: float
    """That times the part's share of the picture: a weak wide part may do as much as a strong small one."""
    constant: bool

    @property
    def as_network(self) -> float:
        """1 where the map's sign is that of the network's own effect, 0 where not, nan where either is 0."""
        return _agree(self.map_mean, self.effect_network, self.constant)

    @property
    def as_truth(self) -> float:
        """The same against the true effect."""
        return _agree(self.map_mean, self.effect, self.constant)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        every = vars(self) | {"as_network": self.as_network, "as_truth": self.as_truth}
        return {name: plain(value) for name, value in every.items()}


def _agree(said: float, done: float, constant: bool) -> float:
    if constant or not np.isfinite(said * done) or said * done == 0.0:
        return float("nan")
    return float(said * done > 0)


def against_twins(twins: Sequence[Twin], scores: NDArray[np.floating[Any]], maps: Sequence[Map]) -> list[TwinRow]:
    """One row a pair, of the network's `scores` (pairs, 2), with and without the part, and the `maps` of the photos with it."""
    rows = []
    for twin, (score_with, score_without), values in zip(twins, np.asarray(scores, np.float64), maps, strict=True):
        mean = float(np.mean(values[twin.place], dtype=np.float64)) if twin.place.any() else float("nan")
        rows.append(TwinRow(twin.part, twin.effect, twin.effect_expected, float(score_with - score_without), mean,
                            mean * float(twin.place.mean()), is_constant(values)))  # fmt: skip
    return rows


@dataclass(frozen=True)
class TwinSummary:
    """All pairs of one part, or ("all") of every part."""

    part: str
    effect: float
    effect_network: Estimate
    map_mean: Estimate
    as_network: Estimate
    as_truth: Estimate
    rank_network: Estimate
    """"all" only: Spearman's correlation of the map's sum over the part with the network's effect, over pairs."""
    rank_truth: Estimate
    balanced: float
    """"all" only: the mean of `as_network` among the pairs where the part raises the network's score and among those where
    it lowers it. A map of one sign gets 0.5."""
    constant: int

    @property
    def verdict(self) -> str:
        """For "all": whether signs and ranks go with the network's own effects beyond chance."""
        if self.part != "all":
            return ""
        if self.constant == self.effect_network.n:
            return "constant maps"
        agrees = [self.as_network.low > 0.5 and self.balanced > 0.5, self.rank_network.low > 0]
        return ("signs and ranks agree with the network" if all(agrees) else "signs agree with the network, ranks do not"
                if agrees[0] else "ranks agree with the network, signs do not" if agrees[1] else
                "says nothing of what parts do")  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        every = {name: v.to_dict() if isinstance(v, Estimate) else plain(v) for name, v in vars(self).items()}
        return every | {"verdict": self.verdict}


def summarise_twins(rows: Sequence[TwinRow], *, seed: int = 0) -> list[TwinSummary]:
    """Part by part, then "all". Every pair is another pet, so the bootstrap is over pairs."""
    return [_summary(part, [r for r in rows if part in (r.part, "all")], seed) for part in (*_parts(rows), "all")]


def _parts(rows: Sequence[TwinRow]) -> list[str]:
    return [part for part in PLACES if any(row.part == part for row in rows)]


def _summary(part: str, rows: Sequence[TwinRow], seed: int) -> TwinSummary:
    column = {name: np.array([getattr(r, name) for r in rows], dtype=np.float64) for name in (
        "effect", "effect_network", "map_mean", "map_sum", "as_network", "as_truth")}  # fmt: skip
    none = Estimate(float("nan"), float("nan"), float("nan"), 0)
    whole = part == "all"
    sides = [column["as_network"][np.sign(column["effect_network"]) == sign] for sign in (1, -1)]
    known = [float(np.nanmean(side)) for side in sides if np.isfinite(side).any()]
    told = np.array([not row.constant for row in rows])
    return TwinSummary(
        part=part,
        effect=float(column["effect"].mean()),
        effect_network=estimate(column["effect_network"], seed=seed),
        map_mean=estimate(column["map_mean"], seed=seed),
        as_network=proportion(column["as_network"], seed=seed),
        as_truth=proportion(column["as_truth"], seed=seed),
        rank_network=_rank(column["map_sum"][told], column["effect_network"][told], seed) if whole else none,
        rank_truth=_rank(column["map_sum"][told], column["effect"][told], seed) if whole else none,
        balanced=float(np.mean(known)) if whole and len(known) == 2 else float("nan"),
        constant=sum(row.constant for row in rows),
    )


def _rank(said: NDArray[np.float64], done: NDArray[np.float64], seed: int) -> Estimate:
    from scipy.stats import rankdata

    there = np.isfinite(said) & np.isfinite(done)
    said, done, count = said[there], done[there], int(there.sum())
    if count < 3 or np.ptp(said) == 0.0 or np.ptp(done) == 0.0:
        return Estimate(float("nan"), float("nan"), float("nan"), count)
    drawn = np.random.default_rng([seed, 0x7E15]).integers(0, count, (DRAWS, count))
    drawn = np.concatenate([np.arange(count)[None], drawn])
    ranks = [rankdata(values[drawn], axis=1) for values in (said, done)]
    centred = [r - r.mean(axis=1, keepdims=True) for r in ranks]
    with np.errstate(invalid="ignore"):
        found = (centred[0] * centred[1]).sum(axis=1) / np.sqrt(
            (centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1)
        )
    return Estimate(float(found[0]), *interval(found[1:][np.isfinite(found[1:])]), count)


def twins_text(summaries: Sequence[TwinSummary]) -> str:
    """The summaries as aligned text."""
    cells = [["part", "pairs", "true effect", "network's effect", "map on it", "sign as network", "as truth"]]
    for row in summaries[:-1]:
        signs = [figure.text(2, False) for figure in (row.as_network, row.as_truth)]
        cells.append([row.part, str(row.effect_network.n), f"{row.effect:+.1f}", row.effect_network.text(1),
                      row.map_mean.text(), *signs])  # fmt: skip
    last = summaries[-1]
    network, truth = (figure.text(2, False) for figure in (last.as_network, last.as_truth))
    return "\n".join([
        table(cells),
        f"all {last.effect_network.n} pairs: sign as the network's {network}, balanced {last.balanced:.2f} (chance 0.5), as the "
        f"truth's {truth}",
        f"rank with the network's effect {last.rank_network.text()}, with the true one {last.rank_truth.text()}: {last.verdict}",
        LEGEND,
    ])  # fmt: skip
