"""The gallery that `explain` writes: a panel and a strip for each photo, explain.csv, and index.html, a page that needs no network.

Style and script are inside the page; pictures are files beside it. The page shows everything without JavaScript, and sorts and
filters with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pawpularity.data.photos import Pixels
from pawpularity.errors import listed
from pawpularity.explain.faithfulness import NO_BETTER
from pawpularity.explain.methods import ERROR, METHODS, TITLES
from pawpularity.explain.panel import Column, differs_from_zero, draw_panel, tiles, tiles_of, write_strip
from pawpularity.explain.photos import KINDS
from pawpularity.explain.rise import relative_error
from pawpularity.explain.saliency import Saliency
from pawpularity.explain.sanity import SIMILARITIES, Sanity
from pawpularity.explain.summary import USELESS, Summary, summary_rows

JUDGE = "blur"  # the baseline whose verdict marks a map; not grey, which RISE itself hides with
_FIGURES = {"deletion_auc": "deletion", "insertion_auc": "insertion", "insertion_minus_deletion": "insertion - deletion",
            "road": "ROAD"}  # fmt: skip
_NAMES = {"photo": "photo", "error": ERROR, **TITLES}


@dataclass(frozen=True, eq=False)
class Explained:
    """One photo's results, read back from disk: its record (see `explain`), and its maps by method."""

    record: Mapping[str, Any]
    maps: Mapping[str, Saliency]

    @property
    def name(self) -> str:
        """The photo's Id, or a name made from its file name."""
        return str(self.record["name"])

    @property
    def main(self) -> dict[str, Mapping[str, Any]]:
        """By method, the row of `faithfulness.judge` whose verdict marks its map."""
        rows = sorted(self.record["judged"], key=lambda row: bool(row["baseline"] == JUDGE))
        return {row["method"]: row for row in rows if row["method"] in self.maps}

    @property
    def weak(self) -> set[str]:
        """Methods whose map of this photo does not beat random orders of the same coarseness."""
        return {name for name, row in self.main.items() if not row["beats_random"]}

    @property
    def words(self) -> str:
        """The photo's scores in a line."""
        target, prediction = self.record["target"], self.record["prediction"]
        if target is None:
            folds = listed(self.record["folds"])
            return f"predicted {prediction:.1f}, mean of folds {folds}; true score and metadata are not known"
        return (
            f"true {target:g}, predicted {prediction:.1f} ({prediction - target:+.1f}) by fold {self.record['fold']}, which never "
            f"saw it; constant {self.record['constant']:.1f}"
        )

    def lines(self, tile: str) -> list[str]:
        """The lines below a tile, which is `photo`, a method or `error`."""
        if tile == "photo":
            score, hidden = self.record["score"], self.record["hidden_score"]
            return [f"the network's score {score:.1f}", f"with everything hidden {hidden:.1f}"]
        if tile == "error":
            share = 100 * float(differs_from_zero(self.maps["rise"]).mean())
            return [f"{share:.0f} % of the map differs from zero:", "outlined, red above zero, blue below",
                    "hatched: may be zero (95 %, pixel by pixel)"]  # fmt: skip
        return [*_about_map(self.maps[tile]), *_about_tests(self.maps[tile], self.main[tile])]


def _about_map(one: Saliency) -> list[str]:
    facts, lines = one.facts, []
    if one.method == "rise":
        lines.append(f"{facts['masks']} masks: {facts['verdict']}")
    elif one.method == "gradient":
        lines.append(f"mean of {facts['smooth']} noisy copies" if facts.get("smooth") else "of the photo alone")
        lines.append("red: brighter here, higher score")
    elif one.method == "gradcam":
        lines.append(f"{' x '.join(map(str, facts['cells']))} cells")
    if one.standard_error is not None:
        error = relative_error(one.map.astype(np.float64), one.standard_error.astype(np.float64) ** 2)
        lines.append(f"relative error {error:.2f}" if error < 1 else "no larger than its error")
    return [*lines, f"from {one.map.min() + 0.0:+.2g} to {one.map.max() + 0.0:+.2g}"]


def _about_tests(one: Saliency, row: Mapping[str, Any]) -> list[str]:
    lines = [] if one.effect is None else [f"judged: {METHODS[one.method].judged_as}"]
    lines.append(f"insertion - deletion {row['insertion_minus_deletion']:+.1f}")
    lines.append(f"{row['mark'] or 'beats random'} (p {row['p_random']:.3f})")
    if row["road"] is not None:
        lines.append(f"ROAD {row['road']:+.1f}: {'beats random' if row['road_beats_random'] else NO_BETTER}")
    return lines


def write_pictures(folder: Path, one: Explained, pixels: Pixels, scales: Mapping[str, float]) -> None:
    """Write `strips/NAME.png` and `panels/NAME.png` of a photo of `pixels` (s, s, 3)."""
    shown = tiles(pixels, one.maps, scales)
    write_strip(folder / "strips" / f"{one.name}.png", shown)
    columns = []
    for name, tile in shown.items():
        kinds = [KINDS[kind] for kind in one.record["kinds"]] if name == "photo" else []
        unit = "" if name == "photo" else one.maps["rise" if name == "error" else name].unit
        columns.append(Column(_NAMES.get(name, name), tile, [*kinds, *one.lines(name)], scales.get(name, 0.0), unit,
                              signed=name != "error", weak=name in one.weak))  # fmt: skip
    draw_panel(folder / "panels" / f"{one.name}.png", f"{one.name}   {one.words}", columns)


