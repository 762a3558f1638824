"""What the coach learns once from a run's own table, and keeps beside the run: evidence, probes, and what is usual there.

oof/RUN/coach/prepared.json     evidence by column, how good the probes are, the usual contrast and framing, kept promises
oof/RUN/coach/probes.npz        the probes that may be used

It is made anew when the run, its data or the rules change. Most of the time goes into finding the subject of every photo
(0.1 s each, kept in the cache folder).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pawpularity.coach.evidence import SHARE, Evidence, gather_evidence
from pawpularity.coach.traits import COLUMNS, Judged, Probe, fit_probes, table_features
from pawpularity.console import log
from pawpularity.data.subject import LEAST, MOST, RULE, measure
from pawpularity.data.tables import ID
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.evaluation.effects import CONTRAST
from pawpularity.evaluation.oof import run_folds
from pawpularity.explain.chosen import Chosen
from pawpularity.features.build import Trunks
from pawpularity.files import atomic_file, read_json, write_json
from pawpularity.studies.hypotheses.data import gather

FOLDER = "coach"
DRAWS = 2000
_RULES = 2  # of this room: another number makes everything anew

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is known of the run's shelter."""

    evidence: Sequence[Evidence]
    judged: Sequence[Judged]
    probes: Sequence[Probe] = field(repr=False)
    quantiles: dict[str, Floats]
    """of `contrast` (levels of luma) and `subject share` over the shelter's photos, (101,) each"""
    notes: Sequence[str]
    promises: Sequence[dict[str, Any]] = ()
    """on a drawn shelter: what tips promised beside what following them gave (`twins.py`)"""


def recipe(chosen: Chosen) -> dict[str, Any]:
    """Everything that decides what is prepared."""
    run, config = chosen.run, chosen.run.config
    folds = run.trained_folds()
    return {
        "rules": _RULES, "subject": RULE, "draws": DRAWS, "margin": config.hypotheses.margin, "data": chosen.dataset.hash,
        "folds": run.record["folds"]["hash"], "photos": [config.photos.size, config.photos.fit],
        "backbone": [config.model.backbone, config.model.weights, run.record["weights"].get("initial_hash"), config.train.seed],
        "networks": {str(k): [run.metrics(k).get("tail_hash"), run.metrics(k)["predictions_hash"]] for k in folds},
    }  # fmt: skip


def read_prepared(chosen: Chosen) -> Prepared | None:
    """What was kept, if it is of this run as it is now."""
    folder = chosen.run.folder / FOLDER
    if not (folder / "prepared.json").is_file() or not (folder / "probes.npz").is_file():
        return None
    try:
        kept = read_json(folder / "prepared.json", "what the coach prepared")
        if kept["recipe"] != recipe(chosen):
            return None
        judged = [Judged(**row) for row in kept["judged"]]
        with np.load(folder / "probes.npz", allow_pickle=False) as arrays:
            probes = [
                Probe.of_arrays(one, {part: arrays[f"{one.column}.{part}"] for part in ("mean", "weights", "scalars")})
                for one in judged
                if one.usable
            ]
        quantiles = {name: np.array(values, dtype=np.float64) for name, values in kept["quantiles"].items()}
        sound = [
            all(values.shape == (101,) for values in quantiles.values()),
            isinstance(kept["notes"], list) and all(isinstance(note, str) for note in kept["notes"]),
            isinstance(kept["promises"], list)
            and all({"tip", "promised", "words"} <= row.keys() for row in kept["promises"]),
        ]
        if not all(sound):
            return None
        return Prepared(
            [Evidence(**row) for row in kept["evidence"]], judged, probes, quantiles, kept["notes"], kept["promises"]
        )
    except (KeyError, TypeError, ValueError, AttributeError, OSError, BadZipFile, UserError):
        return None  # kept by another version, or damaged: made anew


def write_prepared(chosen: Chosen, prepared: Prepared) -> None:
    """Keep it; prepared.json comes last and vouches for the other."""
    folder = chosen.run.folder / FOLDER
    arrays = {f"{p.judged.column}.{part}": values for p in prepared.probes for part, values in p.arrays().items()}
    with atomic_file(folder / "probes.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    write_json(
        folder / "prepared.json",
        {
            "recipe": recipe(chosen),
            "evidence": [row.to_dict() for row in prepared.evidence],
            "judged": [row.to_dict() for row in prepared.judged],
            "quantiles": {name: values.tolist() for name, values in prepared.quantiles.items()},
            "notes": list(prepared.notes),
            "promises": list(prepared.promises),
        },
    )


def prepare(chosen: Chosen, compute: Compute) -> Prepared:
    """Measure the run's own table. Raises UserError listing photos that cannot be decoded."""
    dataset, run = chosen.dataset, chosen.run
    log(
        f"coach   learns from the {len(dataset.train):,} photos of {dataset.name} what is usual there: some 0.15 s each, once"
    )
    split = run_folds(run)
    gathered = gather(dataset, split.groups_of, chosen.cache, None)
    ids = dataset.train[ID].to_numpy(dtype=str)
    order = np.argsort(ids, kind="stable")
    share = measure(dataset, chosen.cache).share[order]
    share = np.where((share >= LEAST) & (share <= MOST), share, np.nan)
    evidence = gather_evidence(gathered, share, draws=DRAWS, margin=run.config.hypotheses.margin)
    contrast = np.full(len(share), np.nan) if isinstance(gathered.contrast, str) else gathered.contrast
    probes, judged, notes = _probed(chosen, compute, order)
    quantiles = {name: np.quantile(values[np.isfinite(values)], np.linspace(0.0, 1.0, 101))
                 for name, values in ((CONTRAST, contrast), (SHARE, share)) if np.isfinite(values).any()}  # fmt: skip
    return Prepared(evidence, judged, probes, quantiles, [*gathered.notes, *notes])


def _probed(chosen: Chosen, compute: Compute, order: NDArray[np.int64]) -> tuple[list[Probe], list[Judged], list[str]]:
    """The probes, each column's judgement, and why there are none where there are none."""
    config, dataset = chosen.run.config, chosen.dataset
    photos = dataset.photos(config.photos.size, config.photos.fit, chosen.cache)
    trunks = Trunks(Path(chosen.cache) / "trunk", photos, config.photos.size, config.cache.budget_gb)
    try:
        features = table_features(config, photos, order, compute, trunks)
    except UserError as error:
        return [], [], [f"no probes of face, eyes, pets or blur: {error}"]
    table = dataset.train.iloc[order]
    folds = run_folds(chosen.run).folds_of(table[ID])
    columns = {name: table[name].to_numpy(dtype=np.float64) for name in COLUMNS}
    probes, judged = fit_probes(features, columns, folds)
    return probes, judged, []
