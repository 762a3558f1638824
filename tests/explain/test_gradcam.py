"""Grad-CAM against autograd by hand, for many backbones; the choice of layer; what the package does silently."""

import numpy as np
import pytest
import torch
from tests.explain.linear_network import any_pixels, score_of
from torch import nn

from pawpularity.config import resolve
from pawpularity.errors import UserError
from pawpularity.explain import gradcam as module
from pawpularity.explain.gradcam import gradcam
from pawpularity.explain.layers import find_layer
from pawpularity.models.network import Network, build_network

COLUMNS = np.array([1, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0], dtype=np.float32)
SMALL = {
    "small/resnet152": "layer4.1",
    "small/vgg19_bn": "features.28",
    "small/densenet161": "features.norm5",
    "small/efficientnet_b7": "bn2",
}
FOUR = {
    "resnet152": "layer4.2",
    "vgg19_bn": "features.52",
    "densenet161": "features.norm5",
    "tf_efficientnet_b7": "bn2",
}


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


def assert_right(network: Network, size: int, layer: str, layout: str = "planes") -> None:
    score = score_of(network.eval(), COLUMNS)
    x = score.input_of(any_pixels(size))
    found = gradcam(score, x)
    assert found.facts["layer"] == layer
    expected = by_autograd(network, x, layout)
    assert np.abs(expected).max() > 0
    assert expected.std() > 0
    np.testing.assert_allclose(found.arrays["cells"], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert found.facts["agreement"] < 1e-4
    assert found.facts["score"] == pytest.approx(float(score.exact(x[None])[0].detach()), abs=1e-4)
    assert found.map.shape == (size, size)


@pytest.mark.parametrize("config", SMALL)
def test_the_small_family_equals_autograd_at_the_last_features(config):
    assert_right(network_of(config), 64, SMALL[config])


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUR)
def test_the_papers_four_equal_autograd_at_the_last_features(name):
    assert_right(backbone(name), 64, FOUR[name])


@pytest.mark.parametrize(
    ("name", "size", "layer", "layout"),
    [
        ("test_resnet", 96, "layer4.0", "planes"),
        ("mobilenetv2_100", 64, "bn2", "planes"),
        ("mobilenetv3_small_050", 64, "blocks.5.0", "planes"),
        ("test_convnext", 64, "norm_pre", "planes"),
        ("test_vit3", 160, "norm", "tokens"),  # pools the mean
        ("swin_tiny_patch4_window7_224", 224, "norm", "last"),
        ("regnetx_002", 64, "final_conv", "planes"),  # runs whole
    ],
)
def test_other_families_equal_autograd_at_the_last_features(name, size, layer, layout):
    words = ["model.args={depths: [1, 1, 1, 1], embed_dim: 24}"] if name.startswith("swin") else []
    assert_right(backbone(name, *words, size=size), size, layer, layout)


def test_how_much_is_frozen_changes_nothing():
    """The network split anywhere is explained as the whole is."""
    maps = []
    for unfrozen in ("all", "20", "3", "0"):
        network = network_of("small/densenet161", f"model.unfrozen={unfrozen}")
        score = score_of(network, COLUMNS)
        maps.append(gradcam(score, score.input_of(any_pixels(64))).arrays["cells"])
    assert network.frozen_blocks == len(network.split)
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], rtol=1e-5)


def test_cells_sum_to_the_score_without_its_bias_where_all_behind_them_is_linear():
    network = backbone("test_resnet", "model.output=linear", "train.loss=mse", "model.metadata=none", size=96)
    network.image = network.fusion = nn.Sequential()
    network.score = nn.Linear(96, 1)
    score = score_of(network)
    found = gradcam(score, score.input_of(any_pixels(96)))
    assert found.facts["cells_sum"] == pytest.approx(
        found.facts["score"] - float(network.score.bias.detach()), rel=1e-3
    )
    assert found.arrays["cells"].sum() == pytest.approx(found.facts["cells_sum"], rel=1e-5)
    network.score.weight.data.mul_(2)
    assert gradcam(score, score.input_of(any_pixels(96))).arrays["cells"] == pytest.approx(
        2 * found.arrays["cells"], rel=1e-3, abs=1e-6
    ), "in score points, not scaled to its own maximum"


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
    assert any("treats the places of this layer differently" in line for line in found.warnings)
    pooled = score_of(network_of("small/densenet161"), COLUMNS)
    found = gradcam(pooled, pooled.input_of(any_pixels(64)))
    assert found.facts["apart"] < 1e-4
    assert found.unit.startswith("score points")


def test_the_map_is_in_its_place():
    """One corner's features carry the score: the map must light up there, and there alone, rows and columns unswapped."""
    network = backbone("test_resnet", size=128)
    score = score_of(network, COLUMNS)
    x = score.input_of(any_pixels(128))
    handle = network.backbone.layer4[0].register_forward_hook(
        lambda layer, inputs, output: output * torch.eye(4)[0][:, None] * torch.eye(4)[2]
    )
    try:
        found = gradcam(score, x)
    finally:
        handle.remove()
    lit = np.abs(found.map) > 0.5 * np.abs(found.map).max()
    rows, columns = np.nonzero(lit)
    assert (rows.min(), rows.max()) >= (0, 16)
    assert rows.max() < 40
    assert 56 <= columns.min() < columns.max() < 104


