"""From photos to scores in batches: threads decode, every frozen backbone runs once a photo, and the scores are blended.

All heads on a frozen backbone share its one pass. Prediction itself is `predictor.score_heads`, as in every other command.
Memory does not grow with the number of photos: a few batches are decoded ahead. Faults are logged and cost as little as possible:
a photo that cannot be used gets the mean prediction, a run that fails is left out, a GPU without memory gets smaller batches, and
half precision that overflows becomes float32.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pawpularity.console import duration, log
from pawpularity.data.augment import FLIP, ORIGINAL
from pawpularity.data.photo_cache import Photos
from pawpularity.data.photos import PhotoError, decode, ordered_map, prefetch, thread_count
from pawpularity.device import Compute, choose
from pawpularity.errors import UserError
from pawpularity.features.load import PixelInputs
from pawpularity.kaggle.bundle import Bundle, BundledRun
from pawpularity.kaggle.time_plan import Plan, Use
from pawpularity.models.network import Network
from pawpularity.predictor import SCORED_AT_ONCE, load_network, score_heads

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Metadata = NDArray[np.float32]
Shape = tuple[int, str]
"""(size, fit)"""

LOG_EVERY_S = 60.0
RECENT = 4
"""Batches over which the time a photo takes is averaged."""
NAMED = 20
"""Bad photos that are named in the log; more are only counted."""


@dataclass(frozen=True)
class Blend:
    """How members become a score: clip(intercept + sum of weight x member, 1, 100)."""

    intercept: float
    weights: Mapping[str, float]
    means: Mapping[str, float]
    """each member's mean out-of-fold prediction"""
    mean: float
    """the blend's mean out-of-fold prediction"""

    @staticmethod
    def of(bundle: Bundle) -> "Blend":
        """The blend that a bundle predicts with."""
        weights = {run.name: run.weight for run in bundle.runs}
        means = {run.name: float(run.entry["mean_prediction"]) for run in bundle.runs}
        return Blend(float(bundle.about["intercept"]), weights, means, bundle.mean)

    def __call__(self, scores: Mapping[str, Floats], rows: int) -> Floats:
        """Blended scores, (rows,), of the members in `scores`.

        If members are missing, the others take over their weight, each about its own mean: intercept + sum of weight x mean
        + share x (sum over the present of weight x (member - its mean)), share = all weights / weights of the present.
        """
        present = sum(self.weights[name] for name in scores)
        if not scores or present <= 0 < len(self.weights) - len(scores):
            return np.full(rows, self.mean)
        share = sum(self.weights.values()) / present if len(scores) < len(self.weights) else 1.0
        centre = self.intercept + sum(self.weights[name] * self.means[name] for name in self.weights)
        apart = sum(self.weights[name] * (score - self.means[name]) for name, score in scores.items())
        return np.clip(centre + share * apart, 1.0, 100.0)


@dataclass
class SharedBackbone:
    """Runs whose networks share a frozen backbone, the photos' shape, and device and dtype."""

    shape: Shape
    compute: Compute
    networks: dict[str, list[Network]] = field(default_factory=dict)
    """by run, in the order of the folds"""
    batch: int = SCORED_AT_ONCE

    def score(self, pixels: Pixels, metadata: Metadata, uses: Mapping[str, Use]) -> dict[str, Floats]:
        """Scores, (n,), of its runs in `uses`, from (n, size, size, 3) pixels and (n, 12) metadata.

        Raises UserError if a network's output is not finite even in float32.
        """
        views: dict[str, list[Floats]] = {run: [] for run in self.networks if run in uses}
        for view in (ORIGINAL, FLIP):
            used = {run: self.networks[run][: uses[run].folds] for run in views if view == ORIGINAL or uses[run].flip}
            networks = [network for group in used.values() for network in group]
            answers = iter(self._score_view(networks, pixels, metadata, view) if networks else ())
            for run, group in used.items():
                views[run].append(np.mean([next(answers) for _ in group], axis=0))
        return {run: np.mean(found, axis=0) for run, found in views.items()}

    def _score_view(self, networks: list[Network], pixels: Pixels, metadata: Metadata, view: int) -> Floats:
        """(networks, n) scores."""
        rows = np.arange(len(pixels))
        inputs = PixelInputs(Photos.of(pixels), rows)
        while True:
            try:
                return score_heads(networks, inputs, rows, metadata, self.compute, view=view, batch_size=self.batch)
            except torch.cuda.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch //= 2
                torch.cuda.empty_cache()
                log(f"the GPU is out of memory; going on with {self.batch} photos at a time")
            except UserError:  # not finite
                if self.compute.dtype == torch.float32:
                    raise
                self.compute = replace(self.compute, dtype=torch.float32, reason="half precision overflowed")
                log("half precision overflowed; going on in float32")


def load_backbones(bundle: Bundle, device: str | None = None) -> list[SharedBackbone]:
    """The bundle's networks on their device. A run that cannot be loaded is left out.

    Raises UserError for a damaged bundle, and if no run is left.
    """
    found: dict[tuple[object, ...], SharedBackbone] = {}
    for run in bundle.runs:
        compute = _compute(run.config.train.dtype, device)
        try:
            networks = _networks(run, compute)
        except UserError:
            raise
        except Exception as error:  # a submission without this run is better than none
            log(f"{run.name} cannot be loaded and is left out ({type(error).__name__}: {error})")
            continue
        model, photos, first = run.config.model, run.config.photos, networks[0]
        # Without a frozen part the networks share nothing but the photos.
        shared = first.frozen_hash() if first.frozen_blocks else run.name
        backbone = (model.backbone.partition(".")[0], str(model.args), shared, first.frozen_blocks, first.channels_last)
        shape = (photos.size, photos.fit)
        group = found.setdefault((*backbone, *shape, compute.dtype), SharedBackbone(shape, compute))
        group.networks[run.name] = networks
    if not found:
        raise UserError("no network of the bundle can be loaded here; see the lines above")
    return list(found.values())


