"""What a room tells the command line about its verbs. Imports nothing heavy."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Verb:
    """One word of the command line."""

    name: str
    help: str
    run: Callable[[argparse.Namespace], None]
    """Imports what it needs inside, so that other verbs need not wait for it."""
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    configured: bool = True
    """Takes --config, --data and key=value words."""


def say(line: str) -> None:
    """One line for the user, on standard error: standard output is for results that programs read."""
    print(line, file=sys.stderr, flush=True)


def agreed(question: str) -> bool:
    """Ask at the terminal; the end of input is a no."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def give(value: Any, text: str, destination: str | None) -> None:
    """Print `text`, and write `value` as JSON to `destination` if given; for `-` the JSON is all that is printed."""
    from pawpularity.files import write_json

    if destination == "-":
        print(json.dumps(value, indent=2, allow_nan=False))
        return
    print(text)
    if destination:
        write_json(Path(destination), value)


def json_argument(parser: argparse.ArgumentParser) -> None:
    """`--json FILE` (`-` = standard output) for verbs that print a table."""
    parser.add_argument("--json", metavar="FILE", help="also write the table as JSON (- = standard output, alone)")


def run_argument(parser: argparse.ArgumentParser) -> None:
    """`--run NAME`."""
    parser.add_argument("--run", metavar="NAME", help="the run's folder below oof/ (default: the config's name)")
