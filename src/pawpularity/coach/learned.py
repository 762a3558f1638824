"""What the coach learns from a run's photos, saved in oof/RUN/coach.json: evidence, probes, quantiles of contrast and framing,
and how the photos' features are spread.

It learns again when the run, its data or these rules change.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pawpularity.coach.doubt import ENCODER, Floats, Typical
from pawpularity.coach.evidence import SHARE, Evidence, gather_evidence
from pawpularity.coach.traits import COLUMNS, Probe, fit_probes
from pawpularity.console import log
from pawpularity.data.dataset import Dataset
from pawpularity.data.subject import RULE, measure
from pawpularity.data.tables import ID
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.evaluation.effects import CONTRAST
from pawpularity.evaluation.oof import run_folds
from pawpularity.features.build import FeatureCache
from pawpularity.files import read_json, text_hash, write_json
from pawpularity.heads.encoders import Encoder
from pawpularity.heads.features import frozen_features
from pawpularity.runs import Run, fingerprint

_VERSION = 5


@dataclass(frozen=True)
class Learned:
    """What the coach learned from the run's photos."""

    evidence: dict[str, Evidence]
    """by column"""
    probes: dict[str, Probe] = field(repr=False)
    """by column; empty if the starting weights cannot be found"""
    quantiles: dict[str, list[float]] = field(repr=False)
    """101 quantiles over the photos, of `contrast` (levels of luma) and `subject share`"""
    notes: list[str]
    typical: Typical
    """how the features of the photos are spread"""
    tip_results: list[dict[str, Any]] = field(default_factory=list)
    """on a drawn sample: the promised and the true gains of tips, see `evaluate_tips`"""

    @property
    def usable(self) -> dict[str, Probe]:
        """The probes that are good enough for tips."""
        return {name: probe for name, probe in self.probes.items() if probe.usable}


def key_of(run: Run, dataset: Dataset) -> str:
    """A hash of everything that decides what is learned."""
    predictions = [run.metrics(fold)["predictions_hash"] for fold in run.trained_folds()]
    recipe = sorted(fingerprint(run.record).items())
    return text_hash(repr([_VERSION, RULE, run.config.hypotheses.margin, dataset.hash, predictions, recipe]))


def read_learned(path: Path, key: str) -> Learned | None:
    """The saved `Learned`, if it has this `key` and is not damaged."""
    try:
        kept = read_json(path, "coach")
        if kept.pop("key") != key:
            return None
        evidence = {name: Evidence(**row) for name, row in kept.pop("evidence").items()}
        probes = {name: Probe(**row) for name, row in kept.pop("probes").items()}
        typical = Typical(**kept.pop("typical"))
        return Learned(evidence, probes, typical=typical, **kept)
    except (KeyError, TypeError, AttributeError, UserError):
        return None


def write_learned(path: Path, key: str, learned: Learned) -> None:
    """Save `learned` with its key."""
    write_json(path, {"key": key, **asdict(learned)})


def learn(run: Run, dataset: Dataset, compute: Compute) -> Learned:
    """Measure the run's photos. Raises UserError listing photos that cannot be decoded."""
    config = run.config
    log(f"coach   learns from the {len(dataset.train):,} photos of {dataset.name}: about 0.15 s each, only once")
    order = np.argsort(dataset.train[ID].to_numpy(dtype=str), kind="stable")
    table, split = dataset.train.iloc[order].reset_index(drop=True), run_folds(run)
    measured = measure(dataset)
    contrast = measured.levels[order]
    found = np.isfinite(contrast)
    share = np.where(found, measured.share[order], np.nan)
    evidence = gather_evidence(table, contrast, share, split.groups_of(table[ID]), margin=config.hypotheses.margin)
    notes = [f"contrast: measured on {int(found.sum()):,} of {len(found):,} photos, those with a plausible subject"]
    levels = {CONTRAST: contrast, SHARE: share} if found.any() else {}
    quantiles = {name: np.quantile(values[found], np.linspace(0, 1, 101)).tolist() for name, values in levels.items()}
    photos, size = dataset.photos(config.photos.size, config.photos.fit), config.photos.size
    cache = FeatureCache(dataset.cache_folder / "features", photos, size, config.cache.budget_gb)
    probes: dict[str, Probe] = {}

    def features(encoder: Encoder) -> Floats:
        seed = config.train.seed
        return frozen_features(photos, order, encoder, size, compute, seed=seed, cache=cache).astype(np.float64)

    try:
        columns = {name: table[name].to_numpy(float) for name in COLUMNS}
        probes = fit_probes(features(Encoder.of(config)), columns, split.folds_of(table[ID]))
    except UserError as error:  # the starting weights cannot be found
        notes.append(f"no probes of face, eyes, pets or blur: {error}")
    typical = Typical.fit(features(ENCODER))
    return Learned(evidence, probes, quantiles, notes, typical)
