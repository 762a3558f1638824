"""What kernel-check says in the end: for programs, and for people."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pawpularity.kaggle import sandbox
from pawpularity.kaggle.contents import Bundle
from pawpularity.kaggle.fake_test_set import SIZE
from pawpularity.kaggle.kaggle_image import NOT_RELIED

CONTEST_PHOTOS = 6800
"""About; hidden."""
HOURS = 9.0
"""That the contest gives."""
FIRST_PHOTO_S = 20.0
TIMES_PARTS = 1.15


@dataclass(frozen=True)
class Part:
    """Milliseconds a photo."""

    wall: float
    processor: float
    """of all threads; other programs on the machine hardly change it"""


@dataclass(frozen=True)
class Result:
    """Sessions that passed, and what they are held against."""

    bundle: Bundle
    python: sandbox.Interpreter
    many: sandbox.Session
    broken: sandbox.Session
    difference: float
    """from `make predict`, score points"""
    bound: float
    parts: Mapping[str, Part]
    """each alone"""

    @property
    def each(self) -> Part:
        """A hidden photo, from the first one on."""
        report = self.many.report
        wall = float(report["seconds"] - report["seconds_to_first_photo"])
        return Part(*(1e3 * seconds / int(report["photos"]) for seconds in (wall, float(report["processor_seconds"]))))

    @property
    def together(self) -> Part:
        """All parts."""
        return Part(sum(part.wall for part in self.parts.values()), sum(part.processor for part in self.parts.values()))

    def values(self) -> dict[str, Any]:
        """For programs."""
        report = self.many.report
        start = report["seconds_to_first_photo"]
        return {
            "bundle": self.bundle.name,
            "bytes": sum(entry["bytes"] for entry in self.bundle.about["files"].values()),
            "isolation": str(self.many.closed),
            "versions": self.python.versions,
            "device": report["device"],
            "dtypes": report["dtypes"],
            "photos": report["photos"],
            "photos_per_s": 1e3 / self.each.wall,
            "seconds_to_first_photo": start,
            "peak_mb": report["peak_mb"],
            "peak_mb_of_few": self.broken.report["peak_mb"],
            "hours_for_contest": (start + CONTEST_PHOTOS * self.each.wall / 1e3) / 3600,
            "difference": self.difference,
            "bound": self.bound,
            "broken": len(self.broken.report["photos_unusable"]),
            "left_out": report["left_out"],
            "ms": {name: asdict(part) for name, part in self.parts.items()},
            "ms_of_parts": asdict(self.together),
            "ms_of_kernel": asdict(self.each),
            "times_parts": self.each.wall / self.together.wall,
            "times_parts_processor": self.each.processor / self.together.processor,
        }

    def text(self) -> str:
        """For people."""
        v, broken = self.values(), self.broken.report
        brought = sorted(set(self.many.log["imported"]) & {name.replace("-", "_") for name in NOT_RELIED})
        how = "half precision" if self.bundle.about["half"] else ", ".join(v["dtypes"])
        networks = sum(len(run.trained_folds()) for run in self.bundle.runs)
        return "\n".join(
            [
                f"kernel-check: passed ({v['bundle']}: {len(self.bundle.runs)} runs, {networks} networks)",
                f"sandbox       {v['isolation']}",
                f"versions      {self.python}",
                "imports       nothing beyond torch, timm, numpy, pandas, Pillow and what they bring"
                + (f" (they brought {', '.join(brought)})" if brought else ""),
                f"submissions   8 noise photos, {v['photos']} hidden ones, {v['broken']} broken of {broken['photos']}: "
                "every Id once, in order, within 1..100; the broken ones got the mean",
                f"make predict  {v['difference']:.2e} points apart at most in {how} (allowed: {v['bound']:.2e})",
                f"speed         {v['photos_per_s']:.1f} photos/s on this {v['device']}; "
                f"{v['seconds_to_first_photo']:.1f} s to the first photo",
                f"memory        {v['peak_mb']:.0f} MB at most ({v['peak_mb_of_few']:.0f} for {broken['photos']} photos)",
                f"contest       {CONTEST_PHOTOS} photos of {SIZE} px would take {v['hours_for_contest']:.2f} h here",
                f"{'milliseconds a photo, each part alone':40s} {'wall':>10s} {'processor':>10s}",
                *(_row(name, part) for name, part in self.parts.items()),
                _row("together", self.together),
                f"{_row('the kernel, from the first photo on', self.each)}   "
                f"{v['times_parts']:.2f} and {v['times_parts_processor']:.2f} times its parts",
                *(f"note: {note}" for note in self._notes(v)),
            ]
        )

    def _notes(self, v: Mapping[str, Any]) -> list[str]:
        notes = []
        if v["seconds_to_first_photo"] > FIRST_PHOTO_S:
            notes.append(f"the first photo came later than after {FIRST_PHOTO_S:.0f} s; is the machine busy?")
        if v["times_parts"] > TIMES_PARTS:
            notes.append(f"{TIMES_PARTS} times its parts was the goal; is the machine busy?")
        if v["hours_for_contest"] > HOURS:
            notes.append(f"the contest gives {HOURS:.0f} h: at this speed the kernel would leave things out")
        return notes


def _row(name: str, part: Part) -> str:
    return f"{name:40s} {part.wall:10.2f} {part.processor:10.2f}"
