"""The paper's four, in full: build, take a step, predict, on real photos and from random weights."""

import numpy as np
import pytest
import torch

from pawpularity.config import resolve
from pawpularity.data.photo_cache import Photos
from pawpularity.data.photos import decode
from pawpularity.data.tables import METADATA, TARGET, read_train
from pawpularity.device import choose
from pawpularity.models.network import build_network
from pawpularity.predictor import score_rows
from pawpularity.training.fit import fit_fold
from pawpularity.training.samples import TrainingData


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet161", "resnet152", "vgg19_bn", "efficientnet_b7", "densenet161,paper"])
def test_a_step_on_real_photos(real, name):
    config = resolve(name, ["model.weights=none", "train.epochs=1", "train.stop=none", "train.schedule=cosine",
                            "train.batch_size=4", "train.copies=none"])  # fmt: skip
    table = read_train(real / "pawpularity-100").head(6)
    photos = np.stack([decode(real / "pawpularity-100" / "train" / f"{i}.jpg", 224, "squash") for i in table["Id"]])
    data = TrainingData(
        Photos.of(photos),
        np.arange(6),
        table[list(METADATA)].to_numpy(np.float32),
        table[TARGET].to_numpy(float),
        np.arange(6),
    )
    compute = choose("auto", "cpu")
    fitted = fit_fold(config, data, np.arange(4), fold=0, compute=compute)
    start = build_network(config, fold=0, training_mean=fitted.training_mean).state_dict()
    now = fitted.network.state_dict()
    frozen = fitted.network.frozen_state().keys()
    assert all(torch.equal(start[k], now[k]) for k in frozen)
    assert any(not torch.equal(start[k], now[k]) for k in now.keys() - frozen if k.startswith("backbone."))
    predicted = score_rows(fitted.network, data.pixels, np.array([4, 5]), data.metadata[4:], compute)
    assert predicted.shape == (2,)
    assert ((predicted >= 1) & (predicted <= 100)).all()
