"""The space is checked against the schema before anything is trained; depths are block boundaries that fit the disk."""

import numpy as np
import optuna
import pytest

from pawpularity.config import resolve
from pawpularity.data.photo_cache import Photos
from pawpularity.device import choose
from pawpularity.errors import UserError
from pawpularity.models.network import build_network
from pawpularity.training.samples import TrainingData
from pawpularity.tuning.objective import judged, own_values
from pawpularity.tuning.space import DEPTH, Cut, Rule, affordable, cuts_of, read_space, resolved, with_values

CPU = choose("float32", "cpu")


def labelled(n: int, size: int = 32) -> TrainingData:
    scores = np.linspace(5, 95, n)
    return TrainingData(Photos.of(np.zeros((1, size, size, 3), np.uint8)), np.zeros(n, np.int64),
                          np.zeros((n, 12), np.float32), scores, np.arange(n))  # fmt: skip


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("search.space.train.lrr.low=1", 'no such setting; did you mean "train.lr"'),
        ("search.space.train.seed={choices: [1, 2]}", "not for trials to differ in"),
        ("search.space.photos.size={choices: [32, 64]}", "not for trials to differ in"),
        ("search.space.train.lr.low=0.02", "low 0.02 is not below high 0.01"),
        ("search.space.train.lr.hihg=1", 'unknown word hihg; did you mean "high"'),
        ("search.space.train.lr.low=0", "must begin above 0"),
        ("search.space.train.lr.low=abc", "a range needs two numbers"),
        ("search.space.train.lr.high=20", "train.lr=20"),
        ("search.space.train.lr.step=0.001", "both log and step"),
        ("search.space.train.lr.choices=[1e-3]", "both choices and low"),
        ("search.space.train.lr=7", "must be {low"),
        ("search.space.model.dropout.high=0.99", "model.dropout=0.99"),
        ("search.space.model.dropout.step=0.4", "step 0.4 must lie above 0"),
        ("search.space.model.image_width={low: 8, high: 64.5, choices: null}", "whole number"),
        ("search.space.model.image_width={choices: [8, 8]}", "stands there twice"),
        ("search.space.model.image_width={choices: []}", "must be a list"),
        ("search.space.model.image_width={choices: [wide]}", "model.image_width"),
        ("search.space.model.metadata_widths={choices: [[16], []]}", "model.metadata_widths: is empty"),
        ("search.space.model.output={low: 0, high: 1}", "is no number"),
        ("search.space.model.output={choices: [sigmoid, relu]}", "bce needs model.output=sigmoid"),
        ("search.space.model.unfrozen.high=46", "46 is beyond the 45 parameter tensors"),
        ("search.space.model.unfrozen={low: 1, high: 8}", "no block boundary lies in 1..8; they are 9, 21, 30, 36"),
        ("search.space.model.unfrozen.log=true", "are the block boundaries"),
        ("search.pruner=mean", "must be one of median"),
        ("search.fold=5", "folds.k"),
        ("search.trials=0", "1..100000"),
        ("search.space=3", "search.space"),
        ("train.split=leaky", "train.copies=none makes none"),
    ],
)
def test_what_is_wrong_with_a_space_is_one_line(shelter, work, refused, word, said):
    words = ("photos.size=32", word)
    assert said in refused("tune", "--config", "sample", "--data", shelter, *words)
    assert not list(work.glob("oof/studies/*/study")), "nothing was searched"


@pytest.mark.parametrize("name", ["sample", "vgg19_bn", "efficientnet_b7", "swin_large"])
def test_every_config_has_a_space_that_holds(name):
    config = resolve(name)
    rules = {rule.key: rule for rule in read_space(config)}
    assert (DEPTH in rules) == (config.model.unfrozen != "all")
    for rule in rules.values():
        with_values(config, {rule.key: rule.choices[-1] if rule.choices else type(rule.low)(rule.high)})


def test_words_add_rules_change_them_and_take_them_away():
    changed = resolve("sample", ["search.space.train.lr.high=0.5", "search.space.train.weight_decay=null",
                                 "search.space.train.ema={choices: [0.0, 0.9]}"])  # fmt: skip
    rules = {rule.key: rule for rule in read_space(changed)}
    assert (rules["train.lr"].low, rules["train.lr"].high, rules["train.lr"].log) == (2e-4, 0.5, True)
    assert "train.weight_decay" not in rules
    assert rules["train.ema"].choices == (0.0, 0.9)
    with pytest.raises(UserError, match="is empty"):
        read_space(resolve("sample", [f"search.space.{key}=null" for key in resolve("sample").search.space]))


