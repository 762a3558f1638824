"""Do tips keep their promises? On a drawn shelter every pet can be drawn again with one thing changed, and the true gain is known.

For every tip that the rule of the drawn score pays for, twins are drawn that no run has seen: the coach looks at the one that
lacks something, and what it promises stands beside what the rule pays and what the networks' own score does. Crops are tried on
plain photos: the rule pays nothing for a crop, so whatever the networks promise there is their own error, flattered by choosing
the best of many.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from pawpularity.coach.prepared import Prepared
from pawpularity.coach.tips import ADVISED, LOOKED_AT, NOT_WORTH, PERHAPS, Level, move
from pawpularity.coach.upload import Upload
from pawpularity.data.photo_facts import displayed_size
from pawpularity.evaluation.bootstrap import bootstrap_sums, interval
from pawpularity.evaluation.effects import CONTRAST
from pawpularity.sample.render import render
from pawpularity.sample.spec import Photo, expected_score, twins

if TYPE_CHECKING:
    from pawpularity.coach.coach import Coach

PAIRS = 24
CROPS = 8  # photos whose crops are searched, a hundred scores each
CROP = "crop"
SEED = 1_000_003  # a shelter of its own: these pets are in nobody's training table
_QUALITY = 90  # JPEG's, as the shelter's own photos have
_TRIED = ("contrast", "face", "eyes", "pets", "blur")
_NOTICED = (ADVISED, PERHAPS, NOT_WORTH)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Promise:
    """One tip over all its pairs of twins; gains in score points, means over the pairs in which it was noticed."""

    tip: str
    pairs: int
    noticed: float
    """share of photos lacking it on which the coach says so"""
    false_alarms: float
    """share of photos having it on which the coach says that they lack it"""
    promised: float | None
    true_gain: float | None
    true_low: float | None
    true_high: float | None
    network_gain: float | None
    """what the networks' own score does when the tip is followed"""
    network_low: float | None
    network_high: float | None

    @property
    def words(self) -> str:
        """One line."""
        if self.tip == CROP and self.promised is not None:
            return (
                f"crop: proposed on {100 * self.noticed:.0f} % of {self.pairs} drawn photos, where the networks promise "
                f"{self.promised:+.1f}; the rule pays nothing for a crop, so all of it is their error"
            )
        if self.promised is None and self.tip == CROP:
            return f"crop: proposed on none of {self.pairs} drawn photos, and the rule pays nothing for one"
        if self.promised is None:
            return f"{self.tip}: not noticed on any of {self.pairs} drawn photos that lack it"
        return (
            f"{self.tip}: noticed on {100 * self.noticed:.0f} % of {self.pairs} drawn photos that lack it (false alarms "
            f"{100 * self.false_alarms:.0f} %); promised {self.promised:+.1f}, truly {self.true_gain:+.1f} [{self.true_low:+.1f}, "
            f"{self.true_high:+.1f}], by the networks' own score {self.network_gain:+.1f} [{self.network_low:+.1f}, "
            f"{self.network_high:+.1f}]"
        )


def keep_promises(coach: "Coach") -> Prepared:
    """`coach.prepared` with the table of promises."""
    width, height = displayed_size(coach.chosen.dataset.photo_paths()[0])
    size = max(width, height)
    rows = [_tried(coach, key, PAIRS, size) for key in _TRIED]
    rows.append(_cropped(coach, min(PAIRS, CROPS), size))
    return replace(coach.prepared, promises=[asdict(row) | {"words": row.words} for row in rows])


def pair_for(key: str, pair: int) -> tuple[Photo, Photo]:
    """(the photo that lacks what the tip asks for, the same pet with the tip followed)."""
    if key in ("contrast", "eyes"):
        has, lacks = twins(SEED, key, pair)
        return lacks, has
    if key == "pets":
        return twins(SEED, "pets", pair)
    plain = twins(SEED, "pose", pair)[1]
    if key == "blur":
        return replace(plain, blur=True), plain
    # A face that is turned away hides the eyes and the tongue with it: turning it to the camera shows all of them.
    return replace(plain, face=False, eyes="turned away", tongue=False), replace(plain, eyes="open")


def _tried(coach: "Coach", key: str, pairs: int, size: int) -> Promise:
    looked = next(one for one in LOOKED_AT if one.key == key)
    row = next((row for row in coach.prepared.evidence if row.column == looked.column), None)
    noticed, alarms, promised, true, network = [], [], [], [], []
    for pair in range(pairs):
        lacks, has = pair_for(key, pair)
        uploads = [_upload(photo, size) for photo in (lacks, has)]
        seen = [coach.seen(upload) for upload in uploads]
        tips = [next(tip for tip in coach.tips_of(one) if tip.key == key) for one in seen]
        noticed.append(tips[0].kind in _NOTICED)
        alarms.append(tips[1].kind in _NOTICED)
        gain = tips[0].gain
        if isinstance(looked, Level) and row is not None:
            # A level's promise is so much a step: what was truly done to this photo is measured on both.
            before, after = ((one.contrast if looked.column == CONTRAST else one.share) for one in seen)
            gain = move(row, before, after)[0] if np.isfinite(after - before) else None
        if not noticed[-1] or gain is None:
            continue
        scores = [coach.score(upload).score for upload in uploads]
        promised.append(gain)
        true.append(_expected(has) - _expected(lacks))
        network.append(scores[1] - scores[0])
    return _promise(key, pairs, float(np.mean(noticed)), float(np.mean(alarms)), promised, true, network)


def _cropped(coach: "Coach", pairs: int, size: int) -> Promise:
    """Crops of plain photos of one pet and no clutter, of which the rule pays for none."""
    crops = [coach.crop(_upload(twins(SEED, "pose", pair)[1], size)) for pair in range(pairs)]
    gains = [crop.gain for crop in crops if crop.worth]
    share = len(gains) / pairs
    return _promise(CROP, pairs, share, share, gains, [0.0] * len(gains), gains)


def _promise(
    tip: str,
    pairs: int,
    noticed: float,
    alarms: float,
    promised: Sequence[float],
    true: Sequence[float],
    network: Sequence[float],
) -> Promise:
    if not promised:
        return Promise(tip, pairs, noticed, alarms, *(None,) * 7)
    return Promise(tip, pairs, noticed, alarms, float(np.mean(promised)), *_mean(true), *_mean(network))


def _mean(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high), 95 % by bootstrap over pairs: every pair is another pet."""
    own = np.asarray(values, dtype=np.float64)
    sums = bootstrap_sums(np.column_stack([np.ones_like(own), own]), draws=2000)
    return float(own.mean()), *interval(sums[:, 1] / sums[:, 0])


def _expected(photo: Photo) -> float:
    return float(expected_score(np.array([photo.mean_unclipped()]))[0])


def _upload(photo: Photo, size: int) -> Upload:
    picture, _ = render(photo, size)
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise RuntimeError("a drawn twin could not be encoded")
    return Upload.of(data.tobytes())
