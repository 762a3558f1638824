"""What Kaggle's image promises, and what of it the inference kernel relies on. `make kernel-check` refuses every other import.

Kaggle publishes how its image is made, not what is in it: github.com/Kaggle/docker-python builds on Google Colab's image
(pull request 1444, November 2024) and adds kaggle_requirements.txt, while the versions of torch and its like stay
Colab's. Colab publishes its own (github.com/googlecolab/backend-info, pip-freeze.gpu.txt; the versions here are those of
commit 66982a1, February 2026, Python 3.12). Kaggle pins some of the others to older ones, so nothing here is relied on
to be new. Issue 1546 of docker-python (March 2026) shows the same torch in a Kaggle session.
"""

import importlib.metadata
import json
import platform
import re
import sys
from collections.abc import Iterable
from typing import Any

RELIED = {
    "torch": "2.9.0+cu128",
    "timm": "1.0.24",
    "numpy": "2.0.2",
    "pandas": "2.2.2",
    "pillow": "11.3.0",
}
"""Distributions that prediction imports, with the versions known to be there."""

USED_IF_THERE = {"safetensors": "0.7.0"}
"""timm asks for it; without it the project's own reader takes its place."""

NOT_RELIED = {
    "torchvision": "0.24.0+cu128",
    "opencv-python": "4.13.0.90",
    "albumentations": "2.0.8",
    "omegaconf": "2.3.0",
    "scikit-learn": "1.6.1",
    "scipy": "1.16.3",
    "matplotlib": "3.10.0",
    "tqdm": "4.67.2",
    "filelock": "3.20.3",
}
"""There as well (Kaggle holds scikit-learn at 1.2.2 and matplotlib below 3.8), but prediction does without."""


def promised_imports(without: Iterable[str] = ()) -> set[str]:
    """Top-level import names that the kernel may use on this machine: the relied-on distributions and all they require.

    What a library requires of its own is its affair, and differs with its version; ours are the names in this file.
    `without`: distributions to leave out, to see whether the kernel does without them.
    """
    left_out = {_plain(name) for name in without}
    due = [_plain(name) for name in (*RELIED, *USED_IF_THERE)]
    found: set[str] = set()
    while due:
        name = due.pop()
        if name in found or name in left_out:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        # "filelock", "jinja2>=3", 'tzdata; sys_platform == "win32"'; extras are nobody's promise.
        due += [
            _plain(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]) for line in requires if "extra ==" not in line
        ]
    tops = importlib.metadata.packages_distributions()
    return {top for top, owners in tops.items() if found & {_plain(owner) for owner in owners}}


def standard_library() -> set[str]:
    """Top-level names of Python's own modules."""
    return set(sys.stdlib_module_names) | {"__main__"}


def versions() -> dict[str, str]:
    """Python's, and those of the distributions above that prediction uses; what is not installed is left out."""
    found = {"Python": platform.python_version()}
    for name in (*RELIED, *USED_IF_THERE):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """`python -I promised.py [WITHOUT ...]`: what this Python may import, as JSON; so `sandbox` asks any Python."""
    answer: dict[str, Any] = {
        "allowed": sorted(promised_imports(sys.argv[1:]) | standard_library()),
        "versions": versions(),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
