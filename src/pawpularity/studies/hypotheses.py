"""Question: do the paper's five hypotheses about what makes a photo popular hold on the true scores?

Command: `make hypotheses [DATA=DIR] [RUN=name or CSV] [MARGIN=3]`.
Result: printed, and in oof/hypotheses/DATA/ (with RUN in a folder of the run's name below it):
    hypotheses.csv, hypotheses.json     a row per claim: effect, interval, p, Holm, precision, adjusted effect, verdict
    forest.png                          the effects, the margin within which they are too small to matter, the verdicts

`evaluation.effects` has the claims and verdicts. Only the true score decides. RUN adds the effect on the prediction (what a model
believes) and on true minus predicted (what it gets wrong): belief + residual = effect. On the drawn sample the rule is known, so
the table also has the rule's effect: the mean over the photos of E[score | part] - E[score | no part], everything else unchanged.
The plain difference of means may differ from it. A face alone is worth nothing, but tongue and open eyes need a face.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.console import emit, log, next_step, table
from pawpularity.context import Context, context
from pawpularity.data import is_drawn
from pawpularity.data.subject import measure
from pawpularity.data.tables import ID, METADATA, TARGET, near_hint, read_cells
from pawpularity.errors import UserError
from pawpularity.evaluation.effects import (
    ALPHA,
    CLAIMS,
    CONTRAST,
    FEW,
    NO_COLUMN,
    NOT_TESTABLE,
    TOO_SMALL,
    Column,
    effects,
    least_squares,
    standard_error,
    verdict,
)
from pawpularity.evaluation.leak_detection import rows_known
from pawpularity.evaluation.metrics import INDICATIVE_BELOW
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.files import atomic_file, require_not_input, write_json, write_text
from pawpularity.runs import OOF, findings_name
from pawpularity.sample import spec

FOLDER = OOF / "hypotheses"
FEWEST_ROWS = 20
DETECTED = 2.80  # standard errors: an effect of that size is detected with 80 % power at .05
# By column, the part of the drawn sample's rule and its points; and the columns that are worth nothing in the rule.
PAID = {"Eyes": ("eyes", spec.EYES), "Action": ("pose", spec.POSE), "Group": ("pets", spec.PETS)}
WORTH_NOTHING = ("Face", "Accessory", "Occlusion", "Collage")

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def hypotheses(
    *, run: str | None = None, draws: int = 10_000, margin: float | None = None, out: str | None = None, config: str | None = None,
    data: str | None = None, settings: Sequence[str] = (), scale: float | None = None, json: str | None = None,
) -> None:  # fmt: skip
    """`pawpularity hypotheses`: test the claims, print and write the findings. `run`: a run or CSV whose beliefs are shown too."""
    work = context(config, data, None, settings)
    if out:
        require_not_input("--out", out, work.data, *([Path(run)] if run else []))
    if not 0 < (margin := work.config.hypotheses.margin if margin is None else margin) <= 100:
        raise UserError(f"--margin {margin:g}: must be above 0 and at most 100 score points")
    if (n := len(work.dataset.train)) < FEWEST_ROWS:
        raise UserError(f"{work.data}: has {n} rows; {FEWEST_ROWS} or more are needed to test anything")
    source = None if run is None else open_predictions(run, scale=scale)
    if source is not None and source.run is not None and source.run.leaky:
        log(f"{source.name} is leaky by design (train.split=leaky): its networks saw copies of the photos they score")
    value = test_claims(work, source, draws, margin)
    if not value["tested"]:
        raise UserError(f"{work.data}: no claim can be tested: every column of the claims is the same on all photos")
    usual = FOLDER / findings_name(work.data)
    folder = Path(out) if out else usual if source is None else usual / source.folder_name
    write_text(folder / "hypotheses.csv", as_csv(value))
    write_json(folder / "hypotheses.json", value)
    draw_forest(value, folder / "forest.png")
    emit(value, findings_text(value), json, more=more_text(value))
    log(f"wrote {folder}/hypotheses.csv, .json and forest.png")
    if run:
        next_step("make errors", RUN=run, DATA=data, SCALE=scale)
    else:
        next_step(work.make_line("train FOLD=0") if work.dataset.has_photos else "make data")


def test_claims(work: Context, source: Predictions | None, draws: int, margin: float) -> dict[str, Any]:
    """All findings, for JSON. Rows are sorted by Id, so that no figure depends on the table's order."""
    order = np.argsort(work.dataset.train[ID].to_numpy(dtype=str), kind="stable")
    rows = work.dataset.train.iloc[order].reset_index(drop=True)
    prediction = None if source is None else _matched(source, rows, work.data)
    known, notes = true_effects(work.data, rows[ID].tolist()), []
    contrast: Floats | str = f"needs photos, and {work.dataset.name} has labels only"
    if work.dataset.has_photos:
        contrast = measure(work.dataset).levels[order]
        notes.append(_contrast_note(work.data, rows[ID].tolist(), contrast, known))
    scores, groups = rows[TARGET].to_numpy(dtype=np.float64), work.folds.groups_of(rows[ID])
    if (independent := len(np.unique(groups))) < INDICATIVE_BELOW:
        notes.append(
            f"intervals are indicative: {len(rows)} photos in {independent} groups, fewer than {INDICATIVE_BELOW}"
        )
    found = find(rows, groups, contrast=contrast, prediction=prediction, draws=draws, margin=margin)
    for row in found["tested"]:
        row["true_effect"] = known.get(row["column"])
    median, sd = float(np.median(scores)), float(scores.std())
    share = float(((scores >= median) & (scores < median + margin)).mean())
    return {
        "data": work.dataset.name, "run": source and source.name, "predictions_hash": source and source.predictions_hash,
        "draws": draws, "margin": margin, "photos": len(scores), "mean": float(scores.mean()), "sd": sd, "alpha": ALPHA,
        "margin_words": f"{margin / max(sd, 1e-9):.2f} sd; from the median, {median:g}, it is {100 * share:.0f} percentiles",
        **found,
        "disagreements": disagreements(found["tested"], source.name) if source else [],
        "notes": notes + changed_by_adjusting(found["tested"]),
    }  # fmt: skip


