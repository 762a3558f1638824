"""Each method's faithfulness over all explained photos, on each baseline: means with intervals, and one verdict.

One photo's p is at least 1/22 and says little. Over photos the sum of the p is compared with that of as many uniform numbers
(Edgington 1972; p on a grid are larger than uniform ones, which is safe). But random orders prefer no place, and pets are in the
middle: on many photos a blob there beats them too. So the verdict also says whether the method beats the centre.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from scipy import stats

from pawpularity.console import table
from pawpularity.evaluation.bootstrap import Groups
from pawpularity.explain.estimates import estimates
from pawpularity.explain.faithfulness import CENTRE, CONSTANT, LEVEL, NO_BETTER

FEW = 5  # photos below which nothing is said of the centre: a bootstrap of so few is too narrow
_EXACT = 20  # uniform numbers up to which the exact distribution of their sum is used, not the normal
USELESS = (
    "a map that knows nothing and prefers no place beats random on 1 photo in 20; the centre, as often as its row says"
)
SHOWN = {"insertion_minus_deletion": "insertion - deletion", "road": "ROAD", "over_centre": "over centre"}
_MEANS = ("deletion_auc", "insertion_auc", *SHOWN, "beats_random", "road_beats_random")

Summary = dict[str, Any]
"""One method over photos, on one baseline: method, baseline, photos, an Estimate of each mean over photos, p (chance of p as small
over all photos together, if the maps knew nothing and preferred no place), verdict."""


def summarise(photos: Sequence[Sequence[Mapping[str, Any]]], groups: Groups = None) -> list[Summary]:
    """Every method on every baseline over `photos`, one list of `judge` each, with intervals over (groups of) photos."""
    rows = pd.DataFrame([{"photo": i, **row} for i, judged in enumerate(photos) for row in judged])
    key = ["photo", "baseline"]
    centre = rows[rows["method"] == CENTRE].set_index(key)["insertion_minus_deletion"].rename("centre")
    rows = rows.join(centre, on=key)
    rows["over_centre"] = rows["insertion_minus_deletion"] - rows["centre"]
    found = []
    for (method, baseline), own in rows.groupby(["method", "baseline"], sort=False):
        clusters = own["photo"].to_numpy() if groups is None else groups[own["photo"]]
        row: Summary = {"method": method, "baseline": baseline, "photos": len(own)}
        row |= dict(zip(_MEANS, estimates(own[list(_MEANS)].astype(float), clusters), strict=True))
        row["p"] = _p_over_photos(own["p_random"].astype(float), clusters)
        row["verdict"] = "constant maps" if (own["mark"] == CONSTANT).all() else _verdict(row)
        found.append(row)
    return found


def _verdict(row: Summary) -> str:
    """`beats random`, if at all; and whether it beats the centre as well, by the interval."""
    if row["method"] == CENTRE:
        return ""
    if row["p"] > LEVEL:
        return NO_BETTER
    over = row["over_centre"]
    if over.n < FEW:
        return "beats random"
    if over.low > 0:
        return "beats random and the centre"
    return "beats random, not the centre" if over.high < 0 else "beats random, ties with the centre"


def _p_over_photos(p: "pd.Series[float]", clusters: Any) -> float:
    """One-sided p of the sum of the photos' p; near-duplicates count once, by their mean."""
    means = p.groupby(clusters).mean()
    count, total = len(means), float(means.sum())
    if count <= _EXACT:
        return float(stats.irwinhall(count).cdf(total + 1e-12))
    return float(stats.norm.cdf(total, loc=count / 2, scale=(count / 12) ** 0.5))  # the normal's tails are heavier


def summary_rows(rows: Sequence[Summary], titles: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """(header, cells) of a table of the summaries."""
    header = ["", "hidden by", "photos", *SHOWN.values(), "beats random", "by ROAD", ""]
    cells = [
        [titles.get(row["method"], row["method"]), row["baseline"], str(row["photos"]), *(row[name].text(1) for name in SHOWN),
         f"{100 * row['beats_random'].mean:.0f} %",
         f"{100 * row['road_beats_random'].mean:.0f} %" if row["road"].n else "", row["verdict"]]
        for row in rows
    ]  # fmt: skip
    return header, cells


def summary_text(rows: Sequence[Summary]) -> str:
    """The summaries as aligned text."""
    header, cells = summary_rows(rows, {})
    judged = (
        "; gradient: judged as gradient x (photo - mean colour)" if any(r["method"] == "gradient" for r in rows) else ""
    )
    shown = table(header, cells, left=(0, 1, len(header) - 1))
    return f"{shown}\nscore points, mean over photos [95 %]{judged}\n{USELESS}"
