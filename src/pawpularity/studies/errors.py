"""Question: where are the largest errors, what do those rows share, and how much of the error is label noise?

Command: `make errors RUN=name or CSV [DATA=DIR] [TOP=12]`.
Result: a printed summary, and in oof/errors/NAME/:
    report.txt     the summary and the tables
    worst.csv      the rows with the largest errors, with their metadata and, if there are photos, the photos' properties
    bands.csv      the error by true score
    shares.csv     what the worst 5 % of each side share
    worst.png      the photos with the largest errors

Errors are prediction - target. Rows with extreme true scores have the largest errors (regression to the mean), so what the worst
rows share is partly what popular photos share. `shares` therefore compares them with other rows of similar true score: it says
what the model relies on, not what the public likes.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.config import resolve
from pawpularity.console import emit, log, next_step, span, table
from pawpularity.context import choose_data, default_config, default_run
from pawpularity.data.dataset import Dataset
from pawpularity.data.duplicates import duplicate_groups
from pawpularity.data.photo_facts import PROPERTIES, photo_facts
from pawpularity.data.tables import ID, METADATA, scores_differ
from pawpularity.errors import UserError, printable
from pawpularity.evaluation.bootstrap import holm, interval
from pawpularity.evaluation.compare import compare
from pawpularity.evaluation.effects import Column, effects
from pawpularity.evaluation.label_noise import LabelNoise, noise_for
from pawpularity.evaluation.leak_detection import Origin, folder_of, origin_of, rows_known
from pawpularity.evaluation.metrics import band_of, bootstrap_metrics, calibration_line, error_by_band, evaluate
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.files import plain, require_not_input, write_text
from pawpularity.runs import OOF, check_name

FOLDER = OOF / "errors"
FILES = ("report.txt", "worst.csv", "bands.csv", "shares.csv", "worst.png")
SIDES = {"over-scored": 1, "under-scored": -1}
WORST_SHARE = 0.05
FEWEST_ROWS = 20  # with fewer, 5 % is less than one row
FEW = 20  # with fewer worst rows a side, intervals are too narrow
MOST_TILES = 60  # thumbnails a side

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def errors(
    source: str | None = None, *, top: int = 12, draws: int = 10_000, out: str | None = None, config: str | None = None,
    data: str | None = None, settings: Sequence[str] = (), folds: Path | None = None, scale: float | None = None,
    json: str | None = None,
) -> None:  # fmt: skip
    """`pawpularity errors`: print a summary of the errors of a run or a CSV (default: the default run), and write the report."""
    if other := [word for word in settings if not word.startswith("cache.")]:
        raise UserError(f'errors: reads existing predictions and trains nothing; remove "{other[0]}"')
    if out and Path(out).is_file():
        raise UserError(f"--out {out}: is a file; name a folder")
    chosen = choose_data(data)
    configs = config or default_config(chosen)
    cache = Path(resolve(configs, settings).cache.folder)
    word = source or check_name(default_run(configs, chosen))
    if out:
        require_not_input("--out", out, Path(word))
    found = open_predictions(word, scale=scale, folds=folds, partly=True)
    if found.run is not None and found.run.leaky:
        log(f"{found.name} is leaky by design (train.split=leaky): its networks saw copies of the photos they score")
    if found.run is not None and not found.complete:
        log(f"only {len(found.run.trained_folds())} of {found.run.k} folds are trained")
    value, rows = analyse(found, Path(data) if data else None, cache, top=top, draws=draws)
    folder = Path(out) if out else FOLDER / found.folder_name
    text, more = summary(value), more_text(value, found.constant_words)
    write_report(value, rows, top, f"{text}\n{more}", folder)
    emit(value, text, json, more=more)
    log(f"wrote {folder}/ (report.txt holds all tables)")
    if found.run is not None and found.run.has_networks:
        next_step("make explain", RUN=word, DATA=data)
    else:
        next_step("make leakcheck", OOF=word, DATA=data, FOLDS=folds, SCALE=scale)


def analyse(
    source: Predictions, data: Path | None, cache: Path, *, top: int, draws: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """All findings for JSON, and the rows of `gather_rows`. Without `data` the usual folders are searched for the rows.

    Raises UserError for `data` with other rows, and for predictions that equal their targets.
    """
    target, prediction = source.target, source.prediction
    if not scores_differ(target, prediction).any():
        raise UserError(
            f"{source.path}: every prediction equals its target, so there is no error; name other predictions"
        )
    origin = origin_of(source, data)
    folder = data or folder_of(source, origin)
    rows = gather_rows(source, origin, None if folder is None else Dataset.load(folder, cache), str(folder))
    groups = source.groups if source.groups is not None else _groups(rows, cache)
    known = rows[rows["known"]]
    count = max(1, round(WORST_SHARE * len(known))) if len(known) >= FEWEST_ROWS else 0
    shares = []
    if count:
        values = known[list(METADATA)].astype(np.float64)
        if known["photo"].notna().all():
            facts = known[list(PROPERTIES)]
            values = values.join((facts - facts.mean()) / facts.std(ddof=0).replace(0.0, 1.0))
        error, scores = known[["error", "target"]].to_numpy(dtype=np.float64).T
        known_groups = None if groups is None else groups[known.index]
        shares = what_they_share(values, error, scores, known_groups, count=count, draws=draws)
    value = {
        "run": source.name, "origin": origin.kind, "why": origin.why, "data": folder and str(folder), "known": len(known),
        "photos": int(rows["photo"].count()), "score": evaluate(target, prediction, source.constant, groups, draws=draws).to_dict(),
        "bands": [asdict(band) for band in error_by_band(target, prediction)],
        "calibration": calibration(target, prediction, source.fold, groups, draws=draws),
        "noise": noise_share(target, prediction, noise_for(replace(source, groups=groups), origin), groups, origin.expected),
        "worst": worst_rows(rows, top), "compared": count, "shares": shares,
    }  # fmt: skip
    return plain(value), rows


def gather_rows(source: Predictions, origin: Origin, dataset: Dataset | None, where: str) -> pd.DataFrame:
    """The rows of `source` with their errors and everything known about them.

    On a drawn sample: the expected score and the noise. For rows in `dataset`: metadata, the photo and its properties. Raises
    UserError if `dataset` has none of the rows, or other scores.
    """
    rows = source.table.assign(error=source.prediction - source.target)
    if origin.expected is not None:
        rows = rows.assign(expected=origin.expected, noise=source.target - origin.expected)
    if dataset is None:
        return rows.assign(known=False, photo=None)
    facts = dataset.train[list(METADATA)].astype("Int64").assign(photo=None)
    if dataset.has_photos:
        facts = facts.join(photo_facts(dataset)).assign(photo=pd.Series(dataset.paths, dtype=object))
    known, place = rows_known(source, dataset.train, where)
    return rows.join(facts.iloc[place].set_axis(known)).assign(known=rows.index.isin(known))


def _groups(rows: pd.DataFrame, cache: Path) -> Rows | None:
    """(n,) groups of near-duplicates, by the photos; None without photos. A row without a photo is its own group."""
    pictured = rows[rows["photo"].notna()]
    if pictured.empty:
        return None
    groups = len(rows) + np.arange(len(rows), dtype=np.int64)
    groups[pictured.index] = duplicate_groups(pictured["photo"].tolist(), cache_folder=cache)
    return groups


def worst_rows(rows: pd.DataFrame, top: int) -> list[dict[str, Any]]:
    """The `top` rows of each side by size of their error, the largest first."""
    sides = [rows[sign * rows["error"] > 0].sort_values("error", ascending=sign < 0, kind="stable").head(top).assign(side=side)
             for side, sign in SIDES.items()]  # fmt: skip
    found = pd.concat(sides, ignore_index=True)
    found = found[["side", *(name for name in found if name not in ("known", "photo", "side"))]].astype(object)
    records: list[dict[str, Any]] = found.where(found.notna(), None).to_dict("records")  # type: ignore[assignment]
    return records


# --- Measurements -----------------------------------------------------------------------------------------------------


def what_they_share(
    values: pd.DataFrame, error: Floats, target: Floats, groups: Rows | None, *, count: int, draws: int
) -> list[dict[str, Any]]:
    """Compare the worst `count` rows of each side with the rest: a row per side and column of `values` (n, c).

    `worst` and `rest` are means. `difference` is between rows of similar true score: the coefficient of being among the worst, with
    the band of the score held fixed, by residuals (Frisch-Waugh-Lovell). Holm's correction is over both sides and all columns.
    """
    numbers, band = values.to_numpy(dtype=np.float64), band_of(target)
    member = np.zeros((len(error), len(SIDES)))
    for side, sign in enumerate(SIDES.values()):
        member[np.argsort(-sign * error, kind="stable")[:count], side] = 1.0
    means = (member.T @ numbers / count, (1 - member.T) @ numbers / (len(error) - count))
    columns = [Column(side, rest) for side, rest in zip(SIDES, _within(member, band).T, strict=True)]
    usable = [side for side, column in enumerate(columns) if column.varies]  # not if the worst rows fill their bands
    tested = effects([columns[side] for side in usable], _within(numbers, band), groups, draws=draws) if usable else []
    found = []
    for number, (name, outcome) in enumerate(zip(values, tested, strict=False)):
        for side, one in zip(usable, outcome, strict=True):
            unit = columns[side].unit
            found.append({"side": columns[side].name, "column": name,
                          "worst": means[0][side, number], "rest": means[1][side, number],
                          "difference": one.effect / unit, "low": one.low / unit, "high": one.high / unit, "p": one.p})  # fmt: skip
    for row, p in zip(found, holm([row["p"] for row in found]), strict=True):
        row["p_holm"] = float(p)
    return found


def _within(columns: Floats, band: Rows) -> Floats:
    """`columns` (n, c) less their mean in each band."""
    frame = pd.DataFrame(columns)
    return (frame - frame.groupby(band).transform("mean")).to_numpy()


def calibration(target: Floats, prediction: Floats, fold: Rows, groups: Rows | None, *, draws: int) -> dict[str, Any]:
    """The regression line of target on prediction, and how much lines fitted on the other folds lower the RMSE (None: no line)."""
    slope, intercept = calibration_line(target, prediction)
    fitted = np.full(len(target), np.nan)
    for k in np.unique(fold):
        others = fold != k
        if others.sum() >= 2:
            fold_slope, fold_intercept = calibration_line(target[others], prediction[others])
            fitted[~others] = fold_intercept + fold_slope * prediction[~others]
    found: dict[str, Any] = {"slope": slope, "intercept": intercept, "gain": None}
    if np.isfinite(fitted).all():
        line = compare(target, prediction, [("line", fitted)], groups, draws=draws)[0]
        found |= {"gain": -line.difference, "gain_low": -line.high, "gain_high": -line.low}
    return found


def noise_share(
    target: Floats, prediction: Floats, noise: LabelNoise | None, groups: Rows | None, expected: Floats | None
) -> dict[str, Any] | None:
    """The share of the mean squared error that is label noise; its interval includes the noise's. None if the noise is not known.

    `exact`, if the `expected` scores of a drawn sample are known: the shares of the noise, of the distance to the expected score
    (what a better predictor could gain), and of twice their product (chance). They add up to 1.
    """
    if noise is None:
        return None
    mse, drawn = float(np.mean((target - prediction) ** 2)), bootstrap_metrics(target, prediction, groups)[0]
    low, high = interval(noise.draws(len(drawn)) ** 2 / drawn**2)
    found = asdict(noise) | {"share": noise.sd**2 / mse, "share_low": low, "share_high": high, "exact": None}
    if expected is not None:
        off, rest = target - expected, expected - prediction
        parts = {"noise": off**2, "rest": rest**2, "both": 2 * off * rest}
        found["exact"] = {name: float(part.mean()) / mse for name, part in parts.items()}
    return found


# --- Text and files ---------------------------------------------------------------------------------------------------


def summary(v: dict[str, Any]) -> str:
    """The findings in about fifteen lines."""
    s = v["score"]
    few = " (indicative)" if s["indicative"] else ""
    bands = [(band["name"], f"{band['n']:,}", f"{band['rmse']:.2f}", f"{band['share']:.1%}", f"{band['bias']:+.2f}")
             for band in v["bands"]]  # fmt: skip
    lines = [
        f"{v['run']}: RMSE {s['rmse']:.2f}, 95 % [{s['low']:.2f}, {s['high']:.2f}]{few}; n = {s['n']:,}; "
        f"constant {s['constant_rmse']:.2f}",
        table(("true score", "n", "RMSE", "of the squared error", "mean error"), bands),
    ]
    for side in SIDES:
        worst = [row for row in v["worst"] if row["side"] == side][:2]
        named = ", ".join(f"{row[ID][:16]} {row['error']:+.1f} at {row['target']:g}" for row in worst)
        lines.append(f"most {side}: {named or 'none'}")
    return "\n".join(
        [*lines, *(_shared(v) if v["known"] else ["no table with these rows was found; name it with DATA=DIR"])]
    )


def more_text(v: dict[str, Any], constant_words: str) -> str:
    """The rest of the findings: data, label noise, calibration."""
    c, line = v["calibration"], "the predictions do not vary"
    if c["slope"] is not None:
        line = f"target = {c['intercept']:.2f} + {c['slope']:.2f} x prediction"
    if c["gain"] is not None:
        line += f"; fitted on other folds it changes RMSE by {span(-c['gain'], -c['gain_high'], -c['gain_low'])}"
    lines = [f"constant: {constant_words}", f"label noise: {_noise(v['noise'])}", f"calibration: {line}"]
    if v["known"]:
        lines.append(f"data: {v['data']}: metadata of {v['known']:,} rows, photos of {v['photos']:,}; {v['why']}")
    return "\n".join(lines)


def _noise(noise: dict[str, Any] | None) -> str:
    if noise is None:
        return "not known (fewer than 8 pairs of near-duplicates, and neither the contest's data nor a drawn sample)"
    ends = f"[{noise['share_low']:.1%}, {noise['share_high']:.1%}]"
    found = f"sd {noise['sd']:.1f} is {noise['share']:.1%} {ends} of the squared error"
    exact = ", ".join(f"{name} {part:.1%}" for name, part in (noise["exact"] or {}).items())
    return f"{found}; exactly: {exact}" if exact else f"{found}\n  ({noise['how']})"


def _shared(v: dict[str, Any]) -> list[str]:
    if not v["compared"]:
        return ["what the worst share: too few rows are known"]
    few = ", few: use p" if v["compared"] < FEW else ""
    lines = [f"shared by the worst {WORST_SHARE:.0%} ({v['compared']} rows a side{few}), at similar true scores:"]
    for side in SIDES:
        significant = [row for row in v["shares"] if row["side"] == side and row["p_holm"] < 0.05]
        differences = [f"{row['column']} {100 * row['difference']:+.1f} %" if row["column"] in METADATA
                       else f"{row['column']} {row['difference']:+.2f} sd" for row in significant]  # fmt: skip
        lines.append(f"  {side}: {', '.join(differences) or 'nothing'} (Holm p < .05)")
    return lines


def write_report(v: dict[str, Any], rows: pd.DataFrame, top: int, text: str, folder: Path) -> None:
    """Write the files, and remove those of an earlier report."""
    sections = [text]
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name in ("worst", "bands", "shares"):
        if len(frame := pd.DataFrame(v[name])):
            write_text(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
            # The wide columns are only in the CSV.
            shown = frame.drop(columns=[*PROPERTIES, "Subject Focus"], errors="ignore")
            sections.append(f"{name}.csv\n{shown.to_string(index=False, float_format='%.3f', na_rep='')}")
    write_text(folder / "report.txt", printable("\n\n".join(sections), "\n") + "\n")
    if v["photos"]:
        write_sheet(rows, top, folder / "worst.png")


def write_sheet(rows: pd.DataFrame, top: int, path: Path) -> None:
    """Write the photos with the largest errors, over-scored ones first, with scores, fold and metadata below each."""
    from pawpularity.evaluation.contact_sheet import Tile, contact_sheet

    pictured = rows[rows["photo"].notna()]
    photos = pictured.set_index(ID)["photo"]
    worst = worst_rows(pictured, min(top, MOST_TILES))
    tiles = [[Tile(photos[row[ID]], _words(row)) for row in worst if row["side"] == side] for side in SIDES]
    some = "" if len(pictured) == len(rows) else f", of the {len(pictured):,} rows with a photo"
    contact_sheet(tiles, path, [f"the {len(row)} most {side}{some}" for side, row in zip(SIDES, tiles, strict=True)])


def _words(row: dict[str, Any]) -> Sequence[str]:
    lines = [f"true {row['target']:g}, predicted {row['prediction']:.1f}", f"{row['error']:+.1f}, fold {row['fold']}"]
    if "expected" in row:
        lines.append(f"expected {row['expected']:.1f}, noise {row['noise']:+.1f}")
    return [*lines, ", ".join(name for name in METADATA if row[name] == 1) or "no metadata set", row[ID][:16]]
