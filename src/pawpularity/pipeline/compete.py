"""`make compete PRESET=...`: everything from the data to a checked kernel in one go, after an estimate and a question.

paper     the paper's four networks, fine-tuned (also: make all)
laptop    heads on three small encoders, and one of them fine-tuned
gpu       heads on the contest's encoders, and three large transformers fine-tuned
kaggle    heads on today's encoders, and two large networks, for two T4s

`paper` also explains the extremes of its best network. Every step keeps what is finished, so the same command resumes. The
blend is cross-fitted, by the method that `make ensemble` takes for so many rows.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pawpularity.config import Config, resolve
from pawpularity.console import confirm, duration, emit, log, next_step, table
from pawpularity.context import Context, choose_data, data_suffix
from pawpularity.data import is_drawn
from pawpularity.errors import UserError, nearest
from pawpularity.files import OTHER_CACHE, require_space
from pawpularity.runs import OOF, Run
from pawpularity.sample import SAMPLE

if TYPE_CHECKING:
    from pawpularity.heads.encoders import Encoder

EXPLAINED = 2
"""photos of each of four extremes: high, low, over- and underestimated"""
CHECKED_PHOTOS = 100
"""of the kernel's check"""


@dataclass(frozen=True)
class Preset:
    """What is trained."""

    configs: tuple[str, ...]
    """networks to fine-tune"""
    encoders: tuple[str, ...] = ()
    """lists of encoders; their features are put side by side"""
    heads: tuple[str, ...] = ("ridge", "svr")
    explains: bool = False
    """whether the extremes of the best fine-tuned network are explained"""


PRESETS = {
    "paper": Preset(("resnet152", "vgg19_bn", "densenet161", "efficientnet_b7"), explains=True),
    "laptop": Preset(("lite0",), ("laptop",)),
    "gpu": Preset(("swin_large", "beit_large", "convnext_large"), ("contest",)),
    "kaggle": Preset(("swin_large", "convnext_large"), ("modern",)),
}


@dataclass(frozen=True)
class Estimate:
    """What a step takes, at most (early stopping ends sooner)."""

    step: str
    seconds: float
    disk_bytes: int
    trained_parameters: int = 0
    forward_seconds: float = 0.0
    """of one photo"""
    gpu_bytes: int = 0
    """at the peak of a step; 0 on a CPU"""


def preset_for(name: str, data: Path) -> Preset:
    """The preset `name`; on drawn data the paper's four are small ones. Raises UserError for an unknown name."""
    if name not in PRESETS:
        raise UserError(f"--preset {name}: is not known{nearest(name, PRESETS)}")
    drawn = name == "paper" and (data == SAMPLE or is_drawn(data))
    small = tuple(f"small/{config}" for config in PRESETS[name].configs)
    return replace(PRESETS[name], configs=small) if drawn else PRESETS[name]


def compete(
    *, preset: str = "paper", yes: bool, config: str | None, data: str | None, settings: list[str], json: str | None
) -> None:
    """Train, blend, write a submission, build the kernel and check it.

    Raises UserError for settings that replace the backbones, and for missing weights.
    """
    if config:
        raise UserError("compete: trains its own configs; change them all with key=value words")
    if fixed := [word for word in settings if word.startswith(("model.backbone", "model.args", "model="))]:
        raise UserError(f'compete: "{fixed[0]}" would make all backbones the same; use make train')
    folder = choose_data(data)
    chosen, suffix = preset_for(preset, folder), data_suffix(folder)
    configs = {name: resolve(name, settings) for name in chosen.configs}
    context = Context(configs[chosen.configs[0]], folder, OOF / f"{preset}-blend{suffix}")
    require_weights(configs)
    _plan(chosen, configs, context, settings)
    if not yes and not (sys.stdin.isatty() and confirm("go on?")):
        raise UserError("compete: nothing was trained; --yes (YES=1) agrees to the estimate")
    _run(chosen, configs, context, settings, json)


def paper(*, yes: bool, config: str | None, data: str | None, settings: list[str], json: str | None) -> None:
    """`make all`: the paper's preset."""
    compete(yes=yes, config=config, data=data, settings=settings, json=json)


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


