"""Hypotheses on drawn samples whose rule is known, and the command: what it leaves, what it says, what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pawpularity.data.subject import Contrasts
from pawpularity.evaluation.effects import CANNOT_TELL, SUPPORTED, TOO_SMALL
from pawpularity.evaluation.oof import write_oof
from pawpularity.files import write_json
from pawpularity.sample import spec
from pawpularity.sample.truth import floor, plan, truth_row
from pawpularity.studies import hypotheses
from pawpularity.studies.hypotheses import find, true_contrasts, true_effects


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The tables of a sample of 6,000 photos, none of which is drawn."""
    folder = tmp_path_factory.mktemp("planned") / "big"
    entries = sorted(plan(6000, 1), key=lambda entry: entry.id)
    (folder / "truth").mkdir(parents=True)
    rows = [{"Id": e.id, **e.photo.metadata(), "Pawpularity": e.score} for e in entries]
    pd.DataFrame(rows).to_csv(folder / "train.csv", index=False)
    pd.DataFrame([truth_row(e) for e in entries]).to_csv(folder / "truth" / "parts.csv", index=False)
    write_json(folder / "truth" / "floor.json", floor(entries[:100], 1))
    return folder


def test_verdicts_and_adjusted_effects_are_those_of_the_rule(planned):
    table = pd.read_csv(planned / "train.csv")
    ids = table["Id"].tolist()
    known = true_effects(planned, ids)
    found = find(table, None, contrast=true_contrasts(planned, ids), draws=1000, margin=3.0)
    rows = {row["column"]: row for row in found["tested"]}
    for column in ("Eyes", "contrast", "Action", "Group", "Face"):
        assert rows[column]["verdict"] == SUPPORTED
    for column in ("Accessory", "Occlusion", "Collage"):
        assert rows[column]["verdict"] in (TOO_SMALL, CANNOT_TELL)
    for column in set(rows) - {"Face"}:
        assert rows[column]["adjusted"]["low"] < known[column] < rows[column]["adjusted"]["high"]
    # Eyes and tongue need a face: the plain difference of Eyes says too much, and a face goes with 28 % of tongues.
    assert rows["Eyes"]["low"] > known["Eyes"]
    mean, out = (np.array([value(e) for e in plan(6000, 1)]) for value in (lambda e: e.mean, lambda e: e.photo.tongue))
    tongue = (spec.expected_score(mean + spec.TONGUE * ~out) - spec.expected_score(mean - spec.TONGUE * out)).mean()
    assert rows["Face"]["adjusted"]["low"] < 0.28 * tongue < rows["Face"]["adjusted"]["high"]
    assert found["not_testable"].keys() == {"tongue"}


def test_the_rules_effects_are_those_of_counterfactual_pairs(planned):
    """Over many pairs, exact: their photos are plainer, so the clip at 1 and the spike at 100 count a little less."""
    known = true_effects(planned, pd.read_csv(planned / "train.csv")["Id"].tolist())
    for column, part in (("Eyes", "eyes"), ("Action", "pose"), ("Group", "pets"), ("Accessory", "accessory")):
        pairs = [spec.counterfactual_pair(0, part, pair) for pair in range(1000)]
        on, off = (np.array([pair[side].mean_unclipped() for pair in pairs]) for side in range(2))
        assert known[column] == pytest.approx((spec.expected_score(on) - spec.expected_score(off)).mean(), abs=0.6)
    assert true_effects(planned, ["of", "other", "photos"]) == {}
    assert true_effects(planned / "truth", ["x"]) == {}


@pytest.fixture
def labels(drawn, work):
    """The drawn table without photos: nothing to measure, so fast."""
    Path("toy").mkdir()
    shutil.copytree(drawn / "truth", "toy/truth")
    return Path(shutil.copy(drawn / "train.csv", "toy/train.csv")).parent


def predictions(data: Path, file: str, change=lambda table: table) -> str:
    """Half the true score and a constant, changed."""
    table = pd.read_csv(data / "train.csv", dtype={"Id": str}).sort_values("Id", ignore_index=True)
    found = pd.DataFrame({"Id": table["Id"], "fold": np.arange(len(table)) % 5, "target": table["Pawpularity"],
                          "prediction": 0.5 * table["Pawpularity"] + 19})  # fmt: skip
    write_oof(Path(file), change(found))
    return file


