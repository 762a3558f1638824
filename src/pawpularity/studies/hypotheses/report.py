"""The findings for people and programs: the aligned tables, the CSV, the JSON."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pawpularity.evaluation.effects import (
    ALPHA,
    CLAIMS,
    CONTRAST,
    FEW,
    NO_COLUMN,
    NOT_TESTABLE,
    POWER,
    TOO_SMALL,
    Coefficient,
    Effect,
)
from pawpularity.studies.hypotheses.findings import Finding, Findings

_BONUS = "-"  # of the paper's advice, none of the five
_NAMES = (
    *("hypothesis", "claim", "sign", "column", "with", "without", "effect", "low", "high", "p", "corrected_p"),
    *("se", "smallest", "smallest_corrected", "verdict"),
    *("adjusted", "adjusted_low", "adjusted_high", "adjusted_se", "adjusted_p", "levels", "per_10_levels"),
    *("believed", "believed_low", "believed_high", "believed_p", "believed_corrected_p"),
    *("residual", "residual_low", "residual_high", "residual_p", "residual_corrected_p", "true_effect"),
)


def tables(found: Findings, name: str | None) -> str:
    """The table of verdicts, and with a model's `name` the one of what it believes; notes below."""
    blocks = [_verdicts(found)]
    if name is not None and found.rows:
        blocks.append(_beliefs(found.rows, name))
    blocks.append("\n".join(_notes(found)))
    return "\n\n".join(blocks)


def _verdicts(found: Findings) -> str:
    with_truth = any(row.known is not None for row in found.rows)
    header = ["", "claim", "column", "with", "without", "effect", "95 %", "p", "Holm", "adjusted", "95 %", "smallest",
              f"of {len(found.rows)}", *(["true"] if with_truth else []), "verdict"]  # fmt: skip
    lines = [header]
    last = 0
    for claim in CLAIMS:
        number = str(claim.hypothesis) if claim.hypothesis != last else ""
        last = claim.hypothesis
        row = next((row for row in found.rows if row.claim is claim), None)
        if row is None:
            blank = [""] * (len(header) - 4)
            lines.append([number, claim.words, claim.column, *blank, NOT_TESTABLE])
            continue
        adjusted = [f"{row.adjusted.effect:+.2f}", _range(row.adjusted)] if row.adjusted else ["-", ""]
        sizes = (row.precision.smallest, row.precision.smallest_corrected)
        known = [] if not with_truth else ["-" if row.known is None else f"{row.known:+.2f}"]
        lines.append(
            [number, claim.words, claim.column, f"{row.n_with:,}", f"{row.n_without:,}", f"{row.truth.effect:+.2f}",
             _range(row.truth), _chance(row.truth.p), _chance(row.truth.corrected_p), *adjusted,
             *("-" if size is None else f"{size:.2f}" for size in sizes), *known, row.verdict]
        )  # fmt: skip
    for column in NO_COLUMN:
        lines.append([_BONUS, f"the {column} out raises", column, *[""] * (len(header) - 4), NOT_TESTABLE])
    return _aligned(lines, left={0, 1, 2, len(header) - 1})


def _beliefs(rows: Sequence[Finding], name: str) -> str:
    header = ["column", "true", "believed", "95 %", "Holm", "true - predicted", "95 %", "Holm"]
    lines = [header]
    for row in rows:
        if row.belief is not None and row.residual is not None:
            lines.append([row.claim.column, f"{row.truth.effect:+.2f}", *_cells(row.belief), *_cells(row.residual)])
    return f"what {name} believes, out of fold\n{_aligned(lines, left={0})}"


def _cells(effect: Effect) -> list[str]:
    return [f"{effect.effect:+.2f}", _range(effect), _chance(effect.corrected_p)]


def _chance(p: float) -> str:
    return f"{p:.4f}" if p >= 0.00005 else "<.0001"


def _range(effect: Effect | Coefficient) -> str:
    return f"[{effect.low:+.2f}, {effect.high:+.2f}]"


def _aligned(lines: Sequence[Sequence[str]], left: set[int]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)] + [0]
    return "\n".join(
        "  ".join(f"{cell:{'<' if i in left else '>'}{widths[i]}s}" for i, cell in enumerate(line)).rstrip()
        for line in lines
    )


