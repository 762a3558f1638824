import pytest
import timm
import torch
from torch import nn

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
    split = Split(net)
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
        split = Split(net)
        assert sum(len(block.parameters()) for block in split.blocks) == tensors
        at = split.frozen_blocks(unfrozen)
        assert split.run(torch.zeros(1, 3, 224, 224), 0, at).shape[1:] == SHAPES[name]
    behind = sum(len(block.parameters()) for block in split.blocks[at:])
    assert unfrozen <= behind < unfrozen + len(split.blocks[at].parameters())
    assert split.frozen_blocks(None) == split.frozen_blocks(tensors) == split.frozen_blocks(10_000) == 0
    assert split.frozen_blocks(0) == len(split)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("test_convnext3", {}),
     ("vit_small_patch14_dinov2", {"img_size": 56, "depth": 3}), ("vit_base_patch32_clip_224", {"depth": 2})],
)  # fmt: skip
def test_transformers_and_convnext_are_exact(name, arguments):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model(name, num_classes=0, **arguments).eval()
        assert len(Split(net)) > 3
        assert_exact_at_every_split(net, size=arguments.get("img_size", net.pretrained_cfg["input_size"][-1]), batch=1)


def test_a_copied_split_is_of_the_copied_net():
    import copy

    split = Split(timm.create_model("test_resnet", num_classes=0).eval())
    other = copy.deepcopy(split)
    with torch.no_grad():
        next(other.net.parameters()).zero_()
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(split(x), split.net(x))
        assert torch.equal(other(x), other.net(x))
        assert not torch.equal(split(x), other(x))


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "levit_128s", "test_vit3"])
def test_other_nets_run_whole(name):
    net = timm.create_model(name, num_classes=0).eval()
    split = Split(net)
    assert len(split) == 1
    assert split.frozen_blocks(5) == 0
    size = net.pretrained_cfg["input_size"][-1]
    x = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        assert torch.equal(split(x), net(x))
