"""`pawpularity hypotheses` through the real command: the real table's known figures, what it leaves, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pawpularity.data.subject import Contrasts
from pawpularity.evaluation.oof import write_oof
from pawpularity.studies.hypotheses.report import _NAMES

# n with, effect, 95 %, Welch's error, permutation p, Holm of 7, smallest, smallest of 7, verdict: an independent computation's.
KNOWN = {
    "Face": (8960, 0.560, -0.86, 1.96, 0.731, 0.424, 1.0, 2.05, 2.58, "too small to matter"),
    "Eyes": (7658, -0.328, -1.32, 0.66, 0.510, 0.499, 1.0, 1.43, 1.80, "too small to matter"),
    "Accessory": (672, 1.088, -0.52, 2.73, 0.821, 0.190, 1.0, 2.30, 2.90, "too small to matter"),
    "Group": (1282, 1.011, -0.17, 2.22, 0.604, 0.102, 0.71, 1.69, 2.13, "too small to matter"),
    "Collage": (492, 0.164, -1.66, 2.06, 0.943, 0.866, 1.0, 2.64, 3.33, "too small to matter"),
    "Action": (99, -0.284, -4.32, 3.98, 2.124, 0.893, 1.0, 5.95, 7.50, "cannot tell"),
    "Occlusion": (1705, 0.108, -0.93, 1.16, 0.531, 0.847, 1.0, 1.49, 1.87, "too small to matter"),
}
BELIEVED = {"Eyes": -1.67, "Accessory": 0.93, "Group": 0.43, "Face": -0.58, "Occlusion": 0.25}


def labels_only(shelter: Path) -> Path:
    """The drawn data without photos: nothing to measure, so fast."""
    shutil.rmtree(shelter / "train")
    return shelter


def predictions(shelter: Path, file: str, change=lambda table: table) -> Path:
    table = pd.read_csv(shelter / "train.csv", dtype={"Id": str}).sort_values("Id", ignore_index=True)
    guess = 0.5 * table["Pawpularity"] + 19
    found = pd.DataFrame({"Id": table["Id"], "fold": np.arange(len(table)) % 5, "target": table["Pawpularity"],
                          "prediction": guess})  # fmt: skip
    write_oof(Path(file), change(found))
    return Path(file)


def test_the_real_table_and_the_mean_of_eight_real_models(work, real, paw):
    tables = [
        pd.read_csv(file).sort_values("Id", ignore_index=True) for file in sorted((real / "oof-peers").glob("*.csv"))
    ]
    mean = tables[0].assign(prediction=np.mean([table["prediction"] for table in tables], axis=0))
    write_oof(Path("mean8.csv"), mean)
    done = paw("hypotheses", "--data", real / "pawpularity-labels" / "train.csv", "--run", "mean8.csv")
    assert done.code == 0, done.err
    found = json.loads(Path("oof/hypotheses/pawpularity-labels/mean8.csv/hypotheses.json").read_text())
    rows = {row["column"]: row for row in found["tested"]}
    assert rows.keys() == KNOWN.keys()
    for column, (n, effect, low, high, se, p, corrected, smallest, of_seven, word) in KNOWN.items():
        row = rows[column]
        assert (row["with"], row["without"], row["verdict"]) == (n, 9912 - n, word)
        assert (row["effect"], row["se"]) == pytest.approx((effect, se), abs=6e-4)
        assert (row["smallest"], row["smallest_corrected"]) == pytest.approx((smallest, of_seven), abs=6e-3)
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.06 + 0.03 * se)
        assert row["p"] == pytest.approx(p, abs=0.015)
        assert row["corrected_p"] == pytest.approx(corrected, abs=0.1)
        assert row["believed"]["effect"] + row["residual"]["effect"] == pytest.approx(row["effect"])
    for column, effect in BELIEVED.items():
        assert rows[column]["believed"]["effect"] == pytest.approx(effect, abs=6e-3)
    eyes, accessory = rows["Eyes"], rows["Accessory"]
    assert (eyes["believed"]["low"], eyes["believed"]["high"]) == pytest.approx((-2.18, -1.17), abs=0.03)
    assert eyes["believed"]["corrected_p"] == pytest.approx(0.0007, abs=6e-4)
    assert eyes["residual"]["effect"] == pytest.approx(1.34, abs=6e-3)
    assert (eyes["residual"]["low"], eyes["residual"]["high"]) == pytest.approx((0.51, 2.19), abs=0.06)
    assert eyes["residual"]["corrected_p"] == pytest.approx(0.007, abs=0.007)
    assert (accessory["believed"]["p"], accessory["believed"]["corrected_p"]) == pytest.approx((0.025, 0.15), abs=0.03)
    assert (eyes["adjusted"]["effect"], rows["Face"]["adjusted"]["effect"]) == pytest.approx((-2.48, 2.45), abs=6e-3)
    # The verdict on Eyes is the public's; that the models think otherwise is one line, and the only one.
    (line,) = [line for line in done.out.splitlines() if line.startswith("disagreement")]
    assert "mean8 believes Eyes lowers the score (-1.67" in line
    assert found["disagreements"] == [line]
    assert found["not_testable"].keys() == {"contrast", "tongue"}
    assert "contrast, needs photos" in done.out
    assert "F(12, 9899) = 1.99, p 0.0211, R2 0.0024" in done.out
    assert "0.15 sd of these scores; from their median, 33, to 36 is 7 percentiles" in done.out


def test_what_is_left_behind(work, shelter, paw):
    data = labels_only(shelter)
    words = ("hypotheses", "--data", data, "--draws", 150, "--run", predictions(data, "half.csv"))
    done = paw(*words)
    assert done.code == 0, done.err
    folder = Path("oof/hypotheses/toy/half.csv")
    assert {file.name for file in folder.iterdir()} == {"hypotheses.csv", "hypotheses.json", "forest.png"}
    table = pd.read_csv(folder / "hypotheses.csv")
    assert tuple(table.columns) == _NAMES
    assert list(table["column"]) == ["Face", "Eyes", "contrast", "Accessory", "Action", "Occlusion", "Group", "Collage"]
    assert table["verdict"][2].startswith("not testable here: needs photos")
    found = json.loads((folder / "hypotheses.json").read_text())
    tested = table[table["effect"].notna()].set_index("column")
    for row in found["tested"]:
        assert tested.loc[row["column"], "effect"] == pytest.approx(row["effect"], abs=6e-5)
        assert tested.loc[row["column"], "believed_low"] == pytest.approx(row["believed"]["low"], abs=6e-5)
        # The prediction is half the score: so is every belief, and so the model believes what is true, but half of it.
        assert row["believed"]["effect"] == pytest.approx(row["effect"] / 2, abs=1e-5)
        assert row["believed"]["p"] == pytest.approx(row["p"])
    with Image.open(folder / "forest.png") as picture:
        assert picture.width > 900
        assert np.asarray(picture.convert("L")).std() > 10
    kept = {file.name: file.read_bytes() for file in folder.iterdir()}
    pd.read_csv(data / "train.csv").iloc[::-1].to_csv(data / "train.csv", index=False)
    again = paw(*words, "--out", "elsewhere", "--json", "table.json")
    assert again.out == done.out, "nothing depends on the order of the rows"
    assert {file.name: file.read_bytes() for file in Path("elsewhere").iterdir()} == kept
    assert json.loads(Path("table.json").read_text()) == found
    assert json.loads(paw(*words, "--json", "-").out) == found


def test_near_duplicates_count_once(work, drawn, paw, monkeypatch):
    """The same photos posted twice under other names: the interval must not shrink, a plain bootstrap's would by a third."""
    nothing = Contrasts(np.full(48, np.nan), np.zeros(48))
    monkeypatch.setattr("pawpularity.studies.hypotheses.data.measure", lambda dataset: nothing)
    table = pd.read_csv(drawn / "train.csv", dtype={"Id": str}).iloc[:24]
    one, two = Path("one"), Path("two")
    for folder, names in ((one, ("",)), (two, ("", "x"))):
        (folder / "train").mkdir(parents=True)
        rows = [table.assign(Id=table["Id"] + name) for name in names]
        pd.concat(rows).to_csv(folder / "train.csv", index=False)
        for name in names:
            for photo in table["Id"]:
                shutil.copy(drawn / "train" / f"{photo}.jpg", folder / "train" / f"{photo}{name}.jpg")
    found = [json.loads(paw("hypotheses", "--data", place, "--draws", 1500, "--json", "-").out) for place in (one, two)]
    (alone,), (twice,) = ([row for row in part["tested"] if row["column"] == "Eyes"] for part in found)
    assert twice["effect"] == pytest.approx(alone["effect"])
    assert twice["high"] - twice["low"] == pytest.approx(alone["high"] - alone["low"], rel=0.1)
    assert twice["p"] == pytest.approx(alone["p"], abs=0.05)


