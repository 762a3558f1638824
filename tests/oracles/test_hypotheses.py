"""The paper's hypotheses on the contest's labels: exact figures, and statsmodels for the regression and Holm's correction."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from statsmodels.stats.multitest import multipletests
from tests.oracles import adapter

# n with, effect, 95 %, Welch's standard error, permutation p, verdict: computed independently.
KNOWN = {
    "Face": (8960, 0.560, -0.86, 1.96, 0.731, 0.424, "too small to matter"),
    "Eyes": (7658, -0.328, -1.32, 0.66, 0.510, 0.499, "too small to matter"),
    "Accessory": (672, 1.088, -0.52, 2.73, 0.821, 0.190, "too small to matter"),
    "Group": (1282, 1.011, -0.17, 2.22, 0.604, 0.102, "too small to matter"),
    "Collage": (492, 0.164, -1.66, 2.06, 0.943, 0.866, "too small to matter"),
    "Action": (99, -0.284, -4.32, 3.98, 2.124, 0.893, "cannot tell"),
    "Occlusion": (1705, 0.108, -0.93, 1.16, 0.531, 0.847, "too small to matter"),
}
BELIEVED = {"Eyes": -1.67, "Accessory": 0.93, "Group": 0.43, "Face": -0.58, "Occlusion": 0.25}


@pytest.fixture(scope="module")
def found(real, mean_of_eight, tmp_path_factory):
    work = adapter.checkout(tmp_path_factory.mktemp("hypotheses") / "work")
    mean_of_eight.to_csv(work / "mean.csv", index=False)
    return adapter.hypotheses(real / "pawpularity-labels" / "train.csv", work, believed_by=work / "mean.csv")


def test_effects_errors_and_verdicts_on_the_true_scores(found):
    rows, _ = found
    assert rows.keys() == KNOWN.keys()
    for column, (n, effect, low, high, se, p, verdict) in KNOWN.items():
        row = rows[column]
        assert (row["with"], row["without"], row["verdict"]) == (n, 9912 - n, verdict), column
        assert (row["effect"], row["se"]) == pytest.approx((effect, se), abs=6e-4), column
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.06 + 0.03 * se), column
        assert row["p"] == pytest.approx(p, abs=0.015), column


def test_what_a_model_believes_is_another_question(found):
    rows, _ = found
    for column, effect in BELIEVED.items():
        assert rows[column]["believed"]["effect"] == pytest.approx(effect, abs=6e-3), column
        assert rows[column]["believed"]["effect"] + rows[column]["residual"]["effect"] == pytest.approx(
            rows[column]["effect"]
        )
    assert rows["Eyes"]["believed"]["corrected_p"] < 0.003
    assert rows["Eyes"]["residual"]["effect"] == pytest.approx(1.34, abs=6e-3)


def test_the_correction_is_holms(found):
    for part in (lambda row: row, lambda row: row["believed"]):
        rows = [part(row) for row in found[0].values()]
        due = multipletests([row["p"] for row in rows], method="holm")[1]
        assert [row["corrected_p"] for row in rows] == pytest.approx(due)


def test_all_columns_together_are_statsmodels_ols_with_hc3(real, found):
    rows, joint = found
    table = pd.read_csv(real / "pawpularity-labels" / "train.csv")
    columns = [name for name in table.columns if name not in ("Id", "Pawpularity")]
    fit = sm.OLS(table["Pawpularity"], sm.add_constant(table[columns].astype(float))).fit()
    robust = fit.get_robustcov_results("HC3", use_t=True)
    assert (joint["r2"], joint["f"], joint["f_p"]) == pytest.approx((fit.rsquared, fit.fvalue, fit.f_pvalue))
    for at, column in enumerate(columns, start=1):
        one = joint["coefficients"][column]
        ends = robust.conf_int()[at]
        due = (robust.params[at], robust.bse[at], robust.pvalues[at], *ends)
        assert (one["effect"], one["se"], one["p"], one["low"], one["high"]) == pytest.approx(due, rel=1e-6), column
    assert {name: row["adjusted"]["effect"] for name, row in rows.items()} == pytest.approx(
        {name: robust.params[1 + columns.index(name)] for name in rows}
    )
    assert np.round([rows["Eyes"]["adjusted"]["effect"], rows["Face"]["adjusted"]["effect"]], 2).tolist() == [
        -2.48,
        2.45,
    ]
