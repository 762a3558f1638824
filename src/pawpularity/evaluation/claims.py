"""The family of hypotheses: what the paper says makes a photo popular, and the verdicts a test may end with.

The paper's authors close with advice to whoever photographs a shelter pet: one subject, a contrasting background, the
face and both eyes visible, no unusual pose, and the tongue out as a bonus. Those are the claims tested here, each with
the sign it was made with. That accessories raise the score is our own reading of the paper's pictures, and the contest's
column for an unusual pose is the nearest one there is (Action, and Occlusion for a pet partly hidden). No column tells
whether the tongue is out, so that claim cannot be tested.

The family is fixed before any data are looked at; Holm's correction is over those of it that can be tested.
"""

from dataclasses import dataclass

ALPHA = 0.05
CONTRAST = "contrast"
FEW = 10  # photos: with fewer on a side the bootstrap's interval is too narrow to call an effect small

SUPPORTED, REJECTED = "supported", "rejected"
TOO_SMALL, CANNOT_TELL = "too small to matter", "cannot tell"
NOT_TESTABLE = "not testable here"


@dataclass(frozen=True)
class Claim:
    """One row of the family."""

    hypothesis: int
    column: str
    """a metadata column, or `contrast`, which is measured from the pixels"""
    sign: int
    """+1 if it is claimed to raise the score, -1 if to lower it"""
    words: str


CLAIMS = (
    Claim(1, "Face", +1, "a visible face raises"),
    Claim(1, "Eyes", +1, "both eyes facing front raise"),
    Claim(2, CONTRAST, +1, "a contrasting background raises"),
    Claim(3, "Accessory", +1, "an accessory raises"),
    Claim(4, "Action", -1, "an unusual pose lowers"),
    Claim(4, "Occlusion", -1, "being partly hidden lowers"),
    Claim(5, "Group", -1, "more than one pet lowers"),
    Claim(5, "Collage", -1, "a collage lowers"),
)
NO_COLUMN = {"tongue": "no column says whether the tongue is out"}


def verdict(effect: float, low: float, high: float, corrected_p: float, sign: int, margin: float, fewest: int) -> str:
    """What the true score says about a claim of `sign`.

    `effect` with its 95 % interval `low`..`high` and `margin` are in score points, `corrected_p` is Holm's, `fewest` the
    photos on the smaller side. Not significant is no evidence of absence: only an interval inside the margin is.
    """
    if corrected_p < ALPHA:
        return SUPPORTED if effect * sign > 0 else REJECTED
    inside = -margin < low and high < margin
    return TOO_SMALL if inside and fewest >= FEW else CANNOT_TELL
