"""Traits of a photo: probes of the contest's 0/1 columns on the pooled features of the run's backbone before training.

A probe is a ridge regression. Its out-of-fold AUC says how often a photo with the trait ranks above one without it; below 0.7 the
probe is not used. The features come from the weights that training started with, which never saw a score.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from pawpularity.data.photos import Pixels
from pawpularity.device import Compute
from pawpularity.heads.encoders import Encoder
from pawpularity.heads.features import frozen_network

COLUMNS = ("Face", "Eyes", "Group", "Blur")
MIN_AUC = 0.7
MIN_PHOTOS = 20
"""Least number of photos with the trait, and of photos without it, for a probe."""
ALPHAS = np.logspace(0, 6, 13)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Probe:
    """One column's probe: the logit of having it is `features @ weights + bias`."""

    n_with: int
    n_without: int
    auc: float | None = None
    """out of fold; None: too few photos with or without it"""
    weights: list[float] = field(default_factory=list, repr=False)
    bias: float = 0.0

    @property
    def usable(self) -> bool:
        """Whether it is good enough for tips."""
        return self.auc is not None and self.auc >= MIN_AUC

    @property
    def words(self) -> str:
        """The probe and its AUC in one line, or why there is no probe."""
        if self.auc is None:
            return (
                f"no probe: {self.n_with} photos with it and {self.n_without} without; {MIN_PHOTOS} of each are needed"
            )
        return f"a probe with AUC {self.auc:.2f}{'' if self.usable else f', below {MIN_AUC:g}'}"

    def chance(self, features: Floats) -> Floats:
        """(n,) the chance, 0 to 1, that photos with the pooled features (n, width) have the trait."""
        return np.asarray(1.0 / (1.0 + np.exp(-(features @ np.array(self.weights) + self.bias))))


def fit_probes(features: Floats, columns: Mapping[str, Floats], folds: NDArray[np.int64]) -> dict[str, Probe]:
    """A probe for each of `columns`: by name, (n,) of 0 and 1.

    `features`: (n, width). `folds`: (n,), two folds or more; near-duplicates must be in the same fold.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probes = {name: Probe(int(values.sum()), int((1 - values).sum())) for name, values in columns.items()}
    names = [name for name, probe in probes.items() if min(probe.n_with, probe.n_without) >= MIN_PHOTOS]
    if not names:
        return probes
    truth = np.column_stack([columns[name] for name in names])
    ridge = make_pipeline(StandardScaler(), RidgeCV(ALPHAS, alpha_per_target=True))
    unseen = cross_val_predict(ridge, features, truth, groups=folds, cv=LeaveOneGroupOut()).reshape(truth.shape)
    scaler, model = (step for _, step in ridge.fit(features, truth).steps)
    weights = np.reshape(model.coef_, (len(names), -1)) / scaler.scale_
    biases = np.ravel(model.intercept_) - weights @ scaler.mean_
    for i, name in enumerate(names):
        platt = LogisticRegression(C=1e6).fit(unseen[:, [i]], truth[:, i])  # from the ridge's output to a chance
        slope, offset = float(platt.coef_[0, 0]), float(platt.intercept_[0])
        probes[name] = Probe(probes[name].n_with, probes[name].n_without, float(roc_auc_score(truth[:, i], unseen[:, i])),
                             (slope * weights[i]).tolist(), slope * float(biases[i]) + offset)  # fmt: skip
    return probes


class LoadedEncoder:
    """An encoder, loaded to look at photos of `size` pixels a side."""

    def __init__(self, encoder: Encoder, size: int, seed: int, compute: Compute) -> None:
        self.network, self.compute = frozen_network(encoder, compute, size=size, seed=seed), compute

    @torch.inference_mode()
    def __call__(self, pixels: Pixels) -> Floats:
        """Pooled features (n, width) of pixels (n, size, size, 3)."""
        photos = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.compute.device)
        with self.compute.autocast():
            return np.asarray(self.network.frozen_features(photos).float().cpu(), dtype=np.float64)