def _matched(source: Predictions, rows: pd.DataFrame, data: Path) -> Floats:
    """The predictions of `source` for `rows`; both are sorted by Id. Raises UserError if rows or scores differ."""
    if odd := set(rows[ID]) ^ set(source.table[ID]):
        hint = near_hint(source.table[ID], rows[ID]) or "; name its DATA=..."
        raise UserError(f"{source.path}: holds other rows than {data} ({min(odd)} is in one only){hint}")
    rows_known(source, rows, str(data))
    return source.prediction


def _contrast_note(data: Path, ids: list[str], contrast: Floats, known: Mapping[str, float]) -> str:
    measured = int(np.isfinite(contrast).sum())
    note = f"contrast: |mean luma of subject - of background| by GrabCut, on {measured:,} of {len(contrast):,} photos"
    if not known:
        return note
    fit = float(pd.Series(contrast).corr(pd.Series(true_contrasts(data, ids))))
    expected = f"the expected effect is {fit:.2f} x {known[CONTRAST]:.2f} = {fit * known[CONTRAST]:+.2f}"
    return f"{note};\n  correlation with the drawn contrast {fit:.2f}, so {expected}"


# --- The claims -------------------------------------------------------------------------------------------------------


def find(
    table: pd.DataFrame, groups: Rows | None, *, contrast: Floats | str, prediction: Floats | None = None, draws: int,
    margin: float,
) -> dict[str, Any]:  # fmt: skip
    """Test the claims on `table` (the twelve metadata columns and Pawpularity; n rows): `tested`, `not_testable`, `joint`.

    `contrast`: (n,) levels of luma, NaN if no subject was found; or the reason why there is none. `prediction`: (n,) out of fold.
    Effects are in score points; the contrast's effect is per two standard deviations (`levels` of luma).
    """
    scores = table[TARGET].to_numpy(dtype=np.float64)
    columns, untested = _columns(table, contrast)
    outcomes = scores[:, None] if prediction is None else np.column_stack([scores, prediction, scores - prediction])
    found = effects(list(columns.values()), outcomes, groups, draws=draws) if columns else [[]]
    joint = _joint(table, columns.get(CONTRAST), scores)
    rows = []
    claims = [claim for claim in CLAIMS if claim.column in columns]
    for claim, truth, *model in zip(claims, *found, strict=True):
        column = columns[claim.column]
        se = standard_error(column, scores)
        belief, residual = (asdict(one) for one in model) if model else (None, None)
        rows.append({
            "hypothesis": claim.hypothesis, "claim": f"{claim.words} the score", "sign": claim.sign, "column": claim.column,
            "with": column.counts[0], "without": column.counts[1], **asdict(truth), "se": se, "smallest": se and DETECTED * se,
            "verdict": verdict(truth.effect, truth.low, truth.high, truth.corrected_p, claim.sign, margin, column.fewest),
            "fewest": column.fewest, "levels": column.unit if column.is_number else None,
            "adjusted": joint["coefficients"][claim.column], "believed": belief, "residual": residual,
        })  # fmt: skip
    return {"tested": rows, "not_testable": untested, "joint": joint}


