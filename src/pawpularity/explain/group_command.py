"""`pawpularity explain --group`: maps of photos of whole groups, few masks each; then their means, figures and pictures.

Leaves in oof/RUN/explain/groups/GROUP/: groups.csv (a row per side and figure), figure.png, maps.npz (means and errors, float32),
groups.json. Every photo is explained by the fold's network that never saw it.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.console import emit, log
from pawpularity.data.photos import Pixels
from pawpularity.data.subject import LEAST, MOST, SUBJECT, share, subject_map
from pawpularity.data.tables import ID, METADATA
from pawpularity.errors import UserError
from pawpularity.evaluation.bootstrap import holm
from pawpularity.evaluation.effects import CLAIMS, CONTRAST
from pawpularity.explain.chosen import Chosen, listed
from pawpularity.explain.estimate import table
from pawpularity.explain.explain import decoded, span
from pawpularity.explain.extremes import Scored, scored_rows
from pawpularity.explain.groups import (
    FEWEST_TESTED,
    FIGURES,
    PLACES,
    PREDICTIONS,
    SCORES,
    Difference,
    GroupFindings,
    Mapped,
    Part,
    drawn_from,
    findings,
    known_groups,
    require_two,
    rows_of,
    sides_of,
    word_of,
)
from pawpularity.explain.masks import MaskDesign
from pawpularity.explain.panel import Column, draw_columns, outlined, overlay, shaded, tidy
from pawpularity.explain.rise import StillScore, rise, still
from pawpularity.explain.scored import PhotoScore
from pawpularity.explain.staging import publish, staged
from pawpularity.files import atomic_file, write_json, write_text
from pawpularity.predictor import Predictor
from pawpularity.runs import versions

EVERY = "all"
_BLOCKS = "blocks"
_FILES = ("maps.npz", "figure.png", "groups.json", "groups.csv")


def explain_groups(
    chosen: Chosen, words: Sequence[str], n: int | None, out: Path | None, destination: str | None
) -> None:
    """Every group that `words` name (several may stand in one word, separated by commas), each in a folder of its own."""
    named = [name.lower() for word in words for name in word.replace(",", " ").split()]
    if EVERY in named:
        named = [SCORES, PREDICTIONS, *dict.fromkeys(word_of(claim.column) for claim in CLAIMS)]
    if unknown := next((name for name in named if name not in known_groups()), None):
        sides_of(unknown, [], pd.DataFrame(), None)  # says which there are
    per_side = n or chosen.settings.group_photos
    blocks = chosen.settings.group_blocks
    size = MaskDesign(chosen.settings.cells).block_size
    if chosen.settings.masks != "auto":
        blocks = max(2, -(-int(chosen.settings.masks) // size))
    rows = list(scored_rows(chosen.source).values())
    train = chosen.dataset.train.set_index(ID).loc[[row.id for row in rows]]
    contrast: NDArray[np.float64] | None = None
    if CONTRAST in named:
        from pawpularity.data.subject import measure

        levels = pd.Series(measure(chosen.dataset).levels, index=chosen.dataset.train[ID])
        contrast = np.asarray(levels.loc[train.index], dtype=np.float64)
    sides: dict[str, dict[str, list[int]]] = {}
    refusals: list[str] = []
    for group in dict.fromkeys(named):
        try:
            members = sides_of(group, rows, train, contrast)
            sides[group] = {
                side: drawn_from(places, rows, per_side, chosen.settings.seed) for side, places in members.items()
            }
            require_two(group, sides[group], rows)
        except UserError as error:
            sides.pop(group, None)
            refusals.append(str(error))
    if not sides:
        raise UserError("; ".join(refusals))
    predictor = Predictor.load(chosen.run.folder, folds=sorted({row.fold for row in rows}))
    log(f"device  {predictor.compute}")
    values, texts = [], []
    for group, drawn in sides.items():
        folder = (out or chosen.folder / "groups") / group
        value, text = _one_group(chosen, predictor, group, drawn, rows, train, blocks, folder)
        values.append(value)
        texts.append(text)
        log(f"wrote   {folder}/groups.csv, figure.png, maps.npz")
    tested = [value for value in values if value["p_anywhere"] is not None]
    if len(tested) > 1:  # many tests find something by luck
        adjusted = holm([value["p_anywhere"] for value in tested])
        for value, p in zip(tested, adjusted, strict=True):
            value["p_anywhere_holm"] = float(p)
        lines = [f"{value['group']} {_chance(value['p_anywhere_holm'])}" for value in tested]
        texts.append(
            f"the maps of these {len(tested)} groups' sides differ somewhere, adjusted by Holm: {', '.join(lines)}"
        )
    emit({"run": chosen.run.name, "groups": values}, "\n\n".join(texts), destination)
    if refusals:
        raise UserError(f"{'; '.join(refusals)}; the other groups are in {out or chosen.folder / 'groups'}")


def _one_group(
    chosen: Chosen, predictor: Predictor, group: str, sides: Mapping[str, Sequence[int]], rows: Sequence[Scored],
    train: pd.DataFrame, blocks: int, folder: Path,
) -> tuple[dict[str, Any], str]:  # fmt: skip
    paths = dict(zip(chosen.dataset.train[ID], chosen.dataset.paths, strict=True))
    everyone = [rows[place] for places in sides.values() for place in places]
    recipe = chosen.recipe(f"group {group}", predictor, [(row.id, paths[row.id]) for row in everyone])
    recipe |= {"blocks": blocks, "sides": {side: len(places) for side, places in sides.items()}}
    metadata = train[list(METADATA)].to_numpy(dtype=np.float32)
    settings, cfg = chosen.settings, predictor.config.photos
    masks = blocks * MaskDesign(settings.cells).block_size

    def opened(place: int) -> tuple[PhotoScore, Pixels]:
        row = rows[place]
        score = PhotoScore(predictor.networks[row.fold], predictor.compute, metadata[place])
        return score, decoded(paths[row.id], cfg.size, cfg.fit)

    _require_looks(group, (opened(place) for places in sides.values() for place in places))
    log(f"{group}: {', '.join(f'{len(places)} photos {side}' for side, places in sides.items())}; {masks} masks each")
    with staged(folder, recipe, started=(_BLOCKS,), shown=_FILES) as part:
        mapped: dict[str, list[Mapped]] = {}
        backdrop: NDArray[np.float64] = np.zeros((cfg.size, cfg.size, 3))
        unmoved: list[str] = []
        done = 0
        start = time.perf_counter()
        for side, places in sides.items():
            mapped[side] = []
            for number, place in enumerate(places):
                row = rows[place]
                score, pixels = opened(place)
                backdrop += pixels
                file = part / _BLOCKS / f"{row.id}.npy"
                if not file.is_file():
                    # The i-th photos of all sides share their masks; those of one side do not, so that noise averages out.
                    try:
                        found = rise(score, score.input_of(pixels), masks=masks, cells=settings.cells,
                                     seed=settings.seed + number, batch_size=settings.batch_size).block_maps()  # fmt: skip
                    except StillScore:  # hiding does nothing, and that is what its map says
                        found = np.zeros((blocks, *pixels.shape[:2]), dtype=np.float32)
                    except UserError as error:
                        raise UserError(f"{row.id}: {error}") from None
                    with atomic_file(file) as temporary, temporary.open("wb") as open_file:
                        np.save(open_file, found, allow_pickle=False)
                maps = np.load(file, allow_pickle=False)
                if not maps.any():
                    unmoved.append(row.id)
                mapped[side].append(Mapped(maps, _subject(pixels), row.group, row.target))
                done += 1
                if done in (2, len(everyone)) or done % 16 == 0:
                    rest = (time.perf_counter() - start) / done * (len(everyone) - done)
                    log(f"  {done}/{len(everyone)}{f', about {span(rest)} more' if rest > 1 else ''}")
        found_group = findings(group, mapped, np.rint(backdrop / len(everyone)).astype(np.uint8), seed=settings.seed)
        lines = rows_of(found_group)
        write_text(part / "groups.csv", pd.DataFrame(lines).to_csv(index=False, lineterminator="\n"))
        if unmoved:
            log(f"{group}: hiding moves no score of {listed(unmoved, ', ')}: their maps count as zero")
        value = {"group": group, "run": chosen.run.name, "predictions_hash": chosen.source.predictions_hash, "masks": masks,
                 "unmoved": unmoved,
                 "figures": [_plain(line) for line in lines],
                 "p_anywhere": found_group.difference.p, "settings": settings.model_dump(), "versions": versions()}  # fmt: skip
        write_json(part / "groups.json", value)
        _write_means(part / "maps.npz", found_group)
        _draw(part / "figure.png", found_group, chosen.run.name, masks)
        publish(folder, _FILES)
    return value, group_text(found_group)


def _require_looks(group: str, photos: Iterable[tuple[PhotoScore, Pixels]]) -> None:
    """Raise UserError where hiding moves the score of none of `photos`. Looks no further than the first that moves."""
    for number, (score, pixels) in enumerate(photos, start=1):
        try:
            value = still(score, score.input_of(pixels))
        except UserError as error:
            raise UserError(f"{group}: photo {number}: {error}; train with a lower train.lr") from None
        if value is None:
            return
    raise UserError(f"{group}: hiding moves the score of none of its {number} photos, the last stays {value:.6g}: the networks do "
                    "not look at photos; train with a lower train.lr")  # fmt: skip


def group_text(found: GroupFindings) -> str:
    """One group's figures as aligned text."""
    cells = [["", "photos", "mean score", *FIGURES]]
    for side in found.sides:
        cells.append([side.name, str(side.photos), f"{side.mean_score:.1f}", *(text for _, text in _texts(side))])
    cells.append([found.difference.name, "", "", *(text for _, text in _texts(found.difference))])
    return "\n".join([
        found.group, table(cells), f"the two maps differ somewhere: {_chance(found.difference.p)}",
        *(f"{key}: {words}" for key, words in FIGURES.items()), "intervals: 95 %, over photos",
    ])  # fmt: skip


