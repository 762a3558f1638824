"""Each method's faithfulness over all explained photos, on each baseline: means with intervals, and one verdict.

One photo's p is at least 1/22 and says little. Over photos the sum of the p is compared with that of as many uniform numbers
(Irwin, Hall; p on a grid are larger than uniform ones, which is safe). But random orders prefer no place, and pets are in the
middle: on many photos a blob there beats them too. So the verdict also says whether the method beats the centre.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from pawpularity.console import table
from pawpularity.evaluation.bootstrap import Groups
from pawpularity.explain.estimates import Estimate, estimates
from pawpularity.explain.faithfulness import CENTRE, LEVEL, NO_BETTER, Faithfulness
from pawpularity.files import plain

FEW = 5  # photos below which nothing is said of the centre: a bootstrap of so few is too narrow
_EXACT = 20  # uniform numbers up to which the exact distribution of their sum is used, not the normal
USELESS = (
    "a map that knows nothing and prefers no place beats random on 1 photo in 20; the centre, as often as its row says"
)


@dataclass(frozen=True)
class Summary:
    """One method over photos, on one baseline."""

    method: str
    baseline: str
    photos: int
    figures: dict[str, Estimate]
    """Means over photos: figures of `Faithfulness`, `over_centre` (insertion minus deletion, paired), and the shares of photos that
    `beats_random`, `road_beats_random` and `beats_centre`."""
    constant: int  # photos whose map was the same everywhere
    p: float  # chance of p as small over all photos together, if the maps knew nothing and preferred no place

    @property
    def verdict(self) -> str:
        """`beats random`, if at all; and whether it beats the centre as well, by the interval."""
        if self.method == CENTRE:
            return ""
        if self.constant == self.photos:
            return "constant maps"
        if self.p > LEVEL:
            return NO_BETTER
        over = self.figures["over_centre"]
        if over.n < FEW:
            return "beats random"
        if over.low > 0:
            return "beats random and the centre"
        return "beats random, not the centre" if over.high < 0 else "beats random, ties with the centre"

    def share(self, name: str) -> str:
        """On how many photos it `beats_random`, or `road_beats_random`."""
        known = name == "beats_random" or self.figures["road"].n > 0
        return f"{100 * self.figures[name].mean:.0f} %" if known else ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = {name: figure.to_dict() for name, figure in self.figures.items()}
        return {"method": self.method, "baseline": self.baseline, "photos": self.photos, **figures,
                "constant": self.constant, "p": plain(self.p), "verdict": self.verdict}  # fmt: skip


_MEANS = ("deletion_auc", "insertion_auc", "insertion_minus_deletion", "positive_end", "negative_end", "road", "random_sd",
          "beats_random", "road_beats_random", "beats_centre")  # fmt: skip
SHOWN = {"insertion_minus_deletion": "insertion - deletion", "positive_end": "removing highest", "negative_end": "removing lowest",
         "road": "ROAD", "over_centre": "over centre"}  # fmt: skip


def summarise(photos: Sequence[Sequence[Faithfulness]], groups: Groups = None) -> list[Summary]:
    """Every method on every baseline over `photos`, one list of `judge` each, with intervals over (groups of) photos."""
    found = []
    for method, baseline in dict.fromkeys((row.method, row.baseline) for rows in photos for row in rows):
        own, centre = (
            [next((r for r in rows if (r.method, r.baseline) == (name, baseline)), None) for rows in photos]
            for name in (method, CENTRE)
        )
        columns = [[np.nan if r is None else float(getattr(r, name)) for name in _MEANS] for r in own]
        over = [
            np.nan if r is None or c is None else r.insertion_minus_deletion - c.insertion_minus_deletion
            for r, c in zip(own, centre, strict=True)
        ]
        figures = estimates(np.column_stack([np.array(columns), over]), groups)
        judged = [r for r in own if r is not None]
        named = dict(zip((*_MEANS, "over_centre"), figures, strict=True))
        constant = sum(r.constant for r in judged)
        found.append(Summary(method, baseline, len(judged), named, constant, _p_over_photos(own, groups)))
    return found


def _p_over_photos(rows: Sequence[Faithfulness | None], groups: Groups) -> float:
    """One-sided p of the sum of the photos' p; near-duplicates count once, by their mean. A constant map's p counts as 1."""
    values = np.array([np.nan if r is None else 1.0 if r.constant else r.p_random for r in rows])
    known = np.isfinite(values)
    clusters = np.arange(len(values)) if groups is None else np.asarray(groups)
    _, member = np.unique(clusters[known], return_inverse=True)
    means = np.bincount(member, values[known]) / np.bincount(member)
    count, total = len(means), float(means.sum())
    if count <= _EXACT:
        return float(stats.irwinhall(count).cdf(total + 1e-12))
    return float(stats.norm.cdf(total, loc=count / 2, scale=(count / 12) ** 0.5))  # the normal's tails are heavier


def summary_rows(rows: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """(header, cells) of a table of the summaries."""
    header = ["", "hidden by", "photos", *SHOWN.values(), "beats random", "by ROAD", ""]
    cells = [[row.method, row.baseline, str(row.photos), *(row.figures[name].text(1) for name in SHOWN),
              row.share("beats_random"), row.share("road_beats_random"), row.verdict] for row in rows]  # fmt: skip
    return header, cells


def summary_text(rows: Sequence[Summary]) -> str:
    """The summaries as aligned text."""
    header, cells = summary_rows(rows)
    judged = (
        "; gradient: judged as gradient x (photo - mean colour)" if any(r.method == "gradient" for r in rows) else ""
    )
    shown = table(header, cells, left=(0, 1, len(header) - 1))
    return f"{shown}\nscore points, mean over photos [95 %]{judged}\n{USELESS}"
