"""The report of `pawpularity errors` as text for people."""

import numpy as np

from pawpularity.data.photo_facts import PROPERTIES
from pawpularity.data.tables import ID, METADATA
from pawpularity.evaluation.label_noise import (
    CONTEST_NOISE,
    CONTEST_SELECTION,
    FEWEST_PAIRS,
    OTHER_CONTEST_LIST,
    Explainable,
)
from pawpularity.evaluation.metrics import INDICATIVE_BELOW
from pawpularity.studies.errors.analysis import SIDES, WORST_SHARE, Interval, Share
from pawpularity.studies.errors.report import AtHand, Findings, worst_table

_FEW_PAIRS = 30
_FEW = 20  # with fewer worst rows a side, intervals are too narrow (a share of 0 or 1 has none)


def report_text(found: Findings) -> str:
    """The whole report."""
    parts = [
        _head(found),
        _bands(found),
        _noise(found),
        _systematic(found),
        _worst(found),
        *_shares(found),
        _recency(found),
    ]
    return "\n\n".join(parts)


def _head(found: Findings) -> str:
    gap, n, run = found.gap, len(found.source.target), found.source.run
    word = f"; n < {INDICATIVE_BELOW}: every interval here is indicative" if n < INDICATIVE_BELOW else ""
    constant = f"{found.constant_rmse:.3f} ({found.source.constant_words})"
    lines = [
        f"errors of {found.source.name}: {n:,} rows, out-of-fold RMSE {gap.rmse:.3f} {_span(gap.rmse_interval, 2)}, "
        f"constant {constant}{word}",
        f"rows    {found.origin.why}",
        f"data    {_known(found.at_hand, n)}",
    ]
    if run is not None and run.leaky:
        lines.append(
            "leaky by design (train.split=leaky): it was trained on copies of these photos, so its errors mean nothing"
        )
    groups = found.source.groups
    if groups is None:
        lines.append("groups  near-duplicates are not known: every row is taken as its own")
    elif several := n - len(np.unique(groups)):
        lines.append(f"groups  {several} of the rows repeat another's photo; they are drawn together")
    return "\n".join(lines)


def _known(at_hand: AtHand | None, n: int) -> str:
    if at_hand is None:
        return "no table with these rows is at hand, so what the worst rows share is not known; name it with --data DIR"
    some = f"{len(at_hand.rows):,} of the {n:,} rows" if len(at_hand.rows) < n else "all rows"
    return f"{at_hand.folder}: metadata of {some}, {'no photos' if at_hand.paths is None else 'and their photos'}"


def _bands(found: Findings) -> str:
    lines = [
        "Where the squared error is, by true score",
        "    band      n  of rows    RMSE  of squared error  95 %            mean error",
    ]
    for band in found.bands:
        span = _percent_span(found.gap.band_intervals[band.name])
        lines.append(
            f"{band.name:>8s} {band.n:6d} {band.n / len(found.source.target):8.1%} {band.rmse:7.2f} {band.share:17.1%}  "
            f"{span:16s} {band.bias:+9.2f}"
        )
    return "\n".join(lines)


def _noise(found: Findings) -> str:
    gap, noise = found.gap, found.gap.noise
    title = "How much of it is the labels' noise"
    if noise is None:
        return (
            f"{title}: not known (fewer than 8 pairs of near-duplicates, and neither the contest's data nor a drawn shelter "
            "at hand)"
        )
    lines = [
        title,
        f"noise of a score: sd {noise} ({noise.how})",
        f"mean squared error {gap.mse:.1f} = noise {noise.sd**2:.1f}, {gap.noise_share:.1%} "
        f"{_percent_span(gap.noise_share_interval)}, + the rest {gap.mse - noise.sd**2:.1f}, {1 - gap.noise_share:.1%}",
        f"a predictor that knew every photo's expected score would have RMSE {noise}; one that answered both scores of a "
        f"pair with their own mean, {noise.sd / np.sqrt(2):.1f} on pairs (it has seen half of their noise)",
    ]
    if noise == CONTEST_NOISE:
        other = f"{OTHER_CONTEST_LIST.pairs} pairs of another list give {OTHER_CONTEST_LIST}"
        lines.append(f"likely more than that: {CONTEST_SELECTION}; {other}")
    if not noise.exact and noise.pairs < _FEW_PAIRS:
        lines.append("from so few pairs such an interval holds the truth in about nine of ten cases")
    if gap.explainable is not None:
        r2 = 1 - gap.mse / float(np.var(found.source.target))
        lines.append(f"R2 {r2:.3f} of at most {_ceiling(gap.explainable)}: {_explained(gap.explainable)}")
    if (exact := gap.exact) is not None:
        lines.append(
            f"exactly, from the truth of these rows: noise {exact.noise:.1%} of the mean squared error, distance to the "
            f"expected score {exact.rest:.1%}, twice their product {exact.both:+.1%}"
        )
    if noise.exact and found.own_pairs is not None and found.own_pairs.pairs >= FEWEST_PAIRS:
        lines.append(f"without the truth, {found.own_pairs.how} would have said sd {found.own_pairs}")
    return "\n".join(lines)


def _ceiling(found: Explainable) -> str:
    span = "" if found.noise.exact else f" [{found.ceiling_low:.3f}, {found.ceiling_high:.3f}]"
    return f"{found.ceiling:.3f}{span}"


def _explained(found: Explainable) -> str:
    if found.share is None or found.share_low is None or found.share_high is None:
        return "noise alone would account for these scores"
    return f"{found.share:.1%} {_percent_span((found.share_low, found.share_high))} of what can be explained"


