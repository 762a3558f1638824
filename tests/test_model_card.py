"""The model card names every backbone of the configs with the licence timm states, and README's own figures."""

import json
import re
from importlib.resources import files
from pathlib import Path

import timm
import yaml

ROOT = Path(__file__).parents[1]
CARD = (ROOT / "docs/model_card.md").read_text()


def test_licences_are_those_timm_states() -> None:
    stated = dict(re.findall(r"^\| `([^`]+\.[^`]+)` \| (\S+) \|$", CARD, re.MULTILINE))
    configs = [yaml.safe_load(path.read_text()) or {} for path in (ROOT / "configs").glob("*.yaml")]
    used = {config["model"]["backbone"] for config in configs if "backbone" in config.get("model", {})}
    # `scratch` starts from random weights, or from the packaged ones.
    assert set(stated) == used - {"test_resnet"}
    for name, licence in stated.items():
        cfg = timm.models.get_pretrained_cfg(name)
        assert cfg is not None
        assert cfg.license == licence


def test_the_packaged_net_is_described_by_its_own_record() -> None:
    record = json.loads((files("pawpularity") / "model/pretrained/test_resnet.drawn.json").read_text())
    assert f"`{record['file']}` ({record['parameters']:,} parameters), is under the {record['licence']} licence" in CARD
    assert f"{record['data']['photos']:,} drawn" in CARD


def test_figures_are_those_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text().replace("**", "")
    rows = re.findall(r"^\| `(sample|scratch)` \| 600 drawn \| (.+) \| (.+) \| (.+) \| (.+) \|$", CARD, re.MULTILINE)
    assert len(rows) == 2
    for name, error, interval, constant, r2 in rows:
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| `{name}`:")]
        cells = [cell.strip() for cell in row.split("|")]
        assert [error, interval, constant] == cells[3:6]
        assert r2 == cells[7]