def _notes(found: Findings) -> list[str]:
    m, joint = len(found.rows), found.joint
    lines = [
        "effect: mean score of the photos with it less that of those without, points; 95 % by bootstrap over groups of "
        f"near-duplicates, p by permutation ({found.draws:,} each), Holm's correction over the {m} tested",
        "adjusted: the same beside all other columns in one regression (HC3); the plain difference decides",
        f"smallest: what these photos would have shown {100 * POWER:.0f} times in 100 (2.80 standard errors at .05); of {m}: "
        f"at .05 / {m}, the strictest step of Holm's correction",
        f"{TOO_SMALL}: not significant, and the interval lies inside +-{found.margin:g} points ({found.margin_words})",
    ]  # fmt: skip
    if few := [row.claim.column for row in found.rows if row.fewest < FEW]:
        lines.append(
            f"fewer than {FEW} photos with it, or without, so that its interval is too narrow: {', '.join(few)}"
        )
    if found.untested:
        lines.append(f"{NOT_TESTABLE}: " + "; ".join(f"{column}, {why}" for column, why in found.untested.items()))
    if contrast := next((row for row in found.rows if row.claim.column == CONTRAST), None):
        lines.append(
            f"{CONTRAST}: |mean luma of subject - of background| by GrabCut; effect of two standard deviations, "
            f"{contrast.unit:.0f} levels ({_per_ten(contrast):+.2f} points per 10 levels)"
        )
    if any(row.known is not None for row in found.rows):
        lines.append(
            "true: the rule's own effect of switching the part alone; a face in itself is worth nothing, but tongue and "
            "eyes need one"
        )
    if joint.f is not None and joint.r2 is not None:
        lines.append(
            f"all {joint.f_degrees[0]} columns together: F({joint.f_degrees[0]}, {joint.f_degrees[1]}) = {joint.f:.2f}, "
            f"p {_chance(joint.f_p or 0.0)}, R2 {joint.r2:.4f}"
        )
    return lines


def _per_ten(row: Finding) -> float:
    return row.truth.effect / row.unit * 10.0


def as_json(found: Findings) -> dict[str, Any]:
    """Everything, for programs; null where a figure cannot be had."""
    return {
        "photos": len(found.scores),
        "mean": float(found.scores.mean()),
        "sd": float(found.scores.std()),
        "draws": found.draws,
        "alpha": ALPHA,
        "margin": found.margin,
        "margin_words": found.margin_words,
        "tested": [_row(row) for row in found.rows],
        "not_testable": found.untested,
        "joint": {
            "photos": found.joint.n,
            "r2": found.joint.r2,
            "f": found.joint.f,
            "f_degrees": list(found.joint.f_degrees),
            "f_p": found.joint.f_p,
            "coefficients": {
                name: None if coefficient is None else asdict(coefficient)
                for name, coefficient in zip(found.joint_columns, found.joint.coefficients, strict=True)
            },
        },
    }


def _row(row: Finding) -> dict[str, Any]:
    return {
        "hypothesis": row.claim.hypothesis,
        "claim": f"{row.claim.words} the score",
        "sign": row.claim.sign,
        "column": row.claim.column,
        "with": row.n_with,
        "without": row.n_without,
        **asdict(row.truth),
        **asdict(row.precision),
        "adjusted": None if row.adjusted is None else asdict(row.adjusted),
        "verdict": row.verdict,
        "levels": row.unit if row.claim.column == CONTRAST else None,
        "per_10_levels": _per_ten(row) if row.claim.column == CONTRAST else None,
        "believed": None if row.belief is None else asdict(row.belief),
        "residual": None if row.residual is None else asdict(row.residual),
        "true_effect": row.known,
    }


def as_csv(found: Findings) -> str:
    """A row per claim, those not testable too; figures with four decimals."""
    rows: list[dict[str, Any]] = []
    tested = {row.claim.column: row for row in found.rows}
    for claim in CLAIMS:
        if claim.column in tested:
            flat = _flat(_row(tested[claim.column]))
        else:
            flat = {"hypothesis": claim.hypothesis, "claim": f"{claim.words} the score", "sign": claim.sign,
                    "column": claim.column, "verdict": f"{NOT_TESTABLE}: {found.untested[claim.column]}"}  # fmt: skip
        rows.append(flat)
    text = io.StringIO()
    writer = csv.DictWriter(text, _NAMES, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{v:.4f}" if isinstance(v, float) else v for name, v in row.items()} for row in rows)
    return text.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """The row without its nested parts: `adjusted`, `adjusted_low`, ... in their place where they are there."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {name if key == "effect" else f"{name}_{key}": item for key, item in value.items()}
        else:
            flat[name] = "" if value is None else value
    return flat
