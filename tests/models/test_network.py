import numpy as np
import pytest
import timm
import torch
from torch import nn

from pawpularity.config import resolve
from pawpularity.errors import UserError
from pawpularity.models.backbone import (
    build_backbone,
    freeze,
    set_training,
    trained_names,
)
from pawpularity.models.network import build_network

SMALL = ("small/densenet161", "small/resnet152", "small/vgg19_bn", "small/efficientnet_b7")
# (config, parameter tensors, pooled width, trained tensors by the authors' depth): known figures of timm 1.0.31
FOUR = {
    "resnet152": (465, 2048, 65),
    "vgg19_bn": (68, 4096, 18),
    "densenet161": (482, 2208, 82),
    "efficientnet_b7": (709, 2560, 109),
}


def toy(*words, config="scratch"):
    return resolve(config, ["photos.size=32", *words])


@pytest.mark.parametrize("name", FOUR)
def test_the_four_have_the_papers_depths(name):
    """On the meta device nothing is computed: counts alone."""
    config = resolve(name)
    tensors, width, trained = FOUR[name]
    with torch.device("meta"):
        net = timm.create_model(config.model.backbone, num_classes=0)
        assert net(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1, width)
    assert freeze(net, config.model.unfrozen).startswith(f"{trained} of the backbone's {tensors} ")
    assert [p.requires_grad for p in net.parameters()] == [False] * (tensors - trained) + [True] * trained
    assert config.photos.size == 224


def test_backbone_is_timms_own_net():
    config = toy()
    ours = build_network(config, fold=0)
    torch.manual_seed(config.train.seed)
    theirs = timm.create_model("test_resnet", num_classes=0).eval()
    photos = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(theirs.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    x = (photos.permute(0, 3, 1, 2).float() / 255 - mean) / std
    torch.testing.assert_close(ours.split.run(ours.normalise(photos)), theirs(x))


def test_pooled_width_comes_from_a_dry_run():
    vgg = build_backbone(toy(config="small/vgg19_bn").model, size=32, seed=0)
    assert vgg.width == 128
    assert vgg.net.head_hidden_size == 4096, "timm's own figure is wrong for it, which is why the dry run is needed"


@pytest.mark.parametrize("config", SMALL)
@pytest.mark.parametrize("unfrozen", [0, 1, 7, 12])
def test_frozen_parts_do_not_move_and_get_no_gradient(config, unfrozen):
    config = toy(f"model.unfrozen={unfrozen}", config=config)
    network = build_network(config, fold=0)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.train()
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=0.1)
    photos = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    for _ in range(2):
        network(photos, torch.zeros(8, 12)).square().sum().backward()
        optimiser.step()
    frozen, trained = network.frozen_state(), network.trained_state()
    assert frozen.keys() | trained.keys() == before.keys()
    assert not frozen.keys() & trained.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in frozen.items())
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(before[name], tensor)}
    assert "score.weight" in moved
    assert moved <= trained.keys()
    assert sum(p.grad is not None for p in network.backbone.parameters()) == unfrozen


def test_no_graph_is_recorded_through_the_frozen_part():
    """With the last stage trained, what flows into it must not ask for gradients: nothing before it is ever walked."""
    network = build_network(toy("model.unfrozen=9"), fold=0).train()
    needing = {}
    for name, module in network.backbone.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda m, i, o, name=name: needing.__setitem__(name, o.requires_grad))
    network(torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8))
    flags = list(needing.values())
    assert True in flags
    assert flags.index(True) > len(flags) // 2
    first = next(name for name, p in network.backbone.named_parameters() if p.requires_grad).rpartition(".")[0]
    assert next(name for name, flag in needing.items() if flag) == first


def test_half_frozen_batchnorm_stays_in_evaluation_mode():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.5))
    )
    freeze(net, 3)  # last conv's weight and bias, and the BatchNorm's bias
    set_training(net, True)
    assert not net[1].training
    assert net[3][1].training, "dropout beside trained weights trains"
    assert trained_names(net) == {"1.bias", "3.0.weight", "3.0.bias"}
    freeze(net, None)
    set_training(net, True)
    assert all(m.training for m in net.modules())


def test_frozen_bn_means_every_statistic_of_any_name():
    class Moving(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("level", torch.zeros(1))
            self.register_buffer("derived", torch.zeros(1), persistent=False)

    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), Moving())
    for frozen_bn, trains in ((False, True), (True, False)):
        set_training(net, True, frozen_bn=frozen_bn)
        assert [module.training for module in net[1:]] == [trains, trains]
        names = {"0.weight", "0.bias"} | (
            {"1.running_mean", "1.running_var", "1.num_batches_tracked", "2.level"} if trains else set()
        )
        assert trained_names(net, frozen_bn=frozen_bn) == names


