"""Trained heads in half precision: half the bytes. The loss is measured on out-of-fold photos.

Only tensors of two and more dimensions are halved: weights, nearly all of the bytes. Biases and BatchNorm statistics may exceed
float16's 65,504 and stay float32, and so does a weight that would overflow.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pawpularity.data.tables import ID, METADATA, read_train
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.oof import read_oof
from pawpularity.models.weights import read_tensors
from pawpularity.predictor import Predictor
from pawpularity.runs import Run


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with float32 weights as float16."""

    def half(tensor: Tensor) -> Tensor:
        small = tensor.half() if tensor.dtype == torch.float32 and tensor.ndim >= 2 else tensor
        return small if bool(torch.isfinite(small).all()) else tensor

    return {name: half(tensor) for name, tensor in tensors.items()}


def loss_of_halves(run: Run, data: Path | None, photos: int) -> dict[str, Any]:
    """The largest difference in score points on about `photos` photos, and the RMSE of both beside the constant's.

    Computed in the run's dtype: in bfloat16 halving costs more than in float32. `data`: the folder of the run's photos, if it is
    not where the run was trained. Raises UserError if the photos are missing or are others.
    """
    folder = Path(data or run.record["data"].get("folder") or "")
    if not (folder / "train").is_dir():
        raise UserError(f"{run.name}: half precision is measured on its own photos; name their folder with DATA=DIR")
    predictor, table, parts = Predictor.load(run.folder), read_train(folder).set_index(ID), []
    for fold, network in predictor.networks.items():
        oof, each = read_oof(run.predictions_file(fold)), max(1, photos // len(predictor.networks))
        # Spread over the fold, whose rows are sorted by Id.
        chosen = oof.iloc[np.unique(np.linspace(0, len(oof) - 1, each).round().astype(int))]
        if not set(chosen[ID]) <= set(table.index):
            raise UserError(f"{folder}: lacks photos that {run.name} was trained on; name its data with DATA=DIR")
        alone = replace(predictor, networks={fold: network})
        pixels = alone.decode([folder / "train" / f"{name}.jpg" for name in chosen[ID]])
        columns = table.loc[chosen[ID], list(METADATA)]
        whole = alone.predict(pixels, columns, flip=False)
        network.load_state_dict(halved(read_tensors(run.head_file(fold))), strict=False)
        half, constant = alone.predict(pixels, columns, flip=False), run.metrics(fold)["training_mean"]
        parts.append(pd.DataFrame({"target": chosen["target"], "whole": whole, "half": half, "constant": constant}))
    found = pd.concat(parts)
    target, whole, half, constant = (found[name].to_numpy(np.float64) for name in found)
    return {
        "dtype": predictor.compute.dtype_name,
        "photos": len(found),
        "largest_difference": float(np.abs(whole - half).max()),
        "rmse": rmse(target, whole),
        "rmse_half": rmse(target, half),
        "constant_rmse": rmse(target, constant),
    }