def _texts(part: Part) -> list[tuple[str, str]]:
    signed = isinstance(part, Difference)
    return [(key, figure.text("" if key in PLACES and not signed else "+")) for key, figure in part.figures.items()]


def _chance(p: float | None) -> str:
    if p is None:
        return f"not tested, which takes {FEWEST_TESTED} photos or more on each side"
    return "p < .001" if p < 0.001 else f"p {p:.3f}"


def _subject(pixels: Pixels) -> NDArray[np.bool_] | None:
    found = subject_map(pixels)
    return found == SUBJECT if LEAST <= share(found) <= MOST else None


def _write_means(path: Path, found: GroupFindings) -> None:
    arrays: dict[str, Any] = {}
    parts: list[Part] = [*found.sides, found.difference]
    for part in parts:
        name = "difference" if part is found.difference else part.name.replace(" ", "_")
        arrays |= {name: part.map.astype(np.float32), f"{name}_standard_error": part.standard_error.astype(np.float32)}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _draw(path: Path, found: GroupFindings, run: str, masks: int) -> None:
    """Side by side: the mean maps on one scale; the difference, outlined where it is beyond luck; the difference's error."""
    scale = tidy(max(float(np.percentile(np.abs(side.map), 99)) for side in found.sides))
    difference = found.difference
    end, worst = tidy(float(np.percentile(np.abs(difference.map), 99))), tidy(float(difference.standard_error.max()))
    beyond = np.abs(difference.map) > difference.threshold * difference.standard_error
    unit = "score points, hidden to shown"
    columns = []
    for side in found.sides:
        head = f"{side.name}: {side.photos} photos, mean score {side.mean_score:.0f}"
        lines = [f"{key} {text}" for key, text in _texts(side)]
        columns.append(Column(head, overlay(found.backdrop, side.map, scale), scale, unit, lines))
    lines = [
        *(f"{key} {text}" for key, text in _texts(difference)),
        f"they differ somewhere: {_chance(difference.p)}",
    ]
    if beyond.any():
        lines.append("outlined: beyond what luck does anywhere (95 %)")
    elif difference.p is not None:
        lines.append("no place is beyond what luck does anywhere")
    tile = outlined(overlay(found.backdrop, difference.map, end), beyond)
    columns.append(Column(difference.name, tile, end, unit, lines))
    shade = shaded(difference.standard_error, worst)
    columns.append(Column("standard error of the difference", shade, worst, "score points", [], signed=False))
    foot = [
        "[95 % interval, bootstrap over photos, near-duplicates together]",
        *(f"{key}: {words}" for key, words in FIGURES.items()),
    ]
    draw_columns(path, f"{run}, {found.group}: mean signed RISE maps of photos, {masks} masks each", columns, foot)


def _plain(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if value is None or value != value else value for key, value in line.items()}
