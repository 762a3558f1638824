"""The experiment's folder, `oof/leakage/NAME/`: result.json, predictions.csv and the figure; and its figures as text."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from pawpularity.console import log
from pawpularity.context import Context
from pawpularity.device import choose as choose_device
from pawpularity.errors import UserError
from pawpularity.files import write_json, write_text
from pawpularity.runs import OOF, git_commit, machine, versions
from pawpularity.studies.leakage.experiment import Experiment, paper_settings, run_experiment
from pawpularity.studies.leakage.figure import draw_experiment
from pawpularity.training.fold import labelled_photos

FOLDER = OOF / "leakage"


def experiment_of(chosen: Context, rule: str) -> tuple[dict[str, Any], Path]:
    """Run the experiment on the chosen data and config; returns its figures and the folder they were written to."""
    if rule == "none":
        raise UserError(
            "--copies none leaks nothing, so there is nothing to train; leave it away, or add --replay-only"
        )
    config = chosen.config.with_values({"train.copies": rule})
    dataset, folds = chosen.dataset, chosen.folds
    compute = choose_device(config.train.dtype)
    rows = labelled_photos(dataset, folds, config)
    ids = sorted(dataset.train["Id"].tolist())
    held = np.flatnonzero(folds.folds_of(ids) == 0)
    log(f"trains two networks ({config.model.backbone}, {config.train.epochs} epochs at most) on {compute}: the leaky way and the "
        f"honest way; {len(held)} photos of fold 0 are set aside for both")  # fmt: skip
    started = time.perf_counter()
    experiment = run_experiment(config, rows, ids, held, compute)
    value = experiment.to_dict() | {
        "config": paper_settings(config).to_dict(),
        "data": {"name": dataset.name, "hash": dataset.hash},
        "folds": {"hash": folds.hash, "held": 0, "photos": len(held)},
        "seconds": round(time.perf_counter() - started, 1),
        "device": compute.device.type,
        "dtype": compute.dtype_name,
        "git_commit": git_commit(),
        "versions": versions(),
        "machine": machine(),
    }
    folder = FOLDER / chosen.run.name
    _write(folder, experiment, value)
    return value, folder


def _write(folder: Path, experiment: Experiment, value: dict[str, Any]) -> None:
    table = experiment.table.sort_values(["scored", "Id", "copy"], kind="stable")
    write_text(folder / "predictions.csv", table.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    draw_experiment(folder / "leakage.png", experiment, value)
    write_json(folder / "result.json", value)


def experiment_text(value: dict[str, Any]) -> str:
    """The figures as a table."""
    ways = {(w["trained"], w["scored"]): w for w in value["ways"]}

    def cell(w: dict[str, Any]) -> str:
        return f"{w['rmse']:7.3f} [{w['low']:.2f}, {w['high']:.2f}], constant {w['constant_rmse']:.2f}"

    leaky, honest = ways["leaky", "leaky"], ways["leaky", "honest"]
    backbone = value["config"]["model"]["backbone"]
    lines = [
        f"The same network trained both ways on the photos left when a fold is set aside ({backbone}, {value['seconds']:.0f} s)",
        f"{'':24s}  {'scored the leaky way':42s}  scored the honest way",
        f"{'':24s}  {leaky['n']:5d} photos and copies{'':23s}  {honest['n']:5d} photos nobody trained on",
        f"{'lookup, no photo seen':24s}  {value['lookup_rmse']:7.3f}",
    ]
    for trained in ("leaky", "honest"):
        name = f"trained the {trained} way"
        lines.append(f"{name:24s}  {cell(ways[trained, 'leaky']):42s}  {cell(ways[trained, 'honest'])}")
        lines.append(f"  on {ways[trained, 'leaky']['items']} items of {ways[trained, 'leaky']['photos']} photos")
    for scored, words in (("leaky", "on the leaky way's items"), ("honest", "on photos nobody trained on")):
        c = value["honest_minus_leaky"][scored]
        lines.append(
            f"honest - leaky {c['difference']:+.3f} [{c['low']:+.2f}, {c['high']:+.2f}], p {c['p']:.4f}: {words}"
        )
    known, unknown = (_points(value[f"leaky_rmse_{word}_sibling"]) for word in ("with", "without"))
    lines.append(
        f"the leaky network on {value['siblings']} items with a copy in training {known}, on the others {unknown}"
    )
    return "\n".join(lines)


def _points(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
