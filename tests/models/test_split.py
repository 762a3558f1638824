import pytest
import timm
import torch
from torch import nn

import pawpularity.models.backbone  # noqa: F401 registers vgg_bn
from pawpularity.models.split import Split

# name: parameter tensors, and how many of them the authors trained
FOUR = {
    "resnet152": (465, 65),
    "vgg19_bn": (68, 18),
    "densenet161": (482, 82),
    "tf_efficientnet_b7": (709, 109),
}
SHAPES = {
    "resnet152": (1024, 14, 14),
    "vgg19_bn": (512, 14, 14),
    "densenet161": (1536, 7, 7),
    "tf_efficientnet_b7": (384, 7, 7),
}


def assert_exact_at_every_split(net: nn.Module, size: int, batch: int = 2) -> None:
    split = Split(net, size)
    assert not split.whole
    x = torch.randn(batch, 3, size, size)
    with torch.inference_mode():
        wanted = net(x.clone())
        assert wanted.std() > 0
        features = [x.clone()]
        for position in range(len(split)):
            # Every state is kept as it was: a later in-place step would show as a difference below.
            features.append(split.run(features[-1].clone(), position, position + 1))
        assert torch.equal(features[-1], wanted)
        for at in range(len(split) + 1):
            assert torch.equal(split.run(features[at].clone(), at), wanted), split.blocks[min(at, len(split) - 1)].name


@pytest.mark.parametrize("name", FOUR)
def test_the_four_are_split_where_the_authors_froze(name):
    tensors, unfrozen = FOUR[name]
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=0)
        split = Split(net, 224)
        assert split.behind(0) == tensors
        at = split.frozen_blocks(unfrozen)
        assert split.run(torch.zeros(1, 3, 224, 224), 0, at).shape[1:] == SHAPES[name]
    assert unfrozen <= split.behind(at) < unfrozen + len(split.blocks[at].parameters())
    assert split.frozen_blocks(None) == split.frozen_blocks(tensors) == split.frozen_blocks(10_000) == 0
    assert split.frozen_blocks(0) == len(split)


SMALL = {
    "densenet121": {"block_config": (2, 3), "growth_rate": 8}, "test_vit3": {}, "test_convnext3": {}, "test_nfnet": {},
    "test_efficientnet": {}, "test_mambaout": {}, "mobileone_s0": {}, "ghostnet_100": {"drop_rate": 0.0}, "levit_128s": {},
    "regnety_002": {}, "vgg_bn": {"cfg": [8, "M", 16, "M"]}, "mobilenetv4_conv_small": {}, "xcit_nano_12_p16_224": {"depth": 2},
    "swin_tiny_patch4_window7_224": {"depths": (2, 2), "embed_dim": 24, "num_heads": (1, 2), "img_size": 56},
    "swinv2_tiny_window8_256": {"depths": (1, 1), "embed_dim": 24, "num_heads": (1, 2), "img_size": 64},
    "eva02_tiny_patch14_224": {"depth": 2, "img_size": 56}, "vit_small_patch16_dinov3": {"depth": 2, "img_size": 64},
    "vit_small_patch14_dinov2": {"img_size": 56, "depth": 3}, "vit_base_patch32_clip_224": {"depth": 2},
    "naflexvit_base_patch16_gap": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    "hiera_tiny_224": {"stages": (1, 1), "embed_dim": 16, "q_pool": 1, "mask_unit_size": (4, 4), "q_stride": (2, 2)},
    "maxvit_tiny_tf_224": {}, "coat_lite_tiny": {},
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_families_are_exact_at_every_border(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model(name, num_classes=0, **SMALL[name]).eval()
        assert len(Split(net, size_of(net, name))) > 2
        assert_exact_at_every_split(net, size_of(net, name))


def size_of(net: nn.Module, name: str) -> int:
    return SMALL[name].get("img_size") or getattr(net, "pretrained_cfg", {}).get("input_size", (3, 32, 32))[-1]


@pytest.mark.parametrize("name", ["densenet121", "swin_tiny_patch4_window7_224", "vit_small_patch16_dinov3"])
def test_gradients_are_those_of_the_network(name):
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0, **SMALL[name]).eval()
    size = size_of(net, name)
    split, x = Split(net, size), torch.randn(2, 3, size, size)
    wanted = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    middle = split.run(x, 0, len(split) // 2)
    found = torch.autograd.grad(split.run(middle, len(split) // 2).square().sum(), list(net.parameters()))
    assert all(
        torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max())) for a, b in zip(wanted, found, strict=True)
    )


def test_dropout_and_statistics_follow_the_mode_of_the_network():
    net = timm.create_model("test_vit3", num_classes=0, drop_path_rate=0.5, proj_drop_rate=0.5)
    split, x = Split(net, 160), torch.randn(4, 3, 160, 160)
    assert not torch.equal(split(x), split(x))
    net.eval()
    assert torch.equal(split(x), split(x))
    norms = timm.create_model("test_resnet", num_classes=0)
    before = norms.bn1.running_mean.clone()
    Split(norms, 64)
    assert torch.equal(norms.bn1.running_mean, before)
    Split(norms, 64)(torch.randn(4, 3, 64, 64))
    assert not torch.equal(norms.bn1.running_mean, before)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("naflexvit_base_patch16_gap", {"depth": 2, "embed_dim": 32, "num_heads": 2}),
     ("vit_small_patch16_rope_mixed_224", {"depth": 2, "img_size": 64}), ("vit_small_patch16_224", {"depth": 2, "img_size": 64}),
     ("ghostnet_100", {"drop_rate": 0.5})],
)  # fmt: skip
def test_what_a_network_does_only_in_training_is_kept(name, arguments):
    """Dropped patches and dropout between the blocks: with the same random numbers, the split trains as the network does."""
    dropped = {} if "drop_rate" in arguments else {"patch_drop_rate": 0.5}
    net = timm.create_model(name, num_classes=0, **arguments, **dropped)
    split, x = Split(net.eval(), 64), torch.randn(4, 3, 64, 64)
    net.train()

    def answer(run):
        torch.manual_seed(1)
        return run(x)

    assert torch.equal(answer(split), answer(net))
    assert not torch.equal(split(x), split(x)), "it is random"


def test_a_copied_split_is_of_the_copied_net():
    import copy

    split = Split(timm.create_model("test_resnet", num_classes=0).eval(), 32)
    other = copy.deepcopy(split)
    with torch.no_grad():
        next(other.net.parameters()).zero_()
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(split(x), split.net(x))
        assert torch.equal(other(x), other.net(x))
        assert not torch.equal(split(x), other(x))


class DecidedByPixels(nn.Module):
    """Takes another way for bright photos."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))

    def forward(self, x):
        x = x.mean((2, 3))
        return self.layers(x) if x.sum() > 0 else self.layers(-x)


def test_a_net_that_looks_at_the_pixels_runs_whole_and_says_why():
    split = Split(DecidedByPixels().eval(), 8)
    assert len(split) == 1
    assert split.whole
    assert split.frozen_blocks(1) == 0
    x = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(split(x), split.net(x))
