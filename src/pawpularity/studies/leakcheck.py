"""Question: have these out-of-fold predictions, a run's or anybody's CSV, seen their answers?

Command: `make leakcheck OOF=theirs.csv [PHOTOS=DIR]`.
Result: printed, and in oof/leakcheck/NAME/:
    check.json      every sign, the error by similarity of the nearest photo of another fold, the copies
    neighbours.csv  a row per photo: the nearest photo of another fold, how similar it is, both scores, the prediction
    copies.png      the neighbours that are copies, side by side, the most similar first

The signs are those of `evaluation.leak_detection`. With photos, a frozen network measures which photo of another fold is most
similar. A sample of the photos is mirrored and cropped to see how similar a copy is; a neighbour as similar as nine of ten
of those is suspected, and the hashes of the two pictures decide whether it is a copy.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.config import Config, resolve
from pawpularity.console import emit, log, make_word, next_step, table, track
from pawpularity.context import choose_data, default_config
from pawpularity.data.tables import ID
from pawpularity.errors import UserError
from pawpularity.evaluation.leak_detection import (
    Neighbours,
    Origin,
    blind_remark,
    copies_of,
    deciles,
    extremes_remark,
    folder_of,
    nearest_across_folds,
    origin_of,
    signs_of,
    standardised,
    verdict_of,
)
from pawpularity.evaluation.metrics import evaluate
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.files import text_hash, write_json, write_text
from pawpularity.runs import OOF

FOLDER = OOF / "leakcheck"
FEWEST_PHOTOS = 20
MEASURED = 200  # photos that are mirrored and cropped to see how similar a copy is
QUANTILE = 0.1  # nine of ten copies are as similar as the bar
SHOWN = 24  # pairs on the sheet
PACKAGED = {"model.backbone": "test_resnet", "model.weights": "drawn", "model.args": {}, "photos.size": 96}
"""The network that comes with the package: it finds copies, and knows no photographs."""
VERDICTS = {
    "leak": "LEAK: what predicted these scores had seen answers",
    "folds": "COPIES ACROSS FOLDS: with these folds no figure can be shown to be honest",
    "pass": "no sign of a leak",
    "none": "no verdict: too few rows, or nothing is known of this data to hold the figure against",
}

Rows = NDArray[np.int64]
Features = NDArray[np.float32]


def leakcheck(
    oof: str, *, photos: str | None = None, out: str | None = None, config: str | None = None, data: str | None = None,
    settings: Sequence[str] = (), folds: Path | None = None, scale: float | None = None, json: str | None = None,
) -> None:  # fmt: skip
    """`pawpularity leakcheck`: look for every sign, print and write the findings."""
    source = open_predictions(oof, scale=scale, folds=folds)
    origin = origin_of(source, Path(data) if data else None)
    at_hand = origin.folder or folder_of(source, origin)
    resolved = resolve(config or default_config(at_hand or choose_data(data)), settings)
    files = find_photos(source, photos, at_hand)
    value, neighbours = check(source, origin, files, resolved)
    folder = Path(out) if out else FOLDER / source.folder_name
    write_check(value, neighbours, files, folder)
    emit(value, check_text(value, source.constant_words), json)
    log(f"wrote {folder}/")
    next_step(f"make errors {make_word('RUN', oof)}")


def find_photos(source: Predictions, asked: str | None, data: Path | None) -> dict[int, Path]:
    """The photo of each row of `source` that has one: in the folder `asked` for, else in `data` if that holds enough.

    Photos are ID.jpg in the folder, or in train/ below it. Raises UserError where `asked` holds fewer than 20.
    """
    folder = Path(asked) if asked else data
    if folder is None:
        return {}
    place = folder / "train" if (folder / "train").is_dir() or not asked else folder
    there = {path.stem: path for path in place.glob("*.jpg")}
    found = {row: there[name] for row, name in enumerate(source.table[ID]) if name in there}
    if len(found) >= FEWEST_PHOTOS:
        return found
    if asked:
        raise UserError(f"--photos {folder}: holds {len(found)} of these {len(source.table)} photos as ID.jpg; "
                        f"{FEWEST_PHOTOS} or more are needed")  # fmt: skip
    return {}


def check(
    source: Predictions, origin: Origin, files: dict[int, Path], config: Config
) -> tuple[dict[str, Any], pd.DataFrame | None]:
    """The findings for JSON, and the nearest photo of another fold of each of `files` (None where none were compared)."""
    result = evaluate(source.target, source.prediction, source.constant, source.groups)
    remarks = [extremes_remark(source, origin.kind), blind_remark(result.n)]
    rows, copies, parts, neighbours = np.array(list(files), dtype=np.int64), None, [], None
    compared = len(np.unique(source.fold[rows])) > 1
    if compared:
        config = with_weights(config)
        near, bar, copy = look_alikes(list(files.values()), source.fold[rows], config)
        copies, parts = copies_of(source, rows, near, bar, copy), deciles(source, rows, near)
        own = source.table.iloc[rows].reset_index(drop=True)[[ID, "fold", "target", "prediction"]]
        other = own.iloc[near.at].reset_index(drop=True)[[ID, "fold", "target"]]
        other.columns = pd.Index(["neighbour", "neighbour_fold", "neighbour_target"])
        neighbours = own.join(other).assign(similarity=near.similarity, copy=copy)
    else:
        why = f"the {len(rows)} rows with a photo are all of one fold" if files else "no photos (--photos DIR)"
        remarks.append(f"{why}: no search for copies in other folds")
    signs = signs_of(source, result, origin, copies)
    return {
        "name": source.name, "verdict": verdict_of(signs), "kind_of_data": origin.kind, "why": origin.why,
        "score": result.to_dict(), "signs": [asdict(sign) for sign in signs],
        "remarks": [remark for remark in remarks if remark],
        "photos": len(rows) if compared else None, "network": config.model.backbone if compared else None,
        "deciles": [asdict(part) for part in parts], "copies": None if copies is None else copies.to_dict(),
    }, neighbours  # fmt: skip


def look_alikes(paths: list[Path], fold: Rows, config: Config) -> tuple[Neighbours, float, NDArray[np.bool_]]:
    """The nearest of `paths` of another `fold` (n,), the similarity that makes it suspect, and whether it is a copy (n,).

    There must be two folds or more. Raises UserError for bad photos.
    """
    from pawpularity.data.augment import ORIGINAL
    from pawpularity.data.dataset import fingerprints
    from pawpularity.data.duplicates import is_copy
    from pawpularity.data.photo_cache import photos_of
    from pawpularity.device import choose as choose_device
    from pawpularity.features.build import FeatureCache
    from pawpularity.heads.features import frozen_features

    cache, size, compute = Path(config.cache.folder), config.photos.size, choose_device(config.train.dtype)
    prints = fingerprints(paths, cache)
    photos = photos_of(
        paths, prints, size=size, fit=config.photos.fit, folder=cache, key=text_hash("leakcheck", *prints)
    )
    features_cache = FeatureCache(cache / "features", photos, size, config.cache.budget_gb)

    def features(at: Rows, view: int) -> Features:
        return frozen_features(photos, at, config.model, "pooled", size, compute, cache=features_cache, view=view)

    own = features(np.arange(len(paths)), ORIGINAL)
    unit = standardised(own)
    near, bar = nearest_across_folds(unit, fold), copy_bar(own, unit, features)
    # Features say what a photo shows: two kittens on one blanket are as near as copies. The pictures decide.
    copy = near.similarity >= bar
    for row in track(np.flatnonzero(copy), "comparing pictures", unit="pair"):
        copy[row] = is_copy(paths[row], paths[near.at[row]])
    return near, bar, copy


def copy_bar(own: Features, unit: Features, features: Callable[[Rows, int], Features]) -> float:
    """The similarity that nine of ten mirror images and 90 % crops of these photos have to their original.

    `own` (n, width) are the photos' features, `unit` the same standardised; `features(rows, view)` those of a view.
    """
    from pawpularity.data.augment import CROP, FLIP

    some = np.sort(np.random.default_rng(0).permutation(len(own))[:MEASURED])
    similar = [np.einsum("ij,ij->i", unit[some], standardised(features(some, view), by=own)) for view in (FLIP, CROP)]
    return float(np.quantile(np.concatenate(similar), QUANTILE))


def with_weights(config: Config) -> Config:
    """`config` if its network's weights are at hand, else with the packaged network; says so."""
    from pawpularity.models.weights import find_weights

    if config.model.weights != "none":
        try:
            find_weights(config.model.backbone, config.model.weights)
            return config
        except UserError as error:
            log(f"{error}; taking the packaged {PACKAGED['model.backbone']}: it finds copies, but knows no photographs")
    return config.with_values(PACKAGED)


