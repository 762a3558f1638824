"""Question: are these out-of-fold predictions (of a run or of any CSV) leaky?

Command: `make leakcheck OOF=theirs.csv [PHOTOS=DIR]`.
Result: printed, and in oof/leakcheck/NAME/:
    check.json      every sign, the error by similarity of the nearest photo of another fold, the copies
    neighbours.csv  a row per photo: the nearest photo of another fold, how similar it is, both scores, the prediction
    copies.png      the neighbours that are copies, side by side, the most similar first

`evaluation.leak_detection` has the signs. With photos, a frozen network finds each photo's most similar photo of another fold. A
sample of the photos is mirrored and cropped, to measure how similar copies are. A neighbour above the lowest tenth of these
similarities is a suspect, and the hashes of the two pictures decide whether it is a copy.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.config import Config, resolve
from pawpularity.console import emit, log, next_step, table, track
from pawpularity.context import choose_data, default_config
from pawpularity.data.tables import ID, near_hint
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
from pawpularity.files import require_not_input, text_hash, write_json, write_text
from pawpularity.runs import OOF

FOLDER = OOF / "leakcheck"
FEWEST_PHOTOS = 20
MEASURED = 200  # photos that are mirrored and cropped, to measure how similar copies are
QUANTILE = 0.1  # nine of ten copies are at least as similar as the threshold
SHOWN = 24  # pairs in copies.png
PACKAGED = {"model.backbone": "test_resnet", "model.weights": "drawn", "model.args": {}, "photos.size": 96}
"""The packaged network: it finds copies, though it was trained on drawings only."""
VERDICTS = {
    "leak": "LEAK: the model had seen the answers",
    "folds": "COPIES ACROSS FOLDS: with these folds no figure can be shown to be honest",
    "pass": "no sign of a leak",
    "none": "no verdict: too few rows, or there is no reference figure for this data",
}

Rows = NDArray[np.int64]
Features = NDArray[np.float32]


def leakcheck(
    oof: str, *, photos: str | None = None, out: str | None = None, config: str | None = None, data: str | None = None,
    settings: Sequence[str] = (), folds: Path | None = None, scale: float | None = None, json: str | None = None,
) -> None:  # fmt: skip
    """`pawpularity leakcheck`: check every sign, print and write the findings."""
    if out:
        require_not_input("--out", out, Path(oof))
    source = open_predictions(oof, scale=scale, folds=folds)
    origin = origin_of(source, Path(data) if data else None)
    data_folder = origin.folder or folder_of(source, origin)
    resolved = resolve(config or default_config(data_folder or choose_data(data)), settings)
    files = find_photos(source, photos, data_folder)
    value, neighbours = check(source, origin, files, resolved)
    folder = Path(out) if out else FOLDER / source.folder_name
    write_check(value, neighbours, files, folder)
    emit(value, check_text(value, source.constant_words), json, more="\n".join(_notes(value)))
    log(f"wrote {folder}/")
    next_step("make errors", RUN=oof, DATA=data, FOLDS=folds, SCALE=scale)


def find_photos(source: Predictions, named: str | None, data: Path | None) -> dict[int, Path]:
    """The photo of each row of `source` that has one: in the folder `named` by --photos, else in `data` if it holds enough.

    Photos are ID.jpg in the folder, or in train/ below it. Raises UserError if `named` holds fewer than 20.
    """
    folder = Path(named) if named else data
    if folder is None:
        return {}
    place = folder / "train" if (folder / "train").is_dir() or not named else folder
    by_id = {path.stem: path for path in place.glob("*.jpg")}
    found = {row: by_id[name] for row, name in enumerate(source.table[ID]) if name in by_id}
    if len(found) >= FEWEST_PHOTOS:
        return found
    if named:
        # Those under another ending are named with it.
        names = by_id if by_id else [path.name for path in place.glob("*")]
        raise UserError(f"--photos {folder}: holds {len(found)} of these {len(source.table)} photos as ID.jpg; "
                        f"{FEWEST_PHOTOS} or more are needed{near_hint(source.table[ID], names)}")  # fmt: skip
    return {}


def check(
    source: Predictions, origin: Origin, files: dict[int, Path], config: Config
) -> tuple[dict[str, Any], pd.DataFrame | None]:
    """The findings for JSON, and for each of `files` the nearest photo of another fold (None if none were compared)."""
    result = evaluate(source.target, source.prediction, source.constant, source.groups)
    remarks = [extremes_remark(source, origin.kind), blind_remark(result.n, origin.kind)]
    rows, copies, parts, neighbours = np.array(list(files), dtype=np.int64), None, [], None
    compared = len(np.unique(source.fold[rows])) > 1
    if compared:
        config = with_weights(config)
        near, threshold, copy = nearest_photos(list(files.values()), source.fold[rows], config)
        copies, parts = copies_of(source, rows, near, threshold, copy), deciles(source, rows, near)
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


def nearest_photos(paths: list[Path], fold: Rows, config: Config) -> tuple[Neighbours, float, NDArray[np.bool_]]:
    """For each of `paths` the nearest of another `fold` (n,), the similarity of suspects, and whether it is a copy (n,).

    There must be two folds or more. Raises UserError for bad photos.
    """
    from pawpularity.data.augment import ORIGINAL
    from pawpularity.data.dataset import fingerprints
    from pawpularity.data.duplicates import is_copy
    from pawpularity.data.photo_cache import photos_of
    from pawpularity.device import choose as choose_device
    from pawpularity.features.build import FeatureCache
    from pawpularity.heads.encoders import Encoder
    from pawpularity.heads.features import frozen_features

    cache, size, compute = Path(config.cache.folder), config.photos.size, choose_device(config.train.dtype)
    prints = fingerprints(paths, cache)
    photos = photos_of(
        paths, prints, size=size, fit=config.photos.fit, folder=cache, key=text_hash("leakcheck", *prints)
    )
    features_cache = FeatureCache(cache / "features", photos, size, config.cache.budget_gb)

    def features(at: Rows, view: int) -> Features:
        return frozen_features(photos, at, Encoder.of(config), size, compute, cache=features_cache, view=view)

    own = features(np.arange(len(paths)), ORIGINAL)
    unit = standardised(own)
    near, threshold = nearest_across_folds(unit, fold), copy_threshold(own, unit, features)
    # Features say what a photo shows: two kittens on one blanket are as similar as copies. So the pictures decide.
    copy = near.similarity >= threshold
    for row in track(np.flatnonzero(copy), "comparing pictures", unit="pairs"):
        copy[row] = is_copy(paths[row], paths[near.at[row]])
    return near, threshold, copy


def copy_threshold(own: Features, unit: Features, features: Callable[[Rows, int], Features]) -> float:
    """The similarity to the original that nine of ten mirror images and 90 % crops of these photos reach.

    `own` (n, width): the photos' features; `unit`: the same, standardised; `features(rows, view)`: the features of a view.
    """
    from pawpularity.data.augment import CROP, FLIP

    some = np.sort(np.random.default_rng(0).permutation(len(own))[:MEASURED])
    similar = [np.einsum("ij,ij->i", unit[some], standardised(features(some, view), by=own)) for view in (FLIP, CROP)]
    return float(np.quantile(np.concatenate(similar), QUANTILE))


def with_weights(config: Config) -> Config:
    """`config` if its network's weights can be found, else `config` with the packaged network (logged)."""
    from pawpularity.models.weights import find_weights

    if config.model.weights != "none":
        try:
            find_weights(config.model.backbone, config.model.weights)
            return config
        except UserError as error:
            log(
                f"{error}; using the packaged {PACKAGED['model.backbone']}: it finds copies, but was trained on drawings"
            )
    return config.with_values(PACKAGED)


