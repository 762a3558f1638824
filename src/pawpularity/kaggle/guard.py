"""Runs a script as Kaggle's image would: `python -I guard.py WISHES.json SCRIPT`. Knows nothing of this project's rooms.

Imports of what is not promised fail as if it were not installed; this project itself may only come from below the sandbox.
Connections to other machines fail. What was imported, refused and tried is written to the log that WISHES names.
"""

import importlib.abc
import importlib.machinery
import json
import runpy
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

OWN = "pawpularity"


class Guard(importlib.abc.MetaPathFinder):
    """Stands in front of Python's own finders, and does not find what is not promised."""

    def __init__(self, allowed: set[str], sandbox: Path, finders: Sequence[Any]) -> None:
        self.allowed, self.sandbox = allowed, sandbox
        # A checkout that is installed for editing is found by a finder of its own.
        self.finders = [finder for finder in finders if "editable" not in repr(finder)]
        self.refused: dict[str, None] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """None = as if it were not installed."""
        top = name.partition(".")[0]
        if top == OWN:
            inside = [place for place in (path or sys.path) if Path(place).is_relative_to(self.sandbox)]
            return importlib.machinery.PathFinder.find_spec(name, inside, target)
        if top not in self.allowed and not top.startswith("_sysconfigdata_"):  # Python's own, named after the machine
            self.refused[top] = None
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next((spec for spec in found if spec is not None), None)

    def find_distributions(self, *context: Any) -> Iterator[Any]:
        """What importlib.metadata asks."""
        for finder in self.finders:
            yield from getattr(finder, "find_distributions", lambda *_: ())(*context)


def _deaf(tried: list[str]) -> None:
    """Let every connection that leaves this machine fail at once."""

    def refuse(self: Any, address: Any, *rest: Any) -> Any:
        tried.append(str(address))
        raise OSError(101, f"no network on Kaggle: {address}")

    def refuse_name(host: Any, *rest: Any, **more: Any) -> Any:
        tried.append(str(host))
        raise socket.gaierror(-3, f"no network on Kaggle: {host}")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    socket.socket.connect_ex = refuse  # type: ignore[method-assign]
    socket.getaddrinfo = refuse_name


def main() -> None:
    """Run the script under the guard."""
    wishes, script, *words = sys.argv[1:]
    wanted = json.loads(Path(wishes).read_text(encoding="utf-8"))
    guard, tried = Guard(set(wanted["allowed"]), Path(wanted["sandbox"]), sys.meta_path), list[str]()
    sys.meta_path[:] = [guard]
    _deaf(tried)
    sys.argv = [script, *words]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        tops = sorted({name.partition(".")[0] for name in list(sys.modules)} - set(sys.stdlib_module_names))
        origin = getattr(sys.modules.get(OWN), "__file__", None)
        log = {"imported": tops, "refused": list(guard.refused), "connections": tried, "own": origin}
        Path(wanted["log"]).write_text(json.dumps(log), encoding="utf-8")


if __name__ == "__main__":
    main()
