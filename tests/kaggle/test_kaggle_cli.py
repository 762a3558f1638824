"""How the kaggle command is asked, against a stand-in for it."""

import sys

import pytest

from pawpularity.kaggle.kaggle_cli import Kaggle


@pytest.fixture
def slow(tmp_path):
    """A command that says a line, and says the next after ten seconds."""
    program = tmp_path / "kaggle"
    program.write_text(f"#!{sys.executable}\nimport time\nprint('first', flush=True)\ntime.sleep(10)\nprint('last')\n")
    program.chmod(0o755)
    return Kaggle(str(program))


def test_a_command_that_outlasts_its_time_is_ended(slow):
    answer = slow.ask("x", timeout_s=1.0)
    assert answer.code != 0
    assert (answer.out, answer.last) == ("", "no answer within 1 s: timed out")


def test_lines_are_shown_without_a_time_limit_alone(slow):
    """Nobody looks at a clock while a line is waited for, so a limit would be a promise that is not kept."""
    for words in ({}, {"timeout_s": 1.0}, {"timeout_s": None, "meanwhile": list}):
        with pytest.raises(ValueError, match="timeout_s=None"):
            slow.ask("x", show=print, **words)