def _systematic(found: Findings) -> str:
    gap = found.gap
    if not np.isfinite(gap.slope):
        return "Systematic part: the predictions do not vary, so there is no line to correct them by"
    lines = [
        f"Systematic part: target = {gap.intercept:.3f} + {gap.slope:.4f} x prediction (slope {_span(gap.slope_interval, 3)}, "
        f"intercept {_span(gap.intercept_interval, 2)}; 1 and 0 are calibrated)"
    ]
    same = f"fitted on these same rows {gap.affine_gain_same_rows:.3f}, which is optimistic"
    if np.isfinite(gap.affine_gain):
        square = (gap.mse - (gap.rmse - gap.affine_gain) ** 2) / gap.mse
        lines.append(
            f"what such a line takes off the RMSE: fitted on the other folds {gap.affine_gain:.3f} "
            f"{_span(gap.affine_gain_interval, 3)} ({square:.1%} of the mean squared error); {same}"
        )
    else:
        lines.append(f"what such a line takes off the RMSE: {same}; it cannot be fitted on other folds")
    return "\n".join(lines)


def _worst(found: Findings) -> str:
    table = worst_table(found)
    truth = found.origin.expected is not None
    width = max(len(name) for name in table[ID])
    head = f"{'Id':{width}s} fold  true  predicted   error{'  expected   noise' if truth else ''}  metadata"
    blocks = ["The rows furthest off"]
    for (among, side), rows in table.groupby(["among", "side"], sort=False):
        lines = [f"{side}, of {among}:", head]
        for row in rows.to_dict(orient="records"):
            known = f"  {row['expected']:8.1f}  {row['noise']:+6.1f}" if truth else ""
            ones = [name for name in METADATA if row.get(name) == 1]
            words = ", ".join(ones) or ("none" if row.get(METADATA[0]) == 0 else "not known")
            lines.append(
                f"{row[ID]:{width}s} {row['fold']:4d} {row['target']:5.4g}  {row['prediction']:9.1f}  {row['error']:+6.1f}"
                f"{known}  {words}"
            )
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _shares(found: Findings) -> list[str]:
    if found.at_hand is None:
        return []
    m, k = len(found.at_hand.rows), found.compared
    title = f"What the worst {WORST_SHARE:.0%} share"
    if not found.shares:
        return [f"{title}: {m} rows are too few to tell"]
    low, high = (found.bands_of_compared[side] for side in SIDES)
    of_all = next((band.n for band in found.bands if band.name == "100"), 0)
    intro = [
        f"{title}: {k} over-scored and {k} under-scored of {m:,} rows, each against all others",
        "The true score itself decides which rows can be far off (regression to the mean): of the over-scored "
        f"{low['<=20']} have a true score of 20 or less, of the under-scored {high['100']} have 100"
        + (f" ({of_all} of all rows have)." if m == len(found.source.target) else "."),
        "So every difference is given twice: against all others, and against others of similar true score (the bands above,",
        "Mantel-Haenszel). Among the latter the worst are simply those predicted highest or lowest, so that difference says",
        "what the model goes by, not what the public likes. p: membership shuffled, over all rows and within bands; Holm over",
        "both sides and all columns of a table's kind.",
    ]
    if k < _FEW:
        intro.append(f"With {k} rows a side the intervals are too narrow; go by p.")
    blocks = ["\n".join(intro)]
    kinds = (("metadata, in % of rows", METADATA, 100.0), ("photo properties, in sd", PROPERTIES, 1.0))
    for kind, names, scale in kinds:
        rows = [share for share in found.shares if share.column in names]
        for side in SIDES if rows else ():
            blocks.append(_share_table(f"{side}: {kind}", [row for row in rows if row.side == side], scale))
    return blocks


def _share_table(title: str, rows: list[Share], scale: float) -> str:
    digits = 1 if scale > 1 else 2
    width = max(len(row.column) for row in rows)
    compared = f"{'difference, 95 %':23s}       p    Holm   {'of similar score, 95 %':23s}       p    Holm"
    lines = [title, f"{'':{width}s}   worst    rest   {compared}"]
    for row in rows:
        plain = _difference(row.difference, row.low, row.high, scale, digits)
        banded = _difference(row.banded, row.banded_low, row.banded_high, scale, digits)
        lines.append(
            f"{row.column:{width}s}  {row.worst * scale:6.{digits}f}  {row.rest * scale:6.{digits}f}   {plain:23s}  "
            f"{_p(row.p)}  {_p(row.p_holm)}   {banded:23s}  {_p(row.banded_p)}  {_p(row.banded_p_holm)}"
        )
    return "\n".join(lines)


def _recency(found: Findings) -> str:
    tested = found.recency
    lines = ["Does the score depend on when a photo was posted?", tested.verdict]
    lines += [f"({note})" for note in tested.notes]
    if tested.links:
        width = max(len(link.what) for link in tested.links)
        lines.append(f"{'':{width}s}  against        n  values  correlation       p    Holm  smallest detectable")
        lines += [
            f"{link.what:{width}s}  {link.against:8s} {link.n:7d}  {link.distinct:6d}  {link.correlation:+11.3f}  {_p(link.p)}  "
            f"{_p(link.p_holm)}  {link.smallest:19.3f}"
            for link in tested.links
        ]
    return "\n".join(lines)


def _difference(value: float, low: float, high: float, scale: float, digits: int) -> str:
    if not np.isfinite(value):
        return "not defined"
    return f"{value * scale:+.{digits}f} [{low * scale:+.{digits}f}, {high * scale:+.{digits}f}]"


def _p(value: float) -> str:
    return "<.0001" if value < 0.0001 * (1 - 1e-9) else f"{value:6.4f}"


def _span(interval: Interval, digits: int) -> str:
    return f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _percent_span(interval: Interval) -> str:
    low, high = (f"{end:.1%}" if np.isfinite(end) else "no end" for end in interval)
    return f"[{low}, {high}]"
