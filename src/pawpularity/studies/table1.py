"""The paper's Table 1, honestly and as it was made: four backbones x copies {none, paper, authors} x two ways to split.

Each honest cell is a run of its own, `oof/table1-BACKBONE-COPIES/`: five folds, out of fold, every photo scored once as it
is. Each leaky cell is the paper's: one random tenth of photos AND copies, seed 42, trained on the rest; where a config
stops early it watches the very items it is then scored on. They are kept in `oof/table1/`, out of the way of runs, since
they are no out-of-fold predictions. What is there is not trained again, so a killed table goes on where it stopped.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pawpularity.config import resolve
from pawpularity.console import log
from pawpularity.context import data_suffix
from pawpularity.data.augment import VIEWS
from pawpularity.data.dataset import Dataset
from pawpularity.data.folds import Folds
from pawpularity.data.tables import TARGET
from pawpularity.device import choose as choose_device
from pawpularity.errors import UserError
from pawpularity.evaluation.leaderboard import run_row
from pawpularity.evaluation.metrics import evaluate
from pawpularity.files import file_hash, read_json, text_hash, write_json, write_text
from pawpularity.pipeline.compete import SMALL, family
from pawpularity.runs import OOF, Run, machine, recipe, record_of
from pawpularity.schema import Config
from pawpularity.studies.leakage.experiment import predict_items, split_by_items
from pawpularity.training.fit import fit_items
from pawpularity.training.fold import labelled_photos, prepare_trunk, start_run, train_fold
from pawpularity.training.samples import fold_items, items_of

FOLDER = OOF / "table1"
COPIES = ("none", "paper", "authors")
# The paper's Table 1 (model_results.PNG in the authors' repository), with and without copies.
PAPER = {
    "resnet152": (11.3, 19.0),
    "vgg19_bn": (12.7, 19.5),
    "densenet161": (9.3, 18.7),
    "efficientnet_b7": (10.4, 20.0),
}
COLUMNS = (
    *("backbone", "copies", "split", "rmse", "low", "high", "constant_rmse", "sd", "r2", "n", "photos"),
    *("with_copy_in_training", "epochs", "seconds", "device", "dtype", "machine", "paper_rmse"),
)
FIGURES = ("rmse", "low", "high", "constant_rmse", "sd", "r2", "n")


def configs_of(data: Path, settings: Sequence[str], backbones: Sequence[str] | None) -> dict[str, Config]:
    """The family's configurations under the paper's protocol, by name."""
    names = [name for name in family(data) if not backbones or name.split("/")[-1] in backbones or name in backbones]
    return {
        name: resolve(f"{name},{'small/paper' if name in SMALL else 'paper'}", settings, validate=False)
        for name in names
    }


def make_table(
    configs: dict[str, Config],
    dataset: Dataset,
    folds: Folds,
    rules: Sequence[str],
    on_cell: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Train every cell that is not there yet; `on_cell` is told each one as it is done. A row per cell."""
    rows = []
    for name, base in configs.items():
        for rule in rules:
            config = with_copies(base, rule)
            for cell in (_honest, _leaky):
                row = cell(name, rule, config, dataset, folds)
                rows.append(row)
                on_cell(row)
    return rows


def with_copies(config: Config, rule: str) -> Config:
    """`config` with the copies of `rule`."""
    return replace(config, train=replace(config.train, copies=rule))


def _name(kind: str, backbone: str, rule: str, data: Path) -> str:
    return f"{kind}-{backbone.replace('/', '-')}-{rule}{data_suffix(data)}"


def _honest(backbone: str, rule: str, config: Config, dataset: Dataset, folds: Folds) -> dict[str, Any]:
    compute = choose_device(config.train.dtype)
    try:
        run, note = start_run(OOF / _name("table1", backbone, rule, dataset.folder), config, dataset, folds)
    except UserError as error:
        raise UserError(
            str(error).replace("take another name (RUN=...), or delete", "to make that cell anew, delete")
        ) from None
    due = [fold for fold in range(folds.k) if fold not in run.trained_folds()]
    if due:
        log(f"{run.name}: folds {', '.join(map(str, due))} on {compute}; {note}")
        rows, every = labelled_photos(dataset, folds, config), np.arange(len(dataset.train))
        prepare_trunk(config, rows, items_of(config, rows.scores, every), every, compute)
        for fold in due:
            train_fold(run, dataset, folds, fold, compute, rows)
    value, metrics = run_row(run), [run.metrics(fold) for fold in range(folds.k)]
    s = value["score"]
    return {
        "backbone": backbone, "copies": rule, "split": "honest", **{k: s[k] for k in FIGURES},
        "photos": s["n"], "with_copy_in_training": _copied(config, dataset, folds),
        "epochs": int(np.median([m["epochs"] for m in metrics])),
        "seconds": value["seconds"], "device": metrics[0]["device"], "dtype": metrics[0]["dtype"],
        "machine": _machine(run.record["machine"]), "paper_rmse": None,
    }  # fmt: skip


def _copied(config: Config, dataset: Dataset, folds: Folds) -> int:
    """Scored photos with a copy of themselves among the training items of their own fold: what an honest split has none of."""
    table = dataset.train.sort_values("Id", kind="stable")
    scores, count = table[TARGET].to_numpy(dtype=np.float64), 0
    for fold in range(folds.k):
        training, scored = folds.rows(table["Id"], fold)
        items = fold_items(config, scores, training, scored, fold, folds.k)
        count += int(np.isin(scored, items.rows).sum())
    return count


