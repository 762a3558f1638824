"""Each method's faithfulness over all explained photos, on each baseline: means with intervals, and a verdict.

One photo's p is at least 1/22 and says little. Over photos, the sum of the p is compared with the sum of as many uniform numbers
(Edgington 1972; these p are discrete, which makes the test conservative). Random orders prefer no place, but pets are in the
middle: a blob there beats random orders on many photos. So the verdict also says whether the method beats the centre.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from scipy import stats

from pawpularity.console import table
from pawpularity.evaluation.bootstrap import Groups
from pawpularity.explain.estimates import estimates
from pawpularity.explain.faithfulness import CENTRE, CONSTANT, LEVEL, NO_BETTER

FEW = 5  # with fewer photos the verdict does not mention the centre: their bootstrap interval is too narrow
_EXACT = 20  # up to so many p the sum's exact distribution is used, above the normal one
USELESS = "a map that ignores the photo and prefers no place beats random on 1 photo in 20; the row of the centre has its rate"
SHOWN = {"insertion_minus_deletion": "insertion - deletion", "road": "ROAD", "over_centre": "over centre"}
_MEANS = ("deletion_auc", "insertion_auc", *SHOWN, "beats_random", "road_beats_random")

Summary = dict[str, Any]
"""One method over photos, on one baseline: method, baseline, photos, an Estimate of each mean over photos, p (of all photos
together, if the maps ignored the photos and preferred no place), verdict."""


def summarise(photos: Sequence[Sequence[Mapping[str, Any]]], groups: Groups = None) -> list[Summary]:
    """Every method on every baseline over `photos` (the rows of `judge` for each), with intervals over photos or their `groups`."""
    rows = pd.DataFrame([{"photo": i, **row} for i, judged in enumerate(photos) for row in judged])
    key = ["photo", "baseline"]
    centre = rows[rows["method"] == CENTRE].set_index(key)["insertion_minus_deletion"].rename("centre")
    rows = rows.join(centre, on=key)
    rows["over_centre"] = rows["insertion_minus_deletion"] - rows["centre"]
    found = []
    for (method, baseline), some in rows.groupby(["method", "baseline"], sort=False):
        clusters = some["photo"].to_numpy() if groups is None else groups[some["photo"]]
        row: Summary = {"method": method, "baseline": baseline, "photos": len(some)}
        row |= dict(zip(_MEANS, estimates(some[list(_MEANS)].astype(float), clusters), strict=True))
        row["p"] = _p_over_photos(some["p_random"].astype(float), clusters)
        row["verdict"] = "constant maps" if (some["mark"] == CONSTANT).all() else _verdict(row)
        found.append(row)
    return found


def _verdict(row: Summary) -> str:
    """Whether the method beats random orders, by p, and the centre, by the interval."""
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
    """One-sided p of the sum of the photos' p. Near-duplicates count once, with their mean."""
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
    """A line per method and baseline: insertion - deletion, and the verdict."""
    cells = [(row["method"], row["baseline"], row["insertion_minus_deletion"].text(2), row["verdict"]) for row in rows]
    photos = max(row["photos"] for row in rows)
    return f"{table(('', 'hidden by', 'insertion - deletion', ''), cells, left=(0, 1, 3))}\n" \
           f"score points, mean over {photos} photos [95 %]"  # fmt: skip


def more_text(rows: Sequence[Summary]) -> str:
    """The other figures of each method."""
    header = ("", "hidden by", "over centre", "ROAD", "beats random")
    cells = [(row["method"], row["baseline"], row["over_centre"].text(2), row["road"].text(2),
              f"{100 * row['beats_random'].mean:.0f} %") for row in rows]  # fmt: skip
    judged = ["gradient: judged as gradient x (photo - mean colour)"] * any(r["method"] == "gradient" for r in rows)
    return "\n".join([table(header, cells, left=(0, 1)), *judged, USELESS])
