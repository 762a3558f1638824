"""Tips: what was measured, what the evidence allows to say of it, and what may not be said."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from statsmodels.api import OLS, add_constant
from statsmodels.stats.multitest import multipletests

from pawpularity.coach.doubt import Typical
from pawpularity.coach.evidence import Evidence, gather_evidence
from pawpularity.coach.learned import Learned, read_learned, write_learned
from pawpularity.coach.tips import ADVISED, FINE, LEFT_OUT, NOT_WORTH, PERHAPS, change, promise, tips_for
from pawpularity.coach.traits import Probe, fit_probes
from pawpularity.data.tables import METADATA
from pawpularity.evaluation.effects import CANNOT_TELL, REJECTED, SUPPORTED, TOO_SMALL, Column, effects


def evidence(verdict=SUPPORTED, effect=9.0, unit=1.0):
    return Evidence(
        verdict, 400, 200, effect, effect - 3, effect + 3, 0.001, effect, effect - 4, effect + 4, True, unit
    )


ROWS = {"contrast": evidence(unit=40.0), "Face": evidence(), "Eyes": evidence(), "Group": evidence(effect=-11.0),
        "Blur": evidence(effect=-3.0), "subject share": evidence(unit=0.2)}  # fmt: skip
PROBES = dict.fromkeys(("Face", "Eyes", "Group", "Blur"), Probe(400, 200, 0.9))
LEVELS = {"contrast": np.linspace(0.0, 100.0, 101).tolist(), "subject share": np.linspace(0.1, 0.6, 101).tolist()}
TYPICAL = Typical([0.0], [[1.0]], [1.0], 1.0)
GOOD = {"contrast": 80.0, "subject share": 0.5, "Face": 0.99, "Eyes": 0.98, "Group": 0.01, "Blur": 0.02}


def tips(measured, rows=ROWS, probes=PROBES):
    return {tip.key: tip for tip in tips_for(GOOD | measured, Learned(rows, probes, LEVELS, [], TYPICAL))}


def test_a_photo_that_lacks_nothing_gets_no_advice():
    assert {(tip.kind, tip.promise) for tip in tips({}).values()} == {(FINE, "")}


def test_a_number_promises_its_slope_times_the_way_to_the_best_quarter():
    tip = tips({"contrast": 15.0})["contrast"]
    assert tip.kind == ADVISED
    assert (tip.gain, tip.gain_low, tip.gain_high) == pytest.approx((9.0 * 1.5, 5.0 * 1.5, 13.0 * 1.5))
    assert "15 levels" in tip.based_on
    assert "15 % of the photos" in tip.based_on
    assert change(evidence(unit=40.0), 75.0, 15.0)[0] == -change(evidence(unit=40.0), 15.0, 75.0)[0]


def test_an_unwanted_trait_promises_the_opposite_of_its_effect():
    tip = tips({"Group": 0.8})["pets"]
    assert (tip.kind, tip.gain, tip.gain_low, tip.gain_high) == (ADVISED, 11.0, 7.0, 15.0)
    assert "80 % sure" in tip.based_on


@pytest.mark.parametrize(
    ("verdict", "kind"), [(SUPPORTED, ADVISED), (CANNOT_TELL, PERHAPS), (TOO_SMALL, NOT_WORTH), (REJECTED, NOT_WORTH)]
)
def test_the_verdict_of_the_true_scores_decides_the_kind(verdict, kind):
    tip = tips({"Eyes": 0.1}, {"Eyes": evidence(verdict, -2.0 if verdict == REJECTED else 2.0)})["eyes"]
    assert (tip.kind, bool(tip.promise)) == (kind, kind in (ADVISED, PERHAPS))


def test_what_cannot_be_measured_or_tested_is_left_out():
    for auc in (0.69, None):
        assert tips({"Eyes": 0.1}, probes=PROBES | {"Eyes": Probe(400, 200, auc)})["eyes"].kind == LEFT_OUT
    assert tips({}, probes={})["face"].kind == LEFT_OUT
    found = tips({"contrast": float("nan"), "subject share": float("nan")})
    assert (found["contrast"].kind, found["framing"].kind) == (LEFT_OUT, LEFT_OUT)
    assert tips({"Blur": 0.9}, {})["blur"].kind == LEFT_OUT


def test_best_supported_and_largest_first():
    assert list(tips({"contrast": 5.0, "Group": 0.9, "Blur": 0.9}))[:3] == ["contrast", "pets", "blur"]


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ((11.0, 9.2, 14.8), "about 11 points more (9 to 15 more)"),
        ((1.2, -0.3, 2.0), "about 1 point more (0 to 2 more)"),
        ((2.0, -3.0, 7.0), "about 2 points more (3 fewer to 7 more)"),
        ((0.3, -3.0, 4.0), "less than 1 point more (3 fewer to 4 more)"),
    ],
)
def test_a_promise_cannot_be_read_as_a_score(gains, said):
    assert said in promise(*gains)


@pytest.fixture(scope="module")
def table():
    """300 photos whose score follows Face and the contrast; Collage never varies."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.integers(0, 2, 300) for name in METADATA})
    frame["Collage"] = 0
    contrast = rng.uniform(0, 100, 300)
    contrast[:40] = np.nan
    frame["Pawpularity"] = 30 + 12 * frame["Face"] + 0.2 * np.nan_to_num(contrast) + rng.normal(0, 8, 300)
    return frame, contrast, rng.uniform(0.1, 0.9, 300)