def test_what_is_left_behind(labels, paw):
    words = ("hypotheses", "--data", labels, "--draws", 150, "--run", predictions(labels, "half.csv"))
    done = paw(*words)
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) <= 20
    folder = Path("oof/hypotheses/toy/half.csv")
    assert {file.name for file in folder.iterdir()} == {"hypotheses.csv", "hypotheses.json", "forest.png"}
    table, found = pd.read_csv(folder / "hypotheses.csv"), json.loads((folder / "hypotheses.json").read_text())
    assert list(table["column"]) == ["Face", "Eyes", "contrast", "Accessory", "Action", "Occlusion", "Group", "Collage"]
    assert "needs photos" in table["verdict"][2]
    by_column = table.set_index("column")
    for row in found["tested"]:
        assert by_column.loc[row["column"], "effect"] == pytest.approx(row["effect"], abs=6e-5)
        assert by_column.loc[row["column"], "believed_low"] == pytest.approx(row["believed"]["low"], abs=6e-5)
        # The prediction is half the score, so every belief is half the effect.
        assert row["believed"]["effect"] == pytest.approx(row["effect"] / 2, abs=1e-5)
        assert row["believed"]["p"] == pytest.approx(row["p"])
    with Image.open(folder / "forest.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}
    pd.read_csv(labels / "train.csv").iloc[::-1].to_csv(labels / "train.csv", index=False)
    again = paw(*words, "--out", "elsewhere", "--json", "table.json")
    assert again.out == done.out, "nothing depends on the order of the rows"
    assert {file.name: file.read_bytes() for file in Path("elsewhere").iterdir()} == kept
    assert json.loads(Path("table.json").read_text()) == found


def test_two_label_files_of_one_folder_have_their_own_findings(labels, paw):
    shutil.move("toy/train.csv", "first.csv")
    Path("second.csv").write_text(Path("first.csv").read_text())
    for data in ("first.csv", "second.csv"):
        assert paw("hypotheses", "--data", data, "--draws", 100).code == 0
    found = [json.loads(path.read_text())["data"] for path in Path("oof/hypotheses").glob("*/hypotheses.json")]
    assert sorted(found) == ["first", "second"]


def test_near_duplicates_count_once(work, drawn, paw, monkeypatch):
    """The same photos posted twice: the interval must not shrink, a plain bootstrap's would by a third."""
    nothing = Contrasts(np.full(48, np.nan), np.zeros(48))
    monkeypatch.setattr(hypotheses, "measure", lambda *words: nothing)
    table = pd.read_csv(drawn / "train.csv", dtype={"Id": str}).iloc[:24]
    for folder, names in ((Path("one"), ("",)), (Path("two"), ("", "x"))):
        (folder / "train").mkdir(parents=True)
        pd.concat([table.assign(Id=table["Id"] + name) for name in names]).to_csv(folder / "train.csv", index=False)
        for name in names:
            for photo in table["Id"]:
                shutil.copy(drawn / "train" / f"{photo}.jpg", folder / "train" / f"{photo}{name}.jpg")
    words = ("--draws", 1500, "--json", "-")
    found = [json.loads(paw("hypotheses", "--data", place, *words).out) for place in ("one", "two")]
    alone, twice = (next(row for row in part["tested"] if row["column"] == "Eyes") for part in found)
    assert all(any("24 groups" in note for note in part["notes"]) for part in found), "indicative, of 48 photos too"
    assert twice["effect"] == pytest.approx(alone["effect"])
    assert twice["high"] - twice["low"] == pytest.approx(alone["high"] - alone["low"], rel=0.1)
    assert twice["p"] == pytest.approx(alone["p"], abs=0.05)


def test_the_contrast_is_measured_where_there_are_photos(drawn, work, paw):
    found = json.loads(paw("hypotheses", "--data", drawn, "--draws", 200, "--json", "-").out)
    (row,) = [row for row in found["tested"] if row["column"] == "contrast"]
    (note,) = [note for note in found["notes"] if note.startswith("contrast:")]
    expected = float(note.rsplit("= ", 1)[1].split()[0])
    assert 0.4 * row["true_effect"] < expected < row["true_effect"], "the mask follows the drawn contrast"
    assert row["low"] < expected < row["high"]
    assert (row["levels"] > 0, row["with"] > 50) == (True, True)
    assert found["joint"]["coefficients"].keys() >= {"contrast", "Eyes", "Blur"}


def test_a_model_that_believes_what_is_not_so(labels, paw):
    own = pd.read_csv(labels / "train.csv", dtype={"Id": str}).sort_values("Id", ignore_index=True)
    belief = 38 + 30 * own["Occlusion"] + np.random.default_rng(1).normal(0, 1, len(own))
    file = predictions(labels, "odd.csv", lambda table: table.assign(prediction=belief))
    found = json.loads(paw("hypotheses", "--data", labels, "--draws", 999, "--run", file, "--json", "-").out)
    (line,) = found["disagreements"]
    assert "odd believes Occlusion raises" in line


def test_a_constant_column_is_not_testable_and_the_family_shrinks(labels, paw, refused):
    table = pd.read_csv(labels / "train.csv").assign(Action=0, Collage=1)
    table.to_csv(labels / "train.csv", index=False)
    words = ("hypotheses", "--data", labels, "--draws", 200)
    found = json.loads(paw(*words, "--json", "-").out)
    assert [row["column"] for row in found["tested"]] == ["Face", "Eyes", "Accessory", "Occlusion", "Group"]
    assert "is 0" in found["not_testable"]["Action"]
    assert found["joint"]["coefficients"]["Action"] is None
    p = sorted(row["p"] for row in found["tested"])
    assert min(row["corrected_p"] for row in found["tested"]) == pytest.approx(min(1, 5 * p[0]))
    columns = ("Face", "Eyes", "Accessory", "Occlusion", "Group")
    table.assign(**dict.fromkeys(columns, 0)).to_csv(labels / "train.csv", index=False)
    assert "no claim" in refused(*words, "--out", "none")
    assert not Path("none").exists()


def test_what_is_refused(labels, refused):
    command = ("hypotheses", "--data", labels, "--draws", 100)
    for key, word, said in (("--draws", "99", "--draws"), ("--margin", "0", "--margin"), ("--margin", "nan", "--margin"),
                            ("--run", "nobody", "nobody"), ("--run", "nobody.csv", "nobody.csv")):  # fmt: skip
        assert said in refused(*command, key, word)
    changes = {
        "other": lambda table: table.assign(target=table["target"].where(table.index != 3, 99.0)),
        "more": lambda table: pd.concat([table, table.iloc[:1].assign(Id="zz")]),
    }
    for name, change in changes.items():
        assert f"{name}.csv" in refused(*command, "--run", predictions(labels, f"{name}.csv", change))
    pd.read_csv(labels / "train.csv").iloc[:19].to_csv(labels / "train.csv", index=False)
    assert "19 rows" in refused(*command)
    assert not Path("oof/hypotheses").exists()
