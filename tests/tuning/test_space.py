"""The space is checked against the schema before anything is trained; depths are block boundaries that fit the disk."""

import numpy as np
import optuna
import pytest
import torch

from pawpularity.config import resolve
from pawpularity.data.photo_cache import Photos
from pawpularity.device import choose
from pawpularity.errors import UserError
from pawpularity.models.network import build_network
from pawpularity.training.samples import TrainingData
from pawpularity.tuning.objective import trial_config
from pawpularity.tuning.space import (
    DEPTH,
    Cut,
    affordable,
    cuts_of,
    decoded,
    draw,
    own_values,
    read_space,
    resolved,
)

CPU = choose("float32", "cpu")
RESNET = "photos.size=32"


def labelled(n: int, size: int = 32) -> TrainingData:
    scores = np.linspace(5, 95, n)
    return TrainingData(Photos.of(np.zeros((1, size, size, 3), np.uint8)), np.zeros(n, np.int64),
                          np.zeros((n, 12), np.float32), scores, np.arange(n))  # fmt: skip


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("search.space.train.lrr.low=1", '"train.lr"'),
        ("search.space.train.seed={choices: [1, 2]}", "train.seed"),
        ("search.space.photos.size={choices: [32, 64]}", "photos.size"),
        ("search.space.train.lr.low=0.02", "`low <= high`"),
        ("search.space.train.lr.hihg=1", '"high"'),
        ("search.space.train.lr.low=0", "train.lr=0:"),
        ("search.space.train.lr.low=abc", "train.lr=abc"),
        ("search.space.train.lr.high=20", "train.lr=20"),
        ("search.space.train.lr.step=0.001", "`step`"),
        ("search.space.train.lr.choices=[1e-3]", "both choices"),
        ("search.space.train.lr=7", "{low"),
        ("search.space.model.dropout.high=0.99", "model.dropout=0.99"),
        ("search.space.model.image_width={low: 8, high: 64.5, choices: null}", "whole number"),
        ("search.space.model.image_width={choices: []}", "choices"),
        ("search.space.model.image_width={choices: [wide]}", "model.image_width"),
        ("search.space.model.metadata_widths={choices: [[16], []]}", "model.metadata_widths"),
        ("search.space.model.output={low: 0, high: 1}", "model.output=0"),
        ("search.space.model.output={choices: [sigmoid, relu]}", "model.output"),
        ("search.space.model.unfrozen={low: 1, high: 8}", "search.space.model.unfrozen.low=9"),
        ("search.pruner=mean", "median"),
        ("search.fold=5", "folds.k"),
        ("search.trials=0", "1..100000"),
        ("search.space=3", "search.space"),
        ("train.split=leaky", "train."),
    ],
)
def test_what_is_wrong_with_a_space_is_one_line(shelter, work, refused, word, said):
    assert said in refused("tune", "--config", "sample", "--data", shelter, RESNET, word)
    assert not list(work.glob("oof/studies/*/study")), "nothing was searched"


@pytest.mark.parametrize("depths", ["fit", "paper"])
def test_a_network_without_a_boundary_is_told_what_to_set(depths):
    """One that cannot be split has no boundary at all."""
    config = resolve("default", ["model.backbone=test_resnet", "model.weights=none", RESNET, f"search.depths={depths}"])
    with pytest.raises(UserError, match=r"search\.space\.model\.unfrozen\.low=9 .*high=42"):
        resolved(read_space(config), config, labelled(60), CPU)
    whole = config.with_values({"model.backbone": "ghostnet_100", "search.space": {DEPTH: {"low": 1, "high": 10}}})
    with pytest.raises(UserError, match=r"search\.space\.model\.unfrozen=null"):
        resolved(read_space(whole), whole, labelled(60), CPU)


@pytest.mark.parametrize("name", ["sample", "vgg19_bn", "efficientnet_b7", "swin_large"])
def test_every_config_searches_depth_widths_dropout_and_rate(name):
    config = resolve(name)
    space = read_space(config)
    assert {"model.fusion_widths", "model.image_width", "model.dropout", "train.lr"} <= space.keys()
    assert (DEPTH in space) == (config.model.unfrozen != "all")


