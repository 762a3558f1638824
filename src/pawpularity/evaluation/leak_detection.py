"""Leak detector: signs that a prediction used the score that it predicts.

What honest predictions can reach depends on where the rows come from (`origin_of`):
- The contest: the best of 3,538 teams had R2 of about 0.33. The alarm is the lower end of R2's 95 % interval above 0.36. It
  accuses a blend of eight public models in 1 % of draws of 20 rows, and in none of 400 draws of 992 rows. A second sign is an
  RMSE whose upper end lies below the labels' own noise (10.7, from photos posted twice). Two more see a few known answers
  among many honest ones: more answers within half a point than their surroundings explain, and more right answers above 90
  than public models have (`spike_sign`, `top_sign`).
- A drawn sample, whose truth is known: an RMSE below the noise floor and, far more sensitive, predictions that follow the
  NOISE of their score. No photo shows it: only a network that trained on this score can know it. Few exact answers among many
  rows hardly move that slope, so they are counted here too.
- Other data, or fewer than 20 rows: nothing is known, and no alarm is given.

Where near-duplicates are known, it checks whether predictions follow the score of one posting of a photo rather than the other.
With photos it finds the nearest photo of ANOTHER fold by the features of a frozen network, the error by similarity, and which
of these neighbours are copies.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.console import log
from pawpularity.data import CONTEST, is_drawn
from pawpularity.data.tables import ID, TARGET, near_hint, read_cells, read_train, scores_differ
from pawpularity.errors import UserError
from pawpularity.evaluation.bootstrap import Floats, bootstrap_sums, interval
from pawpularity.evaluation.metrics import BANDS, Metrics, error_by_band, rmse
from pawpularity.evaluation.oof import floor_of
from pawpularity.evaluation.predictions import Predictions
from pawpularity.files import plain
from pawpularity.sample import SAMPLE
from pawpularity.sample.spec import TRAIN, photo_id

CONTEST_KIND, DRAWN_KIND, OTHER_KIND = "contest", "drawn", "other"
ACROSS, SPANNING = "copies across folds", "groups that span folds"
FEWEST_ROWS = 20
R2_BAR = 0.36
NOISE_BAR = 10.7  # points; 95 % 8.2-13.1, from 37 pairs
KNOWS_NOISE_BAR = 0.05  # points of prediction per point of noise: a margin for sampling
COPIES_BAR, COPIES_AT_LEAST = 0.05, 10  # share of rows, and rows; 0.8 % of the contest's photos were posted twice
PAIR_BAR, PAIRS_AT_LEAST = 0.3, 10
SPIKE_BAR = 5.0  # standard errors; at most 3.4 in 24 public files
TOP_RATE, TOP_CHANCE, TOP_LEAST = (
    1e-4,
    1e-3,
    4,
)  # such answers a row (24 public files: 2 of 9,912 at most), false alarms, fewest
POWER = {100: (1, 1, 0, 3), 500: (1, 98, 1, 7), 992: (48, 100, 7, 44), 1982: (100, 100, 41, 88), 4956: (100, 100, 92, 100),
         9912: (100, 100, 100, 100)}  # fmt: skip
"""By rows, alarms in % of cases, by any sign: 5 % and 10 % of the answers exact, and known to +-5 points (uniform). Leaks were
planted in rows of eight public files, 40 to 300 cases each; without a leak one case of 300 was accused at 100 rows, else none."""
_SEEDS, _FIRST = 1000, 64  # drawn samples of these seeds are recognised by the Ids of their first photos
_HEX = re.compile(r"[0-9a-f]{32}([._-].*)?", re.IGNORECASE)
_TILE = 2048  # rows compared at a time: 2048 x 9,912 similarities are 81 MB

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Origin:
    """What kind of data the rows of predictions are, and how that is known."""

    kind: str
    """contest, drawn or other"""
    why: str
    folder: Path | None = None
    """the data folder, if its truth is at hand or the user named it; `folder_of` looks further"""
    floor: float | None = None
    """RMSE of the true conditional mean over the drawn sample, points"""
    expected: Floats | None = None
    """(n,) the true conditional mean of each row's score, of a drawn sample"""


