"""Views of a training photo: the paper's fixed copies, and random augmentation. The only user of albumentations.

Copies (`train.copies`) are extra training items, decided by the score once and for all; the paper's three transforms
are a horizontal flip, a 90 % centre crop resized back, and a Gaussian blur of sigma 0.3 (section "data augmentation").
Augmentation (`train.augment`) changes an item anew every epoch. Only training rows come here: inner and scored rows
are always seen as they are. Albumentations is pinned to 2.0.8, the last MIT release; newer code of that import name is
under the AGPL, so another version is refused.
"""

import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.errors import UserError

# Importing albumentations asks a package registry for its newest version unless this is set before.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A
import cv2

ORIGINAL, FLIP, BLUR, CROP = "original", "flip", "blur", "crop"
VIEWS = (ORIGINAL, FLIP, BLUR, CROP)
PINNED = "2.0.8"

Image = NDArray[np.uint8]


def copies(scores: NDArray[np.float64], rule: str, seed: int) -> NDArray[np.bool_]:
    """Which views of each photo are training items, (photos, views): its original, and the copies that `rule` makes.

    To be asked about the whole table, sorted by Id, and then cut to the training rows: a photo's copy is the same in
    every fold, inner split and refit.

    `rule`: `none`; `paper` = scores 0-20 and 50-60 get one of the three transforms, drawn once per photo from `seed`
    (the paper's text); `authors` = scores <= 20 or >= 50 get a flip, <= 10 or >= 60 also a blur and a crop (the
    authors' code, which makes 16,962 items of the contest's 9,912 photos). The
    second axis is that of `VIEWS`.
    """
    chosen = np.zeros((len(scores), len(VIEWS)), dtype=bool)
    chosen[:, VIEWS.index(ORIGINAL)] = True
    if rule == "paper":
        rare = (scores <= 20) | ((scores >= 50) & (scores <= 60))
        drawn = np.random.default_rng([seed, 0xC0B1E5]).integers(1, len(VIEWS), size=len(scores))
        chosen[np.flatnonzero(rare), drawn[rare]] = True
    elif rule == "authors":
        chosen[:, VIEWS.index(FLIP)] = (scores <= 20) | (scores >= 50)
        extreme = (scores <= 10) | (scores >= 60)
        chosen[:, VIEWS.index(BLUR)] = extreme
        chosen[:, VIEWS.index(CROP)] = extreme
    elif rule != "none":
        raise ValueError(rule)
    return chosen


def _pinned() -> None:
    version = importlib.metadata.version("albumentations")
    if version != PINNED:
        raise UserError(
            f"albumentations {version} is installed; this project uses {PINNED}, the last release under the MIT licence; "
            f"run: pip install albumentations=={PINNED}"
        )


def fixed_views(size: int) -> dict[int, Callable[[Image], Image]]:
    """The paper's transforms on a (size, size, 3) photo, by index into `VIEWS`; each gives the same shape back."""
    _pinned()
    inner = round(0.9 * size)
    transforms: dict[str, Any] = {
        FLIP: A.HorizontalFlip(p=1),
        BLUR: A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 0.3), p=1),
        CROP: A.Compose(
            [A.CenterCrop(inner, inner, p=1), A.Resize(size, size, interpolation=cv2.INTER_CUBIC, p=1)], seed=0
        ),
    }
    functions: dict[int, Callable[[Image], Image]] = {VIEWS.index(ORIGINAL): lambda image: image}
    for name, transform in transforms.items():
        functions[VIEWS.index(name)] = lambda image, t=transform: t(image=image)["image"]  # type: ignore[misc]
    return functions


class Augment:
    """Random augmentation: `augment(image, seed)` is a function of its arguments alone, whatever ran before it."""

    def __init__(self, kind: str, size: int) -> None:
        self.kind = kind
        if kind == "none":
            self._transform = None
            return
        _pinned()
        steps: list[Any] = [A.HorizontalFlip(p=0.5)]
        if kind == "strong":
            steps += [
                A.RandomResizedCrop((size, size), scale=(0.7, 1.0), ratio=(0.85, 1.18), p=1),
                A.ColorJitter(
                    brightness=(0.9, 1.1), contrast=(0.9, 1.1), saturation=(0.9, 1.1), hue=(-0.02, 0.02), p=0.8
                ),
            ]
        elif kind != "flip":
            raise ValueError(kind)
        self._transform = A.Compose(steps, seed=0)

    def __call__(self, image: Image, seed: int) -> Image:
        """`image` (H, W, 3) uint8, transformed by the random numbers of `seed` (0 .. 2**32 - 1)."""
        if self._transform is None:
            return image
        self._transform.set_random_seed(seed)
        augmented: Image = self._transform(image=image)["image"]
        return augmented
