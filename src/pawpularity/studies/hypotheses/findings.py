"""The five hypotheses put to the rows of a data set, and what a model believes beside what is true.

Only the true score decides a verdict. The effect on out-of-fold predictions is what the model believes; that on true
minus predicted is what it gets wrong, and the three are paired: belief + residual = effect.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.tables import METADATA, TARGET
from pawpularity.evaluation.effects import (
    ALPHA,
    CANNOT_TELL,
    CLAIMS,
    CONTRAST,
    FEW,
    NO_COLUMN,
    Claim,
    Coefficient,
    Column,
    Effect,
    Precision,
    Regression,
    effects,
    least_squares,
    precision,
    verdict,
)

Floats = NDArray[np.float64]
Groups = NDArray[np.int64] | None


@dataclass(frozen=True)
class Finding:
    """One claim that was tested. Effects are in score points; those of the contrast per two standard deviations."""

    claim: Claim
    n_with: int
    """photos that have it; for the contrast those it was measured on"""
    n_without: int
    truth: Effect
    precision: Precision
    adjusted: Coefficient | None
    """beside all other columns in one regression; None where the rows cannot tell them apart"""
    verdict: str
    unit: float
    """levels of luma that the contrast's effect is of; 1 for 0/1 columns"""
    belief: Effect | None = None
    """the effect on the prediction"""
    residual: Effect | None = None
    """the effect on true minus predicted"""
    known: float | None = None
    """the rule's own effect, on a drawn shelter"""

    @property
    def fewest(self) -> int:
        """Photos on the smaller side."""
        return self.n_with if self.claim.column == CONTRAST else min(self.n_with, self.n_without)


@dataclass(frozen=True)
class Findings:
    """All that was found in one table."""

    rows: list[Finding]
    untested: dict[str, str]
    """column -> why it is not testable here"""
    joint: Regression
    joint_columns: tuple[str, ...]
    scores: Floats
    """(n,) true scores"""
    draws: int
    margin: float

    @property
    def margin_words(self) -> str:
        """How much the margin is, on these photos."""
        median = float(np.median(self.scores))
        before, after = (float((self.scores < bar).mean()) for bar in (median, median + self.margin))
        sd = float(self.scores.std())
        share = f"{self.margin / sd:.2f} sd of these scores; " if sd > 0 else ""
        return f"{share}from their median, {median:g}, to {median + self.margin:g} is {100 * (after - before):.0f} percentiles"


def find(
    table: pd.DataFrame,
    groups: Groups,
    *,
    contrast: Floats | str,
    prediction: Floats | None,
    known: Mapping[str, float],
    draws: int,
    margin: float,
    seed: int = 0,
) -> Findings:
    """Test the family on `table` (the twelve metadata columns and Pawpularity; n rows).

    `groups` (n,) near-duplicates; `contrast` (n,) levels with NaN where it was not measured, or why there are none;
    `prediction` (n,) out of fold; `known` the true effects of a drawn shelter; `margin` in score points.
    """
    scores = table[TARGET].to_numpy(dtype=np.float64)
    columns, untested = _columns(table, contrast)
    outcomes = scores[:, None] if prediction is None else np.column_stack([scores, prediction, scores - prediction])
    if groups is not None and len(np.unique(groups)) == len(groups):
        groups = None  # every row its own: the same, faster
    found = effects(list(columns.values()), outcomes, groups, draws=draws, seed=seed) if columns else [[]]
    joint, names = _joint(table, columns.get(CONTRAST), scores)
    rows = []
    for index, (name, column) in enumerate(columns.items()):
        claim = next(claim for claim in CLAIMS if claim.column == name)
        truth = found[0][index]
        row = Finding(
            claim=claim,
            n_with=column.counts[0],
            n_without=column.counts[1],
            truth=truth,
            precision=precision(column, scores, len(columns)),
            adjusted=joint.coefficients[names.index(name)],
            verdict=CANNOT_TELL,
            unit=column.unit,
            belief=found[1][index] if prediction is not None else None,
            residual=found[2][index] if prediction is not None else None,
            known=known.get(name),
        )
        word = verdict(truth.effect, truth.low, truth.high, truth.corrected_p, claim.sign, margin, row.fewest)
        rows.append(replace(row, verdict=word))
    return Findings(
        rows=rows, untested=untested, joint=joint, joint_columns=names, scores=scores, draws=draws, margin=margin
    )


