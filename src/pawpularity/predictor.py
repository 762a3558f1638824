"""Photo and metadata in, score out: the one way to predict, for out-of-fold rows, submissions, maps and pages alike.

from pawpularity import Predictor
predictor = Predictor.load("oof/densenet161")          # every fold of the run
predictor.predict(["a.jpg", "b.jpg"])                  # score points, mean of the folds
predictor.predict(["a.jpg"], metadata=[[0,1,1,1,0,0,0,0,0,0,0,0]])
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from pawpularity.data.augment import FLIP, ORIGINAL
from pawpularity.data.photo_cache import Photos
from pawpularity.data.photos import decode
from pawpularity.data.tables import METADATA
from pawpularity.device import Compute, choose
from pawpularity.errors import Diverged, UserError
from pawpularity.features.build import FeatureCache
from pawpularity.features.load import FeatureInputs, Inputs, PixelInputs
from pawpularity.heads.encoders import encoders_of
from pawpularity.heads.network import head_network, head_of
from pawpularity.models.network import METADATA_COLUMNS, Network, build_network
from pawpularity.models.weights import load_strictly, read_tensors, tensors_hash
from pawpularity.runs import Run

if TYPE_CHECKING:
    from pawpularity.config import Config

Rows = NDArray[np.int64]
PhotoFiles = str | Path | Sequence[str | Path] | NDArray[np.uint8] | Photos
"""Photo files, or (N, size, size, 3) pixels from the project's decoder."""
Progress = Callable[[int], Any]
SCORED_AT_ONCE = 64
"""Rows of a batch. Another batch size may select other kernels and change the last digits."""


def score_rows(
    network: Network,
    inputs: Inputs,
    rows: Rows,
    metadata: NDArray[np.float32] | None,
    compute: Compute,
    *,
    view: int | Rows = ORIGINAL,
) -> NDArray[np.float64]:
    """Clipped score points, (len(rows),), of `view` (one for all, or (len(rows),)) of `rows`; see `score_heads`."""
    scores: NDArray[np.float64] = score_heads([network], inputs, rows, metadata, compute, view=view)[0]
    return scores


