"""What `explain` leaves behind to look at: a panel and a strip a photo, `explain.csv`, and `index.html`, a page of its own.

The page needs no network: style and script stand in it, pictures are files beside it. Without a script it shows everything;
with one it sorts and filters.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.explain.estimate import plain
from pawpularity.explain.explain import Explained
from pawpularity.explain.extremes import KINDS
from pawpularity.explain.faithfulness import CENTRE, NOT_TOLD, RANDOM, Faithfulness
from pawpularity.explain.faithfulness_summary import USELESS, Summary, share_texts
from pawpularity.explain.methods import METHODS
from pawpularity.explain.panel import ERROR, TITLES, Caption, tiles_of, told_from_zero
from pawpularity.explain.rise_result import relative_error

PANELS, STRIPS = "panels", "strips"
JUDGE = "blur"  # the substrate whose verdict marks a map: RISE itself hides with grey
_JUDGED = ("insertion_minus_deletion", "deletion_auc", "insertion_auc", "positive_end", "negative_end", "road", "p_random",
           "beats_random", "road_beats_random", "beats_centre", "random_sd", "grain")  # fmt: skip
_FAINT = 0.15  # of the common scale: below it colours hardly show
_RISE = ("masks", "blocks", "relative_error", "verdict", "r2", "mean_score", "sd_score")
_HEAD = ("", "hidden by", "insertion - deletion", "removing highest", "lowest", "ROAD", "p, random", "beats centre")


@dataclass(frozen=True)
class Section:
    """A table (and a drawing) of the page."""

    title: str
    short: str
    """for the list of the page's parts"""
    caption: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    picture: str = ""
    """a file beside the page"""
    alt: str = ""


@dataclass(frozen=True)
class Frame:
    """What is said around the photos."""

    title: str
    intro: Sequence[str]
    scales: Mapping[str, float]
    """by method, and `error`"""
    units: Mapping[str, str]
    summaries: Sequence[Summary]
    sections: Sequence[Section] = ()
    foot: Sequence[str] = field(default_factory=list)


def weak_methods(one: Explained) -> frozenset[str]:
    """Methods whose map of this photo does not beat random orders of its grain."""
    return frozenset(row.method for row in _judged(one) if row.method in one.maps and not row.beats_random)


def caption(one: Explained, scales: Mapping[str, float]) -> Caption:
    """The words around a photo's panel."""
    record = one.record
    under: dict[str, list[str]] = {"photo": _about_photo(record)}
    for name in one.maps:
        under[name] = _about_map(one, name, scales[name])
    if "error" in tiles_of(one.maps):
        under["error"] = _about_error(one)
    return Caption(f"{one.name}   {words(record)}", under, weak_methods(one))


def words(record: Mapping[str, Any]) -> str:
    """The photo's scores in a line."""
    if record["target"] is None:
        folds = ", ".join(map(str, record["folds"]))
        return f"predicted {record['prediction']:.1f}, mean of folds {folds}; true score and metadata are not known"
    return (
        f"true {record['target']:g}, predicted {record['prediction']:.1f} ({record['prediction'] - record['target']:+.1f}) by fold "
        f"{record['fold']}, which never saw it; constant {record['constant']:.1f}"
    )


def csv_text(explained: Sequence[Explained], sanity: Mapping[str, Mapping[str, Any]]) -> str:
    """explain.csv: a row per photo and method; `sanity`: columns by method that are the same for all its rows."""
    substrates = list(dict.fromkeys(row.substrate for one in explained for row in one.judged))
    extra = list(dict.fromkeys(key for columns in sanity.values() for key in columns))
    figures = [
        f"{substrate}_{name}"
        for substrate in substrates
        for name in _JUDGED
        if name not in ("road", "road_beats_random")
    ]
    head = ["Id", "kinds", "fold", "target", "prediction", "error", "constant", "score", "hidden_score", "method", "unit",
            "map_mean", "map_sd", *_RISE, "mark", "road", "road_beats_random", *figures, *extra]  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for one in explained:
        record = one.record
        error = None if record["target"] is None else record["prediction"] - record["target"]
        about = [one.name, " ".join(record["kinds"]), record["fold"], record["target"], record["prediction"], error,
                 record["constant"], record["score"], record["hidden_score"]]  # fmt: skip
        for method, saliency in one.maps.items():
            rows = {row.substrate: row for row in one.judged if row.method == method}
            main = rows.get(JUDGE) or next(iter(rows.values()))
            cells: list[Any] = [*about, method, saliency.unit, float(saliency.map.mean()), float(saliency.map.std())]
            cells += [saliency.facts.get(key) if method == "rise" else None for key in _RISE]
            cells += [main.mark, main.road, main.road_beats_random]
            cells += [getattr(rows[s], name) if s in rows else None for s in substrates for name in _JUDGED
                      if name not in ("road", "road_beats_random")]  # fmt: skip
            cells += [sanity.get(method, {}).get(key) for key in extra]
            writer.writerow([_cell(value) for value in cells])
    return text.getvalue()