def _plan(preset: Preset, configs: dict[str, Config], context: Context, settings: list[str]) -> None:
    """Print the time and disk space it takes. Raises UserError if the disk is too small."""
    photos = len(context.dataset.train)
    log(f"data    {context.data}: {photos} photos; measuring a step of each network ...")
    encoders = _encoders(preset, settings)
    estimates = [_encoding(encoder, context, settings) for encoder in encoders]
    training = [_training(name, config, context) for name, config in configs.items()]
    estimates += [*training, *([_explaining(training, context)] if preset.explains else [])]
    sizes = {(config.photos.size, config.photos.fit) for config in configs.values()}
    if encoders:
        sizes.add((max(encoder.size for encoder in encoders), resolve("default", settings).photos.fit))
    cache_bytes = sum(3 * photos * size * size for size, _ in sizes)
    total = sum(e.disk_bytes for e in estimates) + cache_bytes
    rows = [(e.step, f"{e.trained_parameters / 1e6:.2f} M" if e.trained_parameters else "", duration(e.seconds),
             f"{e.disk_bytes / 1e9:.2f} GB", f"{e.gpu_bytes / 1e9:.1f} GB" if e.gpu_bytes else "-")
            for e in estimates]  # fmt: skip
    spent = duration(sum(e.seconds for e in estimates))
    rows.append(("in all, with decoded photos", "", spent, f"{total / 1e9:.2f} GB", ""))
    log(table(("step", "trained", "time at most", "disk", "GPU memory"), rows))
    require_space(Path(), total, "all of this", OTHER_CACHE)


def _explaining(training: list[Estimate], context: Context) -> Estimate:
    from pawpularity.explain.explain import passes_a_photo

    photos = 4 * EXPLAINED
    passes = photos * passes_a_photo(context.config.explain)
    return Estimate(f"explain {photos} photos", passes * max(one.forward_seconds for one in training), 0)


def _encoders(preset: Preset, settings: list[str]) -> "list[Encoder]":
    if not preset.encoders:
        return []
    from pawpularity.heads.encoders import Encoder, read_encoders

    return read_encoders(preset.encoders, Encoder.of(resolve("default", settings)))


def _encoding(encoder: "Encoder", context: Context, settings: list[str]) -> Estimate:
    """Time an encoder on random pixels, and multiply. Fitting heads on it comes on top."""
    import torch

    from pawpularity.device import choose
    from pawpularity.heads.features import frozen_network

    compute, photos = choose(resolve("default", settings).train.dtype), len(context.dataset.train)
    network = frozen_network(encoder, compute, size=encoder.size, seed=0)
    pixels = torch.randint(0, 256, (8, encoder.size, encoder.size, 3), dtype=torch.uint8, device=compute.device)

    @torch.no_grad()
    def encode() -> int:
        with compute.autocast():
            return network.frozen_features(pixels).shape[1]

    each, width = _second_time(encode, compute.synchronise) / len(pixels), encode()
    return Estimate(f"encode {encoder.name}", each * photos, photos * width * 4)


def _training(name: str, config: Config, context: Context) -> Estimate:
    """Time the frozen part and a training step, on random pixels, and multiply."""
    import torch

    from pawpularity.device import choose
    from pawpularity.features.store import to_rows
    from pawpularity.models.backbone import count_parameters
    from pawpularity.models.network import build_network
    from pawpularity.training.fit import mixes_photos, required_pairs
    from pawpularity.training.losses import LOSSES
    from pawpularity.training.samples import samples_of

    compute = choose(config.train.dtype)
    network = build_network(config, fold=0).place(compute.device)
    if compute.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(compute.device)
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
    gpu_bytes = 0
    if compute.device.type == "cuda":
        fixed = 4 * sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)  # AdamW's
        gpu_bytes = fixed + torch.cuda.max_memory_allocated(compute.device) * config.train.batch_size // batch
    scores = context.dataset.train["Pawpularity"].to_numpy(dtype=float)
    photos, k = len(scores), config.folds.k
    samples = samples_of(config, scores, np.arange(photos))
    views = len(np.unique(np.stack(required_pairs(config, samples, np.arange(photos))), axis=1)[0])
    cached = views * to_rows(features).shape[1] if network.frozen_blocks else 0
    fits = 0 < cached <= config.cache.budget_gb * 1e9 and not mixes_photos(config.train)
    seen = (k - 1) * len(samples) * config.train.epochs + photos
    # Cached features are computed once for all folds; without them the frozen part runs whenever a photo is seen.
    passes = views if fits else seen
    trained = count_parameters(network, trained_only=True)
    weights = sum(t.numel() * t.element_size() for t in network.frozen_state().values())
    disk = k * trained * 4 + (weights if config.model.weights == "none" else 0) + (cached if fits else 0)
    # A step's backward pass takes about twice as long as its forward pass.
    return Estimate(name, passes * frozen_s + seen * step_s, disk, trained, frozen_s + step_s / 3, gpu_bytes)


