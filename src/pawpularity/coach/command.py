"""`pawpularity coach`: score photo files, or a folder of them, with a trained run.

One photo gets a full report, several are put in order. Of a folder another program gets a CSV, from the best photo down, which
--out keeps too. Photos that cannot be used are named at the end; the others are still scored. What may be no photo of a pet gets
no number.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pawpularity.console import Progress, emit, log, next_step, table, track
from pawpularity.context import Context
from pawpularity.errors import UserError, printable
from pawpularity.files import require_not_input, write_json, write_text

if TYPE_CHECKING:
    from pawpularity.coach.coach import Coach

COLUMNS = ("rank", "photo", "score", "half_low", "half_high", "low", "high", "beats_median", "beats_top_quarter", "gap_to_next",
           "beats_next", "advice", "note")  # fmt: skip
_NAMED = 20  # files that are no photos, in a log line

_NO_BETTER = "not significantly better than always answering the mean, so these numbers mean little"

Row = Mapping[str, Any]


def coach(context: Context, *, photos: Sequence[str], out: str | None = None, json: str | None = None) -> None:
    """Score `photos` and give tips. Raises UserError for wrong arguments, and at the end for photos that cannot be used."""
    if out and Path(out).is_dir():
        raise UserError(f"--out {out}: is a folder; name a file")
    files = _files(photos)
    if out:
        require_not_input("--out", out, *files)
    folder = len(photos) == 1 and Path(photos[0]).is_dir()
    import pandas as pd

    with Progress(None, "loading torch"):
        from pawpularity.coach.coach import ONE_PET, Coach

    opened = Coach.open(context)
    about = opened.about
    if about["drawn"]:
        log(
            f"{about['run']} learned from drawn pets and knows nothing of real photographs: use it to try the coach only"
        )
    found, faults = _report(opened, files)
    if not found:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in faults.items()))
    scored = [photo for photo in found if not photo["doubt"]]
    order = opened.rank([photo["score"] for photo in scored])
    order = [{"photo": scored[row["place"]]["photo"], **row} for row in order]
    rows = [_row(scored[row["place"]], row, about) for row in order]
    rows += [_row(photo, None, about) for photo in found if photo["doubt"]]
    unusable = [{"photo": name, "note": reason} for name, reason in faults.items()]
    frame = pd.DataFrame([*rows, *unusable], columns=list(COLUMNS), dtype=object)
    text: str = frame.to_csv(index=False, lineterminator="\n")
    if out:
        write_text(Path(out), text)
        log(f"wrote   {out}")
    value = {"about": about, "photos": found, "faults": faults, "order": order, "order_note": ONE_PET}
    if folder and json != "-" and not sys.stdout.isatty():  # another program reads it
        print(text, end="")
        if json:
            write_json(Path(json), value)
    elif len(found) == 1:
        emit(value, _one(found[0], about), json, more=_evidence(found[0]))
    else:
        emit(value, _several(rows, order, about, ONE_PET), json, more=_chances(rows))
    next_step(context.make_line("app", settings=False))
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
            crop = opened.crop(upload) if len(files) == 1 else None
            photo["crop"] = crop and asdict(crop)
            found.append(photo)
        except PhotoError as error:
            faults[printable(str(path))] = error.reason
    return found, faults


def _row(photo: Row, order: Row | None, about: Row) -> dict[str, Any]:
    """One photo's row of the CSV, formatted; `order` is None for a doubtful photo, which has no numbers."""
    digits = {"score": 2, "half_low": 1, "half_high": 1, "low": 1, "high": 1, "beats_median": 3, "beats_top_quarter": 3}
    numbers = {name: "" if order is None else f"{photo[name]:.{places}f}" for name, places in digits.items()}
    after = order is not None and order["gap"] is not None
    worthless = "" if about["beats_constant"] or order is None else "the run is no better than the mean"
    return {
        "rank": order["rank"] if order else "", "photo": photo["photo"], **numbers,
        "gap_to_next": f"{order['gap']:.2f}" if order and after else "",
        "beats_next": f"{order['reliability']:.3f}" if order and after else "",
        "advice": " ".join(tip["key"] for tip in photo["tips"] if tip["kind"] == "advised"),
        "note": "; ".join(note for note in (photo["doubt"], worthless, *photo["notes"]) if note),
    }  # fmt: skip


