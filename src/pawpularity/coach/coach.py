"""The photo coach: one photo in, its score and what that is worth out; tips, a better crop, a map, an order of several.

    coach = Coach.open(chosen)
    told = coach.score(Upload.of(data))         # Told: score, ranges, chances
    coach.tips(upload), coach.crop(upload)

A photo of the run's own table is scored by the network of the fold that never saw it; any other by the mean of all trained
folds. Whoever brings a photo is not asked for twelve columns of metadata: the run must have been trained to do without.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pawpularity.coach.crop import LEAST_GAIN, Crop, best_crop
from pawpularity.coach.prepared import Prepared, prepare, read_prepared, write_prepared
from pawpularity.coach.tips import Seen, Tip, tips_for
from pawpularity.coach.traits import Tower, chances
from pawpularity.coach.upload import Upload
from pawpularity.console import log
from pawpularity.data.photos import Pixels
from pawpularity.data.subject import SIZE, contrast, share, subject_map
from pawpularity.data.tables import ID
from pawpularity.errors import UserError
from pawpularity.evaluation.calibration import Calibration, PairBand
from pawpularity.evaluation.metrics import Metrics, evaluate
from pawpularity.evaluation.oof import run_folds
from pawpularity.explain.chosen import Chosen
from pawpularity.explain.rise import Score as ScoreOf
from pawpularity.explain.scored import FoldsMean, PhotoScore
from pawpularity.predictor import Predictor
from pawpularity.schema import Model

Floats = NDArray[np.float64]

WORTH_SAYING = 0.6  # of pairs: an order that is right in 52 % is no advice, however surely it is not 50 %
_LOOK = 96  # pixels a side at which a photo is asked whether it is one
_FLAT, _NOISE = 8.0, 0.5
"""Levels of luma between places, and the correlation of neighbouring ones: of 100 real photos and 300 drawn ones none is below 14
and .74; the contest's eight pictures of noise reach .14."""


@dataclass(frozen=True)
class Told:
    """What is said of one photo's score; points of 1..100, chances of 0..1."""

    score: float
    half_low: float
    half_high: float
    """half of photos predicted so truly scored between"""
    low: float
    high: float
    """nine of ten"""
    beats_median: float
    beats_top_quarter: float
    fold: int | None
    """the fold whose network scored it, of a photo of the run's own table; None: the mean of all folds"""
    notes: tuple[str, ...] = ()
    doubt: str = ""
    """why this is hardly a photo of a pet, and its score means nothing; mostly empty"""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(eq=False)
