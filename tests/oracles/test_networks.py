"""Networks: split without a changed bit, cached features that change nothing, and a scored fold that training never sees."""

import numpy as np
import pytest
import timm
import torch
from tests.oracles import adapter
from torch import nn

DENSE = {"growth_rate": 16, "block_config": [2, 4, 6, 4]}
NARROW = {"layers": [2, 2, 2, 2], "channels": [16, 32, 64, 128], "stem_width": 16}
VGG = {"cfg": [16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 128, 128, "M"]}
SWIN = {"depths": [1, 1, 2, 1], "embed_dim": 24, "img_size": 64, "window_size": 2}
# timm's name, arguments, size, at least so many places to split: the paper's four families, then three others.
NETS = {
    "densenet": ("densenet121", DENSE, 64, 16),
    "resnet": ("resnet50", NARROW, 64, 8),
    "vgg": ("vgg_bn", VGG, 64, 8),
    "efficientnet": ("tinynet_e", {}, 64, 10),
    "mobilenet v2": ("mobilenetv2_100", {}, 64, 15),
    "mobilenet v3": ("mobilenetv3_small_050", {}, 64, 10),
    "convnext": ("test_convnext", {}, 64, 5),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, 64, 6),
    "vit": ("test_vit", {}, 160, 5),
}


@pytest.mark.parametrize("family", NETS)
def test_split_anywhere_a_network_equals_timm_to_the_last_bit(family):
    name, arguments, size, places = NETS[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model(name, num_classes=0, **arguments).eval()
        for module in net.modules():  # no BatchNorm may be the identity by chance
            if getattr(module, "running_mean", None) is not None:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.0)
        x = torch.randn(2, 3, size, size)
    assert adapter.split_count(net) >= places
    with torch.inference_mode():
        due = net(x.clone())
        assert due.dtype == torch.float32
        assert due.std() > 0
        for place in range(1, adapter.split_count(net) + 1):
            frozen, rest = adapter.split_at(net, place)
            features = frozen(x.clone())
            assert features.shape != x.shape
            assert torch.equal(rest(features.clone()), due), place


def test_cached_features_train_what_the_plain_loop_trains(sample, tmp_path):
    """One epoch with random views, dropout and a mirrored second look: predictions differ by less than 0.001 points."""
    found = {}
    for way, budget in (("cached", 1), ("plain", 0)):
        at = adapter.checkout(tmp_path / way)
        settings = (*adapter.TOY, "model.weights=drawn", "model.unfrozen=21", "train.epochs=1", "predict.flip=true",
                    f"cache.budget_gb={budget}")  # fmt: skip
        adapter.done(*adapter.training("a", sample, *settings), at=at)
        assert bool(adapter.cached_feature_files(at)) == (way == "cached")
        found[way] = adapter.predictions(at, "a")["prediction"]
    assert found["plain"].std() > 0.2
    assert np.abs(found["cached"] - found["plain"]).max() < 1e-3


EARLY = ("train.stop=early", "train.schedule=plateau", "train.refit=true", "train.copies=authors")


@pytest.mark.parametrize("settings", [(), EARLY], ids=["all epochs", "early stopping, refit, copies"])
def test_a_poisoned_scored_fold_changes_no_weight(settings):
    """Photos turned to their negatives, scores and metadata to NaN, on the scored rows: every trained weight is the same."""
    random = np.random.default_rng(0)
    scores = random.integers(5, 95, 80).astype(float)
    photos = np.clip(scores[:, None, None, None] * 2.2 + random.normal(0, 12, (80, 32, 32, 3)), 0, 255).astype(np.uint8)
    metadata = random.integers(0, 2, (80, 12)).astype(np.float32)

    def fitted(poisoned):
        pixels, targets, columns = photos.copy(), scores.copy(), metadata.copy()
        pixels[poisoned] = 255 - pixels[poisoned]
        targets[poisoned] = columns[poisoned] = np.nan
        return adapter.fit_weights(pixels, targets, columns, np.arange(60), "train.epochs=2", *settings)

    (clean, curve), (other, other_curve) = fitted([]), fitted(np.arange(60, 80))
    assert curve == other_curve
    assert all(np.array_equal(clean[name], other[name]) for name in clean)
    photos[3] = 255 - photos[3]
    touched, _ = fitted([])
    assert not all(np.array_equal(clean[name], touched[name]) for name in clean), "a training photo does change them"


def test_the_metadata_branch_is_used_or_absent(sample, tmp_path):
    """Other metadata move a score only where metadata are used; without any a photo can be scored all the same."""
    at = adapter.checkout(tmp_path / "work")
    photos = np.stack([adapter.pixels(photo, 32) for photo in sorted((sample / "train").iterdir())[:6]])
    for word in ("use", "none"):
        adapter.done(*adapter.training(word, sample, *adapter.TOY, f"model.metadata={word}", fold=0), at=at)
        absent, zeros, ones = (
            adapter.predict_pixels(at, word, photos, columns) for columns in (None, np.zeros((6, 12)), np.ones((6, 12)))
        )
        assert np.allclose(zeros, ones, atol=1e-4) == (word == "none")
        assert np.allclose(zeros, absent, atol=1e-4) == (word == "none")
        assert np.isfinite(absent).all()
