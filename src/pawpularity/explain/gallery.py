"""What `explain` leaves to look at: a panel and a strip a photo, explain.csv, and index.html, a page that needs no network.

Style and script are in the page, pictures are files beside it. Without a script it shows everything; with one it sorts and
filters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pawpularity.explain.faithfulness import CENTRE, NO_BETTER, Faithfulness
from pawpularity.explain.methods import ERROR, METHODS, TITLES
from pawpularity.explain.panel import Column, draw_panel, tiles, tiles_of, write_strip
from pawpularity.explain.panel import differs_from_zero as differs
from pawpularity.explain.photos import KINDS
from pawpularity.explain.rise_result import relative_error
from pawpularity.explain.saliency import Saliency
from pawpularity.explain.sanity import Sanity
from pawpularity.explain.summary import USELESS, Summary, summary_rows

JUDGE = "blur"  # the baseline whose verdict marks a map: RISE itself hides with grey
_FAINT = 0.15  # of the common scale: below it colours hardly show
_HEAD = (
    "",
    "hidden by",
    "insertion - deletion",
    "removing highest",
    "removing lowest",
    "ROAD",
    "p, random",
    "beats centre",
)


@dataclass(frozen=True, eq=False)
class Explained:
    """The results about one photo, as read back from disk."""

    record: Mapping[str, Any]
    maps: Mapping[str, Saliency]

    @property
    def name(self) -> str:
        """The photo's Id, or the name made of its file's."""
        return str(self.record["name"])

    @property
    def judged(self) -> list[Faithfulness]:
        """The rows of `judge`, without their curves."""
        return [Faithfulness.from_dict(row) for row in self.record["judged"]]

    @property
    def main(self) -> dict[str, Faithfulness]:
        """By method, the row whose verdict marks its map."""
        rows = [row for row in self.judged if row.method in self.maps]
        return {row.method: row for row in [*rows, *(row for row in rows if row.baseline == JUDGE)]}

    @property
    def weak(self) -> set[str]:
        """Methods whose map of this photo does not beat random orders of its grain."""
        return {name for name, row in self.main.items() if not row.beats_random}

    @property
    def words(self) -> str:
        """The photo's scores in a line."""
        target, prediction = self.record["target"], self.record["prediction"]
        if target is None:
            folds = ", ".join(map(str, self.record["folds"]))
            return f"predicted {prediction:.1f}, mean of folds {folds}; true score and metadata are not known"
        return (
            f"true {target:g}, predicted {prediction:.1f} ({prediction - target:+.1f}) by fold {self.record['fold']}, which never "
            f"saw it; constant {self.record['constant']:.1f}"
        )

    def lines(self, tile: str, scale: float) -> list[str]:
        """What is written below a tile: `photo`, a method or `error`."""
        if tile == "photo":
            score, hidden = self.record["score"], self.record["hidden_score"]
            return [f"the network's own score {score:.1f}", f"with everything hidden {hidden:.1f}"]
        if tile == "error":
            share = 100 * float(differs(self.maps["rise"]).mean())
            return [f"{share:.0f} % of the map differs from zero:", "outlined, red above it, blue below",
                    "hatched: may be zero (95 %, pixel by pixel)"]  # fmt: skip
        return [*_about_map(tile, self.maps[tile], scale), *_about_tests(self.maps[tile], self.main.get(tile))]


def _about_map(name: str, saliency: Saliency, scale: float) -> list[str]:
    facts, lines = saliency.facts, []
    if name == "rise":
        error, r2 = facts.get("relative_error"), facts.get("r2")
        lines.append(f"{facts['masks']} masks: {facts['verdict']}")
        known = f"relative error {'above 1' if error is None else f'{error:.2f}'}"
        lines.append("no error bar: too few blocks" if facts.get("coarse") else known)
        lines += [] if r2 is None else [f"linear share {r2:.2f}"]
    elif name == "gradient":
        lines.append(f"mean of {facts['smooth']} noisy copies" if facts.get("smooth") else "of the photo alone")
        if saliency.standard_error is not None:
            known_error = relative_error(
                saliency.map.astype(np.float64), saliency.standard_error.astype(np.float64) ** 2
            )
            lines.append(f"relative error {known_error:.2f}" if known_error < 1 else "no larger than its error")
        lines.append("red: brighter here, higher score")
    elif name == "gradcam":
        lines.append(f"the last features, {' x '.join(map(str, facts.get('cells', [])))} cells")
    low, high = float(saliency.map.min()), float(saliency.map.max())
    faint = ": faint on this scale" if max(-low, high) < _FAINT * scale else ""
    return [*lines, f"{low:+.2g} everywhere" if low == high else f"from {low + 0.0:+.2g} to {high + 0.0:+.2g}{faint}"]


