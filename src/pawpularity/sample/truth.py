"""What is known about a sample shelter without drawing it: every photo's points, its noise floor, and how to read truth/.

`pawpularity sample --photos 600 --size 160 --seed 0 --twins 5` writes it down. `plan` samples the table of a shelter of
any size in a moment; the rule of the score itself is in `spec`.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pawpularity.sample.render import LABELS
from pawpularity.sample.spec import (
    BASE,
    CLUTTER,
    CONTRAST,
    CONTRAST_SPAN,
    DULLEST,
    EYES,
    FAINTEST,
    NOISE_SD,
    PETS,
    POSE,
    SPIKE,
    TONGUE,
    TRAIN,
    VIVID,
    Photo,
    describe,
    expected_score,
    noise,
    score_variance,
    scored,
    source_of,
)

FLOOR_DRAWS = 200  # of the noise, per photo: the floor's standard error is then about 0.02 at 600 photos


@dataclass(frozen=True, slots=True)
class Entry:
    """One posted photo: what it shows, what it scores, and the Id of the earlier posting it repeats ("" if none)."""

    id: str
    split: int
    index: int
    photo: Photo
    mean: float
    expected: float
    score: int
    duplicate_of: str


def photo_id(seed: int, *address: object) -> str:
    """32 hex digits, as the contest's Ids, which tell nothing of the order or of what the photo shows."""
    return hashlib.blake2b("/".join(map(str, (seed, *address))).encode(), digest_size=16).hexdigest()


def plan(photos: int, seed: int, split: int = TRAIN) -> list[Entry]:
    """All photos of TRAIN or TEST, described and scored but not drawn (about 30 microseconds each), in order of index."""
    sources = [source_of(seed, i) if split == TRAIN else None for i in range(photos)]
    shown = [describe(seed, split, i if source is None else source) for i, source in enumerate(sources)]
    mean = np.array([photo.mean_unclipped() for photo in shown])
    latent = mean + np.array([noise(seed, split, i) for i in range(photos)])
    expected, scores = expected_score(mean), scored(latent)
    return [
        Entry(
            id=photo_id(seed, split, i),
            split=split,
            index=i,
            photo=shown[i],
            mean=float(mean[i]),
            expected=float(expected[i]),
            score=int(scores[i]),
            duplicate_of="" if source is None else photo_id(seed, split, source),
        )
        for i, source in enumerate(sources)
    ]


def floor(entries: Sequence[Entry], seed: int) -> dict[str, float | int]:
    """The noise floor of these photos and what surrounds it: the content of truth/floor.json.

    `floor` is the RMSE of the true conditional mean over FLOOR_DRAWS fresh draws of the noise per photo.
    """
    mean = np.array([entry.mean for entry in entries])
    expected = np.array([entry.expected for entry in entries])
    score = np.array([entry.score for entry in entries], float)
    rng = np.random.default_rng([seed, len(entries)])
    total = square = 0.0
    for _ in range(FLOOR_DRAWS):
        error = (scored(mean + NOISE_SD * rng.standard_normal(len(mean))) - expected) ** 2
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
        "floor_closed_form": math.sqrt(float(score_variance(mean).mean())),
        "floor_on_these_scores": math.sqrt(float(((score - expected) ** 2).mean())),
        "constant_rmse": float(score.std()),
        "score_mean": float(score.mean()),
        "score_sd": float(score.std(ddof=1)) if len(score) > 1 else 0.0,
        "score_median": float(np.median(score)),
        "share_of_100": float((score == 100).mean()),
        "signal_sd": float(expected.std()),
        "noise_sd_before_clipping": NOISE_SD,
        "duplicate_pairs": sum(bool(entry.duplicate_of) for entry in entries),
    }


def truth_row(entry: Entry) -> dict[str, object]:
    """A row of truth/parts.csv."""
    return {
        "Id": entry.id,
        "split": "train" if entry.split == TRAIN else "test",
        **entry.photo.kinds(),
        **{part: f"{points:.4f}" for part, points in entry.photo.points().items()},
        "base": f"{BASE:.4f}",
        "mean_unclipped": f"{entry.mean:.4f}",
        "expected": f"{entry.expected:.4f}",
        "score": entry.score,
        "duplicate_of": entry.duplicate_of,
    }


def readme(summary: dict[str, float | int]) -> str:
    """truth/README.md: the rule and the label maps' numbers, from the very constants the drawing used."""
    numbers = "\n".join(f"| {number} | {meaning} |" for number, meaning in LABELS.items())
    return f"""# The truth about these photos

They are drawn, not taken. The score follows this rule:

| part | points |
|---|---|
| base | {BASE:g} |
| tongue | {TONGUE:+g} if it is out |
| eyes | {EYES:+g} if both are visible (one or none: 0) |
| contrast | {CONTRAST:+g} c, where pet and background differ by {FAINTEST:g} + {CONTRAST_SPAN:g} c levels of luma, 0 <= c <= 1 |
| clutter | {CLUTTER:+g} per object, 0 to 4 of them |
| pose | {POSE:+g} if it is odd (leaping, on its side, on its back) |
| pets | {PETS:+g} if there is a second one |
| accessory | 0 |

The contrast is that of the whole pet's usual colour and the background's mean; the background also grows more vivid with it
(its colours' saturation is scaled by {DULLEST:g} + {VIVID - DULLEST:g} sqrt c).

The points add up to `mean_unclipped`. Normal noise of sd {NOISE_SD:g} is added, the same for every photo; {SPIKE:g} and above
becomes 100; the rest is rounded and clipped to 1..99. `expected` is the exact mean of the score, given the photo.
No model can beat the noise floor, RMSE {summary["floor"]:.3f} here
(a constant gives {summary["constant_rmse"]:.3f}): see floor.json, whose `floor` is drawn
{FLOOR_DRAWS} times per photo of train.csv and given with its standard error.

- `parts.csv`: per photo what was drawn (`*_kind`, ...), the points of each part, `mean_unclipped`, `expected`, `score`
  (of the test photos too), and `duplicate_of`, the Id of the earlier posting of the same photo.
- `duplicates.csv`: those pairs. A second posting is recompressed, slightly smaller, cropped and brighter or darker;
  its score has its own noise.
- `labels/ID.png`: where the parts are, at the photo's size:

| number | part |
|---|---|
{numbers}

`../twins/twins.csv`, if it was asked for: pairs of photos with and without one part; `effect` is the exact difference of
`mean_unclipped`, `effect_expected` of `expected`.
"""
