"""Temporary: the argparse helpers of the rooms' verbs.py, until cli.py declares every command itself."""

import argparse
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pawpularity.errors import UserError


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


def names_in(options: argparse.Namespace, option: str) -> list[str]:
    """The names given to an option that takes several, separated by spaces or commas; [] if it was not given.

    argparse hands key=value words that follow them to the option too: those go to `options.settings`.
    """
    given: list[str] = getattr(options, option) or []
    options.settings = [*options.settings, *(word for word in given if "=" in word)]
    return [name for word in given if "=" not in word for name in re.split(r"[\s,]+", word) if name]


def json_argument(parser: argparse.ArgumentParser) -> None:
    """`--json FILE` (`-` = standard output) for verbs that print a table."""
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=lambda given: given if given in ("", "-") else _destination("--json", given),
        help="also write the table as JSON (- = standard output, alone)",
    )


def out_argument(parser: argparse.ArgumentParser, about: str) -> None:
    """`--out FILE` for verbs whose result is one file."""
    parser.add_argument("--out", metavar="FILE", type=lambda given: given and _destination("--out", given), help=about)


def _destination(option: str, given: str) -> str:
    """`given`, if a file can be written there: argparse asks before the verb begins, not after hours of its work."""
    path = Path(given)
    if path.is_dir():
        raise UserError(f"{option} {given}: is a folder where a file should be written; name a file")
    if path.exists() and not path.is_file():  # /dev/null, a pipe: written into
        place = path
    else:
        place = next(parent for parent in path.absolute().parents if parent.exists())
        if not place.is_dir():
            raise UserError(f"{option} {given}: {place} is a file where a folder is needed; name another file")
    if not os.access(place, os.W_OK):
        raise UserError(f"{option} {given}: {place} cannot be written; make it writable, or name another file")
    return given


def file_arguments(parser: argparse.ArgumentParser) -> None:
    """`--folds` and `--scale` for verbs that take anybody's OOF CSVs."""
    parser.add_argument("--folds", metavar="FILE", help="a folds file, for the near-duplicates in the rows of CSVs")
    parser.add_argument("--scale", type=float, metavar="100", help="multiply predictions that lie in 0..1")


def run_argument(parser: argparse.ArgumentParser) -> None:
    """`--run NAME`."""
    parser.add_argument("--run", metavar="NAME", help="the run's folder below oof/ (default: the config's name)")
