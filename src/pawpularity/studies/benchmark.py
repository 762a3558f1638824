"""Question: how much faster is this project than a plain training loop, on this machine?

Command: `make bench BENCH=train|predict|cache|search|rise|all [BACKBONES="densenet161 vgg19_bn"]`; `all` leaves out search
and rise, which take a quarter of an hour each.
Result: a table for each benchmark; with `--out DIR` also DIR/WHAT-DEVICE.csv, whose rows name the machine and the versions.

One run measures all ways of a table on the same drawn photos, several times after a warm-up. It shows the median and `spread`,
(slowest - fastest) / median: how far the machine was from idle. Times of two runs on a shared machine do not compare.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pawpularity.config import Config, resolve
from pawpularity.console import emit, log, next_step, table, terminal_width
from pawpularity.errors import UserError, nearest
from pawpularity.files import plain, write_text

if TYPE_CHECKING:
    from pawpularity.device import Compute

TITLES = {
    "train": "One epoch, per image (with the paper's copies)",
    "predict": "Prediction, per photo: five folds that share one frozen part, compared with one full model",
    "cache": "Building cached features, per view, compared with the frozen part's forward pass on random pixels",
    "search": "A search over five trainings of all folds; photos are decoded, features cached (share: below 1 is faster)",
    "rise": "Masks for a relative error of 0.2, and how many times as many the other designs need (median of 16 photos, or --maps)",
}
# As deep as the authors froze; but DenseNet-161 trains 100 tensors, the project's yardstick (the authors trained 82).
DEPTHS = {"densenet161": 100, "resnet152": 65, "vgg19_bn": 18, "efficientnet_b7": 109}
LARGE = 1024  # px of the drawn photos: decoding one takes as long as a photo of the contest
BATCH = 64
Rows = list[dict[str, Any]]
Seconds = list[float]
"""Times of several repeats"""


def bench(
    *, what: str = "train", backbones: Sequence[str] = (), unfrozen: int | None = None, photos: int | None = None,
    repeats: int | None = None, trials: int = 50, data: str | None = None, weights: str | None = None, maps: int = 16,
    out: str | None = None, json: str | None = None,
) -> None:  # fmt: skip
    """`pawpularity bench`: measure, print, and with `out` write CSVs. Raises UserError for a config that freezes nothing."""
    if what not in (*TITLES, "all"):
        raise UserError(f"--what {what}: must be one of {', '.join((*TITLES, 'all'))}{nearest(what, (*TITLES, 'all'))}")
    if what == "rise":
        tables = {"rise": _rise(data, photos or 64, weights, [*backbones, ""][0], maps, repeats or 3)}
    elif what == "search":
        tables = {"search": _search(backbones or ["sample"], photos or 600, trials, repeats or 1)}
    else:
        configs = {name: bench_config(name, unfrozen) for name in backbones or DEPTHS}
        tables = _loops(what, configs, photos or 64, repeats or 3)
    for name, rows in tables.items() if out else ():
        write_text(Path(out or "") / f"{name}-{rows[0]['device']}.csv", as_csv(rows))
    shown = [as_tables(name, rows) for name, rows in tables.items()]
    emit(
        plain(tables),
        "\n".join(one[0] for one in shown),
        json,
        more="\n".join(part for one in shown for part in one[1:]),
    )
    next_step('make bench BENCH=all ARGS="--out docs/benchmarks"')


def _rise(data: str | None, photos: int, weights: str | None, backbone: str, maps: int, repeats: int) -> Rows:
    from pawpularity.studies.benchmark_rise import bench_rise

    with nullcontext(Path(data)) if data else drawn_photos(photos, 160) as folder:
        return bench_rise(folder, weights, backbone, maps, repeats)


def _search(names: Sequence[str], photos: int, trials: int, repeats: int) -> Rows:
    _require_frozen({name: resolve(name) for name in names})
    from pawpularity.studies.benchmark_search import bench_search

    return [row for name in names for row in bench_search(name, photos, trials, repeats)]


def _loops(what: str, configs: Mapping[str, Config], photos: int, repeats: int) -> dict[str, Rows]:
    _require_frozen(configs)
    from pawpularity.device import choose
    from pawpularity.studies.benchmark_train import BENCHES, Bench

    compute = choose()
    log(f"device  {compute} (train.dtype is ignored); random weights, which take the same time")
    tables: dict[str, Rows] = {name: [] for name in (BENCHES if what == "all" else (what,))}
    with drawn_photos(photos, LARGE) as folder:
        for name, rows in tables.items():
            for backbone, config in configs.items():
                log(f"{name}: {backbone} ...")
                rows += BENCHES[name](Bench(backbone, config, folder, repeats, compute))
    return tables


def _require_frozen(configs: Mapping[str, Config]) -> None:
    for name, config in configs.items():
        if config.model.unfrozen == "all":
            raise UserError(f"{name}: freezes nothing, so no features can be cached; name another config")


def bench_config(name: str, unfrozen: int | None) -> Config:
    """Config `name` with only the training steps in its loop; `unfrozen` tensors are trained (None: as many as usual)."""
    unfrozen = DEPTHS.get(name) if unfrozen is None else unfrozen
    words = ["model.weights=none", "train.stop=none", "train.schedule=cosine", "train.loss=bce", "model.output=sigmoid",
             f"train.batch_size={BATCH}", "train.augment=none", "train.copies=authors", "train.workers=-1",
             "train.channels_last=true", "train.frozen_bn=true"]  # fmt: skip
    return resolve(name, words if unfrozen is None else [*words, f"model.unfrozen={unfrozen}"])


@contextmanager
def drawn_photos(photos: int, size: int, seed: int = 11) -> Iterator[Path]:
    """A drawn sample in a temporary folder, in the contest's layout; removed afterwards."""
    from pawpularity.sample.draw import draw_sample

    with tempfile.TemporaryDirectory(prefix="pawpularity-bench-") as name:
        draw_sample(Path(name) / "photos", photos=photos, size=size, seed=seed, test_photos=1)
        yield Path(name) / "photos"


