"""What `make test-oldest` installs is what pyproject.toml promises: its lower bounds, to the digit."""

import re
import tomllib
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["app"]]
    bounds = dict(re.fullmatch(r"([\w-]+)[>=]=([\d.]+)", line).groups() for line in lines)  # type: ignore[union-attr]
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "constraints-oldest.txt").read_text(), re.MULTILINE))
    assert bounds.keys() - pinned.keys() == set()
    for name, bound in bounds.items():
        pairs = list(zip_longest(numbers(bound), numbers(pinned[name]), fillvalue=0))
        # A bound of two numbers is the first release of those two (opencv counts its builds in a fourth).
        assert all(low == held for low, held in pairs[: bound.count(".") + 1]), (name, bound, pinned[name])
        assert all(held == 0 for low, held in pairs[bound.count(".") + 1 :]) or name.startswith("opencv"), name
