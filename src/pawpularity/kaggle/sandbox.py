"""A sandbox like a Kaggle session: no network, Kaggle's libraries alone, an empty working folder.

If the machine allows it (`unshare`, as root or with user namespaces), the script runs in a network namespace without a network.
Sockets are blocked inside Python in any case.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pawpularity.kaggle import kaggle_image

MOUNTS = {
    "dataset": "datasets/somebody/pawpularity-bundle",
    "model": "models/somebody/pawpularity-bundle/pytorch/default/1",
    "competition": "competitions/petfinder-pawpularity-score",
}
"""Where Kaggle mounts them below input/."""


@dataclass(frozen=True)
class Session:
    """What a script did in the sandbox."""

    code: int
    guard: dict[str, Any]
    """see `kaggle_image`; {} if the script never started"""
    working: Path


@cache
def network_namespace() -> tuple[str, ...]:
    """The words to put before a command so that it has no network; () if this machine does not allow it."""
    for words in (("unshare", "-n"), ("unshare", "-r", "-n")):  # as root; as root of a user namespace
        if shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    return ()


def isolation() -> str:
    """How the script is cut off from the network, in words."""
    return "network namespace of its own" if network_namespace() else "sockets blocked in Python (no namespaces here)"


def run(root: Path, script: Path, mounted: dict[str, Path], python: str = sys.executable) -> Session:
    """Run `script` in a new sandbox at `root`; what it prints goes to standard error.

    `mounted`: the folders to mount, by their key in `MOUNTS`. `python`: the interpreter, with its libraries.
    """
    root = root.resolve()
    for key, source in mounted.items():
        target = root / "input" / MOUNTS[key]
        target.parent.mkdir(parents=True)
        target.symlink_to(source.resolve())
    working = root / "working"
    working.mkdir()
    # The link to Python is not resolved: Python finds its virtual environment through it.
    command = [str(Path(python).absolute()), "-I", kaggle_image.__file__, str(root), str(script.resolve())]
    environment = {"PATH": os.environ["PATH"], "HOME": str(root), "LANG": "C.UTF-8", "PAWPULARITY_KAGGLE": str(root)}
    environment |= {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
    done = subprocess.run([*network_namespace(), *command], cwd=working, env=environment, stdout=sys.stderr)
    log = root / "guard.json"
    return Session(done.returncode, json.loads(log.read_text("utf-8")) if log.is_file() else {}, working)