def _networks(run: BundledRun, compute: Compute) -> list[Network]:
    networks: list[Network] = []
    frozen = run.frozen()
    for fold in run.trained_folds():
        first = networks[0] if networks else None
        networks.append(load_network(run, fold, frozen_of=first, frozen=frozen).place(compute.device))
    return networks


def _compute(dtype: str, device: str | None) -> Compute:
    """Device and dtype as in training; a half precision that this device only emulates is replaced by its native one."""
    compute, native = choose(dtype, device), choose("auto", device)
    return native if compute.dtype in (torch.bfloat16, torch.float16) and compute.dtype != native.dtype else compute


@dataclass(frozen=True)
class Chunk:
    """A batch of decoded photos."""

    start: int
    stop: int
    pixels: Mapping[Shape, Pixels]
    """(n, size, size, 3) by shape; black where a photo cannot be used"""
    faults: Mapping[int, str]
    """what is wrong with a photo, by row"""


def photo_chunks(paths: Sequence[Path], shapes: Sequence[Shape], threads: int | None = None) -> Iterator[Chunk]:
    """The photos in order, decoded by threads."""

    def read(path: Path) -> list[Pixels] | str:
        try:
            return [decode(path, size, fit) for size, fit in shapes]
        except PhotoError as error:
            return error.reason
        except Exception as error:  # one bad photo must not cost the others their scores
            return f"{type(error).__name__}: {error}"

    found = ordered_map(read, paths, threads or thread_count())
    for start in range(0, len(paths), SCORED_AT_ONCE):
        stop = min(start + SCORED_AT_ONCE, len(paths))
        pixels = {(size, fit): np.zeros((stop - start, size, size, 3), dtype=np.uint8) for size, fit in shapes}
        faults: dict[int, str] = {}
        for row in range(start, stop):
            photo = next(found)
            if isinstance(photo, str):
                faults[row] = photo
                continue
            for shape, image in zip(shapes, photo, strict=True):
                pixels[shape][row - start] = image
        yield Chunk(start, stop, pixels, faults)


@dataclass
class Outcome:
    """Scores and faults of the photos."""

    scores: Floats
    """(n,) in 1..100"""
    faults: dict[str, str] = field(default_factory=dict)
    """what was wrong with a photo, by Id"""
    without_time: int = 0
    """number of photos left when the time ran out"""


def score_photos(
    ids: Sequence[str],
    metadata: Metadata,
    chunks: Iterator[Chunk],
    backbones: Sequence[SharedBackbone],
    blend: Blend,
    plan: Plan,
    *,
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Scores of all photos. `plan` leaves things out so that they are ready before `clock` reads `deadline`.

    `metadata` is (n, 12).
    """
    outcome = Outcome(np.full(len(ids), blend.mean))
    recent: list[float] = []  # seconds a photo
    began = started = logged = clock()
    with closing(prefetch(chunks, 2)) as decoded:
        for chunk in decoded:
            for row, reason in chunk.faults.items():
                outcome.faults[ids[row]] = reason
                if len(outcome.faults) <= NAMED:
                    log(f"photo {ids[row]}: {reason}; it gets the mean prediction, {blend.mean:.2f}")
            scores = _score_chunk(chunk, metadata[chunk.start : chunk.stop], backbones, blend, plan)
            outcome.scores[chunk.start : chunk.stop] = scores
            now, left = clock(), len(ids) - chunk.stop
            if not left:
                break
            recent.append((now - started) / len(scores))
            started, left_s, each = now, deadline - now, float(np.mean(recent[-RECENT:]))
            # The first batch includes warming up, so it counts only if it takes far too long.
            decide = plan.uses and (chunk.start > 0 or each * left > 2 * left_s)
            if decide and (dropped := plan.shorten(each * left, left_s)):
                log(f"time: {duration(left_s)} left for {left} photos; left out: {', '.join(dropped)}")
                recent.clear()
            if not plan.uses or left_s < each * min(left, SCORED_AT_ONCE):
                outcome.without_time = left
                log(
                    f"no {'time' if plan.uses else 'network'} is left: {left} photos get the mean prediction, {blend.mean:.2f}"
                )
                break
            if now - logged >= LOG_EVERY_S:
                logged, rate = now, chunk.stop / (now - began)
                log(
                    f"{chunk.stop} of {len(ids)} photos, {rate:.1f}/s; {duration(left * each)} to go, {duration(left_s)} allowed"
                )
    if len(outcome.faults) > NAMED:
        log(f"{len(outcome.faults)} of {len(ids)} photos cannot be used; each gets the mean prediction")
    return outcome


def _score_chunk(
    chunk: Chunk, metadata: Metadata, backbones: Sequence[SharedBackbone], blend: Blend, plan: Plan
) -> Floats:
    """Blended scores of a chunk; a backbone that fails is left out of `plan`."""
    scores: dict[str, Floats] = {}
    for backbone in backbones:
        uses = {run: plan.uses[run] for run in backbone.networks if run in plan.uses}
        try:
            scores |= backbone.score(chunk.pixels[backbone.shape], metadata, uses) if uses else {}
        except Exception as error:  # a submission without this backbone is better than none
            log(f"{', '.join(uses)} failed and is left out from here on ({type(error).__name__}: {error})")
            for run in uses:
                plan.drop(run, " (failed)")
    blended = blend(scores, chunk.stop - chunk.start)
    blended[[row - chunk.start for row in chunk.faults]] = blend.mean
    return blended
