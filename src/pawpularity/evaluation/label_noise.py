"""How noisy the labels are, and how much of their variance any predictor could explain.

Some pets were posted twice. Photos that look the same were scored separately: half the mean squared difference within such
pairs is the variance of a score's noise. No predictor that sees photos alone can be expected to have a lower RMSE than its
root. On a drawn sample the noise is known.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pawpularity.evaluation.bootstrap import DRAWS, Floats, group_sums
from pawpularity.evaluation.leak_detection import CONTEST_KIND, Origin
from pawpularity.evaluation.predictions import Predictions
from pawpularity.files import plain

FEWEST_PAIRS = 8  # with fewer, the rows' own pairs are not preferred to a published figure


@dataclass(frozen=True)
class LabelNoise:
    """Standard deviation of a score around the expected score of its photo, in points, with its 95 % interval."""

    sd: float
    low: float
    high: float
    pairs: int
    """independent pairs behind it (a group of m counts m - 1); 0 = known exactly, without an interval"""
    how: str

    def draws(self, count: int = DRAWS, *, seed: int = 0) -> Floats:
        """`count` random values of the sd that fit its interval, (count,): two half-normal distributions, cut at 0."""
        z = np.random.default_rng([seed, 0x4015E]).standard_normal(count)
        arm = np.where(z < 0, self.sd - self.low, self.high - self.sd) / 1.959963984540054
        return np.maximum(self.sd + arm * z, 0.0)


# 37 pairs listed in public code (IamGianluca/petfinder-pawpularity-score, pipe/remove_duplicate_images.py) differ by 15.16
# points rms, so sd 15.16 / sqrt 2; percentile bootstrap. Another list of 32 pairs gives 11.7 [9.0, 14.1]. The sd of these
# photos' own scores is 14.3 and only six pairs lie above 40, so popular photos are likely noisier.
CONTEST_NOISE = LabelNoise(10.7, 8.2, 13.1, 37, "published: 37 pairs of the contest's photos (perceptual hashes)")


def noise_of_pairs(target: ArrayLike, groups: NDArray[np.int64]) -> LabelNoise | None:
    """The noise from the scores `target` (n,) of near-duplicates, which share a number in `groups` (n,); None for too few.

    Pooled variance within groups, m - 1 degrees for a group of m. The interval is the chi-square's, with fewer degrees where
    the groups' variances spread more than normal noise would (Satterthwaite 1946). From 4 pairs on it holds the known noise of
    a drawn sample in 93 to 95 % of cases, that of Laplace noise in 91 %.
    """
    from scipy.special import chdtri

    scores = np.asarray(target, dtype=np.float64)
    centred = scores - scores.mean()
    count, total, squares = group_sums(np.stack([np.ones_like(centred), centred, centred**2], axis=1), groups).T
    several = count > 1
    if several.sum() < 2:
        return None
    within, degrees = np.maximum(squares - total**2 / count, 0.0)[several], count[several] - 1
    pairs = degrees.sum()
    variance = within.sum() / pairs
    spread = ((within - variance * degrees) ** 2).sum()
    effective = min(pairs, 2 * within.sum() ** 2 / spread) if spread > 0 else pairs
    low, high = (float(np.sqrt(variance * effective / chdtri(effective, tail))) for tail in (0.025, 0.975))
    return LabelNoise(
        float(np.sqrt(variance)), low, high, int(pairs), f"{pairs:.0f} pairs of near-duplicates among these rows"
    )


def noise_for(predictions: Predictions, origin: Origin) -> LabelNoise | None:
    """The noise of a drawn sample; else that of 8 or more near-duplicate pairs; else, on contest data, the published figure."""
    if (floor := origin.floor) is not None:
        return LabelNoise(floor, floor, floor, 0, f"exact: the noise floor of {origin.why}")
    measured = None if predictions.groups is None else noise_of_pairs(predictions.target, predictions.groups)
    # An sd of 0 means that the scores of near-duplicates were copied from one another.
    if measured is not None and measured.pairs >= FEWEST_PAIRS and measured.sd > 0:
        return measured
    return CONTEST_NOISE if origin.kind == CONTEST_KIND else None


@dataclass(frozen=True)
class Explainable:
    """How much of the scores' variance a perfect predictor would explain, and how much of that was explained.

    `ceiling` is that predictor's R2; its interval covers the uncertainty of the noise alone. `share` is R2 / ceiling; its interval
    covers that of the noise and of the rows. It is None if the ceiling is not above 0; an end is infinite if the ceiling may be 0.
    """

    noise: LabelNoise
    ceiling: float
    ceiling_low: float
    ceiling_high: float
    share: float | None
    share_low: float | None
    share_high: float | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; an infinite end is null."""
        return plain(asdict(self))


def explainable(r2: float, noise: LabelNoise, sd: float, r2_draws: Floats, sd_draws: Floats) -> Explainable | None:
    """The share of the reachable R2 that `r2` is, on rows whose true scores have the sd `sd`; None where they do not vary.

    `r2_draws`, `sd_draws`: R2 and sd of resampled rows, paired, (draws,).
    """
    if not (sd > 0 and np.isfinite(r2)):
        return None
    ceiling, ceiling_low, ceiling_high = (1.0 - (value / sd) ** 2 for value in (noise.sd, noise.high, noise.low))
    if ceiling <= 0:
        return Explainable(noise, ceiling, ceiling_low, ceiling_high, None, None, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        ceilings = 1.0 - (noise.draws(len(r2_draws)) / sd_draws) ** 2
        # Where the noise alone may explain the variance, the ceiling is 0 and the share infinite.
        shares = np.where(ceilings > 0, r2_draws / ceilings, np.sign(r2_draws) * np.inf)
    # Whole order statistics: between a number and infinity there is nothing to interpolate.
    low, high = np.nanpercentile(shares, 2.5, method="lower"), np.nanpercentile(shares, 97.5, method="higher")
    return Explainable(noise, ceiling, ceiling_low, ceiling_high, r2 / ceiling, float(low), float(high))
