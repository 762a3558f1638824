"""Question: what are the figures of the paper's Table 1, measured as in the paper and measured honestly?

Command: `make table1 [BACKBONES="densenet161 vgg19_bn"] [COPIES="none authors"]`: four backbones x copies {none, paper, authors}
x two ways to split.
Result: printed, and oof/table1/table1.csv and .md (`-DATA` for data other than the contest's and the sample; `-part` if some cells
are left out). Finished cells are not trained again: after a stop the same command continues.

An honest cell is a run, oof/table1-BACKBONE-COPIES/: five folds, every photo scored once, without copies. A leaky cell is the
paper's: a random tenth of photos AND copies, seed 42, scored by a network trained on the rest. If its config stops early, it does
so by the samples that it is scored on. Leaky cells are saved in oof/table1/, because they are not out-of-fold predictions.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pawpularity.config import Config, resolve
from pawpularity.console import emit, log, next_step, table
from pawpularity.context import Context, choose_data, data_suffix, draw_if_missing
from pawpularity.data import is_drawn
from pawpularity.data.augment import AUGMENTATIONS
from pawpularity.data.tables import ID
from pawpularity.errors import UserError, nearest
from pawpularity.evaluation.leaderboard import run_row
from pawpularity.evaluation.metrics import evaluate, indicative
from pawpularity.evaluation.predictions import SEED_SPREAD
from pawpularity.files import read_json, write_json, write_text
from pawpularity.runs import OOF, Run, fingerprint, machine, record_of
from pawpularity.sample import SAMPLE

if TYPE_CHECKING:
    from pawpularity.training.samples import TrainingData

FOLDER = OOF / "table1"
COPIES = ("none", "paper", "authors")
# The paper's Table 1 (model_results.PNG in the authors' repository), with and without copies.
PAPER = {
    "resnet152": {"authors": 11.3, "none": 19.0},
    "vgg19_bn": {"authors": 12.7, "none": 19.5},
    "densenet161": {"authors": 9.3, "none": 18.7},
    "efficientnet_b7": {"authors": 10.4, "none": 20.0},
}
FIGURES = ("rmse", "low", "high", "constant_rmse", "sd", "r2", "n", "indicative")
COLUMNS = (
    *("backbone", "copies", "split", *FIGURES, "photos", "with_copy_in_training"),
    *("epochs", "seconds", "device", "dtype", "machine", "paper_rmse"),
)
FIXED = ("model.backbone", "model.args", "train.copies", "train.split", "train.mixup", "train.cutmix", "folds.k")


def table1(
    *, backbones: Sequence[str] = (), copies: Sequence[str] = (), data: str | None = None, settings: Sequence[str] = (),
    json: str | None = None,
) -> None:  # fmt: skip
    """`pawpularity table1`: train the missing cells, print and write the table."""
    rules = copies or COPIES
    if fixed := [word for word in settings if word.startswith(FIXED)]:
        raise UserError(f'table1: "{fixed[0]}" is set by the table, so that its cells compare; remove it')
    if odd := [rule for rule in rules if rule not in COPIES]:
        raise UserError(f"--copies {odd[0]}: must be one of {', '.join(COPIES)}{nearest(odd[0], COPIES)}")
    place = choose_data(data)
    configs = _configs(place, settings, backbones)
    draw_if_missing(place)
    work = Context(next(iter(configs.values())), place, OOF / "table1")
    work.dataset.require_photos()
    from pawpularity.pipeline.compete import require_weights

    require_weights(configs)
    log(f"data    {place}: {len(work.dataset.train)} photos; backbones {' '.join(configs)}; copies {' '.join(rules)}")
    rows = make_cells(work, configs, rules)
    files = write_table(rows, place, whole=len(rows) == 2 * len(COPIES) * len(PAPER))
    emit({"cells": rows}, table_text(rows), json, more=more_text(rows))
    log(f"wrote {' and '.join(map(str, files))}")
    next_step("make report")


def _configs(place: Path, words: Sequence[str], backbones: Sequence[str]) -> dict[str, Config]:
    """By name, the configs of the four backbones (small ones for a drawn sample) with the paper's training."""
    small = place == SAMPLE or is_drawn(place)
    wanted = [name.removeprefix("small/") for name in backbones]
    if odd := [name for name in wanted if name not in PAPER]:
        raise UserError(f"--backbones {odd[0]}: must be one of {', '.join(PAPER)}{nearest(odd[0], PAPER)}")
    names = [f"small/{name}" if small else name for name in PAPER if not wanted or name in wanted]
    return {name: resolve(f"{name},{'small/paper' if small else 'paper'}", words) for name in names}


def make_cells(work: Context, configs: dict[str, Config], rules: Sequence[str]) -> list[dict[str, Any]]:
    """A row per cell; missing cells are trained."""
    from pawpularity.training.fold import train_run
    from pawpularity.training.samples import TrainingData

    rows: list[dict[str, Any]] = []
    for name, base in configs.items():
        data = TrainingData.load(work.dataset, work.folds, base)
        for rule in rules:
            config = base.with_values({"train.copies": rule})
            cell = f"{name.replace('/', '-')}-{rule}{data_suffix(work.data)}"
            run = train_run(work.variant(config, f"table1-{cell}"), data=data)
            leaky = _leaky(work, FOLDER / f"leaky-{cell}.json", config, data, run)
            for split, row, paper in (("honest", _honest(run), None), ("leaky", leaky, PAPER.get(name, {}).get(rule))):
                rows.append({"backbone": name, "copies": rule, "split": split, **row, "paper_rmse": paper})
                log(f"cell {len(rows)} of {2 * len(configs) * len(rules)}: {name}, copies {rule}, {split}: RMSE {row['rmse']:.3f}, "
                    f"constant {row['constant_rmse']:.3f}, n {row['n']}")  # fmt: skip
    return rows


