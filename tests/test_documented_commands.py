"""Every command of the documents is one that make and the command line take, and every verb stands in README and is run."""

import re
import shlex
from pathlib import Path

import pytest

from pawpularity import cli
from pawpularity.config import resolve

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()
VERBS = set(re.findall(r"^([a-z][a-z0-9-]*):.*## ", MAKEFILE, re.MULTILINE))
WORDS = {verb: set(words.split()) for verb, words in re.findall(r"^WORDS_(\S+) := (.*)$", MAKEFILE, re.MULTILINE)}


def _commands(text: str) -> list[str]:
    """Lines of code blocks and inline code that start with make, without their remarks and the brackets of what is optional."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    # Of alternatives (a\|b\|c; a or b) the first.
    lines = [re.sub(r"(\\\|\w+)+|(?<==name) or CSV", "", line) for line in lines]
    return [re.sub(r"\[([^]]*)\]", r" \1 ", line.split(" #")[0]) for line in lines]


def _make_lines(document: Path) -> list[str]:
    """Those for make that are whole, not patterns for others."""
    return [
        line
        for line in _commands(document.read_text())
        if line.startswith("make ") and "VERB" not in line and "key=value" not in line
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.name))
def test_make_lines_are_taken_by_make_the_command_and_the_schema(document: Path, make) -> None:
    """Typed as they stand, at a make whose commands only write down what they are told."""
    for line in _make_lines(document):
        words = shlex.split(line.replace("=...", "=x").replace("...", ""))[1:]
        settings = {word for word in words if word.startswith(("PYTHON=", "VENV="))}
        if len(words) == 1 or settings == set(words):  # the verb's name, in prose
            assert settings or words[0] in VERBS, line
            continue
        done, told = make(*words)
        assert done.returncode == 0, (line, done.stderr)
        for given in told:
            if given[0] != "-m":
                _take(given, line)


def _take(words: list[str], line: str) -> None:
    known = cli.verbs()
    options = cli._parse(known, words)
    assert options.verb, line
    if known[options.verb].configured and options.settings:
        resolve(options.config or "sample", options.settings)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.name))
def test_lines_for_the_command_itself_are_taken(document: Path) -> None:
    for line in _commands(document.read_text()):
        command = re.search(r"(?:^|[ /])pawpularity ([a-z].*)", line)
        if (
            command
            and line.startswith(("pawpularity ", ".venv/bin/pawpularity ", "torchrun "))
            and "key=value" not in line
        ):
            _take(shlex.split(command[1]), line)


def test_every_verb_stands_in_readme_and_is_run_by_ci_or_a_test() -> None:
    readme = {
        line.split()[1]
        for line in _commands((ROOT / "README.md").read_text())
        if line.startswith("make ") and len(line.split()) > 1
    }
    assert readme >= VERBS - {"help"}
    ci = set(re.findall(r"^ *step make ([a-z0-9-]+)", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    tests = "".join(
        path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path.name != Path(__file__).name
    )
    run = {verb for verb in VERBS if re.search(rf"""(paw|refused|main|words)\(\[?\*?['"]{verb}['"]""", tests)}
    assert run | ci >= VERBS - {"setup", "help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.name))
def test_linked_files_are_there(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if "://" not in link:
            assert (document.parent / link).exists(), link
