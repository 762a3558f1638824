"""The gradient against known slopes, and the network it leaves alone."""

import copy

import numpy as np
import pytest
import torch
from tests.explain.linear_network import SIZE, any_pixels, linear_network, score_of

from pawpularity.config import resolve
from pawpularity.errors import UserError
from pawpularity.explain.gradient import at_rest, gradient
from pawpularity.models.network import Network, build_network

COLUMNS = np.array([1, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0], dtype=np.float32)


def small(**settings: object) -> Network:
    words = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    config = resolve("scratch", ["photos.size=32", "model.backbone=test_resnet", "model.weights=none", *words])
    network = build_network(config, fold=0, training_mean=38.0)
    random = torch.Generator().manual_seed(1)
    for parameter in network.parameters():  # heads start so small that nothing would curve
        if parameter.ndim > 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
    return network


def test_a_linear_scores_gradient_is_its_weights():
    network, weights = linear_network()
    score = score_of(network)
    found = gradient(score, score.input_of(any_pixels(SIZE)))
    np.testing.assert_allclose(found.map, 255 * weights.sum(axis=0), rtol=1e-4, atol=1e-6)
    assert (found.map < 0).any()
    assert found.standard_error is None
    # Hiding a place takes away, by the channel, weight x (level - mean level).
    mean = 255 * np.array((0.5, 0.4, 0.3))
    taken = (weights * (any_pixels(SIZE) - mean).transpose(2, 0, 1)).sum(axis=0)
    np.testing.assert_allclose(found.effect, taken, rtol=1e-4, atol=1e-5)
    assert found.judged is found.effect
    smooth = gradient(score, score.input_of(any_pixels(SIZE)), smooth=20, noise=0.3)
    np.testing.assert_allclose(smooth.map, found.map, rtol=1e-4, atol=1e-5)
    assert smooth.standard_error.max() < 1e-4 * np.abs(smooth.map).max()


def test_its_unit_is_what_brightening_does():
    """A central difference in float64, in levels of 255, for a network with BatchNorm and ReLUs, region by region."""
    network = small()
    score = score_of(network, COLUMNS)
    pixels = any_pixels(32, seed=2, low=60, high=200).astype(np.float64)
    found = gradient(score, score.input_of(pixels.astype(np.uint8)))
    exact = copy.deepcopy(network).double()

    @torch.no_grad()
    def points(levels):
        x = (torch.tensor(levels).permute(2, 0, 1)[None] - exact.mean) / exact.std
        columns = torch.cat([torch.tensor(COLUMNS).double(), torch.zeros(1, dtype=torch.float64)])[None]
        joined = torch.cat([exact.image(exact.backbone(x)), exact.metadata(columns)], dim=1)
        return 100 * float(torch.sigmoid(exact.score(exact.fusion(joined))))

    for top, left in ((0, 0), (8, 16), (16, 8), (20, 20)):
        step = np.zeros_like(pixels)
        step[top : top + 12, left : left + 12] = 1e-4
        slope = (points(pixels + step) - points(pixels - step)) / 2e-4
        assert abs(slope) > 1e-5
        assert found.map[top : top + 12, left : left + 12].sum() / 255 == pytest.approx(slope, rel=0.01)


def test_smoothing_is_the_mean_over_noise_of_the_size_asked_for():
    """Of a quadratic score the mean gradient is the gradient, and its spread is the noise's times the curvature."""
    network, _ = linear_network()
    score = score_of(network)

    class Quadratic:
        def __init__(self):
            self.network = network

        def exact(self, x):
            levels = x * network.std / 255  # pixel values 0..1, less a constant
            return levels.square().sum(dim=(1, 2, 3)) / 2

    x = score.input_of(any_pixels(SIZE))
    found = gradient(Quadratic(), x, smooth=400, noise=0.2, seed=5)
    exact = (x * network.std[0] / 255).sum(dim=0).numpy()
    # Slope of a channel = its value, noise 0.2 a channel: the sum of three has standard deviation 0.2 sqrt(3).
    expected = 0.2 * np.sqrt(3) / np.sqrt(400)
    assert np.mean(found.standard_error) == pytest.approx(expected, rel=0.03)
    assert np.std(found.map - exact) == pytest.approx(expected, rel=0.25)
    assert np.array_equal(found.map, gradient(Quadratic(), x, smooth=400, noise=0.2, seed=5).map)
    assert not np.array_equal(found.map, gradient(Quadratic(), x, smooth=400, noise=0.2, seed=6).map)


def test_a_zero_gradient_says_so_and_a_gradient_that_is_not_a_number_is_refused():
    network = small()
    score = score_of(network, COLUMNS)
    x = score.input_of(any_pixels(32))
    network.score.bias.data.fill_(100.0)
    found = gradient(score, x)
    assert not found.map.any()
    assert "at 100 the sigmoid output" in found.warnings[0]
    network.score.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="not a number"):
        gradient(score, x)


def test_the_network_is_left_as_it_was_and_the_caller_changes_nothing():
    network = small(model__unfrozen=9)
    score = score_of(network, COLUMNS)
    wanted = gradient(score, score.input_of(any_pixels(32))).map
    network.train()
    trained = [p for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.full_like(parameter, 7.0)
    before = [module.training for module in network.modules()], [p.requires_grad for p in network.parameters()]
    assert 0 < len(trained) < len(before[1])
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(gradient(score, score.input_of(any_pixels(32))).map, wanted)
    assert ([m.training for m in network.modules()], [p.requires_grad for p in network.parameters()]) == before
    assert all((parameter.grad == 7.0).all() for parameter in trained)
    with pytest.raises(RuntimeError, match="stop"), at_rest(network):
        raise RuntimeError("stop")
    assert ([m.training for m in network.modules()], [p.requires_grad for p in network.parameters()]) == before
