"""Kaggle's libraries, and a guard that runs a script with them alone: `python -I kaggle_image.py FOLDER SCRIPT`.

Kaggle publishes how its image is built, not what is in it: github.com/Kaggle/docker-python builds on Google Colab's image (pull
request 1444, November 2024) and adds kaggle_requirements.txt; torch and its like stay Colab's, whose versions are published
(github.com/googlecolab/backend-info, pip-freeze.gpu.txt). Scikit-learn, scipy, OpenCV, albumentations, matplotlib and others are
in it too, some pinned to old versions; prediction does not use them.

The guard hides every module that prediction must not use, imports this package from FOLDER only, and refuses connections. It
writes the libraries' versions and the refused connections to FOLDER/guard.json. It uses the standard library alone, so that any
Python can run it.
"""

import importlib.abc
import importlib.machinery
import importlib.metadata
import json
import platform
import re
import runpy
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

RELIED = ("torch", "timm", "safetensors", "numpy", "pandas", "pillow")
"""Distributions that prediction imports; docs/kaggle.md has their versions in Kaggle's image."""
OWN = "pawpularity"


def promised_imports(distributions: Iterable[str] = RELIED) -> set[str]:
    """Top-level names that a script may import here: the standard library, the distributions, and all they require."""
    pending, found = [_normalised(name) for name in distributions], set()
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        with suppress(importlib.metadata.PackageNotFoundError):
            requires = importlib.metadata.requires(name) or []
            pending += [
                _normalised(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in requires if "extra ==" not in line
            ]
    tops = importlib.metadata.packages_distributions()
    return {top for top, owners in tops.items() if found & set(map(_normalised, owners))} | sys.stdlib_module_names


def _normalised(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Guard(importlib.abc.MetaPathFinder):
    """An import finder that replaces Python's own and finds only the allowed modules."""

    def __init__(self, allowed: set[str], folder: Path, finders: Sequence[Any]) -> None:
        self.allowed, self.folder = allowed, folder
        # An editable installation adds a finder, which would find the checkout.
        self.finders = [finder for finder in finders if "editable" not in repr(finder)]

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's spec; None if it must look as if it were not installed."""
        top = name.partition(".")[0]
        if top == OWN:
            inside = [place for place in (path or sys.path) if Path(place).is_relative_to(self.folder)]
            return importlib.machinery.PathFinder.find_spec(name, inside, target)
        # _sysconfigdata_ is of the standard library, and named after the machine.
        if top not in self.allowed and not top.startswith("_sysconfigdata_"):
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in found if spec is not None), None)

    def find_distributions(self, *context: Any) -> Iterator[Any]:
        """All installed distributions, for importlib.metadata."""
        for finder in self.finders:
            yield from getattr(finder, "find_distributions", lambda *_: ())(*context)


def _refuse_connections(tried: list[str]) -> None:
    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.getaddrinfo"):  # (socket, address); (host, port, ...)
            tried.append(str(args[1] if event == "socket.connect" else args[0]))
            raise OSError(101, f"no network on Kaggle: {tried[-1]}")

    sys.addaudithook(hook)


def main(folder: Path, script: str) -> None:
    """Run `script` under the guard."""
    versions = {"Python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in RELIED}
    tried: list[str] = []
    sys.meta_path[:] = [Guard(promised_imports(), folder, sys.meta_path)]
    _refuse_connections(tried)
    sys.argv = [script]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        log = {"versions": versions, "connections": tried}
        (folder / "guard.json").write_text(json.dumps(log), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
