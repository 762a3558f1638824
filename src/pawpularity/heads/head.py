"""Fitted heads: frozen features (n, p) in, score points out. Saved as head.safetensors and head.json, without pickle.

`heads.fit` fits them with scikit-learn. Predicting needs numpy alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pawpularity.errors import UserError
from pawpularity.files import file_hash, read_json, write_json
from pawpularity.models.weights import read_tensors, save_tensors

Floats = NDArray[np.float64]
Table = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head, `intercept + (x - mean) @ weights`; with `support` vectors a kernel one.

    That is `intercept + sum of weights_i exp(-gamma |z - support_i|^2)`, z = (x - mean) / scale.
    """

    mean: Floats
    """(p,)"""
    weights: Floats
    """(p,), or (s,) with support vectors"""
    intercept: Floats
    """()"""
    scale: Floats | None = None
    """(p,)"""
    support: NDArray[np.float32] | None = None
    """(s, p), standardised"""
    gamma: Floats | None = None
    """()"""

    def predict(self, features: Table) -> Floats:
        """Scores (n,) of `features` (n, p), in the unit of the targets, not clipped."""
        z = features - self.mean
        if self.support is not None and self.scale is not None and self.gamma is not None:
            z, support = z / self.scale, self.support.astype(np.float64)
            distances = np.square(z).sum(axis=1)[:, None] + np.square(support).sum(axis=1) - 2.0 * z @ support.T
            z = np.exp(-self.gamma * distances.clip(0.0))
        scores: Floats = z @ self.weights + self.intercept
        return scores


def save_head(folder: Path, head: Head, about: Mapping[str, Any]) -> None:
    """Write `head` into `folder`. `about` says in head.json what it is and which features it takes."""
    file = folder / "head.safetensors"
    tensors = {name: value for name, value in vars(head).items() if value is not None}
    save_tensors(file, {name: torch.from_numpy(np.asarray(value)) for name, value in tensors.items()}, {})
    write_json(folder / "head.json", {**about, "tensors_hash": file_hash(file)})


def load_head(folder: Path) -> tuple[Head, dict[str, Any]]:
    """The head in `folder` and its head.json. Raises UserError for files that are missing or damaged."""
    about: dict[str, Any] = read_json(folder / "head.json", f"head {folder}")
    tensors = {name: tensor.numpy() for name, tensor in read_tensors(folder / "head.safetensors").items()}
    if file_hash(folder / "head.safetensors") != about.get("tensors_hash"):
        raise UserError(f"{folder / 'head.safetensors'}: was changed since it was made; run make probe again")
    return Head(**tensors), about
