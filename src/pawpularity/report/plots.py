"""The plots: true against predicted scores, error by true score, learning curves, a search's trials."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import BANDS
from pawpularity.report.drawing import BLUE, GREEN, INK, LINE, ORANGE, SOFT, colour_of, shape_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST_IN_BIN = 25  # rows of a bin, for its 5 % and 95 % points
MOST_BINS = 8
_DOT = "#4a93c8"  # between the light and the dark page's blue: pixels cannot follow the page's colours
_LABELS = {name: name.replace("<=20", "≤20").replace("-", "–") for name, _ in BANDS}

Floats = NDArray[np.float64]


def quantile_bands(target: Floats, prediction: Floats) -> tuple[Floats, Floats]:
    """(edges (b + 1,), quantiles (5, b)): the 5, 25, 50, 75 and 95 % points of the true scores in bins of equally many predictions.

    At most eight bins, of FEWEST_IN_BIN rows or more. None if the rows fill fewer than two bins, or if all predictions are equal.
    """
    count = min(MOST_BINS, len(target) // FEWEST_IN_BIN)
    edges = np.unique(np.quantile(prediction, np.linspace(0, 1, count + 1))) if count > 1 else np.empty(0)
    if len(edges) < 3:
        return np.empty(0), np.empty((5, 0))
    bins = np.clip(np.searchsorted(edges, prediction, side="right") - 1, 0, len(edges) - 2)
    points = [np.percentile(target[bins == b], [5, 25, 50, 75, 95]) for b in range(len(edges) - 1)]
    return edges, np.stack(points, axis=1)


def scatter(axes: "Axes", target: Floats, prediction: Floats, constant: float) -> None:
    """True against predicted score, with the bands of `quantile_bands`. `constant`: the mean of the training rows."""
    shade = float(np.clip(30.0 / np.sqrt(len(target)), 0.12, 0.6))
    axes.plot([0, 100], [0, 100], color=SOFT, lw=0.9, ls=(0, (4, 3)), zorder=3)
    axes.axvline(constant, color=LINE, lw=1.2, zorder=0)
    axes.scatter(prediction, target, s=9, color=_DOT, alpha=shade, lw=0, zorder=1, rasterized=True)
    edges, points = quantile_bands(target, prediction)
    if len(edges):
        for low, high, alpha in ((0, 4, 0.16), (1, 3, 0.26)):
            axes.fill_between(edges, np.append(points[low], points[low, -1]), np.append(points[high], points[high, -1]),
                              step="post", color=ORANGE, alpha=alpha, lw=0, zorder=2)  # fmt: skip
        for left, right, middle in zip(edges[:-1], edges[1:], points[2], strict=True):
            axes.plot([left, right], [middle, middle], color=ORANGE, lw=2.2, solid_capstyle="butt", zorder=4)
    axes.set(xlim=(0, 101), ylim=(0, 101), xlabel="predicted score, points", ylabel="true score, points")
    axes.set_xticks(range(0, 101, 20))
    axes.set_yticks(range(0, 101, 20))


def error_by_band(axes: "Axes", series: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> None:
    """RMSE by band of true score, a line for each of `series`: (name, its bands as in `breakdown`)."""
    names = [name for name, _ in BANDS if any(band["name"] == name for _, bands in series for band in bands)]
    for place, (label, bands) in enumerate(series):
        known = {band["name"]: band["rmse"] for band in bands}
        x = [i for i, name in enumerate(names) if name in known]
        axes.plot(
            x, [known[names[i]] for i in x], shape_of(place) + "-", color=colour_of(place), lw=1.6, ms=5.5, label=label
        )
    axes.set_xticks(range(len(names)), [_LABELS[name] for name in names])
    axes.set(xlabel="true score, points", ylabel="RMSE, points")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    if len(series) > 1:
        figure = axes.get_figure()
        assert figure is not None
        figure.legend(loc="outside lower left", ncols=1, handlelength=2.2, labelspacing=0.25)


def read_history(path: Path) -> dict[str, Floats]:
    """The columns of history.csv, (epochs,) each; NaN where nothing was measured. Raises UserError for a damaged file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        columns = {
            name: np.array([float(row[name] or "nan") for row in rows])
            for name in ("epoch", "train_rmse", "inner_rmse")
        }
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not what training writes ({error}); train the fold again") from None
    if not rows:
        raise UserError(f"{path}: has no epochs; train the fold again")
    return columns


def curves(axes: "Axes", histories: Sequence[Mapping[str, Floats]], rmse: float, constant: float) -> None:
    """RMSE by epoch, a line a fold: on training rows, and on the inner rows that choose the epoch, if there are any."""
    from matplotlib.ticker import MaxNLocator

    for place, history in enumerate(histories):
        first = place == 0
        axes.plot(
            history["epoch"],
            history["train_rmse"],
            color=SOFT,
            lw=1.0,
            alpha=0.75,
            label="training rows" if first else None,
        )
        if np.isfinite(history["inner_rmse"]).any():
            axes.plot(
                history["epoch"], history["inner_rmse"], color=BLUE, lw=1.4, label="inner rows" if first else None
            )
    axes.axhline(rmse, color=ORANGE, lw=1.8, label="out of fold, at the end")
    axes.axhline(constant, color=GREEN, lw=1.3, ls=(0, (5, 3)), label="constant")
    axes.set(xlabel="epoch", ylabel="RMSE, points")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.grid(axis="y")
    figure = axes.get_figure()
    assert figure is not None
    figure.legend(loc="outside lower left", ncols=2, handlelength=1.8, columnspacing=1.2, labelspacing=0.25)


def trial_history(axes: "Axes", finished: Sequence[tuple[int, float]], pruned: Sequence[tuple[int, float]]) -> None:
    """Inner RMSE by trial: (number, RMSE) of finished trials, and of pruned trials at their last epoch."""
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "x", color=SOFT, ms=4.5, mew=1.0, label="pruned, at its last epoch")
    if finished:
        numbers, values = (np.array(column) for column in zip(*sorted(finished), strict=True))
        axes.plot(numbers, values, "o", color=BLUE, ms=5, label="finished")
        axes.step(numbers, np.minimum.accumulate(values), where="post", color=ORANGE, lw=1.6, label="best so far")
        # The axis leaves out the worst trials: a diverged one would flatten all others.
        worst = float(np.quantile([*values, *(value for _, value in pruned)], 0.95))
        axes.set_ylim(float(values.min()) - 0.06 * (worst - float(values.min()) + 0.5), worst * 1.03)
    axes.set(xlabel="trial", ylabel="inner RMSE, points")
    axes.grid(axis="y")
    figure = axes.get_figure()
    assert figure is not None
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower left", ncols=2, handlelength=1.6, columnspacing=1.2)


def bars(axes: "Axes", values: Mapping[str, float], label: str) -> None:
    """Named shares as horizontal bars with the names above them."""
    across = axes.get_yaxis_transform()
    for place, (name, value) in enumerate(values.items()):
        axes.barh([place + 0.28], [value], height=0.34, color=BLUE)
        axes.text(0.0, place - 0.06, name, transform=across, va="baseline", color=INK)
        axes.text(1.0, place - 0.06, f"{value:.2f}", transform=across, va="baseline", ha="right", color=INK)
    axes.set_ylim(len(values) - 0.4, -0.55)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlim(left=0)
    axes.grid(axis="x")
    axes.set_xlabel(label)
