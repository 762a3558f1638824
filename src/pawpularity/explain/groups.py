"""`pawpularity explain --group`: mean signed RISE maps of groups of photos, and the difference of two sides with its error.

    make explain GROUP=scores        # high, middle and low thirds of the true scores
    make explain GROUP="eyes face"   # with and without, by metadata column; contrast: above and below the median

The paper averages maps that are clipped at zero and scaled to their own maximum. Here maps stay signed and in score points. Each
uses `explain.group_blocks` blocks of masks: many photos with few masks give a smaller error than few photos with many masks.

Two figures measure what a picture only suggests: the mean of the map inside the subject's mask, and outside it (bootstrap over
photos, near-duplicates together). The difference map is tested as a whole: the largest |difference / error| against its
distribution under the wild bootstrap. So the thousands of places give a false alarm in one of twenty cases only. Over several
groups the p are adjusted by Holm.

Writes to oof/RUN/explain/groups/GROUP/: groups.csv (a row per side and figure), figure.png, maps.npz (means and errors),
groups.json, and records/ID.json, the scores of each photo's masked copies.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.console import Progress, emit, log, next_step, table
from pawpularity.data.photos import Pixels
from pawpularity.data.subject import LEAST, MOST, SUBJECT, measure, share, subject_map
from pawpularity.data.tables import ID, METADATA
from pawpularity.errors import UserError, nearest
from pawpularity.evaluation.bootstrap import group_sums, holm
from pawpularity.evaluation.effects import CLAIMS, CONTRAST
from pawpularity.explain.estimates import Estimate, estimates
from pawpularity.explain.panel import Column, draw_panel, outlined, overlay, shaded, tidy
from pawpularity.explain.photos import Photo, RunData, photo_hash, photo_of
from pawpularity.explain.players import Floats, MaskDesign, grid_of
from pawpularity.explain.rise import ConstantScore, block_map, rise
from pawpularity.explain.saliency import Results, write_arrays
from pawpularity.files import plain, write_json, write_text
from pawpularity.predictor import Predictor
from pawpularity.runs import versions

EVERY, SCORES, PREDICTIONS = "all", "scores", "predictions"
FIGURES = {"inside": "mean of the map inside the subject, score points", "outside": "mean of the map outside it"}
FILES = ("maps.npz", "figure.png", "groups.csv", "groups.json")
DRAWS = 2000
FEWEST = 2  # photos on a side, near-duplicates counting as one
FEWEST_TESTED = 6  # with fewer signs to draw, noise passes for a difference: 1 v 8 in 97 %, 3 v 3 in 84, 5 v 48 in 14
_COARSE = 28  # side of the map that is tested, pixels: RISE's cells are far larger
COLUMNS = {column.lower().replace(" ", "-"): column for column in (*(claim.column for claim in CLAIMS), *METADATA)}
"""Columns by the word that names their group: `subject-focus`."""
CLAIMED = [word for word, column in COLUMNS.items() if column in {claim.column for claim in CLAIMS}]
"""The groups of the hypotheses' columns."""


def explain_groups(data: RunData, names: Sequence[str], n: int, out: Path, destination: str | None) -> None:
    """Explain the groups `names` ("all": scores, predictions and the hypotheses' columns), with at most `n` photos a side.

    Raises UserError for an unknown group, and at the end for groups with too few photos on a side.
    """
    named = list(dict.fromkeys(name.lower() for name in names))
    named = [SCORES, PREDICTIONS, *CLAIMED] if EVERY in named else named
    known = [SCORES, PREDICTIONS, *COLUMNS]
    if unknown := next((name for name in named if name not in known), None):
        raise UserError(f"GROUP={unknown}: there is no such group{nearest(unknown, known)}")
    rows = data.table
    if CONTRAST in named:
        levels = pd.Series(measure(data.dataset).levels, index=data.dataset.train[ID], dtype=np.float64)
        rows = rows.assign(**{CONTRAST: levels})
    sides: dict[str, dict[str, list[str]]] = {}
    refusals: list[str] = []
    for name in named:
        try:
            sides[name] = sides_of(name, rows, n, data.settings.seed)
        except UserError as error:
            refusals.append(str(error))
    if not sides:
        raise UserError("; ".join(refusals))
    predictor = Predictor.load(data.run.folder, folds=sorted({row["fold"] for row in data.rows.values()}))
    log(f"device  {predictor.compute}")
    found = {name: _one_group(data, predictor, name, ids, out / name) for name, ids in sides.items()}
    texts = [_text(name, one) for name, one in found.items()]
    values: list[dict[str, Any]] = [
        {"group": name, "figures": _rows(name, one), "p_anywhere": one.p} for name, one in found.items()
    ]
    tested = [value for value in values if value["p_anywhere"] is not None]
    if len(tested) > 1:  # many tests find something by chance
        for value, p in zip(tested, holm([value["p_anywhere"] for value in tested]), strict=True):
            value["p_anywhere_holm"] = float(p)
        adjusted = ", ".join(f"{value['group']} {p_words(value['p_anywhere_holm'])}" for value in tested)
        texts.append(f"do the two sides' maps differ anywhere, adjusted by Holm over {len(tested)} groups: {adjusted}")
    emit({"run": data.run.name, "groups": values}, "\n\n".join(texts), destination)
    next_step("make report", RUNS=data.run.name)
    if refusals:
        raise UserError(f"{'; '.join(refusals)}; the other groups are in {out}")