def _honest(run: Run) -> dict[str, Any]:
    value, metrics, about = run_row(run), [run.metrics(fold) for fold in range(run.k)], run.record["machine"]
    return {
        **{key: value["score"][key] for key in FIGURES}, "photos": value["score"]["n"],
        "with_copy_in_training": 0,  # a fold's copies are of its training rows only
        "epochs": int(np.median([m["epochs"] for m in metrics])), "seconds": value["seconds"],
        "device": metrics[0]["device"], "dtype": metrics[0]["dtype"],
        "machine": f"{about['processor']}, {about['cores']} cores",
    }  # fmt: skip


def _leaky(work: Context, path: Path, config: Config, data: "TrainingData", run: Run) -> dict[str, Any]:
    """The row of a leaky cell, read from `path`, or trained and saved there. `run`: the honest cell, which names the weights."""
    from pawpularity.device import choose as choose_device
    from pawpularity.training.fit import fit_samples, predict_samples, progress_hooks
    from pawpularity.training.samples import paper_split

    record = record_of(config, data=run.record["data"], folds=run.record["folds"], weights=run.record["weights"])
    key = {name: str(value) for name, value in fingerprint(record).items()}
    if path.is_file() and path.with_suffix(".csv").is_file():
        saved = read_json(path, "a cell of Table 1")
        if isinstance(saved, dict) and saved.get("fingerprint") == key:
            return dict(saved["row"])
        log(f"{path}: was made with other settings or data; training it again")
    compute, started = choose_device(config.train.dtype), time.perf_counter()
    training, validation = paper_split(config, data, np.arange(len(data.scores)))
    with progress_hooks(config, path.stem) as hooks:
        fitted = fit_samples(config, data, training, validation, compute=compute, hooks=hooks)
    answers = predict_samples(fitted, data, validation, compute)
    at, leaked = validation.rows, np.isin(validation.rows, training.rows)
    result = evaluate(data.scores[at], answers, fitted.training_mean, data.groups[at]).to_dict()
    about = machine()
    row = {
        **{key: result[key] for key in FIGURES}, "photos": len(np.unique(at)), "with_copy_in_training": int(leaked.sum()),
        "epochs": fitted.epochs, "seconds": round(time.perf_counter() - started, 2), "device": compute.device.type,
        "dtype": compute.dtype_name, "machine": f"{about['processor']}, {about['cores']} cores",
    }  # fmt: skip
    ids = np.array(sorted(work.dataset.train[ID]))[at]
    predictions = pd.DataFrame({ID: ids, "copy": np.array(AUGMENTATIONS)[validation.copies],
                                "copy_trained_on": leaked, "target": data.scores[at], "prediction": answers})  # fmt: skip
    text = predictions.sort_values([ID, "copy"]).to_csv(index=False, float_format="%.6f", lineterminator="\n")
    write_text(path.with_suffix(".csv"), text)
    write_json(path, record | {"kind": "leaky", "fingerprint": key, "row": row})
    return row


def write_table(rows: Sequence[dict[str, Any]], place: Path, *, whole: bool = False) -> tuple[Path, Path]:
    """Write `oof/table1/table1.csv` and `.md`; returns both paths. `whole`: no cell is left out."""
    base = FOLDER / f"table1{data_suffix(place)}{'' if whole else '-part'}"
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    write_text(base.with_suffix(".csv"), frame.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
    head, lines = _cells(rows)
    markdown = [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]
    write_text(base.with_suffix(".md"), "\n".join([*markdown, "", _note(rows)]) + "\n")
    return base.with_suffix(".csv"), base.with_suffix(".md")


def table_text(rows: Sequence[dict[str, Any]]) -> str:
    """The table for the terminal: a line per backbone and copies, with the honest and the leaky figures."""
    return _columns(rows, (0, 1, 2, 5, 8))


def more_text(rows: Sequence[dict[str, Any]]) -> str:
    """The constants and numbers of rows, and how it was made."""
    return f"{_columns(rows, (0, 1, 3, 4, 6, 7))}\n{_note(rows)}"


def _columns(rows: Sequence[dict[str, Any]], shown: Sequence[int]) -> str:
    head, lines = _cells(rows)
    return table([head[at] for at in shown], [[line[at] for at in shown] for line in lines], left=(0, 1))


def _cells(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    head = ["backbone", "copies", "honest RMSE, 95 %", "constant", "n", "leaky RMSE, 95 %", "constant", "n", "leaked"]
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:  # the honest cell comes first
        line = lines.setdefault((row["backbone"], row["copies"]), [row["backbone"], row["copies"]])
        line += [
            f"{row['rmse']:.2f} [{row['low']:.2f}, {row['high']:.2f}]{indicative(row)}",
            f"{row['constant_rmse']:.2f}",
            str(row["n"]),
        ]
        if row["split"] == "leaky":
            line.append(f"{row['with_copy_in_training']} ({row['with_copy_in_training'] / row['n']:.0%})")
    return head, list(lines.values())


def _note(rows: Sequence[dict[str, Any]]) -> str:
    machines = sorted({f"{row['machine']}, {row['device']}, {row['dtype']}" for row in rows})
    epochs = ", ".join(str(count) for count in sorted({row["epochs"] for row in rows}))
    return (f"Honest: five folds, photos never seen. Leaky: a random tenth of photos and copies; leaked: with a copy in training.\n"
            f"One seed a cell. {SEED_SPREAD}\n"
            f"Epochs: {epochs}. {sum(row['seconds'] for row in rows):.0f} s on {'; '.join(machines)}.")  # fmt: skip
