"""Grad-CAM against autograd by hand, for many backbones; what the package does silently."""

import numpy as np
import pytest
import torch
from tests.explain.linear_network import any_pixels, score_of
from torch import nn

from pawpularity.config import resolve
from pawpularity.errors import UserError
from pawpularity.explain.gradcam import gradcam
from pawpularity.models.network import Network, build_network

COLUMNS = np.array([1, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0], dtype=np.float32)
SMALL = ("small/resnet152", "small/vgg19_bn", "small/densenet161", "small/efficientnet_b7")
FOUR = ("resnet152", "vgg19_bn", "densenet161", "tf_efficientnet_b7")


def network_of(config: str, *words: str, size: int = 64) -> Network:
    """With random weights, shaken so that no channel is dead, no BatchNorm the identity and no head nearly constant."""
    network = build_network(resolve(config, [f"photos.size={size}", "model.weights=none", *words]), fold=0)
    random = torch.Generator().manual_seed(1)
    for part in network.backbone.modules():
        if getattr(part, "running_mean", None) is not None:
            part.running_mean.normal_(0, 0.1, generator=random)
            nn.init.uniform_(part.weight, 0.5, 1.0, generator=random)
    return network


def backbone(name: str, *words: str, size: int = 64) -> Network:
    return network_of("scratch", f"model.backbone={name}", *words, size=size)


def by_autograd(network: Network, x: torch.Tensor, layout: str = "planes") -> np.ndarray:
    """The map (h, w) from timm's own forward_features and forward_head: no split, no hooks, no package."""
    net = network.backbone
    features = net.forward_features(x[None].clone()).detach().requires_grad_(True)
    points = network.points(network.regress(net.forward_head(features.clone()), torch.tensor(COLUMNS)[None]))
    slope = torch.autograd.grad(points.sum(), features)[0].double().numpy()[0]
    value = features.detach().double().numpy()[0]
    if layout == "last":
        value, slope = value.transpose(2, 0, 1), slope.transpose(2, 0, 1)
    if layout == "tokens":
        side = net.patch_embed.grid_size[0]
        value, slope = (part[-(side**2) :].T.reshape(-1, side, side) for part in (value, slope))
    return np.einsum("c,chw->hw", slope.mean(axis=(1, 2)), value)