def test_activations_are_kept_before_a_step_in_place():
    """The BatchNorm before VGG's in-place ReLU: on a CPU the package alone would keep what the ReLU left."""
    from pytorch_grad_cam import GradCAM

    network = network_of("small/vgg19_bn")
    score = score_of(network, COLUMNS)
    x = score.input_of(any_pixels(64))
    name = "features.26"
    norm = network.backbone.features[26]
    assert isinstance(norm, nn.BatchNorm2d)
    assert network.backbone.features[27].inplace

    kept: list[torch.Tensor] = []

    def keep(layer, inputs, output):
        kept.extend([output.detach().clone(), output])

    handle = norm.register_forward_hook(keep)
    inputs = x[None].clone().requires_grad_(True)
    points = score.exact(inputs)
    handle.remove()
    got = gradcam(score, x, layer=name).arrays["cells"]
    # No autograd at an overwritten tensor: the gradient at the ReLU's input is that at its output, where it is positive.
    after = kept[1]
    slope = torch.autograd.grad(points.sum(), after)[0].double() * (kept[0] > 0)
    expected = (slope.mean(dim=(2, 3), keepdim=True) * kept[0].double()).sum(dim=1)[0].numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())

    plain = GradCAM(module._Scored(score, x.device), [norm])
    plain(input_tensor=x[None].clone().requires_grad_(True), targets=[lambda output: output.sum()])
    assert (plain.activations_and_grads.activations[0] >= 0).all(), "the trap is gone; so may the copy"
    plain.activations_and_grads.release()
    assert (kept[0] < 0).any()


def test_every_quiet_failure_leaves_the_network_as_it_was():
    network = network_of("small/resnet152", "model.unfrozen=9")
    score = score_of(network, COLUMNS)
    wanted = gradcam(score, score.input_of(any_pixels(64)))
    network.train()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.full_like(parameter, 7.0)
    before = [m.training for m in network.modules()], [p.requires_grad for p in network.parameters()]
    assert True in before[0]
    assert False in before[0]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradcam(score, score.input_of(any_pixels(64)))
    np.testing.assert_array_equal(got.arrays["cells"], wanted.arrays["cells"])
    assert got.arrays["cells"].dtype == np.float32
    assert ([m.training for m in network.modules()], [p.requires_grad for p in network.parameters()]) == before
    assert all((parameter.grad == 7.0).all() for parameter in trained)
    assert all(parameter.grad is None for parameter in network.parameters() if not parameter.requires_grad)
    assert not any(m._forward_hooks or m._backward_hooks for m in network.modules())


def test_a_map_that_differs_from_autograds_is_refused(monkeypatch):
    """A layer before the residual is added, passed off as the last: the check must notice."""
    network = network_of("small/resnet152")
    score = score_of(network, COLUMNS)
    x = score.input_of(any_pixels(64))
    honest = find_layer(score, x)
    wrong = network.backbone.layer4[1].bn3
    other = type(honest)("layer4.1.bn3", wrong, honest.planes, honest.channels, honest.cells, True)
    monkeypatch.setattr(module, "find_layer", lambda *rest: other)
    with pytest.raises(UserError, match="off autograd's"):
        gradcam(score, x)


def test_a_layer_that_shows_a_part_says_so():
    network = network_of("small/densenet161")
    score = score_of(network, COLUMNS)
    x = score.input_of(any_pixels(64))
    part = gradcam(score, x, layer="features.denseblock4.denselayer4")
    assert "goes past it" in part.warnings[0]
    assert 0.05 < part.facts["bypass"] <= 1.5
    whole = gradcam(score, x, layer="features.transition3")
    assert whole.facts["bypass"] == 0.0
    assert whole.facts["cells"] == [2, 2]
    assert gradcam(score, x, layer="features.transition2").facts["cells"] == [4, 4]
    assert gradcam(score, x, layer="features.norm5").facts["agreement"] is not None


@pytest.mark.parametrize(
    ("config", "layer", "words"),
    [
        ("small/densenet161", "features.norm6", 'no layer features.norm6; did you mean "features.norm5"'),
        ("small/densenet161", "features", "does not run exactly once"),
        ("small/vgg19_bn", "head.global_pool", "such as"),
        ("small/resnet152", "layer4", "does not run exactly once"),
    ],
)
def test_layers_that_will_not_do(config, layer, words):
    score = score_of(network_of(config), COLUMNS)
    with pytest.raises(UserError) as refused:
        gradcam(score, score.input_of(any_pixels(64)), layer=layer)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_features_without_places_and_unknown_layouts_are_refused():
    score = score_of(backbone("resnet18", size=32), COLUMNS)
    with pytest.raises(UserError, match=r"no places at 32 x 32 px .* such as layer3.1, or use RISE"):
        gradcam(score, score.input_of(any_pixels(32)))
    score = score_of(backbone("levit_128s", size=224), COLUMNS)
    with pytest.raises(UserError, match="places are not known"):
        gradcam(score, score.input_of(any_pixels(224)))


def test_a_vision_transformer_that_pools_its_class_token():
    """The last norm has no gradient at the other tokens; the last block's input has, and the class token's own path is told."""
    network = backbone("test_vit", size=160)
    assert network.backbone.global_pool == "token"
    score = score_of(network, COLUMNS)
    x = score.input_of(any_pixels(160))
    found = gradcam(score, x)
    assert found.facts["layer"] == "blocks.5.norm1"
    assert found.facts["cells"] == [10, 10]
    assert "goes past it" in found.warnings[0]
    kept: list[torch.Tensor] = []
    handle = network.backbone.blocks[5].norm1.register_forward_hook(lambda layer, inputs, output: kept.append(output))
    points = score.exact(x[None].clone().requires_grad_(True))
    handle.remove()
    slope = torch.autograd.grad(points.sum(), kept[0])[0][0, 1:].double()
    value = kept[0][0, 1:].detach().double()
    expected = (slope.mean(dim=0) * value).sum(dim=1).reshape(10, 10).numpy()
    np.testing.assert_allclose(found.arrays["cells"], expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    with pytest.raises(UserError, match="no gradient of the score reaches"):
        gradcam(score, x, layer="norm")