class Coach:
    """One run, ready to answer. Not for several threads at once."""

    chosen: Chosen
    predictor: Predictor
    known: Calibration
    prepared: Prepared
    figures: Metrics
    """the run's own out-of-fold figures"""
    tower: Tower | None
    folds: dict[str, int] = field(repr=False)
    """of the run's own photos, by content"""

    @classmethod
    def open(cls, chosen: Chosen) -> "Coach":
        """Load the run and what was prepared for it, or prepare it now.

        Raises UserError for a run that cannot do without metadata, that is leaky by design, or has too few rows.
        """
        run, source = chosen.run, chosen.source
        metadata_words(run.config.model, run.name)
        if run.leaky:
            raise UserError(
                f"{run.name}: is leaky by design (train.split=leaky), so nobody knows what its scores are worth; take another run"
            )
        known = Calibration(source.target, source.prediction, source.groups)
        figures = evaluate(source.target, source.prediction, source.constant, source.groups)
        predictor = Predictor.load(run.folder)
        log(f"device  {predictor.compute}")
        prints = dict(zip(chosen.dataset.rows().fingerprints, chosen.dataset.train[ID], strict=True))
        folds = dict(zip(prints, run_folds(run).folds_of(prints.values()).tolist(), strict=True))
        prepared = read_prepared(chosen)
        coach = cls(chosen, predictor, known, prepared or prepare(chosen, predictor.compute), figures, None, folds)
        if coach.prepared.probes:
            coach.tower = Tower(run.config, predictor.compute)
        if prepared is None:
            if chosen.dataset.is_drawn:
                from pawpularity.coach.evaluate_tips import keep_promises

                log("coach   tries its tips on drawn twins, whose true gain is known")
                coach.prepared = keep_promises(coach)
            try:
                write_prepared(chosen, coach.prepared)
            except (OSError, UserError) as error:
                log(f"coach   cannot keep what it learnt ({error}); it will learn it again next time")
        return coach

    def warm(self) -> None:
        """Run everything once: a network's first answer takes longer than all others."""
        size = self.predictor.config.photos.size
        pixels = np.zeros((1, size, size, 3), dtype=np.uint8)
        self.scores(pixels)
        if self.tower is not None:
            self.tower(pixels)

    def scores(self, pixels: Pixels, fold: int | None = None) -> Floats:
        """(n,) points of pixels (n, size, size, 3) without metadata, by one fold's network or the mean of all."""
        by_fold = self.predictor.predict_folds(pixels)
        mean: Floats = by_fold.mean(axis=0) if fold is None else by_fold[list(self.predictor.networks).index(fold)]
        return mean

    def score(self, upload: Upload) -> Told:
        """One photo's score. Raises PhotoError for what cannot be decoded."""
        cfg = self.predictor.config.photos
        fold, notes = self.fold_of(upload)
        value = float(self.scores(upload.pixels(cfg.size, cfg.fit)[None], fold)[0])
        half, most = (self.known.interval(value, level) for level in (0.5, 0.9))
        return Told(
            value, float(half[0]), float(half[1]), float(most[0]), float(most[1]), float(self.known.chance_above(value)),
            float(self.known.chance_above(value, self.known.top_quarter)), fold, notes, doubt_of(upload),
        )  # fmt: skip

    def fold_of(self, upload: Upload) -> tuple[int | None, tuple[str, ...]]:
        """The fold that never saw a photo of the run's own table, and what must be said of that; (None, ()) for others."""
        fold = self.folds.get(upload.print)
        if fold is None:
            return None, ()
        if fold in self.predictor.networks:
            return fold, (f"a photo of the run's own table: scored by fold {fold}, which never saw it",)
        return None, (f"a photo of the run's own table, and fold {fold}, which never saw it, is not trained: this score is "
                      "too good to be trusted",)  # fmt: skip

    def seen(self, upload: Upload) -> Seen:
        """What is measured on one photo. Raises PhotoError."""
        photo = upload.pixels(SIZE, "squash")
        found = subject_map(photo)
        told: dict[str, float] = {}
        if self.tower is not None:
            cfg = self.predictor.config.photos
            told = chances(self.prepared.probes, self.tower(upload.pixels(cfg.size, cfg.fit)[None]))[0]
        level = contrast(photo, found)
        return Seen(level, share(found) if np.isfinite(level) else float("nan"), told)

    def tips(self, upload: Upload) -> list[Tip]:
        """All that was looked at on one photo, the best first. Raises PhotoError."""
        return self.tips_of(self.seen(upload))

    def tips_of(self, seen: Seen) -> list[Tip]:
        """The same of measurements."""
        known = self.prepared
        return tips_for(seen, known.evidence, known.judged, known.quantiles)

    def crop(self, upload: Upload) -> Crop:
        """The window that scores highest. Raises PhotoError."""
        cfg = self.predictor.config.photos
        fold, _ = self.fold_of(upload)
        found = best_crop(upload, lambda pixels: self.scores(pixels, fold), cfg.size, cfg.fit, least=self.least_crop())
        # The search draws the whole photo down in two steps, and so scores it a little otherwise. Only gains are of use.
        whole = float(self.scores(upload.pixels(cfg.size, cfg.fit)[None], fold)[0])
        return replace(found, whole=whole, score=whole + found.gain)

    def least_crop(self) -> float:
        """Points from which on a crop is proposed: on drawn pets, more than the networks promise there for nothing."""
        known = [
            float(row["promised"])
            for row in self.prepared.promises
            if row["tip"] == "crop" and row["promised"] is not None
        ]
        return max([LEAST_GAIN, *known])

    def mapped(self, upload: Upload) -> tuple[ScoreOf, torch.Tensor]:
        """(the score as a function of the network's input, that input): what a map explains. Raises PhotoError."""
        cfg = self.predictor.config.photos
        fold, _ = self.fold_of(upload)
        by = [self.predictor.networks[fold]] if fold is not None else list(self.predictor.networks.values())
        score_of = FoldsMean(tuple(PhotoScore(network, self.predictor.compute) for network in by))
        return score_of, score_of.input_of(upload.pixels(cfg.size, cfg.fit))

    @property
    def about(self) -> dict[str, Any]:
        """What everybody who reads a score must know of the run."""
        figures, known = self.figures, self.known
        return {
            "run": self.chosen.run.name, "data": self.chosen.dataset.name, "drawn": self.chosen.dataset.is_drawn,
            "rows": known.n, "indicative": known.indicative, "rmse": figures.rmse, "constant_rmse": figures.constant_rmse,
            "r2": figures.r2 if np.isfinite(figures.r2) else None,
            "median": known.median, "top_quarter": known.top_quarter,
            "fit": self.predictor.config.photos.fit,
            "metadata": metadata_words(self.chosen.run.config.model, self.chosen.run.name),
            "folds": sorted(self.predictor.networks), "statements": statements(self), "warnings": warnings(self),
            "order": [{"words": band.words, "low": band.low, "share": band.share, "error": band.error, "pairs": band.pairs}
                      for band in known.order.bands],
            "order_all": known.order.whole.share, "promises": list(self.prepared.promises), "notes": list(self.prepared.notes),
        }  # fmt: skip


