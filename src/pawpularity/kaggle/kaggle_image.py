"""Kaggle's libraries, and a guard that runs a script with them alone: `python -I kaggle_image.py FOLDER SCRIPT`.

Kaggle publishes how its image is built, not what is in it: github.com/Kaggle/docker-python builds on Google Colab's image (pull
request 1444, November 2024) and adds kaggle_requirements.txt; torch and its like stay Colab's, whose versions are published
(github.com/googlecolab/backend-info, pip-freeze.gpu.txt). Scikit-learn, scipy, OpenCV, albumentations, matplotlib and others are
in it too, some pinned to old versions; prediction does not use them.

The guard hides every installed module that prediction must not use, and refuses connections. It writes the libraries' versions
and the refused connections to FOLDER/guard.json. It uses the standard library alone, so that any Python can run it.
"""

import importlib.metadata
import json
import platform
import re
import runpy
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

RELIED = ("torch", "timm", "safetensors", "numpy", "pandas", "pillow")
"""Distributions that prediction imports; docs/kaggle.md has their versions in Kaggle's image."""


def hidden_imports() -> set[str]:
    """Top-level names of the installed distributions other than `RELIED` and all they require."""
    pending, allowed = list(RELIED), set()
    while pending:
        name = _normalised(pending.pop())
        if name in allowed:
            continue
        allowed.add(name)
        with suppress(importlib.metadata.PackageNotFoundError):
            requires = importlib.metadata.requires(name) or []
            pending += [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in requires if "extra ==" not in line]
    owners = importlib.metadata.packages_distributions()
    return {top for top, names in owners.items() if not allowed & set(map(_normalised, names))}


def _normalised(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


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
    # Python takes a None here for a module that is not installed. The bundle's wheel is found before this package's checkout.
    sys.modules.update(dict.fromkeys(hidden_imports() - {"pawpularity"}))  # type: ignore[arg-type]
    _refuse_connections(tried)
    sys.argv = [script]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        log = {"versions": versions, "connections": tried}
        (folder / "guard.json").write_text(json.dumps(log), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