def page(explained: Sequence[Explained], frame: Frame) -> str:
    """index.html."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pawpularity.explain", "."), autoescape=True, undefined=StrictUndefined,
        trim_blocks=False, keep_trailing_newline=True,
    )  # fmt: skip
    methods = list(dict.fromkeys(name for one in explained for name in one.maps))
    kinds = [kind for kind in KINDS if any(kind in one.record["kinds"] for one in explained)]
    return environment.get_template("gallery.html.j2").render(
        title=frame.title, intro=frame.intro, foot=frame.foot, count=len(explained),
        scales=[{"title": TITLES.get(name, name), "end": f"{frame.scales[name]:g}", "unit": frame.units[name]} for name in methods],
        error_scale=f"{frame.scales['error']:g}" if any("error" in tiles_of(one.maps) for one in explained) else "",
        faithfulness=_faithfulness(frame.summaries), sections=frame.sections,
        kinds={kind: KINDS[kind] for kind in kinds},
        folds=sorted({one.record["fold"] for one in explained if one.record["fold"] is not None}),
        methods=[{"name": name, "title": TITLES.get(name, name)} for name in methods],
        judged_head=_HEAD, cards=[_card(one, frame.scales) for one in explained],
    )  # fmt: skip


def _about_photo(record: Mapping[str, Any]) -> list[str]:
    lines = [KINDS[kind] for kind in record["kinds"]]
    lines.append(f"the network's own score {record['score']:.1f}")
    lines.append(f"with everything hidden {record['hidden_score']:.1f}")
    return lines


def _about_map(one: Explained, name: str, scale: float) -> list[str]:
    facts, lines = one.maps[name].facts, []
    if name == "rise":
        error = facts.get("relative_error")
        lines.append(f"{facts['masks']} masks: {facts['verdict']}")
        lines.append("no error bar: too few blocks" if facts.get("coarse") else
                     f"relative error {'above 1' if error is None else f'{error:.2f}'}")  # fmt: skip
        if facts.get("r2") is not None:
            lines[-1] += f", linear share {facts['r2']:.2f}"
    elif name == "gradient":
        lines.append(f"mean of {facts['smooth']} noisy copies" if facts.get("smooth") else "of the photo alone")
        if (error := one.maps[name].standard_error) is not None:
            known = relative_error(one.maps[name].map.astype(np.float64), error.astype(np.float64) ** 2)
            lines.append(f"relative error {known:.2f}" if known < 1 else "no larger than its error")
        lines.append("red: brighter here, higher score")
    elif name == "gradcam":
        cells = facts.get("cells")
        lines.append(f"{facts['layer']}{f', {cells[0]} x {cells[1]} cells' if cells else ''}")
    lines.append(_span(one.maps[name].map, scale))
    row = _main(one, name)
    if row is not None:
        if one.maps[name].effect is not None:
            lines.append(f"judged: {METHODS[name].judged_as}")
        lines.append(f"insertion - deletion {row.insertion_minus_deletion:+.1f} (random: sd {row.random_sd:.1f})")
        lines.append(f"{'beats random' if row.beats_random else NOT_TOLD} (p {row.p_random:.3f})")
        if not np.isnan(row.road):
            lines.append(f"ROAD {row.road:+.1f}: {'beats random' if row.road_beats_random else NOT_TOLD}")
    return lines


def _span(values: NDArray[np.floating[Any]], scale: float) -> str:
    """The map's own range: on the common scale the map of a low score may look empty."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return f"{low:+.2g} everywhere"
    faint = ": faint on this scale" if max(-low, high) < _FAINT * scale else ""
    return f"from {low + 0.0:+.2g} to {high + 0.0:+.2g}{faint}"


def _about_error(one: Explained) -> list[str]:
    rise = one.maps["rise"]
    assert rise.standard_error is not None
    told = told_from_zero(rise)
    return [
        f"{100 * float(told.mean()):.0f} % of the places told from zero:",
        "outlined, red above it, blue below;",
        "hatched: not told (95 %, pixel by pixel)",
    ]


def _main(one: Explained, method: str) -> Faithfulness | None:
    return next((row for row in _judged(one) if row.method == method), None)


def _judged(one: Explained) -> list[Faithfulness]:
    rows = one.judged
    return [row for row in rows if row.substrate == JUDGE] or rows


