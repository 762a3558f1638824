"""Is a figure too good to be true? Signs of leakage that need nothing but the predictions and where the rows come from.

On the contest's data: the lower end of R2's 95 % interval above 0.36. The best of 3,538 teams had about 0.33 with everything
allowed; an honest blend is falsely accused in 1 % of draws of 20 rows and in none of 400 of 992 rows. A second, stronger
sign is an RMSE whose upper end lies below the labels' own noise (10.7, from photos posted twice).

On a drawn shelter the truth is at hand: an RMSE whose upper end lies below the noise floor, and, far more sensitive,
predictions that know the NOISE of the score they predict. The noise of a score is in no photo; only a network that was
shown this very score (by a copy of the photo in its training set) can know it.

On other data nothing is known, and below 20 rows luck alone does anything (an interval of three honest rows lies below the
labels' noise in one case of five): no alarm is given.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.evaluation.bootstrap import bootstrap_sums, interval
from pawpularity.evaluation.metrics import Score
from pawpularity.evaluation.origin import CONTEST_KIND, DRAWN_KIND, Origin
from pawpularity.evaluation.sources import Source

R2_BAR = 0.36
WINNER_R2 = 0.33
NOISE_BAR = 10.7  # points; 95 % 8.2-13.1, from 37 pairs
FEWEST_ROWS = 20
KNOWS_NOISE_BAR = 0.05  # points of prediction per point of noise: a margin for sampling, not for guilt


@dataclass(frozen=True)
class Sign:
    """One sign that was looked for."""

    name: str
    raised: bool
    text: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def leak_signs(source: Source, result: Score, origin: Origin) -> list[Sign]:
    """Every sign that can be looked for in `source`, raised or not; none on data of unknown kind or too few rows."""
    signs: list[Sign] = []
    if source.run is not None and source.run.leaky:
        signs.append(Sign("leaky by design", True, "train.split=leaky: copies of the scored photos were trained on"))
    if result.n < FEWEST_ROWS:
        return signs
    if np.ptp(source.target) > 0 and np.array_equal(source.target, source.prediction):
        signs.append(Sign("exact answers", True, "every prediction is the score itself"))
    if origin.kind == CONTEST_KIND:
        if not np.isfinite(result.r2):
            return signs  # the scores do not vary: not what any contest's rows are like
        return [
            *signs,
            Sign("R2", bool(result.r2_low > R2_BAR),
                 f"R2 {result.r2:.3f}, 95 % [{result.r2_low:.3f}, {result.r2_high:.3f}]; alarm when the lower end is above "
                 f"{R2_BAR} (the contest's winner: {WINNER_R2})"),
            Sign("label noise", bool(result.high < NOISE_BAR),
                 f"RMSE {result.rmse:.3f}, upper end {result.high:.2f}; alarm below {NOISE_BAR}, the noise of scores of photos "
                 "posted twice"),
        ]  # fmt: skip
    if origin.kind != DRAWN_KIND:
        return signs
    floor, whose = origin.floor, "this shelter's noise floor"
    if origin.expected is not None:
        # Of these very rows: their noise may by luck be small, and a perfect predictor would share that luck.
        floor, whose = float(np.sqrt(np.mean((source.target - origin.expected) ** 2))), "the noise of these very scores"
    if floor is not None:
        signs.append(
            Sign("noise floor", bool(result.high < floor),
                 f"RMSE {result.rmse:.3f}, upper end {result.high:.2f}; alarm below {floor:.2f}, {whose}")
        )  # fmt: skip
    if origin.expected is not None:
        slope, low, high = known_noise(source, origin.expected)
        signs.append(
            Sign("knows the noise", bool(low > KNOWS_NOISE_BAR),
                 f"predictions move by {slope:+.3f} points for each point of a score's noise, 99 % [{low:+.3f}, {high:+.3f}], "
                 f"which no photo shows; alarm when the lower end is above {KNOWS_NOISE_BAR}")
        )  # fmt: skip
    return signs


def known_noise(
    source: Source, expected: NDArray[np.float64], *, draws: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Points by which predictions move for each point of their score's noise, with its 99 % interval.

    The noise is target - E[target | photo], (n,). What of a prediction the true mean explains is taken out first, by a
    line; that only narrows the interval, as the noise has nothing to do with the mean.
    """
    noise = source.target - expected
    design = np.stack([np.ones_like(expected), expected], axis=1)
    rest = source.prediction - design @ np.linalg.lstsq(design, source.prediction, rcond=None)[0]
    sums = bootstrap_sums(np.stack([rest * noise, noise * noise], axis=1), source.groups, draws=draws, seed=seed)
    low, high = interval(sums[:, 0] / sums[:, 1], 0.99)
    return float((rest @ noise) / (noise @ noise)), low, high
