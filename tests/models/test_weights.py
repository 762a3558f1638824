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


def test_a_file_that_timms_own_filter_breaks_on_is_refused(published):
    """ConvNeXt's filter takes any file without its own names for one of Meta's and reads tensors that are not there."""
    with pytest.raises(
        UserError, match=r"safetensors: does not fit this network: timm's filter for its files fails \(KeyError"
    ):
        build_backbone(model(published / f"{NAME}.safetensors", "convnext_atto"), size=32, seed=0)


def test_real_weights_load(real):
    built = build_backbone(model(real / "weights", "mobilenetv2_100"), size=64, seed=0)
    assert built.width == 1280
