"""From photos to scores in batches: threads decode, the runs of the bundle predict as in every other command, and are blended.

Memory does not grow with the number of photos: a few batches are decoded ahead. A photo that cannot be used gets the mean
prediction, and so do photos for which no time is left. A GPU without memory gets smaller batches, and half precision that
overflows becomes float32.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pawpularity.console import Progress, duration, log
from pawpularity.data.photos import PhotoError, decode, ordered_map, prefetch, thread_count
from pawpularity.device import choose
from pawpularity.errors import Diverged
from pawpularity.kaggle.bundle import Bundle
from pawpularity.predictor import SCORED_AT_ONCE, Predictor

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Metadata = NDArray[np.float32]
Shape = tuple[int, str]
"""(size, fit)"""

MARGIN = 0.05
"""Share of the remaining time kept in reserve."""
RECENT = 4
"""Batches over which the time a photo takes is averaged."""


@dataclass
class Member:
    """A run of the blend."""

    predictor: Predictor
    weight: float
    mean: float
    """its mean out-of-fold prediction"""
    flip: bool
    """whether it also scores mirror images"""
    at_once: int = SCORED_AT_ONCE

    @property
    def shape(self) -> Shape:
        """The pixels that it needs."""
        photos = self.predictor.config.photos
        return photos.size, photos.fit

    def score(self, pixels: Pixels, metadata: Metadata) -> Floats:
        """(n,) scores of (n, size, size, 3) pixels and (n, 12) metadata. Raises Diverged if they are no numbers in float32."""
        while True:
            try:
                parts = [slice(start, start + self.at_once) for start in range(0, len(pixels), self.at_once)]
                predict = self.predictor.predict
                return np.concatenate([predict(pixels[part], metadata[part], flip=self.flip) for part in parts])
            except torch.cuda.OutOfMemoryError:
                if self.at_once == 1:
                    raise
                self.at_once //= 2
                torch.cuda.empty_cache()
                log(f"the GPU is out of memory; going on with {self.at_once} photos at a time")
            except Diverged:
                if self.predictor.compute.dtype == torch.float32:
                    raise
                reason = "half precision overflowed"
                self.predictor.compute = replace(self.predictor.compute, dtype=torch.float32, reason=reason)
                log(f"{reason}; going on in float32")


@dataclass
class Blend:
    """How members become a score: clip(intercept + sum of weight x member, 1, 100)."""

    intercept: float
    members: list[Member]

    def score(self, pixels: Mapping[Shape, Pixels], metadata: Metadata) -> Floats:
        """(n,) scores of the photos."""
        parts = [member.weight * member.score(pixels[member.shape], metadata) for member in self.members]
        scores: Floats = np.clip(self.intercept + np.sum(parts, axis=0), 1.0, 100.0)
        return scores

    def shorten(self, needed_s: float, left_s: float) -> list[str]:
        """Leave out n things if the rest needs n times as much time as is left; returns them in words.

        Mirror images come first, then folds (one at a time, of the member that uses most), then members (the smallest weight
        first; its mean prediction stands in for it). Nothing comes back later.
        """
        count = int(min(100.0, needed_s / max(1e-9, left_s * (1 - MARGIN))))
        return [word for _ in range(count) if (word := self._leave_out())]

    def _leave_out(self) -> str:
        longest = max(self.members, key=lambda member: len(member.predictor.networks))
        if any(member.flip for member in self.members):
            for member in self.members:
                member.flip = False
            return "mirror images"
        if len(longest.predictor.networks) > 1:
            fold, _ = longest.predictor.networks.popitem()
            return f"fold {fold} of {longest.predictor.run.name}"
        if len(self.members) > 1:
            smallest = min(self.members, key=lambda member: abs(member.weight))
            self.members.remove(smallest)
            self.intercept += smallest.weight * smallest.mean
            return smallest.predictor.run.name
        return ""


def load_blend(bundle: Bundle, device: str | None = None) -> Blend:
    """The bundle's networks on their device. Raises UserError for tensors that do not belong together."""
    members = []
    with tempfile.TemporaryDirectory() as oof:
        bundle.lay_out(Path(oof))
        for name, run in bundle.about["runs"].items():
            predictor = Predictor.load(Path(oof) / name, device=device)
            # The dtype is that of training, except for a half precision that this device only emulates.
            native = choose("auto", device)
            if predictor.compute.dtype not in (torch.float32, native.dtype):
                predictor.compute = native
            members.append(Member(predictor, run["weight"], run["mean_prediction"], predictor.config.predict.flip))
    return Blend(bundle.about["intercept"], members)


