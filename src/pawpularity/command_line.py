"""The words of a command line, as `make` and a shell hand them over, in the form that click reads."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperArgument, TyperGroup, TyperOption

from pawpularity.errors import UserError, nearest

SETTING = re.compile(r"[A-Za-z_][\w.]*=")
MAKE_KEYS = {"KAGGLE_USER": "user", "BENCH": "what"}
"""Words of make whose option has another name."""


def spread(command: Any, words: Sequence[str]) -> list[str]:
    """`words` as click reads them: `train.lr=1` becomes `--set train.lr=1`, and `--runs a b` `--runs a --runs b`."""
    options = {name: param for param in command.params for name in param.opts if isinstance(param, TyperOption)}
    takes_settings = "--set" in options
    found: list[str] = []
    repeated = ""  # the option that takes the words up to the next one
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            repeated = ""
            name, _, value = word.partition("=")
            option = options.get(name)
            if option is not None and option.multiple and not value:
                repeated = name
                continue
            found.append(word)
            if option is not None and not option.is_flag and not value:
                found += [following] if (following := next(rest, None)) is not None else []
        elif takes_settings and SETTING.match(word) and not os.path.exists(word):  # noqa: PTH110 - False for a word too long for a path
            found += ["--set", word]
        elif repeated:
            found += [repeated, word]
        else:
            found.append(word)
    return found


def make_words(root: TyperGroup, goal: str, flags: str) -> list[str]:
    """The command line that `make GOAL FOLD=0 train.lr=1e-4 ARGS="..."` means; `flags` is make's variable MAKEFLAGS.

    make passes the words on as text, so a `;` or a `$(...)` in them is plain text. KEY=value becomes --key value, or a
    positional word if the command has an argument of that name. ARGS is split as a shell would.
    """
    if goal not in root.commands:
        raise UserError(f'make knows no goal "{goal}"{nearest(goal, root.commands)}; see: make help')
    command = root.commands[goal]
    options = {name for param in command.params for name in param.opts if isinstance(param, TyperOption)}
    arguments = [param for param in command.params if isinstance(param, TyperArgument)]
    found: list[str] = []
    for key, value in _assignments(flags):
        option = f"--{MAKE_KEYS.get(key, key).lower().replace('_', '-')}"
        switch = next(
            (param for param in command.params if option in param.opts and getattr(param, "is_flag", False)), None
        )
        if key in ("PYTHON", "VENV"):
            continue
        if key == "ARGS":
            found += _split(value)
        elif key == "STORAGE":  # its password must not be on a command line, which other users can list
            os.environ["PAWPULARITY_STORAGE"] = value
        elif switch is not None:
            if value not in ("0", "1"):
                raise UserError(f"{key}={value}: must be 1 or 0")
            found += [option] * (value == "1")
        elif option in options:
            found += [option, *(_split(value) if _several(command, option) else [value])]
        elif any(
            key.lower().rstrip("s") in (str(param.name).rstrip("s"), (param.metavar or "").lower())
            for param in arguments
        ):
            found[:0] = _split(value)
        elif key.isupper():
            valid = [
                name.removeprefix("--").upper().replace("-", "_") for name in options if name not in ("--set", "--help")
            ]
            raise UserError(f"make {goal} takes no {key}={nearest(key, [*valid, 'ARGS'])}")
        else:
            found.append(f"{key}={value}")
    return [goal, *found]


def _several(command: Any, option: str) -> bool:
    return any(option in param.opts and getattr(param, "multiple", False) for param in command.params)


def _assignments(flags: str) -> list[tuple[str, str]]:
    """The KEY=value words of MAKEFLAGS, in the order in which they were typed (make reverses it)."""
    _, found, text = f" {flags}".partition(" -- ")
    words = re.findall(r"(?:\\.|[^\\ ])+", text, re.DOTALL) if found else []
    plain = [re.sub(r"\\(.)", r"\1", word, flags=re.DOTALL).replace("$$", "$") for word in reversed(words)]
    return [
        (key, value)
        for word in plain
        for key, equals, value in [word.partition("=")]
        if equals and not key.endswith((":", "+", "!", "?"))
    ]


def _split(text: str) -> list[str]:
    try:
        return [str(Path(part).expanduser()) if part.startswith("~/") else part for part in shlex.split(text)]
    except ValueError as error:
        raise UserError(f"{text.strip()}: {str(error).lower()}; close the quote, or put a \\ before it") from None
