"""The experiment as a picture: predictions against true scores, both networks, both ways of scoring."""

from pathlib import Path
from typing import Any

import numpy as np

from pawpularity.files import atomic_file
from pawpularity.studies.leakage.experiment import Experiment

_INK, _LEAK, _CLEAN = "#333333", "#c8553d", "#2f6690"


def draw_experiment(path: Path, experiment: Experiment, value: dict[str, Any]) -> None:
    """Four panels, rows by how the network was trained, columns by how it was scored; PNG, the same bytes every time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9.0, 8.6), sharex=True, sharey=True, layout="constrained")
    titles = {
        "leaky": "scored the leaky way (photos and copies)",
        "honest": "scored the honest way (photos never seen)",
    }
    for i, trained in enumerate(("leaky", "honest")):
        for j, scored in enumerate(("leaky", "honest")):
            ax, rows = axes[i, j], experiment.table[experiment.table["scored"] == scored]
            known = rows["copy_trained_on"].to_numpy(dtype=bool) & (trained == "leaky")
            # Equal points hide one another: half a point of jitter, of fixed numbers.
            jitter = np.random.default_rng(0).uniform(-0.5, 0.5, len(rows))
            for mask, colour, label in ((~known, _CLEAN, "no copy in training"), (known, _LEAK, "a copy in training")):
                if mask.any():
                    ax.scatter(rows["target"][mask] + jitter[mask], rows[trained][mask], s=9, alpha=0.5, c=colour,
                               linewidths=0, label=label)  # fmt: skip
            ax.plot([0, 100], [0, 100], color=_INK, linewidth=0.8)
            result = experiment.way(trained, scored)
            figures = (
                f"RMSE {result.rmse:.2f} [{result.low:.2f}, {result.high:.2f}]   constant {result.constant_rmse:.2f}"
            )
            ax.set_title(f"trained the {trained} way, {titles[scored]}\n{figures}", fontsize=8.5)
            ax.set(xlim=(0, 102), ylim=(0, 102))
            ax.spines[["top", "right"]].set_visible(False)
            if i == 1:
                ax.set_xlabel("true score")
            if j == 0:
                ax.set_ylabel("prediction")
            if known.any():
                ax.legend(fontsize=8, loc="upper left", frameon=False)
    figure.suptitle(f"{value['data']['name']}: the same network, the same photos, two ways to split", fontsize=11)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