def test_evidence_is_differences_of_means_holm_and_ols(table):
    frame, contrast, share = table
    found = gather_evidence(frame, contrast, share, np.arange(300), margin=3.0)
    assert "Collage" not in found
    face, scores = frame["Face"] == 1, frame["Pawpularity"]
    assert found["Face"].effect == pytest.approx(scores[face].mean() - scores[~face].mean())
    assert (found["Face"].verdict, found["contrast"].verdict) == (SUPPORTED, SUPPORTED)
    there = np.isfinite(contrast)
    beside = add_constant(
        np.column_stack([frame[[n for n in METADATA if n != "Collage"]], contrast])[there].astype(float)
    )
    fit = OLS(scores[there].to_numpy(), beside).fit(cov_type="HC3", use_t=True)
    assert found["contrast"].gain == pytest.approx(fit.params[-1] * found["contrast"].unit)
    assert found["contrast"].gain_low == pytest.approx(fit.conf_int()[-1, 0] * found["contrast"].unit)
    assert not found["subject share"].adjusted
    # Holm's correction is over the family for its members, over all columns for the two that were added.
    values = {"contrast": contrast, "subject share": share} | {name: frame[name].to_numpy(float) for name in METADATA}
    p = [
        one.p for one in effects([Column(n, values[n]) for n in found], scores.to_numpy()[:, None], None, draws=2000)[0]
    ]
    member = np.array([n not in ("Blur", "subject share") for n in found])
    due = multipletests(p, method="holm")[1]
    due[member] = multipletests(np.array(p)[member], method="holm")[1]
    assert [one.corrected_p for one in found.values()] == pytest.approx(due)


@pytest.fixture(scope="module")
def fitted():
    """Probes of one column that features tell, one that they do not, and one of too few photos."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((400, 12))
    told = (features[:, 0] + 0.5 * rng.standard_normal(400) > 0).astype(float)
    columns = {"Face": told, "Eyes": rng.integers(0, 2, 400).astype(float), "Group": np.eye(400)[0]}
    return features, columns, fit_probes(features, columns, np.arange(400) % 5)


def test_probes_are_judged_out_of_fold(fitted):
    features, columns, probes = fitted
    # The best possible order of a column that is a noisy sign of one feature is that feature's own.
    best = roc_auc_score(columns["Face"], features[:, 0])
    assert best - 0.02 < probes["Face"].auc < best + 0.005
    assert probes["Eyes"].auc == pytest.approx(0.5, abs=0.08), "in-sample it would be above .6"
    assert probes["Group"].auc is None
    assert [name for name, probe in probes.items() if probe.usable] == ["Face"]


def test_a_probes_chance_is_a_chance(fitted):
    rng = np.random.default_rng(1)
    new = rng.standard_normal((4000, 12))
    truth, said = new[:, 0] + 0.5 * rng.standard_normal(4000) > 0, fitted[2]["Face"].chance(new)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        here = (said >= low) & (said < high)
        assert truth[here].mean() == pytest.approx(said[here].mean(), abs=0.09)


def test_what_lies_off_the_directions_of_the_runs_photos_is_doubted():
    """Features of any length that lie near one subspace, of few photos and of many; new ones near it, and ones off it."""
    random = np.random.default_rng(0)
    basis = random.standard_normal((6, 200))

    def near(n):
        rows = (3.0 + random.standard_normal((n, 6))) @ basis + 0.3 * random.standard_normal((n, 200))
        return rows * random.uniform(0.2, 5.0, (n, 1))

    for n in (60, 800):
        typical = Typical.fit(near(n))
        assert np.mean([typical.doubt(row[None]) == "" for row in near(200)]) > 0.9
        off = 3.0 * basis.sum(axis=0) + 8.0 * random.standard_normal((50, 200))
        assert all(typical.doubt(row[None]) for row in off)


def test_what_was_learnt_is_read_back_the_same(fitted, tmp_path):
    typical = Typical.fit(fitted[0])
    learned = Learned(ROWS, fitted[2], LEVELS, ["a note"], typical, [{"tip": "crop", "promised": None}])
    write_learned(tmp_path / "coach.json", "key", learned)
    assert read_learned(tmp_path / "coach.json", "key") == learned
    assert read_learned(tmp_path / "coach.json", "another") is None
    assert read_learned(tmp_path / "nothing.json", "key") is None
    (tmp_path / "coach.json").write_text('{"key": "key", "probes": 5}')
    assert read_learned(tmp_path / "coach.json", "key") is None, "damaged"