def check_text(v: dict[str, Any], constant_words: str) -> str:
    """The findings as text: verdict, figures, a line per sign."""
    s = v["score"]
    few = " (indicative)" if s["indicative"] else ""
    rows = [("ALARM" if sign["raised"] else "ok", sign["name"], sign["text"]) for sign in v["signs"]]
    return "\n".join([
        f"{v['name']}: {VERDICTS[v['verdict']]}",
        f"RMSE {s['rmse']:.2f}, 95 % [{s['low']:.2f}, {s['high']:.2f}]{few}; n = {s['n']:,}; "
        f"constant {s['constant_rmse']:.2f} ({constant_words}); sd of these rows {s['sd']:.2f}",
        f"{v['kind_of_data']} data: {v['why']}",
        *([table(("", "sign", "finding"), rows, left=(0, 1, 2))] if rows else []),
    ])  # fmt: skip


def _notes(v: dict[str, Any]) -> list[str]:
    """A line per remark, which no verdict depends on."""
    c, notes = v["copies"], list(v["remarks"])
    for name, d in zip(("least", "most"), v["deciles"][:1] + v["deciles"][-1:], strict=False):
        notes.append(f"the tenth with the {name} similar neighbour by {v['network']} ({d['similarity']:.2f}): "
                     f"RMSE {d['rmse']:.1f}, copying {d['copying_rmse']:.1f}, constant {d['constant_rmse']:.1f}")  # fmt: skip
    if c and c["rows"]:
        notes.append(f"the {c['rows']} rows with a copy in another fold: RMSE {c['rmse']:.2f}, copying its score "
                     f"{c['copying_rmse']:.2f}")  # fmt: skip
    return [f"note: {note}" for note in notes]


def write_check(v: dict[str, Any], neighbours: pd.DataFrame | None, files: dict[int, Path], folder: Path) -> None:
    """Write the findings into `folder`, and remove the files of an earlier check."""
    for name in ("neighbours.csv", "copies.png"):
        (folder / name).unlink(missing_ok=True)
    if neighbours is not None:
        text = neighbours.to_csv(index=False, float_format="%.6f", lineterminator="\n")
        write_text(folder / "neighbours.csv", text)
        if neighbours["copy"].any():
            write_sheet(neighbours, dict(zip(neighbours[ID], files.values(), strict=True)), folder / "copies.png")
    write_json(folder / "check.json", v)


def write_sheet(neighbours: pd.DataFrame, files: dict[str, Path], path: Path) -> None:
    """Write the pairs of copies, each once, the most similar first, two pairs a line."""
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
