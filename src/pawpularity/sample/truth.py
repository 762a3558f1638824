"""The truth about a drawn sample: every photo's points and score, and the noise floor. Nothing is drawn here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pawpularity.sample import spec
from pawpularity.sample.spec import TRAIN, Photo, expected_score, photo_id, scored

FLOOR_DRAWS = 200  # draws of the noise per photo: with 600 photos the floor's standard error is about 0.02


@dataclass(frozen=True)
class Entry:
    """One posted photo: what it shows, its score, and the Id of the earlier posting it repeats ("" if none)."""

    id: str
    split: int
    index: int
    photo: Photo
    mean: float
    expected: float
    score: int
    duplicate_of: str


def plan(photos: int, seed: int, split: int = TRAIN) -> list[Entry]:
    """All photos of TRAIN or TEST, described and scored (about 30 microseconds each), in order of index."""
    sources = [spec.source_of(seed, i) if split == TRAIN else None for i in range(photos)]
    shown = [spec.describe(seed, split, i if source is None else source) for i, source in enumerate(sources)]
    mean = np.array([photo.mean_unclipped() for photo in shown])
    scores = scored(mean + np.array([spec.noise(seed, split, i) for i in range(photos)]))
    expected = expected_score(mean)
    entries = []
    for i, source in enumerate(sources):
        first = "" if source is None else photo_id(seed, split, source)
        about = (float(mean[i]), float(expected[i]), int(scores[i]), first)
        entries.append(Entry(photo_id(seed, split, i), split, i, shown[i], *about))
    return entries


def floor(entries: Sequence[Entry], seed: int) -> dict[str, float | int]:
    """The noise floor of these photos with related figures: the content of truth/floor.json.

    `floor` is the RMSE of the true conditional mean over FLOOR_DRAWS new draws of the noise per photo.
    """
    mean, expected, score = (
        np.array([getattr(entry, name) for entry in entries], float) for name in ("mean", "expected", "score")
    )
    rng = np.random.default_rng([seed, len(entries)])
    total = square = 0.0
    for _ in range(FLOOR_DRAWS):
        error = (scored(mean + spec.NOISE_SD * rng.standard_normal(len(mean))) - expected) ** 2
        total += float(error.sum())
        square += float((error**2).sum())
    count = FLOOR_DRAWS * len(mean)
    rmse = math.sqrt(total / count)
    spread = math.sqrt(max(square / count - (total / count) ** 2, 0.0) / count)
    return {
        "photos": len(entries),
        "floor": rmse,
        "floor_standard_error": spread / (2.0 * rmse),
        "draws_per_photo": FLOOR_DRAWS,
        "floor_closed_form": math.sqrt(float(spec.score_variance(mean).mean())),
        "floor_on_these_scores": math.sqrt(float(((score - expected) ** 2).mean())),
        "constant_rmse": float(score.std()),
        "score_mean": float(score.mean()),
        "score_sd": float(score.std(ddof=1)) if len(score) > 1 else 0.0,
        "score_median": float(np.median(score)),
        "share_of_100": float((score == 100).mean()),
        "signal_sd": float(expected.std()),
        "noise_sd_before_clipping": spec.NOISE_SD,
        "duplicate_pairs": sum(bool(entry.duplicate_of) for entry in entries),
    }


def truth_row(entry: Entry) -> dict[str, object]:
    """A row of truth/parts.csv: what was drawn, in words, and its points."""
    photo = entry.photo
    points = {**photo.points(), "base": spec.BASE, "mean_unclipped": entry.mean, "expected": entry.expected}
    return {
        "Id": entry.id,
        "split": "train" if entry.split == TRAIN else "test",
        "species": photo.species,
        "coat": str(photo.coat),
        "scene": photo.scene,
        "tongue_kind": "out" if photo.tongue else "in",
        "eyes_kind": photo.eyes,
        "contrast_c": f"{photo.contrast:.6f}",
        "clutter_count": str(photo.clutter),
        "pose_kind": photo.pose,
        "pets_count": "2" if photo.second else "1",
        "accessory_kind": photo.accessory or "none",
        "occlusion_kind": photo.occlusion or "none",
        **{name: f"{value:.4f}" for name, value in points.items()},
        "score": entry.score,
        "duplicate_of": entry.duplicate_of,
    }
