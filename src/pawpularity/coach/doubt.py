"""Why an upload may not be a photo of a pet: it is nearly one colour, looks like noise, or is unlike the run's photos.

Unlike means: far away in the features that the probes use, by the Mahalanobis distance of features scaled to length 1, with
Ledoit and Wolf's covariance (2004). Nothing says what such a photo shows. A chair can still look like a pet to it.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pawpularity.coach.upload import Upload

_CHECK_SIZE = 96  # pixels a side at which `plain_doubt` checks a photo
_FLAT, _NOISE = 8.0, 0.5
"""Least sd of brightness over the photo, in levels, and least correlation of neighbouring pixels. Of 100 real and 300 drawn photos
none is below 14 and .74; the contest's eight pictures of noise reach .14."""
_AXES = 64  # directions whose own variance counts; the others share one
_ACCEPTED = 0.99  # share of the run's own photos that are not doubted
_SPLITS = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Typical:
    """How the features of the run's photos are spread."""

    mean: list[float] = field(repr=False)
    axes: list[list[float]] = field(repr=False)
    variances: list[float] = field(repr=False)
    """along each of `axes`"""
    rest: float
    """variance along any other direction"""
    limit: float = 0.0
    """the distance beyond which a photo is doubted: that of the farthest 1 % of the run's photos, by the others"""

    @classmethod
    def fit(cls, features: Floats) -> "Typical":
        """Fit pooled features (n, width) of the run's photos."""
        split = np.arange(len(features)) % _SPLITS
        unseen = [cls._spread(features[split != one]).distance(features[split == one]) for one in range(_SPLITS)]
        spread = cls._spread(features)
        limit = float(np.quantile(np.concatenate(unseen), _ACCEPTED))
        return cls(spread.mean, spread.axes, spread.variances, spread.rest, limit)

    @classmethod
    def _spread(cls, features: Floats) -> "Typical":
        from sklearn.covariance import LedoitWolf

        found = LedoitWolf().fit(_unit(features))
        variances, axes = np.linalg.eigh(found.covariance_)
        rest = variances[:-_AXES] if len(variances) > _AXES else variances[:1]
        kept = np.maximum(variances[-_AXES:], 1e-12)
        return cls(found.location_.tolist(), axes.T[-_AXES:].tolist(), kept.tolist(), max(float(rest.mean()), 1e-12))

    def distance(self, features: Floats) -> Floats:
        """(n,) distances of pooled features (n, width)."""
        apart = _unit(features) - np.array(self.mean)
        along = apart @ np.array(self.axes).T
        beside = np.maximum((apart**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
        return np.asarray(np.sqrt((along**2 / np.array(self.variances)).sum(axis=1) + beside / self.rest))

    def doubt(self, features: Floats) -> str:
        """Why one photo with pooled features (1, width) is doubted; "" if it is not."""
        if float(self.distance(features)[0]) <= self.limit:
            return ""
        return "it is unlike the photos that the run learned from: it may show no pet, and its score would mean nothing"


def plain_doubt(upload: Upload) -> str:
    """Why the pixels alone speak against an upload; "" if they do not. Raises PhotoError."""
    levels = upload.pixels(_CHECK_SIZE, "squash").mean(axis=2)
    if float(levels.std()) < _FLAT:
        return "it is nearly one colour: it shows no pet, and its score would mean nothing"
    neighbours = [np.corrcoef(levels[:, 1:].ravel(), levels[:, :-1].ravel())[0, 1],
                  np.corrcoef(levels[1:].ravel(), levels[:-1].ravel())[0, 1]]  # fmt: skip
    noisy = bool(np.nanmean(neighbours) < _NOISE)
    return "it looks like noise: it shows no pet, and its score would mean nothing" if noisy else ""


def _unit(features: Floats) -> Floats:
    found: Floats = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return found
