"""Question: do the paper's five hypotheses about what makes a photo popular hold on the true scores?

Command: `make hypotheses [DATA=DIR] [RUN=name or CSV] [MARGIN=3]`.
Result: printed, and in oof/hypotheses/DATA/ (with RUN in a folder of the run's name below it):
    hypotheses.csv, hypotheses.json     a row per claim: effect, interval, p, Holm, precision, adjusted effect, verdict
    forest.png                          the effects, the margin within which they would not matter, the verdicts

The claims and verdicts are those of `evaluation.claims`, tested by `hypotheses_findings`. RUN adds what a model believes, and
where the true scores do not bear it out. On the drawn sample the rule is known, and its effects stand beside the measured
ones: the mean over the photos of E[score | part] - E[score | no part], everything else unchanged. The plain difference of means may
be another: tongue and open eyes need a face, so a face, which is worth nothing in itself, goes with both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.console import emit, log, make_word, next_step, table
from pawpularity.context import Context, context
from pawpularity.data import is_drawn
from pawpularity.data.tables import ID, TARGET, read_cells
from pawpularity.errors import UserError
from pawpularity.evaluation.effects import (
    ALPHA,
    CLAIMS,
    CONTRAST,
    FEW,
    NOT_TESTABLE,
    POWER,
    TOO_SMALL,
    Coefficient,
    Effect,
)
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.files import atomic_file, write_json, write_text
from pawpularity.runs import OOF
from pawpularity.sample import spec
from pawpularity.studies.hypotheses_findings import Finding, Findings, find, gather

FOLDER = OOF / "hypotheses"
FEWEST_ROWS = 20
# What the rule of the drawn sample pays for, by the column that tells of it, and the claims it pays nothing for.
PAID = {"Eyes": ("eyes", spec.EYES), "Action": ("pose", spec.POSE), "Group": ("pets", spec.PETS)}
WORTH_NOTHING = ("Face", "Accessory", "Occlusion", "Collage")

Floats = NDArray[np.float64]


def hypotheses(
    *, run: str | None = None, draws: int = 10_000, margin: float | None = None, out: str | None = None, config: str | None = None,
    data: str | None = None, settings: Sequence[str] = (), scale: float | None = None, json: str | None = None,
) -> None:  # fmt: skip
    """`pawpularity hypotheses`: test the family, print and write it. `run`: a run or CSV whose beliefs are shown too."""
    if not 100 <= draws <= 1_000_000:
        raise UserError(f"--draws {draws}: must be 100 to 1000000")
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise UserError(f"--margin {margin:g}: must be above 0 score points")
    work = context(config, data, None, settings)
    margin = work.config.hypotheses.margin if margin is None else margin
    if len(work.dataset.train) < FEWEST_ROWS:
        raise UserError(
            f"{work.data}: has {len(work.dataset.train)} rows; {FEWEST_ROWS} or more are needed to test anything"
        )
    source = None if run is None else open_predictions(run, scale=scale)
    if source is not None and source.run is not None and source.run.leaky:
        log(f"{source.name} is leaky by design (train.split=leaky): its predictions have seen their answers")
    found, known, notes = _tested(work, source, draws, margin)
    if not found.rows:
        raise UserError(f"{work.data}: no claim can be tested, every column of the family is the same on all photos")
    name = None if source is None else source.name
    lines = disagreements(found.rows, name) if name else []
    value = {
        "data": work.dataset.name,
        "run": name,
        "predictions_hash": None if source is None else source.predictions_hash,
        "draws": draws,
        "margin": margin,
        **as_json(found, known, margin),
        "disagreements": lines,
        "notes": notes + adjusted_otherwise(found.rows),
    }
    if name is not None and not lines:
        lines = [f"no disagreement: what {name} believes is borne out, or too little to tell"]
    title = f"{work.dataset.name}: {len(found.scores):,} photos, mean score {value['mean']:.2f}, sd {value['sd']:.2f}"
    own = FOLDER / work.dataset.name
    folder = Path(out) if out else own if source is None else own / source.folder_name
    write_text(folder / "hypotheses.csv", as_csv(value))
    write_json(folder / "hypotheses.json", value)
    draw_forest(found, known, margin, title, name, folder / "forest.png")
    emit(
        value,
        "\n".join([title, "", verdict_table(found, known, name), *_legend(found, value), *value["notes"], *lines]),
        json,
    )
    log(f"wrote {folder}/hypotheses.csv, hypotheses.json, forest.png")
    next_step(f"make errors {make_word('RUN', run)}" if run else "make hypotheses RUN=name (what a model believes)")


def _tested(
    work: Context, source: Predictions | None, draws: int, margin: float
) -> tuple[Findings, dict[str, float], list[str]]:
    """The findings, the drawn rule's own effects ({} where it is not known), and notes about the contrast."""
    gathered = gather(work.dataset, work.folds.groups_of)
    rows, contrast, notes = gathered.table, gathered.contrast, gathered.notes
    prediction = None if source is None else _matched(source, rows, work.data)
    known = true_effects(work.data, rows[ID].tolist())
    if known and not isinstance(contrast, str):
        truth = true_contrasts(work.data, rows[ID].tolist())
        fit = float(pd.Series(contrast).corr(pd.Series(truth)))  # over the photos where it was measured
        notes = [f"{notes[0]}; correlation with the drawn contrast {fit:.2f}, so an effect of {fit:.2f} x {known[CONTRAST]:.2f} = "
                 f"{fit * known[CONTRAST]:+.2f} is expected"]  # fmt: skip
    found = find(rows, gathered.groups, contrast=contrast, prediction=prediction, draws=draws, margin=margin)
    return found, known, notes