@pytest.mark.parametrize(
    "net",
    ["levit_128s {img_size: 32, embed_dim: [16, 32, 48], num_heads: [2, 2, 2], depth: [1, 1, 1], key_dim: 8}",
     "tiny_vit_5m_224 {embed_dims: [16, 16, 16, 16], depths: [1, 1, 1, 1], num_heads: [1, 2, 2, 2], window_sizes: [4, 4, 4, 2]}"],
)  # fmt: skip
def test_what_a_network_derives_from_its_weights_follows_them(net):
    """Up to timm 1.0.24 these two keep attention biases of earlier weights (make test-oldest)."""
    name, _, args = net.partition(" ")
    config, random = toy(f"model.backbone={name}", f"model.args={args}"), torch.Generator().manual_seed(0)
    photos = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    network, other = build_network(config, fold=0), build_network(config, fold=0)
    state = {
        name: torch.randn(tensor.shape, generator=random) * 50 if "attention_biases" in name else tensor
        for name, tensor in network.state_dict().items()
    }
    with torch.inference_mode():
        before = network(photos)
        network.load_state_dict(state)
        other.train()
        other.load_state_dict(state)
        now = network.eval()(photos)
        assert not torch.allclose(now, before, atol=1e-5)
        torch.testing.assert_close(now, other.eval()(photos))


def test_unfrozen_is_clipped():
    network = build_network(toy("model.unfrozen=9999"), fold=0)
    assert all(p.requires_grad for p in network.parameters())
    assert "clipped" in network.unfrozen_note
    assert "clipped" not in build_network(toy("model.unfrozen=9"), fold=0).unfrozen_note


@pytest.mark.parametrize(("output", "loss"), [("sigmoid", "bce"), ("relu", "mse"), ("linear", "huber")])
def test_untrained_network_answers_about_the_training_mean(output, loss):
    network = build_network(toy(f"model.output={output}", f"train.loss={loss}"), fold=0, training_mean=38.0)
    raw = network(torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8))
    assert abs(network.points(raw).mean().item() - 38) < 6
    (gradient,) = torch.autograd.grad(network.points(raw).sum(), network.score.bias)
    assert gradient.item() != 0, "a relu that starts dead would never learn"
    far = torch.tensor([-1e3, 1e3])
    assert network.clipped(far).tolist() == [1.0, 100.0]


def test_folds_share_the_frozen_part_and_differ_in_the_heads():
    config = toy("model.unfrozen=9")
    one, two, again = (build_network(config, fold=fold) for fold in (0, 1, 0))
    assert all(torch.equal(a, b) for a, b in zip(one.backbone.parameters(), two.backbone.parameters(), strict=True))
    assert not torch.equal(one.score.weight, two.score.weight)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))


def test_absent_metadata_is_a_flag_and_dropout_shows_it():
    network = build_network(toy("model.metadata_dropout=0.5"), fold=0)
    columns = torch.ones(2000, 12)
    seen = network.train()._with_flag(columns, 2000, torch.device("cpu"))
    hidden = seen[:, 12] == 1
    assert 0.45 < hidden.float().mean() < 0.55
    assert (seen[hidden, :12] == 0).all()
    assert (seen[~hidden, :12] == 1).all()
    network.eval()
    assert (network._with_flag(columns, 2000, torch.device("cpu"))[:, 12] == 0).all()
    features = torch.zeros(1, network.image[0].in_features)
    assert network.regress(features, None) != network.regress(features, torch.zeros(1, 12)), "absent is not all-zero"
    without = build_network(toy("model.metadata=none"), fold=0)
    assert without.metadata is None
    assert without.regress(features, None) == without.regress(features, torch.ones(1, 12))


def test_channels_last_gives_the_same_answer():
    photos = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8))
    plain = build_network(toy("train.channels_last=false"), fold=0)
    other = build_network(toy("train.channels_last=true"), fold=0).to(memory_format=torch.channels_last)
    assert other.normalise(photos).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(plain(photos), other(photos), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "stays"), [("repvgg_a0", False), ("mobileone_s0", False), ("fastvit_t8", False), ("test_resnet", True)]
)
def test_networks_that_crash_in_channels_last_run_in_the_plain_layout_on_a_cpu(name, stays):
    """Their strided 1 x 1 convolutions of three channels end the process; here only the layout is looked at."""
    network = build_network(toy(f"model.backbone={name}"), fold=0)
    photos = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    network.place(torch.device("cpu"))
    assert network.normalise(photos).is_contiguous(memory_format=torch.channels_last) is stays
    assert torch.isfinite(network(photos)).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model.backbone=densnet161"], 'did you mean "densenet161"'),
        (["model.backbone=densenet161.nope"], "no such weights tag"),
        (["model.args={growth: 3}"], "timm cannot build"),
        (["model.backbone=vit_tiny_patch16_224", "model.args={patch_size: 0}"], "timm cannot build"),
        (["model.backbone=convnext_atto", "model.args={depths: []}"], "timm cannot build"),
        (["model.args={layers: []}"], "cannot run with"),
        (["model.args={num_classes: 3}"], "set by the project"),
        (["model.backbone=swin_tiny_patch4_window7_224", "photos.size=96"], "its own is 224"),
    ],
)
def test_bad_backbones(words, said):
    with pytest.raises(UserError) as caught:
        build_network(toy(*words), fold=0)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["swin_large", "beit_large", "convnext_large", "efficientnet_b5"])
def test_timm_knows_the_backbones_of_the_competitive_configs(name):
    assert timm.get_pretrained_cfg(resolve(name).model.backbone) is not None