def metadata_words(model: Model, name: str) -> str:
    """How the run does without metadata. Raises UserError where it cannot."""
    if model.metadata == "none":
        return "the photo alone: the run was trained without metadata"
    if model.metadata_dropout > 0:
        return (
            f"the photo alone: the run was trained with the twelve metadata columns, hidden for {100 * model.metadata_dropout:g} % "
            "of the rows so that it can do without"
        )
    raise UserError(
        f"{name}: was trained with metadata always there, and a photo brings none; take a run of model.metadata_dropout > 0, or "
        "model.metadata=none"
    )


def warnings(coach: Coach) -> list[str]:
    """What must be read before anything else; mostly nothing."""
    figures, name = coach.figures, coach.chosen.dataset.name
    lines = []
    if coach.chosen.dataset.is_drawn:
        lines.append(f"This run learned from drawn pets ({name}). Of real photographs it knows nothing: use it to try the coach, "
                     "not to choose photos.")  # fmt: skip
    if not figures.r2_low > 0:
        lines.append(
            f"This run has not been shown to know anything: on {figures.n} photos it never saw it is off by {figures.rmse:.1f} "
            f"points, and always answering the mean by {figures.constant_rmse:.1f}. Its scores are for trying the coach only."
        )
    return lines


def statements(coach: Coach) -> list[str]:
    """What the score is and is not, in plain words."""
    figures, known = coach.figures, coach.known
    return [
        "The score is a guess at PetFinder.my's Pawpularity: how much visitors looked at a photo's page, from 1 to 100. It is a "
        "guess about the photo. It says nothing about the pet, its health, or how soon it finds a home.",
        f"How good the guess is: on {known.n:,} photos it never saw it is off by {figures.rmse:.1f} points (RMSE); always "
        f"answering the mean is off by {figures.constant_rmse:.1f}. So read the ranges, not the number alone.",
        "Ranges and chances are counts over those photos: how photos with such a score truly did."
        + (f" With only {known.n} rows they are indicative." if known.indicative else ""),
        "Ranges hold for photos of a given predicted score. The most popular photos are rarely predicted so, and no range "
        "can promise to catch them."
        + (" Scores are the mean of a photo and its mirror image; maps are of the photo as it is."
           if coach.predictor.config.predict.flip else ""),
    ]  # fmt: skip


def doubt_of(upload: Upload) -> str:
    """Why an upload is hardly a photo; "" for what may well be one. Raises PhotoError."""
    levels = upload.pixels(_LOOK, "squash").mean(axis=2)
    if float(levels.std()) < _FLAT:
        return "it is nearly one colour: no pet can be seen, and its score means nothing"
    beside = [np.corrcoef(levels[:, 1:].ravel(), levels[:, :-1].ravel())[0, 1],
              np.corrcoef(levels[1:].ravel(), levels[:-1].ravel())[0, 1]]  # fmt: skip
    if float(np.nanmean(beside)) < _NOISE:
        return "it looks like noise: no pet can be seen, and its score means nothing"
    return ""


def _tells(band: PairBand) -> bool:
    return band.share >= WORTH_SAYING and band.share - 1.96 * band.error > 0.5


def ranked(scores: Sequence[float], known: Calibration) -> list[dict[str, Any]]:
    """Photos from the highest score down: `place` in what was given, and how reliable it is that each beats the next.

    The last one has no next. Equal scores keep their order, and are never told apart; two others are where that chance is .6 at
    least, and above a half by more than its own error (95 %).
    """
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    rows: list[dict[str, Any]] = []
    for rank, place in enumerate(order):
        after = order[rank + 1] if rank + 1 < len(order) else None
        gap = None if after is None else scores[place] - scores[after]
        band = None if gap is None else known.order.band(gap)
        rows.append({
            "rank": rank + 1, "place": place, "gap": gap, "reliability": None if band is None else band.share,
            "error": None if band is None else band.error, "behind_best": scores[order[0]] - scores[place],
            "told_apart": None if band is None else bool(gap) and _tells(band),
            "best_is_better": None if rank == 0 else known.order.reliability(scores[order[0]] - scores[place]),
        })  # fmt: skip
    return rows