def _leaky(backbone: str, rule: str, config: Config, dataset: Dataset, folds: Folds) -> dict[str, Any]:
    path = FOLDER / f"{_name('leaky', backbone, rule, dataset.folder)}.json"
    # The honest cell's run was started with the same weights just now, and vouches for their content.
    weights = Run.open(OOF / _name("table1", backbone, rule, dataset.folder)).record["weights"]
    about = {"name": dataset.name, "hash": dataset.hash}
    record = record_of(config, data=about, folds={"hash": folds.hash}, weights=weights)
    key = recipe(record) + f" seed {config.train.seed}"
    if path.is_file():
        there = read_json(path, "a cell of Table 1")
        if isinstance(there, dict) and there.get("recipe") == key and _vouched(path, there):
            return dict(there["row"])
        log(f"{path}: was made with other settings or other data, or was changed; trained again")
    compute = choose_device(config.train.dtype)
    started = time.perf_counter()
    rows = labelled_photos(dataset, folds, config)
    every = np.arange(len(rows.scores))
    split = split_by_items(config, rows, every)
    log(f"{path.stem}: {len(split.training)} items to train on, {len(split.validation)} to validate, {int(split.leaked.sum())} of "
        f"them with a copy of themselves in training; on {compute}")  # fmt: skip
    prepare_trunk(config, rows, items_of(config, rows.scores, every), every, compute)
    fitted = fit_items(config, rows, split.training, split.validation, compute=compute)
    answers = predict_items(fitted, rows, split.validation, compute)
    at = split.validation.rows
    result = evaluate(rows.scores[at], answers, fitted.training_mean, rows.groups[at])
    ids = np.array(sorted(dataset.train["Id"].tolist()))
    table = pd.DataFrame({"Id": ids[at], "copy": np.array(VIEWS)[split.validation.copies], "copy_trained_on": split.leaked,
                          "target": rows.scores[at], "prediction": answers}).sort_values(["Id", "copy"])  # fmt: skip
    write_text(path.with_suffix(".csv"), table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    paper = PAPER.get(backbone, (None, None))
    row = {
        "backbone": backbone, "copies": rule, "split": "leaky",
        **{k: result.to_dict()[k] for k in FIGURES},
        "photos": len(np.unique(at)), "with_copy_in_training": int(split.leaked.sum()), "epochs": fitted.epochs,
        "seconds": round(time.perf_counter() - started, 2), "device": compute.device.type, "dtype": compute.dtype_name,
        "machine": _machine(machine()), "paper_rmse": {"authors": paper[0], "none": paper[1]}.get(rule),
    }  # fmt: skip
    hashes = {"predictions_hash": file_hash(path.with_suffix(".csv")), "row_hash": _row_hash(row)}
    write_json(path, record | {"kind": "leaky", "recipe": key, "row": row} | hashes)
    return row


def _vouched(path: Path, there: dict[str, Any]) -> bool:
    predictions = path.with_suffix(".csv")
    return (
        predictions.is_file()
        and file_hash(predictions) == there.get("predictions_hash")
        and isinstance(there.get("row"), dict)
        and _row_hash(there["row"]) == there.get("row_hash")
    )


def _row_hash(row: dict[str, Any]) -> str:
    return text_hash(json.dumps(row, sort_keys=True))


def _machine(value: dict[str, Any]) -> str:
    return f"{value['processor']}, {value['cores']} cores"


def write_table(rows: Sequence[dict[str, Any]], data: Path) -> tuple[Path, Path]:
    """Write `oof/table1/table1.csv` and `.md` (with the data's name for data other than the usual two; `-part` for some cells)."""
    part = "" if len(rows) == 2 * len(COPIES) * len(family(data)) else "-part"
    base = FOLDER / f"table1{data_suffix(data)}{part}"
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    write_text(base.with_suffix(".csv"), frame.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    write_text(base.with_suffix(".md"), markdown(rows))
    return base.with_suffix(".csv"), base.with_suffix(".md")


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table for people: a line per backbone and copies, honest beside leaky."""
    head = ("backbone", "copies", "honest: five folds, photos never seen", "constant", "n", "leaky: a tenth of photos and copies",
            "constant", "n", "with a copy in training", "time")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    by_key: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_key.setdefault((row["backbone"], row["copies"]), {})[row["split"]] = row
    for (backbone, rule), ways in by_key.items():
        cells = [backbone, rule]
        for split in ("honest", "leaky"):
            w = ways.get(split)
            cells += ["-", "-", "-"] if w is None else [
                f"**{w['rmse']:.2f}** [{w['low']:.2f}, {w['high']:.2f}]", f"{w['constant_rmse']:.2f}", str(w["n"])]  # fmt: skip
        leaky = ways.get("leaky")
        copied = 0 if leaky is None else leaky["with_copy_in_training"]
        share = "-" if leaky is None else f"{copied} ({100 * copied / leaky['n']:.0f} %)"
        cells += [share, f"{sum(w['seconds'] for w in ways.values()):.0f} s"]
        lines.append(f"| {' | '.join(cells)} |")
    machines = sorted({f"{row['machine']}, {row['device']}, {row['dtype']}" for row in rows})
    note = "RMSE in score points with its 95 % interval (bootstrap over photos and their near-duplicates)."
    epochs = sorted({row["epochs"] for row in rows})
    lines += ["", f"{note} Epochs: {', '.join(map(str, epochs))}. Made on {'; '.join(machines)}."]
    return "\n".join(lines) + "\n"
