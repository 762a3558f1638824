"""What the packaged net learns of a drawn photo: what is on it, never how popular it is.

Three sorts of labels, all read from the description (`spec.Photo`) that a photo is drawn from: one of several kinds
(species, coat, scene, ...), flags (a hand, a second pet, ...), and measures (where the head is, how large, how tilted).
Some of them are parts that the rule of the sample shelter's score counts; those are marked `IN_RULE`. Its other two parts,
contrast and clutter, are not taught; how many points a part is worth, the points, and the score appear nowhere here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pawpularity.sample.spec import ACCESSORIES, COATS, OCCLUSIONS, ODD_POSES, POSES, SCENES, Photo

EYES = ("open", "one shut", "shut", "turned away")

# A mirrored photo has its left eye on the right, so which of the two is shut is not asked.
KINDS: dict[str, tuple[tuple[str, ...], Callable[[Photo], str]]] = {
    "species": (("cat", "dog"), lambda photo: photo.species),
    "coat": (
        tuple(f"{species} {coat}" for species, count in COATS.items() for coat in range(count)),
        lambda photo: f"{photo.species} {photo.coat}",
    ),
    "scene": (SCENES, lambda photo: photo.scene),
    "pose": ((*POSES, *ODD_POSES), lambda photo: photo.pose),
    "eyes": (EYES, lambda photo: "one shut" if photo.eyes in ("left shut", "right shut") else photo.eyes),
    "accessory": (("none", *ACCESSORIES), lambda photo: photo.accessory or "none"),
    "occlusion": (("none", *OCCLUSIONS), lambda photo: photo.occlusion or "none"),
    "second pet": (("none", "cat", "dog"), lambda photo: photo.second_species if photo.second else "none"),
}
FLAGS: dict[str, Callable[[Photo], bool]] = {
    "face visible": lambda photo: photo.face,
    "tongue out": lambda photo: photo.tongue,
    "near": lambda photo: photo.near,
    "human": lambda photo: photo.human,
    "info": lambda photo: photo.info,
    "collage": lambda photo: photo.collage,
    "blur": lambda photo: photo.blur,
    "spotlight": lambda photo: photo.focus,
}
# Position from the middle in shares of a side; logarithms of the head's half width and of width / height; degrees / 10.
MEASURES: dict[str, Callable[[Photo], float]] = {
    "x": lambda photo: photo.x - 0.5,
    "y": lambda photo: photo.y - 0.5,
    "radius": lambda photo: math.log(photo.radius),
    "aspect": lambda photo: math.log(photo.aspect),
    "tilt": lambda photo: 0.0 if photo.odd else photo.tilt / 10.0,
}
IN_RULE = frozenset({"pose", "eyes", "second pet", "face visible", "tongue out"})


@dataclass(frozen=True)
class Labels:
    """Labels of N photos, in the order of `KINDS`, `FLAGS` and `MEASURES`."""

    kinds: Tensor
    """(N, kinds) int64: the number of the kind."""
    flags: Tensor
    """(N, flags) float32: 0 or 1."""
    measures: Tensor
    """(N, measures) float32, in the units of `MEASURES`."""

    def __len__(self) -> int:
        return len(self.kinds)

    def rows(self, index: Tensor) -> "Labels":
        """The labels of some rows."""
        return Labels(self.kinds[index], self.flags[index], self.measures[index])

    def moved(self, scale: Tensor, left: Tensor, top: Tensor, flipped: Tensor) -> "Labels":
        """The labels after a crop and a flip, all (N,): the crop's share of each side, its corner, whether mirrored."""
        x, y, radius, aspect, tilt = self.measures.unbind(1)
        sign = 1.0 - 2.0 * flipped.float()
        x = sign * ((x + 0.5 - left) / scale - 0.5)
        y = (y + 0.5 - top) / scale - 0.5
        return Labels(self.kinds, self.flags, torch.stack([x, y, radius - scale.log(), aspect, sign * tilt], dim=1))


def labels_of(photos: Sequence[Photo]) -> Labels:
    """The labels of described photos."""
    kinds = [[names.index(kind(photo)) for names, kind in KINDS.values()] for photo in photos]
    flags = [[float(flag(photo)) for flag in FLAGS.values()] for photo in photos]
    measures = [[measure(photo) for measure in MEASURES.values()] for photo in photos]
    return Labels(
        torch.from_numpy(np.array(kinds, np.int64)),
        torch.from_numpy(np.array(flags, np.float32)),
        torch.from_numpy(np.array(measures, np.float32)),
    )


def widths() -> list[int]:
    """Outputs of the heads: each kind's, then one per flag, then one per measure."""
    return [*(len(names) for names, _ in KINDS.values()), len(FLAGS), len(MEASURES)]
