"""The evidence for the tips: the effect of each trait on the true scores.

The columns of the hypotheses keep the verdicts of the hypotheses. Two more are judged with the same code: the contest's `Blur`, and
the share of the photo that the subject fills. They were not stated beforehand, so Holm's correction for them is over all columns.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.data.tables import METADATA, TARGET
from pawpularity.evaluation.bootstrap import holm
from pawpularity.evaluation.effects import (
    CANNOT_TELL,
    CLAIMS,
    CONTRAST,
    FEW,
    REJECTED,
    SUPPORTED,
    TOO_SMALL,
    Column,
    effects,
    least_squares,
    verdict,
)

BLUR, SHARE = "Blur", "subject share"
FAMILY = {claim.column: claim.sign for claim in CLAIMS}
SIGNS = {BLUR: -1, SHARE: +1} | FAMILY
DRAWS = 2000
STRENGTH = {
    SUPPORTED: "supported by the true scores",
    REJECTED: "the true scores say the opposite",
    TOO_SMALL: "the effect is too small to matter",
    CANNOT_TELL: "weak: the true scores do not decide",
}
"""Each verdict in words."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """The effect of one column on the true score, in points per `unit` of it."""

    verdict: str
    n_with: int
    n_without: int
    effect: float
    """mean score of photos with it less that of photos without it; for a number, per `unit`"""
    low: float
    high: float
    corrected_p: float
    gain: float
    """expected gain of one `unit` more: between photos alike in all other columns if `adjusted`, else `effect`"""
    gain_low: float
    gain_high: float
    adjusted: bool
    """whether `gain` is adjusted for all other columns; False if they are collinear with this one"""
    unit: float
    """two standard deviations of a number; 1 for yes or no"""

    @property
    def figures(self) -> str:
        """The effect, its 95 % interval and p."""
        p = f"{self.corrected_p:.4f}" if self.corrected_p >= 0.00005 else "<.0001"
        unit = "" if self.unit == 1.0 else f" per {self.unit:.3g}"
        return f"{self.effect:+.1f} points{unit} [{self.low:+.1f}, {self.high:+.1f}], Holm p {p}"

    @property
    def words(self) -> str:
        """The verdict, all figures and the counts in one line."""
        adjusted = f"; adjusted for all other columns {self.gain:+.1f} [{self.gain_low:+.1f}, {self.gain_high:+.1f}]"
        without = f" with it, {self.n_without:,} without" if self.unit == 1.0 else ""
        counts = f" ({self.n_with:,} photos{without})"
        return f"{STRENGTH[self.verdict]}: {self.figures}{adjusted if self.adjusted else ''}{counts}"


def gather_evidence(
    table: pd.DataFrame, contrast: Floats, share: Floats, groups: NDArray[np.int64], *, margin: float
) -> dict[str, Evidence]:
    """Evidence by column, for the columns that vary.

    `table`: n rows of metadata and scores. `contrast` and `share`: (n,), NaN if no subject was found. `groups`: (n,), of
    near-duplicates. An effect inside +- `margin` points is too small to matter.
    """
    values = {CONTRAST: contrast, SHARE: share} | {name: table[name].to_numpy(float) for name in SIGNS if name in table}
    every = {name: Column(name, values[name]) for name in SIGNS}
    columns = {name: column for name, column in every.items() if column.varies and column.there.sum() >= FEW}
    if not columns:
        return {}
    scores = table[TARGET].to_numpy(dtype=np.float64)
    alone = len(np.unique(groups)) == len(groups)
    truths = effects(list(columns.values()), scores[:, None], None if alone else groups, draws=DRAWS)[0]
    family = [truth.p for name, truth in zip(columns, truths, strict=True) if name in FAMILY]
    in_family = iter(holm(family).tolist())
    # The regression is over the photos whose contrast was measured, and includes the contrast.
    level = columns.get(CONTRAST)
    measured = np.full(len(table), True) if level is None else level.there
    design = np.column_stack([table[list(METADATA)], np.zeros(len(table)) if level is None else level.centred])
    fit = least_squares(design[measured], scores[measured])
    adjusted = dict(zip([*METADATA, CONTRAST], fit.coefficients, strict=True))
    found = {}
    for (name, column), truth in zip(columns.items(), truths, strict=True):
        p = next(in_family) if name in FAMILY else truth.corrected_p
        fewest = column.counts[0] if column.is_number else min(column.counts)
        word = verdict(truth.effect, truth.low, truth.high, p, SIGNS[name], margin, fewest)
        coefficient = adjusted.get(name)
        gain = coefficient or truth
        found[name] = Evidence(word, *column.counts, truth.effect, truth.low, truth.high, p, gain.effect, gain.low,
                               gain.high, coefficient is not None, column.unit)  # fmt: skip
    return found
