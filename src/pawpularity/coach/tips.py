"""Tips: what to change on a photo. Each rests on a measurement of the photo, and on the evidence of the true scores.

There are five kinds of tips:

- `advised`: the photo lacks the trait, and the true scores support that it matters;
- `perhaps`: the photo lacks the trait, and the true scores do not decide whether it matters;
- `fine`: the photo has the trait, or more of it than half of the photos;
- `not worth it`: the photo lacks the trait, and by the true scores it hardly matters or does harm;
- `left out`: the trait could not be measured well enough.

A gain is the difference between photos with and without the trait that are alike in all other columns: an association, not an
experiment. It says what such photos score, not what this photo will score.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pawpularity.coach.evidence import BLUR, SHARE, Evidence
from pawpularity.coach.learned import Learned
from pawpularity.evaluation.effects import CANNOT_TELL, CONTRAST, NOT_TESTABLE, SUPPORTED

ADVISED, PERHAPS, FINE, NOT_WORTH, LEFT_OUT = "advised", "perhaps", "fine", "not worth it", "left out"
KINDS = (ADVISED, PERHAPS, FINE, NOT_WORTH, LEFT_OUT)


@dataclass(frozen=True)
class Trait:
    """The subject of a tip: yes or no, by a probe; or, with a `unit`, a number of which more is better."""

    key: str
    column: str
    advice: str
    has: str = ""
    lacks: str = ""
    wanted: bool = True
    unit: str = ""
    shown: float = 1.0
    """factor from the measurement to the `unit`"""


TRAITS = (
    Trait("contrast", CONTRAST, "Put the pet before a background that is clearly lighter or darker than its coat.",
          unit="levels of brightness between pet and background"),
    Trait("face", "Face", "Show the whole face, from the front.", "a face is visible", "no face is visible"),
    Trait("eyes", "Eyes", "Wait until both eyes are open and look your way.", "both eyes are open and face front",
          "the eyes are not both open and facing front"),
    Trait("pets", "Group", "Show one pet alone.", "there is one pet", "there is more than one pet", wanted=False),
    Trait("blur", BLUR, "Hold the camera still, in more light.", "it is sharp", "it is blurred", wanted=False),
    Trait("framing", SHARE, "Go closer, so that the pet fills more of the photo.", unit="% of the photo is pet", shown=100.0),
)  # fmt: skip


@dataclass(frozen=True)
class Tip:
    """One tip about one photo."""

    key: str
    kind: str
    advice: str
    seen: str
    """the measurement on the photo, or why there is none"""
    based_on: str
    """the same, and how it was measured"""
    figures: str
    """the effect on the true scores"""
    evidence: str
    """the same, with the verdict and the counts"""
    gain: float | None = None
    """score points that similar photos with the trait have more; None if the photo has the trait"""
    gain_low: float | None = None
    gain_high: float | None = None
    adjusted: bool = False
    """whether the gain is between photos alike in all other columns"""
    promise: str = ""
    """the gain in words, of an `advised` or `perhaps` tip"""


def tips_for(measured: Mapping[str, float], learned: Learned) -> list[Tip]:
    """A tip for each of TRAITS, the best supported first, then by gain.

    `measured`, by column: contrast in levels of luma and the subject's share, NaN if no subject was found; the probes' chances.
    """
    tips = [(_number if trait.unit else _yes_no)(trait, measured, learned) for trait in TRAITS]
    return sorted(tips, key=lambda tip: (KINDS.index(tip.kind), -(tip.gain or 0.0)))


def change(evidence: Evidence, before: float, after: float) -> tuple[float, float, float]:
    """(gain, low, high), score points, if a column goes from `before` to `after`."""
    steps = (after - before) / evidence.unit
    low, high = sorted((steps * evidence.gain_low, steps * evidence.gain_high))
    return steps * evidence.gain, low, high


def promise(gain: float, low: float, high: float) -> str:
    """The gain in words that cannot be mistaken for a score."""
    (first, less), (last, more) = ((f"{abs(end):.0f}", "fewer" if end < -0.5 else "more") for end in (low, high))
    about = "less than 1 point" if abs(gain) < 0.5 else f"about {gain:.0f} point{'' if round(gain) == 1 else 's'}"
    return f"Photos like that score {about} more ({first}{'' if less == more else f' {less}'} to {last} {more})."


def _yes_no(trait: Trait, measured: Mapping[str, float], learned: Learned) -> Tip:
    probe = learned.probes.get(trait.column)
    if probe is None or not probe.usable:
        why = "no probe: the weights for its features cannot be found" if probe is None else probe.words
        return _tip(trait, LEFT_OUT, why, why, learned)
    chance = measured[trait.column]
    has = (chance >= 0.5) == trait.wanted
    seen = trait.has if has else trait.lacks
    based_on = f"{seen}, says {probe.words} ({100 * max(chance, 1 - chance):.0f} % sure)"
    step = None if has else (float(not trait.wanted), float(trait.wanted))
    return _tip(trait, FINE, seen, based_on, learned, step)


def _number(trait: Trait, measured: Mapping[str, float], learned: Learned) -> Tip:
    value, known = measured[trait.column], learned.quantiles.get(trait.column)
    if not np.isfinite(value) or known is None:
        why = "no subject could be separated from its background"
        return _tip(trait, LEFT_OUT, why, why, learned)
    share = float(np.interp(value, known, np.linspace(0.0, 100.0, len(known))))
    seen = f"{value * trait.shown:.0f} {trait.unit}"
    based_on = f"measured: {seen}, more than on {share:.0f} % of the photos"
    if value >= known[50]:
        return _tip(trait, FINE, seen, based_on, learned)
    based_on += f"; the best quarter has {known[75] * trait.shown:.0f} or more"
    return _tip(trait, FINE, seen, based_on, learned, (value, known[75]))


def _tip(
    trait: Trait, kind: str, seen: str, based_on: str, learned: Learned, step: tuple[float, float] | None = None
) -> Tip:
    """A tip of `kind`. With `step` (from, to), the change of the column if the tip is followed, the evidence decides the kind."""
    evidence = learned.evidence.get(trait.column)
    if evidence is None:
        untested = f"{NOT_TESTABLE}: it is the same on all photos"
        return Tip(trait.key, kind if step is None else LEFT_OUT, trait.advice, seen, based_on, untested, untested)
    tip = Tip(trait.key, kind, trait.advice, seen, based_on, evidence.figures, evidence.words)
    if step is None:
        return tip
    gain, low, high = change(evidence, *step)
    kind = {SUPPORTED: ADVISED, CANNOT_TELL: PERHAPS}.get(evidence.verdict, NOT_WORTH) if gain > 0 else NOT_WORTH
    words = "" if kind == NOT_WORTH else promise(gain, low, high)
    return replace(tip, kind=kind, gain=gain, gain_low=low, gain_high=high, adjusted=evidence.adjusted, promise=words)
