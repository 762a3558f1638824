"""`pawpularity coach`: score photo files, or a folder of them, with a trained run.

One photo gets a full report, several are put in order, and a folder gives a CSV from the best photo down. Photos that cannot be
used are named at the end; the others are still scored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pawpularity.console import emit, log, make_word, next_step, table, track
from pawpularity.context import Context
from pawpularity.errors import UserError, printable
from pawpularity.files import write_text

if TYPE_CHECKING:
    from pawpularity.coach.coach import Coach

COLUMNS = ("rank", "photo", "score", "half_low", "half_high", "low", "high", "beats_median", "beats_top_quarter", "gap_to_next",
           "beats_next", "advice", "note")  # fmt: skip
_NAMED = 20  # files that are no photos, in a log line

Row = Mapping[str, Any]


def coach(context: Context, *, photos: Sequence[str], out: str | None = None, json: str | None = None) -> None:
    """Score `photos` and give tips. Raises UserError for wrong arguments, and at the end for photos that cannot be used."""
    if out and Path(out).is_dir():
        raise UserError(f"--out {out}: is a folder; name a file")
    files = _files(photos)
    folder = len(photos) == 1 and Path(photos[0]).is_dir()
    import pandas as pd

    from pawpularity.coach.coach import ONE_PET, Coach, ranked

    opened = Coach.open(context)
    about = opened.about
    if about["drawn"]:
        log(
            f"{about['run']} learned from drawn pets and knows nothing of real photographs: use it to try the coach only"
        )
    if not about["beats_constant"]:
        log(f"{about['run']} is not significantly better than a constant: use it to try the coach only")
    found, faults = _report(opened, files)
    if not found:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in faults.items()))
    order = ranked([photo["score"] for photo in found], opened.calibration)
    order = [{"photo": found[row["place"]]["photo"], **row} for row in order]
    rows = [_row(found[row["place"]], row) for row in order]
    unusable = [{"photo": name, "note": reason} for name, reason in faults.items()]
    frame = pd.DataFrame([*rows, *unusable], columns=list(COLUMNS), dtype=object)
    text: str = frame.to_csv(index=False, lineterminator="\n")
    if out:
        write_text(Path(out), text)
        log(f"wrote   {out}")
    if not folder:
        text = _one(found[0], about) if len(found) == 1 else _several(rows, bool(order[0]["clear"]), ONE_PET)
    value = {"about": about, "photos": found, "faults": faults, "order": order, "order_note": ONE_PET}
    emit(value, text.rstrip("\n"), json)
    next_step(f"make app {make_word('RUN', opened.run.name)}")
    if faults:
        some = "; ".join(f"{name}: {reason}" for name, reason in list(faults.items())[:20])
        raise UserError(f"{len(faults)} of {len(files)} photos cannot be used ({some}); the others are above")


def _files(words: Sequence[str]) -> list[Path]:
    """The photos that `words` name: files, and photos directly inside folders, sorted by name. Other files there are logged."""
    if not words:
        raise UserError("coach: no photo is named; give photo files, or a folder of photos")
    from pawpularity.data.photos import photos_in

    files: list[Path] = []
    for path in map(Path, words):
        if not path.exists():
            raise UserError(f"{path}: there is no such photo or folder")
        inside, others = photos_in(path) if path.is_dir() else ([path], [])
        if others:
            more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
            log(f"{path}: passed over, no photos: {', '.join(file.name for file in others[:_NAMED])}{more}")
        if not inside:
            raise UserError(f"{path}: holds no photo; folders below it are not searched")
        files += inside
    return list(dict.fromkeys(files))


def _report(opened: "Coach", files: Sequence[Path]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Every photo's report for JSON (with a crop if there is only one photo), and by photo why the others cannot be used."""
    from pawpularity.coach.upload import MAX_BYTES, Upload
    from pawpularity.data.photos import PhotoError, read_photo

    found, faults = [], {}
    for path in track(files, "scoring"):
        try:
            upload = Upload.of(read_photo(path, MAX_BYTES))
            photo = {"photo": printable(str(path)), **asdict(opened.score(upload))}
            photo["tips"] = [asdict(tip) for tip in opened.tips(upload)]
            photo["crop"] = asdict(opened.crop(upload)) if len(files) == 1 else None
            found.append(photo)
        except PhotoError as error:
            faults[printable(str(path))] = error.reason
    return found, faults


