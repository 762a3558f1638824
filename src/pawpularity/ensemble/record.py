"""A blend as a run, `oof/NAME/`: what `make oof`, `make predict` and the kernel read.

oof/NAME/config.json      kind "ensemble": members, method, data, folds, and the hashes of the files beside it
oof/NAME/weights.json     weights fitted on all rows; a new photo scores clip(intercept + sum of weight x member, 1, 100)
oof/NAME/oof.csv          cross-fitted predictions
oof/NAME/folds.csv        folds and groups (hash in folds.json), where the members were not all trained by one folds file
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pawpularity.console import make_word
from pawpularity.data.duplicates import numbered
from pawpularity.ensemble.blend import Blend, Partition, cross_fit, open_members, partition_of
from pawpularity.ensemble.methods import HIGHEST, LOWEST, default_method
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.oof import constant_predictions, write_oof
from pawpularity.evaluation.predictions import Predictions
from pawpularity.files import file_hash, read_json, text_hash, write_json, write_text
from pawpularity.runs import Run, git_commit, machine, versions


def check_free(folder: Path) -> None:
    """Raise UserError if `folder` holds a run that is not a blend."""
    if (folder / "config.json").is_file() and Run.open(folder).kind != "ensemble":
        raise UserError(f"{folder}: holds a trained run, which the blend would overwrite; take another name (RUN=...)")


def blend_of(runs: Sequence[str], folder: Path, method: str | None = None) -> Run:
    """Blend `runs` by `method` (default: the one for so many rows), cross-fitted, and write the blend into `folder`."""
    sources = open_members(runs)
    partition = partition_of(sources)
    chosen = method or default_method(len(partition.fold))
    return write_blend(folder, sources, partition, cross_fit(chosen, sources, partition))


def write_blend(
    folder: Path,
    sources: Sequence[Predictions],
    partition: Partition,
    blend: Blend,
    settings: Mapping[str, Any] | None = None,
) -> Run:
    """Write `blend` of `sources` into `folder`. `settings` are kept in its config."""
    check_free(folder)
    weights = _weights(sources, partition, blend)
    write_json(folder / "weights.json", weights)
    write_oof(folder / "oof.csv", sources[0].table.assign(fold=partition.fold, prediction=blend.prediction))
    record = {
        "kind": "ensemble",
        "config": {"name": folder.name, **(settings or {})},
        "members": {member["name"]: member["hash"] for member in weights["members"]},
        "files": [source.name for source in sources if source.run is None],
        "searched": [source.name for source in sources if source.run is not None and source.run.searched],
        "method": blend.method,
        "oof_hash": file_hash(folder / "oof.csv"),
        "weights_hash": file_hash(folder / "weights.json"),
        "data": _data(sources),
        "folds": _folds(folder, sources, partition),
        "git_commit": git_commit(),
        "versions": versions(),
        "machine": machine(),
    }
    write_json(folder / "config.json", record)
    return Run.open(folder)


def _weights(sources: Sequence[Predictions], partition: Partition, blend: Blend) -> dict[str, Any]:
    """What weights.json holds; RMSEs in score points."""
    target = sources[0].target
    members = [
        {"name": source.name, "source": "file" if source.run is None else "run", "hash": file_hash(source.path),
         "weight": float(weight), "mean_prediction": float(source.prediction.mean()),
         "rmse": rmse(target, source.prediction)}
        for source, weight in zip(sources, blend.weights.members, strict=True)
    ]  # fmt: skip
    constant = constant_predictions(sources[0].table.assign(fold=partition.fold))
    answers = {"cross_fitted": blend.prediction, "same_rows": blend.same_rows, "constant": constant}
    return {
        "method": blend.method,
        "intercept": blend.weights.intercept,
        "members": members,
        "clip": [LOWEST, HIGHEST],
        "mean_prediction": float(blend.prediction.mean()),
        "n": len(target),
        "partition": partition.to_dict(),
        "rmse": {name: rmse(target, answer) for name, answer in answers.items()},
    }


def read_weights(blend: Run) -> tuple[float, dict[str, float]]:
    """Intercept and the weights of the members that score a new photo; a member of weight 0 is left out."""
    path = blend.folder / "weights.json"
    weights = read_json(path, f"blend {blend.name}")
    if file_hash(path) != blend.record.get("weights_hash"):
        raise UserError(f"{path}: was changed since the blend was made; make the blend again")
    if files := blend.record.get("files"):
        raise UserError(f"{blend.folder}: its member {files[0]} is a file, which scores no photos; blend runs alone")
    used = {member["name"]: float(member["weight"]) for member in weights["members"] if member["weight"] != 0.0}
    return float(weights["intercept"]), used


def blend_command(blend: Run, files: Mapping[str, str] | None = None) -> tuple[str, list[str]]:
    """The command that makes `blend` again, and its member words.

    A run keeps the names and hashes of CSVs, not their paths. `files` gives paths by hash; a CSV that is not among them
    becomes path/to/NAME.csv.
    """
    record, paths = blend.record, files or {}
    words = [paths.get(member_hash, f"path/to/{name}.csv") if name in record["files"] else name
             for name, member_hash in record["members"].items()]  # fmt: skip
    kept = {key: record["config"].get(key) for key in ("folds", "scale", "seed")}
    options = [word for key, value in kept.items() if value for word in (f"--{key}", str(value))]
    members, name = make_word("MEMBERS", *words), make_word("RUN", blend.name)
    command = f"make ensemble {members} METHOD={record['method']} {name}"
    return command + (f" {make_word('ARGS', *options)}" if options else ""), words


def _data(sources: Sequence[Predictions]) -> dict[str, Any]:
    """The data set of the runs among `sources`; for files, or runs of several data sets, a hash of Ids and targets."""
    data: list[dict[str, Any]] = [source.run.record["data"] for source in sources if source.run is not None]
    if len({one["hash"] for one in data}) == 1:
        return data[0]
    rows = zip(sources[0].table["Id"], sources[0].target, strict=True)
    return {"name": "files", "hash": text_hash(*(f"{name},{target:.6f}" for name, target in rows))}


def _folds(folder: Path, sources: Sequence[Predictions], partition: Partition) -> dict[str, Any]:
    """The folds file by which all members were trained, if they are runs of one; else one written into `folder`."""
    path = folder / "folds.csv"
    trained = [source.run.record["folds"] for source in sources if source.run is not None]
    if len(trained) == len(sources) and len({folds["hash"] for folds in trained}) == 1 and partition.own:
        for old in (path, path.with_suffix(".json")):
            old.unlink(missing_ok=True)
        return dict(trained[0])
    # A folds file must not have a group that spans folds, so such a group becomes one group per fold. The fits left it out.
    _, apart = np.unique(np.stack([partition.groups, partition.fold]), axis=1, return_inverse=True)
    table = sources[0].table[["Id"]].assign(group=numbered(apart.tolist()), fold=partition.fold)
    write_text(path, table.to_csv(index=False, lineterminator="\n"))
    folds_hash = file_hash(path)[:12]
    write_json(path.with_suffix(".json"), {"hash": folds_hash, "rule": f"blend: {partition.why}"})
    return {"file": path.as_posix(), "hash": folds_hash, "k": partition.k}