def _second_time(work: Callable[[], object], synchronise: Callable[[], None]) -> float:
    """Seconds of the second run: the first pays for kernels, memory and threads."""
    for _ in range(2):
        started = time.perf_counter()
        work()
        synchronise()
    return time.perf_counter() - started


def _run(preset: Preset, configs: dict[str, Config], context: Context, settings: list[str], json: str | None) -> None:
    from pawpularity.ensemble.record import blend_of
    from pawpularity.explain.command import explain
    from pawpularity.kaggle.built_kernel import USER, built_kernel
    from pawpularity.kaggle.check import check_kernel
    from pawpularity.kaggle.kernel import build

    runs = _heads(preset, context, settings) if preset.encoders else []
    places = [_place(context, name, config, settings) for name, config in configs.items()]
    tuned = [_trained(place) for place in places]
    runs += tuned
    if preset.explains:
        best = places[int(np.argmin([_rmse(run) for run in tuned]))]
        with contextlib.redirect_stdout(sys.stderr):  # standard output holds the result alone
            explain(best, n=EXPLAINED)
    blend = blend_of([run.name for run in runs], context.run)
    _submit(blend, context)
    build([blend.name], USER, 8.5, context.config.kernel.carrier)
    report = check_kernel(built_kernel("inference"), CHECKED_PHOTOS)
    first = report["seconds_to_first_photo"]
    log(f"kernel  checked: {report['difference']:.1e} points from predict, {first:.0f} s to the first photo")
    _show([*runs, blend], json)
    next_step("make kernel", RUNS=blend.name, KAGGLE_USER="you")


def _heads(preset: Preset, context: Context, settings: list[str]) -> list[Run]:
    from pawpularity.device import choose
    from pawpularity.heads.run import make_runs

    config = resolve("default", settings)
    place = context.variant(config, "heads")
    return make_runs(
        place, _encoders(preset, settings), preset.heads, (False,), "heads", choose(config.train.dtype), alone=False
    )


def _trained(context: Context) -> Run:
    from pawpularity.evaluation.oof import fold_line
    from pawpularity.training.fold import train_run

    return train_run(context, on_fold=lambda run, fold: log(fold_line(run, fold)))


def _submit(blend: Run, context: Context) -> None:
    from pawpularity.data.dataset import load_test
    from pawpularity.kaggle.submission import SUBMISSIONS, predict_test

    if not (context.data / "test.csv").is_file():
        log("the data has no test.csv, so no submission was written")
        return
    path = SUBMISSIONS / f"{blend.name}.csv"
    predict_test(blend, load_test(context.data, Path(context.config.cache.folder)), path)
    log(f"wrote {path} and {path.with_suffix('.json')}")


def _place(context: Context, name: str, config: Config, settings: list[str]) -> Context:
    """The run of a config; explaining it takes settings of its own section alone."""
    run, own = config.name + data_suffix(context.data), [word for word in settings if word.startswith("explain.")]
    return context.variant(config, run, ("--config", name, "--data", str(context.data), "--run", run, *own))


def _rmse(run: Run) -> float:
    from pawpularity.evaluation.leaderboard import run_row

    return float(run_row(run)["score"]["rmse"])


def _show(runs: list[Run], json: str | None) -> None:
    """What each step gave, and what it took."""
    from pawpularity.evaluation.leaderboard import run_row

    rows = [run_row(run) for run in runs]
    lines = []
    for row in rows:
        score, seconds = row["score"], row.get("seconds")
        interval = f"[{score['low']:.2f}, {score['high']:.2f}]"
        took = duration(seconds) if seconds else ""
        lines.append((row["run"], f"{score['rmse']:.2f}", interval, f"{score['constant_rmse']:.2f}", took))
    emit({"runs": rows}, table(("run", "RMSE", "95 %", "constant", "time"), lines), json)
