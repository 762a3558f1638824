"""A blend as a run of its own, `oof/NAME/`: what `make oof`, `make predict` and the kernel read.

oof/NAME/config.json      kind "ensemble": its members, method, data, folds, and the hashes of what lies beside it
oof/NAME/weights.json     the final weights, fitted on all rows; a new photo scores clip(intercept + sum of weight x member, 1, 100)
oof/NAME/oof.csv          the cross-fitted predictions: every row blended by weights that never saw its fold
oof/NAME/folds.csv        the folds and groups of that, where no folds file of ours says them (with a .json that vouches)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pawpularity.console import log, make_word
from pawpularity.data.duplicates import numbered
from pawpularity.data.folds import read_folds
from pawpularity.ensemble.blend import Fitted, Partition, Rows, fit_and_predict, partition_of
from pawpularity.ensemble.methods import HIGHEST, LOWEST
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.oof import constant_predictions, write_oof
from pawpularity.evaluation.predictions import Predictions, joined_groups, open_several
from pawpularity.files import content_hash, file_hash, read_json, text_hash, write_json, write_text
from pawpularity.runs import OOF, Run, git_commit, machine, run_names, versions

_FAR = 1e4  # members may stray beyond 1..100 a little; their blend is clipped
_KEYS = {"method", "intercept", "members"}


def open_members(words: Sequence[str], *, scale: float | None = None) -> list[Predictions]:
    """The members that `words` name. Raises UserError for fewer than two, a blend, and as `open_several` does."""
    if len(words) < 2:
        raise UserError(f"ensemble: a blend needs two members or more, {len(words)} given; name runs or CSVs")
    sources = open_several(words, scale=scale)
    for source in sources:
        if source.run is not None and source.run.kind == "ensemble":
            raise UserError(
                f"{source.run.folder}: is a blend, whose weights have seen the targets of other folds; name its members "
                f"instead: {' '.join(source.run.record['members'])}"
            )
        if source.run is not None and source.run.leaky:
            raise UserError(
                f"{source.run.folder}: is leaky by design (train.split=leaky): it has seen the answers; leave it out"
            )
        far = np.flatnonzero(np.abs(source.prediction) > _FAR)
        if len(far):
            row = int(far[0])
            raise UserError(
                f"{source.path}: the prediction of {source.table['Id'][row]} is {source.prediction[row]:g}, no score of 1-100; "
                "correct that file, or leave it out"
            )
    return sources


def finished_runs() -> list[str]:
    """All finished trained runs and probes below oof/. Raises UserError unless two or more are there, of one data set."""
    found: dict[str, list[Run]] = {}
    for name in run_names():
        try:
            run = Run.open(OOF / name)
        except UserError:
            continue  # one damaged run must not stop the others; `make oof` names it
        # Cells of Table 1 are variants of one another, made to be compared.
        if run.has_folds and not run.leaky and not name.startswith("table1-") and len(run.trained_folds()) == run.k:
            found.setdefault(run.record["data"]["hash"], []).append(run)
    many = [runs for runs in found.values() if len(runs) > 1]
    if not many:
        there = ", ".join(run.name for runs in found.values() for run in runs) or "none"
        raise UserError(
            f"ensemble: {OOF}/ holds fewer than two finished runs of one data set ({there}); train another, or name CSVs"
        )
    if len(many) > 1:
        sets = "; ".join(f"{runs[0].record['data']['name']}: {' '.join(run.name for run in runs)}" for runs in many)
        raise UserError(f"ensemble: {OOF}/ holds finished runs of several data sets ({sets}); name those to blend")
    return [run.name for run in many[0]]


def groups_of(sources: Sequence[Predictions], folds: Path | None = None) -> Rows | None:
    """(n,) near-duplicates as the sources or the folds file at `folds` know them, joined; None where nobody does."""
    known = [source.groups for source in sources if source.groups is not None]
    if folds is not None:
        known.append(read_folds(folds).groups_of(sources[0].table["Id"]))
    return joined_groups(known)


def mean_blend(runs: Sequence[Run], folder: Path) -> Run:
    """Average runs below oof/ into the run at `folder`; the mean has no weights to fit.

    Raises UserError as `open_members` does, and where `folder` holds a trained run.
    """
    check_free(folder)
    sources = open_members([run.name for run in runs])
    partition = partition_of(sources, groups_of(sources))
    return write_blend(folder, sources, partition, fit_and_predict(sources, partition, ["mean"]), "mean")


def write_blend(
    folder: Path,
    sources: Sequence[Predictions],
    partition: Partition,
    fitted: Fitted,
    method: str,
    settings: dict[str, Any] | None = None,
) -> Run:
    """Write the blend by `method`, one of those fitted, into `folder`. `settings` are kept in its config."""
    check_free(folder)
    if (folder / "config.json").is_file():
        old = Run.open(folder).record
        if old["data"]["hash"] != _data(sources)["hash"]:
            raise UserError(
                f"{folder}: holds a blend of other photos or targets; take another name (RUN=...), or delete it"
            )
        if set(old.get("members", {})) != {source.name for source in sources}:
            log(f"{folder}: replaces the blend of {' '.join(old.get('members', {}))}")
    first, at = sources[0], fitted.methods.index(method)
    weights, blended = fitted.weights[at], fitted.blended[:, at]
    table = first.table.assign(fold=partition.fold, prediction=blended)
    members = [
        {
            "name": source.name,
            "source": "file" if source.run is None else "run",
            "hash": file_hash(source.path),
            "weight": float(weight),
            "mean_prediction": float(source.prediction.mean()),
        }
        for source, weight in zip(sources, weights.members, strict=True)
    ]
    folds = _folds(folder, sources, partition)
    written = {
        "method": method,
        "intercept": weights.intercept,
        "members": members,
        "clip": [LOWEST, HIGHEST],
        "mean_prediction": float(blended.mean()),
        "n": len(table),
        "partition": partition.to_dict(),
        "rmse": {
            "cross_fitted": rmse(first.target, blended),
            "same_rows": rmse(first.target, fitted.same_rows[:, at]),
            "constant": rmse(first.target, constant_predictions(table)),
        },
    }
    write_json(folder / "weights.json", written)
    write_oof(folder / "oof.csv", table)
    record = {
        "kind": "ensemble",
        "config": {"name": folder.name, **(settings or {})},
        "members": {member["name"]: member["hash"] for member in members},
        "method": method,
        "oof_hash": file_hash(folder / "oof.csv"),
        "weights_hash": file_hash(folder / "weights.json"),
        "data": _data(sources),
        "folds": folds,
        "git_commit": git_commit(),
        "versions": versions(),
        "machine": machine(),
    }
    write_json(folder / "config.json", record)
    return Run.open(folder)


def blend_command(blend: Run, files: Mapping[str, str] | None = None) -> tuple[str, list[str]]:
    """What makes `blend` again, and the member words of it. `files`: the paths of CSVs by their hash.

    Of a file its name and hash are kept, not its path: one that is not among `files` stands as path/to/NAME.csv.
    """
    record, known = blend.record, files or {}
    try:
        kept = read_json(blend.folder / "weights.json", f"blend {blend.name}")["members"]
        foreign = {member["name"] for member in kept if member["source"] == "file"}
    except (UserError, KeyError, TypeError):  # whose fault is told where the weights are needed
        foreign = set()
    words = [
        known.get(due, f"path/to/{name}.csv") if name in foreign else name for name, due in record["members"].items()
    ]
    kept = {key: record["config"].get(key) for key in ("folds", "scale", "seed")}
    settings = [word for key, value in kept.items() if value for word in (f"--{key}", str(value))]
    command = f"make ensemble {make_word('MEMBERS', *words)} METHOD={record.get('method', 'mean')} {make_word('RUN', blend.name)}"
    return command + (f" {make_word('ARGS', *settings)}" if settings else ""), words


def check_free(folder: Path) -> None:
    """Raise UserError when a run of its own stands where a blend would be written."""
    if (folder / "config.json").is_file() and Run.open(folder).kind != "ensemble":
        raise UserError(
            f"{folder} holds a trained run, which the blend would overwrite; take another name, or rename that folder"
        )


def read_weights(blend: Run) -> tuple[float, dict[str, float]]:
    """Intercept and weights of the members that a photo must be predicted by, all of them runs; a weight of 0 is left out.

    A blend from before weights were kept is a mean. Raises UserError for a member that is a file, which no photo can be
    predicted by, and for weights that are gone or were changed.
    """
    path, due = blend.folder / "weights.json", blend.record.get("weights_hash")
    names = list(blend.record["members"])
    if due is None and not path.is_file():
        return 0.0, dict.fromkeys(names, 1.0 / len(names))
    weights = read_json(path, f"blend {blend.name}")
    if not isinstance(weights, dict) or not weights.keys() >= _KEYS or file_hash(path) != due:
        raise UserError(f"{path}: was changed since the blend was made; make the blend again")
    if foreign := [member["name"] for member in weights["members"] if member["source"] == "file"]:
        raise UserError(
            f"{blend.folder}: its member {foreign[0]} is a file of predictions, not a run that can score photos; "
            "make the blend again of runs alone"
        )
    used = {member["name"]: float(member["weight"]) for member in weights["members"] if member["weight"] != 0.0}
    return float(weights["intercept"]), used


def _data(sources: Sequence[Predictions]) -> dict[str, Any]:
    """The data set of the runs among `sources`; for files alone, or runs of several, the rows and targets themselves."""
    data: list[dict[str, Any]] = [source.run.record["data"] for source in sources if source.run is not None]
    if data and all(one["hash"] == data[0]["hash"] for one in data):
        return data[0]
    first = sources[0]
    rows = (f"{name},{target:.6f}" for name, target in zip(first.table["Id"], first.target, strict=True))
    return {"name": "files", "hash": text_hash(*rows)}


def _folds(folder: Path, sources: Sequence[Predictions], partition: Partition) -> dict[str, Any]:
    """The folds file that all members were trained by, if they are runs of one; else one that is written into `folder`."""
    own = folder / "folds.csv"
    folds = [source.run.record["folds"] for source in sources if source.run is not None]
    groups = sources[0].groups
    if (
        partition.own
        and len(folds) == len(sources)
        and len({one["hash"] for one in folds}) == 1
        and groups is not None
        and partition.groups is not None
        and np.array_equal(numbered(groups.tolist()), numbered(partition.groups.tolist()))
    ):
        for left_over in (own, own.with_suffix(".json")):
            left_over.unlink(missing_ok=True)
        return dict(folds[0])
    groups = np.arange(len(partition.fold)) if partition.groups is None else partition.groups
    # A folds file's groups never span folds; one that did (and was left out of the fits) is written as one group a fold.
    _, apart = np.unique(np.stack([groups, partition.fold]), axis=1, return_inverse=True)
    table = sources[0].table[["Id"]].assign(group=numbered(apart.tolist()), fold=partition.fold)
    text = table.to_csv(index=False, lineterminator="\n")
    rule = f"blend: {partition.why}"
    write_json(own.with_suffix(".json"), {"hash": content_hash(text)[:12], "rule": rule})
    write_text(own, text)
    return {"file": own.as_posix(), "hash": file_hash(own)[:12], "k": partition.k}