def _matched(source: Predictions, rows: pd.DataFrame, data: Path) -> Floats:
    """The predictions of `source` for `rows`; both are sorted by Id. Raises UserError for other rows or scores."""
    if odd := set(rows[ID]) ^ set(source.table[ID]):
        where = "has no row" if min(odd) in set(rows[ID]) else f"is not only of {data}, which has no row"
        raise UserError(f"{source.path}: {where} {min(odd)}; name predictions of this data, or DATA=... of the run")
    unequal = np.flatnonzero(~np.isclose(source.target, rows[TARGET], rtol=0, atol=1e-5))
    if len(unequal):
        raise UserError(f"{source.path}: has another score than {data} for {rows[ID][unequal[0]]} ({len(unequal)} rows differ); "
                        "name predictions of this data")  # fmt: skip
    return source.prediction


# --- The rule of the drawn sample -------------------------------------------------------------------------------------


def true_effects(folder: Path, ids: list[str]) -> dict[str, float]:
    """The true effect on the score of each claim's column, points, over the photos `ids` of the sample drawn in `folder`.

    That of the contrast is from one standard deviation of the true contrast below its mean to one above. Empty where the
    folder is no drawn sample, or not of these photos. Raises UserError for a damaged truth/parts.csv.
    """
    if not is_drawn(folder):
        return {}
    parts = [part for part, _ in PAID.values()]
    cells = read_cells(folder / "truth" / "parts.csv", (ID, "mean_unclipped", "contrast", "contrast_c", *parts))
    place = {name: row for row, name in enumerate(cells.columns[ID])}
    if not all(name in place for name in ids):
        return {}
    points = {
        name: cells.numbers(name, "points")[[place[name] for name in ids]] for name in cells.columns if name != ID
    }

    def switched(without: Floats, on: float, off: float = 0.0) -> float:
        return float((spec.expected_score(without + on) - spec.expected_score(without + off)).mean())

    mean, level = points["mean_unclipped"], points["contrast_c"]
    found = dict.fromkeys(WORTH_NOTHING, 0.0)
    found |= {column: switched(mean - points[part], worth) for column, (part, worth) in PAID.items()}
    ends = (spec.CONTRAST * (level.mean() + level.std()), spec.CONTRAST * (level.mean() - level.std()))
    return found | {CONTRAST: switched(mean - points["contrast"], *ends)}


def true_contrasts(folder: Path, ids: list[str]) -> Floats:
    """(n,) the contrast each photo of a drawn sample was drawn with, levels of luma."""
    cells = read_cells(folder / "truth" / "parts.csv", (ID, "contrast_c"))
    known = dict(zip(cells.columns[ID], cells.numbers("contrast_c", "the contrast, 0 to 1").tolist(), strict=True))
    return spec.FAINTEST + spec.CONTRAST_SPAN * np.array([known[name] for name in ids])


# --- What is said -----------------------------------------------------------------------------------------------------


