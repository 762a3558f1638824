"""Each method's faithfulness over all explained photos, on each substrate: means with intervals, and one verdict.

One photo's p is at least 1/22, and says little. Over photos the sum of the p is compared with that of as many uniform numbers
(Irwin, Hall; p on a grid are larger than uniform ones, which is safe). Random orders prefer no place, though, and pets stand in
the middle: on many photos a blob there beats them too. So the verdict also says whether the method beats the centre first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from pawpularity.evaluation.bootstrap import Groups
from pawpularity.explain.estimate import Estimate, estimates, plain, table
from pawpularity.explain.faithfulness import CENTRE, LEVEL, NOT_TOLD, RANDOM, Faithfulness

USELESS = (
    "random orders are beaten by 1 in 20 of the maps that know nothing and prefer no place, and by the centre as often as its "
    "row says"
)
FEW = 5  # photos below which nothing is said of the centre: a bootstrap of so few is too narrow
_EXACT = 20  # uniform numbers up to which their sum's distribution is taken as it is, and not as normal


@dataclass(frozen=True)
class Summary:
    """One method over photos, on one substrate."""

    method: str
    substrate: str
    photos: int
    figures: dict[str, Estimate]
    """Means over photos: the figures of `Faithfulness`, `over_centre` (insertion minus deletion, paired), and the shares of
    photos that `beats_random`, `road_beats_random` and `beats_centre`."""
    constant: int
    """Photos whose map was the same everywhere."""
    p: float
    """Chance of p as small over all photos together, if the maps knew nothing and preferred no place."""

    @property
    def verdict(self) -> str:
        """`beats random`, if at all; and whether it beats the centre first as well, beyond the interval."""
        if self.method in (RANDOM, CENTRE):
            return ""
        if self.constant == self.photos:
            return "constant maps"
        if self.p > LEVEL:
            return NOT_TOLD
        over = self.figures["over_centre"]
        if over.n < FEW:
            return "beats random"
        if over.low > 0:
            return "beats random and the centre"
        return "beats random, not the centre" if over.high < 0 else "beats random, not told from the centre"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = {name: figure.to_dict() for name, figure in self.figures.items()}
        return {"method": self.method, "substrate": self.substrate, "photos": self.photos, **figures,
                "constant": self.constant, "p": plain(self.p), "verdict": self.verdict}  # fmt: skip


_MEANS = ("deletion_auc", "insertion_auc", "insertion_minus_deletion", "positive_end", "negative_end", "road", "random_sd",
          "beats_random", "road_beats_random", "beats_centre")  # fmt: skip


def summarise(photos: Sequence[Sequence[Faithfulness]], groups: Groups = None) -> list[Summary]:
    """Every method on every substrate over `photos`, one list of `judge` each, with intervals over (groups of) photos."""
    found = []
    for method, substrate in dict.fromkeys((row.method, row.substrate) for rows in photos for row in rows):
        own, centre = (
            [next((r for r in rows if (r.method, r.substrate) == (name, substrate)), None) for rows in photos]
            for name in (method, CENTRE)
        )
        columns = [[np.nan if r is None else float(getattr(r, name)) for name in _MEANS] for r in own]
        over = [
            np.nan if r is None or c is None else r.insertion_minus_deletion - c.insertion_minus_deletion
            for r, c in zip(own, centre, strict=True)
        ]
        figures = estimates(np.column_stack([np.array(columns), over]), groups)
        judged = [r for r in own if r is not None]
        found.append(
            Summary(method, substrate, len(judged), dict(zip((*_MEANS, "over_centre"), figures, strict=True)),
                    sum(r.constant for r in judged), _p_over_photos(own, groups))
        )  # fmt: skip
    return found


def _p_over_photos(rows: Sequence[Faithfulness | None], groups: Groups) -> float:
    """One-sided p of the sum of the photos' p; near-duplicates, which may agree, count once, by their mean.

    A constant map's order is random, and its p counts as 1. nan where the method was never judged (the random row).
    """
    known = [place for place, row in enumerate(rows) if row is not None and np.isfinite(row.p_random)]
    if not known:
        return float("nan")
    values = np.array([1.0 if (row := rows[place]) is None or row.constant else row.p_random for place in known])
    clusters = np.arange(len(known)) if groups is None else np.asarray(groups)[known]
    _, member = np.unique(clusters, return_inverse=True)
    means = np.bincount(member, values) / np.bincount(member)
    count, total = len(means), float(means.sum())
    if count <= _EXACT:
        return float(stats.irwinhall(count).cdf(total + 1e-12))
    # The normal's tails are the heavier ones.
    return float(stats.norm.cdf(total, loc=count / 2, scale=(count / 12) ** 0.5))


def summary_text(rows: Sequence[Summary]) -> str:
    """The summaries as aligned text."""
    header = ["", "hidden by", "photos", "insertion - deletion", "removing highest", "lowest", "ROAD", "over centre",
              "beat random", "by ROAD", ""]  # fmt: skip
    cells = [header]
    for row in rows:
        f = row.figures
        shown = [
            f[name].text()
            for name in ("insertion_minus_deletion", "positive_end", "negative_end", "road", "over_centre")
        ]
        cells.append([row.method, row.substrate, str(row.photos), *shown, *share_texts(row), row.verdict])
    judged = (
        "; gradient: judged as gradient x (photo - mean colour)"
        if any(row.method == "gradient" for row in rows)
        else ""
    )
    return f"{table(cells)}\nscore points, mean over photos [95 %]{judged}\n{USELESS}"


def share_texts(row: Summary) -> list[str]:
    """On how many photos it beats random orders, and by ROAD; blank for the random orders themselves."""
    f = row.figures
    known = {"beats_random": row.method != RANDOM, "road_beats_random": row.method != RANDOM and f["road"].n > 0}
    return [f"{100 * f[name].mean:.0f} %" if there else "" for name, there in known.items()]