def origin_of(predictions: Predictions, data: Path | None = None) -> Origin:
    """Where the rows of `predictions` come from. `data`: their folder or table, if named; UserError if it holds other rows."""
    ids, target = predictions.table[ID].tolist(), predictions.target
    if data is not None and not data.exists():
        raise UserError(f"--data {data}: there is no such folder or file")
    for folder in [data] if data is not None else _usual_folders(predictions):
        truth = _expected_scores(folder) if is_drawn(folder) else {}
        if truth and set(ids) <= truth.keys():
            expected = np.array([truth[name] for name in ids])
            return Origin(DRAWN_KIND, f"the sample drawn in {folder}", folder, floor_of(folder), expected)
        if data is not None and not set(ids) & set(read_train(data)[ID]):
            raise _other_rows(predictions, data, read_train(data)[ID])
    named = data if data is not None and data.is_dir() else None
    seeds = _first_photos()
    if (seed := next((seeds[name] for name in ids if name in seeds), None)) is not None:
        why = f"the Ids are those of a drawn sample of seed {seed} (its truth is not at hand)"
        return Origin(DRAWN_KIND, why, named)
    if np.all((target % 1 == 0) & (target >= 1) & (target <= 100)) and all(map(_HEX.fullmatch, ids)):
        return Origin(CONTEST_KIND, "the Ids and whole scores of 1-100 are as the contest's", named)
    return Origin(OTHER_KIND, "the Ids or scores are not the contest's, so the possible R2 is not known", named)


def folder_of(predictions: Predictions, origin: Origin) -> Path | None:
    """The first folder whose train.csv has rows of `predictions` with their scores: the origin's, the run's, or in input/."""
    for folder in filter(None, [origin.folder, *_usual_folders(predictions)]):
        with suppress(UserError):
            table = read_train(folder)
            if not set(table[ID]).isdisjoint(predictions.table[ID]):
                try:
                    rows_known(predictions, table, str(folder))
                    return folder
                except UserError as error:
                    log(f"the metadata and photos of {folder} are not used: {error}")
    return None


def rows_known(predictions: Predictions, table: pd.DataFrame, where: str) -> tuple[Rows, Rows]:
    """(rows of `predictions` that are in `table`, their places in it). Raises UserError if there is none, or a score differs."""
    place = pd.Index(table[ID]).get_indexer(predictions.table[ID]).astype(np.int64)
    rows = np.flatnonzero(place >= 0)
    if len(rows) == 0:
        raise _other_rows(predictions, where, table[ID])
    place, targets = place[rows], predictions.target[rows]
    scores = table[TARGET].to_numpy(dtype=np.float64)[place]
    unequal = np.flatnonzero(scores_differ(scores, targets))
    if len(unequal):
        row = int(unequal[0])
        raise UserError(f"--data {where}: {table[ID].iloc[place[row]]} has a score of {scores[row]:g}, in {predictions.path} "
                        f"{targets[row]:g} ({len(unequal)} rows differ); name their own data folder")  # fmt: skip
    return rows, place


def _usual_folders(predictions: Predictions) -> list[Path]:
    folder = predictions.run.record["data"].get("folder") if predictions.run is not None else None
    return [*([Path(folder)] if folder and Path(folder).is_dir() else []), CONTEST, SAMPLE]


def _other_rows(predictions: Predictions, where: Path | str, ids: Iterable[str]) -> UserError:
    n, first = len(predictions.table), predictions.table[ID].iloc[0]
    hint = near_hint(predictions.table[ID], ids) or "; name their own data folder"
    return UserError(f"--data {where}: holds none of the {n} rows of {predictions.path} ({first} ...){hint}")


def _expected_scores(folder: Path) -> dict[str, float]:
    """The true conditional mean of every photo's score in a drawn sample, by Id."""
    cells = read_cells(folder / "truth" / "parts.csv", (ID, "expected"))
    return dict(zip(cells.columns[ID], cells.numbers("expected", "the expected score").tolist(), strict=True))


@cache
def _first_photos() -> dict[str, int]:
    return {photo_id(seed, TRAIN, index): seed for seed in range(_SEEDS) for index in range(_FIRST)}


@dataclass(frozen=True)
class Sign:
    """One sign of a leak, raised or not."""

    name: str
    raised: bool
    text: str


