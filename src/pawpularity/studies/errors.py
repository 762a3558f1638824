"""Question: where are predictions furthest off, what do those rows share, and how much of the error is label noise?

Command: `make errors RUN=name or CSV [DATA=DIR] [TOP=12]`.
Result: a summary printed, and in oof/errors/NAME/:
    report.txt     everything, in words and tables (the figures are explained in `errors_analysis`)
    worst.csv      the rows furthest off, with their metadata and, where photos are at hand, the photos' properties
    bands.csv      the error by true score
    shares.csv     what the worst 5 % of each side share, against all others and against others of similar true score
    worst.png      the photos furthest off
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.config import resolve
from pawpularity.console import emit, log, make_word, next_step, table
from pawpularity.context import choose_data, default_config, default_run
from pawpularity.data.dataset import Dataset
from pawpularity.data.duplicates import duplicate_groups
from pawpularity.data.photo_facts import DATE, PROPERTIES, QUANTISATION, photo_facts
from pawpularity.data.tables import ID, METADATA
from pawpularity.errors import UserError
from pawpularity.evaluation.label_noise import noise_for
from pawpularity.evaluation.leak_detection import Origin, folder_of, origin_of, rows_known
from pawpularity.evaluation.metrics import INDICATIVE_BELOW, Band, error_by_band, rmse
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.files import plain, write_text
from pawpularity.runs import OOF, check_name
from pawpularity.studies.errors_analysis import SIDES, Gap, Recency, measure_gap, recency, what_they_share, worst_rows

FOLDER = OOF / "errors"
FILES = ("report.txt", "worst.csv", "bands.csv", "shares.csv", "worst.png")
WORST_SHARE = 0.05
FEWEST_ROWS = 20  # with fewer, 5 % is not one row
FEW = 20  # worst rows a side: with fewer, intervals are too narrow
MOST_TILES = 60  # thumbnails of a side

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Findings:
    """Everything the report says."""

    source: Predictions
    origin: Origin
    folder: Path | None
    """the data that knows the rows, if any"""
    rows: pd.DataFrame
    """`gather_rows`"""
    gap: Gap
    bands: tuple[Band, ...]
    worst: pd.DataFrame
    """the rows furthest off: among all rows and, where only some have photos, among those too"""
    compared: int
    """rows in each side's worst 5 %; 0 = too few rows are known"""
    shares: pd.DataFrame
    recency: Recency | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; what is not defined is null."""
        return plain({
            "run": self.source.name, "n": len(self.rows), "origin": self.origin.kind,
            "constant_rmse": rmse(self.source.target, self.source.constant), "data": self.folder and str(self.folder),
            "known": int(self.rows["known"].sum()), "photos": int(self.rows["photo"].count()),
            "gap": asdict(self.gap), "bands": [asdict(band) for band in self.bands],
            "worst": self.worst.astype(object).where(self.worst.notna(), None).to_dict("records"),
            "compared": self.compared, "shares": self.shares.to_dict("records"),
            "recency": self.recency and asdict(self.recency),
        })  # fmt: skip


def errors(
    source: str | None = None, *, top: int = 12, draws: int = 10_000, out: str | None = None, config: str | None = None,
    data: str | None = None, settings: Sequence[str] = (), folds: Path | None = None, scale: float | None = None,
    json: str | None = None,
) -> None:  # fmt: skip
    """`pawpularity errors`: print a summary of a run's or CSV's errors (default: the default run), write the report."""
    if other := [word for word in settings if not word.startswith("cache.")]:
        raise UserError(f'errors: looks at predictions that are there; remove "{other[0]}"')
    if top < 1:
        raise UserError(f"--top {top}: must be 1 or more")
    if not 100 <= draws <= 100_000:
        raise UserError(f"--draws {draws}: must be 100 to 100000")
    if out and Path(out).is_file():
        raise UserError(f"--out {out}: is a file; name a folder")
    chosen = choose_data(data)
    configs = config or default_config(chosen)
    cache = Path(resolve(configs, settings).cache.folder)
    word = source or check_name(default_run(configs, chosen))
    found = open_predictions(word, scale=scale, folds=folds, partly=True)
    if found.run is not None and found.run.leaky:
        log(f"{found.name} is leaky by design (train.split=leaky): its predictions have seen their answers")
    if found.run is not None and not found.complete:
        log(f"only {len(found.run.trained_folds())} of {found.run.k} folds are there")
    findings = analyse(found, Path(data) if data else None, cache, top=top, draws=draws)
    folder = Path(out) if out else FOLDER / found.folder_name
    text = summary(findings)
    write_report(findings, text, folder)
    emit(findings.to_dict(), text, json)
    log(f"wrote {folder}/ (report.txt holds all tables)")
    next_step(f"make {'explain' if found.run else 'leakcheck'} {make_word('RUN' if found.run else 'OOF', word)}")


def analyse(source: Predictions, data: Path | None, cache: Path, *, top: int, draws: int) -> Findings:
    """Everything there is to say about the errors of `source`. Without `data` its rows are looked for in the usual folders.

    Raises UserError for `data` of other rows, and for predictions that are the targets.
    """
    if np.array_equal(source.prediction, source.target):
        raise UserError(
            f"{source.path}: every prediction is its target, so there are no errors to look at; name another"
        )
    origin = origin_of(source, data)
    folder = data or folder_of(source, origin)
    rows = gather_rows(source, origin, None if folder is None else Dataset.load(folder, cache), str(folder))
    groups = source.groups if source.groups is not None else _groups(rows, cache)
    gap = measure_gap(source.target, source.prediction, source.fold, noise_for(replace(source, groups=groups), origin),
                      origin.expected, groups, draws=draws)  # fmt: skip
    known, compared, shares, aged = rows[rows["known"]], 0, pd.DataFrame(), None
    target, error = (known[name].to_numpy(dtype=np.float64) for name in ("target", "error"))
    if len(known):
        dates = known[DATE].to_numpy(dtype=np.float64) if known["photo"].notna().all() else None
        aged = recency(target, -error, dates)
    if len(known) >= FEWEST_ROWS:
        compared = max(1, round(WORST_SHARE * len(known)))
        values = known[list(METADATA)].astype(np.float64)
        if known["photo"].notna().all():
            facts = known[list(PROPERTIES)]
            values = values.join((facts - facts.mean()) / facts.std(ddof=0).replace(0.0, 1.0))
        own = None if groups is None else groups[known.index]
        shares = what_they_share(values, error, target, own, count=compared, draws=draws)
    bands = error_by_band(source.target, source.prediction)
    return Findings(source, origin, folder, rows, gap, bands, worst_table(rows, top), compared, shares, aged)


def gather_rows(source: Predictions, origin: Origin, dataset: Dataset | None, where: str) -> pd.DataFrame:
    """The rows of `source` with their error and all that is known of them.

    On a drawn sample the expected score and the noise; of the rows that `dataset` knows metadata, photo and its properties.
    Raises UserError where `dataset` has none of the rows, or other scores.
    """
    rows = source.table.assign(error=source.prediction - source.target)
    if origin.expected is not None:
        rows = rows.assign(expected=origin.expected, noise=source.target - origin.expected)
    if dataset is None:
        return rows.assign(known=False, photo=None)
    own = dataset.train[list(METADATA)].astype("Int64").assign(photo=None)
    if dataset.has_photos:
        own = own.join(photo_facts(dataset)).assign(photo=pd.Series(dataset.paths, dtype=object))
    at, place = rows_known(source, dataset.train, where)
    return rows.join(own.iloc[place].set_axis(at)).assign(known=rows.index.isin(at))


def _groups(rows: pd.DataFrame, cache: Path) -> Rows | None:
    """(n,) near-duplicates by the photos at hand; None without photos. Rows without photos stay alone."""
    own = rows[rows["photo"].notna()]
    if own.empty:
        return None
    groups = len(rows) + np.arange(len(rows), dtype=np.int64)
    groups[own.index] = duplicate_groups(own["photo"].tolist(), cache_folder=cache)
    return groups


def worst_table(rows: pd.DataFrame, top: int) -> pd.DataFrame:
    """The `top` rows of each side that are off to that side at all, among all rows and among those with photos."""
    among = {"all rows": rows}
    if 0 < rows["photo"].count() < len(rows):
        among["rows with photos"] = rows[rows["photo"].notna()]
    parts = []
    for name, own in among.items():
        for side, sign in zip(SIDES, (1, -1), strict=True):
            part = own.iloc[worst_rows(own["error"].to_numpy(), side, top)]
            part = part[part["error"] * sign > 0]
            parts.append(part.assign(among=name, side=side, rank=np.arange(1, len(part) + 1)))
    columns = [name for name in rows if name not in ("known", "photo", QUANTISATION, DATE)]
    return pd.concat(parts, ignore_index=True)[["among", "side", "rank", *columns]]


# --- Words and files --------------------------------------------------------------------------------------------------


def summary(found: Findings) -> str:
    """The findings in about twenty lines."""
    gap, source, n, known = found.gap, found.source, len(found.rows), int(found.rows["known"].sum())
    few = f"; n < {INDICATIVE_BELOW}: every interval is indicative" if n < INDICATIVE_BELOW else ""
    data = "no table with these rows is at hand; name it with --data DIR"
    if known:
        photos = "and their photos" if found.rows["photo"].count() else "no photos"
        data = f"{found.folder}: metadata of {'all' if known == n else f'{known:,} of the {n:,}'} rows, {photos}"
    rows = [(band.name, f"{band.n:,}", f"{band.rmse:.2f}", f"{band.share:.1%} {_percents(gap.band_intervals[band.name])}",
             f"{band.bias:+.2f}") for band in found.bands]  # fmt: skip
    lines = [
        f"errors of {source.name}: {n:,} rows, out-of-fold RMSE {gap.rmse:.3f} [{gap.rmse_interval[0]:.2f}, "
        f"{gap.rmse_interval[1]:.2f}], constant {rmse(source.target, source.constant):.3f} ({source.constant_words}){few}",
        f"data: {data} ({found.origin.why})",
        "",
        table(("true score", "n", "RMSE", "of the squared error, 95 %", "mean error"), rows),
        f"label noise: {_noise(gap)}",
        f"calibration: {_line(gap)}",
    ]
    for side in SIDES:
        own = found.worst[found.worst["side"] == side].head(3).to_dict("records")
        furthest = ", ".join(f"{row[ID]} {row['error']:+.1f} (true {row['target']:g})" for row in own)
        lines.append(f"most {side}: {furthest or 'none'}")
    if found.recency is not None:
        lines += [
            f"the worst {WORST_SHARE:.0%} share: {_shared(found)}",
            f"date and score: {found.recency.verdict}",
        ]
    return "\n".join(lines)


def _noise(gap: Gap) -> str:
    if gap.noise is None:
        return "not known (fewer than 8 pairs of near-duplicates, and neither the contest's data nor a drawn sample)"
    share = f"{gap.noise_share:.1%} {_percents(gap.noise_share_interval)} of the mean squared error"
    line = f"sd {gap.noise} ({gap.noise.how}) is {share}"
    e = gap.explainable
    if e is not None and e.share is not None and e.share_low is not None and e.share_high is not None:
        line += (f"; R2 {e.share * e.ceiling:.3f} of at most {e.ceiling:.3f}: {e.share:.1%} "
                 f"{_percents((e.share_low, e.share_high))} of what can be explained")  # fmt: skip
    exact = ", ".join(f"{name} {part:.1%}" for name, part in (gap.exact or {}).items())
    return f"{line}; exactly, in these rows: {exact}" if exact else line


def _line(gap: Gap) -> str:
    if not np.isfinite(gap.slope):
        return "the predictions do not vary"
    gain = "it cannot be fitted on other folds"
    if np.isfinite(gap.affine_gain):
        low, high = gap.affine_gain_interval
        gain = f"fitted on the other folds, it takes {gap.affine_gain:.3f} [{low:.3f}, {high:.3f}] off the RMSE"
    low, high = gap.slope_interval
    return f"target = {gap.intercept:.3f} + {gap.slope:.4f} [{low:.3f}, {high:.3f}] x prediction; {gain}"


def _shared(found: Findings) -> str:
    if not found.compared:
        return "too few rows are known"
    parts = []
    for value, p, words in (
        ("difference", "p_holm", "against all others"),
        ("banded", "banded_p_holm", "of similar true score"),
    ):
        seen = found.shares[found.shares[p] < 0.05].to_dict("records")
        figures = [f"{row['side']} {row['column']} {100 * row[value]:+.1f} %" if row["column"] in METADATA
                   else f"{row['side']} {row['column']} {row[value]:+.2f} sd" for row in seen]  # fmt: skip
        parts.append(f"{words} {', '.join(figures) or 'nothing'}")
    few = "; go by p, intervals are too narrow" if found.compared < FEW else ""
    return f"{'; '.join(parts)} (Holm p < .05; {found.compared} rows a side{few})"


def write_report(found: Findings, text: str, folder: Path) -> None:
    """Write the files; those of an earlier report that this one does not have are removed."""
    intervals = pd.DataFrame(found.gap.band_intervals, index=["share_low", "share_high"]).T
    bands = pd.DataFrame([asdict(band) for band in found.bands]).join(intervals, on="name")
    tables = {"worst": found.worst, "bands": bands, "shares": found.shares}
    sections = [text]
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name, frame in tables.items():
        if len(frame):
            write_text(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.6f", lineterminator="\n"))
            # Wide columns stand in the CSV only.
            shown = frame.drop(columns=[*PROPERTIES, "Subject Focus"], errors="ignore")
            sections.append(f"{name}.csv\n{shown.to_string(index=False, float_format='%.3f', na_rep='')}")
    write_text(folder / "report.txt", "\n\n".join(sections) + "\n")
    if found.rows["photo"].count():
        write_sheet(found, folder / "worst.png")


def write_sheet(found: Findings, path: Path) -> None:
    """The photos furthest off, over-scored ones first, with scores, fold and metadata below each."""
    from pawpularity.evaluation.contact_sheet import Tile, contact_sheet

    photos = found.rows.set_index(ID)["photo"]
    among = found.worst["among"].iloc[-1]
    some = "" if among == "all rows" else f", of the {photos.count():,} rows whose photos are at hand"
    rows, captions = [], []
    for side in SIDES:
        own = found.worst[(found.worst["among"] == among) & (found.worst["side"] == side)].head(MOST_TILES)
        rows.append([Tile(photos[row[ID]], _words(row)) for row in own.to_dict("records")])
        captions.append(f"the {len(own)} most {side}{some}")
    contact_sheet(rows, path, captions)


def _words(row: dict[str, Any]) -> Sequence[str]:
    lines = [f"true {row['target']:g}, predicted {row['prediction']:.1f}", f"{row['error']:+.1f}, fold {row['fold']}"]
    if "expected" in row:
        lines.append(f"expected {row['expected']:.1f}, noise {row['noise']:+.1f}")
    return [*lines, ", ".join(name for name in METADATA if row[name] == 1) or "no metadata set", row[ID][:16]]


def _percents(ends: tuple[float, float]) -> str:
    return "[" + ", ".join(f"{end:.1%}" if np.isfinite(end) else "no end" for end in ends) + "]"
