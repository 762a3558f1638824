"""Is one set of predictions better than another? Compared paired: on the same rows, by groups of near-duplicates.

Two models err on the same photos, so the difference of their RMSEs is known two to four times better than either: on the
contest's rows to 0.08 - 0.17 points where a single RMSE is known to 0.33. The interval is the percentile bootstrap of the
difference, the p is of swapping the two within groups (Fisher's randomisation test on squared errors), and with
several comparisons Holm's correction is given beside it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.evaluation.bootstrap import DRAWS, bootstrap_sums, holm, interval, sign_flip_p
from pawpularity.evaluation.metrics import Score, rmse

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """One set of predictions beside the first; differences in points, negative where it is better."""

    name: str
    rmse: float
    rmse_low: float
    rmse_high: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float

    @property
    def verdict(self) -> str:
        """In words, by Holm's p."""
        if self.p_holm >= 0.05:
            return "not told apart"
        return "better" if self.difference < 0 else "worse"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"verdict": self.verdict}


def compare(
    target: Floats,
    first: Floats,
    others: Sequence[tuple[str, Floats]],
    groups: NDArray[np.int64] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Comparison]:
    """Compare each of `others` (name, predictions (n,)) with `first` on `target`; the groups are drawn once for all."""
    errors = np.stack([(target - p) ** 2 for p in (first, *(values for _, values in others))], axis=1)
    sums = bootstrap_sums(np.concatenate([np.ones((len(target), 1)), errors], axis=1), groups, draws=draws, seed=seed)
    drawn = np.sqrt(sums[:, 1:] / sums[:, :1])
    p = sign_flip_p(errors[:, 1:] - errors[:, :1], groups, draws=draws, seed=seed)
    reference = rmse(target, first)
    found = []
    for i, ((name, values), own, adjusted) in enumerate(zip(others, p, holm(p), strict=True), start=1):
        low, high = interval(drawn[:, i] - drawn[:, 0])
        value = rmse(target, values)
        found.append(
            Comparison(name, value, *interval(drawn[:, i]), value - reference, low, high, float(own), float(adjusted))
        )
    return found


def comparison_text(first: str, own: Score, rows: Sequence[Comparison], constant: str) -> str:
    """The comparisons as aligned text."""
    width = max(len(name) for name in (first, *(row.name for row in rows)))
    lines = [f"{'':{width}s}     RMSE  95 %              difference  95 % paired         p   p (Holm)  verdict",
             f"{first:{width}s}  {own.rmse:7.3f}  [{own.low:.2f}, {own.high:.2f}]  compared with"]  # fmt: skip
    for row in rows:
        alone, paired = f"[{row.rmse_low:.2f}, {row.rmse_high:.2f}]", f"[{row.low:+.3f}, {row.high:+.3f}]"
        lines.append(f"{row.name:{width}s}  {row.rmse:7.3f}  {alone}  {row.difference:+10.3f}  {paired}  {row.p:.4f}"
                     f"     {row.p_holm:.4f}  {row.verdict}")  # fmt: skip
    lines.append(f"n = {own.n}, constant {own.constant_rmse:.3f} ({constant}), sd of these rows {own.sd:.3f}")
    return "\n".join(lines)
