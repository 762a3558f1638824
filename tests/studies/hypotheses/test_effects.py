"""The findings against samples whose rule is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pawpularity.evaluation.effects import CANNOT_TELL, SUPPORTED, TOO_SMALL
from pawpularity.files import write_json
from pawpularity.sample import spec
from pawpularity.sample.truth import floor, plan, truth_row
from pawpularity.studies.hypotheses.drawn import true_contrasts, true_effects
from pawpularity.studies.hypotheses.findings import find


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The tables of a shelter of 6,000 photos, none of which is drawn."""
    return write_plan(tmp_path_factory.mktemp("planned") / "big", 6000, 1)


def write_plan(folder: Path, photos: int, seed: int) -> Path:
    entries = sorted(plan(photos, seed), key=lambda entry: entry.id)
    (folder / "truth").mkdir(parents=True)
    rows = [{"Id": e.id, **e.photo.metadata(), "Pawpularity": e.score} for e in entries]
    pd.DataFrame(rows).to_csv(folder / "train.csv", index=False)
    pd.DataFrame([truth_row(e) for e in entries]).to_csv(folder / "truth" / "parts.csv", index=False)
    write_json(folder / "truth" / "floor.json", floor(entries[:100], seed))
    return folder


def test_verdicts_and_adjusted_effects_are_those_of_the_rule(planned):
    table = pd.read_csv(planned / "train.csv")
    ids = table["Id"].tolist()
    known = true_effects(planned, ids)
    levels = true_contrasts(planned, ids)
    found = find(table, None, contrast=levels, prediction=None, known=known, draws=1000, margin=3.0)
    rows = {row.claim.column: row for row in found.rows}
    for column in ("Eyes", "contrast", "Action", "Group", "Face"):
        assert rows[column].verdict == SUPPORTED
    for column in ("Accessory", "Occlusion", "Collage"):
        assert rows[column].verdict in (TOO_SMALL, CANNOT_TELL)
    for column in set(rows) - {"Face"}:
        assert rows[column].adjusted.low < known[column] < rows[column].adjusted.high
    # Eyes and tongue need a face: the plain difference of Eyes says too much, and a face goes with 28 % of tongues.
    assert rows["Eyes"].truth.low > known["Eyes"]
    mean = np.array([e.mean for e in plan(6000, 1)])
    out = np.array([e.photo.tongue for e in plan(6000, 1)])
    tongue = (spec.expected_score(mean + spec.TONGUE * ~out) - spec.expected_score(mean - spec.TONGUE * out)).mean()
    assert rows["Face"].adjusted.low < 0.28 * tongue < rows["Face"].adjusted.high
    assert found.untested.keys() == {"tongue"}


def test_the_rules_effects_are_the_twins(planned):
    """Over many twins, exact: the twins' photos are plainer, so the clip at 1 and the spike at 100 count a little less."""
    known = true_effects(planned, pd.read_csv(planned / "train.csv")["Id"].tolist())
    for column, part in (("Eyes", "eyes"), ("Action", "pose"), ("Group", "pets"), ("Accessory", "accessory")):
        pairs = [spec.twins(0, part, pair) for pair in range(1000)]
        on, off = (np.array([pair[side].mean_unclipped() for pair in pairs]) for side in range(2))
        assert known[column] == pytest.approx((spec.expected_score(on) - spec.expected_score(off)).mean(), abs=0.6)
    assert true_effects(planned, ["of", "other", "photos"]) == {}
    assert true_effects(planned / "truth", ["x"]) == {}
