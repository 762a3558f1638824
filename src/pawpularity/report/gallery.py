"""The page's gallery: photos with their maps, from the results of `explain`; every figure is copied from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawpularity.console import make_word
from pawpularity.errors import UserError
from pawpularity.explain.methods import ERROR, TITLES
from pawpularity.explain.photos import KINDS
from pawpularity.files import read_json
from pawpularity.report.components import Block, Cards, Cell, Section, Table, Words, as_written, flagged, number, span
from pawpularity.report.inputs import Entry, flags_of
from pawpularity.report.pictures import data_uri, read_picture, tiles

MOST_PHOTOS = 120  # on the page, about 5 MB; the galleries that explain wrote hold all photos
JUDGE = "blur"  # the baseline whose verdict marks a map, as in explain's galleries
NAMED, NAMED_WORDS = "asked", "chosen photos"
_PARTS = (Path("explain"), Path("explain") / "photos")


@dataclass(frozen=True, eq=False)
class Gallery:
    """One folder that `explain` filled."""

    one: Entry
    folder: Path
    record: Mapping[str, Any]
    """its explain.json"""

    @property
    def named(self) -> bool:
        """Whether its photos were named by the user (PHOTO=...), not chosen as extremes."""
        return self.folder.name == "photos"

    @property
    def command(self) -> str:
        """The command that makes it."""
        return f"make explain {make_word('RUN', self.one.name)}{' PHOTO=...' if self.named else ''}"

    @property
    def photos(self) -> Sequence[Mapping[str, Any]]:
        """The photos' records."""
        photos: Sequence[Mapping[str, Any]] = self.record["photos"]
        return photos


