"""How far a score moves when the photo hardly does: attacks within a few levels of every pixel, chance, harmless changes.

Attacks are made on the photo as the network sees it, square and decoded, in levels of 0..255: FGSM (Goodfellow et al. 2015) takes
one step of `size` levels along the sign of the score's gradient; PGD (Madry et al. 2018) ten steps of a quarter of it from a
random start within `size`, put back into the bounds after each. Gradients are in float32 and go through the normalisation. Every
photo that is scored consists of whole levels within 0..255 and within `size` of the original, as a file could hold it; what the
attack reached before rounding stands beside it. `chance` moves every level by `size` too, but up or down at random.

Harmless changes are what happens to a photo that is shared: the file is saved again as a JPEG, a twentieth of its sides is cut
off, it gets a tenth brighter or darker, it is mirrored. JPEG is applied to the file and the crop to a larger decoding of it, so
that both go through the project's decoder once.

Moves are in score points before clipping, on networks that never saw the photo.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from pawpularity.data.augment import FLIP, Augmenter
from pawpularity.data.photos import decode
from pawpularity.evaluation.bootstrap import bootstrap_sums, interval
from pawpularity.models.network import Network
from pawpularity.schema import Photos as PhotoSettings

SIZES = (1, 2, 4)  # levels of 255
STEPS = 10
DIRECTIONS = {"raise": 1, "lower": -1}
JPEG_QUALITIES = (90, 70, 50, 30)
KEPT = 0.95  # of a side, by a crop
BRIGHTNESS = (0.9, 1.1)
DRAWS = 2000

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
PixelScore = Callable[[Tensor], Tensor]
"""From (B, H, W, 3) levels 0..255, float, to (B,) score points before clipping; differentiable."""


def pixel_score(network: Network, metadata: NDArray[np.float32] | None, *, flip: bool = False) -> PixelScore:
    """The score of a batch of photos in float32, their metadata (B, 12) held fixed; with `flip` of photo and mirror image."""

    def once(levels: Tensor) -> Tensor:
        columns = None if metadata is None else torch.tensor(metadata, device=levels.device)
        return network.points(network(levels.float(), columns))

    return (lambda levels: (once(levels) + once(levels.flip(2))) / 2) if flip else once


def fgsm(score: PixelScore, photos: Tensor, size: int, direction: int) -> Tensor:
    """One step of `size` levels against whole-level `photos` (B, H, W, 3): float32, within 0..255, whole levels again."""
    _, slope = _slope(score, photos)
    return (photos + direction * size * slope.sign()).clamp(0, 255)


def pgd(score: PixelScore, photos: Tensor, size: int, direction: int, noise: Tensor, steps: int = STEPS) -> Tensor:
    """The best of `steps` steps of `size` / 4 from `photos` + `size` x `noise` (in -1..1): float32, not rounded.

    Within 0..255 and within `size` of `photos`. The best is taken photo by photo, by the score before rounding.
    """
    low, high = (photos - size).clamp(min=0), (photos + size).clamp(max=255)
    now = torch.clamp(photos + size * noise, low, high)
    best, reached = now, torch.full((len(photos),), -torch.inf, device=photos.device)
    for step in range(steps + 1):
        if step < steps:
            points, slope = _slope(score, now)
        else:
            with torch.no_grad():
                points = score(now)
        better = direction * points > reached
        reached = torch.where(better, direction * points, reached)
        best = torch.where(better[:, None, None, None], now, best)
        if step < steps:
            now = torch.clamp(now + direction * size / 4 * slope.sign(), low, high)
    return best


def chance(photos: Tensor, size: int, noise: Tensor) -> Tensor:
    """Every level moved by `size`, up or down by the sign of `noise`: within 0..255."""
    return (photos + size * torch.where(noise < 0, -1.0, 1.0)).clamp(0, 255)


def _slope(score: PixelScore, photos: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        levels = photos.detach().clone().float().requires_grad_(True)
        points = score(levels)
        (slope,) = torch.autograd.grad(points.sum(), levels)
    return points.detach(), slope


@dataclass(frozen=True)
class Change:
    """One way to change a photo."""

    kind: str
    """`fgsm`, `pgd`, `chance` or `harmless`"""
    name: str
    size: int = 0
    """levels; 0 where it is no matter of levels"""
    direction: str = ""
    """`raise` or `lower` for attacks"""


def attacked(
    score: PixelScore, photos: Pixels, noise: NDArray[np.float32], device: torch.device
) -> Iterator[tuple[Change, Floats, Floats]]:
    """(change, score on whole levels, score before rounding) of every attack on `photos` (B, H, W, 3), and of chance.

    `noise`, uniform in -1..1 and of the photos' shape: PGD's start, and the signs of chance.
    """
    levels = torch.from_numpy(np.ascontiguousarray(photos)).to(device).float()
    start = torch.from_numpy(noise).to(device)

    def scored(changed: Tensor) -> tuple[Floats, Floats]:
        with torch.no_grad():
            whole = changed.round()
            exact = score(changed)
            rounded = exact if torch.equal(whole, changed) else score(whole)
        return rounded.double().cpu().numpy(), exact.double().cpu().numpy()

    for size in SIZES:
        yield (Change("chance", f"chance {size}/255", size), *scored(chance(levels, size, start)))
        for word, sign in DIRECTIONS.items():
            yield (Change("fgsm", f"FGSM {size}/255, {word}", size, word), *scored(fgsm(score, levels, size, sign)))
            moved = pgd(score, levels, size, sign, start)
            yield (Change("pgd", f"PGD {size}/255, {word}", size, word), *scored(moved))


def noise_of(key: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uniform in -1..1, a function of `key` alone, so that no photo's noise depends on the others in its batch."""
    return np.random.default_rng([key, 0xAD7]).uniform(-1.0, 1.0, shape).astype(np.float32)