def test_cuts_are_the_places_training_cuts_at():
    config = resolve("small/vgg19_bn", ["photos.size=32"])
    cuts, total = cuts_of(config, CPU)
    assert total == 32
    for cut in cuts:
        network = build_network(resolve("small/vgg19_bn", ["photos.size=32", f"model.unfrozen={cut.unfrozen}"]), fold=0)
        assert network.frozen_blocks == cut.block
        import torch

        state = network.frozen_features(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
        assert state.numel() * 4 == cut.state_bytes
        assert sum(len(block.parameters()) for block in network.split.blocks[cut.block :]) == cut.unfrozen


def test_densenets_depths_are_its_dense_layers():
    """Six tensors a dense layer, two of the last norm: 2 + 6 i; of 50..120 that is 50, 56 .. 116, with 82 for its cut, 86."""
    config = resolve("densenet161", ["model.weights=none", "photos.size=64", "search.depths=fit"])
    said: list[str] = []
    (rule,) = (r for r in resolved(read_space(config), config, labelled(500, 64), CPU, said.append) if r.key == DEPTH)
    every = [82 if depth == 86 else depth for depth in range(50, 121, 6)]
    assert set(rule.choices) <= set(every)
    assert len(rule.choices) == 8
    assert 82 in rule.choices
    assert (rule.choices[0], rule.choices[-1]) == (50, 116)
    assert "of the 12 block boundaries in 50..120" in said[0]
    paper = resolve("densenet161", ["model.weights=none", "photos.size=64", "search.depths=paper"])
    (rule,) = (r for r in resolved(read_space(paper), paper, labelled(500, 64), CPU, said.append) if r.key == DEPTH)
    assert rule.choices == (*every, 122, 128, 134, 140, 146, 149)


def test_depths_share_the_disk():
    """By hand: ten cuts of 2 GB; 20 GB hold eight (the most), 9 GB four, evenly spread, and always the config's own."""
    cuts = [Cut(10 * i, 20 - i, 2_000_000) for i in range(1, 11)]
    assert len(affordable(cuts, None, 1000, 20)) == 8
    assert [c.unfrozen for c in affordable(cuts, None, 1000, 9)] == [10, 40, 70, 100]
    four = affordable(cuts, 50, 1000, 9)
    assert 50 in [c.unfrozen for c in four]
    assert len(four) == 4
    assert len(affordable(cuts, None, 1000, 1)) == 8, "where none fits, the trunk runs in every epoch at any depth"
    dear = [*cuts[:4], Cut(200, 3, 16_000_000)]
    assert [c.unfrozen for c in affordable(dear, None, 1000, 20)] == [10, 20, 30, 40]


def test_draws_stay_inside_and_the_first_trial_is_the_config_itself():
    config = resolve("sample", ["model.weights=none", "photos.size=32"])
    rules = resolved(read_space(config), config, labelled(60), CPU, lambda line: None)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.enqueue_trial(own_values(config, rules))
    for number in range(30):
        trial = study.ask()
        values = {rule.key: rule.draw(trial) for rule in rules}
        assert all(rule.holds(values[rule.key]) for rule in rules)
        tried = with_values(config, values)
        if number == 0:
            assert tried == config
        study.tell(trial, number)
    kept = [Rule.of(rule.key, rule.to_dict()) for rule in rules]
    assert kept == rules


def test_a_trial_is_judged_by_an_inner_split_of_the_searchs_own():
    """Where training keeps its last epoch a trial must run them all; where it stops early, a trial does too."""
    fixed = judged(resolve("sample"))
    assert (fixed.train.stop, fixed.train.stop_patience, fixed.train.inner_share) == ("early", fixed.train.epochs, 0.2)
    early = judged(resolve("densenet161", ["train.refit=true", "search.inner_share=0.3"]))
    assert (early.train.stop_patience, early.train.inner_share, early.train.refit) == (3, 0.3, False)
