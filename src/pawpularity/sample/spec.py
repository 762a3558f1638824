"""What is on a photo of the sample shelter, and how many points each part is worth: the published rule of its score.

`pawpularity sample --photos 600 --size 160 --seed 0 --twins 5` draws it. Nothing here draws: `describe` answers for any
photo of any shelter in microseconds, so the distribution of the scores can be studied without pictures.

| part      | points                                                                  |
|-----------|-------------------------------------------------------------------------|
| base      | 19                                                                      |
| tongue    | +30 if it is out                                                        |
| eyes      | +9 if both are visible (one or none: 0)                                 |
| contrast  | +43 c; the pet and its background differ by 10 + 100 c levels of luma   |
| clutter   | -3.5 per object, 0 to 4 of them                                         |
| pose      | -9 if odd (leaping, lying on its side, on its back)                     |
| pets      | -9 if there is a second one                                             |
| accessory | 0                                                                       |

With c the background also grows more vivid (its colours' saturation is scaled by 0.15 + 1.2 sqrt c): a pet on a drab
background stands out less.

The points add up to `mean_unclipped`; normal noise of sd 10, the same for every photo, is added; 79 and above becomes
100 (the spike: the most popular pets are all "100"); the rest is rounded and clipped to 1..99. So both the mean and the
variance of the score, given the photo, have a closed form (`expected_score`, `score_variance`).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

BASE, TONGUE, EYES, CONTRAST, CLUTTER, POSE, PETS = 19.0, 30.0, 9.0, 43.0, -3.5, -9.0, -9.0
NOISE_SD, SPIKE = 10.0, 79.0
PARTS = ("tongue", "eyes", "contrast", "clutter", "pose", "pets", "accessory")
METADATA = (
    *("Subject Focus", "Eyes", "Face", "Near", "Action", "Accessory"),
    *("Group", "Collage", "Human", "Occlusion", "Info", "Blur"),
)
FAINTEST, CONTRAST_SPAN = 10.0, 100.0  # levels of luma between pet and background: at c = 0, and added at c = 1
DULLEST, VIVID = 0.15, 1.35  # saturation of the background's colours at c = 0 and c = 1, by the root of c

SCENES = ("room", "garden", "blanket", "kennel", "sofa", "backdrop", "beach", "wood")
POSES = ("sitting", "lying", "standing", "portrait")
ODD_POSES = ("leaping", "on its side", "on its back")
ACCESSORIES = ("collar", "bow tie", "bandana", "hat")
OCCLUSIONS = ("grass", "box", "blanket", "bars")
ASPECTS = (0.75, 0.75, 2 / 3, 0.5625, 1.0, 0.8, 4 / 3, 1.5)  # width / height; most shelter photos are upright
COATS = {"cat": 11, "dog": 13}

# Random numbers come from default_rng([seed, split, purpose, index]): no photo depends on how many others there are, and
# one thing's absence never moves another.
TRAIN, TEST, TWINS = range(3)
SPEC, NOISE, ART, COPY, REPOST = range(5)


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo, described. Lengths are shares of the square root of its area, positions shares of width and height."""

    art: tuple[int, int, int, int]  # address of the random numbers its drawing uses
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
        """Whether the pose is one that costs points."""
        return self.pose in ODD_POSES

    def kinds(self) -> dict[str, str]:
        """What was drawn, in words: a column each in truth/parts.csv."""
        return {
            "species": self.species,
            "coat": str(self.coat),
            "scene": self.scene,
            "tongue_kind": "out" if self.tongue else "in",
            "eyes_kind": self.eyes,
            "contrast_c": f"{self.contrast:.6f}",
            "clutter_count": str(self.clutter),
            "pose_kind": self.pose,
            "pets_count": "2" if self.second else "1",
            "accessory_kind": self.accessory or "none",
            "occlusion_kind": self.occlusion or "none",
        }

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
        """The contest's twelve columns, true to the drawing."""
        values = (
            *(self.focus, self.eyes == "open", self.face, self.near, self.odd, bool(self.accessory)),
            *(self.second, self.collage, self.human, bool(self.occlusion), self.info, self.blur),
        )
        return {name: int(value) for name, value in zip(METADATA, values, strict=True)}


def _pick(options: tuple[str, ...], u: float) -> str:
    return options[int(u * len(options))]


