"""Training the head on cached features is the plain loop, only faster: same batches, same answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pawpularity.config import resolve
from pawpularity.data.photo_cache import Photos
from pawpularity.device import choose
from pawpularity.features.build import FeatureCache
from pawpularity.features.load import PixelInputs
from pawpularity.predictor import score_heads, score_rows
from pawpularity.training.fit import fit_fold
from pawpularity.training.samples import TrainingData

CPU = choose("float32", "cpu")
SIZE = 32


@pytest.fixture(scope="module")
def photos():
    random = np.random.default_rng(0)
    scores = random.integers(5, 95, 120).astype(float)
    pixels = scores[:, None, None, None] * 2.2 + random.normal(0, 12, (120, SIZE, SIZE, 3))
    return Photos.of(np.clip(pixels, 0, 255).astype(np.uint8)), scores


def labelled(photos, cache=None):
    decoded, scores = photos
    return TrainingData(decoded, np.arange(120), np.zeros((120, 12), np.float32), scores, np.arange(120), cache)


def kept(photos, folder, budget_gb=1.0):
    decoded = replace(photos[0], key="k")
    return labelled((decoded, photos[1]), FeatureCache(folder / "features", decoded, SIZE, budget_gb))


def config(name, *words):
    return resolve(name, [f"photos.size={SIZE}", "model.unfrozen=8", "train.batch_size=16", "train.warmup_epochs=0",
                          "train.dtype=float32", *words])  # fmt: skip


WAYS = {"copies": ("train.copies=authors", "train.augment=flip"), "strong": ("train.augment=strong",)}


@pytest.mark.parametrize("name", ["small/densenet161", "small/resnet152", "small/vgg19_bn", "small/efficientnet_b7"])
@pytest.mark.parametrize("words", WAYS.values(), ids=WAYS)
def test_same_answer_as_the_plain_loop(photos, tmp_path, name, words):
    words = (*words, "train.frozen_bn=true", "train.lr=1e-3")
    training, held = np.arange(100), np.arange(100, 120)

    def predicted(epochs, data):
        fitted = fit_fold(config(name, *words, f"train.epochs={epochs}"), data, training, fold=0, compute=CPU)
        return score_rows(fitted.network, PixelInputs(data.photos, data.photo_rows), held, data.metadata[held], CPU)

    one = [predicted(1, data) for data in (labelled(photos), kept(photos, tmp_path))]
    assert np.abs(one[0] - one[1]).max() <= 1e-3
    assert list(tmp_path.rglob("features.bin"))
    ten = [predicted(10, data) for data in (labelled(photos), kept(photos, tmp_path))]
    assert np.corrcoef(*ten)[0, 1] >= 0.999


def test_cached_features_are_used_by_themselves_and_no_photo_is_read_again(photos, tmp_path, monkeypatch):
    data = kept(photos, tmp_path)
    words = ("train.epochs=2", "train.augment=none", "train.stop=early", "train.schedule=plateau")
    fit_fold(config("small/resnet152", *words), data, np.arange(100), fold=0, compute=CPU)
    blind = replace(data.photos, rows=None)
    blind_data = labelled((blind, photos[1]), FeatureCache(tmp_path / "features", blind, SIZE, 1.0))
    fit_fold(config("small/resnet152", *words), blind_data, np.arange(100), fold=1, compute=CPU)


def test_manifold_mixup_is_the_same_with_the_frozen_part_in_the_loop(photos, tmp_path):
    words = ("train.manifold_mixup=0.3", "train.epochs=1", "train.frozen_bn=true")
    states = [
        fit_fold(config("small/vgg19_bn", *words), data, np.arange(100), fold=0, compute=CPU).network.trained_state()
        for data in (labelled(photos), kept(photos, tmp_path))
    ]
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-3, atol=1e-4)


def test_frozen_bn_keeps_statistics_and_trains_scale(photos):
    from pawpularity.models.network import build_network

    for frozen in (True, False):
        settings = config("small/resnet152", "train.epochs=1", f"train.frozen_bn={frozen}")
        start = build_network(settings, fold=0).state_dict()
        fitted = fit_fold(settings, labelled(photos), np.arange(100), fold=0, compute=CPU)
        now, trained = fitted.network.state_dict(), fitted.network.trained_state().keys()
        statistics = [name for name in now if "layer4.1" in name and "running" in name]
        assert statistics
        assert all(torch.equal(start[name], now[name]) == frozen for name in statistics)
        assert all((name in trained) != frozen for name in statistics)
        assert not torch.equal(start["backbone.layer4.1.bn3.weight"], now["backbone.layer4.1.bn3.weight"])


def test_many_heads_on_one_frozen_part_answer_as_whole_networks(photos):
    data, rows = labelled(photos), np.arange(120)
    fitted = [
        fit_fold(config("small/densenet161", "train.epochs=2"), data, np.arange(100), fold=fold, compute=CPU).network
        for fold in range(3)
    ]
    together = score_heads(fitted, PixelInputs(data.photos, data.photo_rows), rows, None, CPU)
    with torch.inference_mode():
        pixels = torch.from_numpy(data.photos.pixels)
        apart = np.stack([
            torch.cat([net.clipped(net(pixels[at : at + 64])) for at in (0, 64)]).numpy() for net in fitted
        ])  # fmt: skip
    assert np.abs(together - apart).max() <= 1e-4
    assert len({row.tobytes() for row in together}) == 3


def test_prediction_reads_the_features_that_training_cached(work, shelter, paw):
    from pathlib import Path

    from pawpularity import Predictor
    from pawpularity.data.dataset import Dataset

    words = ("--config", "sample", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "folds.k=2")
    assert paw("train", "--data", shelter, *words, "--run", "r").code == 0
    predictor = Predictor.load("oof/r")
    photos = Dataset.load(shelter, Path(".cache")).photos(32, "squash")
    cache = FeatureCache(Path(".cache/features"), photos, 32, 20.0)
    asked = []

    class Watched(FeatureCache):
        def open(self, *words, **more):
            asked.append(super().open(*words, **more))
            return asked[-1]

    kept = predictor.predict(photos, cache=Watched(cache.folder, photos, 32, 20.0))
    assert asked[0] is not None
    np.testing.assert_allclose(kept, predictor.predict(photos), atol=1e-4)
    np.testing.assert_allclose(kept, predictor.predict(photos.pixels), atol=1e-4)
    both = predictor.predict(photos, flip=True, cache=Watched(cache.folder, photos, 32, 20.0))
    assert asked[1] is None, "mirror images were never asked for in training: the photos are used"
    assert not np.array_equal(both, kept)