def test_a_model_that_believes_what_is_not_so(work, shelter, paw):
    data = labels_only(shelter)

    def likes_groups(table):
        own = pd.read_csv(data / "train.csv", dtype={"Id": str}).sort_values("Id", ignore_index=True)
        quiet = np.random.default_rng(1).normal(0, 1, len(own))
        return table.assign(prediction=38 + 12 * own["Group"] + quiet)

    file = predictions(data, "odd.csv", likes_groups)
    done = paw("hypotheses", "--data", data, "--draws", 999, "--run", file)
    (line,) = [line for line in done.out.splitlines() if line.startswith("disagreement")]
    assert "odd believes Group raises the score" in line
    assert "the true score does not bear it out (-" in line
    same = paw("hypotheses", "--data", data, "--draws", 999, "--run", predictions(data, "half.csv"))
    assert "no disagreement" in same.out or "disagreement: half gives" in same.out


def test_a_constant_column_is_not_testable_and_the_family_shrinks(work, shelter, paw, refused):
    data = labels_only(shelter)
    table = pd.read_csv(data / "train.csv").assign(Action=0, Collage=1)
    table.to_csv(data / "train.csv", index=False)
    done = paw("hypotheses", "--data", data, "--draws", 200)
    assert done.code == 0, done.err
    found = json.loads(Path("oof/hypotheses/toy/hypotheses.json").read_text())
    assert [row["column"] for row in found["tested"]] == ["Face", "Eyes", "Accessory", "Occlusion", "Group"]
    assert found["not_testable"]["Action"] == "is 0 on every photo"
    assert found["joint"]["coefficients"]["Action"] is None
    assert "over the 5 tested" in done.out
    for column in ("Face", "Eyes", "Accessory", "Occlusion", "Group"):
        table[column] = 0
    table.to_csv(data / "train.csv", index=False)
    assert "no claim can be tested" in refused("hypotheses", "--data", data, "--draws", 200, "--out", "none")
    assert not Path("none").exists()


