"""Evaluation of the tips on drawn pets: a pet can be drawn again with one thing changed, so the true gain of a tip is known.

For each tip, counterfactual pairs are drawn that no run has seen. The coach scores the photo that lacks something. The gain that it
promises is compared with the gain by the rule of the drawn score, and with the gain by the networks' scores. Crops are tried on
plain photos: a crop is worth nothing in the rule, so the promised gain is the networks' error.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from pawpularity.coach.crop import MIN_GAIN
from pawpularity.coach.tips import ADVISED, NOT_WORTH, PERHAPS, TRAITS, Trait, change, tips_for
from pawpularity.coach.upload import Upload
from pawpularity.console import log, table, track
from pawpularity.explain.estimates import estimates
from pawpularity.files import plain
from pawpularity.sample.render import render
from pawpularity.sample.spec import Photo, counterfactual_pair, expected_score

if TYPE_CHECKING:
    from pawpularity.coach.coach import Coach

PAIRS = 24
CROPS = 8  # photos whose crops are searched, a hundred scores each
SEED = 1_000_003  # of a separate sample: no training table has these pets
_TRIED = ("contrast", "face", "eyes", "pets", "blur")
_NOTICED = (ADVISED, PERHAPS, NOT_WORTH)


def evaluate_tips(coach: "Coach") -> list[dict[str, Any]]:
    """Evaluate every tip, and crops, on drawn pairs of the size of the sample's photos: rows as in `_result`. Logs a table."""
    with Image.open(coach.dataset.paths[0]) as image:
        size = max(image.size)
    traits = [trait for trait in TRAITS if trait.key in _TRIED]
    results = [_try(coach, trait, size) for trait in track(traits, "evaluating tips", unit="tips")]
    plain = (counterfactual_pair(SEED, "pose", pair)[1] for pair in range(min(PAIRS, CROPS)))
    gains = [coach.search_crop(_upload(photo, size)).gain for photo in plain]
    worth = [gain >= MIN_GAIN for gain in gains]
    results.append(_result("crop", worth, worth, [(gain, 0.0, gain) for gain in gains if gain >= MIN_GAIN]))
    shown = ("tip", "pairs", "noticed", "false_alarms", "promised", "true_gain", "network_gain")
    rows = [[f"{row[name]:.2f}" if isinstance(row[name], float) else row[name] for name in shown] for row in results]
    log(table([name.replace("_", " ") for name in shown], rows))
    return results


def pair_for(key: str, pair: int) -> tuple[Photo, Photo]:
    """(a photo that lacks what the tip advises, the same pet with the tip followed)."""
    if key in ("contrast", "eyes"):
        has, lacks = counterfactual_pair(SEED, key, pair)
        return lacks, has
    if key == "pets":
        return counterfactual_pair(SEED, "pets", pair)
    plain = counterfactual_pair(SEED, "pose", pair)[1]
    if key == "blur":
        return replace(plain, blur=True), plain
    # A face that is turned away hides the eyes and the tongue too; a face turned to the camera shows all of them.
    return replace(plain, face=False, eyes="turned away", tongue=False), replace(plain, eyes="open")


def _try(coach: "Coach", trait: Trait, size: int) -> dict[str, Any]:
    """The result of one tip."""
    noticed, alarms, gains = [], [], []
    for pair in range(PAIRS):
        photos = pair_for(trait.key, pair)
        uploads = [_upload(photo, size) for photo in photos]
        before, after = (coach.measure(upload) for upload in uploads)
        tip, alarm = (
            next(tip for tip in tips_for(one, coach.learned) if tip.key == trait.key) for one in (before, after)
        )
        noticed.append(tip.kind in _NOTICED)
        alarms.append(alarm.kind in _NOTICED)
        promised = tip.gain
        if trait.unit and promised is not None:
            # The promise of a number depends on the step: use the step between the two photos.
            promised = change(coach.learned.evidence[trait.column], before[trait.column], after[trait.column])[0]
        if noticed[-1] and promised is not None and np.isfinite(promised):
            lacks, has = (float(coach.scores(coach.pixels(upload))[0]) for upload in uploads)
            true = expected_score(np.array([photo.mean_unclipped() for photo in photos]))
            gains.append((promised, float(true[1] - true[0]), has - lacks))
    return _result(trait.key, noticed, alarms, gains)


def _result(
    tip: str, noticed: Sequence[bool], alarms: Sequence[bool], gains: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """One tip over its pairs.

    `noticed`: share of the photos lacking the trait on which the coach says so. `false_alarms`: the same share of the photos having
    it. Gains are in score points, means over the noticed pairs with 95 % intervals (None without such pairs): `promised`;
    `true_gain`, by the rule; `network_gain`, by the networks' scores.
    """
    row = {
        "tip": tip,
        "pairs": len(noticed),
        "noticed": float(np.mean(noticed)),
        "false_alarms": float(np.mean(alarms)),
    }
    promised, true, network = estimates(np.array(gains, dtype=float).reshape(-1, 3))
    ends = {"promised": promised.mean, "true_gain": true.mean, "true_low": true.low, "true_high": true.high,
            "network_gain": network.mean, "network_low": network.low, "network_high": network.high}  # fmt: skip
    return plain(row | ends)


def _upload(photo: Photo, size: int) -> Upload:
    picture, _ = render(photo, size)
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return Upload.of(data.tobytes())