def _columns(table: pd.DataFrame, contrast: Floats | str) -> tuple[dict[str, Column], dict[str, str]]:
    """The claims' columns that can be tested, in the order of the claims, and why the others cannot."""
    columns: dict[str, Column] = {}
    untested: dict[str, str] = {}
    for name in (claim.column for claim in CLAIMS):
        if name == CONTRAST and isinstance(contrast, str):
            untested[name] = contrast
            continue
        column = Column(name, np.asarray(contrast if name == CONTRAST else table[name], dtype=np.float64))
        if not column.varies or (name == CONTRAST and column.there.sum() < FEW):
            values = column.values[column.there]
            untested[name] = (
                f"is {values[0]:.0f} on every photo" if len(values) >= FEW else f"was measured on {len(values)} photos"
            )
        else:
            columns[name] = column
    return columns, untested | NO_COLUMN


def _joint(table: pd.DataFrame, contrast: Column | None, scores: Floats) -> dict[str, Any]:
    """One regression on all twelve columns, and on the contrast if it is tested (over the photos that have it)."""
    design, there = table[list(METADATA)].to_numpy(dtype=np.float64), np.full(len(scores), True)
    names: tuple[str, ...] = METADATA
    if contrast is not None:
        design, there, names = np.column_stack([design, contrast.centred]), contrast.there, (*METADATA, CONTRAST)
    fit = asdict(least_squares(design[there], scores[there]))
    coefficients = dict(zip(names, fit.pop("coefficients"), strict=True))
    return {"photos": fit.pop("n"), **fit, "f_degrees": list(fit["f_degrees"]), "coefficients": coefficients}


# --- The rule of the drawn sample -------------------------------------------------------------------------------------


def _drawn(folder: Path, ids: list[str]) -> pd.DataFrame | None:
    """What moved the scores of the photos `ids`, points; None if `folder` is not a drawn sample with these photos.

    Raises UserError for a damaged truth/parts.csv.
    """
    if not is_drawn(folder):
        return None
    parts = ("mean_unclipped", "contrast", "contrast_c", *(part for part, _ in PAID.values()))
    cells = read_cells(folder / "truth" / "parts.csv", (ID, *parts))
    table = pd.DataFrame({part: cells.numbers(part, "points") for part in parts}, index=cells.columns[ID])
    return table.loc[ids] if set(ids) <= set(table.index) else None