def check_text(v: dict[str, Any], constant_words: str) -> str:
    """The findings: verdict, figures, a line per sign and remark."""
    s, c, notes = v["score"], v["copies"], list(v["remarks"])
    lines = [
        f"{v['name']}: {VERDICTS[v['verdict']]}",
        f"RMSE {s['rmse']:.3f}, 95 % [{s['low']:.2f}, {s['high']:.2f}]{' (indicative)' if s['indicative'] else ''}; n = {s['n']}; "
        f"constant {s['constant_rmse']:.3f} ({constant_words}); sd of these rows {s['sd']:.3f}",
        f"{v['kind_of_data']} data: {v['why']}",
    ]  # fmt: skip
    for name, d in zip(("least", "most"), v["deciles"][:1] + v["deciles"][-1:], strict=False):
        notes.append(f"the tenth with the {name} similar neighbour by {v['network']} ({d['similarity']:.2f}): "
                     f"RMSE {d['rmse']:.1f}, copying {d['copying_rmse']:.1f}, constant {d['constant_rmse']:.1f}")  # fmt: skip
    if c and c["rows"]:
        notes.append(f"the {c['rows']} rows with a copy in another fold: RMSE {c['rmse']:.2f}, copying its score "
                     f"{c['copying_rmse']:.2f}")  # fmt: skip
    rows = [("ALARM" if sign["raised"] else "ok", sign["name"], sign["text"]) for sign in v["signs"]]
    rows += [("note", "", note) for note in notes]
    return "\n".join([*lines, table(("", "sign", "finding"), rows, left=(0, 1, 2))])


