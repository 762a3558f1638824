"""An order of several photos says whether its first two can be told apart."""

import numpy as np

from pawpularity.coach.coach import ranked
from pawpularity.evaluation.calibration import Calibration


def known(n):
    """A calibration whose residuals are skewed and grow with the prediction."""
    random = np.random.default_rng(0)
    prediction = random.uniform(20, 60, n)
    return Calibration(prediction + 0.15 * prediction * (random.exponential(1.0, n) - 1.0), prediction)


def test_an_order_says_whether_its_first_two_can_be_told_apart():
    rows = ranked([30.0, 55.0, 30.5], known(600))
    assert [row["place"] for row in rows] == [1, 2, 0]
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert rows[0]["told_apart"]
    assert not rows[1]["told_apart"] or rows[1]["reliability"] - 1.96 * rows[1]["error"] > 0.5
    assert (rows[2]["reliability"], rows[2]["behind_best"]) == (None, 25.0)
    assert not ranked([30.0, 30.0], known(600))[0]["told_apart"], "equal scores are never told apart"
    assert not ranked([30.0, 30.4], known(6000))[0]["told_apart"], "52 % is no advice"
