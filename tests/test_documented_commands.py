"""Every `make` line of the documents names a verb and words that it takes, and every linked file is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()
VERBS = set(re.findall(r"^([a-z][a-z0-9-]*):.*## ", MAKEFILE, re.MULTILINE))
WORDS = {verb: set(words.split()) for verb, words in re.findall(r"^WORDS_(\S+) := (.*)$", MAKEFILE, re.MULTILINE)}


def _commands(text: str) -> list[str]:
    """Lines of code blocks and inline code that start with make, without their remarks and the brackets of what is optional."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`]+)`", prose)
    return [re.sub(r"[\[\]]", " ", line.split(" #")[0]) for line in lines if line.startswith("make ")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.name))
def test_make_lines_name_verbs_and_words_that_they_take(document: Path) -> None:
    for command in _commands(document.read_text()):
        bare = re.sub(r'"[^"]*"', "x", command)
        words = set(re.findall(r"\b([A-Z][A-Z_]*)=", bare)) - {"PYTHON", "VENV"}
        verbs = [word for word in bare.split()[1:] if re.fullmatch(r"[a-z][a-z0-9-]*", word)]
        if "VERB" in bare.split() or (not verbs and words <= {"PYTHON", "VENV"}):
            continue
        assert verbs, command
        assert verbs[0] in VERBS, command
        assert words <= WORDS.get(verbs[0], set()), command


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.name))
def test_linked_files_are_there(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if "://" not in link:
            assert (document.parent / link).exists(), link
