"""Which device is chosen, and in which format it computes; GPUs stand in for themselves, as torch would tell of them."""

import pytest
import torch

from pawpularity.device import choose
from pawpularity.errors import UserError

TOY = ("photos.size=32", "model.backbone=test_resnet", "model.weights=none", "train.epochs=1", "train.warmup_epochs=0",
       "train.dtype=float32")  # fmt: skip
CAPABLE = {0: (7, 5), 1: (8, 0)}  # a T4 beside an A100


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, the first of them the current one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device=None: CAPABLE[torch.device(device or 0).index or 0]
    )


@pytest.fixture
def none(monkeypatch):
    """No GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_an_empty_word_asks_for_nothing(none, shelter, work, paw, monkeypatch):
    monkeypatch.delenv("PAWPULARITY_DEVICE", raising=False)
    unset = choose()
    monkeypatch.setenv("PAWPULARITY_DEVICE", "")
    assert choose() == unset
    done = paw("train", "--data", shelter, "--fold", "0", "--run", "a", *TOY)
    assert done.code == 0, done.err


def test_what_is_not_here_is_one_line(none, shelter, work, refused, monkeypatch):
    monkeypatch.setenv("PAWPULARITY_DEVICE", "cuda")
    line = refused("train", "--data", shelter, "--fold", "0", "--run", "a", *TOY)
    assert line == "device cuda: is not here; available: cpu"


@pytest.mark.parametrize(
    ("here", "wanted"),
    [*(("none", name) for name in ("cpu:x", "cpu:", "cpu:1", "cpu:-1", "cpu:00", "cpu:0:0", "gpu", "cuda:0", "mps", ":")),
     *(("gpus", name) for name in ("cuda:2", "cuda:9", "cuda:x", "cuda:", "cuda:٠"))],
)  # fmt: skip
def test_a_wrong_name_is_refused_beside_what_there_is(request, here, wanted):
    request.getfixturevalue(here)
    with pytest.raises(UserError, match="available: cpu" + (", cuda:0 to cuda:1" if here == "gpus" else "$")) as caught:
        choose(device=wanted)
    assert str(caught.value).startswith(f"device {wanted}: ")


@pytest.mark.parametrize(
    ("wanted", "dtype"),
    [("cuda", torch.float16), ("cuda:0", torch.float16), ("cuda:1", torch.bfloat16)],
)
def test_the_format_is_that_of_the_gpu_named(gpus, monkeypatch, wanted, dtype):
    monkeypatch.setenv("PAWPULARITY_DEVICE", wanted)
    found = choose()
    assert (str(found.device), found.dtype) == (wanted, dtype)
