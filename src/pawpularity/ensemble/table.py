"""What `pawpularity ensemble` prints: the methods' figures, the members, and how to read them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pawpularity.ensemble.blend import Figure, Fitted, Partition
from pawpularity.evaluation.metrics import INDICATIVE_BELOW, rmse
from pawpularity.evaluation.oof import constant_predictions
from pawpularity.evaluation.predictions import Predictions
from pawpularity.runs import Run

DECLARED = (
    "taken as declared: no member ever saw the rows it scores, nor chose its epoch on them; "
    "`pawpularity leakcheck` looks for signs"
)


def blend_json(
    run: Run,
    sources: Sequence[Predictions],
    partition: Partition,
    fitted: Fitted,
    found: Sequence[Figure],
    method: str,
    asked: bool,
) -> dict[str, Any]:
    """Everything that is printed. `asked`: the user named `method`, else it is the default for so many rows."""
    target = sources[0].target
    weights = fitted.weights[fitted.methods.index(method)]
    table = sources[0].table.assign(fold=partition.fold)
    sizes = np.ones(1) if partition.groups is None else np.unique(partition.groups, return_counts=True)[1]
    return {
        "declared": DECLARED,
        "run": run.name,
        "n": len(target),
        "indicative": len(target) < INDICATIVE_BELOW,
        "constant_rmse": rmse(target, constant_predictions(table)),
        "partition": partition.to_dict()
        | {"rows_in_groups": int(sizes[sizes > 1].sum()), "groups": int((sizes > 1).sum())},
        "method": method,
        "method_asked": asked,
        "methods": [figure.to_dict() for figure in found],
        "intercept": weights.intercept,
        "members": [
            {"name": source.name, "rmse": rmse(target, source.prediction), "weight": float(weight)}
            for source, weight in zip(sources, weights.members, strict=True)
        ],
    }


def blend_text(value: dict[str, Any]) -> str:
    """The same as aligned text."""
    partition, method = value["partition"], value["method"]
    word = "; intervals indicative (n < 50)" if value["indicative"] else ""
    lines = [
        value["declared"],
        f"weights fitted without a row's own fold and near-duplicates, by {partition['k']} folds: {partition['why']}",
        _duplicates(partition),
        f"n = {value['n']}; constant (the other folds' mean) {value['constant_rmse']:.3f}{word}",
        "",
        f"{'':24s}  cross-fitted  {'95 %':16s}  to the best  {'95 %':16s}     same rows",
        f"{'method':24s}  {'RMSE':>12s}  {'interval':16s}  {'member':>11s}  {'paired':16s}  (optimistic)",
    ]
    for row in value["methods"]:
        mark = "*" if row["method"] == method else " "
        interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
        paired = f"[{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"
        difference = f"{row['difference']:+11.4f}  {paired:16s}"
        if row is value["methods"][0]:
            difference = f"{'-':>11s}  {'':16s}"
        lines.append(
            f"{mark} {row['method']:22s}  {row['rmse']:12.4f}  {interval:16s}  {difference}  {row['same_rows_rmse']:12.4f}"
        )
    width = max(6, *(len(member["name"]) for member in value["members"]))
    lines += [
        "",
        f"{'member':{width}s}    RMSE  weight in {method}, fitted on all rows (intercept {value['intercept']:.3f})",
    ]
    lines += [f"{m['name']:{width}s}  {m['rmse']:6.3f}  {m['weight']:6.3f}" for m in value["members"]]
    lines += ["", *_notes(value)]
    return "\n".join(lines)


def _duplicates(partition: dict[str, Any]) -> str:
    if not partition["groups_known"]:
        return "near-duplicates are not known, every row is its own group (--folds FILE names them)"
    if not partition["groups"]:
        return "near-duplicates: none, every row is its own group"
    text = f"near-duplicates: {partition['rows_in_groups']} rows in {partition['groups']} group(s), drawn together"
    if spanning := partition["groups_spanning"]:
        text += f"; {spanning} of them span(s) folds: left out of the fits, but members may have seen a copy of what they score"
    return text


def _notes(value: dict[str, Any]) -> list[str]:
    count, method = len(value["methods"]), value["method"]
    rule = "a rule found by subsampling eight real files of the contest"
    how = "asked for" if value["method_asked"] else f"the default for {value['n']} rows, {rule}"
    return [
        f"* {method}: {how}; not chosen by this table. Choosing the best of the {count} by it flatters it:",
        "  eight real members of 9,912 rows left the methods within 0.02 of one another, another partition moved them by 0.005.",
        "best: the member with the lowest RMSE on the other folds. same rows: weights fitted and scored on the same rows.",
    ]
