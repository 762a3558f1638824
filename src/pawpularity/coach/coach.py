"""The photo coach: a photo's score with ranges and chances, tips, a better crop, a map, and the order of several photos.

A photo of the run's table is scored by the network of the fold that never saw it; any other photo by the mean of all trained folds.
Uploaded photos have no metadata, so the run must have been trained to do without it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pawpularity.coach.crop import MIN_GAIN, Crop, best_crop
from pawpularity.coach.doubt import ENCODER
from pawpularity.coach.evidence import SHARE
from pawpularity.coach.learned import Learned, key_of, learn, read_learned, write_learned
from pawpularity.coach.tips import Tip, tips_for
from pawpularity.coach.traits import LoadedEncoder
from pawpularity.coach.upload import Upload
from pawpularity.config import Explain
from pawpularity.console import log
from pawpularity.context import Context
from pawpularity.data.dataset import Dataset
from pawpularity.data.photos import Pixels
from pawpularity.data.subject import SIZE, contrast, share, subject_box, subject_map
from pawpularity.data.tables import ID
from pawpularity.errors import UserError
from pawpularity.evaluation.calibration import Calibration
from pawpularity.evaluation.compare import compare
from pawpularity.evaluation.effects import CONTRAST
from pawpularity.evaluation.metrics import DRAWS, Metrics, evaluate
from pawpularity.evaluation.oof import run_folds
from pawpularity.explain.photos import RunData
from pawpularity.explain.rise import Score as ScoreOf
from pawpularity.explain.scored import FoldsMean, PhotoScore
from pawpularity.files import plain
from pawpularity.heads.encoders import Encoder
from pawpularity.predictor import Predictor
from pawpularity.runs import Run

Floats = NDArray[np.float64]

ONE_PET = "measured between different pets; for several photos of one pet it is an extrapolation"
MIN_RELIABILITY = 0.6  # an order that is right in 52 % of pairs is no advice, even if it is significantly above 50 %


@dataclass(frozen=True)
class ScoreReport:
    """One photo's score, 1..100, with ranges of the true score and chances, 0..1. A doubtful photo gets no number."""

    score: float | None = None
    half_low: float | None = None
    half_high: float | None = None
    """the range of half of the photos with this predicted score"""
    low: float | None = None
    high: float | None = None
    """the range of nine of ten of them"""
    beats_median: float | None = None
    beats_top_quarter: float | None = None
    fold: int | None = None
    """the fold whose network scored a photo of the run's table; None: the mean of all folds"""
    notes: tuple[str, ...] = ()
    doubt: str = ""
    """why this may not be a photo of a pet; usually empty"""


