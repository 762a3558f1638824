"""Question: do maps agree with the known truth of drawn photos: which parts change the score, where they are, by how many points?

Command:

    make known-truth RUN=sample             # parts: does a map find the parts whose effects are known?
    make sample PAIRS=5 PHOTOS=32 SEED=31 INTO=input/pairs
    make known-truth PAIRS=input/pairs      # counterfactual pairs: does a map say what removing a part does?

Result: oof/RUN/explain/known_truth.json, or in oof/RUN/explain/pairs/: pairs.csv (a row per pair and method), pairs.json,
maps/ID.npz. On the sample RISE points at the tongue in 19 of 19 photos, finds eyes no better than another photo's map,
and gives the contrast the opposite sign. Over 35 pairs, RISE's sign on the part is that of the
network's change in 77 % [63, 89], the sign of gradient x photo in 71 %; Grad-CAM says nothing about the changes.

Parts are judged on the maps that `make explain` wrote. Signs count. For a part that raises the score (tongue, eyes) the map's
highest place and its positive energy are used. For a part that lowers it (clutter, an odd pose, a second pet) the lowest place and
the negative energy are used. For a part worth nothing (an accessory) both signs are used. Chance is the part's share of the
picture. A blob in the middle beats chance, as pets are there, so the maps of other photos are tried on the same parts. The contrast
is a difference between background and pet and has no place: its row uses the background.

A pair is the same pet with and without one part. A map explains the network, so it is compared first with the change of the
network's score when the part is removed, and then with the true effect. The pets are new to every fold, so the mean of the trained
folds scores them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import stats

from pawpularity.console import emit, log, make_word, next_step, table, track
from pawpularity.context import Context
from pawpularity.errors import UserError
from pawpularity.evaluation.bootstrap import Groups
from pawpularity.explain.estimates import NONE, Estimate, as_json, estimates, proportion
from pawpularity.explain.methods import TITLES
from pawpularity.explain.photos import Photo, RunData, photo_hash
from pawpularity.explain.players import Floats
from pawpularity.explain.saliency import Results, read_maps
from pawpularity.files import read_json, write_json, write_text
from pawpularity.runs import versions
from pawpularity.sample.labels import ACCESSORY, BACKGROUND, BODY, CLUTTER, LEFT_EYE, RIGHT_EYE, SECOND_PET, TONGUE

# The numbers of each part of sample.spec.PARTS on a label map.
PLACES = {"tongue": (TONGUE,), "eyes": (LEFT_EYE, RIGHT_EYE), "contrast": (BACKGROUND,), "clutter": (CLUTTER,),
          "pose": (BODY,), "pets": (SECOND_PET,), "accessory": (ACCESSORY,)}  # fmt: skip
FEW = 5  # with fewer photos there is no verdict
OTHERS = 5  # other photos whose maps are tried on each photo's parts
DRAWS = 1_000  # resamples of a rank correlation
DRAW_PAIRS = "make sample PAIRS=5 PHOTOS=32 SEED=31 INTO=input/pairs"

AnyMap = NDArray[np.floating[Any]]
Summary = dict[str, Any]
"""One row of a table: figures (Estimate where they have an interval) and the verdict."""


def known_truth(
    context: Context, *, pairs: str | None = None, masks: str | None = None, out: str | None = None, json: str | None = None
) -> None:  # fmt: skip
    """Judge the run's maps by the parts of drawn photos, or map and judge the counterfactual pairs in the folder `pairs`.

    Raises UserError if the photos have no known truth.
    """
    data = RunData.open(context, masks)
    if pairs is None:
        folder = Path(out) if out else data.folder
        value, text, more = _judge_parts(data, folder)
    else:
        folder = Path(out) if out else data.folder / "pairs"
        value, text, more = _judge_pairs(data, Path(pairs), folder)
    emit(value, text, json, more=more)
    log(f"wrote   {folder}")
    next_step(DRAW_PAIRS if pairs is None else "make report")


# --- Parts ------------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """One part of one photo."""

    mask: NDArray[np.bool_]  # (H, W)
    points: float  # what the part adds to the score


def _judge_parts(data: RunData, folder: Path) -> tuple[dict[str, Any], str, str]:
    """How well the maps in `folder`, written by explain, find the parts of their photos."""
    if not data.dataset.is_drawn:
        raise UserError(
            f"{data.dataset.folder}: is not drawn, so the truth about its photos is not known; run: make sample"
        )
    if not (folder / "index.html").is_file():
        raise UserError(f"{folder}: holds no maps yet; run: make explain {make_word('RUN', data.run.name)}")
    photos = [photo for photo in read_json(folder / "explain.json", "explain")["photos"] if photo["fold"] is not None]
    if not photos or any(data.rows.get(one["name"], {}).get("prediction") != one["prediction"] for one in photos):
        raise UserError(f"{folder}: its maps are of older predictions of {data.run.name}; run: make explain")
    config = data.run.config.photos
    parts = read_parts(data.dataset.folder, [photo["name"] for photo in photos], size=config.size, fit=config.fit)
    maps = [read_maps(folder / "maps" / f"{photo['name']}.npz", photo["methods"]) for photo in photos]
    groups = np.array([photo["group"] for photo in photos])
    found: dict[str, list[Summary]] = {}
    for method in dict.fromkeys(name for one in maps for name in one):
        mapped = [i for i, one in enumerate(maps) if method in one]
        found[method] = summarise_parts(
            [maps[i][method].judged for i in mapped], [parts[i] for i in mapped], groups[mapped]
        )
    value = {"run": data.run.name, "photos": len(photos),
             "methods": {method: [as_json(row) for row in rows] for method, rows in found.items()}}  # fmt: skip
    write_json(folder / "known_truth.json", value)
    more = "\n".join(f"{TITLES.get(method, method)}\n{parts_text(rows)}" for method, rows in found.items())
    note = 'mean over photos [95 %]; by chance "points at it" and "energy in it" equal "share"'
    return value, verdicts_text(found), f"{more}\n{note}"


def read_parts(data: Path, names: Sequence[str], *, size: int, fit: str) -> list[dict[str, Part]]:
    """The visible parts of each of the photos `names`, in the geometry of the network's input (size x size).

    Raises UserError if `data` does not hold their truth.
    """
    file, found = data / "truth" / "parts.csv", []
    try:
        rows = pd.read_csv(file, index_col="Id", dtype={"Id": str})[list(PLACES)].to_dict("index")
        for name in names:
            labels = read_labels(data / "truth" / "labels" / f"{name}.png", size, fit)
            masks = {part: np.isin(labels, numbers) for part, numbers in PLACES.items()}
            found.append({part: Part(mask, float(rows[name][part])) for part, mask in masks.items() if mask.any()})
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{file}: the truth of the photos cannot be read ({error}); draw the sample again") from None
    return found


def read_labels(file: Path, size: int, fit: str) -> NDArray[np.uint8]:
    """A label map, (size, size), fitted to the square as `decode` does with the photo, by nearest neighbour."""
    square, nearest = (size, size), Image.Resampling.NEAREST
    with Image.open(file) as image:
        if fit == "squash":
            return np.array(image.resize(square, nearest))
        return np.array((ImageOps.fit if fit == "crop" else ImageOps.pad)(image, square, nearest))


def pointing(values: AnyMap, part: Part) -> float:
    """1 if the most extreme place of the map (H, W) is in the part, else 0. If places tie: the share that is in the part."""
    towards = _towards(values, part.points)
    return float(part.mask[towards == towards.max()].mean())


def energy(values: AnyMap, part: Part) -> float:
    """The share of the map's energy (of the part's sign) that is in the part; nan if the map has none of this sign."""
    towards = np.maximum(_towards(values, part.points), 0.0)
    total = float(towards.sum())
    return float(towards[part.mask].sum()) / total if total else float("nan")


def _towards(values: AnyMap, points: float) -> Floats:
    """The map with the sign of `points` made positive; its absolute values for a part worth nothing."""
    signed = np.asarray(values, dtype=np.float64)
    return np.abs(signed) if points == 0 else signed * np.sign(points)


def summarise_parts(
    maps: Sequence[AnyMap], parts: Sequence[Mapping[str, Part]], groups: Groups = None
) -> list[Summary]:
    """How well `maps` (H, W), one a photo, find the `parts` of their photos; `groups` (photos,): near-duplicates.

    A row a part, over the photos where it moves the score: points (mean), pointing, share (of the picture: chance), energy, excess
    (energy less share), over_others (energy less that of other photos' maps in the same part) and verdict. A visible part without
    points (one eye if the other is shut, a body in a usual pose) is left out; an accessory always counts.
    """
    rows = []
    for name in PLACES:
        shown = [i for i, one in enumerate(parts) if name in one and (name == "accessory" or one[name].points != 0)]
        if not shown:
            continue
        figures = []
        for i in shown:
            part = parts[i][name]
            inside, share = energy(maps[i], part), part.mask.mean()
            others = _by_others(maps, i, part, groups)
            figures.append((pointing(maps[i], part), share, inside, inside - share, inside - others))
        clusters = None if groups is None else groups[shown]
        columns = np.array(figures)
        row: Summary = {"part": name, "points": float(np.mean([parts[i][name].points for i in shown]))}
        names = ("pointing", "share", "energy", "excess", "over_others")
        row |= dict(zip(names, estimates(columns, clusters), strict=True))
        if np.isin(columns[:, 0], (0.0, 1.0)).all():  # else places tie, and a photo counts by a share
            row["pointing"] = proportion(columns[:, 0], clusters)
        rows.append(row | {"verdict": _part_verdict(row)})
    return rows


def _part_verdict(row: Summary) -> str:
    """The verdict on one part, by the ends of the intervals."""
    if row["excess"].n < FEW:
        return "too few photos" if row["share"].n < FEW else "maps have no energy of this sign"
    above_chance, above_others = row["excess"].low > 0, row["over_others"].low > 0
    if row["points"] == 0:
        return "credited, though worth nothing" if above_chance and above_others else "left alone"
    if above_chance:
        return "found" if above_others else "no better than another photo's map"
    return "opposite sign or elsewhere" if row["excess"].high < 0 else "not found"


def _by_others(maps: Sequence[AnyMap], own: int, part: Part, groups: Groups) -> float:
    """Mean energy in this photo's part of the maps of the next few photos (without near-duplicates of this one)."""
    order = [(own + step) % len(maps) for step in range(1, len(maps))]
    others = [i for i in order if groups is None or groups[i] != groups[own]][:OTHERS]
    energies = [energy(maps[i], part) for i in others]
    return float(np.nanmean(energies)) if np.isfinite(energies).any() else float("nan")


def verdicts_text(found: Mapping[str, Sequence[Summary]]) -> str:
    """A line per part: what it is worth, and whether each method's maps find it."""
    by_part: dict[str, dict[str, Summary]] = {}
    for method, rows in found.items():
        for row in rows:
            by_part.setdefault(row["part"], {})[method] = row
    cells = []
    for part, by_method in by_part.items():
        first = next(iter(by_method.values()))
        verdicts = [by_method[method]["verdict"] if method in by_method else "" for method in found]
        cells.append([part, f"{first['points']:+.1f}", first["share"].n, *verdicts])
    titles = [TITLES.get(method, method) for method in found]
    return table(["part", "points", "photos", *titles], cells, left=(0, *range(3, 3 + len(titles))))


def parts_text(rows: Sequence[Summary]) -> str:
    """The figures of one method as a table."""
    header = ("part", "points at it", "energy in it", "share", "over other maps")
    cells = [[row["part"], row["pointing"].text(2, False), row["energy"].text(2, False), f"{row['share'].mean:.2f}",
              row["over_others"].text()] for row in rows]  # fmt: skip
    return table(header, cells)


# --- Counterfactual pairs ---------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """Two photos that differ in one part."""

    part: str
    shown: Photo
    removed: Photo
    effect: float  # points the part adds, before noise and clipping
    place: NDArray[np.bool_]  # (size, size): where the part is, on the photo that shows it


def read_pairs(data: Path, *, size: int, fit: str) -> list[Pair]:
    """The pairs of `data`, in the geometry of the network's input. Raises UserError if it has none."""
    folder, pairs = data / "pairs", []
    try:
        rows: Any = pd.read_csv(folder / "pairs.csv", dtype={"Id_with": str, "Id_without": str})
        for row in rows.itertuples():
            labels = read_labels(folder / "labels" / f"{row.Id_with}.png", size, fit)
            shown, removed = (Photo(one, folder / "photos" / f"{one}.jpg") for one in (row.Id_with, row.Id_without))
            pairs.append(Pair(row.part, shown, removed, float(row.effect), np.isin(labels, PLACES[row.part])))
    except (OSError, KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{data}: its counterfactual pairs cannot be read ({error}); run: {DRAW_PAIRS}") from None
    if not pairs:
        raise UserError(f"{folder}: pairs.csv has no rows; run: {DRAW_PAIRS}")
    return pairs


def _judge_pairs(data: RunData, source: Path, folder: Path) -> tuple[dict[str, Any], str, str]:
    """Map the photos that show the part of a pair, and compare the maps with what removing the part does."""
    from pawpularity.explain.explain import maps_of, predictor_for

    data.require_absent_metadata()
    config = data.run.config.photos
    pairs = read_pairs(source, size=config.size, fit=config.fit)
    predictor = predictor_for(data, [pair.shown for pair in pairs])
    prints = {one.name: photo_hash(one.path) for pair in pairs for one in (pair.shown, pair.removed)}
    results = Results(folder, data.fingerprint("pairs", predictor, prints), ("pairs.csv", "pairs.json"))
    with results.locked():
        for pair in track(pairs, "counterfactual pairs", unit="pairs"):
            if results.done(pair.shown.name):
                continue
            score = pair.shown.score(predictor)
            x, without = (score.input_of(one.pixels(predictor)) for one in (pair.shown, pair.removed))
            maps, refusals = maps_of(score, x, data.settings)
            for line in refusals:
                log(f"{pair.shown.name}: {line}")
            record = {"with": float(score(x[None])[0]), "without": float(score(without[None])[0])}
            results.add(pair.shown.name, record | {"methods": {name: one.about() for name, one in maps.items()}}, maps)
        records = [results.record(pair.shown.name) for pair in pairs]
        found, texts, more, tables = {}, [], [], []
        for method in dict.fromkeys(name for record in records for name in record["methods"]):
            mapped = [i for i, record in enumerate(records) if method in record["methods"]]
            scores = np.array([[records[i]["with"], records[i]["without"]] for i in mapped])
            method_maps = [results.maps(pairs[i].shown.name)[method].judged for i in mapped]
            rows = judge_pairs([pairs[i] for i in mapped], scores, method_maps)
            summary = summarise_pairs(rows, seed=data.settings.seed)
            found[method] = [as_json(row) for row in summary]
            texts.append(f"{TITLES.get(method, method)}: {all_pairs_text(summary[-1])}")
            more.append(f"{TITLES.get(method, method)}\n{pairs_text(summary)}")
            tables.append(rows.assign(method=method))
        write_text(folder / "pairs.csv", pd.concat(tables).to_csv(index=False, lineterminator="\n"))
        value = {"run": data.run.name, "pairs": len(pairs), "methods": found, "settings": data.settings.model_dump(),
                 "versions": versions()}  # fmt: skip
        write_json(folder / "pairs.json", value)
    more.append(
        "effect: score with the part less without it, in points; sign: share of pairs whose map has the effect's sign on the part; "
        "balanced: the mean of that share where the part raises and where it lowers the score; rank: Spearman's correlation of "
        "map x size with the effect [95 %]"
    )
    return value, "\n".join(texts), "\n".join(more)


def judge_pairs(pairs: Sequence[Pair], scores: AnyMap, maps: Sequence[AnyMap]) -> pd.DataFrame:
    """A row a pair, from the network's `scores` (pairs, 2), with and without the part, and the `maps` of the photos with the part.

    effect_network: the network's score with the part less that without. map_mean: mean of the map over the part. map_sum: map_mean
    times the part's share of the picture (a wide weak part may do as much as a small strong one). as_network, as_truth: 1 if the
    map's sign is that of the network's effect, or of the true effect; 0 if not; nan if either is 0.
    """
    places = [values[pair.place] for pair, values in zip(pairs, maps, strict=True)]
    means = np.array([np.mean(place, dtype=np.float64) if place.size else np.nan for place in places])
    effect, by_network = np.array([pair.effect for pair in pairs]), scores[:, 0] - scores[:, 1]
    network, truth = (np.sign(means * effects) for effects in (by_network, effect))
    return pd.DataFrame({
        "Id": [pair.shown.name for pair in pairs], "Id_without": [pair.removed.name for pair in pairs],
        "part": [pair.part for pair in pairs], "effect": effect, "effect_network": by_network, "map_mean": means,
        "map_sum": means * [pair.place.mean() for pair in pairs],
        "as_network": np.where(network == 0, np.nan, network / 2 + 0.5), "as_truth": np.where(truth == 0, np.nan, truth / 2 + 0.5),
    })  # fmt: skip


def summarise_pairs(rows: pd.DataFrame, *, seed: int = 0) -> list[Summary]:
    """The rows of `judge_pairs` by part, and over "all". Every pair is another pet, so the bootstrap is over pairs.

    The last row also has: rank_network, Spearman's correlation of map_sum with the network's effects; balanced, the mean of two
    shares, as_network of the pairs whose part raises the network's score and of those whose part lowers it (a map of one sign gets
    0.5); and the verdict, whether signs and ranks agree with the network's effects beyond chance.
    """
    parts = [(part, rows[rows["part"] == part]) for part in PLACES if part in set(rows["part"])]
    found = []
    for part, some in (*parts, ("all", rows)):
        change, mean = estimates(some[["effect_network", "map_mean"]], seed=seed)
        signs = {name: proportion(some[name], seed=seed) for name in ("as_network", "as_truth")}
        found.append({"part": part, "pairs": len(some), "effect": float(some["effect"].mean()), "effect_network": change,
                      "map_mean": mean, **signs})  # fmt: skip
    sides = [rows["as_network"][np.sign(rows["effect_network"]) == sign].mean() for sign in (1, -1)]
    last = found[-1]
    last["rank_network"] = _rank_correlation(rows["map_sum"], rows["effect_network"], seed)
    last["balanced"] = float(np.mean(sides))  # nan if one side has no pair
    last["verdict"] = _pair_verdict(last)
    return found


def _pair_verdict(row: Summary) -> str:
    ranks = row["rank_network"].low > 0
    if row["as_network"].low > 0.5 and row["balanced"] > 0.5:
        return "signs and ranks agree with the network" if ranks else "signs agree with the network, ranks do not"
    return "ranks agree with the network, signs do not" if ranks else "says nothing of what parts do"


def _rank_correlation(x: "pd.Series[float]", y: "pd.Series[float]", seed: int) -> Estimate:
    """Spearman's correlation with its bootstrap interval."""
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < FEW or np.ptp(x[known]) == 0.0 or np.ptp(y[known]) == 0.0:
        return NONE
    found = stats.bootstrap((x[known], y[known]), lambda a, b: stats.spearmanr(a, b).statistic, n_resamples=DRAWS, paired=True,
                            vectorized=False, method="percentile", random_state=seed)  # fmt: skip
    low, high = found.confidence_interval
    return Estimate(float(stats.spearmanr(x[known], y[known]).statistic), float(low), float(high), int(known.sum()))


def pairs_text(rows: Sequence[Summary]) -> str:
    """A line per part."""
    header = ("part", "truth", "network's effect", "sign as network", "as truth")
    cells = [[row["part"], f"{row['effect']:+.1f}", row["effect_network"].text(1), row["as_network"].text(2, False),
              row["as_truth"].text(2, False)] for row in rows]  # fmt: skip
    return table(header, cells)


def all_pairs_text(last: Summary) -> str:
    """A sentence about all pairs."""
    return (f"{last['verdict']}; of {last['pairs']} pairs sign as the network's {last['as_network'].text(2, False)}, "
            f"balanced {last['balanced']:.2f} (chance 0.5), as the truth's {last['as_truth'].text(2, False)}; "
            f"rank with the network's effect {last['rank_network'].text()}")  # fmt: skip