def describe(seed: int, split: int, index: int) -> Photo:
    """Photo `index` of TRAIN, TEST or TWINS of the shelter `seed`, whether or not it is ever drawn."""
    rng = np.random.default_rng([seed, split, SPEC, index])
    u = rng.random(40).tolist()
    contrast = float(rng.beta(0.7, 2.3))
    species, second_species = ("cat" if u[0] < 0.5 else "dog"), ("cat" if u[1] < 0.5 else "dog")
    face = u[2] >= 0.10
    eyes = "turned away"
    if face:
        shut = ("left shut", "right shut", "shut", "shut")
        eyes = "open" if u[3] < 0.855 else shut[int(u[4] * 4)]
    aspect = ASPECTS[int(u[5] * len(ASPECTS))]
    odd, near, collage = u[6] < 0.10, u[7] < 0.86, u[8] < 0.05
    if odd:
        pose = _pick(ODD_POSES, u[9])
    elif near:
        pose = _pick(("sitting", "lying", "portrait") if aspect <= 1 else ("lying", "lying", "portrait"), u[9])
    else:
        pose = _pick(("sitting", "lying", "standing"), u[9])
    # The head's half width. Its least value keeps eyes and tongue above 4 % of the picture's width.
    root = aspect**0.5
    largest = 0.29 * min(root, 1.0 / root)
    radius = (0.72 + 0.28 * u[10]) * largest if near else 0.0
    if pose in ("leaping", "on its side", "on its back"):
        radius *= 0.88
    radius = max(radius, (0.122 + 0.016 * u[10]) * root)
    if collage:
        radius = max(radius, 0.135 * root)
    x = 0.36 + 0.28 * u[11]
    y = (0.40 if pose != "on its back" else 0.56) + 0.12 * (u[12] - 0.5)
    if not near:
        x, y = 0.24 + 0.52 * u[11], 0.50 + 0.16 * (u[12] - 0.5)
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
        eyes=eyes,
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
        radius=radius,
        x=x,
        y=y,
        tilt=24.0 * (u[27] - 0.5),
    )


def twins(seed: int, part: str, pair: int) -> tuple[Photo, Photo]:
    """The same pet with and without one part of PARTS. The photo is a plain one, so that the part is all there is to see.

    The part is at its usual strength: contrast c = 0.6 against 0, three objects of clutter, both eyes against shut.
    """
    index = pair * len(PARTS) + PARTS.index(part)
    plain = describe(seed, TWINS, index)
    eyes = "open" if not plain.face else plain.eyes
    plain = replace(plain, blur=False, info=False, collage=False, human=False, occlusion="", face=True, eyes=eyes)
    # Only one thing may change: where a second pet sits depends on the pose, and clutter throws shadows on pets.
    if part in ("pose", "pets"):
        plain = replace(plain, second=False, clutter=0)
    usual = plain.pose if not plain.odd else "lying"
    changes: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "tongue": ({"tongue": True}, {"tongue": False}),
        "eyes": ({"eyes": "open"}, {"eyes": "shut"}),
        "contrast": ({"contrast": 0.6}, {"contrast": 0.0}),
        "clutter": ({"clutter": 3}, {"clutter": 0}),
        "pose": ({"pose": ODD_POSES[pair % 3]}, {"pose": usual}),
        "pets": ({"second": True}, {"second": False}),
        "accessory": ({"accessory": ACCESSORIES[pair % 4]}, {"accessory": ""}),
    }
    with_part, without = changes[part]
    return replace(plain, **with_part), replace(plain, **without)


def source_of(seed: int, index: int) -> int | None:
    """The earlier photo that photo `index` is a second posting of, or None: one photo in every block of fifty is."""
    block, place = divmod(index, 50)
    a, b = np.random.default_rng([seed, TRAIN, COPY, block]).random(2)
    copy = 10 + int(a * 40)
    return block * 50 + int(b * copy) if place == copy else None


def noise(seed: int, split: int, index: int) -> float:
    """The noise of photo `index` of TRAIN or TEST, in points: it depends on the posting, not on what is seen, so copies differ."""
    return NOISE_SD * float(np.random.default_rng([seed, split, NOISE, index]).standard_normal())


def scored(latent: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Scores (integers 1..100) of `mean_unclipped` plus noise, any shape."""
    whole = np.clip(np.rint(latent), 1, 99).astype(np.int64)
    scores: npt.NDArray[np.int64] = np.where(latent >= SPIKE, 100, whole)
    return scores


def _reached(mean: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """P(score >= k) for k = 2..100, of shape (len(mean), 99), and those k."""
    k = np.arange(2.0, 101.0)
    bar = np.minimum(k - 0.5, SPIKE)
    return ndtr((np.asarray(mean, float)[:, None] - bar) / NOISE_SD), k


def expected_score(mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """E[score | photo] for each `mean_unclipped`, exact: the sum of P(score >= k)."""
    expected: npt.NDArray[np.float64] = 1.0 + _reached(mean)[0].sum(axis=1)
    return expected


def score_variance(mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Var[score | photo] for each `mean_unclipped`, exact; the root of its mean is the noise floor of a shelter."""
    reached, k = _reached(mean)
    square = 1.0 + (reached * (2.0 * k - 1.0)).sum(axis=1)
    variance: npt.NDArray[np.float64] = square - expected_score(mean) ** 2
    return variance