def true_effects(folder: Path, ids: list[str]) -> dict[str, float]:
    """By claim's column, its true effect on the score, points, over the photos `ids` of a drawn sample; {} for other data.

    The effect of the contrast is from one standard deviation below its mean to one above.
    """
    if (drawn := _drawn(folder, ids)) is None:
        return {}

    def switched(part: str, on: float, off: float = 0.0) -> float:
        without = (drawn["mean_unclipped"] - drawn[part]).to_numpy()
        return float((spec.expected_score(without + on) - spec.expected_score(without + off)).mean())

    level, sd = drawn["contrast_c"].mean(), drawn["contrast_c"].std(ddof=0)
    ends = (spec.CONTRAST * (level + sd), spec.CONTRAST * (level - sd))
    paid = {column: switched(part, worth) for column, (part, worth) in PAID.items()}
    return dict.fromkeys(WORTH_NOTHING, 0.0) | paid | {CONTRAST: switched("contrast", *ends)}


def true_contrasts(folder: Path, ids: list[str]) -> Floats:
    """(n,) the contrast each photo of a drawn sample was drawn with, levels of luma."""
    drawn = _drawn(folder, ids)
    assert drawn is not None
    return np.asarray(spec.FAINTEST + spec.CONTRAST_SPAN * drawn["contrast_c"])


# --- Text and files ---------------------------------------------------------------------------------------------------