def _row(photo: Row, order: Row) -> dict[str, Any]:
    """One photo's row of the CSV, formatted."""
    digits = {"score": 2, "half_low": 1, "half_high": 1, "low": 1, "high": 1, "beats_median": 3, "beats_top_quarter": 3}
    after = order["gap"] is not None
    return {
        "rank": order["rank"], "photo": photo["photo"], **{name: f"{photo[name]:.{places}f}" for name, places in digits.items()},
        "gap_to_next": f"{order['gap']:.2f}" if after else "", "beats_next": f"{order['reliability']:.3f}" if after else "",
        "advice": " ".join(tip["key"] for tip in photo["tips"] if tip["kind"] == "advised"),
        "note": "; ".join(note for note in (photo["doubt"], *photo["notes"]) if note),
    }  # fmt: skip


def _several(rows: Sequence[Row], sure: bool, note: str) -> str:
    """Which photo to use first, and the photos in order."""
    lead = f"Use {rows[0]['photo']} first." if sure else "The first two are too close to call."
    if sure and "means nothing" in rows[0]["note"]:
        lead = "The first one may not be a photo of a pet."
    shown = ("rank", "photo", "score", "half_low", "half_high", "beats_median", "beats_next", "advice", "note")
    text = table(
        [name.replace("_", " ") for name in shown], [[row[name] for name in shown] for row in rows], left=(1, 7, 8)
    )
    return f"{lead}\n{text}\nThe reliability of the order was {note}."


def _one(photo: Row, about: Row) -> str:
    """The full report on one photo."""
    few = f" (indicative: {about['rows']} rows)" if about["indicative"] else ""
    lines = [
        f"{photo['photo']}: score {photo['score']:.1f} of 100",
        f"{100 * photo['beats_median']:.0f} % chance to beat the middle photo ({about['median']:g}), "
        f"{100 * photo['beats_top_quarter']:.0f} % to reach the best quarter (over {about['top_quarter']:g})",
        f"half of the photos with this prediction truly score {photo['half_low']:.0f} to {photo['half_high']:.0f}",
        f"nine of ten of them {photo['low']:.0f} to {photo['high']:.0f}{few}",
        *(note for note in (photo["doubt"], *photo["notes"]) if note),
    ]  # fmt: skip
    if crop := photo["crop"]:
        left, top, right, bottom = (f"{100 * edge:.0f}" for edge in crop["box"])
        found = f"{left} to {right} % from the left, {top} to {bottom} % from the top scores {crop['score']:.1f}, the best of " \
                f"{crop['tried']}, which makes it optimistic"  # fmt: skip
        none = f"none of {crop['tried']} scores {crop['least']:.1f} points more than the whole photo"
        lines.append(f"crop: {found if crop['worth'] else none}")
    rows = []
    for tip in photo["tips"]:
        gain = f"{tip['gain']:+.0f} ({tip['gain_low']:+.0f} to {tip['gain_high']:+.0f})" if tip["promise"] else ""
        rows.append((tip["key"], tip["kind"], gain, tip["seen"], tip["figures"]))
    lines.append(table(("tip", "verdict", "points", "this photo", "true scores"), rows, left=(0, 1, 3, 4)))
    lines += [f"{tip['key']}: {tip['advice']}" for tip in photo["tips"] if tip["promise"]]
    lines.append(f"This is an estimate about the photo, not the pet. On {about['rows']:,} photos that it never saw the run is off "
                 f"by {about['rmse']:.1f} points; always answering the mean is off by {about['constant_rmse']:.1f}.")  # fmt: skip
    return "\n".join(lines)
