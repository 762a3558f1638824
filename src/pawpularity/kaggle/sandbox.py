"""A place like a Kaggle session: no network, read-only input, an empty working folder, Kaggle's libraries alone.

Where the system allows it (`unshare` and `mount`; root, or user namespaces), the network is a namespace with nothing but a
loopback and the input is mounted read-only. Containers often allow the one and not the other, or neither: then the input
loses its write permission, which stops everybody but root, and is compared afterwards; and sockets are blocked inside Python,
as they always are. Which of them it was is part of the report.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawpularity.errors import UserError
from pawpularity.kaggle import guard, kaggle_image

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are looked for, outside the sandbox and inside."""

LIMIT_S = 3600.0
"""For one run of the script."""

TRIED = ".tried."
"""What `isolation` names its folder with."""

# Loopback up, where one of these programs is here; then the input folder onto itself, read-only; then the command.
_LOOPBACK = "ip link set lo up 2>/dev/null || ifconfig lo up 2>/dev/null; "
_MOUNT = 'mount --bind "$0/input" "$0/input" && mount -o remount,ro,bind "$0/input" || exit 97; '
_LAYOUTS = {
    "of old": ("input/{bundle}", "input/{competition}"),
    "of late": ("input/datasets/somebody/{bundle}", "input/competitions/{competition}"),
}
LAYOUTS = tuple(_LAYOUTS)


@dataclass(frozen=True)
class Isolation:
    """How a sandbox is closed."""

    namespaces: tuple[str, ...] = ()
    """words before the command; () = no namespaces here"""
    mounted: bool = False
    """whether the input is mounted read-only"""

    def enter(self, root: Path, command: Sequence[str]) -> list[str]:
        """`command` in the namespaces of the sandbox at `root`."""
        if not self.namespaces:
            return list(command)
        steps = _LOOPBACK + (_MOUNT if self.mounted else "") + 'exec "$@"'
        return [*self.namespaces, "sh", "-c", steps, str(root), *command]

    def __str__(self) -> str:
        network = (
            "own network namespace" if self.namespaces else "sockets blocked in Python (no namespaces allowed here)"
        )
        return f"{network}, input {'mounted read-only' if self.mounted else 'without write permission, compared afterwards'}"


def isolation(place: Path) -> Isolation:
    """The best that this machine allows for a sandbox below `place`, found by trying."""
    if unshare := shutil.which("unshare", path=PATH):
        with tempfile.TemporaryDirectory(prefix=TRIED, dir=place) as name:
            root = Path(name)
            (root / "input").mkdir()
            for mounted, kinds in ((True, ("-n", "-m")), (False, ("-n",))):
                for rights in ((), ("-r",)):  # as root; as root of a user namespace
                    found = Isolation((unshare, *rights, *kinds), mounted)
                    test = 'if (: > "$0/input/x"); then exit 1; fi' if mounted else "exit 0"
                    if _succeeds(found.enter(root, ["sh", "-c", test, name])):
                        return found
    return Isolation()


def _succeeds(command: Sequence[str]) -> bool:
    try:
        tried = subprocess.run(command, capture_output=True, check=False, env={"PATH": PATH}, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return tried.returncode == 0


@dataclass(frozen=True)
class Interpreter:
    """A Python, and what it has of what Kaggle's image promises."""

    path: str
    allowed: tuple[str, ...]
    """top-level names that a script may import"""
    versions: dict[str, str]

    def __str__(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


def interpreter(python: str = sys.executable, without: Sequence[str] = ()) -> Interpreter:
    """Ask `python` what it has: its libraries need not be ours. Raises UserError where it cannot predict.

    `without`: distributions that shall be absent.
    """
    # Not resolved: the link in an environment's folder is what makes it that environment.
    path = str(Path(python).absolute())
    try:
        asked = subprocess.run(
            [path, "-I", kaggle_image.__file__, *without], capture_output=True, text=True, check=False, timeout=300
        )
        answer = json.loads(asked.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise UserError(
            f"--python {python}: is no Python 3.11 or newer that answers ({type(error).__name__})"
        ) from None
    if lacking := kaggle_image.RELIED.keys() - answer["versions"].keys():
        raise UserError(f"--python {python}: has no {min(lacking)}, which Kaggle's image promises; install it there")
    return Interpreter(path, tuple(answer["allowed"]), answer["versions"])


@dataclass(frozen=True)
class Session:
    """What a script did in the sandbox."""

    code: int
    said: str
    """standard output and error"""
    seconds: float
    log: dict[str, Any]
    """of the guard"""
    report: dict[str, Any]
    """inference.json, {} where there is none"""
    working: Path
    left: list[str]
    """what it left in the working folder"""
    closed: Isolation


def lay_out(root: Path, layout: str, bundle: Path, competition: Path) -> None:
    """Mount data set and competition below `root`/input as Kaggle does, or did."""
    for source, place in zip((bundle, competition), _LAYOUTS[layout], strict=True):
        target = root / place.format(bundle="pawpularity-bundle", competition="petfinder-pawpularity-score")
        target.parent.mkdir(parents=True, exist_ok=True)
        # Links need no room, but share their permissions with what they link to.
        copy = _link if isolation(root).mounted else shutil.copy2
        shutil.copytree(source, target, copy_function=copy, ignore=shutil.ignore_patterns("dataset-metadata.json"))
    (root / "working").mkdir()
    (root / "home").mkdir()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def run(
    root: Path,
    script: Path,
    *words: str,
    rerun: bool = False,
    python: Interpreter | None = None,
) -> Session:
    """Run `script` in the sandbox at `root`, which `lay_out` filled. Raises UserError where it takes longer than `LIMIT_S`.

    `python`: who runs it (default: the Python that runs this).
    """
    python = python or interpreter()
    log = root / "home" / "log.json"
    wishes = root / "home" / "wishes.json"
    wishes.write_text(
        json.dumps({"allowed": python.allowed, "sandbox": str(root.resolve()), "log": str(log)}), encoding="utf-8"
    )
    environment = {"PATH": PATH, "HOME": str(root / "home"), "LANG": "C.UTF-8", "PAWPULARITY_KAGGLE": str(root)}
    if rerun:
        environment["KAGGLE_IS_COMPETITION_RERUN"] = "1"
    environment |= {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
    closed = isolation(root)
    command = closed.enter(
        root, [python.path, "-I", str(Path(guard.__file__)), str(wishes), str(script.resolve()), *words]
    )
    if not closed.mounted:
        _writable(root / "input", False)
    before = _listing(root / "input")
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=root / "working", env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"kernel-check: the script did not end within {LIMIT_S:.0f} s; try fewer photos (PHOTOS=200)"
        ) from None
    finally:
        if not closed.mounted:
            _writable(root / "input", True)
    if done.returncode == 97:
        raise UserError(f"kernel-check: the input cannot be mounted read-only ({done.stderr.strip()[-200:]})")
    if _listing(root / "input") != before:
        raise AssertionError("the script changed its input")
    report = root / "working" / "inference.json"
    return Session(
        done.returncode,
        done.stdout + done.stderr,
        time.perf_counter() - started,
        json.loads(log.read_text(encoding="utf-8")) if log.is_file() else {},
        json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {},
        root / "working",
        sorted(path.name for path in (root / "working").iterdir()),
        closed,
    )


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def _writable(folder: Path, yes: bool) -> None:
    for path in [folder, *folder.rglob("*")]:
        mode = path.stat().st_mode
        path.chmod(mode | 0o200 if yes else mode & ~0o222)
