"""What is on a photo of the drawn sample, and the published rule of its score. Nothing here draws.

The points of the parts (`Photo.points`) and BASE add up to `mean_unclipped`. Normal noise of sd 10 is added. 79 and above
becomes 100 (the spike: the most popular pets all score 100); the rest is rounded and clipped to 1..99. So the mean and
the variance of the score, given the photo, have a closed form (`expected_score`, `score_variance`).

`describe` answers for any photo of any sample in microseconds.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from pawpularity.data.tables import METADATA

Floats = npt.NDArray[np.float64]

BASE = 19.0
TONGUE = 30.0  # if it is out
EYES = 9.0  # if both are visible; one or none: 0
CONTRAST = 43.0  # times c, 0..1
CLUTTER = -3.5  # per object, 0 to 4 of them
POSE = -9.0  # if it is odd
PETS = -9.0  # if there is a second one
NOISE_SD, SPIKE = 10.0, 79.0
PARTS = ("tongue", "eyes", "contrast", "clutter", "pose", "pets", "accessory")  # an accessory is worth 0
FAINTEST, CONTRAST_SPAN = 10.0, 100.0  # levels of luma between pet and background: at c = 0, and added at c = 1
DULLEST, VIVID = 0.15, 1.35  # saturation of the background's colours at c = 0 and c = 1, by the root of c

SCENES = ("room", "garden", "blanket", "kennel", "sofa", "backdrop", "beach", "wood")
POSES = ("sitting", "lying", "standing", "portrait")
ODD_POSES = ("leaping", "on its side", "on its back")
ACCESSORIES = ("collar", "bow tie", "bandana", "hat")
OCCLUSIONS = ("grass", "box", "blanket", "bars")
ASPECTS = (0.75, 0.75, 2 / 3, 0.5625, 1.0, 0.8, 4 / 3, 1.5)  # width / height; most photos of pets are upright
COATS = {"cat": 11, "dog": 13}

# Random numbers come from default_rng([seed, split, purpose, index]). So no photo depends on the number of photos, and leaving out
# one thing never changes another.
TRAIN, TEST, PAIRS = range(3)
SPEC, NOISE, ART, COPY, REPOST = range(5)


@dataclass(frozen=True)
class Photo:
    """The description of one photo. Lengths are shares of the square root of its area, positions shares of width and height."""

    art: tuple[int, int, int, int]  # the seed of the random numbers that its drawing uses
    species: str
    coat: int
    second_species: str
    second_coat: int
    scene: str
    aspect: float
    pose: str
    face: bool
    eyes: str  # open, left shut, right shut, shut, turned away
    tongue: bool
    contrast: float
    clutter: int
    second: bool
    accessory: str
    occlusion: str
    human: bool
    info: bool
    blur: bool
    collage: bool
    focus: bool
    near: bool
    radius: float
    x: float
    y: float
    tilt: float

    @property
    def odd(self) -> bool:
        """Whether the pose costs points."""
        return self.pose in ODD_POSES

    def points(self) -> dict[str, float]:
        """Points of each part, by the rule above, in the order of PARTS."""
        return {
            "tongue": TONGUE * self.tongue,
            "eyes": EYES * (self.eyes == "open"),
            "contrast": CONTRAST * self.contrast,
            "clutter": CLUTTER * self.clutter if self.clutter else 0.0,  # not -0.0
            "pose": POSE if self.odd else 0.0,
            "pets": PETS if self.second else 0.0,
            "accessory": 0.0,
        }

    def mean_unclipped(self) -> float:
        """Base and points: the score before noise, spike, rounding and clipping."""
        return BASE + sum(self.points().values())

    def metadata(self) -> dict[str, int]:
        """The contest's twelve columns for this drawing."""
        shown = (
            *(self.focus, self.eyes == "open", self.face, self.near, self.odd, bool(self.accessory)),
            *(self.second, self.collage, self.human, bool(self.occlusion), self.info, self.blur),
        )
        return {name: int(value) for name, value in zip(METADATA, shown, strict=True)}


def describe(seed: int, split: int, index: int) -> Photo:
    """The description of photo `index` of TRAIN, TEST or PAIRS of the sample `seed`."""
    rng = np.random.default_rng([seed, split, SPEC, index])
    u = rng.random(40).tolist()
    contrast = float(rng.beta(0.7, 2.3))
    species, second_species = ("cat" if u[0] < 0.5 else "dog"), ("cat" if u[1] < 0.5 else "dog")
    face = u[2] >= 0.10
    eyes = "open" if u[3] < 0.855 else _pick(("left shut", "right shut", "shut", "shut"), u[4])
    aspect = ASPECTS[int(u[5] * len(ASPECTS))]
    near, collage = u[7] < 0.86, u[8] < 0.05
    if u[6] < 0.10:
        poses = ODD_POSES
    elif near:
        poses = ("sitting" if aspect <= 1 else "lying", "lying", "portrait")
    else:
        poses = ("sitting", "lying", "standing")
    pose = _pick(poses, u[9])
    x, y = 0.24 + 0.52 * u[11], 0.50 + 0.16 * (u[12] - 0.5)
    if near:
        x, y = 0.36 + 0.28 * u[11], (0.56 if pose == "on its back" else 0.40) + 0.12 * (u[12] - 0.5)
    return Photo(
        art=(seed, split, ART, index),
        species=species,
        coat=int(u[13] * COATS[species]),
        second_species=second_species,
        second_coat=int(u[14] * COATS[second_species]),
        scene=_pick(SCENES, u[15]),
        aspect=aspect,
        pose=pose,
        face=face,
        eyes=eyes if face else "turned away",
        tongue=face and u[16] < 0.28,
        contrast=contrast,
        clutter=int(np.searchsorted((0.45, 0.67, 0.83, 0.93), u[17])),
        second=u[18] < 0.13,
        accessory=_pick(ACCESSORIES, u[20]) if u[19] < 0.07 else "",
        occlusion=_pick(OCCLUSIONS, u[22]) if u[21] < 0.17 else "",
        human=u[23] < 0.17,
        info=u[24] < 0.06,
        blur=u[25] < 0.07,
        collage=collage,
        focus=u[26] < 0.03,
        near=near,
        radius=_head_radius(aspect, near, pose, collage, u[10]),
        x=x,
        y=y,
        tilt=24.0 * (u[27] - 0.5),
    )


