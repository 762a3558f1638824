"""The whole data set as training sees it: photos, metadata, scores and groups as arrays, aligned by row."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pawpularity.data.photo_cache import Photos
from pawpularity.device import Compute
from pawpularity.features.build import Trunks
from pawpularity.features.load import Inputs, PixelInputs, open_inputs
from pawpularity.models.network import Network


@dataclass(frozen=True)
class LabelledPhotos:
    """The whole data set as arrays, aligned by row, sorted by Id (so that the table's row order decides nothing)."""

    photos: Photos
    """in the order of the table file"""
    photo_rows: NDArray[np.int64]
    """(N,) where in `photos` each row's photo is"""
    metadata: NDArray[np.float32]
    """(N, 12)"""
    scores: NDArray[np.float64]
    """(N,) points"""
    groups: NDArray[np.int64]
    """(N,) near-duplicates share a number"""
    trunks: Trunks | None = None
    """where trunk states of these photos are kept; None = nowhere, the trunk runs every time"""

    @property
    def pixels(self) -> PixelInputs:
        """The photos as a network's input."""
        return PixelInputs(self.photos, self.photo_rows)

    def inputs(self, network: Network, compute: Compute, rows: NDArray[np.int64], views: NDArray[np.int64]) -> Inputs:
        """What `network` is fed for the pairs (`rows[i]`, `views[i]`): states if they are kept, else photos."""
        return open_inputs(self.trunks, self.photos, self.photo_rows, network, compute, rows, views)