def disagreements(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """A line for each column that is associated with the errors of the model `name`."""
    return [
        f"disagreement: {name} believes {row['column']} {'raises' if row['believed']['effect'] > 0 else 'lowers'} the score "
        f"({row['believed']['effect']:+.2f}); the true score says {row['effect']:+.2f} "
        f"(difference: Holm p {row['residual']['corrected_p']:.4f})"
        for row in rows
        if row["residual"]["corrected_p"] < ALPHA
    ]


def changed_by_adjusting(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each column whose adjusted effect is significant and whose plain difference is not."""
    return [
        f"adjusted for all other columns: {row['column']} {_span(row['adjusted'])}, unadjusted {row['effect']:+.2f}"
        for row in rows
        if row["adjusted"] and row["adjusted"]["low"] * row["adjusted"]["high"] > 0 >= row["low"] * row["high"]
    ]


def findings_text(v: Mapping[str, Any]) -> str:
    """The verdicts in a table, and whether a model contradicts them."""
    lines = [
        f"{v['data']}: {v['photos']:,} photos, mean score {v['mean']:.2f}, sd {v['sd']:.2f}",
        verdict_table(v),
        f"effect: mean score with it less without it; {TOO_SMALL}: within +-{v['margin']:g} points",
    ]
    if odd := [row["column"] for row in v["tested"] if row["residual"] and row["residual"]["corrected_p"] < ALPHA]:
        lines.append(f"the true scores contradict what {v['run']} believes about {', '.join(odd)} (Holm p < {ALPHA:g})")
    elif v["run"] is not None:
        lines.append(f"no disagreement: the true scores do not contradict what {v['run']} believes")
    return "\n".join(lines)


def verdict_table(v: Mapping[str, Any]) -> str:
    """A line per claim: its effect and verdict, with a model also what it believes."""
    model = v["run"] is not None
    head = ["", "claim", "effect, 95 %", "believed" if model else "p (Holm)", "verdict"]
    tested, lines = {row["column"]: row for row in v["tested"]}, []
    for claim in CLAIMS:
        first = [str(claim.hypothesis), f"{claim.column} {'raises' if claim.sign > 0 else 'lowers'}"]
        if (row := tested.get(claim.column)) is None:
            lines.append([*first, "", "", NOT_TESTABLE])
            continue
        third = f"{row['believed']['effect']:+.2f}" if model else f"{row['corrected_p']:.4f}"
        lines.append([*first, _span(row), third, row["verdict"]])
    return table(head, lines, left=(0, 1, 4))


def more_text(v: Mapping[str, Any]) -> str:
    """The rest: precision, effects adjusted for the other columns, on a drawn sample the rule's effect, and the notes."""
    known, joint = any(row["true_effect"] is not None for row in v["tested"]), v["joint"]
    cells = []
    for row in v["tested"]:
        shown = [row["adjusted"] and row["adjusted"]["effect"], row["smallest"], *[row["true_effect"]] * known]
        numbers = ["-" if number is None else f"{number:+.2f}" for number in shown]
        cells.append([row["column"], f"{row['with']:,}", f"{row['corrected_p']:.4f}", *numbers])
    lines = [
        table(["column", "with", "p (Holm)", "adjusted", "MDE", *["rule"] * known], cells),
        f"effect: {v['draws']:,} draws; adjusted: for all other columns (HC3); MDE: the smallest effect detected with 80 % power",
        f"{TOO_SMALL}: not significant, interval inside +-{v['margin']:g} points ({v['margin_words']})",
        f"{NOT_TESTABLE}: " + "; ".join(f"{column}, {why}" for column, why in v["not_testable"].items()),
    ]
    if few := [row["column"] for row in v["tested"] if row["fewest"] < FEW]:
        lines.append(f"fewer than {FEW} photos on a side, so the interval is too narrow: {', '.join(few)}")
    if joint["f"] is not None:
        f = f"F({', '.join(map(str, joint['f_degrees']))}) = {joint['f']:.2f}"
        lines.append(f"all {joint['f_degrees'][0]} columns: {f}, p {joint['f_p']:.4f}, R2 {joint['r2']:.4f}")
    return "\n".join([*lines, *v["notes"], *v["disagreements"]])


def _span(effect: Mapping[str, float]) -> str:
    return f"{effect['effect']:+.2f} [{effect['low']:+.2f}, {effect['high']:+.2f}]"


def as_csv(value: Mapping[str, Any]) -> str:
    """A row per claim, those not testable too; nested figures as `adjusted_effect`, `adjusted_low`, ...; four decimals."""
    found = {row["column"]: row for row in value["tested"]}
    rows = [found.get(c.column) or {"hypothesis": c.hypothesis, "claim": f"{c.words} the score", "sign": c.sign, "column": c.column,
                                    "verdict": f"{NOT_TESTABLE}: {value['not_testable'][c.column]}"} for c in CLAIMS]  # fmt: skip
    frame = pd.json_normalize(rows, sep="_").dropna(axis="columns", how="all")
    return frame.to_csv(index=False, float_format="%.4f", lineterminator="\n")


def draw_forest(v: Mapping[str, Any], path: Path) -> None:
    """Write the forest plot of the tested claims (PNG): effects with intervals, the margin, the verdicts."""
    from matplotlib.figure import Figure  # not pyplot: it asks the machine for a screen

    rows, margin = v["tested"], v["margin"]
    # Okabe and Ito's colours, which colour-blind readers can distinguish.
    series = [("plain difference (decides)", "o", "#000000", rows),
              ("adjusted for the other columns", "s", "#0072B2", [row["adjusted"] for row in rows]),
              (f"what {v['run']} believes", "D", "#D55E00", [row["believed"] for row in rows])]  # fmt: skip
    figure = Figure(figsize=(11.0, 1.9 + 0.62 * len(rows)), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.axvspan(-margin, margin, color="#DDDDDD", lw=0, zorder=0)
    axes.axvline(0.0, color="#888888", lw=0.8, zorder=1)
    for step, (label, mark, colour, effects_) in enumerate(series):
        for y, one in enumerate(effects_):
            if one is not None:
                arms = [[one["effect"] - one["low"]], [one["high"] - one["effect"]]]
                axes.errorbar(one["effect"], y + 0.2 * (step - 1), xerr=arms, fmt=mark, color=colour, label=label)
    for y, row in enumerate(rows):
        if row["true_effect"] is not None:
            axes.plot(row["true_effect"], y, "|", color="#009E73", ms=22, mew=2.2, label="the rule's effect")
    axes.set_yticks(range(len(rows)), [f"{row['claim']} ({row['column']})\n{row['verdict']}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"effect on the score, points, with 95 % intervals; grey: +-{margin:g}, too small to matter")
    axes.set_title(f"{v['data']}: {v['photos']:,} photos", loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))  # each label once
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})  # the same findings give the same bytes
