"""Every command in the documents is one that make and the command line take; links, pins and licences are those that hold."""

import re
import shlex
import tomllib

import pytest
import timm
import typer
import yaml
from tests.conftest import ROOT

from pawpularity import cli
from pawpularity.command_line import make_words, spread
from pawpularity.config import resolve

DOCUMENTS = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in ("log.md", "changelog.md")),
]
GROUP = typer.main.get_command(cli.app)
HOUSE = {"help", "setup", "test", "test-oldest", "lint"}


def commands(document):
    """Lines of code blocks and inline code, without remarks; brackets of what is optional are taken away."""
    text = document.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    lines = [re.sub(r"(\\?\|[\w.-]+)+|(?<==name) or CSV", "", line) for line in lines]  # of alternatives the first
    return [re.sub(r"\[([^]]*)\]", r" \1 ", line.split(" #")[0]) for line in lines]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_is_taken(document):
    for line in commands(document):
        pattern = {"COMMAND", "VERB", "key=value"} & set(line.split())
        if line.startswith("make ") and not pattern:
            goal, *words = shlex.split(line.replace("=...", "=x").replace("...", ""))[1:]
            if goal in HOUSE or goal.startswith("PYTHON="):
                continue
            given = [f"{word}".replace("\\", "\\\\").replace(" ", "\\ ").replace("$", "$$") for word in reversed(words)]
            take(make_words(GROUP, goal, f" -- {' '.join(given)}"), line)
        found = re.match(r"(?:\.venv/bin/|accelerate launch .*-m )?pawpularity ([a-z].*)", line)
        if found and not pattern:
            take(shlex.split(found[1]), line)


def take(words, line):
    command = GROUP.commands[words[0]]
    parsed = command.make_context(words[0], spread(command, words[1:]))
    if parsed.params.get("settings"):
        resolve(parsed.params.get("config") or "sample", parsed.params["settings"])
    assert parsed, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_linked_files_are_there(document):
    for link in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        assert "://" in link or (document.parent / link).exists(), link


def test_the_workflow_runs_this_projects_own_commands():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = {line for job in jobs.values() for step in job["steps"] for line in step.get("run", "").splitlines()}
    assert commands == {"make lint", "make test", "bash .ci/run"}


def test_the_oldest_versions_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = dict(re.fullmatch(r"([\w-]+)[>=]=([\d.]+)", line).groups() for line in project["dependencies"])
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "constraints-oldest.txt").read_text(), re.MULTILINE))
    for name, bound in bounds.items():
        assert (pinned[name] + ".").startswith(bound + "."), name


def test_licences_in_the_model_card_are_those_timm_states():
    stated = dict(
        re.findall(r"^\| `([^`]+\.[^`]+)` \| (\S+) \|$", (ROOT / "docs/model_card.md").read_text(), re.MULTILINE)
    )
    configs = [yaml.safe_load(path.read_text()) or {} for path in (ROOT / "configs").glob("*.yaml")]
    used = {
        c["model"]["backbone"]
        for c in configs
        if "backbone" in c.get("model", {}) and c["model"].get("weights") != "none"
    }
    assert set(stated) == used
    for name, licence in stated.items():
        assert timm.models.get_pretrained_cfg(name).license == licence
