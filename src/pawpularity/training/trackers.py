"""`train.log`: a fold's settings and curves for TensorBoard, Weights & Biases, MLflow or Trackio, through accelerate's trackers.

TensorBoard's files go to oof/RUN/log/foldK; the others keep theirs where their own settings say. history.csv is always written.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pawpularity.console import log
from pawpularity.errors import UserError
from pawpularity.runs import Run

if TYPE_CHECKING:
    from pawpularity.training.checkpoint import Epoch

PROJECT = "pawpularity"
VIEWERS = {
    "tensorboard": "tensorboard --logdir oof",
    "wandb": "wandb sync wandb/offline-run-*  (only after WANDB_MODE=offline)",
    "mlflow": "mlflow ui",
    "trackio": f"trackio show --project {PROJECT}",
}
"""The commands that show the curves."""


def require_tracker(name: str) -> None:
    """Raise UserError where the package behind `train.log` is not installed. Imports nothing."""
    if name != "none" and find_spec(name) is None:
        raise UserError(f"train.log={name}: {name} is not installed; type: .venv/bin/pip install '.[{name}]'")


@contextmanager
def tracker(run: Run, fold: int) -> Iterator[Callable[["Epoch"], None]]:
    """Open the tracker that the run asks for, hand it the settings, and yield the function that logs an epoch's figures."""
    name = run.config.train.log
    if name == "none":
        yield lambda epoch: None
        return
    log(f"curves  {VIEWERS[name]}")
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    title = f"{run.name}-fold{fold}"
    words: dict[str, dict[str, Any]] = {
        "tensorboard": {"run_name": f"fold{fold}", "logging_dir": run.folder / "log"},
        "wandb": {"run_name": PROJECT, "name": title, "group": run.name},
        "mlflow": {"experiment_name": PROJECT, "run_name": title},
        "trackio": {"run_name": PROJECT, "name": title},
    }
    found = LOGGER_TYPE_TO_CLASS[name](**words[name])
    found.start() if hasattr(found, "start") else None  # accelerate >= 1.7 opens a tracker in a separate step
    found.store_init_configuration(_flat(run.record["config"]))

    def on_epoch(epoch: "Epoch") -> None:
        figures = {
            "train_rmse": epoch.train_rmse,
            "inner_rmse": epoch.inner_rmse,
            "lr": epoch.lr,
            "seconds": epoch.seconds,
        }
        found.log({key: value for key, value in figures.items() if not math.isnan(value)}, step=epoch.epoch)

    try:
        yield on_epoch
    finally:
        found.finish()


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """`{"train.lr": 1e-4, ...}`; values that are no number, string or boolean become text, as TensorBoard needs."""
    pairs = [
        (f"{section}.{key}" if key else section, value)
        for section, part in tree.items()
        for key, value in (part.items() if isinstance(part, dict) else [("", part)])
    ]
    return {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in pairs}
