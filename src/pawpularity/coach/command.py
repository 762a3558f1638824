"""`pawpularity coach`: photos by their files, or a folder of them, with a run of ours.

One photo is told in full; several are put in order; of a folder the answer is a CSV from the best photo down. Photos that
cannot be used are named at the end, and do not keep the others from being looked at.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pawpularity.coach.coach import Coach
from pawpularity.coach.text import ONE_PET, Album, Coached, as_csv, in_order, one_photo
from pawpularity.coach.upload import MOST_BYTES, Upload
from pawpularity.console import emit, log, track
from pawpularity.data.photos import PhotoError, read_photo
from pawpularity.errors import UserError
from pawpularity.explain.chosen import choose
from pawpularity.files import write_text

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MOST = 100_000


def open_coach(options: argparse.Namespace) -> Coach:
    """The coach of the run that `options` name. Raises UserError for words that mean nothing here, and as `Coach.open` does."""
    if other := [word for word in options.settings if not word.startswith(("explain.", "cache."))]:
        raise UserError(f'{options.verb}: uses the run\'s own settings; remove "{other[0]}"')
    options.masks = None  # as `explain` has them
    return Coach.open(choose(options, options.settings))


def run_coach(options: argparse.Namespace) -> None:
    """One command. Raises UserError for whatever is wrong with its words, and after the others for photos that cannot be used."""
    words = [word for word in options.photos if "=" not in word or Path(word).exists()]
    options.settings = [*options.settings, *(word for word in options.photos if word not in words)]
    if not words:
        raise UserError("coach: names no photo; give photo files, or a folder of photos")
    for word in words:
        if not Path(word).exists():
            raise UserError(f"{word}: there is no such photo or folder")
    folder = len(words) == 1 and Path(words[0]).is_dir()
    files = _files(words)
    coach = open_coach(options)
    log(f"runs on {coach.about['metadata']}")
    for line in coach.about["warnings"]:
        log(line)
    album = look(coach, files, tips=folder or len(files) <= 20, crops=len(files) == 1)
    if not album.photos:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in album.faults.items()))
    value = {"about": coach.about, "photos": [photo.to_dict() for photo in album.photos], "faults": dict(album.faults),
             "order": album.order(coach.known), "order_note": ONE_PET}  # fmt: skip
    table = as_csv(album, coach.known)
    if options.out:
        write_text(Path(options.out), table)
        log(f"wrote   {options.out}")
    text = table.rstrip("\n") if folder else _text(album, coach)
    emit(value, text, options.json)
    if album.faults:
        some = "; ".join(f"{name}: {reason}" for name, reason in list(album.faults.items())[:20])
        raise UserError(f"{len(album.faults)} of {len(files)} photos cannot be used ({some}); the others are above")


def look(coach: Coach, files: Sequence[Path], *, tips: bool, crops: bool) -> Album:
    """Every photo of `files`, with tips and the best crop if asked for."""
    photos, faults = [], {}
    for file in track(files, "looking at photos"):
        try:
            upload = Upload.of(read_photo(file, MOST_BYTES))
            told = coach.score(upload)
            found = coach.tips(upload) if tips else []
            photos.append(Coached(str(file), told, found, coach.crop(upload) if crops else None))
        except PhotoError as error:
            faults[str(file)] = error.reason
    return Album(photos, faults)


def _text(album: Album, coach: Coach) -> str:
    parts = [one_photo(photo, coach.about) for photo in album.photos]
    if len(album.photos) > 1:
        parts.insert(0, in_order(album, coach.known))
    return "\n\n".join(
        [*parts, "\n".join([*coach.about["statements"], *(row["words"] for row in coach.about["promises"])])]
    )


def _files(words: Sequence[str]) -> list[Path]:
    """The photos that `words` name: files as they are, folders by what is in them (not below), in the order of names."""
    files: list[Path] = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            inside = sorted(
                file for file in path.iterdir() if file.suffix.lower() in ENDINGS and not file.name.startswith(".")
            )
            if not inside:
                raise UserError(f"{word}: holds no photo ({', '.join(ENDINGS)}); folders below it are not looked into")
            files += inside
        else:
            files.append(path)
    if len(files) > MOST:
        raise UserError(f"{len(files)} photos are more than {MOST}; take fewer at a time")
    return list(dict.fromkeys(files))