def write_check(v: dict[str, Any], neighbours: pd.DataFrame | None, files: dict[int, Path], folder: Path) -> None:
    """Write the findings into `folder`; files of an earlier check that this one does not have are removed."""
    for name in ("neighbours.csv", "copies.png"):
        (folder / name).unlink(missing_ok=True)
    if neighbours is not None:
        text = neighbours.to_csv(index=False, float_format="%.6f", lineterminator="\n")
        write_text(folder / "neighbours.csv", text)
        if neighbours["copy"].any():
            write_sheet(neighbours, dict(zip(neighbours[ID], files.values(), strict=True)), folder / "copies.png")
    write_json(folder / "check.json", v)


def write_sheet(neighbours: pd.DataFrame, files: dict[str, Path], path: Path) -> None:
    """The pairs of copies, each once, the most similar first, two pairs a line."""
    from pawpularity.evaluation.contact_sheet import Tile, contact_sheet

    pairs: dict[frozenset[str], list[Tile]] = {}
    copies = neighbours[neighbours["copy"]].sort_values("similarity", ascending=False, kind="stable")
    for row in copies.to_dict("records"):
        own, other = row[ID], row["neighbour"]
        about = f"fold {row['fold']}, score {row['target']:g}", f"predicted {row['prediction']:.1f}"
        beside = (
            f"fold {row['neighbour_fold']}, score {row['neighbour_target']:g}",
            f"similarity {row['similarity']:.3f}",
        )
        tiles = [Tile(files[own], (own, *about)), Tile(files[other], (other, *beside))]
        pairs.setdefault(frozenset((own, other)), tiles)
    shown = [tile for pair in list(pairs.values())[:SHOWN] for tile in pair]
    contact_sheet([shown], path, per_line=4)
