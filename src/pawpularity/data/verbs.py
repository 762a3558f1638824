"""Temporary: `pawpularity folds` and `pawpularity clean-cache` for the argparse command line."""

import argparse
from pathlib import Path

from pawpularity.command_line import Verb, json_argument


def _folds(options: argparse.Namespace) -> None:
    from pawpularity.context import choose
    from pawpularity.data.folds import show_folds

    chosen = choose(options)
    show_folds(chosen.folds, chosen.dataset, json=options.json)


def _clean_cache(options: argparse.Namespace) -> None:
    from pawpularity.data.clean_cache import clean_cache

    clean_cache(Path(options.folder), yes=options.yes)


def _clean_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", default=".cache", metavar="DIR", help="the cache folder (default: .cache)")
    parser.add_argument("--yes", action="store_true", help="delete without asking")


VERBS = [
    Verb(
        "folds",
        "make the grouped, stratified folds file (every command that needs it makes it too)",
        _folds,
        json_argument,
    ),
    Verb("clean-cache", "show what the cache holds, and delete it", _clean_cache, _clean_arguments, configured=False),
]