@dataclass(eq=False)
class Coach:
    """One run, loaded to score photos. Not thread-safe."""

    run: Run
    dataset: Dataset
    settings: Explain
    predictor: Predictor
    calibration: Calibration
    metrics: Metrics
    """of the run, out of fold"""
    beats_constant: bool
    """whether its squared error is below the constant's by a paired 95 % interval"""
    learned: Learned
    imagenet: LoadedEncoder
    """by its features a photo is compared with the run's"""
    starting: LoadedEncoder | None
    """what the probes use: the run's backbone before training; None if those weights cannot be found"""
    folds: dict[str, int] = field(repr=False)
    """the folds of the run's photos, by the photos' fingerprints"""

    @classmethod
    def open(cls, context: Context) -> "Coach":
        """Load the run and what the coach learnt from its photos, or learn it now.

        Raises UserError for a run that needs metadata, is leaky by design, or has too few rows.
        """
        data = RunData.open(context)
        data.require_absent_metadata()
        run, source, dataset = data.run, data.source, data.dataset
        if run.leaky:
            raise UserError(
                f"{run.name}: is leaky by design (train.split=leaky), so its scores mean nothing; choose another run"
            )
        calibration = Calibration(source.target, source.prediction, source.groups)
        metrics = evaluate(source.target, source.prediction, source.constant, source.groups)
        pair = [(run.name, source.prediction)]
        beside = compare(source.target, source.constant, pair, source.groups, draws=DRAWS)[0]
        predictor = Predictor.load(run.folder)
        log(f"device  {predictor.compute}")
        folds = dict(zip(dataset.fingerprints, run_folds(run).folds_of(dataset.train[ID]).tolist(), strict=True))
        path, key = run.folder / "coach.json", key_of(run, dataset)
        kept = read_learned(path, key)
        learned = kept or learn(run, dataset, predictor.compute)
        size, seed = run.config.photos.size, run.config.train.seed
        imagenet = LoadedEncoder(ENCODER, size, seed, predictor.compute)
        starting = LoadedEncoder(Encoder.of(run.config), size, seed, predictor.compute) if learned.probes else None
        coach = cls(run, dataset, data.settings, predictor, calibration, metrics, beside.high < 0, learned,
                    imagenet, starting, folds)  # fmt: skip
        if kept is None:
            if dataset.is_drawn:
                from pawpularity.coach.evaluate_tips import evaluate_tips

                coach.learned = replace(learned, tip_results=evaluate_tips(coach))
            write_learned(path, key, coach.learned)
        return coach

    def scores(self, pixels: Pixels, fold: int | None = None) -> Floats:
        """(n,) scores of pixels (n, size, size, 3) without metadata, by one fold's network or the mean of all."""
        by_fold = self.predictor.predict_folds(pixels)
        return np.asarray(by_fold.mean(axis=0) if fold is None else by_fold[list(self.predictor.networks).index(fold)])

    def score(self, upload: Upload) -> ScoreReport:
        """One photo's score. Raises PhotoError if it cannot be decoded."""
        fold, notes = self._fold_of(upload)
        if doubt := self.doubt(upload):
            return ScoreReport(fold=fold, notes=notes, doubt=doubt)
        value, known = float(self.scores(self.pixels(upload), fold)[0]), self.calibration
        (half_low, half_high), (low, high) = (map(float, known.interval(value, level)) for level in (0.5, 0.9))
        beats_median, beats_top = (float(known.chance_above(value, bar)) for bar in (known.median, known.top_quarter))
        return ScoreReport(value, half_low, half_high, low, high, beats_median, beats_top, fold, notes)

    def doubt(self, upload: Upload) -> str:
        """Why an upload may not be a photo of a pet; "" if nothing speaks against it. Raises PhotoError."""
        if upload.fingerprint in self.folds:
            return ""  # the photos of the table are pets, however odd they look
        return self.learned.typical.doubt(self.imagenet(self.pixels(upload)))

    def advises(self, upload: Upload) -> bool:
        """Whether tips and crops are given: by a run that is better than its constant, on what seems to be a pet."""
        return self.beats_constant and not self.doubt(upload)

    def measure(self, upload: Upload) -> dict[str, float]:
        """The measurements behind the tips: contrast, the subject's share (NaN without a subject), and the probes' chances."""
        photo = upload.pixels(SIZE, "squash")
        subject = subject_map(photo)
        level = contrast(photo, subject)
        measured = {CONTRAST: level, SHARE: share(subject) if np.isfinite(level) else float("nan")}
        if self.starting is not None:
            features = self.starting(self.pixels(upload))
            measured |= {name: float(probe.chance(features)[0]) for name, probe in self.learned.usable.items()}
        return measured

    def tips(self, upload: Upload) -> list[Tip]:
        """A tip for each trait, the best first; none where the coach does not advise. Raises PhotoError."""
        return tips_for(self.measure(upload), self.learned) if self.advises(upload) else []

    def crop(self, upload: Upload) -> Crop | None:
        """The crop to try; None where the coach does not advise, or photos are padded. On drawn pets no crop is worth anything.

        Raises PhotoError.
        """
        if self.predictor.config.photos.fit == "pad" or not self.advises(upload):
            return None
        found = self.search_crop(upload)
        return replace(found, worth=found.gain >= MIN_GAIN and not self.dataset.is_drawn)

    def search_crop(self, upload: Upload) -> Crop:
        """The window that scores highest among those that keep the whole subject. Raises PhotoError."""
        photos, (fold, _) = self.predictor.config.photos, self._fold_of(upload)
        keep = subject_box(upload.pixels(SIZE, "squash"))
        found = best_crop(upload, lambda pixels: self.scores(pixels, fold), photos.size, photos.fit, keep)
        # The search shrinks the photo in two steps, which changes its score a little. So only the gain is used.
        whole = float(self.scores(self.pixels(upload), fold)[0])
        return replace(found, whole=whole, score=whole + found.gain)

    def rank(self, scores: Sequence[float]) -> list[dict[str, Any]]:
        """`ranked` by this run; no order is clear if the run is no better than its constant."""
        rows = ranked(scores, self.calibration)
        return [row | {"clear": row["clear"] and self.beats_constant} for row in rows]

    def saliency_input(self, upload: Upload) -> tuple[ScoreOf, torch.Tensor]:
        """(the score as a function of the network's input, the input) for a map. Raises PhotoError."""
        fold, _ = self._fold_of(upload)
        networks = self.predictor.networks.values() if fold is None else [self.predictor.networks[fold]]
        score_of = FoldsMean(tuple(PhotoScore(network, self.predictor.compute) for network in networks))
        return score_of, score_of.input_of(self.pixels(upload)[0])

    @property
    def about(self) -> dict[str, Any]:
        """What readers of a score must know about the run, for JSON."""
        metrics, known, config = self.metrics, self.calibration, self.run.config
        return plain({
            "run": self.run.name, "data": self.dataset.name, "drawn": self.dataset.is_drawn, "rows": known.n,
            "indicative": known.indicative, "rmse": metrics.rmse, "constant_rmse": metrics.constant_rmse, "r2": metrics.r2,
            "beats_constant": self.beats_constant, "median": known.median, "top_quarter": known.top_quarter,
            "fit": config.photos.fit, "flip": config.predict.flip, "metadata": config.model.metadata,
            "metadata_dropout": config.model.metadata_dropout, "folds": sorted(self.predictor.networks),
            "order": [{"words": band.words, **asdict(band)} for band in known.order.bands],
            "tip_results": self.learned.tip_results, "notes": self.learned.notes,
        })  # fmt: skip

    def pixels(self, upload: Upload) -> Pixels:
        """(1, size, size, 3), as the networks see the photo. Raises PhotoError."""
        photos = self.predictor.config.photos
        return upload.pixels(photos.size, photos.fit)[None]

    def _fold_of(self, upload: Upload) -> tuple[int | None, tuple[str, ...]]:
        """The fold that never saw the photo, with a note, if it is in the run's table; (None, ()) for other photos."""
        fold, known = self.folds.get(upload.fingerprint), "a photo of the run's table"
        if fold is None:
            return None, ()
        if fold in self.predictor.networks:
            return fold, (f"{known}: scored by fold {fold}, which never saw it",)
        return None, (f"{known}: fold {fold}, which never saw it, is not trained, so the score is too good to trust",)


def ranked(scores: Sequence[float], known: Calibration) -> list[dict[str, Any]]:
    """Photos from the highest score down: their `place` in `scores`, and how reliably each one truly beats the next.

    The last one has no next. An order is `clear` if its reliability is at least .6 and significantly above a half (95 %). Equal
    scores keep their order, which is never clear.
    """
    if not scores:
        return []
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    rows: list[dict[str, Any]] = []
    for rank, (place, after) in enumerate(zip(order, [*order[1:], None], strict=True), start=1):
        behind = scores[order[0]] - scores[place]
        row: dict[str, Any] = {"rank": rank, "place": place, "behind_best": behind, "gap": None, "reliability": None,
                               "clear": None, "best_is_better": None}  # fmt: skip
        if rank > 1:
            row["best_is_better"] = known.order.reliability(behind)
        if after is not None:
            gap = scores[place] - scores[after]
            band = known.order.band(gap)
            sure = gap > 0 and band.share >= MIN_RELIABILITY and band.share - 1.96 * band.error > 0.5
            row |= {"gap": gap, "reliability": band.share, "clear": sure}
        rows.append(row)
    return rows
