"""What the coach says, for people: one photo in full, several as an order, a folder as a CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pawpularity.coach.calibration import Calibration
from pawpularity.coach.coach import Told, ranked
from pawpularity.coach.crop import Crop
from pawpularity.coach.tips import ADVISED, FINE, LEFT_OUT, NOT_WORTH, PERHAPS, Tip

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
        f"{photo.name}: score {told.score:.1f}",
        f"  it beats the shelter's middle photo ({about['median']:g}) with a chance of {_percent(told.beats_median)}, and reaches "
        f"its best quarter (over {about['top_quarter']:g}) with {_percent(told.beats_top_quarter)}",
        f"  half of photos predicted so truly scored {told.half_low:.0f} to {told.half_high:.0f}, nine of ten {told.low:.0f} to "
        f"{told.high:.0f}{' (indicative: ' + str(about['rows']) + ' rows)' if about['indicative'] else ''}",
        *(f"  {note}" for note in told.notes),
    ]  # fmt: skip
    for kind, head in HEADS.items():
        of_kind = [tip for tip in photo.tips if tip.kind == kind]
        if of_kind:
            lines.append(f"  {head}")
        for tip in of_kind:
            lines.append(f"    {tip.key}: {tip.advice}")
            lines += [f"      {line}" for line in (tip.promise, tip.based_on, tip.evidence) if line]
    if photo.crop is not None:
        lines.append(f"  {crop_words(photo.crop)}")
    return "\n".join(lines)


def crop_words(crop: Crop) -> str:
    """What became of the search for a crop."""
    if not crop.worth:
        return f"crop: none of {crop.tried} scores a point more than the whole photo"
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
            f"{row['rank']:3d}. {photo.name}: score {told.score:.1f} ({told.half_low:.0f} to {told.half_high:.0f}), beats the "
            f"middle photo with {_percent(told.beats_median)}{after}"
        )
    if len(album.photos) > 1:
        first = album.order(known)[0]
        lines.insert(
            0, f"Use {first['photo']} first." if first["told_apart"] else "The first two cannot be told apart."
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
            "rank": row["rank"], "photo": photo.name, "score": f"{told.score:.2f}", "half_low": f"{told.half_low:.1f}",
            "half_high": f"{told.half_high:.1f}", "low": f"{told.low:.1f}", "high": f"{told.high:.1f}",
            "beats_median": f"{told.beats_median:.3f}", "beats_top_quarter": f"{told.beats_top_quarter:.3f}",
            "gap_to_next": "" if row["gap"] is None else f"{row['gap']:.2f}",
            "beats_next": "" if row["reliability"] is None else f"{row['reliability']:.3f}",
            "advice": " ".join(tip.key for tip in photo.tips if tip.kind == ADVISED), "note": "; ".join(told.notes),
        })  # fmt: skip
    writer.writerows({"photo": name, "note": reason} for name, reason in album.faults.items())
    return text.getvalue()


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
