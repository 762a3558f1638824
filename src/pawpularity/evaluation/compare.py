"""`pawpularity compare`: is one set of predictions better than another? Paired, by groups of near-duplicates.

Two models err on the same photos, so the difference of their RMSEs is known two to four times more precisely than either: on
the contest's rows to 0.08 - 0.17 points, a single RMSE to 0.33. The interval is the percentile bootstrap of the
difference. The p value swaps the two within groups (Fisher's randomisation test on squared errors); Holm's correction is
over all comparisons.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pawpularity.console import emit, log, next_step, span, table
from pawpularity.errors import UserError
from pawpularity.evaluation.bootstrap import DRAWS, Floats, Groups, bootstrap_sums, holm, interval, sign_flip_p
from pawpularity.evaluation.metrics import Metrics, evaluate, rmse
from pawpularity.evaluation.predictions import SEED_SPREAD, groups_of_all, open_several, search_note
from pawpularity.runs import recipe


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
            return "no clear difference"
        return "better" if self.difference < 0 else "worse"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"verdict": self.verdict}


def compare(
    target: Floats,
    first: Floats,
    others: Sequence[tuple[str, Floats]],
    groups: Groups = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Comparison]:
    """Compare each of `others` (name, predictions (n,)) with `first` on `target`; all share the same draws of groups."""
    errors = np.stack([(target - p) ** 2 for p in (first, *(values for _, values in others))], axis=1)
    sums = bootstrap_sums(np.column_stack([np.ones(len(target)), errors]), groups, draws=draws, seed=seed)
    drawn = np.sqrt(sums[:, 1:] / sums[:, :1])
    p = sign_flip_p(errors[:, 1:] - errors[:, :1], groups, draws=draws, seed=seed)
    reference = rmse(target, first)
    found = []
    for (name, values), own, adjusted, column in zip(others, p, holm(p), drawn.T[1:], strict=True):
        value, alone, paired = rmse(target, values), interval(column), interval(column - drawn[:, 0])
        found.append(Comparison(name, value, *alone, value - reference, *paired, float(own), float(adjusted)))
    return found


def compare_runs(
    runs: Sequence[str],
    *,
    draws: int = DRAWS,
    scale: float | None = None,
    folds: Path | None = None,
    json: str | None = None,
) -> None:
    """`pawpularity compare`: print runs and CSVs of the same rows beside the first of them."""
    if len(runs) < 2:
        raise UserError("compare: needs two or more runs or CSVs; the others are compared with the first")
    several = open_several(runs, scale=scale, folds=folds)
    for one in several:
        if one.run is not None and one.run.leaky:
            log(f"{one.name} is leaky by design (train.split=leaky): a better figure means nothing")
    if note := search_note(several):
        log(note)
    trained = [one.run.record for one in several if one.run is not None and one.run.kind == "run"]
    if len(trained) > 1 and len({recipe(record) for record in trained}) > 1:
        log(SEED_SPREAD)
    first, *others = several
    groups = groups_of_all(several)
    found = compare(first.target, first.prediction, [(s.name, s.prediction) for s in others], groups, draws=draws)
    own = evaluate(first.target, first.prediction, first.constant, groups)
    value = {"first": {"run": first.name} | own.to_dict(), "n": own.n, "constant_rmse": own.constant_rmse, "sd": own.sd,
             "draws": draws, "grouped": groups is not None, "others": [one.to_dict() for one in found]}  # fmt: skip
    emit(value, comparison_text(first.name, own, found, first.constant_words), json)
    if len(found) > 2:
        log("choosing the best of several on these rows flatters it; Holm corrects the p values, not the figure")
    blendable = [
        word
        for word, one in zip(runs, several, strict=True)
        if one.run is None or (one.run.kind != "ensemble" and not one.run.leaky)
    ]
    if len(blendable) > 1:
        next_step("make ensemble", MEMBERS=blendable, FOLDS=folds, SCALE=scale)
    else:
        next_step("make errors", RUN=runs[0], FOLDS=folds, SCALE=scale)


def comparison_text(first: str, own: Metrics, rows: Sequence[Comparison], constant: str) -> str:
    """The comparisons as a table; each RMSE's interval and the p without Holm's correction are in the JSON."""
    shown = [(first, f"{own.rmse:.2f}", "compared with", "", "")]
    shown += [(r.name, f"{r.rmse:.2f}", span(r.difference, r.low, r.high), f"{r.p_holm:.4f}", r.verdict) for r in rows]
    few = "; intervals are indicative (fewer than 50 rows or groups)" if own.indicative else ""
    text = table(("run", "RMSE", "difference, 95 %", "p (Holm)", "verdict"), shown, left=(0, 4))
    return (f"{text}\n{first}: RMSE {own.rmse:.2f} [{own.low:.2f}, {own.high:.2f}]; n = {own.n:,}; "
            f"constant {own.constant_rmse:.2f} ({constant}); sd of these rows {own.sd:.2f}{few}")  # fmt: skip
