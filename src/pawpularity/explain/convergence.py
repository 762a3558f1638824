"""How a map's error falls with its masks: the plot that shows whether a stopping rule can be believed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pawpularity.errors import UserError
from pawpularity.files import atomic_file

# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LETTERS = 12  # of a name, in the legend


class Looks(Protocol):
    """A `Rise`, or what was kept of one."""

    @property
    def history(self) -> Sequence[Any]:
        """(masks, relative error) at each look; no number where there was no signal."""

    @property
    def precision(self) -> float:
        """the relative error asked for"""


def draw_convergence(found: Mapping[str, Looks], path: Path, title: str = "RISE: error of the map by masks") -> None:
    """Write a PNG: relative standard error of each named result against its masks, both axes logarithmic.

    The grey lines fall with the root of the number of masks (slope -1/2), as the error of a mean of independent blocks does;
    the dashed line is the precision asked. Looks where the map is no larger than its error have no relative error: gaps in a line.
    Raises UserError where no result has as many as four blocks.
    """
    from matplotlib.figure import Figure  # not pyplot: it asks the machine for a screen; PNGs are drawn by Agg
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if not any(one.history for one in found.values()):
        raise UserError("rise: no result has the four blocks that an error needs; take more masks")
    figure = Figure(figsize=(7.0, 4.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    ends: list[float] = []
    counts: list[float] = []
    for place, (name, one) in enumerate(found.items()):
        looks = np.array(one.history, dtype=np.float64).reshape(-1, 2)
        known = looks[np.isfinite(looks[:, 1]) & (looks[:, 1] > 0)]
        if not len(known):
            axes.plot([], [], color=_COLOURS[place % len(_COLOURS)], label=f"{name[:_LETTERS]}: no signal found")
            continue
        masks, errors = known.T
        axes.plot(
            looks[:, 0],
            np.where(looks[:, 1] > 0, looks[:, 1], np.nan),
            "o-",
            ms=3,
            lw=1.4,
            color=_COLOURS[place % len(_COLOURS)],
            label=name[:_LETTERS],
            zorder=3,
        )
        if errors[-1] < 1:  # above that the error's own error is too large to draw a line through
            ends.append(float(errors[-1] * masks[-1] ** 0.5))
        counts += masks.tolist()
    if counts:
        span = np.array([min(counts), max(counts)])
        for place, end in enumerate(ends):
            axes.plot(
                span, end / np.sqrt(span), color="#BBBBBB", lw=0.9, zorder=1, label=None if place else "slope -1/2"
            )
    asked = sorted({one.precision for one in found.values()})
    for place, precision in enumerate(asked):
        axes.axhline(precision, color="#666666", lw=0.9, ls="--", label=None if place else "precision asked")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    if counts:
        axes.set_xticks([2.0**power for power in range(20) if span[0] <= 2.0**power <= span[1]])
        low, high = axes.get_ylim()
        axes.set_yticks([step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if low <= step <= high])
    axes.set_xlabel("masks")
    axes.set_ylabel("relative standard error, ||SE|| / ||map||")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    with atomic_file(path) as temporary:
        # Without the version of matplotlib in it, so that the same result gives the same bytes.
        figure.savefig(temporary, format="png", metadata={"Software": None})