def csv_text(explained: Sequence[Explained], sanity: Sequence[Sanity]) -> str:
    """explain.csv: a row per photo and method. Each row repeats the verdict of `sanity` on its method."""
    verdicts = {one.method: one.verdict for one in sanity}
    of_photo = ("fold", "target", "prediction", "constant", "score", "hidden_score")
    of_map = ("mark", "road", "road_beats_random")
    judged = ("deletion_auc", "insertion_auc", "insertion_minus_deletion", "p_random", "beats_random")
    rows = []
    for one in explained:
        for method, saliency in one.maps.items():
            row = {"Id": one.name, "kinds": " ".join(one.record["kinds"]), **{key: one.record[key] for key in of_photo}}
            row |= {"method": method, "unit": saliency.unit}
            row |= {key: saliency.facts.get(key) for key in ("masks", "relative_error", "verdict")}
            row |= {key: one.main[method][key] for key in of_map}
            for line in one.record["judged"]:
                if line["method"] == method:
                    row |= {f"{line['baseline']}_{key}": line[key] for key in judged}
            rows.append(row | {"sanity": verdicts.get(method)})
    table = pd.DataFrame(rows).astype({"fold": "Int64", "masks": "Int64"})
    table.insert(6, "error", table["prediction"] - table["target"].astype(float))
    return table.replace({True: 1, False: 0}).to_csv(index=False, float_format="%.6g", lineterminator="\n")


def page(
    explained: Sequence[Explained],
    scales: Mapping[str, float],
    summaries: Sequence[Summary],
    sanity: Sequence[Sanity],
    about: Mapping[str, Any],
) -> str:
    """index.html. `scales`: by method, and of `error`. `about`: run, data and settings, for the text around the photos."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pawpularity.explain", "."), autoescape=True, undefined=StrictUndefined
    )
    units = {name: saliency.unit for one in reversed(explained) for name, saliency in one.maps.items()}
    methods = {name: TITLES.get(name, name) for one in explained for name in one.maps}
    head, rows = summary_rows(summaries, TITLES)
    return environment.get_template("gallery.html.j2").render(
        about=about, count=len(explained), useless=USELESS,
        elsewhere=any(one.record["fold"] is None for one in explained),
        scales=[{"title": title, "end": f"{scales[name]:g}", "unit": units[name]} for name, title in methods.items()],
        error_scale=f"{scales['error']:g}" if any("error" in tiles_of(one.maps) for one in explained) else "",
        faithfulness={"head": head, "rows": rows},
        kinds={kind: words for kind, words in KINDS.items() if any(kind in one.record["kinds"] for one in explained)},
        folds=sorted({one.record["fold"] for one in explained if one.record["fold"] is not None}),
        methods=[{"name": name, "title": title} for name, title in methods.items()],
        judged_head=["", "hidden by", *_FIGURES.values(), "p, random"], cards=[_card(one) for one in explained],
        sanity=[_sanity_row(one) for one in sanity],
    )  # fmt: skip


def _card(one: Explained) -> dict[str, Any]:
    record, names = one.record, tiles_of(one.maps)
    shown = []
    for number, name in enumerate(names):
        lines, title = one.lines(name), _NAMES.get(name, name)
        alt, weak = f"{title}, {one.name}: {'; '.join(lines)}", NO_BETTER if name in one.weak else ""
        place = f"{100 * number / (len(names) - 1):.4g}"
        shown.append({"title": title, "place": place, "lines": lines, "alt": alt, "weak": weak})
    target, prediction, constant = record["target"], record["prediction"], record["constant"]
    precision = one.maps["rise"].facts.get("relative_error") if "rise" in one.maps else None
    warnings = [f"{_NAMES.get(name, name)}: {line}" for name, each in one.maps.items() for line in each.warnings]
    return {
        "name": one.name, "kinds": record["kinds"], "fold": "" if record["fold"] is None else record["fold"],
        "target": "" if target is None else f"{target:g}", "prediction": f"{prediction:.4f}",
        "error": "" if target is None else f"{prediction - target:.4f}",
        "precision": "" if precision is None else f"{precision:.4f}", "words": one.words,
        "at": {key: None if value is None else f"{8 + 2.14 * value:.1f}"
               for key, value in (("target", target), ("prediction", prediction), ("constant", constant))},
        "tiles": shown, "beats": sorted(set(one.maps) - one.weak), "warnings": [*record["refusals"], *warnings],
        "gains": {name: f"{row['insertion_minus_deletion']:.4f}" for name, row in one.main.items()},
        "judged": [[TITLES.get(row["method"], row["method"]), row["baseline"],
                    *("-" if row[key] is None else f"{row[key]:+.2f}" for key in _FIGURES), f"{row['p_random']:.3f}"]
                   for row in record["judged"]],
    }  # fmt: skip


def _sanity_row(one: Sanity) -> list[str]:
    last = [one.stages[-1].similarity[name].text(2) for name in SIMILARITIES]
    left = {name: share.mean for name, share in one.left.items()}
    bounds = [" / ".join(f"{values[name]:+.2f}" if np.isfinite(values[name]) else "-" for name in SIMILARITIES)
              for values in (one.ceiling, one.floor, left)]  # fmt: skip
    return [TITLES.get(one.method, one.method), str(one.photos), *last, *bounds, one.verdict]