def test_words_add_rules_change_them_and_take_them_away():
    changed = resolve("sample", ["search.space.train.lr.high=0.5", "search.space.train.weight_decay=null",
                                 "search.space.train.ema={choices: [0.0, 0.9]}"])  # fmt: skip
    space = read_space(changed)
    assert (space["train.lr"].low, space["train.lr"].high, space["train.lr"].log) == (2e-4, 0.5, True)
    assert "train.weight_decay" not in space
    assert space["train.ema"].choices == (0.0, 0.9)
    listed = resolve("sample", ["search.space.train.augment={choices: [flip, strong]}", "train.augment=strong"])
    flip, strong = read_space(listed)["train.augment"].choices
    assert (flip, decoded(strong)) == ("flip", listed.train.transforms), "the list itself, whatever its file says later"
    with pytest.raises(UserError, match="is empty"):
        read_space(resolve("sample", [f"search.space.{key}=null" for key in resolve("sample").search.space]))


def test_cuts_are_the_places_training_cuts_at():
    config = resolve("small/vgg19_bn", [RESNET])
    for cut in cuts_of(config, CPU):
        network = build_network(config.with_values({DEPTH: cut.unfrozen}), fold=0)
        assert network.frozen_blocks == cut.block
        state = network.frozen_features(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
        assert state.numel() * 4 == cut.state_bytes
        assert sum(len(block.parameters()) for block in network.split.blocks[cut.block :]) == cut.unfrozen


@pytest.mark.parametrize("depths", ["fit", "paper"])
def test_densenets_depths_are_its_dense_layers(depths, capsys):
    """Six tensors a dense layer, two of the last norm: 2 + 6 i; of 50..120 that is 50, 56 .. 116, with 82 for its cut, 86."""
    config = resolve("densenet161", ["model.weights=none", "photos.size=64", f"search.depths={depths}"])
    choices = resolved(read_space(config), config, labelled(500, 64), CPU)[DEPTH].choices
    every = [82 if depth == 86 else depth for depth in range(50, 121, 6)]
    if depths == "paper":
        assert choices == (*every, 122, 128, 134, 140, 146, 149)
        return
    assert set(choices) <= set(every)
    assert len(choices) == 8
    assert 82 in choices
    assert (choices[0], choices[-1]) == (50, 116)
    assert "of the 12 block boundaries in 50..120" in capsys.readouterr().err


def test_depths_share_the_disk():
    """By hand: ten cuts of 2 GB; 20 GB hold eight (the most), 9 GB four, and always the config's own."""
    cuts = [Cut(10 * i, 20 - i, 2_000_000) for i in range(1, 11)]
    assert len(affordable(cuts, None, 1000, 20)) == 8
    assert len(affordable(cuts, None, 1000, 9)) == 4
    assert len(affordable(cuts, None, 1000, 1)) == 8, (
        "where none fits, the frozen part runs in every epoch at any depth"
    )
    for own in range(10, 110, 10):
        assert own in [cut.unfrozen for cut in affordable(cuts, own, 1000, 5)]
    dear = [*cuts[:4], Cut(200, 3, 16_000_000)]
    assert [cut.unfrozen for cut in affordable(dear, None, 1000, 20)] == [10, 20, 30, 40]


def test_draws_stay_inside_and_the_first_trial_is_the_config_itself():
    config = resolve("sample", ["model.weights=none", RESNET])
    space = resolved(read_space(config), config, labelled(60), CPU)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.enqueue_trial(own_values(config, space))
    seen = set()
    for number in range(30):
        trial = study.ask()
        values = draw(trial, space)
        assert 2e-4 <= values["train.lr"] <= 1e-2
        tried = config.with_values(values)
        assert (tried == config) is (number == 0)
        seen.add(str(values["model.fusion_widths"]))
        study.tell(trial, number)
    assert len(seen) > 1, "lists of widths are drawn"


def test_a_trial_is_judged_by_an_inner_split_of_the_searchs_own():
    """Where training keeps its last epoch a trial must run them all; where it stops early, a trial does too."""
    fixed = trial_config(resolve("sample"))
    assert (fixed.train.stop, fixed.train.stop_patience, fixed.train.inner_share) == ("early", fixed.train.epochs, 0.2)
    early = trial_config(resolve("densenet161", ["train.refit=true", "search.inner_share=0.3"]))
    assert (early.train.stop_patience, early.train.inner_share, early.train.refit) == (3, 0.3, False)
