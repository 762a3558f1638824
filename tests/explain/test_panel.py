"""Which places of a map are told apart from zero, and that the picture shows these."""

import numpy as np
import pytest
from scipy import stats

from pawpularity.explain.panel import SIDE, error_tile, told_from_zero
from pawpularity.explain.rise import rise
from pawpularity.explain.saliency import Saliency


@pytest.mark.parametrize(("degrees", "quantile"), [(3, 3.1824), (4, 2.7764), (12, 2.1788), (60, 2.0003)])
def test_few_blocks_need_more_than_the_normal_quantile(degrees, quantile):
    """Student's t as tables print it: with three degrees of freedom 1.96 errors are not enough by far."""
    errors = np.array([0.5, 0.5, 2.0, 2.0, 0.5, 2.0], dtype=np.float32)
    times = np.array([quantile - 0.002, quantile + 0.002, -quantile + 0.002, -quantile - 0.002, 1.97, 0.0])
    found = Saliency(
        "rise", (errors * times).astype(np.float32)[None], "score points", errors[None], {"degrees": degrees}
    )
    assert told_from_zero(found)[0].tolist() == [False, True, False, True, False, False]


def test_it_is_where_the_maps_own_interval_leaves_zero_out():
    import torch

    photo = torch.ones(1, 32, 32, dtype=torch.float64)
    effect = torch.zeros(32, 32, dtype=torch.float64)
    effect[8:16, 8:16] = 0.2
    random = torch.randn(32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def score(batch):
        return 40 + (batch[:, 0] * effect).sum((1, 2)) + 3 * torch.sin(1e4 * (batch[:, 0] * random).sum((1, 2)))

    found = rise(score, photo, masks=8 * 128)
    told = told_from_zero(found.saliency())
    assert (told == (np.abs(found.map) > found.interval(0.95))).mean() > 0.999  # float32 against float64 at the edge
    plain = np.abs(found.map) > stats.norm.ppf(0.975) * found.standard_error
    assert told.sum() < plain.sum(), "else four degrees of freedom could not be seen"
    assert told[12, 12]
    tile = error_tile(found.saliency(), float(found.standard_error.max()))
    assert tile.shape == (SIDE, SIDE, 3)