def _card(one: Explained, scales: Mapping[str, float]) -> dict[str, Any]:
    record, tiles = one.record, tiles_of(one.maps)
    weak, around = weak_methods(one), caption(one, scales)
    titles = {"photo": "photo", "error": ERROR} | TITLES
    alts = {
        "photo": f"the photo {one.name}, as the network sees it",
        "error": f"standard error of the RISE map of {one.name}",
    }
    shown = [
        {
            "title": titles.get(name, name), "place": f"{100 * place / max(1, len(tiles) - 1):.4f}".rstrip("0").rstrip("."),
            "alt": alts.get(name) or _alt(one, name), "weak": NOT_TOLD if name in weak else "",
            "lines": around.under.get(name, ())[len(record["kinds"]) if name == "photo" else 0 :],
        }
        for place, name in enumerate(tiles)
    ]  # fmt: skip
    target, prediction, constant = record["target"], record["prediction"], record["constant"]
    rise = one.maps.get("rise")
    precision = None if rise is None else rise.facts.get("relative_error")
    lines = [f"{TITLES.get(name, name)}: {line}" for name, saliency in one.maps.items() for line in saliency.warnings]
    return {
        "name": one.name, "kinds": record["kinds"], "fold": "" if record["fold"] is None else record["fold"],
        "target": "" if target is None else f"{target:g}", "prediction": f"{prediction:.4f}",
        "error": "" if target is None else f"{prediction - target:.4f}",
        "precision": "" if precision is None else f"{precision:.4f}", "words": words(record),
        "at": {key: None if value is None else f"{8 + 2.14 * value:.1f}"
               for key, value in (("target", target), ("prediction", prediction), ("constant", constant))},
        "tiles": shown, "beats": sorted(set(one.maps) - weak), "warnings": [*record["refusals"], *lines],
        "gains": {row.method: f"{row.insertion_minus_deletion:.4f}" for row in _judged(one) if row.method in one.maps},
        "judged": [_judged_row(row) for row in one.judged],
    }  # fmt: skip


def _alt(one: Explained, name: str) -> str:
    """A map in words: where it is strongest, for whoever cannot see it."""
    values = one.maps[name].map
    side = np.array_split(np.arange(values.shape[0]), 3), np.array_split(np.arange(values.shape[1]), 3)
    means = np.array([[float(values[np.ix_(rows, columns)].mean()) for columns in side[1]] for rows in side[0]])
    places = [[f"{v} {h}" if (v, h) != ("middle", "middle") else "middle" for h in ("left", "middle", "right")]
              for v in ("top", "middle", "bottom")]  # fmt: skip
    high, low = (np.unravel_index(int(pick(means)), means.shape) for pick in (np.argmax, np.argmin))
    raises = (
        f"raises the score most at the {places[high[0]][high[1]]}"
        if means[high] > 0
        else "raises it in no ninth of the photo"
    )
    lowers = f"lowers it most at the {places[low[0]][low[1]]}" if means[low] < 0 else "lowers it in none"
    return f"{TITLES.get(name, name)} map: {raises}, {lowers}"


def _judged_row(row: Faithfulness) -> list[str]:
    shown = [f"{v:+.2f}" if np.isfinite(v) else "-"
             for v in (row.insertion_minus_deletion, row.positive_end, row.negative_end, row.road)]  # fmt: skip
    own = row.method not in (RANDOM, CENTRE)
    return [TITLES.get(row.method, row.method), row.substrate, *shown, f"{row.p_random:.3f}" if np.isfinite(row.p_random) else "-",
            ("yes" if row.beats_centre else "no") if own else "-"]  # fmt: skip


def _faithfulness(summaries: Sequence[Summary]) -> dict[str, Any]:
    head = ["", "hidden by", "photos", "insertion - deletion", "removing highest", "removing lowest", "ROAD", "over centre first",
            "beat random", "by ROAD", ""]  # fmt: skip
    summaries = [one for one in summaries if one.method != RANDOM]  # 0 by construction
    rows = []
    for one in summaries:
        f = one.figures
        figures = [
            f[name].text(1)
            for name in ("insertion_minus_deletion", "positive_end", "negative_end", "road", "over_centre")
        ]
        cells = [TITLES.get(one.method, one.method), one.substrate, str(one.photos), *figures, *share_texts(one)]
        rows.append([*cells, one.verdict])
    notes = [
        "insertion - deletion: area under the score while the highest places are shown first on a hidden photo, less that while "
        "they are removed first; above zero is right. Removing the highest must lower the score, removing the lowest raise it.",
        "Hidden places show a blurred photo or the mean colour (grey). RISE hides with grey itself, so blur and ROAD, which fills "
        "holes in from their surroundings, are the neutral judges.",
        f"{USELESS[0].upper()}{USELESS[1:]}: pets stand in the middle, and a blob there ranks places well without looking. So see "
        "'over centre first'. The last column takes the photos' p together: one photo alone tells little.",
        "The gradient says what brightening a place does, which hiding cannot bear out: its row judges gradient x (photo - mean).",
    ]
    return {"head": head, "rows": rows, "notes": notes}


def _cell(value: Any) -> Any:
    value = plain(float(value) if isinstance(value, np.floating) else value)
    if isinstance(value, bool):
        return int(value)
    return f"{value:.6g}" if isinstance(value, float) else value


def write_pictures(part: Path, explained: Sequence[Explained], photos: Mapping[str, NDArray[np.uint8]],
                   scales: Mapping[str, float]) -> None:  # fmt: skip
    """`strips/NAME.png` and `panels/NAME.png` of every photo, whose pixels (s, s, 3) are in `photos`."""
    from pawpularity.explain.panel import draw_panel, strip, write_strip

    for one in explained:
        tiles = strip(photos[one.name], one.maps, scales)
        write_strip(part / STRIPS / f"{one.name}.png", tiles)
        draw_panel(part / PANELS / f"{one.name}.png", tiles, one.maps, scales, caption(one, scales))
