"""The tables of a benchmark, for people and as CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pawpularity.device import Compute
from pawpularity.files import write_text
from pawpularity.runs import git_commit, machine, versions
from pawpularity.studies.benchmark.machine import bandwidth, matrix_rate

TITLES = {
    "train": "An epoch, per image (items with the paper's copies; floor = per-operator roofline of a step)",
    "predict": "Prediction, per photo: five folds behind one trunk beside one full model",
    "profile": "A step of the tail, per image and operator, beside the operator's own floor",
    "search": "A search beside five trainings of all folds, everything decoded and every trunk warm (share: below 1 is faster)",
    "rise": "Masks for a map's relative error of 0.2, and times more of them than ours (median: 16 photos unless --maps)",
    "cache": "Building a trunk, per state, beside its bare forward pass on random pixels",
}


def text(what: str, rows: Sequence[dict[str, Any]]) -> str:
    """A table with one line a row."""
    hidden = {"device", "epochs", "repeats", "items", "photos", "states", "folds", "load_before"}
    columns = [key for key in rows[0] if key not in hidden]
    cells = [[_cell(row[key]) for key in columns] for row in rows]
    widths = [max(len(line[at]) for line in [columns, *cells]) for at in range(len(columns))]
    lines = [TITLES[what], "  ".join(name.ljust(width) for name, width in zip(columns, widths, strict=True))]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(line.rstrip() for line in lines)


def leave(folder: Path, what: str, rows: Sequence[dict[str, Any]], compute: Compute) -> Path:
    """Write `folder`/WHAT-DEVICE.csv: the rows, each with the machine and the versions it was measured with."""
    about = machine()
    kinds = [torch.float32] + ([compute.dtype] if compute.dtype != torch.float32 else [])
    common = {
        "processor": torch.cuda.get_device_name() if compute.device.type == "cuda" else about["processor"],
        "cores": about["cores"],
        "threads": torch.get_num_threads(),
        **{f"matrix_{str(d).removeprefix('torch.')}_gflops": matrix_rate(compute.device, d) / 1e9 for d in kinds},
        "bandwidth_16_mb_gb_s": bandwidth(compute.device, 1 << 24) / 1e9,
        **{name: versions()[name] for name in ("python", "torch", "timm")},
        "git_commit": (git_commit() or "")[:12],
    }
    out = io.StringIO()
    writer = csv.DictWriter(out, [*rows[0], *common], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: _cell(value) if isinstance(value, float) else value for key, value in (row | common).items()}
        )
    path = folder / f"{what}-{compute.device.type}.csv"
    write_text(path, out.getvalue())
    return path


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