def _pick(options: tuple[str, ...], u: float) -> str:
    return options[int(u * len(options))]


def _head_radius(aspect: float, near: bool, pose: str, collage: bool, u: float) -> float:
    """The head's half width. The minimum keeps eyes and tongue above 4 % of the picture's width."""
    root = math.sqrt(aspect)
    radius = (0.72 + 0.28 * u) * 0.29 * min(root, 1.0 / root) if near else 0.0
    if pose in ODD_POSES:
        radius *= 0.88
    return max(radius, (0.122 + 0.016 * u) * root, 0.135 * root if collage else 0.0)


def counterfactual_pair(seed: int, part: str, pair: int) -> tuple[Photo, Photo]:
    """The same pet with and without one part of PARTS, on a plain photo, so that nothing hides the part.

    The part has its usual strength: contrast c = 0.6 against 0, three objects of clutter against none, both eyes open against shut.
    """
    plain = describe(seed, PAIRS, pair * len(PARTS) + PARTS.index(part))
    eyes = plain.eyes if plain.face else "open"
    plain = replace(plain, blur=False, info=False, collage=False, human=False, occlusion="", face=True, eyes=eyes)
    # Only one thing may change: the second pet's place depends on the pose, and clutter casts shadows on pets.
    if part in ("pose", "pets"):
        plain = replace(plain, second=False, clutter=0)
    changes: dict[str, tuple[str, Any, Any]] = {
        "tongue": ("tongue", True, False),
        "eyes": ("eyes", "open", "shut"),
        "contrast": ("contrast", 0.6, 0.0),
        "clutter": ("clutter", 3, 0),
        "pose": ("pose", ODD_POSES[pair % 3], "lying" if plain.odd else plain.pose),
        "pets": ("second", True, False),
        "accessory": ("accessory", ACCESSORIES[pair % 4], ""),
    }
    field, with_part, without = changes[part]
    return replace(plain, **{field: with_part}), replace(plain, **{field: without})


def photo_id(seed: int, *address: object) -> str:
    """32 hex digits like the contest's Ids; they do not reveal the order or the content."""
    return hashlib.blake2b("/".join(map(str, (seed, *address))).encode(), digest_size=16).hexdigest()


def source_of(seed: int, index: int) -> int | None:
    """The earlier photo that photo `index` repeats, or None. One photo in every block of fifty is a repeat."""
    block, place = divmod(index, 50)
    a, b = np.random.default_rng([seed, TRAIN, COPY, block]).random(2)
    copy = 10 + int(a * 40)
    return block * 50 + int(b * copy) if place == copy else None


def noise(seed: int, split: int, index: int) -> float:
    """The noise of a photo's score, points. It depends on the posting, not on the content, so duplicates have different scores."""
    return NOISE_SD * float(np.random.default_rng([seed, split, NOISE, index]).standard_normal())


def scored(latent: Floats) -> npt.NDArray[np.int64]:
    """Scores (integers 1..100) of `mean_unclipped` plus noise, any shape."""
    return np.where(latent >= SPIKE, 100, np.clip(np.rint(latent), 1, 99)).astype(np.int64)


def expected_score(mean: Floats) -> Floats:
    """E[score | photo] for each `mean_unclipped`, exact: the sum of P(score >= k)."""
    expected: Floats = 1.0 + _at_least(mean)[0].sum(axis=1)
    return expected


def score_variance(mean: Floats) -> Floats:
    """Var[score | photo] for each `mean_unclipped`, exact; the root of its mean is the noise floor of a sample."""
    probability, k = _at_least(mean)
    square = 1.0 + (probability * (2.0 * k - 1.0)).sum(axis=1)
    variance: Floats = square - expected_score(mean) ** 2
    return variance


def _at_least(mean: Floats) -> tuple[Floats, Floats]:
    """P(score >= k) for k = 2..100, of shape (len(mean), 99), and those k."""
    k = np.arange(2.0, 101.0)
    threshold = np.minimum(k - 0.5, SPIKE)
    return ndtr((np.asarray(mean, float)[:, None] - threshold) / NOISE_SD), k
