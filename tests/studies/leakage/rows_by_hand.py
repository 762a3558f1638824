"""Tables of predictions and findings of copies that tests of the leak check write down."""

from pathlib import Path

import numpy as np
import pandas as pd

from pawpularity.evaluation.leak_detection import Copies
from pawpularity.evaluation.oof import constant_predictions
from pawpularity.evaluation.predictions import Predictions


def source(target, prediction, fold, groups=None):
    """Rows by hand: Ids 0000, 0001, ..., each beside the mean of the other folds."""
    ids = [f"{i:04d}" for i in range(len(target))]
    table = pd.DataFrame(
        {"Id": ids, "fold": np.asarray(fold), "target": np.asarray(target, float), "prediction": prediction}
    )
    return Predictions("x", table, groups, constant_predictions(table), None, Path("x.csv"))


def copies(rows, looked_at):
    """`rows` of `looked_at` rows have a copy; the errors are plain numbers."""
    return Copies(0.9126, looked_at, rows + 3, rows, rows / looked_at, 12.0, 18.0, 9.0)