@dataclass(frozen=True)
class Chunk:
    """A batch of decoded photos."""

    start: int
    stop: int
    pixels: Mapping[Shape, Pixels]
    """(n, size, size, 3) by shape; black where a photo cannot be used"""
    faults: Mapping[int, str]
    """what is wrong with a photo, by row"""


def photo_chunks(paths: Sequence[Path], shapes: Sequence[Shape]) -> Iterator[Chunk]:
    """The photos in order, decoded by threads."""

    def read(path: Path) -> list[Pixels] | str:
        try:
            return [decode(path, size, fit) for size, fit in shapes]
        except PhotoError as error:
            return error.reason
        except Exception as error:  # one bad photo must not cost the others their scores
            return f"{type(error).__name__}: {error}"

    found = ordered_map(read, paths, thread_count())
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
    """The scores of the photos, and what could not be done."""

    scores: Floats
    """(n,) in 1..100"""
    faults: dict[str, str] = field(default_factory=dict)
    """what was wrong with a photo, by Id"""
    left_out: list[str] = field(default_factory=list)
    """what was left out for lack of time"""
    without_time: int = 0
    """number of photos left when the time ran out"""


def score_photos(
    ids: Sequence[str],
    metadata: Metadata,
    chunks: Iterator[Chunk],
    blend: Blend,
    mean: float,
    *,
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Score all photos before `clock` reads `deadline`, for which `blend` is shortened. A photo without a score gets `mean`.

    `metadata` is (n, 12). A batch that fails gets the mean, except the first: Kaggle's trial run is one batch, and must show a
    fault.
    """
    outcome = Outcome(np.full(len(ids), mean))
    recent: list[float] = []  # seconds a photo
    started = clock()
    with closing(prefetch(chunks, 2)) as decoded, Progress(len(ids), "scoring") as progress:
        for chunk in decoded:
            rows = slice(chunk.start, chunk.stop)
            try:
                outcome.scores[rows] = blend.score(chunk.pixels, metadata[rows])
            except Exception as error:
                if chunk.start == 0:
                    raise
                log(f"photos {chunk.start} to {chunk.stop} get the mean prediction ({type(error).__name__}: {error})")
            for row, reason in chunk.faults.items():
                outcome.faults[ids[row]], outcome.scores[row] = reason, mean
            if chunk.faults:
                row, reason = next(iter(chunk.faults.items()))
                log(
                    f"{len(chunk.faults)} photos cannot be used and get the mean prediction, such as {ids[row]} ({reason})"
                )
            progress.add(chunk.stop - chunk.start)
            now, left = clock(), len(ids) - chunk.stop
            recent.append((now - started) / (chunk.stop - chunk.start))
            started, left_s, each = now, deadline - now, float(np.mean(recent[-RECENT:]))
            # The first batch includes warming up, so it counts only if it takes far too long.
            decide = left and (chunk.start > 0 or each * left > 2 * left_s)
            if decide and (left_out := blend.shorten(each * left, left_s)):
                log(f"time: {duration(left_s)} left for {left} photos; left out: {', '.join(left_out)}")
                outcome.left_out += left_out
                recent.clear()
            if left_s < each * min(left, SCORED_AT_ONCE):
                outcome.without_time = left
                log(f"no time is left: {left} photos get the mean prediction, {mean:.2f}")
                break
    return outcome
