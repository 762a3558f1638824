"""Why an upload may not be a photo of a pet: it is unlike the run's photos.

Unlike means: far away in the features of an ImageNet network, by the Mahalanobis distance of features scaled to length 1, with
Ledoit and Wolf's covariance (2004). Nothing says what such a photo shows.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pawpularity.heads.encoders import Encoder

ENCODER = Encoder("tf_efficientnet_lite0.in1k", 224)
"""its weights are installed with the project"""
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


def _unit(features: Floats) -> Floats:
    found: Floats = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return found
