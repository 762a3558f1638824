"""A sandbox like a Kaggle session: no network, Kaggle's libraries alone, input that must not change, an empty working folder.

If the machine allows it (`unshare`, as root or with user namespaces), the script runs in a network namespace without a network.
Sockets are blocked inside Python in any case. The input is linked, and checked for changes afterwards.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pawpularity.console import Progress
from pawpularity.errors import UserError
from pawpularity.kaggle import kaggle_image

LAYOUTS = {
    "legacy": ("pawpularity-bundle", "petfinder-pawpularity-score"),
    "dataset": ("datasets/somebody/pawpularity-bundle", "competitions/petfinder-pawpularity-score"),
    "model": ("models/somebody/pawpularity-bundle/pytorch/default/1", "competitions/petfinder-pawpularity-score"),
}
"""Where Kaggle mounts the files and the competition below input/: formerly, and today for a data set or a model."""
LIMIT_S = 3600.0
"""Time limit for one run of the script."""


@dataclass(frozen=True)
class Session:
    """What a script did in the sandbox."""

    code: int
    output: str
    """standard output and error"""
    guard: dict[str, Any]
    """see `kaggle_image`; {} if the script never started"""
    working: Path

    @property
    def report(self) -> dict[str, Any]:
        """inference.json."""
        return dict(json.loads((self.working / "inference.json").read_text(encoding="utf-8")))


@cache
def network_namespace() -> tuple[str, ...]:
    """The words to put before a command so that it has no network; () if this machine does not allow it."""
    for words in (("unshare", "-n"), ("unshare", "-r", "-n")):  # as root; as root of a user namespace
        if (
            shutil.which("unshare")
            and subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
        ):
            return words
    return ()


def isolation() -> str:
    """How the script is cut off from the network, in words."""
    how = "network namespace of its own" if network_namespace() else "sockets blocked in Python (no namespaces here)"
    return f"{how}; input compared afterwards"


def run(
    root: Path,
    script: Path,
    dataset: Path,
    competition: Path,
    words: Sequence[str] = (),
    *,
    layout: str = "dataset",
    python: str = sys.executable,
    rerun: bool = False,
) -> Session:
    """Run `script` in a new sandbox at `root`.

    `python`: the interpreter, with its libraries. Raises UserError if it is missing, or the script takes longer than `LIMIT_S`.
    """
    root = root.resolve()
    for source, place in zip((dataset, competition), LAYOUTS[layout], strict=True):
        target = root / "input" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve())
    working = root / "working"
    working.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(root), "LANG": "C.UTF-8", "PAWPULARITY_KAGGLE": str(root)}
    environment |= {"KAGGLE_IS_COMPETITION_RERUN": "1"} if rerun else {}
    environment |= {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
    program = shutil.which(python)
    if program is None:
        raise UserError(f"--python {python}: is no program; give the path of a Python interpreter")
    # Not resolved: Python finds its virtual environment through the link.
    command = [str(Path(program).absolute()), "-I", kaggle_image.__file__, str(root), str(script.resolve()), *words]
    before = _listing(dataset) + _listing(competition)
    code, output = _watched([*network_namespace(), *command], working, environment)
    if _listing(dataset) + _listing(competition) != before:
        raise AssertionError("the script changed its input")
    log = root / "guard.json"
    guard = json.loads(log.read_text(encoding="utf-8")) if log.is_file() else {}
    return Session(code, output, guard, working)


def _watched(command: Sequence[str], folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of `command`, with a bar that counts its seconds. Raises UserError after `LIMIT_S`."""
    with (
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as child,
        Progress(None, "the kernel's script", "s") as progress,
    ):
        for _ in range(int(LIMIT_S)):
            try:
                output, _none = child.communicate(timeout=1)
                return child.returncode, output
            except subprocess.TimeoutExpired:
                progress.add()
        child.kill()
    raise UserError(f"kernel-check: the script did not end within {LIMIT_S:.0f} s; try PHOTOS=200")


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