def disagreements(rows: Sequence[Finding], name: str) -> list[str]:
    """Where the model `name` believes what the true score does not bear out, one line each."""
    lines = []
    for row in rows:
        belief, residual, truth = row.belief, row.residual, row.truth
        if belief is None or residual is None:
            continue
        wrong = f"{row.verdict}; true minus predicted {residual.effect:+.2f}, Holm p {residual.corrected_p:.4f}"
        borne_out = truth.corrected_p < ALPHA and truth.effect * belief.effect > 0
        if belief.corrected_p < ALPHA and not borne_out:
            raises = "raises" if belief.effect > 0 else "lowers"
            certain = "" if residual.corrected_p < ALPHA else ", so chance may be all the difference"
            lines.append(
                f"disagreement: {name} believes {row.claim.column} {raises} the score ({belief.effect:+.2f}, Holm p "
                f"{belief.corrected_p:.4f}); the true score does not bear it out ({truth.effect:+.2f}: {wrong}{certain})"
            )
        elif residual.corrected_p < ALPHA:
            lines.append(f"disagreement: {name} gives {row.claim.column} {belief.effect:+.2f} points, the true score "
                         f"{truth.effect:+.2f} ({wrong})")  # fmt: skip
    return lines


def adjusted_otherwise(rows: Sequence[Finding]) -> list[str]:
    """Where the effect beside all other columns is significant and the plain difference is not, one line each."""
    return [
        f"adjusted otherwise: beside all other columns {row.claim.column} has {_span(row.adjusted)}, alone "
        f"{row.truth.effect:+.2f}; it goes with other columns"
        for row in rows
        if row.adjusted is not None and row.adjusted.low * row.adjusted.high > 0 >= row.truth.low * row.truth.high
    ]


def verdict_table(found: Findings, known: Mapping[str, float], name: str | None) -> str:
    """A line per claim; with a model's `name` also what it believes, with `known` also the rule's own effect."""
    head = ["", "claim", "with", "effect, 95 %", "p (Holm)", "adjusted", "MDE", *(["rule"] if known else []),
            *(["believed"] if name else []), "verdict"]  # fmt: skip
    tested, lines = {row.claim: row for row in found.rows}, []
    for claim in CLAIMS:
        first = [str(claim.hypothesis), f"{claim.column} {'raises' if claim.sign > 0 else 'lowers'}"]
        if (row := tested.get(claim)) is None:
            lines.append([*first, *[""] * (len(head) - 3), NOT_TESTABLE])
            continue
        shown = [getattr(row.adjusted, "effect", None), row.precision.smallest]
        shown += ([known.get(claim.column)] if known else []) + ([getattr(row.belief, "effect", None)] if name else [])
        cells = ["-" if number is None else f"{number:+.2f}" for number in shown]
        lines.append([*first, f"{row.n_with:,}", _span(row.truth), f"{row.truth.corrected_p:.4f}", *cells, row.verdict])
    return table(head, lines, left=(0, 1, len(head) - 1))


def _legend(found: Findings, value: Mapping[str, Any]) -> list[str]:
    joint = found.joint
    lines = [
        f"effect: mean score with it less without it, {value['draws']:,} draws; adjusted: beside all other columns (HC3); MDE: the "
        f"effect that {100 * POWER:.0f} % of such tables show",
        f"{TOO_SMALL}: not significant, interval inside +-{value['margin']:g} points ({value['margin_words']})",
        f"{NOT_TESTABLE}: " + "; ".join(f"{column}, {why}" for column, why in found.untested.items()),
    ]
    if few := [row.claim.column for row in found.rows if row.fewest < FEW]:
        lines.append(f"fewer than {FEW} photos on a side, so the interval is too narrow: {', '.join(few)}")
    if joint.f is not None:
        degrees = ", ".join(map(str, joint.f_degrees))
        lines.append(
            f"all {joint.f_degrees[0]} columns: F({degrees}) = {joint.f:.2f}, p {joint.f_p:.4f}, R2 {joint.r2:.4f}"
        )
    return lines


def _span(effect: Effect | Coefficient) -> str:
    return f"{effect.effect:+.2f} [{effect.low:+.2f}, {effect.high:+.2f}]"


def as_json(found: Findings, known: Mapping[str, float], margin: float) -> dict[str, Any]:
    """Everything, for programs; null where a figure cannot be had."""
    scores, joint = found.scores, found.joint
    median, sd = float(np.median(scores)), float(scores.std())
    share = 100 * float(((scores >= median) & (scores < median + margin)).mean())
    words = f"from the median, {median:g}, to {median + margin:g} is {share:.0f} percentiles"
    coefficients = zip(found.joint_columns, joint.coefficients, strict=True)
    return {
        "photos": len(scores),
        "mean": float(scores.mean()),
        "sd": sd,
        "alpha": ALPHA,
        "margin_words": f"{margin / sd:.2f} sd of these scores; {words}" if sd > 0 else words,
        "tested": [_row(row, known) for row in found.rows],
        "not_testable": found.untested,
        "joint": {"photos": joint.n, "r2": joint.r2, "f": joint.f, "f_degrees": list(joint.f_degrees), "f_p": joint.f_p,
                  "coefficients": {name: one and asdict(one) for name, one in coefficients}},
    }  # fmt: skip