def sides_of(group: str, rows: pd.DataFrame, n: int, seed: int = 0) -> dict[str, list[str]]:
    """Ids of `n` random photos (or all, if there are fewer) of each side of `group`.

    The sides are thirds for scores and predictions, above and below the median for the contrast, else with and without. `rows`:
    target, prediction, group, metadata and contrast (nan: not measured) by Id, sorted. Raises UserError for a side with fewer
    than two photos, near-duplicates counting as one.
    """
    if group in (SCORES, PREDICTIONS):
        values = rows["target" if group == SCORES else "prediction"]
        low, high = values.quantile([1 / 3, 2 / 3])
        masks = {"high": values > high, "middle": (values > low) & (values <= high), "low": values <= low}
    elif group == CONTRAST:
        middle = rows[CONTRAST].median()
        masks = {"above the median": rows[CONTRAST] > middle, "below the median": rows[CONTRAST] <= middle}
    else:
        column = COLUMNS[group]
        masks = {f"with {column}": rows[column] == 1, f"without {column}": rows[column] != 1}
    sides = {}
    for name, mask in masks.items():
        some = rows[mask]
        drawn = some.iloc[np.random.default_rng([seed, 0x6E0]).permutation(len(some))[:n]]
        if drawn["group"].nunique() < FEWEST:
            raise UserError(
                f"GROUP={group}: {len(some)} of {len(rows)} photos are {name}; a side needs {FEWEST} or more that are not "
                "near-duplicates (a larger N draws more)"
            )
        sides[name] = drawn.index.tolist()
    return sides


class Mapped(NamedTuple):
    """One photo's map, and what its side needs to know of the photo."""

    map: Floats  # (H, W) score points
    subject: NDArray[np.bool_] | None  # (H, W); None where no plausible subject was found
    cluster: int  # near-duplicates share a number
    target: float


class Side(NamedTuple):
    """The photos of one side, averaged."""

    photos: int
    clusters: int
    mean_score: float
    map: Floats  # (H, W) mean signed map, score points
    standard_error: Floats  # (H, W), over photos (near-duplicates together), the masks' noise included
    figures: dict[str, Estimate]


class GroupFindings(NamedTuple):
    """Everything about one group; the difference is the first side's map less the last one's."""

    sides: dict[str, Side]
    difference: Floats
    standard_error: Floats
    p: float | None  # of the largest |difference / error| if both sides had the same map; None: too few photos
    threshold: float  # the 95 % point of the largest |difference / error| by chance; infinite with too few photos

    @property
    def name(self) -> str:
        """The sides of the difference."""
        first, *_, last = self.sides
        return f"{first} - {last}"


def findings(sides: Mapping[str, Sequence[Mapped]], *, draws: int = DRAWS, seed: int = 0) -> GroupFindings:
    """The mean maps, figures and difference of the sides, at least two mapped photos each."""
    found = {name: _side(photos, seed) for name, photos in sides.items()}
    (a, first), *_, (b, last) = found.items()
    p, threshold = None, float("inf")
    if min(first.clusters, last.clusters) >= FEWEST_TESTED:
        p, threshold = _whole_map_test(sides[a], sides[b], draws=draws, seed=seed)
    error = np.hypot(first.standard_error, last.standard_error)
    return GroupFindings(found, first.map - last.map, error, p, threshold)


def _side(photos: Sequence[Mapped], seed: int) -> Side:
    maps, clusters = np.stack([one.map for one in photos]), _clusters(photos)
    mean, count = maps.mean(axis=0), len(np.unique(clusters))
    totals = group_sums((maps - mean).reshape(len(maps), -1), clusters)
    error = np.sqrt(count / (count - 1) * (totals**2).sum(axis=0)).reshape(mean.shape) / len(photos)
    means = [[np.nan] * 2 if one.subject is None else [one.map[one.subject].mean(), one.map[~one.subject].mean()]
             for one in photos]  # fmt: skip
    figures = dict(zip(FIGURES, estimates(means, clusters, seed=seed), strict=True))
    return Side(len(photos), count, float(np.mean([one.target for one in photos])), mean, error, figures)


