"""`make all`: folds, four backbones, their mean blend, a submission; with an estimate and a go-ahead first."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pawpularity.config import Config, resolve
from pawpularity.console import confirm, log
from pawpularity.context import Context
from pawpularity.data.dataset import Rows, is_drawn
from pawpularity.device import Compute
from pawpularity.ensemble.record import mean_blend
from pawpularity.errors import UserError
from pawpularity.evaluation.leaderboard import fold_line
from pawpularity.features.store import stored
from pawpularity.models.backbone import count_parameters
from pawpularity.models.network import build_network
from pawpularity.models.weights import find_weights
from pawpularity.pipeline.predict import submit
from pawpularity.pipeline.submission import SUBMISSIONS
from pawpularity.runs import OOF, Run
from pawpularity.sample import SAMPLE
from pawpularity.training.fit import look_at
from pawpularity.training.fold import train_run
from pawpularity.training.losses import LOSSES
from pawpularity.training.samples import samples_of

FOUR = ("resnet152", "vgg19_bn", "densenet161", "efficientnet_b7")
SMALL = tuple(f"small/{name}" for name in FOUR)


@dataclass(frozen=True)
class Estimate:
    """What training all folds of one config will take, at most (early stopping ends sooner)."""

    configs: str
    seconds: float
    disk_bytes: int
    trained_parameters: int


def family(data: Path) -> tuple[str, ...]:
    """The small members of the four families for a drawn shelter, the paper's four for anything else."""
    return SMALL if data == SAMPLE or is_drawn(data) else FOUR


def estimate(configs: str, config: Config, scores: np.ndarray, compute: Compute) -> Estimate:
    """Time the trunk, one training step of the tail and one look, on random pixels, and multiply.

    The first of each is thrown away: it pays for kernels, memory and threads once.
    """
    network = build_network(config, fold=0).to(compute.device)
    size, batch = config.photos.size, min(config.train.batch_size, 8)
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8, device=compute.device)
    columns = torch.zeros(batch, 12, device=compute.device)
    target = torch.full((batch,), 38.0, device=compute.device)
    trunk_s, step_s, look_s = [], [], []
    for _ in range(2):
        network.train()
        started = time.perf_counter()
        with torch.no_grad(), compute.autocast():
            state = network.frozen_features(pixels)
        compute.synchronise()
        trunk_s.append(time.perf_counter() - started)
        started = time.perf_counter()
        with compute.autocast():
            raw = network.head(state, columns)
        raw = raw.float()
        LOSSES[config.train.loss](raw, network.points(raw), target, config.train).backward()  # type: ignore[no-untyped-call]
        network.zero_grad(set_to_none=True)
        compute.synchronise()
        step_s.append(time.perf_counter() - started)
        network.eval()
        started = time.perf_counter()
        with torch.inference_mode(), compute.autocast():
            network.head(state, columns)
        compute.synchronise()
        look_s.append(time.perf_counter() - started)
    photos, k = len(scores), config.folds.k
    items = samples_of(config, scores, np.arange(photos))
    pairs = look_at(config, items, np.arange(photos))
    states = len(np.unique(np.stack(pairs), axis=1)[0])
    trunk_bytes = states * stored(state).shape[1] if network.frozen_blocks else 0
    kept = 0 < trunk_bytes <= config.cache.budget_gb * 1e9 and not config.train.mixup
    share = 1.0 if config.train.stop == "none" else 1.0 - config.train.inner_share
    seen = len(items) * (k - 1) / k * share * config.train.epochs
    looks = photos * (k - 1) / k * (1 - share) * config.train.epochs + photos / k
    # States are computed once for all folds; without them the trunk runs whenever a photo is shown.
    passes = states if kept else k * (seen + looks)
    seconds = (passes * trunk_s[-1] + k * (seen * step_s[-1] + looks * look_s[-1])) / batch
    trained = count_parameters(network, trained_only=True)
    weights = sum(t.numel() * t.element_size() for t in network.frozen_state().values())
    disk = k * trained * 4 + (weights if config.model.weights == "none" else 0) + (trunk_bytes if kept else 0)
    return Estimate(configs, seconds, disk, trained)


def plan_text(estimates: Sequence[Estimate], cache_bytes: int, compute: Compute) -> str:
    """The estimate as a table."""
    lines = [f"{'config':24s}  trained parameters   time at most    disk"]
    lines += [
        f"{e.configs:24s}  {e.trained_parameters / 1e6:16.2f} M  {_clock(e.seconds):>13s}  {e.disk_bytes / 1e9:5.2f} GB"
        for e in estimates
    ]
    total = sum(e.disk_bytes for e in estimates) + cache_bytes
    lines.append(f"{'in all':24s}  {'':18s}  {_clock(sum(e.seconds for e in estimates)):>13s}  {total / 1e9:5.2f} GB"
                 f" (photo cache {cache_bytes / 1e9:.2f})")  # fmt: skip
    lines.append(f"estimated on this machine: {compute}")
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def resolved(data: Path, settings: Sequence[str]) -> dict[str, Config]:
    """The family's configurations with `settings` laid over each."""
    return {name: resolve(name, settings) for name in family(data)}


def require_weights(configs: dict[str, Config]) -> None:
    """Raise one UserError for all backbones whose pretrained weights are not to be had, instead of one a run."""
    faults = []
    for config in configs.values():
        try:
            find_weights(config.model.backbone, config.model.weights)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("; and ".join(faults))


def photo_cache_bytes(configs: Sequence[Config], photos: int) -> int:
    """Bytes of decoded photos that these configurations need."""
    return sum(3 * photos * size * size for size, _ in {(c.photos.size, c.photos.fit) for c in configs})


def train_all(configs: dict[str, Config], context: Context, suffix: str) -> list[Run]:
    """Train every fold that is not trained yet of every configuration."""
    runs = []
    for name, config in configs.items():
        run = train_run(context.variant(config, config.name + suffix))
        log(f"{name}: {config.model.backbone}")
        for fold in range(run.k):
            log(fold_line(run, fold))
        runs.append(run)
    return runs


def blend_and_submit(runs: Sequence[Run], test: Rows | None, suffix: str) -> Run:
    """Average the runs; predict the test photos if there are any."""
    blend = mean_blend(runs, OOF / f"mean{suffix}")
    if test is None:
        log("the data has no test.csv, so no submission was written")
        return blend
    path = SUBMISSIONS / f"{blend.name}.csv"
    submit(blend, test, path, test.cache_folder)
    log(f"wrote {path} and {path.with_suffix('.json')}")
    return blend


def go_ahead(yes: bool) -> None:
    """Ask, or raise UserError where nobody can be asked."""
    import sys

    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError("all: nobody is there to agree to the estimate; add --yes (make all YES=1)")
    if not confirm("go on?"):
        raise UserError("all: stopped before anything was trained")