@torch.inference_mode()
def score_heads(
    networks: Sequence[Network],
    inputs: Inputs,
    rows: Rows,
    metadata: NDArray[np.float32] | None,
    compute: Compute,
    *,
    view: int | Rows = ORIGINAL,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Clipped score points, (networks, len(rows)), by networks that share one frozen part, which runs once a photo.

    `metadata` is (len(rows), 12) or None (absent). The networks are put in evaluation mode and stay so. Raises UserError
    where a network's answer is not a number.
    """
    for network in networks:
        network.eval()
    scores = torch.empty(len(networks), len(rows), dtype=torch.float32)
    views = np.broadcast_to(np.asarray(view, dtype=np.int64), rows.shape)
    for start in range(0, len(rows), SCORED_AT_ONCE):
        batch = rows[start : start + SCORED_AT_ONCE]
        x = inputs.take(batch, views[start : start + SCORED_AT_ONCE]).to(compute.device, non_blocking=True)
        columns = None if metadata is None else torch.tensor(metadata[start : start + len(batch)]).to(compute.device)
        with compute.autocast():
            features = inputs.features(networks[0], x)
            answers = torch.stack([network.clipped(network.head(features, columns)) for network in networks])
        scores[:, start : start + len(batch)] = answers.cpu()
        if progress is not None:
            progress(len(batch))
    if not torch.isfinite(scores).all():
        raise Diverged("the network's answers are not numbers (its training diverged); train with a lower train.lr")
    return scores.double().numpy()


@dataclass(repr=False)
class Predictor:
    """The fold networks of one run."""

    run: Run
    config: "Config"
    networks: dict[int, Network]
    compute: Compute

    @classmethod
    def load(cls, folder: str | Path, folds: Sequence[int] | None = None, device: str | None = None) -> "Predictor":
        """Rebuild the networks of `folder` (oof/RUN), of the given folds or all that are trained."""
        run = Run.open(Path(folder))
        config = run.config
        compute = choose(config.train.dtype, device)
        trained = run.trained_folds()
        if folds is None:
            folds = trained
        if missing := [fold for fold in folds if fold not in trained]:
            raise UserError(f"{run.folder}: fold {missing[0]} is not trained; run: {run.remedy(missing[0])}")
        if not folds:
            raise UserError(f"{run.folder}: no fold is trained yet; run: {run.remedy()}")
        networks: dict[int, Network] = {}
        for fold in folds:
            first = next(iter(networks.values()), None)
            networks[fold] = load_network(run, fold, frozen_of=first).place(compute.device)
        return cls(run, config, networks, compute)

    def __repr__(self) -> str:
        return f"Predictor({self.run.folder}, folds {sorted(self.networks)}, {self.compute})"

    def decode(self, photos: Sequence[str | Path]) -> NDArray[np.uint8]:
        """(N, size, size, 3) pixels of photo files, decoded with the run's own `photos` settings."""
        cfg = self.config.photos
        return np.stack([decode(Path(photo), cfg.size, cfg.fit) for photo in photos])

    def predict(
        self,
        photos: PhotoFiles,
        metadata: ArrayLike | pd.DataFrame | None = None,
        *,
        flip: bool | None = None,
        cache: FeatureCache | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float64]:
        """Mean score of the folds, (N,); the arguments as for `predict_folds`."""
        scores = self.predict_folds(photos, metadata, flip=flip, cache=cache, progress=progress)
        mean: NDArray[np.float64] = scores.mean(axis=0)
        return mean

    def predict_folds(
        self,
        photos: PhotoFiles,
        metadata: ArrayLike | pd.DataFrame | None = None,
        *,
        flip: bool | None = None,
        cache: FeatureCache | None = None,
        progress: Progress | None = None,
    ) -> NDArray[np.float64]:
        """Scores by fold, (folds, N); the folds share one pass of the frozen part.

        Without metadata the run must have been trained with `model.metadata_dropout`. `flip`: the mean of the photo and its
        mirror image (default: the run's `predict.flip`). `cache`, of the same `photos`: read the features that training
        cached. `progress` is called with the number of photos of each batch, for each view.
        """
        decoded = self._photos(photos)
        columns = self._metadata(metadata, len(decoded))
        rows = np.arange(len(decoded))
        views = (ORIGINAL, FLIP) if (self.config.predict.flip if flip is None else flip) else (ORIGINAL,)
        networks = list(self.networks.values())
        inputs: Inputs = PixelInputs(decoded, rows)
        if cache is not None:
            all_rows, all_views = np.tile(rows, len(views)), np.repeat(views, len(rows))
            augment = self.config.train.augment  # a list of transforms has files of its own, unaugmented views included
            pipeline = augment if isinstance(augment, list) else None
            file = cache.open(networks[0], self.compute, all_rows, all_views, build=False, pipeline=pipeline)
            inputs = inputs if file is None else FeatureInputs(file, rows)
        by_view = [
            score_heads(networks, inputs, rows, columns, self.compute, view=view, progress=progress) for view in views
        ]
        scores: NDArray[np.float64] = np.mean(by_view, axis=0)
        return scores

    def _photos(self, photos: PhotoFiles) -> Photos:
        if isinstance(photos, Photos):
            return photos
        if isinstance(photos, str | Path):
            photos = [photos]
        if len(photos) == 0:
            raise UserError("there are no photos to predict")
        size, pixels = self.config.photos.size, photos if isinstance(photos, np.ndarray) else self.decode(photos)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
            raise UserError(f"photos must be uint8 of shape (N, {size}, {size}, 3), not {pixels.dtype} {pixels.shape}")
        return Photos.of(pixels)

    def _metadata(self, metadata: ArrayLike | pd.DataFrame | None, photos: int) -> NDArray[np.float32] | None:
        model = self.config.model
        if metadata is None:
            if model.metadata == "use" and model.metadata_dropout == 0:
                raise UserError(f"{self.run.folder}: needs metadata; pass it, or train with model.metadata_dropout > 0")
            return None
        if isinstance(metadata, pd.DataFrame):  # by name: the columns may be in any order
            if missing := [name for name in METADATA if name not in metadata.columns]:
                raise UserError(f"metadata has no column {missing[0]}; it needs {', '.join(METADATA)}")
            metadata = metadata[list(METADATA)].to_numpy()
        columns = np.asarray(metadata, dtype=np.float32)
        if columns.shape != (photos, METADATA_COLUMNS):
            raise UserError(f"metadata must have shape ({photos}, {METADATA_COLUMNS}), not {columns.shape}")
        if not np.isfinite(columns).all():
            raise UserError("metadata must be numbers (0 or 1); leave it out where it is not known")
        return columns


def load_network(run: Run, fold: int, frozen_of: Network | None = None) -> Network:
    """The trained network of one fold, on the CPU, in evaluation mode.

    Raises UserError for other frozen tensors than it was trained with.

    `frozen_of`: a network of the same run whose frozen tensors are shared instead of being loaded again, on its device.
    """
    config, weights, metrics = run.config, run.record["weights"], run.metrics(fold)
    kept, head = weights["frozen"] == "kept", read_tensors(run.head_file(fold))
    # The original weights are needed only where the frozen tensors are theirs and not in the run's folder.
    source = None if weights["frozen"] == "named" else "none"
    if frozen_of is not None:
        network = _sharing_frozen(frozen_of)
        if run.kind == "head":
            network.fitted = head_of(head)
        frozen = network.frozen_state()
    else:
        if run.kind == "head":
            network = head_network(encoders_of(run.record), head_of(head), config, source)
        else:
            network = build_network(config, fold=fold, weights=source)
        frozen = read_tensors(run.frozen_file) if kept else network.frozen_state()
    if (found := tensors_hash(frozen)) != weights["frozen_hash"]:
        where = run.frozen_file if kept else f"model.weights={config.model.weights}"
        expected = weights["frozen_hash"]
        raise UserError(
            f"{where}: its frozen tensors are {found}, {run.name} was trained with {expected}; restore that file"
        )
    load_strictly(network, {**frozen, **head}, run.head_file(fold))
    if tensors_hash(head) != metrics.get("head_hash"):
        # Another fold's head would fit too, but it was trained on this fold's photos.
        raise UserError(f"{run.head_file(fold)}: is not what training fold {fold} wrote; run: {run.remedy(fold)}")
    return network.eval()


def _sharing_frozen(network: Network) -> Network:
    """A copy whose frozen tensors are those of `network`: much faster than building another with a random start."""
    shared = network.frozen_state().keys()
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    return copy.deepcopy(network, {id(tensor): tensor for name, tensor in tensors.items() if name in shared})
