"""What a photo shows, told by probes: a ridge on the pooled features of the run's backbone as it was before training.

A probe is fitted on one of the table's own 0/1 columns (Face, Eyes, Group, Blur) and judged out of fold by its AUC: how often a
photo that has it is ranked above one that has not. Those below .7 say too little to advise anybody. The features come from the
weights that training started with, which never saw a score, so every out-of-fold figure is an honest one; random weights make
poor probes, and are left out by the same rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pawpularity.config import Config
from pawpularity.data.photo_cache import Photos
from pawpularity.data.photos import Pixels
from pawpularity.device import Compute
from pawpularity.features.build import FeatureCache
from pawpularity.heads.features import frozen_features, frozen_network
from pawpularity.heads.fit import fit_ridge, out_of_fold

COLUMNS = ("Face", "Eyes", "Group", "Blur")
LEAST_AUC = 0.7
FEWEST = 20
"""Photos of either kind below which no probe is fitted."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """How well a probe tells its column, out of fold."""

    column: str
    n_with: int
    n_without: int
    auc: float | None
    """None: too few photos of either kind"""

    @property
    def usable(self) -> bool:
        """Whether advice may rest on it."""
        return self.auc is not None and self.auc >= LEAST_AUC

    @property
    def words(self) -> str:
        """One line."""
        if self.auc is None:
            return f"no probe: {self.n_with} photos with it and {self.n_without} without; {FEWEST} of either are needed"
        return f"a probe that tells it with AUC {self.auc:.2f}{'' if self.usable else f', below {LEAST_AUC:g}'}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Probe:
    """One column's probe: the logit of having it is `slope * (intercept + (x - mean) @ weights) + offset`."""

    judged: Judged
    mean: Floats
    weights: Floats
    intercept: float
    slope: float
    offset: float

    def __call__(self, features: Floats) -> Floats:
        """(n,) chance that photos with pooled features (n, width) have it."""
        raw = self.intercept + (features - self.mean) @ self.weights
        chance: Floats = 1.0 / (1.0 + np.exp(-(self.slope * raw + self.offset)))
        return chance

    def arrays(self) -> dict[str, Floats]:
        """What `of_arrays` makes it from again."""
        scalars = np.array([self.intercept, self.slope, self.offset])
        return {"mean": self.mean, "weights": self.weights, "scalars": scalars}

    @classmethod
    def of_arrays(cls, judged: Judged, arrays: Mapping[str, Floats]) -> "Probe":
        """A kept one."""
        return cls(judged, arrays["mean"], arrays["weights"], *(float(value) for value in arrays["scalars"]))


def fit_probes(
    features: NDArray[np.float32], columns: Mapping[str, Floats], folds: NDArray[np.int64]
) -> tuple[list[Probe], list[Judged]]:
    """The probes that may be used, and how good each of `columns` (name -> (n,) of 0 and 1) was told out of fold.

    `features` (n, width); `folds` (n,) of three or more, near-duplicates never in two of them.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    probes, every = [], []
    for name, values in columns.items():
        n_with = int(values.sum())
        n_without = len(values) - n_with
        if min(n_with, n_without) < FEWEST or len(np.unique(folds)) < 3:
            every.append(Judged(name, n_with, n_without, None))
            continue
        told, _ = out_of_fold("ridge", features, values, folds, folds)
        platt = LogisticRegression(C=1e6).fit(told[:, None], values)
        judged = Judged(name, n_with, n_without, float(roc_auc_score(values, told)))
        every.append(judged)
        if judged.usable:
            whole = fit_ridge(features, values)
            probes.append(Probe(judged, whole.head.mean, whole.head.weights, float(whole.head.intercept),
                                float(platt.coef_[0, 0]), float(platt.intercept_[0])))  # fmt: skip
    return probes, every


def table_features(
    config: Config, photos: Photos, rows: NDArray[np.int64], compute: Compute, cache: FeatureCache
) -> NDArray[np.float32]:
    """Pooled features (len(rows), width) of the table's photos. Raises UserError where the starting weights are gone."""
    return frozen_features(
        photos, rows, config.model, "pooled", config.photos.size, compute, seed=config.train.seed, cache=cache
    )


class Tower:
    """The same network kept at hand, for one photo at a time."""

    def __init__(self, config: Config, compute: Compute) -> None:
        size, seed = config.photos.size, config.train.seed
        self.network, self.compute = frozen_network(config.model, "pooled", compute, size=size, seed=seed), compute

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Floats:
        """(n, width) of pixels (n, size, size, 3) from the project's decoder."""
        photos = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.compute.device)
        with self.compute.autocast():
            found = self.network.frozen_features(photos)
        features: Floats = found.float().cpu().numpy().astype(np.float64)
        return features


def chances(probes: Sequence[Probe], features: Floats) -> list[dict[str, float]]:
    """For each photo of features (n, width) the chance of every probe's column."""
    told = {probe.judged.column: probe(features) for probe in probes}
    return [{name: float(values[row]) for name, values in told.items()} for row in range(len(features))]
