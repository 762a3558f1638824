"""The time plan: what still fits into the hours that Kaggle gives, from what the photos so far have cost.

Left out, in this order, until the rest fits: mirror images, folds (one at a time, of the run that has most of them),
backbones (the one that saves most time per weight), photos. What was left out never comes back, and is said. A photo that
there is no time for gets the mean prediction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MARGIN = 0.05
"""Share of the time left that is kept for what no estimate knows."""


@dataclass
class Use:
    """How much of a run is in use."""

    family: str
    """names the trunk it shares with others"""
    folds: int
    flip: bool
    weight: float
    dropped: bool = False


@dataclass(frozen=True)
class Cost:
    """Seconds a photo, as measured: each family's trunk and each run's single tail, per view, and all the rest."""

    trunks: Mapping[str, float]
    tails: Mapping[str, float]
    other: float
    """decoding as far as the networks waited for it, and overhead"""


@dataclass
class Plan:
    """What is in use, and what was left out."""

    uses: dict[str, Use]
    said: list[str] = field(default_factory=list)
    """What was left out, in words."""

    @property
    def active(self) -> dict[str, Use]:
        """The runs that are still asked."""
        return {name: use for name, use in self.uses.items() if not use.dropped}

    def seconds(self, cost: Cost) -> float:
        """Seconds a photo with what is in use."""
        total, views = cost.other, dict.fromkeys(cost.trunks, 0)
        for name, use in self.active.items():
            seen = 2 if use.flip else 1
            views[use.family] = max(views[use.family], seen)
            total += seen * use.folds * cost.tails[name]
        return total + sum(views[family] * seconds for family, seconds in cost.trunks.items())

    def fit(self, cost: Cost, left_s: float, photos: int) -> int:
        """Leave out what does not fit into `left_s` seconds for `photos` photos; returns how many photos do fit."""
        budget = left_s * (1 - MARGIN)
        while photos * self.seconds(cost) > budget:
            if not self._leave_out(cost):
                each = self.seconds(cost)
                return max(0, min(photos, int(budget / each))) if each > 0 else photos
        return photos

    def _leave_out(self, cost: Cost) -> bool:
        """Take the next step; False where there is none."""
        active = self.active
        if any(use.flip for use in active.values()):
            for use in active.values():
                use.flip = False
            self.said.append("mirror images")
            return True
        several = [name for name, use in active.items() if use.folds > 1]
        if several:
            name = max(several, key=lambda name: (active[name].folds, cost.tails[name], name))
            active[name].folds -= 1
            self.said.append(f"fold {active[name].folds + 1} of {name}")  # counted from 1: the last of those in use
            return True
        if len(active) > 1:
            name = max(active, key=lambda name: (self._saved(cost, name) / max(abs(active[name].weight), 1e-9), name))
            active[name].dropped = True
            self.said.append(name)
            return True
        return False

    def _saved(self, cost: Cost, name: str) -> float:
        before = self.seconds(cost)
        self.uses[name].dropped = True
        after = self.seconds(cost)
        self.uses[name].dropped = False
        return before - after


def mean_cost(costs: Sequence[Cost]) -> Cost:
    """The mean of several measurements. Families and runs that are not in all of them: of those that have them."""

    def mean(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
        names = dict.fromkeys(name for part in parts for name in part)
        return {
            name: sum(found) / len(found) for name in names if (found := [part[name] for part in parts if name in part])
        }

    return Cost(
        mean([cost.trunks for cost in costs]),
        mean([cost.tails for cost in costs]),
        sum(cost.other for cost in costs) / len(costs),
    )
