"""Grad-CAM against autograd by hand, for many backbones; what the package does silently."""

import numpy as np
import pytest
import torch
from tests.explain.linear_network import any_pixels, score_of
from torch import nn

from pawpularity.config import resolve
from pawpularity.errors import UserError
from pawpularity.explain.gradcam import gradcam, planes
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


@pytest.mark.parametrize(
    ("name", "size", "layer", "said"),
    [("resnet18", 32, "auto", "no places"), ("resnet18", 64, "global_pool", "no places"), ("resnet18", 64, "layer5", "layer4"),
     ("coat_lite_tiny {img_size: 64}", 64, "serial_blocks4", "inside"),
     ("coat_lite_tiny {img_size: 64}", 64, "auto", "explain.layer"),
     ("cait_xxs24_224 {depth: 1, img_size: 64}", 64, "blocks_token_only.0", "no places"),
     ("hiera_tiny_224 {img_size: [64, 64]}", 64, "blocks.0", "shuffles")],
)  # fmt: skip
def test_features_without_places_and_layers_that_do_not_do_are_refused(name, size, layer, said):
    name, _, args = name.partition(" ")
    score = score_of(backbone(name, f"model.args={args or {}}", size=size), COLUMNS)
    with pytest.raises(UserError, match=said):
        gradcam(score, score.input_of(any_pixels(size)), layer)


def test_a_named_layer_against_autograd_by_hand():
    network = backbone("test_resnet")
    score = score_of(network.eval(), COLUMNS)
    x = score.input_of(any_pixels(64))
    kept: list[torch.Tensor] = []
    hook = lambda layer, inputs, output: kept.append(output)  # noqa: E731
    with network.backbone.layer2.register_forward_hook(hook):
        pooled = network.backbone(x[None].clone().requires_grad_(True))
    points = network.points(network.regress(pooled, torch.tensor(COLUMNS)[None]))
    slope = torch.autograd.grad(points.sum(), kept[0])[0][0].double()
    expected = torch.einsum("c,chw->hw", slope.mean(dim=(1, 2)), kept[0][0].detach().double()).numpy()
    cells = gradcam(score, x, "layer2").arrays["cells"]
    np.testing.assert_allclose(cells, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "side"),
    [("hiera_tiny_224 {img_size: [128, 128]}", 4), ("vit_small_patch16_dinov3 {depth: 1}", 8), ("test_vit {}", 8),
     ("cait_xxs24_224 {depth: 1, img_size: 128}", 8), ("xcit_nano_12_p16_224 {depth: 1}", 8),
     ("levit_128s {img_size: 128, embed_dim: [16, 32, 48], num_heads: [2, 2, 2], depth: [1, 1, 1], key_dim: 8}", 2)],
)  # fmt: skip
def test_transformers_at_any_size_have_a_map_whose_places_are_the_photos(name, side):
    """At 128 px, which is not their own size. A change in a quarter of the photo changes the features of that quarter most."""
    name, _, args = name.partition(" ")
    network = backbone(name, f"model.args={args}", size=128)
    score = score_of(network, COLUMNS)
    assert gradcam(score, score.input_of(any_pixels(128))).facts["cells"] == [side, side]
    photo = any_pixels(128)
    features = [planes(network, network.backbone.forward_features(score.input_of(photo)[None])).detach()]
    for top, left in ((0, 0), (0, 64), (64, 0), (64, 64)):
        changed = photo.copy()
        changed[top : top + 64, left : left + 64] = 255 - changed[top : top + 64, left : left + 64]
        with torch.no_grad():
            now = planes(network, network.backbone.forward_features(score.input_of(changed)[None]))
        moved = nn.functional.adaptive_avg_pool2d((now - features[0]).abs().sum(dim=1), 2)[0]
        assert side == 2 or int(moved.argmax()) == top // 64 * 2 + left // 64, "LeViT's last stage mixes all places"


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
