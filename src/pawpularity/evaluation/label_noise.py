"""How noisy the labels are, and so how much of them any predictor could explain.

Some pets were posted twice. Photos that look the same cannot be told apart by looking, yet were scored separately: half
the mean squared difference within such pairs is the variance of a score's noise, and no predictor that sees photos alone
can be expected to have a lower RMSE than its root. On a drawn shelter the noise is known, and needs no pairs.

    noise = noise_for(source, origin)                  # None where nothing is known
    r2, sd = bootstrap_r2(target, prediction, groups)  # paired draws
    found = explainable(score.r2, noise, score.sd, r2, sd)
    found.ceiling, found.share                         # the best possible R2, and how much of it was reached
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, ndtri

from pawpularity.evaluation.bootstrap import DRAWS, bootstrap_sums, group_sums, interval
from pawpularity.evaluation.origin import CONTEST_KIND, DRAWN_KIND, Origin
from pawpularity.evaluation.sources import Source
from pawpularity.files import plain

FEWEST_PAIRS = 8  # below these, an estimate from a data set's own pairs is too uncertain to be preferred
FEWEST_GROUPS = 8  # below these, the spread between groups says nothing of how sure their mean is

Floats = NDArray[np.float64]
Groups = NDArray[np.int64]


@dataclass(frozen=True)
class LabelNoise:
    """Standard deviation of a score around what its photo is worth, in points, with its 95 % interval."""

    sd: float
    low: float
    high: float
    pairs: int
    """independent pairs behind it (a group of m counts m - 1); 0 = known exactly, without an interval"""
    how: str

    @property
    def exact(self) -> bool:
        """Whether it is known rather than estimated."""
        return self.pairs == 0

    def draws(self, count: int = DRAWS, *, seed: int = 0) -> Floats:
        """`count` values of the sd as likely as its interval says: 2.5 % fall below `low` and 2.5 % above `high`.

        Two halves of a normal distribution, since published intervals come without their draws. (count,), 0 or more.
        """
        z = np.random.default_rng([seed, 0x4015E]).standard_normal(count)
        arm = np.where(z < 0, self.sd - self.low, self.high - self.sd) / ndtri(0.975)
        values: Floats = np.maximum(self.sd + arm * z, 0.0)
        return values

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.sd:.2f}" if self.exact else f"{self.sd:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True)
class Explainable:
    """How much of the scores' variance a perfect predictor would explain, and how much of that was explained.

    `ceiling` is that predictor's R2; its interval carries the noise's alone. `share` is R2 / ceiling; its interval carries
    the noise's and the rows' (None without draws of R2, or where the ceiling is not above 0; an end that lies where the
    ceiling may be 0 is infinite).
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


# What makes the published figure a lower bound rather than the truth, for whoever prints it.
CONTEST_SELECTION = (
    "pairs were chosen because the photos look the same; the sd of their own scores is 14.3 and only six pairs lie above 40, so "
    "popular photos are likely noisier than this"
)
OTHER_CONTEST_LIST = LabelNoise(11.7, 9.0, 14.1, 32, "published: another list of 32 pairs of the contest's photos")


def contest_noise() -> LabelNoise:
    """The noise of the contest's labels where no pairs are at hand.

    37 pairs listed in public code (perceptual hashes; IamGianluca/petfinder-pawpularity-score,
    pipe/remove_duplicate_images.py) differ by 15.16 points rms, so sd 15.16 / sqrt 2; percentile bootstrap, so a little too
    short at its upper end. No trend of the difference with the score is seen (Spearman .13, p .47), but
    `CONTEST_SELECTION`; `OTHER_CONTEST_LIST` is a second estimate.
    """
    return LabelNoise(10.7, 8.2, 13.1, 37, "published: 37 pairs of the contest's photos (perceptual hashes)")


def noise_of_pairs(target: ArrayLike, groups: Groups, *, draws: int = DRAWS, seed: int = 0) -> LabelNoise | None:
    """The noise from the scores `target` (n,) of near-duplicates, which share a number in `groups` (n,).

    Pooled variance within groups, m - 1 degrees for a group of m: for pairs the rms difference / sqrt 2. None where fewer
    than two groups have two rows or more. The interval draws whole groups with replacement.
    """
    scores = np.asarray(target, dtype=np.float64)
    centred = scores - scores.mean()
    count, total, squares = group_sums(np.stack([np.ones_like(centred), centred, centred**2], axis=1), groups).T
    several = count > 1
    if several.sum() < 2:
        return None
    within = np.maximum(squares - total**2 / count, 0.0)[several]
    degrees = count[several] - 1
    low, high = _sd_interval(within, degrees, draws, seed)
    pairs = int(degrees.sum())
    how = f"{pairs} pairs of near-duplicates among these rows"
    return LabelNoise(float(np.sqrt(within.sum() / pairs)), low, high, pairs, how)