def _several(rows: Sequence[Row], order: Sequence[Row], about: Row, note: str) -> str:
    """Which photo to use first, and the photos in order."""
    lead = f"Use {rows[0]['photo']} first." if order and order[0]["clear"] else "The first two are too close to call."
    if len(order) < 2:
        lead = "Fewer than two of them have a score, so there is no order."
    if not about["beats_constant"]:
        lead = f"{about['run']} is {_NO_BETTER}."
    cells = [(row["rank"], Path(row["photo"]).name, row["score"],
              f"{row['half_low']} to {row['half_high']}" if row["rank"] else "", row["advice"]) for row in rows]  # fmt: skip
    text = table(("rank", "photo", "score", "half between", "advice"), cells, left=(1, 4))
    notes = [f"{Path(row['photo']).name}: {row['note']}" for row in rows if row["note"]]
    return "\n".join([lead, _greyed(text, about), *notes, f"The reliability of the order was {note}."])


def _chances(rows: Sequence[Row]) -> str:
    """The photos' chances, in the same order."""
    cells = [(row["rank"], row["beats_median"], row["beats_top_quarter"], row["beats_next"]) for row in rows]
    return table(("rank", "beats median", "beats top quarter", "beats next"), cells, left=())


def _one(photo: Row, about: Row) -> str:
    """The report on one photo; _evidence has the rest."""
    lines = _no_score(photo) if photo["doubt"] else _score(photo, about)
    lines += [f"{tip['key']} {_gain(tip)} points: {tip['advice']}" for tip in photo["tips"] if tip["promise"]]
    others: dict[str, list[str]] = {}
    for tip in photo["tips"]:
        if not tip["promise"]:
            others.setdefault(tip["kind"], []).append(tip["key"])
    lines += [f"{kind}: {', '.join(keys)}" for kind, keys in others.items()]
    lines.append(f"This is an estimate about the photo, not the pet. On {about['rows']:,} photos that it never saw the run is off "
                 f"by {about['rmse']:.2f} points; always answering the mean is off by {about['constant_rmse']:.2f}.")  # fmt: skip
    return "\n".join(lines)


def _no_score(photo: Row) -> list[str]:
    return [f"{photo['photo']}: no score; {photo['doubt']}", *photo["notes"]]


def _score(photo: Row, about: Row) -> list[str]:
    """Score, chances, ranges and crop of one photo, in lines."""
    few = f" (indicative: {about['rows']} rows)" if about["indicative"] else ""
    lines = [
        f"{photo['photo']}: score {photo['score']:.1f} of 100",
        f"{100 * photo['beats_median']:.0f} % chance to beat the middle photo ({about['median']:g}), "
        f"{100 * photo['beats_top_quarter']:.0f} % to reach the best quarter (over {about['top_quarter']:g})",
        f"half of the photos with this prediction truly score {photo['half_low']:.0f} to {photo['half_high']:.0f}",
        f"nine of ten of them {photo['low']:.0f} to {photo['high']:.0f}{few}",
        *photo["notes"],
    ]  # fmt: skip
    if not about["beats_constant"]:
        return [f"{about['run']} is {_NO_BETTER}; it gives no tips", _greyed("\n".join(lines), about)]
    if crop := photo["crop"]:
        lines.append(f"crop: {_crop(crop, about)}")
    return lines


def _crop(crop: Row, about: Row) -> str:
    if crop["worth"]:
        left, top, right, bottom = (f"{100 * edge:.0f}" for edge in crop["box"])
        return f"{left} to {right} % from the left, {top} to {bottom} % from the top scores {crop['score']:.1f}, the best of " \
               f"{crop['tried']}, which makes it optimistic"  # fmt: skip
    if about["drawn"]:
        return "none, because a drawn pet's true score does not depend on the crop"
    if crop["tried"] == 1:
        return "none, because no crop surely keeps the whole pet"
    return f"none of {crop['tried']} that keep the whole pet scores a point more than the whole photo"


def _evidence(photo: Row) -> str:
    """What each tip rests on."""
    rows = [(tip["key"], tip["kind"], _gain(tip), tip["seen"], tip["figures"]) for tip in photo["tips"]]
    return table(("tip", "verdict", "points", "this photo", "true scores"), rows, left=(0, 1, 3, 4)) if rows else ""


def _gain(tip: Row) -> str:
    return f"{tip['gain']:+.0f} ({tip['gain_low']:+.0f} to {tip['gain_high']:+.0f})" if tip["promise"] else ""


def _greyed(text: str, about: Row) -> str:
    """`text`, dim on a terminal if the run is no better than its constant."""
    if about["beats_constant"] or not sys.stdout.isatty():
        return text
    return "\n".join(f"\x1b[2m{line}\x1b[0m" for line in text.splitlines())
