"""The forest plot: every claim's effect with its interval, the margin within which it would not matter, and the verdict."""

from pathlib import Path

from pawpularity.evaluation.effects import Coefficient, Effect
from pawpularity.files import atomic_file
from pawpularity.studies.hypotheses.findings import Finding, Findings

# Okabe and Ito's colours, which colour-blind readers tell apart.
_PLAIN, _ADJUSTED, _BELIEF, _KNOWN = "#000000", "#0072B2", "#D55E00", "#009E73"


def draw_forest(found: Findings, title: str, name: str | None, path: Path) -> None:
    """Write the plot of the tested claims (at least one) to `path` (PNG), with a model's belief where it has a `name`."""
    from matplotlib.figure import Figure  # not pyplot: it asks the machine for a screen; PNGs are drawn by Agg
    from matplotlib.lines import Line2D

    count = len(found.rows)
    marks = [
        ("plain difference (decides)", "o", _PLAIN, True),
        ("adjusted for the other columns", "s", _ADJUSTED, True),
    ]
    if name is not None:
        marks.append((f"what {name} believes", "D", _BELIEF, False))
    if any(row.known is not None for row in found.rows):
        marks.append(("the rule's own effect", "|", _KNOWN, True))
    figure = Figure(figsize=(11.0, 1.9 + 0.62 * count), dpi=110)
    axes = figure.add_subplot()
    axes.axvspan(-found.margin, found.margin, color="#DDDDDD", lw=0, zorder=0)
    axes.axvline(0.0, color="#888888", lw=0.8, zorder=1)
    for place, row in enumerate(found.rows):
        y = float(count - 1 - place)
        figures: list[Effect | Coefficient | None] = [row.truth, row.adjusted, row.belief if name else None]
        for step, (effect, (_, mark, colour, filled)) in enumerate(zip(figures, marks, strict=False)):
            if effect is None:
                continue
            height = y + 0.22 - 0.20 * step
            axes.plot([effect.low, effect.high], [height, height], color=colour, lw=1.8 if step == 0 else 1.1, zorder=2)
            axes.plot([effect.effect], [height], mark, color=colour, ms=7 if step == 0 else 5,
                      mfc=colour if filled else "white", zorder=3)  # fmt: skip
        if row.known is not None:
            axes.plot([row.known, row.known], [y - 0.32, y + 0.36], color=_KNOWN, lw=2.2, zorder=4)
        axes.text(1.02, y, row.verdict, transform=axes.get_yaxis_transform(), va="center", fontsize=10)
    axes.set_yticks(range(count), [_label(row) for row in reversed(found.rows)], fontsize=10)
    axes.set_ylim(-0.6, count - 0.4)
    axes.set_xlabel(f"effect on the score, points, with 95 % intervals; grey: +-{found.margin:g}, too small to matter")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    legend = [
        Line2D([], [], color=colour, marker=mark, ls="" if mark == "|" else "-", mfc=colour if filled else "white",
               ms=12 if mark == "|" else 6, mew=2.2 if mark == "|" else 1.0, label=text)
        for text, mark, colour, filled in marks
    ]  # fmt: skip
    inches = figure.get_figheight()
    figure.subplots_adjust(left=0.29, right=0.80, top=1 - 0.42 / inches, bottom=1.05 / inches)
    figure.legend(handles=legend, loc="lower center", ncols=len(legend), frameon=False, fontsize=9)
    with atomic_file(path) as temporary:
        # Without the version of matplotlib in it, so that the same findings give the same bytes.
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _label(row: Finding) -> str:
    return f"{row.claim.words} ({row.claim.column})"
