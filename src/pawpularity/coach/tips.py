"""What to change on a photo: only what was measured on it, and only with what the shelter's true scores say of such a change.

Five kinds of answers, and every one says what it is based on:

- `advised`: the photo lacks it, and the true scores support that it matters;
- `perhaps`: the photo lacks it, and the true scores cannot tell whether it matters;
- `fine`: the photo has it already, or as much of it as most;
- `not worth it`: the photo lacks it, and the true scores say that it hardly matters, or point the other way;
- `left out`: it could not be measured well enough to advise anybody.

A gain is the difference between photos with and without it that are alike in all other columns. That is an association, no
experiment: it says what such photos score, and not for certain what this one will.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.coach.evidence import BLUR, SHARE, Evidence, untested
from pawpularity.coach.traits import Judged
from pawpularity.evaluation.effects import CANNOT_TELL, CONTRAST, SUPPORTED

ADVISED, PERHAPS, FINE, NOT_WORTH, LEFT_OUT = "advised", "perhaps", "fine", "not worth it", "left out"
KINDS = (ADVISED, PERHAPS, FINE, NOT_WORTH, LEFT_OUT)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Trait:
    """A yes or no that a probe tells."""

    key: str
    column: str
    wanted: bool
    advice: str
    lacks: str
    has: str


@dataclass(frozen=True)
class Level:
    """A number that is measured, of which more is claimed to be better."""

    key: str
    column: str
    advice: str
    unit: str
    scale: float
    """shown = measured x scale"""


LOOKED_AT: tuple[Trait | Level, ...] = (
    Level("contrast", CONTRAST, "Put the pet before a background that is clearly lighter or darker than its coat.",
          "levels of brightness between pet and background", 1.0),
    Trait("face", "Face", True, "Show the whole face, from the front.", "no face is to be seen", "a face is to be seen"),
    Trait("eyes", "Eyes", True, "Wait until both eyes are open and look your way.",
          "the eyes are not both open and facing front", "both eyes are open and face front"),
    Trait("pets", "Group", False, "Show one pet alone.", "there is more than one pet", "there is one pet"),
    Trait("blur", BLUR, False, "Hold the camera still, in more light.", "it is blurred", "it is sharp"),
    Level("framing", SHARE, "Go closer, so that the pet fills more of the photo.", "% of the photo is pet", 100.0),
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What was measured on one photo."""

    contrast: float
    """levels of luma; NaN where no subject could be told from its background"""
    share: float
    """of the photo that is subject"""
    chances: Mapping[str, float]
    """column -> chance, 0 to 1, that a probe gives it"""


@dataclass(frozen=True)
class Tip:
    """One thing that was looked at."""

    key: str
    kind: str
    advice: str
    based_on: str
    evidence: str
    gain: float | None
    """score points that photos like this one but for this have more; None where nothing is promised"""
    gain_low: float | None
    gain_high: float | None
    adjusted: bool = False
    """whether the gain is between photos alike in all other columns"""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def tips_for(
    seen: Seen, evidence: Sequence[Evidence], judged: Sequence[Judged], quantiles: Mapping[str, Floats]
) -> list[Tip]:
    """All of LOOKED_AT, the best supported and largest gains first. `quantiles` (101,) of the shelter's measured numbers."""
    found = []
    for looked in LOOKED_AT:
        row = next((row for row in evidence if row.column == looked.column), None)
        if isinstance(looked, Trait):
            told = next((one for one in judged if one.column == looked.column), None)
            found.append(_trait(looked, seen, row, told, untested(looked.column, evidence)))
        else:
            value = seen.contrast if looked.column == CONTRAST else seen.share
            known = quantiles.get(looked.column)
            found.append(_level(looked, value, row, known, untested(looked.column, evidence)))
    return sorted(found, key=lambda tip: (KINDS.index(tip.kind), -(tip.gain or 0.0)))


def move(row: Evidence, before: float, after: float) -> tuple[float, float, float]:
    """(gain, low, high), score points, of a number that goes from `before` to `after`."""
    steps = (after - before) / row.unit
    low, high = sorted((steps * row.gain_low, steps * row.gain_high))
    return steps * row.gain, low, high


def _kind(row: Evidence, gain: float) -> str:
    if row.verdict == SUPPORTED and gain > 0:
        return ADVISED
    return PERHAPS if row.verdict == CANNOT_TELL and gain > 0 else NOT_WORTH


def _none(looked: Trait | Level, kind: str, based_on: str, evidence: str) -> Tip:
    return Tip(looked.key, kind, looked.advice, based_on, evidence, None, None, None)


def _trait(looked: Trait, seen: Seen, row: Evidence | None, told: Judged | None, why: str | None) -> Tip:
    if told is None or not told.usable or looked.column not in seen.chances:
        return _none(looked, LEFT_OUT, "no probe: its features cannot be had" if told is None else told.words,
                     "" if row is None else row.words)  # fmt: skip
    chance = seen.chances[looked.column]
    has = (chance >= 0.5) == looked.wanted
    sure = max(chance, 1.0 - chance)
    based_on = f"{looked.has if has else looked.lacks}, says {told.words} ({100 * sure:.0f} % sure)"
    if has or row is None:
        return _none(looked, FINE if has else LEFT_OUT, based_on, why or (row.words if row else ""))
    sign = 1.0 if looked.wanted else -1.0
    low, high = sorted((sign * row.gain_low, sign * row.gain_high))
    return Tip(looked.key, _kind(row, sign * row.gain), looked.advice, based_on, row.words, sign * row.gain, low, high,
               row.adjusted)  # fmt: skip


def _level(looked: Level, value: float, row: Evidence | None, known: Floats | None, why: str | None) -> Tip:
    if not np.isfinite(value) or known is None or row is None:
        reason = (
            "no subject could be told from its background" if not np.isfinite(value) else why or "it was not measured"
        )
        return _none(looked, LEFT_OUT, reason, "" if row is None else row.words)
    share = 100.0 * float(np.interp(value, known, np.linspace(0.0, 1.0, len(known))))
    based_on = f"measured: {value * looked.scale:.0f} {looked.unit}, more than on {share:.0f} % of the shelter's photos"
    aim = float(known[(len(known) - 1) * 3 // 4])
    if value >= float(known[(len(known) - 1) // 2]):
        return _none(looked, FINE, based_on, row.words)
    gain, low, high = move(row, value, aim)
    based_on += f"; the best quarter has {aim * looked.scale:.0f} or more"
    return Tip(looked.key, _kind(row, gain), looked.advice, based_on, row.words, gain, low, high, row.adjusted)
