"""One leak check from end to end: its findings as an object, as text, and as a folder `oof/leakcheck/NAME/`.

check.json      everything that was found
neighbours.csv  per row: the nearest photo of another fold, how alike it is, both scores, the prediction
copies.png      the neighbours that are copies, side by side, the most alike first
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pawpularity.device import choose as choose_device
from pawpularity.errors import UserError
from pawpularity.evaluation.contact_sheet import Tile, contact_sheet
from pawpularity.evaluation.leak_detection import (
    Copies,
    Decile,
    Origin,
    Sign,
    blind_remark,
    copies_of,
    deciles,
    extremes_remark,
    signs_of,
    verdict_of,
)
from pawpularity.evaluation.metrics import Metrics
from pawpularity.evaluation.predictions import Predictions
from pawpularity.files import write_json, write_text
from pawpularity.runs import OOF
from pawpularity.schema import Config
from pawpularity.studies.leakage.look_alikes import LookAlikes, Rows, look_alikes, photo_files

FOLDER = OOF / "leakcheck"
SHOWN = 24  # pairs on the sheet
_WORDS = {
    "leak": "LEAK: what predicted these scores had seen answers",
    "folds": "COPIES ACROSS FOLDS: with these folds no figure can be shown to be honest",
    "pass": "no sign of a leak",
    "none": "no verdict: too few rows, or nothing is known of this data to hold the figure against",
}


@dataclass(frozen=True, eq=False)
class Check:
    """What was found."""

    name: str
    constant_words: str
    origin: Origin
    score: Metrics
    signs: list[Sign]
    remarks: list[str]
    looks: LookAlikes | None
    deciles: list[Decile]
    copies: Copies | None
    neighbours: pd.DataFrame | None

    @property
    def verdict(self) -> str:
        """leak, folds, pass or none."""
        return verdict_of(self.signs)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "kind_of_data": self.origin.kind,
            "why": self.origin.why,
            "score": self.score.to_dict(),
            "signs": [vars(sign) for sign in self.signs],
            "remarks": self.remarks,
            "photos": None if self.looks is None else len(self.looks.rows),
            "network": None if self.looks is None else self.looks.network,
            "deciles": [asdict(d) for d in self.deciles],
            "copies": None if self.copies is None else self.copies.to_dict(),
        }


def photos_for(asked: str | None, source: Predictions, data: Path | None) -> Path | None:
    """The folder of photos: the one asked for, else that of the data at hand if it holds enough of them, else None."""
    if asked:
        return Path(asked)
    if data is None or not (data / "train").is_dir():
        return None
    try:
        photo_files(source.table["Id"].tolist(), data)
    except UserError:  # nobody named this folder, so nobody need mend it
        return None
    return data


def check_leaks(source: Predictions, result: Metrics, origin: Origin, photos: Path | None, config: Config) -> Check:
    """Look for every sign; with `photos` also at what looks alike to the frozen network of `config`.

    Raises UserError as `look_alikes` does.
    """
    remarks = [extremes_remark(source, origin.kind)]
    if (blind := blind_remark(result.n)) is not None:
        remarks.append(blind)
    there = _to_compare(source, photos)
    if isinstance(there, str):
        signs = signs_of(source, result, origin, None)
        return Check(source.name, source.constant_words, origin, result, signs, [*remarks, there], None, [], None, None)
    looks = look_alikes(*there, source.fold, config, choose_device(config.train.dtype))
    copies = copies_of(source, looks.rows, looks.near, looks.bar, looks.copy)
    remarks.append(f"look-alikes by {looks.network} (model.backbone=NAME model.weights=... takes another)")
    if len(looks.rows) < result.n:
        remarks.append(f"{len(looks.rows)} of {result.n} rows have a photo; look-alikes were looked for among those")
    rows, at = looks.rows, looks.rows[looks.near.at]
    neighbours = pd.DataFrame({
        "Id": source.table["Id"].to_numpy()[rows], "fold": source.fold[rows], "target": source.target[rows],
        "prediction": source.prediction[rows], "neighbour": source.table["Id"].to_numpy()[at], "neighbour_fold": source.fold[at],
        "neighbour_target": source.target[at], "similarity": looks.near.similarity, "copy": looks.copy,
    })  # fmt: skip
    return Check(source.name, source.constant_words, origin, result, signs_of(source, result, origin, copies), remarks, looks,
                 deciles(source, rows, looks.near), copies, neighbours)  # fmt: skip


def _to_compare(source: Predictions, photos: Path | None) -> tuple[Rows, list[Path]] | str:
    """The rows that have a photo, and those photos; or, in words, why nothing can be looked for among them."""
    if photos is None:
        return "fewer than 20 photos are at hand: look-alikes in other folds were not looked for (--photos DIR)"
    if len(np.unique(source.fold)) < 2:
        return "all rows are of one fold: there are no other folds to look for look-alikes in"
    rows, paths = photo_files(source.table["Id"].tolist(), photos)
    if len(np.unique(source.fold[rows])) < 2:
        return f"the {len(rows)} rows with a photo are all of one fold: there are no others to look for look-alikes in"
    return rows, paths


def check_text(found: Check) -> str:
    """The findings as text."""
    s = found.score
    lines = [
        f"{found.name}: {_WORDS[found.verdict]}",
        f"RMSE {s.rmse:.3f}, 95 % [{s.low:.2f}, {s.high:.2f}]{' (indicative: n < 50)' if s.indicative else ''}; n = {s.n}",
        f"constant {s.constant_rmse:.3f} ({found.constant_words}); sd of these rows {s.sd:.3f}",
        f"{found.origin.kind} data: {found.origin.why}",
    ]
    lines += [f"{'ALARM' if sign.raised else 'ok   '} {sign.name}: {sign.text}" for sign in found.signs]
    lines += [f"note  {remark}" for remark in found.remarks]
    if found.deciles and found.looks is not None:
        lines += ["", f"by how alike the nearest photo of another fold looks to {found.looks.network}, the least alike first",
                  "   n  similarity    RMSE  copying its score  constant"]  # fmt: skip
        lines += [
            f"{d.n:4d}  {d.similarity:10.3f}  {d.rmse:6.2f}  {d.copying_rmse:17.2f}  {d.constant_rmse:8.2f}"
            for d in found.deciles
        ]
    if found.copies is not None and found.copies.rows:
        c = found.copies
        lines.append(f"the {c.rows} rows with a copy in another fold: RMSE {c.rmse:.2f}, copying its score {c.copying_rmse:.2f}; "
                     f"all others {c.other_rmse:.2f}")  # fmt: skip
    return "\n".join(lines)


def write_check(source: Predictions, found: Check, folder: Path | None) -> Path:
    """Write the findings into `folder` (default `oof/leakcheck/NAME`)."""
    folder = folder or FOLDER / source.folder_name
    sheet, table = folder / "copies.png", folder / "neighbours.csv"
    if found.neighbours is not None:
        write_text(table, found.neighbours.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
    else:
        table.unlink(missing_ok=True)  # of an earlier check, with photos
    if not _write_sheet(sheet, found):
        sheet.unlink(missing_ok=True)
    write_json(folder / "check.json", found.to_dict())
    return folder


def _write_sheet(path: Path, found: Check) -> bool:
    if found.neighbours is None or found.looks is None:
        return False
    files = dict(zip(found.neighbours["Id"], found.looks.paths, strict=True))
    rows: list[list[Tile]] = []
    seen: set[frozenset[str]] = set()
    ordered = found.neighbours[found.neighbours["copy"]].sort_values("similarity", ascending=False, kind="stable")
    for pair in ordered.to_dict("records"):
        both = frozenset((pair["Id"], pair["neighbour"]))
        if both in seen or len(seen) == SHOWN:
            continue
        seen.add(both)
        scored = f"fold {pair['fold']}, score {pair['target']:g}"
        other = f"fold {pair['neighbour_fold']}, score {pair['neighbour_target']:g}"
        tiles = [
            Tile(files[pair["Id"]], (_short(pair["Id"]), scored, f"predicted {pair['prediction']:.1f}")),
            Tile(files[pair["neighbour"]], (_short(pair["neighbour"]), other, f"similarity {pair['similarity']:.3f}")),
        ]
        # Two pairs stand side by side.
        if len(seen) % 2:
            rows.append(tiles)
        else:
            rows[-1] += tiles
    if rows:
        contact_sheet(rows, path, per_line=4)
    return bool(rows)


def _short(name: str) -> str:
    """An Id that fits under a thumbnail; its end, where copies carry `_flip`, is kept."""
    return name if len(name) <= 19 else f"{name[:9]}..{name[-8:]}"
