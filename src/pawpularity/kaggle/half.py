"""Tails in half precision: half the bytes, and what that costs, measured on photos of the run's own.

Only tensors of two dimensions and more are halved: weights, nearly all of the bytes. Biases and BatchNorm statistics, which
may lie beyond float16's 65,504, stay as they are, and so does a tensor that would overflow.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pawpularity.data.photo_cache import Photos
from pawpularity.data.photos import decode
from pawpularity.data.tables import ID, METADATA, read_train
from pawpularity.device import choose
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.oof import read_oof
from pawpularity.features.load import PixelInputs
from pawpularity.models.network import Network
from pawpularity.predictor import score_rows
from pawpularity.runs import Run

PHOTOS = 200
"""Measured on, over all folds."""


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with float32 weights as float16."""
    return {name: _half(tensor) for name, tensor in tensors.items()}


def _half(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32 or tensor.ndim < 2:
        return tensor
    half = tensor.half()
    return half if bool(torch.isfinite(half).all()) else tensor


class Loss:
    """What halving the folds of one run costs on out-of-fold photos, computed as the run computes on this machine.

    In bfloat16 it costs more than in float32: a weight that moves a little may be rounded to its other neighbour.
    """

    def __init__(self, run: Run, data: Path, photos: int = PHOTOS) -> None:
        """Raises UserError where `data` is not what the run was trained on."""
        self.run = run
        self.each = max(1, photos // max(1, len(run.trained_folds())))
        self.table = read_train(data).set_index(ID)
        self.photos = data / "train"
        self.compute = choose(run.config.train.dtype)
        self.whole: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        self.half: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        self.target: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        self.constant: list[np.ndarray[Any, np.dtype[np.float64]]] = []

    def measure(self, fold: int, network: Network, tail: Mapping[str, Tensor]) -> None:
        """Score photos that the fold never saw with `network` as it is and with `tail`; leaves it with `tail`."""
        oof = read_oof(self.run.predictions_file(fold))
        # Spread over the fold, whose rows are sorted by Id, which says nothing of the score.
        chosen = oof.iloc[np.unique(np.linspace(0, len(oof) - 1, self.each).round().astype(int))]
        if odd := set(chosen[ID]) - set(self.table.index):
            raise UserError(
                f"{self.photos.parent}: has no photo {min(odd)}, on which {self.run.name} was trained; name its data with DATA=DIR"
            )
        cfg = self.run.config.photos
        pixels = np.stack([decode(self.photos / f"{name}.jpg", cfg.size, cfg.fit) for name in chosen[ID]])
        columns = self.table.loc[chosen[ID], list(METADATA)].to_numpy(dtype=np.float32)
        rows = np.arange(len(pixels))
        network.place(self.compute.device)
        for found in (self.whole, self.half):
            if found is self.half:
                network.load_state_dict(dict(tail), strict=False)
            found.append(score_rows(network, PixelInputs(Photos.of(pixels), rows), rows, columns, self.compute))
        self.target.append(chosen["target"].to_numpy(dtype=np.float64))
        self.constant.append(np.full(len(chosen), self.run.metrics(fold)["training_mean"], dtype=np.float64))

    def result(self) -> dict[str, Any]:
        """Dtype, photos, the largest difference in score points, both RMSEs, and what each fold's training mean scores."""
        parts = (self.whole, self.half, self.target, self.constant)
        whole, half, target, constant = (np.concatenate(part) for part in parts)
        return {
            "dtype": self.compute.dtype_name,
            "photos": len(target),
            "largest_difference": float(np.abs(whole - half).max()),
            "rmse": rmse(target, whole),
            "rmse_half": rmse(target, half),
            "constant_rmse": rmse(target, constant),
        }
