"""`pawpularity folds`: make the folds file of a data set, or show the one that is there."""

import argparse

from pawpularity.command_line import Verb, json_argument
from pawpularity.console import emit


def _folds(options: argparse.Namespace) -> None:
    from pawpularity.context import choose

    chosen = choose(options)
    folds, scores = chosen.folds, chosen.dataset.train.set_index("Id")["Pawpularity"]
    frame = folds.frame
    table = [
        {"fold": int(str(fold)), "photos": len(part), "groups": int(part["group"].nunique()),
         "mean": float(scores.loc[part["Id"]].mean()), "sd": float(scores.loc[part["Id"]].std(ddof=0))}
        for fold, part in frame.groupby("fold")
    ]  # fmt: skip
    sizes = frame["group"].value_counts()
    lines = ["fold  photos  groups   mean     sd"]
    lines += [f"{r['fold']:4d}  {r['photos']:6d}  {r['groups']:6d}  {r['mean']:5.2f}  {r['sd']:5.2f}" for r in table]
    lines.append(f"{len(frame)} photos, {int((sizes > 1).sum())} groups of near-duplicates, hash {folds.hash}")
    emit(
        {"file": str(folds.path), "hash": folds.hash, "note": folds.note, "folds": table},
        "\n".join(lines),
        options.json,
    )


VERBS = [
    Verb(
        "folds",
        "make the grouped, stratified folds file (every verb that needs it makes it too)",
        _folds,
        json_argument,
    )
]
