"""Augmentations of a photo: the paper's fixed copies, and numbered random ones.

An augmentation is a number, and `Augmenter.apply(photo, augmentation, seed)` is a function of its arguments alone, so
its features can be computed once and cached. 0-5 are fixed: the photo, the paper's three transforms of it
(a horizontal flip, a Gaussian blur of sigma 0.3, a 90 % centre crop resized back; section "data augmentation"), and the
last two flipped. Those from 8 on are random, by the transforms in `train.augment`: `8 + 4 k + c` is the k-th of copy c.
It is seeded by the photo's content, so folds and trials share it. Seeds take other numbers, unless `train.views` is set: views
that seeds share hide 37 % of the variance between them.

`copies` says which photos get which fixed copies as training samples of their own; `Schedule` says which augmentation of a
sample is shown in which epoch. Only training rows are augmented: inner and scored rows are not.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.errors import UserError
from pawpularity.transforms import Pipeline, albumentations, build

if TYPE_CHECKING:
    from pawpularity.config import Train

AUGMENTATIONS = ("original", "flip", "blur", "crop", "blur flipped", "crop flipped")
ORIGINAL, FLIP, BLUR, CROP, BLUR_FLIPPED, CROP_FLIPPED = range(6)
COPIES = 4  # the first four are training samples of their own
RANDOM = 8  # the first random augmentation
MOST_VIEWS = 100_000  # random augmentations of one seed

Image = NDArray[np.uint8]
_FLIPPED = np.array([FLIP, ORIGINAL, BLUR_FLIPPED, CROP_FLIPPED])


def copies(scores: NDArray[np.float64], rule: str, seed: int) -> NDArray[np.bool_]:
    """Which copies of each photo are training samples, (photos, 4): its original, and those that `rule` makes.

    Call it for the whole table, sorted by Id, and select the training rows afterwards: a photo's copies are then the same
    in every fold, inner split and refit. The second axis is that of `AUGMENTATIONS`.

    `rule`: `none`; `paper` = scores 0-20 and 50-60 get one of the three transforms, drawn once per photo from `seed`
    (the paper's text); `authors` = scores <= 20 or >= 50 get a flip, <= 10 or >= 60 also a blur and a crop (the
    authors' code, which makes 16,962 samples of the contest's 9,912 photos).
    """
    chosen = np.zeros((len(scores), COPIES), dtype=bool)
    chosen[:, ORIGINAL] = True
    if rule == "paper":
        rare = (scores <= 20) | ((scores >= 50) & (scores <= 60))
        drawn = np.random.default_rng([seed, 0xC0B1E5]).integers(1, COPIES, size=len(scores))
        chosen[np.flatnonzero(rare), drawn[rare]] = True
    elif rule == "authors":
        chosen[:, FLIP] = (scores <= 20) | (scores >= 50)
        extreme = (scores <= 10) | (scores >= 60)
        chosen[:, [BLUR, CROP]] = extreme[:, None]
    return chosen


class Schedule:
    """Which augmentation of every training sample is shown in which epoch: a function of (seed, epoch), as vectors."""

    def __init__(
        self,
        augment: str | Pipeline,
        sample_copies: NDArray[np.int64],
        *,
        epochs: int,
        views: int,
        seed: int,
        draw: int = 0,
    ) -> None:
        """`sample_copies` (n,) are 0..3. Of each copy `views` random augmentations are used (0: one per epoch).

        `augment`: none, flip, or random transforms. Another `draw` uses other random augmentations.
        """
        self.augment, self.copies, self.seed = augment, sample_copies, seed
        self.random = not isinstance(augment, str)
        self.views = min(views or epochs, epochs)
        self.first = RANDOM + COPIES * MOST_VIEWS * draw
        self.offset = np.random.default_rng([seed, 0x0FF]).integers(self.views, size=len(sample_copies))

    def of(self, epoch: int) -> NDArray[np.int64]:
        """The augmentation of every sample in `epoch`, (n,)."""
        if self.random:
            return self.first + COPIES * ((epoch + self.offset) % self.views) + self.copies
        if self.augment == "flip":
            flipped = np.random.default_rng([self.seed, epoch, 0xF11]).random(len(self.copies)) < 0.5
            return np.where(flipped, _FLIPPED[self.copies], self.copies)
        return self.copies

    def all(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(samples, augmentations) of every pair that any epoch shows, each once."""
        samples = np.arange(len(self.copies))
        if self.random:
            random = self.first + COPIES * np.arange(self.views) + self.copies[:, None]
            return np.repeat(samples, self.views), random.ravel()
        if self.augment == "flip":
            return np.concatenate([samples, samples]), np.concatenate([self.copies, _FLIPPED[self.copies]])
        return samples, self.copies


def schedule_of(train: "Train", sample_copies: NDArray[np.int64], seed: int) -> Schedule:
    """The schedule of samples under the settings `train`."""
    draw = 0 if train.views else train.seed  # a number of views is asked for to share their cached features
    return Schedule(train.augment, sample_copies, epochs=train.epochs, views=train.views, seed=seed, draw=draw)


class Augmenter:
    """Augmentations of (size, size, 3) uint8 photos; safe to use from several threads."""

    def __init__(self, size: int, pipeline: Pipeline | None = None) -> None:
        """`pipeline`: the transforms of the random augmentations."""
        self.size, self.pipeline = size, pipeline or []
        self._local = threading.local()  # an albumentations transform holds its own random state

    def apply(self, photo: Image, augmentation: int, seed: int) -> Image:
        """`photo` under `augmentation`, same shape. `seed` is the photo's; only random augmentations use it."""
        if augmentation == ORIGINAL:
            return photo
        if augmentation == FLIP:
            return photo[:, ::-1]
        if augmentation < RANDOM:
            plain = {BLUR_FLIPPED: BLUR, CROP_FLIPPED: CROP}.get(augmentation, augmentation)
            fixed: Image = self._transforms[plain](photo)
            return fixed if plain == augmentation else fixed[:, ::-1]
        base = np.ascontiguousarray(self.apply(photo, (augmentation - RANDOM) % COPIES, seed))
        random = self._transforms[RANDOM]
        random.set_random_seed(int(np.random.SeedSequence([int(seed), augmentation]).generate_state(1)[0]))
        varied: Image = random(image=base)["image"]
        if varied.shape != photo.shape:  # only now and then, else the check of the settings had seen it
            made = "x".join(map(str, varied.shape[:2]))
            raise UserError(f"train.augment: makes {made} pixels of {self.size}x{self.size}; add Resize at its end")
        return varied

    @property
    def _transforms(self) -> dict[int, Any]:
        if not hasattr(self._local, "transforms"):
            self._local.transforms = {**_fixed(self.size), RANDOM: build(self.pipeline, self.size)}
        made: dict[int, Any] = self._local.transforms
        return made


def _fixed(size: int) -> dict[int, Callable[[Image], Image]]:
    import cv2

    library, inner = albumentations(), round(0.9 * size)
    blur = library.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 0.3), p=1)
    resize = library.Resize(size, size, interpolation=cv2.INTER_CUBIC, p=1)
    crop = library.Compose([library.CenterCrop(inner, inner, p=1), resize], seed=0)
    return {BLUR: lambda image: blur(image=image)["image"], CROP: lambda image: crop(image=image)["image"]}
