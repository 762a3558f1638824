"""The workflow on GitHub runs this project's own commands, with a Python that the project takes."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]


def _verbs() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@pytest.mark.parametrize("job", JOBS)
def test_every_command_is_a_verb_or_the_rehearsal(job: str) -> None:
    commands = [line for step in JOBS[job]["steps"] for line in step.get("run", "").splitlines()]
    assert commands
    for command in commands:
        program, name, *rest = command.split()
        assert not rest
        if program == "make":
            assert name in _verbs()
        else:
            assert (program, name) == ("bash", ".ci/run")
            assert (ROOT / name).is_file()


@pytest.mark.parametrize("job", JOBS)
def test_python_is_one_the_project_takes_and_pip_is_cached_by_the_pins(job: str) -> None:
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    (python,) = [step["with"] for step in JOBS[job]["steps"] if "setup-python" in step.get("uses", "")]
    # A bare 3.10 in YAML is the number 3.1.
    assert isinstance(python["python-version"], str)
    assert _version(python["python-version"]) >= _version(least)
    assert python["cache"] == "pip"
    files = python["cache-dependency-path"].split()
    assert files
    assert all((ROOT / file).is_file() for file in files)


def test_the_rehearsal_is_among_them_and_every_job_ends() -> None:
    steps = [step.get("run") for job in JOBS.values() for step in job["steps"]]
    assert {"bash .ci/run", "make lint", "make test"} <= set(steps)
    assert all(0 < job["timeout-minutes"] <= 90 for job in JOBS.values())