def leak_signs(predictions: Predictions, m: Metrics, origin: Origin) -> list[Sign]:
    """The signs that need nothing but the predictions and their metrics `m`, raised or not."""
    target, signs = predictions.target, []
    if predictions.run is not None and predictions.run.leaky:
        signs.append(Sign("leaky by design", True, "train.split=leaky: copies of the scored photos were trained on"))
    if m.n < FEWEST_ROWS:
        return signs
    if np.ptp(target) > 0 and not scores_differ(target, predictions.prediction).any():
        signs.append(Sign("exact answers", True, "every prediction is the score itself"))
    reach = f"RMSE {m.rmse:.2f}, upper end {m.high:.2f}; alarm below"
    if origin.kind == CONTEST_KIND and np.isfinite(m.r2):
        text = (
            f"R2 {m.r2:.3f}, 95 % [{m.r2_low:.3f}, {m.r2_high:.3f}]; alarm: lower end above {R2_BAR} (the winner: 0.33)"
        )
        signs += [Sign("R2", bool(m.r2_low > R2_BAR), text),
                  Sign("label noise", bool(m.high < NOISE_BAR), f"{reach} {NOISE_BAR}, that of photos posted twice"),
                  spike_sign(target, predictions.prediction), top_sign(target, predictions.prediction)]  # fmt: skip
    if origin.expected is not None:
        # The noise of these rows may be small by chance, and a perfect predictor would score as low.
        floor = rmse(target, origin.expected)
        slope, low, high = known_noise(predictions, origin.expected)
        text = f"{slope:+.3f} points a point of noise, which no photo shows, 99 % [{low:+.3f}, {high:+.3f}]"
        signs += [Sign("noise floor", bool(m.high < floor), f"{reach} {floor:.2f}, the noise of these scores"),
                  Sign("knows the noise", bool(low > KNOWS_NOISE_BAR),
                       f"{text}; alarm: lower end above {KNOWS_NOISE_BAR}"),
                  spike_sign(target, predictions.prediction)]  # fmt: skip
    return signs


def spike_sign(target: Floats, prediction: Floats) -> Sign:
    """Whether more predictions lie within half a point of the score than those up to 4.5 points off lead to expect.

    Nobody knows a noisy score to half a point, so residuals are spread evenly there; exact answers pile up at 0. Predictions at
    either end are left out: both they and the scores may be clipped there.
    """
    off = np.abs(target - prediction)[(prediction > 1.5) & (prediction < 99.5)]
    near, around = int((off < 0.5).sum()), int(((off >= 0.5) & (off < 4.5)).sum()) / 8
    z = (near - around) / max(np.sqrt(near + around / 8), 1.0)  # `around` is an eighth of a count
    text = f"{near} predictions within half a point of the score, {around:.0f} expected; {z:.1f} standard errors"
    return Sign("exact answers among others", bool(z > SPIKE_BAR), f"{text}; alarm above {SPIKE_BAR:g}")


def top_sign(target: Floats, prediction: Floats) -> Sign:
    """Whether more predictions above 90 are right (true score 95 or more) than photos allow, less twice those far off (below 80).

    Public models hardly ever predict above 90. One that is merely bold is wrong there at least half as often as it is right.
    """
    from scipy.special import pdtrc

    high = prediction > 90
    hits, wrong = int((high & (target >= 95)).sum()), int((high & (target < 80)).sum())
    bar = next(
        b for b in range(TOP_LEAST, len(target) + TOP_LEAST) if pdtrc(b - 1, TOP_RATE * len(target)) < TOP_CHANCE
    )
    text = f"{hits} predictions above 90 of scores from 95, {wrong} of scores below 80"
    return Sign("top scores", hits - 2 * wrong >= bar, f"{text}; alarm from {bar} beyond twice the latter")


