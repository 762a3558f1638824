"""Photos of the rows of an OOF table, their frozen features, and how alike a copy looks to that network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pawpularity.config import Config
from pawpularity.console import log
from pawpularity.data.augment import CROP, FLIP, ORIGINAL
from pawpularity.data.dataset import fingerprints
from pawpularity.data.duplicates import is_copy
from pawpularity.data.photo_cache import photos_of
from pawpularity.data.photos import ordered_map, thread_count
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.evaluation.leak_detection import Neighbours, nearest_across_folds, standardised
from pawpularity.features.build import FeatureCache
from pawpularity.files import text_hash
from pawpularity.heads.features import frozen_features
from pawpularity.models.weights import find_weights

SAMPLE = 200  # photos that are mirrored and cropped to see how alike a copy looks
QUANTILE = 0.1  # nine of ten copies are as near as the bar
PACKAGED = ("test_resnet", "drawn", 96)  # the net that comes with the package: finds copies, knows no photographs

Rows = NDArray[np.int64]
Features = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LookAlikes:
    """What the photos say."""

    rows: Rows
    """rows of the table that have a photo"""
    paths: list[Path]
    near: Neighbours
    """`at` indexes `rows`, not the table"""
    bar: float
    """similarity from which a neighbour is suspected to be a copy"""
    copy: NDArray[np.bool_]
    """(rows,) whether the neighbour is one: suspected, and the pictures agree"""
    network: str


def photo_files(ids: list[str], folder: Path) -> tuple[Rows, list[Path]]:
    """Rows of `ids` with a photo in `folder` (ID.jpg, or train/ID.jpg below it), and those files.

    Raises UserError where there is no such folder, or fewer than 20 of the rows have one.
    """
    if not folder.is_dir():
        raise UserError(f"--photos {folder}: there is no such folder")
    place = folder / "train" if (folder / "train").is_dir() else folder
    there = {entry.name for entry in place.iterdir()}
    rows = np.array([i for i, name in enumerate(ids) if f"{name}.jpg" in there], dtype=np.int64)
    if len(rows) < 20:
        raise UserError(
            f"--photos {folder}: holds {len(rows)} of these {len(ids)} photos as ID.jpg; 20 or more are needed"
        )
    return rows, [place / f"{ids[i]}.jpg" for i in rows]


def config_for(config: Config) -> Config:
    """`config` if its network's weights can be had here; else the packaged network, said."""
    if config.model.weights != "none":
        try:
            find_weights(config.model.backbone, config.model.weights)
            return config
        except UserError as error:
            log(f"{error}; taking the packaged {PACKAGED[0]} instead: it finds copies, but knows no photographs")
    backbone, weights, size = PACKAGED
    own = {"model.backbone": backbone, "model.weights": weights, "model.args": {}, "photos.size": size}
    return config.with_values(own)


def look_alikes(rows: Rows, paths: list[Path], fold: Rows, config: Config, compute: Compute) -> LookAlikes:
    """The nearest photo of another fold of each of `rows`, whose photos are `paths`. `fold` (n,) is of the whole table.

    `rows` must be of two folds or more. Raises UserError for bad photos.
    """
    config = config_for(config)
    cache, size = Path(config.cache.folder), config.photos.size
    prints = fingerprints(paths, cache)
    photos = photos_of(
        paths, prints, size=size, fit=config.photos.fit, folder=cache, key=text_hash("leakcheck", *prints)
    )
    trunks = FeatureCache(cache / "features", photos, size, config.cache.budget_gb)

    def features(at: Rows, view: int) -> Features:
        return frozen_features(photos, at, config.model, "pooled", size, compute, trunks=trunks, view=view)

    own = features(np.arange(len(paths)), ORIGINAL)
    unit = standardised(own)
    near, bar = nearest_across_folds(unit, fold[rows]), _bar(own, unit, features)
    # Features say what a photo shows; two kittens on one blanket are as near as copies. The pictures decide.
    suspected = np.flatnonzero(near.similarity >= bar)
    copy = np.zeros(len(rows), dtype=bool)
    pairs = [(paths[i], paths[near.at[i]]) for i in suspected]
    copy[suspected] = list(ordered_map(lambda pair: is_copy(*pair), pairs, thread_count()))
    return LookAlikes(rows, paths, near, bar, copy, config.model.backbone)


def _bar(own: Features, unit: Features, features: Callable[[Rows, int], Features]) -> float:
    """The similarity that nine of ten mirror images and 90 % crops of these photos have to their original."""
    some = np.sort(np.random.default_rng(0).permutation(len(own))[:SAMPLE])
    alike = [np.einsum("ij,ij->i", unit[some], standardised(features(some, view), by=own)) for view in (FLIP, CROP)]
    return float(np.quantile(np.concatenate(alike), QUANTILE))