def _columns(table: pd.DataFrame, contrast: Floats | str) -> tuple[dict[str, Column], dict[str, str]]:
    """The claims' columns that can be tested, in the family's order, and why the others cannot."""
    columns: dict[str, Column] = {}
    untested: dict[str, str] = {}
    for claim in CLAIMS:
        name = claim.column
        if name == CONTRAST and isinstance(contrast, str):
            untested[name] = contrast
            continue
        values = contrast if name == CONTRAST else table[name].to_numpy(dtype=np.float64)
        column = Column(name, np.asarray(values))
        if name == CONTRAST and (column.there.sum() < FEW or not column.varies):
            untested[name] = f"was measured on {int(column.there.sum())} photos, or is the same on all"
        elif not column.varies:
            untested[name] = f"is {column.values[0]:.0f} on every photo"
        else:
            columns[name] = column
    return columns, untested | NO_COLUMN


def _joint(table: pd.DataFrame, contrast: Column | None, scores: Floats) -> tuple[Regression, tuple[str, ...]]:
    """All twelve columns in one regression, and the contrast where it is tested (over the photos that have it)."""
    design, names = table[list(METADATA)].to_numpy(dtype=np.float64), METADATA
    if contrast is None:
        return least_squares(design, scores), names
    there = contrast.there
    design = np.column_stack([design, contrast.centred])
    return least_squares(design[there], scores[there]), (*names, contrast.name)


def disagreements(rows: Sequence[Finding], name: str) -> list[str]:
    """Where the model `name` believes what the true score does not bear out, one line each."""
    lines = []
    for row in rows:
        belief, residual, truth = row.belief, row.residual, row.truth
        if belief is None or residual is None:
            continue
        wrong = f"true minus predicted {residual.effect:+.2f}, Holm p {residual.corrected_p:.4f}"
        borne_out = truth.corrected_p < ALPHA and truth.effect * belief.effect > 0
        if belief.corrected_p < ALPHA and not borne_out:
            raises = "raises" if belief.effect > 0 else "lowers"
            certain = "" if residual.corrected_p < ALPHA else ", so chance may be all the difference"
            lines.append(
                f"disagreement: {name} believes {row.claim.column} {raises} the score ({belief.effect:+.2f}, Holm p "
                f"{belief.corrected_p:.4f}); the true score does not bear it out ({truth.effect:+.2f}: "
                f"{row.verdict}; {wrong}{certain})"
            )
        elif residual.corrected_p < ALPHA:
            lines.append(
                f"disagreement: {name} gives {row.claim.column} {belief.effect:+.2f} points, the true score "
                f"{truth.effect:+.2f} ({row.verdict}; {wrong})"
            )
    return lines


def adjusted_otherwise(rows: Sequence[Finding]) -> list[str]:
    """Where the effect beside all other columns says something else than the plain difference, one line each.

    The verdict is the plain difference's, as stated beforehand; columns that go together (eyes need a face) can hide in it.
    """
    lines = []
    for row in rows:
        if row.adjusted is None:
            continue
        plain, beside = row.truth, row.adjusted
        if (beside.low > 0 or beside.high < 0) and not (plain.low > 0 or plain.high < 0):
            lines.append(
                f"adjusted otherwise: beside all other columns {row.claim.column} has {beside.effect:+.2f} "
                f"[{beside.low:+.2f}, {beside.high:+.2f}], alone {plain.effect:+.2f}; it goes with other columns"
            )
    return lines
