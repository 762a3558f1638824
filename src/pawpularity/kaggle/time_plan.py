"""The time plan: leave things out if, at the speed so far, the remaining photos will not fit into the time limit.

It leaves out mirror images first, then folds (one at a time, from the run that uses most of them), then runs (the one of the
smallest weight). Nothing comes back later.
"""

from dataclasses import dataclass, field

MARGIN = 0.05
"""Share of the remaining time kept in reserve."""


@dataclass
class Use:
    """How many folds of a run are used, and whether mirror images are."""

    folds: int
    flip: bool
    weight: float


@dataclass
class Plan:
    """What is used, by run, and what was left out, in words."""

    uses: dict[str, Use]
    left_out: list[str] = field(default_factory=list)

    def shorten(self, needed_s: float, left_s: float) -> list[str]:
        """Leave out n things if the rest needs n times as much time as is left; returns them."""
        before = len(self.left_out)
        for _ in range(int(min(100.0, needed_s / max(1e-9, left_s * (1 - MARGIN))))):
            self._leave_out()
        return self.left_out[before:]

    def drop(self, run: str, why: str = "") -> None:
        """Stop using a run."""
        del self.uses[run]
        self.left_out.append(run + why)

    def _leave_out(self) -> None:
        """Take the next step, if there is one."""
        longest = max(self.uses, key=lambda run: self.uses[run].folds)
        if any(use.flip for use in self.uses.values()):
            for use in self.uses.values():
                use.flip = False
            self.left_out.append("mirror images")
        elif self.uses[longest].folds > 1:
            self.left_out.append(f"fold {self.uses[longest].folds} of {longest}")
            self.uses[longest].folds -= 1
        elif len(self.uses) > 1:
            self.drop(min(reversed(self.uses), key=lambda run: abs(self.uses[run].weight)))
