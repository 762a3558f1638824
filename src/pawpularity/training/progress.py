"""What a training shows of itself while it runs: a bar on a terminal, a line every half minute in a log."""

import contextlib
import math
import time
from collections.abc import Iterator

from tqdm import tqdm

from pawpularity.console import log
from pawpularity.runs import Run
from pawpularity.training.checkpoint import Keeper
from pawpularity.training.early_stopping import Epoch


class Bars:
    """A bar over steps with the last epoch's figures; silent when standard error is not a terminal."""

    def __init__(self, run: Run, fold: int) -> None:
        self.epochs = run.config.train.epochs
        self.watched = run.config.train.stop != "none"
        self.bar = tqdm(desc=f"fold {fold}", unit="step", leave=False, disable=None)
        self.fold = fold
        self.said = time.perf_counter()
        self.keeper: Keeper | None = None

    def on_step(self, step: int, steps: int) -> None:
        """Advance by one step."""
        if self.bar.total is None:
            self.bar.total = steps * self.epochs
            done = self.keeper.epochs_before if self.keeper is not None else 0
            self.bar.n = self.bar.initial = done * steps + step - 1
        self.bar.update()

    def on_epoch(self, epoch: Epoch) -> None:
        """Show the epoch just done."""
        # The refit on all training rows, which nothing watches, goes on where the watched epochs ended, wherever that was.
        refit = self.watched and math.isnan(epoch.inner_rmse)
        figures = [
            f"refit, epoch {epoch.epoch}" if refit else f"epoch {epoch.epoch}/{self.epochs}",
            f"lr {epoch.lr:.2g}",
        ]
        for name, value in (("train", epoch.train_rmse), ("inner", epoch.inner_rmse)):
            if not math.isnan(value):
                figures.append(f"{name} {value:.2f}")
        self.bar.set_postfix_str(", ".join(figures))
        # Without a terminal the bar is silent; a log gets a line every half minute, so that hours are not spent in the dark.
        if self.bar.disable and time.perf_counter() - self.said > 30:
            self.said = time.perf_counter()
            log(f"fold {self.fold}: {', '.join(figures)}")


@contextlib.contextmanager
def progress(run: Run, fold: int) -> Iterator[Bars]:
    """The bar of one fold, gone when the block ends."""
    bars = Bars(run, fold)
    try:
        yield bars
    finally:
        bars.bar.close()