def _clusters(photos: Sequence[Mapped]) -> NDArray[np.int64]:
    return np.array([one.cluster for one in photos])


def _whole_map_test(first: Sequence[Mapped], last: Sequence[Mapped], *, draws: int, seed: int) -> tuple[float, float]:
    """(p, the 95 % threshold) of the largest |difference / error| over a coarse map, by the wild bootstrap (Wu 1986).

    Each cluster of near-duplicates keeps its side and its size, and its deviation from the side's mean gets a random sign. So each
    side keeps its spread. A permutation of photos between the sides would mix the spreads: a small side of strong maps and a large
    side of faint ones would be called different far too often. The error is computed again for every draw.
    """
    random = np.random.default_rng([seed, 0x3A7])
    # Row 0 is observed, the others are drawn.
    difference, variance = np.zeros((draws + 1, _COARSE**2)), np.zeros((draws + 1, _COARSE**2))
    for side, photos in ((1.0, first), (-1.0, last)):
        coarse = [cv2.resize(one.map, (_COARSE, _COARSE), interpolation=cv2.INTER_AREA).ravel() for one in photos]
        maps, number, clusters = np.stack(coarse), len(photos), _clusters(photos)
        sizes = group_sums(np.ones(number), clusters)
        rest = group_sums(maps - maps.mean(axis=0), clusters)
        signs = random.choice([-1.0, 1.0], (draws, len(rest)))
        mean = signs @ rest / number
        spread = (rest**2).sum(axis=0) - 2 * mean * ((signs * sizes.T) @ rest) + mean**2 * (sizes**2).sum()
        correction = len(rest) / (len(rest) - 1) / number**2
        difference += side * np.vstack([maps.mean(axis=0), mean])
        variance += np.maximum(np.vstack([(rest**2).sum(axis=0), spread]), 0.0) * correction
    # Float sums in another order differ in their last digits; a place where nothing varies must not count as a difference.
    floor = 1e-12 * max(float(np.max(difference[0] ** 2 + variance[0])), 1e-300)
    at, *largest = np.abs(difference / np.sqrt(np.maximum(variance, floor))).max(axis=1)
    return float((1 + (np.array(largest) >= at * (1 - 1e-9)).sum()) / (draws + 1)), float(np.quantile(largest, 0.95))


def _one_group(
    data: RunData, predictor: Predictor, group: str, sides: Mapping[str, Sequence[str]], folder: Path
) -> GroupFindings:
    """Map the photos of one group that have no map yet, and write the group's files."""
    settings, design = data.settings, MaskDesign(data.settings.cells)
    blocks = settings.group_blocks if settings.masks == "auto" else max(2, design.blocks_for(settings.masks))
    masks = blocks * design.block_size
    photos = {name: photo_of(data, name) for ids in sides.values() for name in ids}
    prints = {name: photo_hash(photo.path) for name, photo in photos.items()}
    results = Results(folder, data.fingerprint(group, predictor, prints) | {"masks": masks, "sides": sides}, FILES)
    log(f"{group}: {', '.join(f'{len(ids)} photos {side}' for side, ids in sides.items())}; {masks} masks each")
    mapped: dict[str, list[Mapped]] = {side: [] for side in sides}
    with results.locked(), Progress(len(photos), group) as progress:
        for side, ids in sides.items():
            # The i-th photos of all sides share their masks. Photos of one side do not, so that the masks' noise averages out.
            for seed, name in enumerate(ids, start=settings.seed):
                mapped[side].append(_mapped(data, predictor, photos[name], seed, masks, results))
                progress.add()
        constant = sum(not one.map.any() for maps in mapped.values() for one in maps)
        if constant == len(photos):
            raise UserError(f"{group}: hiding changes the score of none of its photos; train with a lower train.lr")
        if constant:
            log(f"{group}: hiding does not change the score of {constant} photos; their maps count as zero")
        found = findings(mapped, seed=settings.seed)
        rows = _rows(group, found)
        write_text(folder / "groups.csv", pd.DataFrame(rows).round(5).to_csv(index=False, lineterminator="\n"))
        parts = {side.replace(" ", "_"): (one.map, one.standard_error) for side, one in found.sides.items()}
        parts["difference"] = found.difference, found.standard_error
        arrays = {f"{name}{end}": values.astype(np.float32) for name, both in parts.items()
                  for end, values in zip(("", "_standard_error"), both, strict=True)}  # fmt: skip
        write_arrays(folder / "maps.npz", arrays)
        pixels = np.mean([photo.pixels(predictor) for photo in photos.values()], axis=0)
        title = f"{data.run.name}, {group}: mean signed RISE maps of photos, {masks} masks each"
        _draw(folder / "figure.png", title, found, np.rint(pixels).astype(np.uint8))
        value = {"group": group, "run": data.run.name, "predictions_hash": data.source.predictions_hash, "masks": masks,
                 "figures": rows, "p_anywhere": found.p, "settings": settings.model_dump(), "versions": versions()}  # fmt: skip
        write_json(folder / "groups.json", value)
    log(f"wrote   {folder}/groups.csv, figure.png, maps.npz")
    return found