def _row(row: Finding, known: Mapping[str, float]) -> dict[str, Any]:
    claim, measured = row.claim, row.claim.column == CONTRAST
    return {
        "hypothesis": claim.hypothesis, "claim": f"{claim.words} the score", "sign": claim.sign, "column": claim.column,
        "with": row.n_with, "without": row.n_without, **asdict(row.truth), **asdict(row.precision), "verdict": row.verdict,
        "adjusted": row.adjusted and asdict(row.adjusted),
        "levels": row.unit if measured else None,
        "per_10_levels": row.truth.effect / row.unit * 10.0 if measured else None,
        "believed": row.belief and asdict(row.belief),
        "residual": row.residual and asdict(row.residual),
        "true_effect": known.get(claim.column),
    }  # fmt: skip


def as_csv(value: Mapping[str, Any]) -> str:
    """A row per claim, those not testable too; nested figures as `adjusted_effect`, `adjusted_low`, ...; four decimals."""
    tested = {row["column"]: row for row in value["tested"]}
    rows = [
        tested.get(claim.column) or {"hypothesis": claim.hypothesis, "claim": f"{claim.words} the score", "sign": claim.sign,
                                     "column": claim.column, "verdict": f"{NOT_TESTABLE}: {value['not_testable'][claim.column]}"}
        for claim in CLAIMS
    ]  # fmt: skip
    frame = pd.json_normalize(rows, sep="_").dropna(axis="columns", how="all")
    return frame.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def draw_forest(
    found: Findings, known: Mapping[str, float], margin: float, title: str, name: str | None, path: Path
) -> None:
    """Write the forest plot of the tested claims (PNG): effects with intervals, the margin, the verdicts."""
    from matplotlib.figure import Figure  # not pyplot: it asks the machine for a screen

    rows, count = found.rows, len(found.rows)
    # Okabe and Ito's colours, which colour-blind readers tell apart.
    series: list[tuple[str, str, str, list[Any]]] = [
        ("plain difference (decides)", "o", "#000000", [row.truth for row in rows]),
        ("adjusted for the other columns", "s", "#0072B2", [row.adjusted for row in rows]),
    ]
    if name is not None:
        series.append((f"what {name} believes", "D", "#D55E00", [row.belief for row in rows]))
    figure = Figure(figsize=(11.0, 1.9 + 0.62 * count), dpi=110)
    axes = figure.add_subplot()
    axes.axvspan(-margin, margin, color="#DDDDDD", lw=0, zorder=0)
    axes.axvline(0.0, color="#888888", lw=0.8, zorder=1)
    for step, (label, mark, colour, effects) in enumerate(series):
        points = np.array([(one.effect, one.low, one.high, count - at - 0.78 - 0.20 * step)
                           for at, one in enumerate(effects) if one is not None]).reshape(-1, 4)  # fmt: skip
        x, low, high, y = points.T
        axes.errorbar(x, y, xerr=(x - low, high - x), fmt=mark, color=colour, mfc="white" if mark == "D" else colour, ms=7 - step,
                      lw=1.8 - 0.4 * step, label=label)  # fmt: skip
    if known:
        places = [(known[row.claim.column], count - 1 - at) for at, row in enumerate(rows) if row.claim.column in known]
        axes.plot(*zip(*places, strict=True), "|", color="#009E73", ms=22, mew=2.2, label="the rule's own effect")
    for at, row in enumerate(rows):
        axes.text(1.02, count - 1 - at, row.verdict, transform=axes.get_yaxis_transform(), va="center", fontsize=10)
    axes.set_yticks(range(count), [f"{row.claim.words} ({row.claim.column})" for row in reversed(rows)], fontsize=10)
    axes.set_ylim(-0.6, count - 0.4)
    axes.set_xlabel(f"effect on the score, points, with 95 % intervals; grey: +-{margin:g}, too small to matter")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    inches = figure.get_figheight()
    figure.subplots_adjust(left=0.29, right=0.80, top=1 - 0.42 / inches, bottom=1.05 / inches)
    figure.legend(loc="lower center", ncols=len(series) + bool(known), frameon=False, fontsize=9)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})  # the same findings give the same bytes
