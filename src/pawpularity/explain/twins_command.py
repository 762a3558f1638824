"""`pawpularity explain --twins DIR`: drawn pets with and without one part; the maps, held against what removing it does.

    make sample ARGS="--twins 5 --photos 32 --seed 31 --into input/twins"
    make explain TWINS=input/twins

The pets are new to every fold, so the score is the mean of the trained folds, without metadata. Leaves in
oof/RUN/explain/twins/: twins.csv (a row per pair and method), twins.json (summaries), maps/ID.npz (of the photos with the part).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pawpularity.console import emit, log
from pawpularity.errors import UserError
from pawpularity.explain.chosen import Chosen
from pawpularity.explain.explain import MAPS, Photo, decoded, maps_of, score_of
from pawpularity.explain.panel import TITLES, write_maps
from pawpularity.explain.staging import publish, staged
from pawpularity.explain.twins import Twin, against_twins, read_twins, summarise_twins, twins_text
from pawpularity.files import read_json, write_json, write_text
from pawpularity.predictor import Predictor
from pawpularity.runs import versions

_RECORDS = "records"
_FILES = (MAPS, "twins.json", "twins.csv")


def explain_twins(chosen: Chosen, data: Path, out: Path | None, destination: str | None) -> None:
    """Every pair of `data`. Raises UserError where it has none, or the run cannot do without metadata."""
    model = chosen.run.config.model
    if model.metadata == "use" and model.metadata_dropout == 0:
        raise UserError(f"{chosen.run.folder}: was trained with metadata always there, and twins have none; take a run with "
                        "model.metadata_dropout > 0")  # fmt: skip
    predictor = Predictor.load(chosen.run.folder)
    cfg = predictor.config.photos
    twins = read_twins(data, size=cfg.size, fit=cfg.fit)
    if not twins:
        raise UserError(f"{data}: its pairs.csv names no pair; draw it with: pawpularity sample --twins 5 --into DIR")
    log(f"device  {predictor.compute}")
    log(
        f"{len(twins)} pairs of {data}: the mean of folds {', '.join(map(str, sorted(predictor.networks)))}, without metadata"
    )
    folder = out or chosen.folder / "twins"
    files = [path for twin in twins for path in (twin.photo_with, twin.photo_without)]
    recipe = chosen.recipe("twins", predictor, [(path.stem, path) for path in files])
    with staged(folder, recipe, started=(_RECORDS,), shown=_FILES) as part:
        for number, twin in enumerate(twins, start=1):
            record = part / _RECORDS / f"{twin.photo_with.stem}.json"
            if not record.is_file():
                write_json(record, _explain(chosen, predictor, twin, part))
            if number % 5 == 0 or number == len(twins):
                log(f"  {number}/{len(twins)}")
        value, text, lines = _findings(chosen, twins, part)
        write_text(part / "twins.csv", pd.DataFrame(lines).to_csv(index=False, lineterminator="\n"))
        write_json(part / "twins.json", value)
        publish(folder, _FILES)
    emit(value, text, destination)
    log(f"wrote   {folder}/twins.csv, twins.json, maps")


def _explain(chosen: Chosen, predictor: Predictor, twin: Twin, part: Path) -> dict[str, object]:
    cfg = predictor.config.photos
    scores = []
    for path in (twin.photo_without, twin.photo_with):
        score = score_of(Photo(path.stem, path), predictor.networks, predictor.compute)
        x = score.input_of(decoded(path, cfg.size, cfg.fit))
        scores.append(float(score(x[None])[0]))
    maps, refusals = maps_of(score, x, chosen.settings)
    write_maps(part / MAPS / f"{twin.photo_with.stem}.npz", maps)
    for line in refusals:
        log(f"  {twin.photo_with.stem}: {line}")
    return {"with": scores[1], "without": scores[0], "methods": list(maps)}


def _findings(
    chosen: Chosen, twins: Sequence[Twin], part: Path
) -> tuple[dict[str, object], str, list[dict[str, object]]]:
    records = [read_json(part / _RECORDS / f"{twin.photo_with.stem}.json", "a pair") for twin in twins]
    found, texts, lines = {}, [], []
    for method in chosen.settings.methods:
        there = [place for place, record in enumerate(records) if method in record["methods"]]
        if not there:
            continue
        maps = []
        for place in there:
            with np.load(part / MAPS / f"{twins[place].photo_with.stem}.npz", allow_pickle=False) as arrays:
                # As in the tests of faithfulness: what the map says of hiding and removing.
                maps.append(arrays[f"{method}_effect"] if f"{method}_effect" in arrays else arrays[method])
        scores = np.array([[records[place]["with"], records[place]["without"]] for place in there])
        rows = against_twins([twins[place] for place in there], scores, maps)
        summaries = summarise_twins(rows, seed=chosen.settings.seed)
        found[method] = [row.to_dict() for row in summaries]
        texts.append(f"{TITLES.get(method, method)}\n{twins_text(summaries)}")
        lines += [{"Id": twins[place].photo_with.stem, "Id_without": twins[place].photo_without.stem, "method": method}
                  | row.to_dict() for place, row in zip(there, rows, strict=True)]  # fmt: skip
    value: dict[str, object] = {
        "run": chosen.run.name, "pairs": len(twins), "methods": found, "settings": chosen.settings.model_dump(), "versions": versions(),
    }  # fmt: skip
    if "gradient" in found:
        texts.append("gradient: judged as gradient x (photo - mean colour)")
    return value, "\n\n".join(texts), lines
