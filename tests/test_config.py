"""The settings: defaults, files, words; what is unknown or out of range is named with its cure."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import ROOT

from pawpularity.config import Config, all_keys, default_yaml, resolve, run_name
from pawpularity.errors import UserError

CONFIGS = sorted(
    str(path.relative_to(ROOT / "configs").with_suffix(""))
    for path in (ROOT / "configs").rglob("*.yaml")
    if path.parent.name not in ("encoders", "augment")
)


def test_default_yaml_is_generated_from_the_models():
    assert (ROOT / "configs/default.yaml").read_text() == default_yaml()
    assert yaml.safe_load(default_yaml()) == {k: v for k, v in Config().to_dict().items() if k != "name"}
    assert resolve("default") == Config()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_resolves_and_survives_json(name):
    config = resolve(name)
    assert config.name == run_name(name)
    assert Config.model_validate(json.loads(json.dumps(config.to_dict()))) == config


def test_later_layers_win():
    config = resolve("densenet161,paper", ["train.lr=3e-4", "train.lr=2e-4", "model.unfrozen=all"])
    assert (config.train.lr, config.model.unfrozen, config.model.output) == (2e-4, "all", "relu")
    assert config.name == "densenet161-paper"
    assert resolve("small/vgg19_bn").model.args != {}
    assert resolve("small/vgg19_bn", ["model.backbone=resnet18"]).model.args == {}, "they belong to another backbone"
    space = resolve("sample", ["search.space.train.lr.low=1e-6", "search.space.model.dropout=null"]).search.space
    assert space["train.lr"]["low"] == 1e-6
    assert space["train.lr"]["high"] > 1e-3
    assert space["model.dropout"] is None


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("lr=0.1", '"train.lr"'), ("train.lrr=1", '"train.lr"'), ("trian.lr=1", '"train.lr"'), ("train.lr=20", "1e-09..10"),
        ("train.lr=nan", "number"), ("train.lr=true", "number"), ("train.epochs=2.5", "whole number"), ("train.loss=mea", "huber"),
        ("train.frozen_bn=1", "true or false"), ("model.unfrozen=-1", "4 blocks"),
        ("train.loss=ordinal", "output=ordinal"), ("model.metadata_widths=[0]", "list"),
        ("folds=3", "folds.k"), ("train.lr", "key=value"), ("name=x", "--run"), ("model.metadata_widths=[16", "[16,32]"),
        ("model.metadata_widths=[]", "metadata=none"), ("train.warmup_epochs=99", "warmup"), ("train.split=leaky", "copies"),
        ("train.views=3", "strong"), ("model.output=relu", "bce"), ("search.fold=9", "folds.k"),
        ("explain.methods=[rise,rise]", "once"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_one_line_with_its_cure(word, key):
    with pytest.raises(UserError) as caught:
        resolve("densenet161", [word])
    line = str(caught.value)
    assert key in line
    assert "\n" not in line
    assert word.partition("=")[0] in line


@settings(deadline=None)
@given(st.sampled_from(sorted(all_keys())), st.text(max_size=20))
def test_no_text_behind_a_key_is_a_traceback(key, text):
    with suppress(UserError):
        config = resolve("default", [f"{key}={text}"])
        assert Config.model_validate(config.to_dict()) == config


@pytest.mark.parametrize(
    ("text", "key"),
    [("train: {lr: 0}", "mine.yaml"), ("train: {lrr: 1}", "train.lr"), ("[1]", "mine.yaml"), ("a: [", "mine.yaml"),
     ("base: mine", "mine"), ("trian: {lr: 1}", "train.lr"), ("train: 3", "train")],
)  # fmt: skip
def test_a_wrong_file_is_named(text, key, work, monkeypatch):
    (work / "configs").unlink()
    (work / "configs").mkdir()
    (work / "configs/default.yaml").symlink_to(ROOT / "configs/default.yaml")
    Path("configs/mine.yaml").write_text(text)
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        resolve("mine", ["train.batch_size=8"])


def test_with_values_checks_what_it_changes():
    config = resolve("sample")
    assert config.with_values({"train.lr": 0.5}).train.lr == 0.5
    with pytest.raises(UserError, match="number"):
        config.with_values({"train.lr": "x"})