def _about_tests(saliency: Saliency, row: Faithfulness | None) -> list[str]:
    if row is None:
        return []
    lines = [] if saliency.effect is None else [f"judged: {METHODS[saliency.method].judged_as}"]
    lines.append(f"insertion - deletion {row.insertion_minus_deletion:+.1f} (random: sd {row.random_sd:.1f})")
    lines.append(f"{'beats random' if row.beats_random else NO_BETTER} (p {row.p_random:.3f})")
    if np.isfinite(row.road):
        lines.append(f"ROAD {row.road:+.1f}: {'beats random' if row.road_beats_random else NO_BETTER}")
    return lines


def write_pictures(
    folder: Path, one: Explained, pixels: np.ndarray[Any, np.dtype[np.uint8]], scales: Mapping[str, float]
) -> None:
    """`strips/NAME.png` and `panels/NAME.png` of a photo of `pixels` (s, s, 3)."""
    shown = tiles(pixels, one.maps, scales)
    write_strip(folder / "strips" / f"{one.name}.png", shown)
    columns = []
    for name, tile in shown.items():
        lines = one.lines(name, scales.get(name, 1.0))
        if name == "photo":
            columns.append(Column("photo", tile, [*(KINDS[kind] for kind in one.record["kinds"]), *lines]))
        elif name == "error":
            columns.append(Column(ERROR, tile, lines, scales[name], one.maps["rise"].unit, signed=False))
        else:
            title, unit = TITLES.get(name, name), one.maps[name].unit
            columns.append(Column(title, tile, lines, scales[name], unit, weak=name in one.weak))
    draw_panel(folder / "panels" / f"{one.name}.png", f"{one.name}   {one.words}", columns)


