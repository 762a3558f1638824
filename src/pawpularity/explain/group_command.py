"""`pawpularity explain --group`: maps of photos of whole groups, few masks each; then their means, figures and pictures.

Leaves in oof/RUN/explain/groups/GROUP/: groups.csv (a row per side and figure), figure.png, maps.npz (means and errors, float32),
groups.json. Every photo is explained by the fold's network that never saw it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.competition.photos import Pixels
from pawpularity.competition.table import ID, METADATA
from pawpularity.errors import UserError
from pawpularity.explain.chosen import Chosen
from pawpularity.explain.estimate import table
from pawpularity.explain.explain import decoded, span
from pawpularity.explain.extremes import Scored, scored_rows
from pawpularity.explain.groups import (
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
    rows_of,
    sides_of,
    word_of,
)
from pawpularity.explain.masks import MaskDesign
from pawpularity.explain.panel import Column, draw_columns, outlined, overlay, shaded, tidy
from pawpularity.explain.rise import rise
from pawpularity.explain.scored import PhotoScore
from pawpularity.explain.staging import publish, staged
from pawpularity.files import write_json, write_text, written_whole
from pawpularity.hypotheses.claims import CLAIMS, CONTRAST
from pawpularity.hypotheses.subject import LEAST, MOST, SUBJECT, share, subject_map
from pawpularity.predictor import Predictor
from pawpularity.run import versions
from pawpularity.verb import give, say

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
        from pawpularity.hypotheses.subject import measure

        levels = pd.Series(measure(chosen.dataset, chosen.cache).levels, index=chosen.dataset.train[ID])
        contrast = np.asarray(levels.loc[train.index], dtype=np.float64)
    sides: dict[str, dict[str, list[int]]] = {}
    refusals: list[str] = []
    for group in dict.fromkeys(named):
        try:
            sides[group] = sides_of(group, rows, train, contrast)
        except UserError as error:
            refusals.append(str(error))
    if not sides:
        raise UserError("; ".join(refusals))
    predictor = Predictor.load(chosen.run.folder, folds=sorted({row.fold for row in rows}))
    say(f"device  {predictor.compute}")
    values, texts = [], []
    for group, members in sides.items():
        folder = (out or chosen.folder / "groups") / group
        drawn = {side: drawn_from(places, rows, per_side, chosen.settings.seed) for side, places in members.items()}
        value, text = _one_group(chosen, predictor, group, drawn, rows, train, blocks, folder)
        values.append(value)
        texts.append(text)
        say(f"wrote   {folder}/groups.csv, figure.png, maps.npz")
    give({"run": chosen.run.name, "groups": values}, "\n\n".join(texts), destination)
    if refusals:
        raise UserError(f"{'; '.join(refusals)}; the other groups are in {out or chosen.folder / 'groups'}")


def _one_group(
    chosen: Chosen, predictor: Predictor, group: str, sides: Mapping[str, Sequence[int]], rows: Sequence[Scored],
    train: pd.DataFrame, blocks: int, folder: Path,
) -> tuple[dict[str, Any], str]:  # fmt: skip
    paths = dict(zip(chosen.dataset.train[ID], chosen.dataset.photo_paths(), strict=True))
    everyone = [rows[place] for places in sides.values() for place in places]
    recipe = chosen.recipe(f"group {group}", predictor, [(row.id, paths[row.id]) for row in everyone])
    recipe |= {"blocks": blocks, "sides": {side: len(places) for side, places in sides.items()}}
    metadata = train[list(METADATA)].to_numpy(dtype=np.float32)
    settings, cfg = chosen.settings, predictor.config.photos
    masks = blocks * MaskDesign(settings.cells).block_size
    say(f"{group}: {', '.join(f'{len(places)} photos {side}' for side, places in sides.items())}; {masks} masks each")
    with staged(folder, recipe, started=(_BLOCKS,), shown=_FILES) as part:
        mapped: dict[str, list[Mapped]] = {}
        backdrop: NDArray[np.float64] = np.zeros((cfg.size, cfg.size, 3))
        done = 0
        start = time.perf_counter()
        for side, places in sides.items():
            mapped[side] = []
            for number, place in enumerate(places):
                row = rows[place]
                pixels = decoded(paths[row.id], cfg.size, cfg.fit)
                backdrop += pixels
                file = part / _BLOCKS / f"{row.id}.npy"
                if not file.is_file():
                    score = PhotoScore(predictor.networks[row.fold], predictor.compute, metadata[place])
                    # The i-th photos of all sides share their masks; those of one side do not, so that noise averages out.
                    found = rise(score, score.input_of(pixels), masks=masks, cells=settings.cells, seed=settings.seed + number,
                                 batch_size=settings.batch_size)  # fmt: skip
                    with written_whole(file) as temporary, temporary.open("wb") as open_file:
                        np.save(open_file, found.block_maps(), allow_pickle=False)
                maps = np.load(file, allow_pickle=False)
                mapped[side].append(Mapped(maps, _subject(pixels), row.group, row.target))
                done += 1
                if done in (2, len(everyone)) or done % 16 == 0:
                    rest = (time.perf_counter() - start) / done * (len(everyone) - done)
                    say(f"  {done}/{len(everyone)}{f', about {span(rest)} more' if rest > 1 else ''}")
        found_group = findings(group, mapped, np.rint(backdrop / len(everyone)).astype(np.uint8), seed=settings.seed)
        lines = rows_of(found_group)
        write_text(part / "groups.csv", pd.DataFrame(lines).to_csv(index=False, lineterminator="\n"))
        value = {"group": group, "run": chosen.run.name, "masks": masks, "figures": [_plain(line) for line in lines],
                 "p_anywhere": found_group.difference.p, "settings": asdict(settings), "versions": versions()}  # fmt: skip
        write_json(part / "groups.json", value)
        _write_means(part / "maps.npz", found_group)
        _draw(part / "figure.png", found_group, chosen.run.name, masks)
        publish(folder, _FILES)
    return value, group_text(found_group)


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


def _chance(p: float) -> str:
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
    with written_whole(path) as temporary, temporary.open("wb") as file:
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
    told = (
        "outlined: beyond what luck does anywhere (95 %)"
        if beyond.any()
        else "no place is beyond what luck does anywhere"
    )
    lines = [
        *(f"{key} {text}" for key, text in _texts(difference)),
        f"they differ somewhere: {_chance(difference.p)}",
        told,
    ]
    tile = outlined(overlay(found.backdrop, difference.map, end), beyond)
    columns.append(Column(difference.name, tile, end, unit, lines))
    shade = shaded(difference.standard_error, worst)
    columns.append(Column("standard error of the difference", shade, worst, "score points", [], signed=False))
    draw_columns(path, f"{run}, {found.group}: mean signed RISE maps of photos, {masks} masks each", columns)


def _plain(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if value is None or value != value else value for key, value in line.items()}