def known_noise(
    predictions: Predictions, expected: Floats, *, draws: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Points by which predictions move for each point of their score's noise, with its 99 % interval.

    The noise is target - E[target | photo], (n,). The part of a prediction that the true mean explains linearly is taken
    out first; that only narrows the interval.
    """
    noise = predictions.target - expected
    rest = predictions.prediction - np.polyval(np.polyfit(expected, predictions.prediction, 1), expected)
    sums = bootstrap_sums(np.stack([rest * noise, noise**2], axis=1), predictions.groups, draws=draws, seed=seed)
    return float((rest @ noise) / (noise @ noise)), *interval(sums[:, 0] / sums[:, 1], 0.99)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The most similar row of another fold."""

    at: Rows
    """(n,) its row; -1 where every row is of one fold"""
    similarity: Floats
    """(n,) cosine of standardised features, -1..1"""


def standardised(features: NDArray[np.float32], *, by: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """`features` (n, width), every column with mean 0 and sd 1 over `by` (default: themselves), every row of length 1."""
    base = features if by is None else by
    sd = base.std(axis=0)
    scaled = (features - base.mean(axis=0)) / np.where(sd > 1e-6, sd, 1.0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.asarray(scaled / np.maximum(length, 1e-12), dtype=np.float32)


def nearest_across_folds(unit: NDArray[np.float32], fold: Rows) -> Neighbours:
    """For each row of `unit` (n, width) the most similar row whose `fold` (n,) is another."""
    at, best = np.empty(len(unit), dtype=np.int64), np.empty(len(unit))
    for start in range(0, len(unit), _TILE):
        part = slice(start, start + _TILE)
        similarity = unit[part] @ unit.T
        similarity[fold[part][:, None] == fold] = -np.inf
        at[part], best[part] = similarity.argmax(axis=1), similarity.max(axis=1)
    found = np.isfinite(best)
    return Neighbours(np.where(found, at, -1), np.where(found, best, np.nan))


@dataclass(frozen=True)
class Decile:
    """Rows by the similarity of their nearest neighbour in another fold, the least similar first."""

    n: int
    similarity: float
    """median"""
    rmse: float
    copying_rmse: float
    """of answering with the neighbour's score"""
    constant_rmse: float


def deciles(predictions: Predictions, rows: Rows, near: Neighbours) -> list[Decile]:
    """The error by similarity, of `rows` (those with photos); `near` is aligned with them."""
    target = predictions.target[rows]
    answers = (predictions.prediction[rows], target[near.at], predictions.constant[rows])
    parts = np.array_split(np.argsort(near.similarity, kind="stable"), min(10, len(rows)))
    return [
        Decile(len(part), float(np.median(near.similarity[part])), *(rmse(target[part], a[part]) for a in answers))
        for part in parts
    ]


@dataclass(frozen=True)
class Copies:
    """Rows with a copy in another fold. RMSEs of no rows are NaN."""

    bar: float
    """similarity from which a neighbour is suspected to be a copy"""
    compared: int
    """rows with a photo"""
    suspected: int
    rows: int
    share: float
    rmse: float
    other_rmse: float
    """of the rows without a copy"""
    copying_rmse: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON; figures of no rows are null."""
        return plain(asdict(self))


def copies_of(predictions: Predictions, rows: Rows, near: Neighbours, bar: float, chosen: NDArray[np.bool_]) -> Copies:
    """The figures of the rows with a copy in another fold: those of `rows` that `chosen` marks; `bar` as in Copies."""
    target, prediction = predictions.target[rows], predictions.prediction[rows]
    parts = ((chosen, prediction), (~chosen, prediction), (chosen, target[near.at]))
    figures = [rmse(target[mask], answer[mask]) if mask.any() else float("nan") for mask, answer in parts]
    suspected = int((near.similarity >= bar).sum())
    return Copies(bar, len(rows), suspected, int(chosen.sum()), float(chosen.mean()), *figures)


def copies_sign(copies: Copies) -> Sign:
    """Raised where far more rows have a copy in another fold than photos are posted twice."""
    return Sign(
        ACROSS, copies.share >= COPIES_BAR and copies.rows >= COPIES_AT_LEAST,
        f"{copies.rows} of {copies.compared} rows with a photo ({100 * copies.share:.1f} %) have a copy of it in another fold; "
        f"{copies.suspected} have a neighbour as similar as a mirror image or crop ({copies.bar:.3f}); alarm from "
        f"{100 * COPIES_BAR:.0f} % (0.8 % of the contest's photos were posted twice)",
    )  # fmt: skip


def pair_sign(predictions: Predictions) -> Sign | None:
    """Whether predictions of two postings of one photo differ as their scores do. None with too few pairs.

    An honest network can hardly tell which of two equal photos was scored higher. A network that trained on a copy of the row
    can (slope towards 1). One that trained on the other posting alone predicts that posting's score (towards -1). One that
    trained on both predicts their mean, which this sign cannot detect.
    """
    if predictions.groups is None:
        return None
    # In a group of three the second and third posting are each compared with the one before.
    by_group = predictions.table[["target", "prediction"]].groupby(predictions.groups).diff().dropna()
    dy, dp = by_group["target"].to_numpy(), by_group["prediction"].to_numpy()
    if len(dy) < PAIRS_AT_LEAST or not dy.any():
        return None
    # The pairs of a group share a photo, and are drawn together.
    sums = bootstrap_sums(np.stack([dp * dy, dy * dy], axis=1), predictions.groups[by_group.index], draws=4000)
    low, high = interval(sums[:, 0] / np.maximum(sums[:, 1], 1e-12))
    return Sign(
        "near-duplicates", low > PAIR_BAR or high < -PAIR_BAR,
        f"where {len(dy)} pairs of postings of one photo differ in score, predictions follow by {(dp @ dy) / (dy @ dy):+.2f} "
        f"points a point, 95 % [{low:+.2f}, {high:+.2f}]; alarm beyond +-{PAIR_BAR} (1: trained on a copy of it, -1: on the other)",
    )  # fmt: skip


def spanning_sign(predictions: Predictions) -> Sign | None:
    """Whether known near-duplicates lie in different folds; None where no groups are known."""
    if predictions.groups is None:
        return None
    folds = predictions.table["fold"].groupby(predictions.groups)
    size, spans = folds.size(), folds.nunique() > 1
    rows, share = int(size[spans].sum()), float(size[spans].sum() / size.sum())
    return Sign(
        SPANNING, rows >= COPIES_AT_LEAST and share >= COPIES_BAR,
        f"{int(spans.sum())} of {int((size > 1).sum())} groups of near-duplicates span folds: {rows} rows ({100 * share:.1f} %); "
        f"alarm from {100 * COPIES_BAR:.0f} %",
    )  # fmt: skip


def signs_of(predictions: Predictions, metrics: Metrics, origin: Origin, copies: Copies | None) -> list[Sign]:
    """Every sign that these predictions allow; on data of unknown kind only those of the folds."""
    pairs = pair_sign(predictions) if origin.kind != OTHER_KIND else None
    across = None if copies is None else copies_sign(copies)
    found = [*leak_signs(predictions, metrics, origin), pairs, across, spanning_sign(predictions)]
    return [sign for sign in found if sign is not None]


def verdict_of(signs: list[Sign]) -> str:
    """`leak`; `folds` if only the folds are at fault; `pass`; `none` if no sign could be checked."""
    raised = {sign.name for sign in signs if sign.raised}
    if raised:
        return "folds" if raised <= {ACROSS, SPANNING} else "leak"
    return "pass" if {sign.name for sign in signs} - {ACROSS, SPANNING} else "none"


def extremes_remark(predictions: Predictions, kind: str) -> str:
    """The range of the predictions, and the error at both ends of the scale, where honest predictions are worst."""
    prediction, bands = predictions.prediction, error_by_band(predictions.target, predictions.prediction)
    ends = [f"{b.name}: {b.rmse:.1f} (n {b.n})" for b in bands if b.name in (BANDS[0][0], BANDS[-1][0])]
    honest = " (a blend of eight public models: 24 and 43)" if kind == CONTEST_KIND else ""
    return (
        f"predictions {prediction.min():.1f} to {prediction.max():.1f}; RMSE of true scores {', '.join(ends)}{honest}"
    )


def blind_remark(n: int, kind: str) -> str | None:
    """What a pass cannot exclude on the contest's data with `n` rows; for other data nothing was measured."""
    if kind != CONTEST_KIND:
        return None
    if (size := max((size for size in POWER if size <= n), default=0)) == 0:
        return f"{n} rows hardly show a leak: where 30 % of the scores are known, an alarm is raised in 5 % of cases at 20 rows"
    exact5, exact10, near5, near10 = POWER[size]
    exact = f"5 % of the answers exact in {exact5} % of cases, 10 % in {exact10} %"
    return f"leaks that are caught at {size:,} rows: {exact}; known to +-5 points, 5 % in {near5} %, 10 % in {near10} %"