def harmless(path: Path, pixels: Pixels, settings: PhotoSettings) -> dict[str, Pixels]:
    """The photo of `path`, decoded as `pixels`, after every harmless change: name -> (size, size, 3)."""
    size, fit = settings.size, settings.fit
    found = {f"JPEG quality {q}": decode(saved_again(path, q), size, fit) for q in JPEG_QUALITIES}
    larger = decode(path, round(size / KEPT), fit)
    rest = len(larger) - size
    cut = f"{100 * (1 - KEPT):.0f} % cut off"
    for word, at in (("all around", rest // 2), ("right and below", 0), ("left and above", rest)):
        found[f"{cut} {word}"] = larger[at : at + size, at : at + size]
    for factor in BRIGHTNESS:
        found[f"brightness {100 * (factor - 1):+.0f} %"] = np.clip(np.rint(pixels * factor), 0, 255).astype(np.uint8)
    found["mirrored"] = Augmenter(size).apply(pixels, FLIP, 0)
    return found


def saved_again(path: Path, quality: int) -> bytes:
    """The photo, upright and at its full size, as a JPEG file of `quality` (Pillow's default colour subsampling)."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        ImageOps.exif_transpose(image).convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@dataclass(frozen=True)
class Moved:
    """How far one change moves the score, over photos, in points."""

    kind: str
    name: str
    n: int
    mean: float
    """signed"""
    mean_low: float
    mean_high: float
    size: float
    """mean of the absolute move, with its 95 % interval over photos"""
    size_low: float
    size_high: float
    largest: float
    """largest absolute move"""
    unrounded: float
    """signed mean before rounding to whole levels"""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def summary(
    moves: Mapping[Change, tuple[Floats, Floats]], groups: NDArray[np.int64] | None, *, seed: int = 0
) -> list[Moved]:
    """From moves (n,) of every change, on whole levels and before rounding. Near-duplicates (`groups`) are drawn together."""
    columns = np.stack([values for move, _ in moves.values() for values in (move, np.abs(move))], axis=1)
    drawn = bootstrap_sums(np.column_stack([np.ones(len(columns)), columns]), groups, draws=DRAWS, seed=seed)
    means = drawn[:, 1:] / drawn[:, :1]
    return [
        Moved(
            change.kind, change.name, len(move),
            float(move.mean()), *interval(means[:, 2 * at]),
            float(np.abs(move).mean()), *interval(means[:, 2 * at + 1]),
            float(np.abs(move).max()), float(exact.mean()),
        )
        for at, (change, (move, exact)) in enumerate(moves.items())
    ]  # fmt: skip