def assert_right(network: Network, size: int, layout: str = "planes") -> None:
    score = score_of(network.eval(), COLUMNS)
    x = score.input_of(any_pixels(size))
    found = gradcam(score, x)
    expected = by_autograd(network, x, layout)
    assert np.abs(expected).max() > 0
    assert expected.std() > 0
    np.testing.assert_allclose(found.arrays["cells"], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert found.map.shape == (size, size)


@pytest.mark.parametrize("config", SMALL)
def test_the_small_family_equals_autograd_at_the_last_features(config):
    assert_right(network_of(config), 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR)
def test_the_papers_four_equal_autograd_at_the_last_features(name):
    assert_right(backbone(name), 64)


@pytest.mark.parametrize(
    ("name", "size", "layout"),
    [
        ("test_resnet", 96, "planes"),
        ("mobilenetv3_small_050", 64, "planes"),
        ("test_convnext", 64, "planes"),
        ("test_vit3", 160, "tokens"),  # pools the mean
        ("swin_tiny_patch4_window7_224", 224, "last"),
        ("regnetx_002", 64, "planes"),  # runs whole
    ],
)
def test_other_families_equal_autograd_at_the_last_features(name, size, layout):
    words = ["model.args={depths: [1, 1, 1, 1], embed_dim: 24}"] if name.startswith("swin") else []
    assert_right(backbone(name, *words, size=size), size, layout)


def test_cells_sum_to_the_score_without_its_bias_where_all_behind_them_is_linear():
    network = backbone("test_resnet", "model.output=linear", "train.loss=mse", "model.metadata=none", size=96)
    network.image = network.fusion = nn.Sequential()
    network.score = nn.Linear(96, 1)
    score = score_of(network)
    x = score.input_of(any_pixels(96))
    found = gradcam(score, x)
    points = float(score(x[None])[0]) - float(network.score.bias.detach())
    assert found.arrays["cells"].sum() == pytest.approx(points, rel=1e-3)
    network.score.weight.data.mul_(2)
    doubled = gradcam(score, x).arrays["cells"]
    assert doubled == pytest.approx(2 * found.arrays["cells"], rel=1e-3, abs=1e-6), "not scaled to its own maximum"


def test_a_head_that_sees_places_apart_gives_no_points():
    """VGG's first fully connected layer has weights of its own for each place; a head that pools has one gradient for all."""
    apart = backbone("vgg11_bn", size=96)
    score = score_of(apart, COLUMNS)
    x = score.input_of(any_pixels(96))
    found = gradcam(score, x)
    net = apart.backbone
    features = net.forward_features(x[None].clone()).detach().requires_grad_(True)
    points = apart.points(apart.regress(net.forward_head(features.clone()), torch.tensor(COLUMNS)[None]))
    (slope,) = torch.autograd.grad(points.sum(), features)
    first = (slope * features.detach())[0].sum(dim=0).numpy()
    off = np.sqrt(np.mean((found.arrays["cells"] - first) ** 2) / np.mean(first**2))
    assert found.facts["apart"] == pytest.approx(off, rel=1e-3)
    assert off > 0.1
    assert "no score points" in found.unit
    pooled = score_of(network_of("small/densenet161"), COLUMNS)
    found = gradcam(pooled, pooled.input_of(any_pixels(64)))
    assert found.facts["apart"] < 1e-4
    assert found.unit.startswith("score points")


def test_the_map_is_in_its_place():
    """One corner's features carry the score: the map must light up there, and there alone, rows and columns unswapped."""
    network = backbone("test_resnet", size=128)
    score = score_of(network, COLUMNS)
    x = score.input_of(any_pixels(128))
    place = torch.eye(4)[0][:, None] * torch.eye(4)[2]
    with network.backbone.layer4[0].register_forward_hook(lambda layer, inputs, output: output * place):
        found = gradcam(score, x)
    lit = np.abs(found.map) > 0.5 * np.abs(found.map).max()
    rows, columns = np.nonzero(lit)
    assert rows.max() < 40
    assert 56 <= columns.min() < columns.max() < 104


def test_activations_are_kept_before_a_step_in_place():
    """A head that begins with an in-place ReLU: on a CPU the package alone would keep what the ReLU left."""
    network = backbone("test_convnext")
    net, score = network.backbone, score_of(network, COLUMNS)
    x = score.input_of(any_pixels(64))
    head = net.forward_head
    net.forward_head = lambda features: head(features.relu_())
    features = net.forward_features(x[None]).detach()
    assert (features < 0).any()
    np.testing.assert_allclose(gradcam(score, x).arrays["cells"], by_autograd(network, x), rtol=1e-3, atol=1e-6)


def test_the_package_leaves_no_trace_and_autocast_changes_nothing():
    network = network_of("small/resnet152", "model.unfrozen=9")
    score = score_of(network, COLUMNS)
    wanted = gradcam(score, score.input_of(any_pixels(64)))
    network.train()
    before = [m.training for m in network.modules()]
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradcam(score, score.input_of(any_pixels(64)))
    np.testing.assert_array_equal(got.arrays["cells"], wanted.arrays["cells"])
    assert [m.training for m in network.modules()] == before
    assert all((parameter.grad == 7.0).all() for parameter in network.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in network.modules())


@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("levit_128s", 224)])
def test_features_without_places_and_unknown_layouts_are_refused(name, size):
    score = score_of(backbone(name, size=size), COLUMNS)
    with pytest.raises(UserError, match="no places"):
        gradcam(score, score.input_of(any_pixels(size)))


def test_a_vision_transformer_that_pools_its_class_token():
    """The last norm has no gradient at the other tokens; the last block's input has, and the class token's own way is told."""
    network = backbone("test_vit", size=160)
    assert network.backbone.global_pool == "token"
    score = score_of(network, COLUMNS)
    x = score.input_of(any_pixels(160))
    found = gradcam(score, x)
    assert "class token" in found.warnings[0]
    kept: list[torch.Tensor] = []
    hook = lambda layer, inputs, output: kept.append(output)  # noqa: E731
    with network.backbone.blocks[-1].norm1.register_forward_hook(hook):
        points = score.exact(x[None].clone().requires_grad_(True))
    slope = torch.autograd.grad(points.sum(), kept[0])[0][0, 1:].double()
    value = kept[0][0, 1:].detach().double()
    expected = (slope.mean(dim=0) * value).sum(dim=1).reshape(10, 10).numpy()
    np.testing.assert_allclose(found.arrays["cells"], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
