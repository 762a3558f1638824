"""Tips: what was measured, what the evidence allows to say of it, and what may not be said."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from pawpularity.coach.evidence import Evidence, gather_evidence
from pawpularity.coach.text import promise_words
from pawpularity.coach.tips import ADVISED, FINE, LEFT_OUT, NOT_WORTH, PERHAPS, Seen, Tip, move, tips_for
from pawpularity.coach.traits import Judged, Probe, chances, fit_probes
from pawpularity.data.tables import METADATA
from pawpularity.evaluation.effects import CANNOT_TELL, REJECTED, SUPPORTED, TOO_SMALL
from pawpularity.studies.hypotheses import findings
from pawpularity.studies.hypotheses.data import Gathered


def evidence(column, verdict=SUPPORTED, effect=9.0, unit=1.0, adjusted=True):
    return Evidence(
        column=column, claim="x", sign=1, verdict=verdict, n_with=400, n_without=200, effect=effect, low=effect - 3,
        high=effect + 3, corrected_p=0.001, gain=effect, gain_low=effect - 4, gain_high=effect + 4, adjusted=adjusted, unit=unit,
    )  # fmt: skip


def judged(column, auc=0.9):
    return Judged(column, 400, 200, auc)


LEVELS = {"contrast": np.linspace(0.0, 100.0, 101), "subject share": np.linspace(0.1, 0.6, 101)}
GOOD = {"Face": 0.99, "Eyes": 0.98, "Group": 0.01, "Blur": 0.02}
ROWS = [evidence("contrast", unit=40.0), evidence("Face"), evidence("Eyes"), evidence("Group", effect=-11.0),
        evidence("Blur", effect=-3.0), evidence("subject share", unit=0.2)]  # fmt: skip
PROBES = [judged(column) for column in GOOD]


def tips(seen, rows=ROWS, probes=PROBES, levels=LEVELS):
    return {tip.key: tip for tip in tips_for(seen, rows, probes, levels)}


def test_a_photo_that_lacks_nothing_gets_no_advice():
    found = tips(Seen(80.0, 0.5, GOOD))
    assert {tip.kind for tip in found.values()} == {FINE}
    assert not any(promise_words(tip) for tip in found.values())


def test_what_a_level_promises_is_its_slope_times_the_way_to_the_best_quarter():
    tip = tips(Seen(15.0, 0.5, GOOD))["contrast"]
    assert tip.kind == ADVISED
    assert tip.gain == pytest.approx(9.0 * (75.0 - 15.0) / 40.0)
    assert (tip.gain_low, tip.gain_high) == (pytest.approx(5.0 * 1.5), pytest.approx(13.0 * 1.5))
    assert "15 levels of brightness" in tip.based_on
    assert "more than on 15 % of the shelter's photos" in tip.based_on
    assert tip.adjusted
    assert move(evidence("x", unit=40.0), 75.0, 15.0)[0] == -move(evidence("x", unit=40.0), 15.0, 75.0)[0]


def test_what_should_not_be_there_is_turned_round():
    tip = tips(Seen(80.0, 0.5, GOOD | {"Group": 0.8}))["pets"]
    assert (tip.kind, tip.gain, tip.gain_low, tip.gain_high) == (ADVISED, 11.0, 7.0, 15.0)
    assert "80 % sure" in tip.based_on
    assert "AUC 0.90" in tip.based_on


@pytest.mark.parametrize(
    ("verdict", "kind"), [(SUPPORTED, ADVISED), (CANNOT_TELL, PERHAPS), (TOO_SMALL, NOT_WORTH), (REJECTED, NOT_WORTH)]
)
def test_the_verdict_of_the_true_scores_decides_how_it_is_said(verdict, kind):
    rows = [evidence("Eyes", verdict, effect=-2.0 if verdict == REJECTED else 2.0)]
    tip = tips(Seen(80.0, 0.5, GOOD | {"Eyes": 0.1}), rows)["eyes"]
    assert tip.kind == kind
    assert bool(promise_words(tip)) == (kind in (ADVISED, PERHAPS))
    assert {SUPPORTED: "supported", CANNOT_TELL: "cannot tell", TOO_SMALL: "too small", REJECTED: "opposite"}[
        verdict
    ] in tip.evidence


def test_a_weak_probe_leaves_its_tip_out():
    for auc, said in ((0.69, "AUC 0.69, below 0.7"), (None, "no probe")):
        weak = [judged("Eyes", auc), *(one for one in PROBES if one.column != "Eyes")]
        tip = tips(Seen(80.0, 0.5, GOOD | {"Eyes": 0.1}), probes=weak)["eyes"]
        assert tip.kind == LEFT_OUT
        assert said in tip.based_on
        assert tip.gain is None


def test_without_a_subject_nothing_is_said_of_it():
    found = tips(Seen(float("nan"), float("nan"), GOOD))
    assert [found[key].kind for key in ("contrast", "framing")] == [LEFT_OUT, LEFT_OUT]
    assert "no subject could be told" in found["contrast"].based_on


def test_best_supported_and_largest_first():
    order = [tip.key for tip in tips_for(Seen(5.0, 0.5, GOOD | {"Group": 0.9, "Blur": 0.9}), ROWS, PROBES, LEVELS)]
    assert order[:3] == ["contrast", "pets", "blur"]


@pytest.fixture(scope="module")
def fitted():
    """Probes of one column that features tell, one that they do not, and one of too few photos."""
    random = np.random.default_rng(0)
    features = random.standard_normal((400, 12)).astype(np.float32)
    told = (features[:, 0] + 0.5 * random.standard_normal(400) > 0).astype(float)
    columns = {"Face": told, "Eyes": random.integers(0, 2, 400).astype(float), "Group": np.eye(400)[0]}
    folds = np.arange(400) % 5
    return features, columns, folds, *fit_probes(features, columns, folds)


def test_probes_are_judged_out_of_fold(fitted):
    features, columns, _, probes, found = fitted
    by = {one.column: one for one in found}
    # The best possible order of a column that is a noisy sign of one feature is that feature's own.
    best = roc_auc_score(columns["Face"], features[:, 0])
    assert best - 0.02 < by["Face"].auc < best + 0.005
    assert by["Eyes"].auc == pytest.approx(0.5, abs=0.08), "in-sample it would be above .6"
    assert by["Group"].auc is None
    assert [probe.judged.column for probe in probes] == ["Face"], "only what may be used is kept"


def test_a_probes_chance_is_a_chance(fitted):
    _, _, _, probes, _ = fitted
    random = np.random.default_rng(1)
    new = random.standard_normal((4000, 12))
    truth = new[:, 0] + 0.5 * random.standard_normal(4000) > 0
    said = np.array([row["Face"] for row in chances(probes, new)])
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        here = (said >= low) & (said < high)
        assert truth[here].mean() == pytest.approx(said[here].mean(), abs=0.09)


def test_a_kept_probe_says_the_same(fitted):
    features, _, _, probes, _ = fitted
    again = Probe.of_arrays(probes[0].judged, probes[0].arrays())
    assert np.array_equal(again(features.astype(np.float64)), probes[0](features.astype(np.float64)))


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ((11.0, 9.2, 14.8), "Photos like that score about 11 points more (9 to 15 more)."),
        ((1.2, -0.3, 2.0), "Photos like that score about 1 point more (0 to 2 more)."),
        ((2.0, -3.0, 7.0), "Photos like that score about 2 points more (3 fewer to 7 more)."),
        ((0.3, -3.0, 4.0), "Photos like that score less than 1 point more (3 fewer to 4 more)."),
    ],
)
def test_a_promise_cannot_be_read_as_a_score(gains, said):
    assert promise_words(Tip("face", ADVISED, "", "", "", *gains)) == said
    assert promise_words(Tip("face", NOT_WORTH, "", "", "", *gains)) == ""
    assert promise_words(Tip("face", ADVISED, "", "", "", None, None, None)) == ""


def test_a_column_that_has_become_a_claim_is_looked_at_once(monkeypatch):
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {name: random.integers(0, 2, 80) for name in METADATA} | {"Pawpularity": random.integers(1, 100, 80)}
    )
    gathered = Gathered(table, np.arange(80), "no photos here", None, {}, [])
    share = random.uniform(0.1, 0.9, 80)

    def columns():
        return [row.column for row in gather_evidence(gathered, share, draws=50, margin=3.0)]

    before = columns()
    assert before[-2:] == ["Blur", "subject share"]
    monkeypatch.setattr(findings, "CLAIMS", (*findings.CLAIMS, findings.Claim(6, "Blur", -1, "a blurred photo lowers")))
    assert columns() == before