def test_a_wide_margin_makes_more_too_small(work, shelter, paw):
    words = ("hypotheses", "--data", labels_only(shelter), "--draws", 200, "--json", "-")
    narrow, wide = (json.loads(paw(*words, "--margin", margin).out)["tested"] for margin in (0.01, 60))
    assert "too small to matter" not in {row["verdict"] for row in narrow}
    assert "cannot tell" not in {row["verdict"] for row in wide if min(row["with"], row["without"]) >= 10}
    assert [row["effect"] for row in narrow] == [row["effect"] for row in wide]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--draws", "99"), "--draws 99: must be 100"),
        (("--margin", "0"), "--margin 0: must be above 0"),
        (("--margin", "nan"), "must be above 0"),
        (("--draws", "many"), "invalid int value"),
        (("--run", "nobody"), "holds no run"),
        (("--run", "nobody.csv"), "no such file"),
        (("--margn", "2"), 'did you mean "--margin"'),
        (("folds.kk=3",), 'did you mean "folds.k"'),
    ],
)
def test_wrong_words(work, shelter, refused, words, said):
    assert said in refused("hypotheses", "--data", labels_only(shelter), *words)
    assert not Path("oof/hypotheses").exists()


def test_predictions_of_other_rows_are_refused(work, shelter, refused):
    data = labels_only(shelter)
    command = ("hypotheses", "--data", data, "--draws", 100, "--run")
    other = predictions(data, "other.csv", lambda t: t.assign(target=t["target"].where(t.index != 3, 99.0)))
    assert "has another score than" in refused(*command, other)
    fewer = predictions(data, "fewer.csv", lambda t: t.iloc[1:])
    assert "is of other photos than" in refused(*command, fewer)
    more = predictions(data, "more.csv", lambda t: pd.concat([t, t.iloc[:1].assign(Id="zz")]))
    assert "lacks zz" in refused(*command, more)
    assert "are on a 0-1 scale" in refused(
        *command, predictions(data, "small.csv", lambda t: t.assign(prediction=t["prediction"] / 100))
    )
    assert not Path("oof/hypotheses").exists()


def test_too_few_rows_are_refused_before_anything_is_written(work, shelter, refused):
    data = labels_only(shelter)
    pd.read_csv(data / "train.csv").iloc[:19].to_csv(data / "train.csv", index=False)
    assert "has 19 rows; 20 or more are needed" in refused("hypotheses", "--data", data)
    assert not Path("oof").exists()
