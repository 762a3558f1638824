"""The sections about predictions: paired differences, true against predicted, error by band, learning curves.

Every figure comes from `evaluation` or the runs' files; `pawpularity compare` and `pawpularity oof RUN` print the same.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from pawpularity.console import make_word
from pawpularity.errors import listed
from pawpularity.evaluation.compare import Comparison, compare
from pawpularity.evaluation.metrics import indicative
from pawpularity.evaluation.predictions import Predictions, groups_of_all
from pawpularity.files import text_hash
from pawpularity.report.components import (
    Block,
    Cell,
    Figure,
    Heading,
    Section,
    Table,
    Words,
    chance,
    collect,
    flagged,
    number,
    span,
)
from pawpularity.report.drawing import BLUE, ORANGE, Mark, Row, drawn, forest, forest_height
from pawpularity.report.inputs import Entry, by_data, command_of, copy_lines, distinct, flags_of
from pawpularity.report.plots import curves, error_by_band, read_history, scatter
from pawpularity.runs import Run

MOST_DRAWN = 12  # entries with a figure, so that the page stays small
MOST_LINES = 7  # lines in one figure: there are so many colours
_SQUARE, _LOW = 350.0, 270.0  # heights of figures, CSS pixels


def paired(entries: Sequence[Entry], first: str | None) -> list[tuple[Entry, list[Entry], list[Comparison]]]:
    """For each set of rows that several entries score: (reference, the other entries, their comparisons with it).

    The reference is the entry named by the word `first` if it is among them, else the best honest one. Of entries with exactly the
    same predictions only one is compared.
    """
    same: dict[str, list[Entry]] = defaultdict(list)
    for one in entries:
        if one.source is not None:
            cells = zip(one.source.table["Id"], one.source.target, strict=True)
            same[text_hash(*(f"{name},{target:.6f}" for name, target in cells))].append(one)
    found = []
    for some in same.values():
        if len(some) < 2:
            continue
        reference = next((s for s in some if s.word == first), some[0])
        (_, *others), _ = distinct([reference, *(s for s in some if s is not reference)])
        if not others:
            continue
        sources = [s.source for s in (reference, *others) if s.source is not None]
        rows = compare(sources[0].target, sources[0].prediction, [(s.name, s.prediction) for s in sources[1:]],
                       groups_of_all(sources))  # fmt: skip
        found.append((reference, others, rows))
    return found


def paired_section(
    entries: Sequence[Entry], found: Sequence[tuple[Entry, Sequence[Entry], Sequence[Comparison]]]
) -> Section:
    """The result of `paired` as tables and forest plots."""
    blocks: list[Block] = []
    # Compared entries first: `distinct` calls the later ones copies.
    compared = [one for reference, others, _ in found for one in (reference, *others)]
    left = copy_lines(distinct([*compared, *(one for one in entries if one not in compared)])[1])
    for place, (reference, others, comparisons) in enumerate(found):
        blocks += [Heading(f"{reference.data}, {reference.row['score']['n']:,} rows")] if len(found) > 1 else []
        blocks += _paired(f"paired{place}", reference, others, comparisons, flags_of(entries))
    blocks += [Words([f"Left out: {' '.join(left)}"])] if blocks and left else []
    why = ""
    if not blocks:
        why = "Two runs that score the same photos are needed; here each stands alone, or lacks other folds."
        why = " ".join([*left, why])
    command = 'make train RUN=another; make compare RUNS="a b"'
    return Section("paired", "Paired differences", "paired", command, blocks, why=why)


def _paired(
    tag: str, reference: Entry, others: Sequence[Entry], comparisons: Sequence[Comparison], flags: Mapping[str, str]
) -> list[Block]:
    score = reference.row["score"]
    command = command_of([reference, *others], "compare")
    rows = []
    lines: list[list[str | Cell]] = []
    for one, c in zip(others, comparisons, strict=True):
        mark = Mark(c.difference, c.low, c.high, ORANGE if one.flag else BLUE, bool(one.flag))
        words = f"{c.difference:+.2f} {span(c.low, c.high, signed=True)}"
        rows.append(Row(one.label, words, [mark], bad=bool(one.flag)))
        lines.append([
            flagged(one.name, flags), Cell(f"{c.rmse:.3f}", "strong"), f"{one.row['score']['constant_rmse']:.3f}",
            f"{c.difference:+.3f}", span(c.low, c.high, 3, signed=True),
            chance(c.p), chance(c.p_holm), "means nothing" if one.flag or reference.flag else c.verdict,
        ])  # fmt: skip
    differences = "; ".join(f"{row.label} {row.words}" for row in rows)
    alt = f"Paired differences of RMSE to {reference.label}, score points, 95 % intervals: {differences}"

    def paint(axes: Any) -> None:
        forest(axes, rows, "difference of RMSE, score points", zero=0.0)

    head = ["run", "RMSE", "constant", "difference", "95 % paired", "p", "p (Holm)", "verdict"]
    note = ("p: swapping the two within groups of near-duplicates. Holm corrects for the number of tests, but not for choosing "
            "the best on these rows. The interval of each RMSE is in the table of the runs.")  # fmt: skip
    return [
        Words([f"All on the same {score['n']:,} rows as {reference.label}: RMSE {score['rmse']:.3f} "
               f"{span(score['low'], score['high'])}{indicative(score)}, constant {score['constant_rmse']:.3f}."]),
        Figure(drawn(tag, forest_height(rows), paint, alt), alt, f"Left of zero: better than {reference.name}", command),
        Table(f"Compared with {reference.label}, paired", head, lines, command, [note]),
    ]  # fmt: skip


def predicted_section(entries: Sequence[Entry]) -> Section:
    """True against predicted scores, a figure for each entry."""
    shown, left = _drawn(entries)
    blocks: list[Block] = [_scatter(f"true{place}", one, one.source) for place, one in enumerate(shown) if one.source]
    lines = ["Each dot is a photo. Orange: in up to eight bins of equally many predictions, the median of the true scores (line), "
             "their middle half (dark) and nine tenths of them (light), on these same rows. Dashed line: predicted equals true. "
             "Grey vertical line: the constant."]  # fmt: skip
    blocks = [Words([*lines, *left]), *blocks] if blocks else []
    return Section("predicted", "Predicted against true", "predicted / true", "make train", blocks)


def _scatter(name: str, one: Entry, source: Predictions) -> Figure:
    s, b = one.row["score"], one.row["breakdown"]
    line = "predictions that do not vary"
    if b["slope"] is not None:
        line = f"true = {b['intercept']:.2f} + {b['slope']:.3f} x predicted, correlation {number(b['correlation'], 3)}"
    reach = f"predictions from {b['lowest']:.0f} to {b['highest']:.0f}"
    alt = f"True against predicted scores of {s['n']:,} photos; {line}; {reach}. {one.words}"

    def paint(axes: Any) -> None:
        scatter(axes, source.target, source.prediction, float(source.constant.mean()))

    caption = f"{one.name}: RMSE {s['rmse']:.2f}, constant {s['constant_rmse']:.2f}, n = {s['n']:,}; {line}"
    return Figure(drawn(name, _SQUARE, paint, alt), alt, caption, command_of([one]), flag=one.flag)


def bands_section(entries: Sequence[Entry]) -> Section:
    """Error by band of true score, for each data set."""
    blocks: list[Block] = []
    groups = by_data([s for s in entries if s.source is not None])
    for place, (data, some) in enumerate(groups.items()):
        blocks += [Heading(f"data: {data}")] if len(groups) > 1 else []
        blocks += _bands(f"bands{place}", data, some)
    if blocks:
        line = "Honest predictions of a noisy score stay near the middle, so errors grow towards both ends of the true score."
        blocks.insert(0, Words([line]))
    return Section("bands", "Error by band", "bands", "make train", blocks)


def _bands(name: str, data: str, some: Sequence[Entry]) -> list[Block]:
    series = [(s.label, s.row["breakdown"]["bands"]) for s in some[:MOST_LINES]]
    figures = "; ".join(
        f"{label}: " + ", ".join(f"{b['name']} {b['rmse']:.1f}" for b in bands) for label, bands in series
    )
    alt = f"RMSE in score points by band of true score. {figures}"

    def paint(axes: Any) -> None:
        error_by_band(axes, series)

    names = list(dict.fromkeys(band["name"] for s in some for band in s.row["breakdown"]["bands"]))
    rows: list[list[str | Cell]] = []
    for one in some:
        score, known = one.row["score"], {band["name"]: band for band in one.row["breakdown"]["bands"]}
        line: list[str | Cell] = [flagged(one.name, flags_of([one]))]
        line.append(f"{score['rmse']:.2f} ({score['constant_rmse']:.2f})")
        for band in names:
            b = known.get(band)
            line.append("-" if b is None else f"{b['rmse']:.1f} ({100 * b['share']:.0f} %, {b['bias']:+.0f})")
        rows.append(line)
    counts = {band["name"]: band["n"] for band in some[0].row["breakdown"]["bands"]}
    head = ["run", "all (constant)", *(f"{band}, n = {counts.get(band, 0):,}" for band in names)]
    height = _LOW + 16.0 * (len(series) if len(series) > 1 else 0)
    command = "make oof RUN=name"
    caption = "RMSE by true score, points (share of all squared error, mean of prediction less truth)"
    return [
        Figure(drawn(name, height, paint, alt), alt, f"Error by true score, {data}", command),
        Table(caption, head, rows, command),
    ]


def curves_section(entries: Sequence[Entry]) -> Section:
    """Learning curves of the trained runs."""
    shown, left = _drawn([s for s in entries if s.run is not None and s.run.kind == "run"])
    blocks, faults = collect(
        partial(_curves, f"curves{place}", one, one.run) for place, one in enumerate(shown) if one.run
    )
    if blocks:
        line = ("Each line is a fold. Inner rows are a tenth of the training folds and choose the epoch; recipes of a fixed length "
                "have none. The RMSE on training rows is measured with augmentation and dropout.")  # fmt: skip
        blocks.insert(0, Words([line, *left]))
    why = "" if blocks or faults else "Blends, heads on frozen features and files of predictions have no epochs."
    return Section("curves", "Learning curves", "learning curves", "make train", blocks, faults, why)


def _curves(name: str, one: Entry, run: Run) -> list[Block]:
    folds, s = run.trained_folds(), one.row["score"]
    histories = [read_history(run.fold(fold) / "history.csv") for fold in folds]
    epochs = max(int(history["epoch"][-1]) for history in histories)
    ends = [float(history["train_rmse"][-1]) for history in histories]
    alt = (f"Learning curves of {one.name}, {len(folds)} folds, {epochs} epochs at most: training RMSE ends at {min(ends):.1f} to "
           f"{max(ends):.1f} points. {one.words}")  # fmt: skip

    def paint(axes: Any) -> None:
        curves(axes, histories, s["rmse"], s["constant_rmse"])

    caption = f"{one.name}: {len(folds)} folds, out of fold RMSE {s['rmse']:.2f}, constant {s['constant_rmse']:.2f}"
    markup = drawn(name, _LOW + 34, paint, alt)
    return [Figure(markup, alt, caption, f"make train {make_word('RUN', one.name)}", flag=one.flag)]


def _drawn(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """The entries that get a figure, and a line about the others."""
    able = [s for s in entries if s.source is not None]
    left = [s.name for s in able[MOST_DRAWN:]]
    line = f'Not drawn, to keep the page small: {listed(left)}; name them with RUNS="...".'
    return able[:MOST_DRAWN], [line] if left else []
