"""Errors: shares against Mantel-Haenszel and exact p, the gap against a known truth, the command on drawn and real data."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict

from pawpularity.data.photo_facts import PROPERTIES
from pawpularity.data.tables import METADATA, read_train
from pawpularity.evaluation.label_noise import LabelNoise
from pawpularity.evaluation.metrics import band_of, rmse
from pawpularity.sample.spec import score_variance
from pawpularity.sample.truth import plan
from pawpularity.studies.errors import calibration, noise_share, what_they_share

# An independent computation's figures for v31: RMSE, share of the squared error, n of each band of true score.
V31 = {"<=20": (24.82, 0.289, 1417), "21-30": (10.76, 0.106, 2779), "31-40": (9.41, 0.068, 2340),
       "41-60": (12.98, 0.116, 2088), "61-80": (23.46, 0.132, 727), "81-99": (36.82, 0.122, 273),
       "100": (41.72, 0.166, 288)}  # fmt: skip
QUICK = ("--draws", "200")


def rows(n, seed, liked=0.0):
    """Errors, scores, and 0/1 columns: one the popular have, one the model likes, one idle; the model knows 30 % of the scores."""
    random = np.random.default_rng(seed)
    target = np.clip(np.rint(random.gamma(3.5, 11, n)), 1, 100)
    columns = pd.DataFrame({"Face": random.random(n) < np.where(target > 60, 0.7, 0.3), "Eyes": random.random(n) < 0.4,
                            "idle": random.random(n) < 0.2}).astype(float)  # fmt: skip
    prediction = 38 + 0.3 * (target - 38) + random.normal(0, 9, n) + liked * columns["Eyes"].to_numpy()
    return columns, prediction - target, target


def shares(columns, error, target, groups=None, **words):
    return {(row["side"], row["column"]): row for row in what_they_share(columns, error, target, groups, **words)}


def mantel_haenszel(x, inside, band):
    above = weight = 0.0
    for b in np.unique(band):
        one, other = x[(band == b) & inside], x[(band == b) & ~inside]
        if len(one) and len(other):
            w = len(one) * len(other) / (len(one) + len(other))
            above, weight = above + w * (one.mean() - other.mean()), weight + w
    return above / weight


def exact_p(x, inside, band):
    """Hypergeometrics convolved over the bands; ties count half (mid-p), as residuals are hardly ever tied."""
    distribution = np.ones(1)
    for b in np.unique(band):
        n, k, total = (int(v) for v in ((band == b).sum(), (inside & (band == b)).sum(), x[band == b].sum()))
        distribution = np.convolve(distribution, stats.hypergeom(n, total, k).pmf(np.arange(k + 1)))
    counts = np.arange(len(distribution))
    off = np.abs(counts - counts @ distribution) - abs(x[inside].sum() - counts @ distribution)
    return distribution @ np.where(off > 1e-9, 1.0, np.where(off > -1e-9, 0.5, 0.0))


def test_differences_and_p_against_exact_ones():
    columns, error, target = rows(800, 0, liked=3.0)
    found = shares(columns, error, target, count=80, draws=2000)
    for (side, column), share in found.items():
        x, inside = columns[column].to_numpy(), np.zeros(800, dtype=bool)
        inside[np.argsort(error)[slice(-80, None) if side == "over-scored" else slice(80)]] = True
        assert (share["worst"], share["rest"]) == pytest.approx((x[inside].mean(), x[~inside].mean()))
        assert share["difference"] == pytest.approx(mantel_haenszel(x, inside, band_of(target)))
        assert share["p"] == pytest.approx(exact_p(x, inside, band_of(target)), abs=0.04)
        assert share["low"] < share["difference"] < share["high"]
    p = [share["p"] for share in found.values()]
    assert min(share["p_holm"] for share in found.values()) == pytest.approx(min(1, len(p) * min(p)))


def test_what_only_follows_from_the_true_score_vanishes_among_rows_of_similar_score():
    columns, error, target = rows(6000, 1, liked=4.0)
    found = shares(columns, error, target, count=300, draws=500)
    popular, liked = found["under-scored", "Face"], found["over-scored", "Eyes"]
    assert popular["worst"] - popular["rest"] > 0.2
    assert popular["low"] < 0 < popular["high"]
    assert liked["p_holm"] < 0.02
    assert liked["difference"] > 0.1
    assert all(found[side, "idle"]["p_holm"] > 0.05 for side in ("over-scored", "under-scored"))


def test_a_worst_row_alone_in_its_band_tells_nothing():
    target = np.array([100.0, *np.full(19, 30.0)])
    found = shares(pd.DataFrame({"Face": np.arange(20) % 2}), 40 - target, target, count=1, draws=200)
    assert {side for side, _ in found} == {"over-scored"}


def test_doubled_rows_are_no_more_evidence():
    """Every row twice, as pairs: the same difference; interval and p stay those of the single rows."""
    columns, error, target = rows(600, 3, liked=2.0)
    single = shares(columns, error, target, count=30, draws=2000)
    twice = columns.loc[np.repeat(np.arange(600), 2)].reset_index(drop=True), np.repeat(error, 2), np.repeat(target, 2)
    double = shares(*twice, np.repeat(np.arange(600), 2), count=60, draws=2000)
    for one, two in zip(single.values(), double.values(), strict=True):
        assert two["difference"] == pytest.approx(one["difference"])
        assert two["p"] == pytest.approx(one["p"], abs=0.05)
        assert two["high"] - two["low"] == pytest.approx(one["high"] - one["low"], rel=0.1)


def test_noise_and_calibration_of_a_drawn_sample_are_what_its_truth_says():
    entries = plan(4000, 7)
    target, expected, mean = (
        np.array([getattr(e, key) for e in entries], float) for key in ("score", "expected", "mean")
    )
    floor = float(np.sqrt(score_variance(mean).mean()))
    random = np.random.default_rng(0)
    prediction, fold = 38 + 0.5 * (expected - 38) + random.normal(0, 7, 4000), random.integers(0, 5, 4000)
    found = noise_share(target, prediction, LabelNoise(floor, floor, floor, 0, "exact"), None, expected)
    mse = np.mean((target - prediction) ** 2)
    assert sum(found["exact"].values()) == pytest.approx(1)
    assert found["exact"]["noise"] == pytest.approx(np.mean((target - expected) ** 2) / mse)
    assert found["share_low"] < found["exact"]["noise"] < found["share_high"]
    assert found["share"] == pytest.approx(floor**2 / mse)
    line, own = stats.linregress(prediction, target), calibration(target, prediction, fold, None, draws=200)
    fitted = cross_val_predict(LinearRegression(), prediction[:, None], target, groups=fold, cv=LeaveOneGroupOut())
    assert (own["slope"], own["intercept"]) == pytest.approx((line.slope, line.intercept))
    assert own["gain"] == pytest.approx(rmse(target, prediction) - rmse(target, fitted))
    assert 0 < own["gain_low"] < own["gain"] < own["gain_high"], "half as bold as the truth, so a line helps"
    assert calibration(target, prediction, np.zeros(4000), None, draws=200)["gain"] is None, "no other fold"
    assert math.isnan(calibration(target, np.full(4000, 38.0), fold, None, draws=200)["slope"])


@pytest.fixture
def predictions(work, drawn):
    """An out-of-fold CSV of a copy of the drawn sample, toy/: the truth, made vague."""
    shutil.copytree(drawn, "toy")
    table = read_train(Path("toy"))
    expected = pd.read_csv("toy/truth/parts.csv").set_index("Id").loc[table["Id"], "expected"].to_numpy()
    vague = 38 + 0.7 * (expected - 38) + np.random.default_rng(0).normal(0, 6, len(table))
    oof = table[["Id"]].assign(fold=np.arange(len(table)) % 4, target=table["Pawpularity"], prediction=vague)
    oof.to_csv("vague.csv", index=False)
    return oof


def test_the_command_on_a_drawn_sample(predictions, paw):
    words = ("errors", "vague.csv", "--data", "toy", "--top", "5", *QUICK)
    done = paw(*words, "--json", "found.json")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) <= 16
    folder, found = Path("oof/errors/vague.csv"), json.loads(Path("found.json").read_text())
    files = {"bands.csv", "report.txt", "shares.csv", "worst.csv", "worst.png"}
    assert {file.name for file in folder.iterdir()} == files
    assert (folder / "report.txt").read_text().startswith("\n".join(done.out.splitlines()[:-1]))
    worst = pd.read_csv(folder / "worst.csv")
    error = (predictions["prediction"] - predictions["target"]).to_numpy()
    assert worst["error"].tolist() == pytest.approx([*np.sort(error)[::-1][:5], *np.sort(error)[:5]], abs=1e-5)
    assert (worst["noise"] + worst["expected"]).tolist() == pytest.approx(worst["target"].tolist())
    known = read_train(Path("toy")).set_index("Id").loc[worst["Id"]]
    assert (worst[list(METADATA)].to_numpy() == known[list(METADATA)].to_numpy()).all()
    with Image.open(f"toy/train/{worst['Id'][0]}.jpg") as photo:
        assert (worst["width, px"][0], worst["height, px"][0]) == photo.size
    floor = json.loads(Path("toy/truth/floor.json").read_text())["floor"]
    assert found["noise"]["share"] == pytest.approx(floor**2 / np.mean(error**2))
    assert sum(band["share"] for band in found["bands"]) == pytest.approx(1)
    assert (found["compared"], len(found["shares"])) == (3, 2 * (12 + len(PROPERTIES)))
    size = Image.open(folder / "worst.png").size
    # The same bytes again; labels alone leave no sheet of an earlier report behind.
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert paw(*words).code == 0
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert paw(*words, "--top", "8").code == 0
    assert Image.open(folder / "worst.png").size[1] > size[1]
    shutil.copy("toy/train.csv", "labels.csv")
    assert paw("errors", "vague.csv", "--data", "labels.csv", *QUICK).code == 0
    assert {file.name for file in folder.iterdir()} == files - {"worst.png"}


def test_a_table_that_knows_some_rows_and_none(predictions, paw):
    """Half of the rows, in another order, one photo posted twice: facts and metadata still belong to their Ids."""
    done = paw("errors", "vague.csv", *QUICK, "--json", "found.json")
    assert done.code == 0, done.err
    assert json.loads(Path("found.json").read_text())["shares"] == []
    table = pd.read_csv("toy/train.csv")
    shutil.rmtree("toy/truth")
    for name in table["Id"][1::2]:
        Path(f"toy/train/{name}.jpg").unlink()
    half = table[::2].sort_values("Pawpularity")
    half.to_csv("toy/train.csv", index=False)
    shutil.copy(f"toy/train/{half['Id'].iloc[3]}.jpg", f"toy/train/{half['Id'].iloc[20]}.jpg")
    assert paw("errors", "vague.csv", "--data", "toy", "--top", "60", *QUICK, "--json", "found.json").code == 0
    found = json.loads(Path("found.json").read_text())
    assert (found["known"], found["photos"], len(found["worst"])) == (30, 30, 60)
    worst = pd.read_csv("oof/errors/vague.csv/worst.csv").set_index("Id")
    assert worst["Eyes"].notna().sum() == 30
    known = half.set_index("Id")
    assert (worst.loc[known.index, list(METADATA)].to_numpy() == known[list(METADATA)].to_numpy()).all()
    for name, size in worst.loc[known.index, "log file size"].items():
        assert size == pytest.approx(math.log(Path(f"toy/train/{name}.jpg").stat().st_size), abs=1e-5)
    assert Path("oof/errors/vague.csv/worst.png").is_file()


def test_few_rows_all_off_to_one_side(work, paw):
    """No row is called over-scored that is not; nothing undefined reaches the JSON."""
    Path("few.csv").write_text("Id,fold,target,prediction\na,0,50,40\nb,0,60,41\nc,1,70,42\nd,1,71,42\n")
    done = paw("errors", "few.csv", *QUICK, "--json", "found.json")
    assert done.code == 0, done.err
    assert [row["Id"] for row in json.loads(Path("found.json").read_text())["worst"]] == ["d", "c", "b", "a"]
    assert "indicative" in done.out


def test_what_is_refused(predictions, refused):
    table = pd.read_csv("toy/train.csv")
    table.assign(Pawpularity=101 - table["Pawpularity"]).to_csv("changed.csv", index=False)
    table.assign(Id=[f"x{i}" for i in range(len(table))]).to_csv("other.csv", index=False)
    predictions.assign(prediction=predictions["target"]).to_csv("perfect.csv", index=False)
    for words, said in (
        (("nowhere",), "nowhere"), (("nowhere.csv",), "nowhere.csv"), ((), "no run"), (("perfect.csv",), "perfect.csv"),
        (("vague.csv", "--data", "nowhere"), "--data nowhere"), (("vague.csv", "--top", "0"), "--top"),
        (("vague.csv", "--draws", "99"), "--draws"), (("vague.csv", "train.lr=1"), "train.lr=1"),
        (("vague.csv", "--out", "vague.csv"), "--out"), (("vague.csv", "--data", "other.csv"), "other.csv"),
        (("vague.csv", "--data", "changed.csv"), "changed.csv"),
    ):  # fmt: skip
        assert said in refused("errors", *words)
    assert not Path("oof/errors").exists()


@pytest.mark.parametrize(("data", "photos"), [("pawpularity-labels/train.csv", 0), ("pawpularity-100", 100)])
def test_a_real_file(work, real, paw, data, photos):
    words = ("errors", real / "oof-peers" / "v31.csv", "--data", real / data, "--draws", 300, "--json", "found.json")
    done = paw(*words)
    assert done.code == 0, done.err
    found = json.loads(Path("found.json").read_text())
    bands = {band["name"]: (round(band["rmse"], 2), round(band["share"], 3), band["n"]) for band in found["bands"]}
    assert bands == V31
    line, noise = found["calibration"], found["noise"]
    assert (line["slope"], line["intercept"]) == (pytest.approx(0.9145, abs=5e-5), pytest.approx(2.938, abs=5e-4))
    assert noise["share"] == pytest.approx((10.7 / 17.4695) ** 2, abs=1e-5)
    assert [noise["share_low"], noise["share_high"]] == pytest.approx(
        [0.220, 0.562], abs=0.03
    )  # the noise's ends alone
    eyes = next(share for share in found["shares"] if (share["side"], share["column"]) == ("over-scored", "Eyes"))
    # The models under-score open eyes (residual +1.34, Holm .007), so the over-scored have fewer.
    assert photos or (found["compared"] == 496 and eyes["worst"] - eyes["rest"] < -0.04 and eyes["difference"] < 0)
    assert (found["photos"], len(list(Path("oof/errors").glob("oof-peers-v31-*/worst.png")))) == (photos, bool(photos))