def _mapped(data: RunData, predictor: Predictor, photo: Photo, seed: int, masks: int, results: Results) -> Mapped:
    """One photo's map, from the scores in `results` or computed now. A score that no mask changes gives a map of zeros."""
    settings, pixels = data.settings, photo.pixels(predictor)
    if not results.done(photo.name):
        score, scores = photo.score(predictor), np.zeros(masks)
        try:
            scores = rise(score, score.input_of(pixels), masks=masks, cells=settings.cells, seed=seed,
                          batch_size=settings.batch_size).scores  # fmt: skip
        except ConstantScore:
            pass
        except UserError as error:
            raise UserError(f"{photo.name}: {error}") from None
        results.add(photo.name, {"scores": scores.tolist()})
    design, grid = MaskDesign(settings.cells, seed=seed), grid_of(*pixels.shape[:2], settings.cells)
    by_block = np.array(results.record(photo.name)["scores"]).reshape(-1, design.block_size)
    maps = [block_map(design.block(number), some, grid, design) for number, some in enumerate(by_block)]
    row, subject = data.rows[photo.name], subject_map(pixels)
    plausible = LEAST <= share(subject) <= MOST
    return Mapped(np.mean(maps, axis=0), subject == SUBJECT if plausible else None, row["group"], row["target"])


def p_words(p: float | None) -> str:
    """A p as text."""
    if p is None:
        return f"not tested: needs {FEWEST_TESTED} photos or more on each side"
    return "p < .001" if p < 0.001 else f"p {p:.3f}"


def _rows(group: str, found: GroupFindings) -> list[dict[str, Any]]:
    """groups.csv: a row per side and figure."""
    return [
        plain({"group": group, "side": name, "photos": side.photos, "clusters": side.clusters, "mean_score": side.mean_score,
               "figure": key, "value": figure.mean, "low": figure.low, "high": figure.high, "p_anywhere": found.p})
        for name, side in found.sides.items() for key, figure in side.figures.items()
    ]  # fmt: skip


def _text(group: str, found: GroupFindings) -> str:
    cells = [[name, str(side.photos), f"{side.mean_score:.1f}", *(figure.text() for figure in side.figures.values())]
             for name, side in found.sides.items()]  # fmt: skip
    shown = table(["", "photos", "mean score", *(f"map {key}" for key in FIGURES)], cells)
    return f"{group}: mean of the map inside and outside the subject, score points [95 %]\n{shown}\n" \
           f"do they differ anywhere: {p_words(found.p)}"  # fmt: skip


def _draw(path: Path, title: str, found: GroupFindings, backdrop: Pixels) -> None:
    """Draw the mean maps on one scale, the difference (outlined where it is beyond chance), and the difference's standard error."""
    scale = tidy(max(float(np.percentile(np.abs(side.map), 99)) for side in found.sides.values()))
    unit = "score points, hidden to shown"
    columns = []
    for name, side in found.sides.items():
        lines = [f"{side.photos} photos, mean score {side.mean_score:.0f}"]
        lines += [f"{key} {figure.text()}" for key, figure in side.figures.items()]
        columns.append(Column(name, overlay(backdrop, side.map, scale), lines, scale, unit))
    beyond = np.abs(found.difference) > found.threshold * found.standard_error
    lines = [f"do they differ anywhere: {p_words(found.p)}"]
    if found.p is not None:
        lines.append("outlined: beyond chance (95 %)" if beyond.any() else "no place is beyond chance")
    end, worst = tidy(float(np.percentile(np.abs(found.difference), 99))), tidy(float(found.standard_error.max()))
    columns.append(Column(found.name, outlined(overlay(backdrop, found.difference, end), beyond), lines, end, unit))
    shade = shaded(found.standard_error, worst)
    columns.append(Column("standard error of the difference", shade, [], worst, "score points", signed=False))
    draw_panel(
        path, title, columns, [f"{key}: {about} [95 %, bootstrap over photos]" for key, about in FIGURES.items()]
    )
