"""Trained heads in half precision: half the bytes, and what that costs, measured on out-of-fold photos.

Only tensors of two and more dimensions are halved: weights, nearly all of the bytes. Biases and BatchNorm statistics may exceed
float16's 65,504 and stay float32, and so does a weight that would overflow.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with float32 weights as float16."""

    def half(tensor: Tensor) -> Tensor:
        small = tensor.half() if tensor.dtype == torch.float32 and tensor.ndim >= 2 else tensor
        return small if bool(torch.isfinite(small).all()) else tensor

    return {name: half(tensor) for name, tensor in tensors.items()}


def data_of(run: Run, named: Path | None) -> Path:
    """The folder with the run's own photos. Raises UserError where it is not known."""
    folder = named or run.record["data"].get("folder")
    if not folder or not (Path(folder) / "train").is_dir():
        raise UserError(f"{run.name}: half precision is measured on its own photos; name their folder with DATA=DIR")
    return Path(folder)


def scores_of_halves(
    run: Run, fold: int, network: Network, head: Mapping[str, Tensor], data: Path, photos: int
) -> pd.DataFrame:
    """Scores of about `photos` photos of the fold with the whole and the halved `head`; `network` keeps the halved one.

    Columns target, whole, half, constant. Computed in the run's own dtype: in bfloat16 halving costs more than in float32.
    Raises UserError where `data` is not what the run was trained on.
    """
    oof, table, cfg = read_oof(run.predictions_file(fold)), read_train(data).set_index(ID), run.config.photos
    # Spread over the fold, whose rows are sorted by Id.
    chosen = oof.iloc[np.unique(np.linspace(0, len(oof) - 1, photos).round().astype(int))]
    if not set(chosen[ID]) <= set(table.index):
        raise UserError(f"{data}: lacks photos that {run.name} was trained on; name its data with DATA=DIR")
    pixels = np.stack([decode(data / "train" / f"{name}.jpg", cfg.size, cfg.fit) for name in chosen[ID]])
    columns = table.loc[chosen[ID], list(METADATA)].to_numpy(dtype=np.float32)
    rows, compute = np.arange(len(pixels)), choose(run.config.train.dtype)
    inputs = PixelInputs(Photos.of(pixels), rows)
    network.place(compute.device)
    whole = score_rows(network, inputs, rows, columns, compute)
    network.load_state_dict(dict(head), strict=False)
    half = score_rows(network, inputs, rows, columns, compute)
    constant = run.metrics(fold)["training_mean"]
    return pd.DataFrame({"target": chosen["target"], "whole": whole, "half": half, "constant": constant})


def loss_of_halves(folds: Sequence[pd.DataFrame], dtype: str) -> dict[str, Any]:
    """The largest difference in score points, and the RMSE of whole and halved heads beside the constant's."""
    table = pd.concat(folds).astype(np.float64)
    target, whole, half, constant = (table[name].to_numpy() for name in ("target", "whole", "half", "constant"))
    return {
        "dtype": dtype,
        "photos": len(table),
        "largest_difference": float(np.abs(whole - half).max()),
        "rmse": rmse(target, whole),
        "rmse_half": rmse(target, half),
        "constant_rmse": rmse(target, constant),
    }