def gallery_section(entries: Sequence[Entry]) -> Section:
    """All galleries of the entries in one, with filters, below a table of the methods' tests."""
    faults: list[str] = []
    found: list[Gallery] = []
    for one in entries:
        for part in _PARTS if one.run is not None else ():
            assert one.run is not None
            folder = one.run.folder / part
            if not (folder / "index.html").is_file():  # it is written last: without it the rest is not complete
                continue
            try:
                found.append(_opened(one, folder))
            except UserError as error:
                faults.append(str(error))
    cards: list[dict[str, Any]] = []
    total = sum(len(gallery.photos) for gallery in found)
    for gallery in found:
        # Every gallery gets the same number of the page's photos.
        most = len(gallery.photos) if total <= MOST_PHOTOS else max(1, MOST_PHOTOS // len(found))
        for photo in gallery.photos[:most]:
            try:
                cards.append(_card(gallery, photo))
            except UserError as error:
                faults.append(str(error))
    blocks: list[Block] = []
    if cards:
        lines = [
            "Red places raise a photo's score and blue ones lower it; where a map is zero the grey photo shows. A map says what "
            "the network does, not what people like. A red frame marks a map that ranks this photo's places no better than "
            "random maps of the same coarseness. Pets are mostly in the middle, so a fixed blob there also ranks well: see the "
            "row of the centre."
        ]
        if len(cards) < total:
            folders = ", ".join(f"{gallery.folder}/index.html" for gallery in found)
            lines.append(f"{len(cards)} of {total} photos, to keep the page light; all of them: {folders}.")
        summary = _summary(found, flags_of(entries))
        blocks.append(Words(lines))
        blocks += [summary] if summary.rows else []
        blocks.append(Cards(cards, _choices(cards), _scales(found), found[0].command))
    return Section("explain", "Where a score comes from", "maps", "make explain", blocks, faults)


def _opened(one: Entry, folder: Path) -> Gallery:
    """Open the gallery in `folder`. Raises UserError if it is about other predictions than the run's, or not written by explain."""
    path = folder / "explain.json"
    gallery = Gallery(one, folder, read_json(path, f"the gallery of {one.name}"))
    with as_written(path, "explain", gallery.command):
        rows = [(photo["name"], photo["target"], photo["prediction"]) for photo in gallery.photos
                if photo["target"] is not None]  # fmt: skip
        if not one.holds(rows):
            raise UserError(f"{folder}: is about other predictions than {one.name} holds now; run: {gallery.command}")
        _summary([gallery], {})
        _scales([gallery])
    return gallery


def _card(gallery: Gallery, photo: Mapping[str, Any]) -> dict[str, Any]:
    with as_written(gallery.folder / "explain.json", "explain", gallery.command):
        one, name, methods = gallery.one, photo["name"], photo["methods"]
        target, prediction, constant = photo["target"], photo["prediction"], photo["constant"]
        judged = _judged(photo)
        error = None if target is None else prediction - target
        places = {"target": target, "prediction": prediction, "constant": constant}
        warnings = [f"{TITLES.get(key, key)}: {line}" for key, about in methods.items() for line in about["warnings"]]
        precision = methods.get("rise", {"facts": {}})["facts"].get("relative_error")
        return {
            "run": one.name, "flag": one.flag, "name": name, "kinds": photo["kinds"] or [NAMED],
            "fold": "" if photo["fold"] is None else photo["fold"], "words": _words(photo, one.row["leaky"]),
            "target": "" if target is None else f"{target:g}", "prediction": f"{prediction:.4f}",
            "error": "" if error is None else f"{error:.4f}", "precision": "" if precision is None else f"{precision:.4f}",
            "beats": sorted(key for key, row in judged.items() if row["beats_random"]),
            # Positions on a scale of 230 px, half a dot in from its ends.
            "at": {key: None if value is None else f"{8 + 2.14 * value:.1f}" for key, value in places.items()},
            "tiles": _tiles(gallery, photo, judged), "warnings": [*photo["refusals"], *warnings],
        }  # fmt: skip


def _words(photo: Mapping[str, Any], leaky: bool | None) -> str:
    """The photo's scores in a line."""
    target, prediction, constant = photo["target"], photo["prediction"], photo["constant"]
    if target is None:
        return f"predicted {prediction:.1f}; its true score is not known"
    by = f"fold {photo['fold']}{'' if leaky else ', which never saw it'}"
    return f"true {target:g}, predicted {prediction:.1f} ({prediction - target:+.1f}) by {by}; constant {constant:.1f}"


def _judged(photo: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By method, the row of its map's tests: the row with the baseline JUDGE, if there is one."""
    rows = [row for row in photo["judged"] if row["method"] in photo["methods"]]
    return {row["method"]: row for row in [*rows, *(row for row in rows if row["baseline"] == JUDGE)]}


def _tiles(gallery: Gallery, photo: Mapping[str, Any], judged: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    path = gallery.folder / "strips" / f"{photo['name']}.png"
    strip = read_picture(path, gallery.command)
    names = ["photo", *photo["methods"]]
    if strip.width == strip.height * (len(names) + 1):  # the last tile exists if RISE has a standard error
        names.append("error")
    shown = []
    for name, tile in tiles(strip, names, path, gallery.command).items():
        uri, (width, height) = data_uri(tile)
        row = judged.get(name)
        title = {"photo": "photo", "error": ERROR}.get(name) or TITLES.get(name, name)
        lines = _lines(name, photo["methods"].get(name, {"facts": {}})["facts"], row)
        alt = {
            "photo": f"the photo {photo['name']}, as the network sees it",
            "error": f"standard error of the RISE map of {photo['name']}, outlined where the map differs from zero",
        }.get(name, f"{title} map of {photo['name']}: {'; '.join(lines)}")
        weak = row is not None and not row["beats_random"]
        shown.append(
            {"uri": uri, "width": width, "height": height, "title": title, "alt": alt, "lines": lines, "weak": weak}
        )
    return shown


def _lines(name: str, facts: Mapping[str, Any], row: Mapping[str, Any] | None) -> list[str]:
    """The lines under a tile, the verdict last."""
    lines: list[str] = []
    if name == "rise":
        error = facts["relative_error"]
        lines.append(f"{facts['masks']} masks, relative error {'above 1' if error is None else f'{error:.2f}'}")
    if row is not None:
        lines.append(f"insertion - deletion {row['insertion_minus_deletion']:+.1f} points")
        lines.append(f"{row['mark'] or 'beats random'} (p {number(row['p_random'])})")
    return lines


def _summary(found: Sequence[Gallery], flags: Mapping[str, str]) -> Table:
    """A row per gallery and method: the faithfulness over all its photos."""
    rows: list[list[str | Cell]] = []
    for gallery in found:
        for line in gallery.record["summary"]:
            if line["baseline"] != JUDGE:
                continue
            gain, beats = line["insertion_minus_deletion"], line["beats_random"]["mean"]
            method = line["method"]
            rows.append([
                flagged(gallery.one.name, flags), NAMED_WORDS if gallery.named else "extremes", TITLES.get(method, method),
                str(line["photos"]), f"{number(gain['mean'], 1, signed=True)} {span(gain['low'], gain['high'], 1)}",
                f"{100 * beats:.0f} %" if method in TITLES and beats is not None else "-", line["verdict"] or "-",
            ])  # fmt: skip
    caption = ("The methods over all photos of a gallery: area under the score while places are shown less while they are "
               "removed, highest first, points; hidden places show a blurred photo")  # fmt: skip
    head = ["run", "photos", "map", "n", "insertion - deletion, 95 %", "beat random", "verdict"]
    return Table(caption, head, rows, found[0].command)


def _choices(cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The options of the filters: only values that occur."""
    kinds = {kind for card in cards for kind in card["kinds"]}
    titles = {tile["title"] for card in cards for tile in card["tiles"]}
    return {
        "runs": list(dict.fromkeys(card["run"] for card in cards)),
        "kinds": {kind: words for kind, words in [*KINDS.items(), (NAMED, NAMED_WORDS)] if kind in kinds},
        "folds": sorted({card["fold"] for card in cards if card["fold"] != ""}),
        "methods": {name: title for name, title in TITLES.items() if title in titles},
    }


def _scales(found: Sequence[Gallery]) -> list[dict[str, str]]:
    """The end of each method's colours, by gallery."""
    lines = []
    for gallery in found:
        of = f"of {gallery.one.name}{f', {NAMED_WORDS}' if gallery.named else ''}" if len(found) > 1 else ""
        for method, end in gallery.record["scales"].items():
            units = (photo["methods"][method]["unit"] for photo in gallery.photos if method in photo["methods"])
            if method == "error" and not any("rise" in photo["methods"] for photo in gallery.photos):
                continue
            signed = "yes" if method in TITLES else ""
            lines.append({"of": of, "title": TITLES.get(method, ERROR), "end": f"{end:g}", "signed": signed,
                          "unit": next(units, "score points")})  # fmt: skip
    return lines
