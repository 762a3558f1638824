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
class LinearHead:
    """`intercept + (x - mean) @ weights`: a ridge, or a linear support vector machine."""

    mean: Floats
    """(p,)"""
    weights: Floats
    """(p,)"""
    intercept: Floats
    """()"""

    def predict(self, features: Table) -> Floats:
        """Scores (n,) of `features` (n, p), in the unit of the targets, not clipped."""
        scores: Floats = (features - self.mean) @ self.weights + self.intercept
        return scores


@dataclass(frozen=True, eq=False)
class KernelHead:
    """`intercept + sum of weights_i exp(-gamma |z - support_i|^2)` with z = (x - mean) / scale."""

    mean: Floats
    """(p,)"""
    scale: Floats
    """(p,)"""
    support: NDArray[np.float32]
    """(s, p) support vectors, standardised"""
    weights: Floats
    """(s,)"""
    intercept: Floats
    """()"""
    gamma: Floats
    """()"""

    def predict(self, features: Table) -> Floats:
        """Scores (n,) of `features` (n, p), in the unit of the targets, not clipped."""
        z, support = (features - self.mean) / self.scale, self.support.astype(np.float64)
        distances = np.square(z).sum(axis=1)[:, None] + np.square(support).sum(axis=1) - 2.0 * z @ support.T
        scores: Floats = np.exp(-self.gamma * distances.clip(0.0)) @ self.weights + self.intercept
        return scores


Head = LinearHead | KernelHead


def save_head(folder: Path, head: Head, about: Mapping[str, Any]) -> None:
    """Write `head` into `folder`. `about` says in head.json what it is and which features it takes."""
    file = folder / "head.safetensors"
    save_tensors(file, {name: torch.from_numpy(np.asarray(value)) for name, value in vars(head).items()}, {})
    write_json(folder / "head.json", {**about, "tensors_hash": file_hash(file)})


def load_head(folder: Path) -> tuple[Head, dict[str, Any]]:
    """The head in `folder` and its head.json. Raises UserError for files that are missing or damaged."""
    about: dict[str, Any] = read_json(folder / "head.json", f"head {folder}")
    tensors = {name: tensor.numpy() for name, tensor in read_tensors(folder / "head.safetensors").items()}
    if file_hash(folder / "head.safetensors") != about.get("tensors_hash"):
        raise UserError(f"{folder / 'head.safetensors'}: was changed since it was made; run make probe again")
    return (KernelHead if "support" in tensors else LinearHead)(**tensors), about
