"""What the effects truly are on a drawn shelter, whose rule is known: the measure of this room's own verdicts.

The true effect of a part is the mean over the photos of E[score | part on] - E[score | part off], all else as it is. The
plain difference of means may well be another: on a drawn shelter tongue and open eyes need a face, so a face, which is
worth nothing in itself, goes with both.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pawpularity.data.dataset import is_drawn
from pawpularity.data.tables import ID, read_cells
from pawpularity.evaluation.effects import CONTRAST
from pawpularity.sample import spec

Floats = NDArray[np.float64]

# What the rule pays for (0 where it pays nothing), by the column that tells of it.
_PAID = {"Eyes": ("eyes", spec.EYES), "Action": ("pose", spec.POSE), "Group": ("pets", spec.PETS)}
_WORTH_NOTHING = ("Face", "Accessory", "Occlusion", "Collage")


def true_effects(folder: Path, ids: Sequence[str]) -> dict[str, float]:
    """The true effect on the score of each claim's column, points, over the photos `ids` of the shelter in `folder`.

    That of the contrast is from one standard deviation of the true contrast below its mean to one above. Empty where the
    folder is no drawn shelter, or not of these photos. Raises UserError for a damaged truth/parts.csv.
    """
    if not is_drawn(folder):
        return {}
    names = [part for part, _ in _PAID.values()]
    cells = read_cells(folder / "truth" / "parts.csv", (ID, "mean_unclipped", "contrast", "contrast_c", *names))
    rows = {name: row for row, name in enumerate(cells.columns[ID])}
    if not all(name in rows for name in ids):
        return {}
    order = np.array([rows[name] for name in ids])
    mean = cells.numbers("mean_unclipped", "the rule's points")[order]
    found = dict.fromkeys(_WORTH_NOTHING, 0.0)
    for column, (part, worth) in _PAID.items():
        without = mean - cells.numbers(part, "the part's points")[order]
        found[column] = _switched(without + worth, without)
    level = cells.numbers("contrast_c", "the contrast, 0 to 1")[order]
    without = mean - cells.numbers("contrast", "the part's points")[order]
    high, low = level.mean() + level.std(), level.mean() - level.std()
    found[CONTRAST] = _switched(without + spec.CONTRAST * high, without + spec.CONTRAST * low)
    return found


def true_contrasts(folder: Path, ids: Sequence[str]) -> Floats:
    """(n,) the contrast each photo of a drawn shelter was drawn with, levels of luma."""
    cells = read_cells(folder / "truth" / "parts.csv", (ID, "contrast_c"))
    known = dict(zip(cells.columns[ID], cells.numbers("contrast_c", "the contrast, 0 to 1").tolist(), strict=True))
    return spec.FAINTEST + spec.CONTRAST_SPAN * np.array([known[name] for name in ids])


def _switched(on: Floats, off: Floats) -> float:
    return float((spec.expected_score(on) - spec.expected_score(off)).mean())
