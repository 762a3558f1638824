"""How strong the evidence behind a piece of advice is: what the true scores of the shelter say of it, by the table of hypotheses.

The claims of that table keep its verdicts. Two more columns that advice may speak of are looked at with the same code: the
contest's `Blur`, and how much of the photo the subject fills. They are no part of the family stated beforehand, so
Holm's correction for them is over everything looked at, the family included.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.evaluation.bootstrap import holm
from pawpularity.evaluation.effects import (
    CANNOT_TELL,
    CONTRAST,
    NOT_TESTABLE,
    REJECTED,
    SUPPORTED,
    TOO_SMALL,
    Column,
    effects,
    verdict,
)
from pawpularity.studies.hypotheses.data import Gathered
from pawpularity.studies.hypotheses.findings import Findings, find

BLUR, SHARE = "Blur", "subject share"
_EXTRA = {BLUR: -1, SHARE: +1}
_WORDS = {BLUR: "a blurred photo lowers", SHARE: "a subject that fills more of the photo raises"}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """What the shelter's true scores say of one thing that can be changed. Effects in score points."""

    column: str
    claim: str
    sign: int
    verdict: str
    n_with: int
    n_without: int
    effect: float
    """mean score with it less mean score without; of a number, per `unit`"""
    low: float
    high: float
    corrected_p: float
    gain: float
    """what changing it is expected to give, of +1 (or +`unit`): beside all other columns where the rows can tell, else `effect`"""
    gain_low: float
    gain_high: float
    adjusted: bool
    unit: float
    """of a number: how much `effect` is the effect of (two standard deviations); 1 for yes or no"""

    @property
    def strength(self) -> str:
        """For people: what the verdict means for advice."""
        return {
            SUPPORTED: "supported by the true scores",
            REJECTED: "the true scores say the opposite",
            TOO_SMALL: "measured, and too small to matter",
            CANNOT_TELL: "weak: the true scores cannot tell",
        }.get(self.verdict, self.verdict)

    @property
    def words(self) -> str:
        """One line of figures."""
        of = "" if self.unit == 1.0 else f" per {self.unit:.3g}"
        beside = f"; beside all other columns {self.gain:+.1f} [{self.gain_low:+.1f}, {self.gain_high:+.1f}]"
        counts = (
            f"{self.n_with:,} photos with it, {self.n_without:,} without"
            if self.unit == 1.0
            else f"{self.n_with:,} photos"
        )
        return (
            f"{self.strength}: {self.effect:+.1f} points{of} [{self.low:+.1f}, {self.high:+.1f}], Holm p "
            f"{_chance(self.corrected_p)}{beside if self.adjusted else ''} ({counts})"
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def gather_evidence(gathered: Gathered, share: Floats, *, draws: int, margin: float, seed: int = 0) -> list[Evidence]:
    """Everything advice may speak of that these rows can test.

    `share` (n,) is the subject's share of each photo, NaN where no subject was found, in the order of `gathered`. `margin`
    in score points, as for the table of hypotheses.
    """
    found = find(gathered.table, gathered.groups, contrast=gathered.contrast, prediction=None, known={}, draws=draws,
                 margin=margin, seed=seed)  # fmt: skip
    rows = [
        Evidence(
            column=row.claim.column, claim=f"{row.claim.words} the score", sign=row.claim.sign, verdict=row.verdict,
            n_with=row.n_with, n_without=row.n_without, effect=row.truth.effect, low=row.truth.low, high=row.truth.high,
            corrected_p=row.truth.corrected_p, unit=row.unit if row.claim.column == CONTRAST else 1.0,
            **_gain(row.adjusted, row.truth),
        )
        for row in found.rows
    ]  # fmt: skip
    return rows + _extra(gathered, share, found, draws, margin, seed)


def _gain(adjusted: Any, plain: Any) -> dict[str, Any]:
    best = plain if adjusted is None else adjusted
    return {"gain": best.effect, "gain_low": best.low, "gain_high": best.high, "adjusted": adjusted is not None}


def _extra(gathered: Gathered, share: Floats, found: Findings, draws: int, margin: float, seed: int) -> list[Evidence]:
    columns = [Column(BLUR, gathered.table[BLUR].to_numpy(dtype=np.float64)), Column(SHARE, share)]
    claimed = {row.claim.column for row in found.rows}  # a family that has grown may hold them already
    columns = [column for column in columns if column.varies and column.name not in claimed]
    if not columns:
        return []
    groups = None if len(np.unique(gathered.groups)) == len(gathered.groups) else gathered.groups
    truths = effects(columns, found.scores[:, None], groups, draws=draws, seed=seed)[0]
    family = [row.truth.p for row in found.rows]
    corrected = holm([*family, *(truth.p for truth in truths)])[len(family) :]
    rows = []
    for column, truth, p in zip(columns, truths, corrected, strict=True):
        name, (n_with, n_without) = column.name, column.counts
        fewest = n_with if column.is_number else min(n_with, n_without)
        beside = found.joint.coefficients[found.joint_columns.index(name)] if name in found.joint_columns else None
        rows.append(
            Evidence(
                column=name, claim=f"{_WORDS[name]} the score", sign=_EXTRA[name],
                verdict=verdict(truth.effect, truth.low, truth.high, float(p), _EXTRA[name], margin, fewest),
                n_with=n_with, n_without=n_without, effect=truth.effect, low=truth.low, high=truth.high,
                corrected_p=float(p), unit=column.unit, **_gain(beside, truth),
            )
        )  # fmt: skip
    return rows


def untested(column: str, rows: Sequence[Evidence]) -> str | None:
    """Why nothing can be said of `column` here; None where something can."""
    return None if any(row.column == column for row in rows) else f"{NOT_TESTABLE}: it is the same on all photos"


def _chance(p: float) -> str:
    return f"{p:.4f}" if p >= 0.00005 else "<.0001"