def side_by_side(
    ways: Sequence[Callable[[], Any]], compute: "Compute", repeats: int, warm_up: int = 1
) -> list[Seconds]:
    """Time each way `repeats` times in turn, so that a disturbance of the machine affects all of them."""
    seconds: list[Seconds] = [[] for _ in ways]
    for turn in range(warm_up + repeats):
        for way, times in zip(ways, seconds, strict=True):
            compute.synchronise()
            started = time.perf_counter()
            way()
            compute.synchronise()
            if turn >= warm_up:
                times.append(time.perf_counter() - started)
    return seconds


def spread(seconds: Seconds) -> float:
    """(slowest - fastest) / median: how far the machine was from idle."""
    return (max(seconds) - min(seconds)) / median(seconds)


def as_tables(what: str, rows: Rows) -> list[str]:
    """A line a row, in as many tables as the columns need to fit the terminal; what is a word stands in each."""
    columns = [key for key in rows[0] if key not in ("device", "dtype", "repeats")]
    cells = {
        key: [key, *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in (row[key] for row in rows))]
        for key in columns
    }
    widths = {key: max(map(len, values)) + 2 for key, values in cells.items()}
    words = [key for key in columns if any(isinstance(row[key], str) for row in rows)]
    parts: list[list[str]] = [[]]
    for key in (key for key in columns if key not in words):
        if parts[-1] and sum(widths[one] for one in (*words, *parts[-1], key)) > terminal_width():
            parts.append([])
        parts[-1].append(key)
    shown = [zip(*(cells[key] for key in (*words, *part)), strict=True) for part in parts]
    tables = [table(next(lines), lines, left=range(len(words))) for lines in shown]
    return [f"{TITLES[what]}\n{tables[0]}", *tables[1:]]


def as_csv(rows: Rows) -> str:
    """The rows as CSV, each with the machine and the versions."""
    import pandas as pd
    import torch

    from pawpularity.runs import git_commit, machine, versions

    hardware, installed = machine(), versions()
    about = {"processor": hardware.get("gpu", hardware["processor"]), "cores": hardware["cores"],
             "threads": torch.get_num_threads(),
             "python": installed["python"], "torch": installed["torch"], "timm": installed["timm"],
             "git_commit": (git_commit() or "")[:12]}  # fmt: skip
    return str(pd.DataFrame(rows).assign(**about).to_csv(index=False, float_format="%.4g", lineterminator="\n"))
