"""Does a photo's score depend on when it was posted? As far as the contest's data can answer, which is hardly at all.

The paper guesses so: newer profiles have had less time to be clicked. But no date stands in the table, and the Ids are
hashes. What is left is tried here: dates in the photos' EXIF, the order of the table and of the Ids, and properties of the
files that change with a platform's age. Only dates could answer the question; the others can at most show that something
in the order or in the files goes with the score, which is said as that and no more.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from pawpularity.data.photo_facts import DATE, QUANTISATION
from pawpularity.evaluation.bootstrap import holm

FEWEST_DATES = 30
FILE_PROPERTIES = ("width, px", "height, px", "log file size", QUANTISATION)
DETECTABLE = 2.80  # standard errors from which 80 % of two-sided tests at 5 % find an effect: 1.96 + 0.84

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Link:
    """One rank correlation (or, for `neighbours`, the lag-1 autocorrelation), rows taken as independent."""

    what: str
    against: str
    """score, residual (target - prediction)"""
    n: int
    distinct: int
    """values of `what`: two or three say little"""
    correlation: float
    p: float
    p_holm: float
    smallest: float
    """the smallest correlation that 80 % of such tests would have found, at 5 % and alone"""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Recency:
    """What was tried and what it says."""

    verdict: str
    dates: int
    photos: int
    links: tuple[Link, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def recency(
    ids: Sequence[str],
    place: NDArray[np.int64] | None,
    target: Floats,
    residual: Floats,
    facts: pd.DataFrame | None,
    *,
    hashed: bool,
) -> Recency:
    """Test what there is. All arrays (n,) and aligned.

    `place`: each row's place in train.csv (None = no table at hand). `residual`: target - prediction. `facts`: properties of
    the photos (`photo_facts`), None without photos. `hashed`: whether the Ids are hashes, whose order means nothing.
    """
    count = 0 if facts is None else len(facts)
    tried: list[tuple[str, Floats]] = []
    notes = []
    dates = 0 if facts is None else int(facts[DATE].notna().sum())
    if facts is not None and dates >= FEWEST_DATES:
        tried.append(("EXIF date", facts[DATE].to_numpy(dtype=np.float64)))
    by_id = np.argsort(np.argsort(np.array(ids))).astype(np.float64)
    order = by_id if place is None else place.astype(np.float64)
    if place is not None and not np.array_equal(np.argsort(order), np.argsort(by_id)):
        tried.append(("row of train.csv", order))
    elif place is not None:
        notes.append("train.csv stands in the order of its Ids, so its order is theirs")
    tried.append(("order of Ids", by_id))
    if facts is not None:
        tried += [(name, facts[name].to_numpy(dtype=np.float64)) for name in FILE_PROPERTIES]
    links = []
    for name, values in tried:
        for against, other in (("score", target), ("residual", residual)):
            if (found := rank_link(name, values, against, other)) is not None:
                links.append(found)
        if name in ("row of train.csv", "order of Ids"):
            links += [found for what, other in (("score", target), ("residual", residual))
                      if (found := neighbour_link(f"neighbours, {name}", what, other[np.argsort(values)])) is not None]  # fmt: skip
    if facts is not None:
        same = [name for name in FILE_PROPERTIES if facts[name].nunique() <= 1]
        notes += [f"{name} is the same in every photo" for name in same]
    if links:
        adjusted = holm([link.p for link in links])
        links = [replace(link, p_holm=float(p)) for link, p in zip(links, adjusted, strict=True)]
    return Recency(_verdict(links, dates, count, hashed), dates, count, tuple(links), tuple(notes))


def rank_link(what: str, values: Floats, against: str, other: Floats) -> Link | None:
    """Spearman's correlation of `values` (NaN left out) with `other`; None for fewer than 10 rows or no variation."""
    there = np.isfinite(values)
    x, y = values[there], other[there]
    if len(x) < 10 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    found = stats.spearmanr(x, y)
    # Fieller, Hartley and Pearson 1957: the variance of Fisher's z of a rank correlation is 1.06 / (n - 3).
    smallest = math.tanh(DETECTABLE * math.sqrt(1.06 / (len(x) - 3)))
    p = float(found.pvalue)
    return Link(what, against, len(x), len(np.unique(x)), float(found.statistic), p, p, smallest)


def neighbour_link(what: str, against: str, values: Floats) -> Link | None:
    """Lag-1 autocorrelation of `values` in the order given: whether rows that stand together score alike.

    p is of the normal limit for a random order (mean -1/n, variance 1/n). None for fewer than 10 rows or no variation.
    """
    n = len(values)
    if n < 10 or np.ptp(values) == 0:
        return None
    centred = values - values.mean()
    correlation = float((centred[1:] @ centred[:-1]) / (centred @ centred))
    p = float(2 * stats.norm.sf(abs(correlation + 1 / n) * math.sqrt(n)))
    return Link(what, against, n, n, correlation, p, p, DETECTABLE / math.sqrt(n))


def _verdict(links: Sequence[Link], dates: int, photos: int, hashed: bool) -> str:
    dated = [link for link in links if link.what == "EXIF date"]
    others = [link for link in links if link.what != "EXIF date"]
    if dated:
        words = f"{dates} of {photos} photos carry a date (EXIF: of the camera or an editor, not of the posting). "
        seen = [link for link in dated if link.p_holm < 0.05]
        words += (
            f"It goes with the {_list(seen)}. Why, the date cannot tell."
            if seen
            else f"It goes neither with score nor with residual; one below {dated[0].smallest:.2f} could have been missed."
        )
    else:
        why = (
            "no photos are at hand that might carry one"
            if photos == 0
            else f"{dates} of {photos} photos carry one (EXIF)"
        )
        words = f"Cannot be tested: no dates. The table has none, and {why}"
        words += f"; {FEWEST_DATES} are needed." if dates else "."
    seen = [link for link in others if link.p_holm < 0.05]
    if not others:
        return words
    where = "the order of the rows" if photos == 0 else "the order of the rows and in the files"
    kind = "hashes, whose order tells nothing of time" if hashed else "not hashes, so their order may mean something"
    if seen:
        words += f" In {where} these go together: {_list(seen)}; whether time is the reason cannot be told"
    else:
        words += f" Nothing in {where} goes with score or residual, which is no evidence either way"
    return f"{words} (the Ids are {kind})."


def _list(links: Sequence[Link]) -> str:
    return ", ".join(
        f"{link.against} ({link.what}: {link.correlation:+.3f}, Holm p {link.p_holm:.2g})" for link in links
    )
