"""`make all`: folds, four backbones, their mean blend, a submission; an estimate and a question first."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pawpularity.config import Config, resolve
from pawpularity.console import confirm, duration, emit, log, next_step, table
from pawpularity.context import Context, choose_data, data_suffix
from pawpularity.data import is_drawn
from pawpularity.errors import UserError
from pawpularity.files import OTHER_CACHE, require_space
from pawpularity.runs import OOF
from pawpularity.sample import SAMPLE

FOUR = ("resnet152", "vgg19_bn", "densenet161", "efficientnet_b7")
SMALL = tuple(f"small/{name}" for name in FOUR)


@dataclass(frozen=True)
class Estimate:
    """What training all folds of one config takes, at most (early stopping ends sooner)."""

    config: str
    seconds: float
    disk_bytes: int
    trained_parameters: int


def configs_for(data: Path) -> tuple[str, ...]:
    """The four small networks for drawn data, the paper's four for any other."""
    return SMALL if data == SAMPLE or is_drawn(data) else FOUR


def compete(*, yes: bool, config: str | None, data: str | None, settings: list[str], json: str | None) -> None:
    """Train, blend and write a submission. Raises UserError for settings that replace the backbones, and for missing weights."""
    if config:
        raise UserError("all: trains four backbones, each from its own config; change them all with key=value words")
    if fixed := [word for word in settings if word.startswith(("model.backbone", "model.args", "model="))]:
        raise UserError(f'all: trains four backbones, and "{fixed[0]}" would make them the same; use make train')
    folder = choose_data(data)
    configs = {name: resolve(name, settings) for name in configs_for(folder)}
    suffix = data_suffix(folder)
    context = Context(configs[configs_for(folder)[0]], folder, OOF / f"mean{suffix}")
    require_weights(configs)
    _plan(configs, context)
    if not yes and not (sys.stdin.isatty() and confirm("go on?")):
        raise UserError("all: nothing was trained; --yes (make all YES=1) agrees to the estimate")
    _run(configs, context, suffix, json)


def require_weights(configs: dict[str, Config]) -> None:
    """Raise one UserError for all backbones whose pretrained weights cannot be found."""
    from pawpularity.models.weights import find_weights

    faults = []
    for config in configs.values():
        try:
            find_weights(config.model.backbone, config.model.weights)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("; and ".join(faults))


def _plan(configs: dict[str, Config], context: Context) -> None:
    """Print the time and disk space it takes. Raises UserError if the disk is too small."""
    photos = len(context.dataset.train)
    log(f"data    {context.data}: {photos} photos; measuring a step of each backbone ...")
    estimates = [_estimate(name, config, context) for name, config in configs.items()]
    sizes = {(config.photos.size, config.photos.fit) for config in configs.values()}
    cache_bytes = sum(3 * photos * size * size for size, _ in sizes)
    total = sum(e.disk_bytes for e in estimates) + cache_bytes
    rows = [(e.config, f"{e.trained_parameters / 1e6:.2f} M", duration(e.seconds), f"{e.disk_bytes / 1e9:.2f} GB")
            for e in estimates]  # fmt: skip
    rows.append(
        ("in all, with decoded photos", "", duration(sum(e.seconds for e in estimates)), f"{total / 1e9:.2f} GB")
    )
    log(table(("config", "trained parameters", "time at most", "disk"), rows))
    require_space(Path(), total, "all of this", OTHER_CACHE)


def _estimate(name: str, config: Config, context: Context) -> Estimate:
    """Time the frozen part and a training step, on random pixels, and multiply."""
    import torch

    from pawpularity.device import choose
    from pawpularity.features.store import to_rows
    from pawpularity.models.backbone import count_parameters
    from pawpularity.models.network import build_network
    from pawpularity.training.fit import required_pairs
    from pawpularity.training.losses import LOSSES
    from pawpularity.training.samples import samples_of

    compute = choose(config.train.dtype)
    network = build_network(config, fold=0).place(compute.device)
    size, batch = config.photos.size, min(config.train.batch_size, 8)
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=compute.device)
    columns, target = torch.zeros(batch, 12, device=compute.device), torch.full((batch,), 38.0, device=compute.device)
    with torch.no_grad(), compute.autocast():
        features = network.frozen_features(pixels)

    def frozen() -> None:
        with torch.no_grad(), compute.autocast():
            network.frozen_features(pixels)

    def step() -> None:
        network.train()
        with compute.autocast():
            raw = network.head(features, columns)
        raw = raw.float()
        LOSSES[config.train.loss](raw, network.points(raw), target, config.train).backward()  # type: ignore[no-untyped-call]
        network.zero_grad(set_to_none=True)

    frozen_s, step_s = (_second_time(work, compute.synchronise) / batch for work in (frozen, step))
    scores = context.dataset.train["Pawpularity"].to_numpy(dtype=float)
    photos, k = len(scores), config.folds.k
    samples = samples_of(config, scores, np.arange(photos))
    views = len(np.unique(np.stack(required_pairs(config, samples, np.arange(photos))), axis=1)[0])
    cached = views * to_rows(features).shape[1] if network.frozen_blocks else 0
    fits = 0 < cached <= config.cache.budget_gb * 1e9 and not config.train.mixup
    seen = (k - 1) * len(samples) * config.train.epochs + photos
    # Cached features are computed once for all folds; without them the frozen part runs whenever a photo is seen.
    passes = views if fits else seen
    trained = count_parameters(network, trained_only=True)
    weights = sum(t.numel() * t.element_size() for t in network.frozen_state().values())
    disk = k * trained * 4 + (weights if config.model.weights == "none" else 0) + (cached if fits else 0)
    return Estimate(name, passes * frozen_s + seen * step_s, disk, trained)


def _second_time(work: Callable[[], None], synchronise: Callable[[], None]) -> float:
    """Seconds of the second run: the first pays for kernels, memory and threads."""
    for _ in range(2):
        started = time.perf_counter()
        work()
        synchronise()
    return time.perf_counter() - started


def _run(configs: dict[str, Config], context: Context, suffix: str, json: str | None) -> None:
    from pawpularity.data.dataset import load_test
    from pawpularity.ensemble.record import mean_blend
    from pawpularity.evaluation.leaderboard import run_row, table_text
    from pawpularity.evaluation.oof import fold_line
    from pawpularity.kaggle.submission import SUBMISSIONS, predict_test
    from pawpularity.training.fold import train_run

    runs = [
        train_run(context.variant(config, config.name + suffix), on_fold=lambda run, fold: log(fold_line(run, fold)))
        for config in configs.values()
    ]
    blend = mean_blend(runs, context.run)
    rows = [run_row(run) for run in [*runs, blend]]
    if (context.data / "test.csv").is_file():
        path = SUBMISSIONS / f"{blend.name}.csv"
        predict_test(blend, load_test(context.data, Path(context.config.cache.folder)), path)
        log(f"wrote {path} and {path.with_suffix('.json')}")
    else:
        log("the data has no test.csv, so no submission was written")
    emit({"runs": rows}, table_text(rows), json)
    next_step("make kernel", RUNS=blend.name)
