"""What the coach says, for people: one photo in full, several as an order, a folder as a CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pawpularity.coach.coach import Told, ranked
from pawpularity.coach.crop import Crop
from pawpularity.coach.tips import ADVISED, FINE, LEFT_OUT, NOT_WORTH, PERHAPS, Tip
from pawpularity.evaluation.calibration import Calibration

COLUMNS = ("rank", "photo", "score", "half_low", "half_high", "low", "high", "beats_median", "beats_top_quarter", "gap_to_next",
           "beats_next", "advice", "note")  # fmt: skip
HEADS = {
    ADVISED: "What to change",
    PERHAPS: "Might help; these photos cannot tell",
    FINE: "Fine as it is",
    NOT_WORTH: "No reason in the true scores to change it",
    LEFT_OUT: "Not looked at",
}
ONE_PET = "measured between different pets; for several photos of one pet it is an extrapolation"


@dataclass(frozen=True)
class Coached:
    """All that was found for one photo."""

    name: str
    told: Told
    tips: Sequence[Tip] = ()
    crop: Crop | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "photo": self.name, **self.told.to_dict(), "tips": [tip.to_dict() for tip in self.tips],
            "crop": None if self.crop is None else self.crop.to_dict(),
        }  # fmt: skip


@dataclass(frozen=True)
class Album:
    """Photos that were looked at together."""

    photos: Sequence[Coached]
    faults: Mapping[str, str] = field(default_factory=dict)
    """photo -> why it cannot be used"""

    def order(self, known: Calibration) -> list[dict[str, Any]]:
        """As `ranked`, with the photos' names."""
        rows = ranked([photo.told.score for photo in self.photos], known)
        return [{"photo": self.photos[row["place"]].name} | row for row in rows]


def one_photo(photo: Coached, about: Mapping[str, Any]) -> str:
    """One photo in full."""
    told = photo.told
    lines = [
        f"{photo.name}: it beats the shelter's middle photo ({about['median']:g}) with a chance of {_percent(told.beats_median)}, "
        f"and reaches its best quarter (over {about['top_quarter']:g}) with {_percent(told.beats_top_quarter)}",
        f"  half of photos predicted so truly scored {told.half_low:.0f} to {told.half_high:.0f}, nine of ten {told.low:.0f} to "
        f"{told.high:.0f}{' (indicative: ' + str(about['rows']) + ' rows)' if about['indicative'] else ''}",
        f"  score {told.score:.1f} of 100",
        *(f"  {note}" for note in (told.doubt, *told.notes) if note),
    ]  # fmt: skip
    for kind, head in HEADS.items():
        of_kind = [tip for tip in photo.tips if tip.kind == kind]
        if of_kind:
            lines.append(f"  {head}")
        for tip in of_kind:
            lines.append(f"    {tip.key}: {tip.advice}")
            lines += [f"      {line}" for line in (promise_words(tip), tip.based_on, tip.evidence) if line]
    if photo.crop is not None:
        lines.append(f"  {crop_words(photo.crop)}")
    return "\n".join(lines)


def promise_words(tip: Tip) -> str:
    """What such photos score more, in words that cannot be read as a score; empty where nothing is promised."""
    if tip.gain is None or tip.gain_low is None or tip.gain_high is None or tip.kind not in (ADVISED, PERHAPS):
        return ""
    low, high = (f"{abs(end):.0f} {'fewer' if end < -0.5 else 'more'}" for end in (tip.gain_low, tip.gain_high))
    both = low.split()[1] == high.split()[1]
    ends = f"{low.split()[0]} to {high}" if both else f"{low} to {high}"
    about = "less than 1 point" if abs(tip.gain) < 0.5 else f"about {_points(tip.gain)}"
    return f"Photos like that score {about} more ({ends})."


def _points(value: float) -> str:
    return f"{value:.0f} point{'' if round(value) == 1 else 's'}"


def crop_words(crop: Crop) -> str:
    """What became of the search for a crop."""
    if not crop.worth:
        return f"crop: none of {crop.tried} scores {crop.least:.1f} points more than the whole photo"
    left, top, right, bottom = (100 * edge for edge in crop.box)
    return (
        f"crop: {left:.0f} to {right:.0f} % from the left, {top:.0f} to {bottom:.0f} % from the top scores {crop.score:.1f} "
        f"instead of {crop.whole:.1f}, the best of {crop.tried}: what the networks like, and flattered by the choice"
    )


def in_order(album: Album, known: Calibration) -> str:
    """Several photos from the best down."""
    lines = []
    for row in album.order(known):
        photo = album.photos[row["place"]]
        told = photo.told
        after = "" if row["reliability"] is None else f"; truly above the next with {_percent(row['reliability'])}"
        lines.append(
            f"{row['rank']:3d}. {photo.name}: beats the middle photo with {_percent(told.beats_median)}, half of such photos "
            f"truly scored {told.half_low:.0f} to {told.half_high:.0f} (score {told.score:.1f}){after}"
        )
    if len(album.photos) > 1:
        first = album.order(known)[0]
        lines.insert(
            0,
            f"Use {first['photo']} first."
            if first["told_apart"] and not album.photos[first["place"]].told.doubt
            else "The first two cannot be told apart."
            if not first["told_apart"]
            else "The first of them is hardly a photo of a pet.",
        )
        lines.append(f"How sure the order is: {ONE_PET}.")
    return "\n".join(lines)


def as_csv(album: Album, known: Calibration) -> str:
    """A row per photo from the best down, then those that cannot be used, with the reason."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in album.order(known):
        photo = album.photos[row["place"]]
        told = photo.told
        writer.writerow({
            "rank": row["rank"], "photo": _cell(photo.name), "score": f"{told.score:.2f}", "half_low": f"{told.half_low:.1f}",
            "half_high": f"{told.half_high:.1f}", "low": f"{told.low:.1f}", "high": f"{told.high:.1f}",
            "beats_median": f"{told.beats_median:.3f}", "beats_top_quarter": f"{told.beats_top_quarter:.3f}",
            "gap_to_next": "" if row["gap"] is None else f"{row['gap']:.2f}",
            "beats_next": "" if row["reliability"] is None else f"{row['reliability']:.3f}",
            "advice": " ".join(tip.key for tip in photo.tips if tip.kind == ADVISED),
            "note": "; ".join(note for note in (told.doubt, *told.notes) if note),
        })  # fmt: skip
    writer.writerows({"photo": _cell(name), "note": _cell(reason)} for name, reason in album.faults.items())
    return text.getvalue()


def _cell(text: str) -> str:
    """Spreadsheets run cells that begin so; a quotation mark makes them words."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