def csv_text(explained: Sequence[Explained], sanity: Sequence[Sanity]) -> str:
    """explain.csv: a row per photo and method; what `sanity` says of a method stands in each of its rows."""
    known = {one.method: {"sanity": one.verdict, "sanity_left_signed": one.left["signed"].mean,
                          "sanity_left_absolute": one.left["absolute"].mean} for one in sanity}  # fmt: skip
    rows: list[dict[str, Any]] = []
    for one in explained:
        r = one.record
        error = None if r["target"] is None else r["prediction"] - r["target"]
        for method, saliency in one.maps.items():
            main = one.main[method]
            row = {"Id": one.name, "kinds": " ".join(r["kinds"]), "fold": r["fold"], "target": r["target"],
                   "prediction": r["prediction"], "error": error, "constant": r["constant"], "score": r["score"],
                   "hidden_score": r["hidden_score"], "method": method, "unit": saliency.unit,
                   "map_mean": float(saliency.map.mean()), "map_sd": float(saliency.map.std())}  # fmt: skip
            for key in ("masks", "blocks", "relative_error", "verdict", "r2", "mean_score", "sd_score"):
                row[key] = saliency.facts.get(key) if method == "rise" else None
            row |= {"mark": main.mark, "road": main.road, "road_beats_random": main.road_beats_random}
            for judged in one.judged:
                if judged.method == method:
                    figures = {key: value for key, value in judged.to_dict().items() if key not in (
                        "method", "baseline", "road", "road_beats_random", "constant", "mark")}  # fmt: skip
                    row |= {f"{judged.baseline}_{key}": value for key, value in figures.items()}
            rows.append(row | known.get(method, {}))
    rows = [{key: int(value) if isinstance(value, bool) else value for key, value in row.items()} for row in rows]
    table = pd.DataFrame(rows).astype({"fold": "Int64"})
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def page(
    explained: Sequence[Explained],
    scales: Mapping[str, float],
    summaries: Sequence[Summary],
    sanity: Sequence[Sanity],
    about: Mapping[str, Any],
) -> str:
    """index.html. `scales`: by method, and `error`. `about`: run, data and settings, for the words around the photos."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pawpularity.explain", "."), autoescape=True, undefined=StrictUndefined
    )
    units = {name: saliency.unit for one in reversed(explained) for name, saliency in one.maps.items()}
    methods = {name: TITLES.get(name, name) for one in explained for name in one.maps}
    with_error = any("error" in tiles_of(one.maps) for one in explained)
    head, rows = summary_rows(summaries)
    return environment.get_template("gallery.html.j2").render(
        about=about, count=len(explained), useless=USELESS,
        elsewhere=any(one.record["fold"] is None for one in explained),
        scales=[{"title": title, "end": f"{scales[name]:g}", "unit": units[name]} for name, title in methods.items()],
        error_scale=f"{scales['error']:g}" if with_error else "",
        faithfulness={"head": head, "rows": [[TITLES.get(row[0], row[0]), *row[1:]] for row in rows]},
        kinds={kind: words for kind, words in KINDS.items() if any(kind in one.record["kinds"] for one in explained)},
        folds=sorted({one.record["fold"] for one in explained if one.record["fold"] is not None}),
        methods=[{"name": name, "title": title} for name, title in methods.items()],
        judged_head=_HEAD, cards=[_card(one, scales) for one in explained],
        sanity=[_sanity_row(one) for one in sanity],
    )  # fmt: skip


def _card(one: Explained, scales: Mapping[str, float]) -> dict[str, Any]:
    record, names = one.record, tiles_of(one.maps)
    titles = {"photo": "photo", "error": ERROR, **TITLES}
    shown = []
    for place, name in enumerate(names):
        lines, title = one.lines(name, scales.get(name, 1.0)), titles.get(name, name)
        alt = (
            f"the photo {one.name}, as the network sees it"
            if name == "photo"
            else f"{title}, {one.name}: {'; '.join(lines)}"
        )
        shown.append({"title": title, "place": f"{100 * place / max(1, len(names) - 1):.4g}", "alt": alt,
                      "weak": NO_BETTER if name in one.weak else "", "lines": lines})  # fmt: skip
    target, prediction, constant = record["target"], record["prediction"], record["constant"]
    precision = one.maps["rise"].facts.get("relative_error") if "rise" in one.maps else None
    warnings = [f"{titles.get(name, name)}: {line}" for name, each in one.maps.items() for line in each.warnings]
    return {
        "name": one.name, "kinds": record["kinds"], "fold": "" if record["fold"] is None else record["fold"],
        "target": "" if target is None else f"{target:g}", "prediction": f"{prediction:.4f}",
        "error": "" if target is None else f"{prediction - target:.4f}",
        "precision": "" if precision is None else f"{precision:.4f}", "words": one.words,
        "at": {key: None if value is None else f"{8 + 2.14 * value:.1f}"
               for key, value in (("target", target), ("prediction", prediction), ("constant", constant))},
        "tiles": shown, "beats": sorted(set(one.maps) - one.weak), "warnings": [*record["refusals"], *warnings],
        "gains": {name: f"{row.insertion_minus_deletion:.4f}" for name, row in one.main.items()},
        "judged": [_judged_row(row) for row in one.judged],
    }  # fmt: skip


def _judged_row(row: Faithfulness) -> list[str]:
    shown = [f"{v:+.2f}" if np.isfinite(v) else "-"
             for v in (row.insertion_minus_deletion, row.positive_end, row.negative_end, row.road)]  # fmt: skip
    centre = "-" if row.method == CENTRE else "yes" if row.beats_centre else "no"
    p = f"{row.p_random:.3f}" if np.isfinite(row.p_random) else "-"
    return [TITLES.get(row.method, row.method), row.baseline, *shown, p, centre]


def _sanity_row(one: Sanity) -> list[str]:
    last = [one.stages[-1].similarity[name].text(2) for name in ("signed", "absolute")]
    left = {name: share.mean for name, share in one.left.items()}
    bounds = [" / ".join(f"{values[name]:+.2f}" if np.isfinite(values[name]) else "-" for name in ("signed", "absolute"))
              for values in (one.ceiling, one.floor, left)]  # fmt: skip
    return [TITLES.get(one.method, one.method), str(one.photos), *last, *bounds, one.verdict]