def _sd_interval(within: Floats, degrees: Floats, draws: int, seed: int) -> tuple[float, float]:
    """95 % interval of the sd from each group's sum of squares and degrees, both (groups,).

    Bootstrap-t on the log of the variance. The percentile interval of so skewed a figure is too short and too low: from
    pairs of a drawn shelter, whose noise is known, it held the truth in 77 % of cases for 8 pairs and 91 % for 37, missing
    almost only on the high side; this one in 90 % and 94 %.

    Of fewer than 8 groups, and of groups all but alike, what normal noise would say. From groups of such a shelter's photos
    it held the truth in 92 % of cases for 3 groups of 4 or two of 9 and 2, 87 % for 3 of 12 and 93 % for 7 pairs. Bootstrap-t
    held it in 83 % for the first, two in five of its intervals wider than all scores, in 42 % for the second, and 91 % for
    7 pairs.
    """
    if len(within) < FEWEST_GROUPS:
        return _of_normal_noise(within, degrees)
    variance = within.sum() / degrees.sum()
    error = np.sqrt(((within - variance * degrees) ** 2).sum()) / within.sum() if variance > 0 else 0.0
    columns = np.stack([within, degrees, within**2, within * degrees, degrees**2], axis=1)
    w, d, ww, wd, dd = bootstrap_sums(columns, draws=draws, seed=seed).T
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = w / d
        errors = np.sqrt(np.maximum(ww - 2 * drawn * wd + drawn**2 * dd, 0.0)) / w
        t = (np.log(drawn) - np.log(variance)) / errors
    # Of groups all alike the error is 0, but for the digits that cancelling loses.
    t = t[np.isfinite(t) & (errors > 1e-6)]
    if error > 1e-9 and len(t) > 0.99 * draws:  # with more left out, those would decide the ends
        with np.errstate(over="ignore"):
            low, high = np.sqrt(variance * np.exp(-error * np.array(interval(t))))[::-1].tolist()
        if np.isfinite(high):
            return low, high
    return _of_normal_noise(within, degrees)


def _of_normal_noise(within: Floats, degrees: Floats) -> tuple[float, float]:
    low, high = (float(np.sqrt(within.sum() / chdtri(degrees.sum(), tail))) for tail in (0.025, 0.975))
    return low, high


def drawn_noise(origin: Origin) -> LabelNoise | None:
    """The exact noise of a drawn shelter: the RMSE of the true conditional mean. None where its folder is not at hand."""
    if origin.kind != DRAWN_KIND or origin.floor is None:
        return None
    return LabelNoise(origin.floor, origin.floor, origin.floor, 0, f"exact: the noise floor of {origin.why}")


def noise_for(source: Source, origin: Origin) -> LabelNoise | None:
    """The best that is known of the noise of these rows' labels.

    A drawn shelter's truth; else the rows' own near-duplicates if there are 8 pairs or more; else, on the contest's data,
    the published figure; else None.
    """
    if (exact := drawn_noise(origin)) is not None:
        return exact
    own = None if source.groups is None else noise_of_pairs(source.target, source.groups)
    # Pairs without any difference say that one's score was copied to the other.
    if own is not None and own.pairs >= FEWEST_PAIRS and own.sd > 0:
        return own
    return contest_noise() if origin.kind == CONTEST_KIND else None


def bootstrap_r2(
    target: Floats, prediction: Floats, groups: Groups | None = None, *, draws: int = DRAWS
) -> tuple[Floats, Floats]:
    """R2 and sd of the rows in `draws` resamples of whole groups, paired: two arrays (draws,). R2 is NaN where sd is 0."""
    centred = target - target.mean()
    columns = np.stack([np.ones(len(target)), centred, centred**2, (target - prediction) ** 2], axis=1)
    sums = bootstrap_sums(columns, groups, draws=draws)
    n, total, squares, errors = sums.T
    variance = np.maximum(squares / n - (total / n) ** 2, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = np.where(variance > 0, 1.0 - errors / n / variance, np.nan)
    return r2, np.sqrt(variance)


def explainable(
    r2: float,
    noise: LabelNoise,
    sd: float,
    r2_draws: ArrayLike | None = None,
    sd_draws: ArrayLike | None = None,
    *,
    seed: int = 0,
) -> Explainable | None:
    """How much of what can be explained `r2` explains, on rows whose true scores have standard deviation `sd`.

    `r2_draws`: R2 of bootstrapped rows, for the share's interval; `sd_draws`: the sd of those same rows (`bootstrap_r2`
    gives both), else `sd` stands for all. None where the rows do not vary.
    """
    if not (sd > 0 and np.isfinite(r2)):
        return None

    def ceiling_at(value: float) -> float:
        return 1.0 - (value / sd) ** 2

    ceiling = ceiling_at(noise.sd)
    share = low = high = None
    if ceiling > 0:
        share = r2 / ceiling
        if r2_draws is not None:
            low, high = _share_interval(
                np.asarray(r2_draws, dtype=np.float64), noise, sd if sd_draws is None else sd_draws, seed
            )
    return Explainable(noise, ceiling, ceiling_at(noise.high), ceiling_at(noise.low), share, low, high)


def _share_interval(r2: Floats, noise: LabelNoise, sd: ArrayLike, seed: int) -> tuple[float, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        ceiling = 1.0 - (noise.draws(len(r2), seed=seed) / np.asarray(sd, dtype=np.float64)) ** 2
        # Where the noise may be all there is, whatever was explained is infinitely much of what can be.
        shares = np.where(ceiling > 0, r2 / ceiling, np.sign(r2) * np.inf)
    shares = np.sort(shares[~np.isnan(shares)])
    if len(shares) == 0:
        return float("nan"), float("nan")
    # Whole order statistics: between a number and infinity there is nothing to interpolate.
    last = len(shares) - 1
    return float(shares[int(np.floor(0.025 * last))]), float(shares[int(np.ceil(0.975 * last))])
