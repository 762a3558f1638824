"""Presets of `make compete`: every config, list and head they name is there, and a wrong word costs nothing."""

from pathlib import Path

import pytest

from pawpularity.config import config_path
from pawpularity.heads.fit import METHODS
from pawpularity.pipeline.compete import PRESETS, preset_for
from pawpularity.runs import KEPT_HEADS


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_what_is_there(name):
    preset = PRESETS[name]
    assert all(config_path(config) for config in preset.configs)
    assert all(config_path(f"encoders/{encoders}") for encoders in preset.encoders)
    assert set(preset.heads) <= set(KEPT_HEADS) <= set(METHODS)


def test_drawn_data_gets_small_networks_for_the_papers_preset(shelter):
    assert all(config.startswith("small/") for config in preset_for("paper", shelter).configs)
    assert preset_for("laptop", shelter) == PRESETS["laptop"]


@pytest.mark.parametrize("words", [("--preset", "lptop"), ("--config", "lite0"), ("model.backbone=test_resnet",), ()])
def test_wrong_words_and_no_consent_train_nothing(shelter, work, refused, words):
    said = refused("compete", "--data", shelter, *words, "photos.size=32", "model.weights=none")
    assert not list(Path("oof").glob("*/config.json"))
    if words[:1] == ("--preset",):
        assert '"laptop"' in said
