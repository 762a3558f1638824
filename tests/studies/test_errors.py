"""Errors: shares against exact tests, the gap against regressions and a known truth, the command on drawn and real data."""

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
from pawpularity.evaluation.metrics import band_of
from pawpularity.sample.spec import score_variance
from pawpularity.sample.truth import plan
from pawpularity.studies.errors_analysis import (
    SIDES,
    cross_fitted_line,
    measure_gap,
    permutations_within,
    recency,
    what_they_share,
    worst_rows,
)

# An independent computation's figures for v31: RMSE, share of the squared error, n of each band of true score.
V31 = {"<=20": (24.82, 0.289, 1417), "21-30": (10.76, 0.106, 2779), "31-40": (9.41, 0.068, 2340),
       "41-60": (12.98, 0.116, 2088), "61-80": (23.46, 0.132, 727), "81-99": (36.82, 0.122, 273),
       "100": (41.72, 0.166, 288)}  # fmt: skip


def rows(n, seed, liked=0.0):
    """Errors, scores, and 0/1 columns: one the popular have, one the model likes, one idle; the model knows 30 % of the scores."""
    random = np.random.default_rng(seed)
    target = np.clip(np.rint(random.gamma(3.5, 11, n)), 1, 100)
    columns = pd.DataFrame({"Face": random.random(n) < np.where(target > 60, 0.7, 0.3), "Eyes": random.random(n) < 0.4,
                            "idle": random.random(n) < 0.2}).astype(float)  # fmt: skip
    prediction = 38 + 0.3 * (target - 38) + random.normal(0, 9, n) + liked * columns["Eyes"].to_numpy()
    return columns, prediction - target, target


def shares(columns, error, target, groups=None, **words):
    found = what_they_share(columns, error, target, groups, **words).to_dict("records")
    return {(row["side"], row["column"]): row for row in found}


def test_worst_rows_are_the_furthest_first_and_ties_stand_in_order():
    error = np.array([3.0, -7.0, 9.0, 9.0, -7.5, 0.0])
    assert worst_rows(error, SIDES[0], 3).tolist() == [2, 3, 0]
    assert worst_rows(error, SIDES[1], 2).tolist() == [4, 1]


def mantel_haenszel(x, inside, band):
    above = weight = 0.0
    for b in np.unique(band):
        one, other = x[(band == b) & inside], x[(band == b) & ~inside]
        if len(one) and len(other):
            w = len(one) * len(other) / (len(one) + len(other))
            above, weight = above + w * (one.mean() - other.mean()), weight + w
    return above / weight


def exact_p(x, inside, band):
    """Hypergeometrics convolved over the bands."""
    distribution = np.ones(1)
    for b in np.unique(band):
        n, k, total = (int(v) for v in ((band == b).sum(), (inside & (band == b)).sum(), x[band == b].sum()))
        distribution = np.convolve(distribution, stats.hypergeom(n, total, k).pmf(np.arange(k + 1)))
    counts = np.arange(len(distribution))
    mean = counts @ distribution
    return distribution[np.abs(counts - mean) >= abs(x[inside].sum() - mean) - 1e-9].sum()


def test_differences_and_p_against_exact_ones():
    columns, error, target = rows(800, 0, liked=3.0)
    band, one_band = band_of(target), np.zeros(800, dtype=int)
    found = shares(columns, error, target, count=40, draws=4000)
    for (side, column), share in found.items():
        x, inside = columns[column].to_numpy(), np.zeros(800, dtype=bool)
        inside[worst_rows(error, side, 40)] = True
        assert (share["worst"], share["rest"]) == pytest.approx((x[inside].mean(), x[~inside].mean()))
        assert share["difference"] == pytest.approx(x[inside].mean() - x[~inside].mean())
        assert share["banded"] == pytest.approx(mantel_haenszel(x, inside, band))
        assert share["p"] == pytest.approx(exact_p(x, inside, one_band), abs=0.025)
        assert share["banded_p"] == pytest.approx(exact_p(x, inside, band), abs=0.025)
        sd = math.sqrt(sum(v * (1 - v) / n for v, n in ((share["worst"], 40), (share["rest"], 760))))
        assert share["high"] - share["low"] == pytest.approx(2 * 1.96 * sd, rel=0.12)
        assert share["banded_low"] < share["banded"] < share["banded_high"]
    # Holm is over both sides and the columns of a kind: metadata here, and one other.
    for side in SIDES:
        p = sorted(found[own, "idle"]["p"] for own in SIDES)
        due = min(1, 2 * p[0]) if found[side, "idle"]["p"] == p[0] else max(p[1], min(1, 2 * p[0]))
        assert found[side, "idle"]["p_holm"] == pytest.approx(due)


def test_what_only_follows_from_the_true_score_vanishes_among_rows_of_similar_score():
    columns, error, target = rows(6000, 1, liked=4.0)
    found = shares(columns, error, target, count=300, draws=1000)
    popular, liked = found["under-scored", "Face"], found["over-scored", "Eyes"]
    assert popular["p_holm"] < 0.01
    assert popular["difference"] > 0.2
    assert popular["banded_low"] < 0 < popular["banded_high"]
    assert max(liked["p_holm"], liked["banded_p_holm"]) < 0.01
    assert liked["banded"] > 0.1
    assert all(found[side, "idle"][p] > 0.05 for side in SIDES for p in ("p_holm", "banded_p_holm"))


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


def test_orders_within_strata_keep_strata_and_groups():
    random = np.random.default_rng(4)
    strata, groups = random.integers(0, 3, 60), np.concatenate([np.repeat(np.arange(15), 2), np.arange(15, 45)])
    for order in permutations_within(strata, groups, draws=100):
        assert sorted(order.tolist()) == list(range(60))
        assert np.array_equal(strata[order], strata)
        assert all(len(set(groups[order[groups == group]])) == 1 for group in range(15))
    seen = [tuple(order[:3].tolist()) for order in permutations_within(np.array([0, 0, 0, 1]), draws=3000)]
    counts = np.unique(seen, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 0.001


def test_the_gap_of_a_drawn_sample_is_what_its_truth_says():
    entries = plan(4000, 7)
    target, expected, mean = (
        np.array([getattr(e, key) for e in entries], float) for key in ("score", "expected", "mean")
    )
    floor = float(np.sqrt(score_variance(mean).mean()))
    random = np.random.default_rng(0)
    prediction, fold = 38 + 0.5 * (expected - 38) + random.normal(0, 7, 4000), random.integers(0, 5, 4000)
    gap = measure_gap(target, prediction, fold, LabelNoise(floor, floor, floor, 0, "exact"), expected, draws=1000)
    assert sum(gap.exact.values()) == pytest.approx(1)
    assert gap.exact["noise"] == pytest.approx(np.mean((target - expected) ** 2) / gap.mse)
    assert gap.noise_share_interval[0] < gap.exact["noise"] < gap.noise_share_interval[1]
    assert gap.noise_share == pytest.approx(floor**2 / np.mean((target - prediction) ** 2))
    line = stats.linregress(prediction, target)
    assert (gap.slope, gap.intercept) == pytest.approx((line.slope, line.intercept))
    assert np.diff(gap.slope_interval)[0] == pytest.approx(2 * 1.96 * line.stderr, rel=0.15)
    fitted = cross_val_predict(LinearRegression(), prediction[:, None], target, groups=fold, cv=LeaveOneGroupOut())
    assert cross_fitted_line(target, prediction, fold) == pytest.approx(fitted)
    assert gap.affine_gain == pytest.approx(gap.rmse - np.sqrt(np.mean((target - fitted) ** 2)))
    # The predictions are half as bold as the truth, so the slope is above 1 and correcting it helps.
    assert gap.slope_interval[0] > 1.0
    assert 0 < gap.affine_gain < gap.affine_gain_interval[1]
    best = measure_gap(target, expected, fold, gap.noise, expected, draws=200)
    assert best.explainable.share_low < 1.0 < best.explainable.share_high


def test_constant_predictions_and_one_fold_have_no_line():
    target, fold = np.random.default_rng(5).normal(40, 10, 60), np.zeros(60, dtype=int)
    flat = measure_gap(target, np.full(60, 38.0), fold, None, draws=200)
    assert math.isnan(flat.slope)
    assert flat.explainable is None
    one = measure_gap(target, target + 1, fold, None, draws=200)
    assert math.isnan(one.affine_gain)


@pytest.mark.parametrize(("dated", "tested"), [(0, False), (29, False), (30, True)])
def test_recency_needs_thirty_dates(dated, tested):
    random = np.random.default_rng(7)
    dates, other = random.normal(16_000, 100, 80), random.normal(size=80)
    target = dates / 20 + random.normal(0, 1, 80)
    dates[dated:] = np.nan
    found = recency(target, other, dates)
    assert ("cannot be tested" in found.verdict) == (not tested)
    assert (found.dates, found.photos, len(found.links)) == (dated, 80, 2 * tested)
    if tested:
        link, due = found.links[0], stats.spearmanr(dates[:dated], target[:dated])
        assert (link["correlation"], link["p"]) == (pytest.approx(due.statistic), pytest.approx(due.pvalue))
        assert "goes with score" in found.verdict
    assert recency(target, other, None).photos == 0


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


QUICK = ("--draws", "200")


def test_the_command_on_a_drawn_sample(predictions, paw):
    done = paw("errors", "vague.csv", "--data", "toy", "--top", "5", *QUICK, "--json", "found.json")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) <= 20
    folder, found = Path("oof/errors/vague.csv"), json.loads(Path("found.json").read_text())
    assert {file.name for file in folder.iterdir()} == {
        "bands.csv",
        "report.txt",
        "shares.csv",
        "worst.csv",
        "worst.png",
    }
    assert (folder / "report.txt").read_text().startswith(done.out.rstrip("\n"))
    worst = pd.read_csv(folder / "worst.csv")
    error = (predictions["prediction"] - predictions["target"]).to_numpy()
    assert worst["error"].tolist() == pytest.approx([*np.sort(error)[::-1][:5], *np.sort(error)[:5]], abs=1e-5)
    assert (worst["noise"] + worst["expected"]).tolist() == pytest.approx(worst["target"].tolist())
    known = read_train(Path("toy")).set_index("Id").loc[worst["Id"]]
    assert (worst[list(METADATA)].to_numpy() == known[list(METADATA)].to_numpy()).all()
    with Image.open(f"toy/train/{worst['Id'][0]}.jpg") as photo:
        assert (worst["width, px"][0], worst["height, px"][0]) == photo.size
    floor = json.loads(Path("toy/truth/floor.json").read_text())["floor"]
    assert found["gap"]["noise_share"] == pytest.approx(floor**2 / np.mean(error**2))
    assert sum(found["gap"]["exact"].values()) == pytest.approx(1)
    assert sum(band["share"] for band in found["bands"]) == pytest.approx(1)
    assert (found["compared"], len(found["shares"])) == (3, 2 * (12 + len(PROPERTIES)))
    size = Image.open(folder / "worst.png").size
    # The same bytes again; labels alone leave no sheet of an earlier report behind.
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert paw("errors", "vague.csv", "--data", "toy", "--top", "5", *QUICK).code == 0
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert paw("errors", "vague.csv", "--data", "toy", "--top", "8", *QUICK).code == 0
    assert Image.open(folder / "worst.png").size[1] > size[1]
    assert paw("errors", "vague.csv", "--data", "toy/train.csv", *QUICK).code == 0
    assert {file.name for file in folder.iterdir()} == before.keys() - {"worst.png"}


def test_a_table_that_knows_some_rows_and_none(predictions, paw):
    """Half of the rows, in another order, one photo posted twice: photos, facts and metadata still belong to their Ids."""
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
    assert paw("errors", "vague.csv", "--data", "toy", "--top", "4", *QUICK, "--json", "found.json").code == 0
    found = json.loads(Path("found.json").read_text())
    assert (found["known"], found["photos"]) == (30, 30)
    worst = pd.read_csv("oof/errors/vague.csv/worst.csv")
    assert worst.groupby("among").size().to_dict() == {"all rows": 8, "rows with photos": 8}
    pictured = worst[worst["among"] == "rows with photos"]
    oof = predictions[predictions["Id"].isin(half["Id"])]
    error = np.sort(oof["prediction"] - oof["target"])
    assert pictured["error"].tolist() == pytest.approx([*error[::-1][:4], *error[:4]], abs=1e-5)
    known = half.set_index("Id").loc[pictured["Id"]]
    assert (pictured[list(METADATA)].to_numpy() == known[list(METADATA)].to_numpy()).all()
    for name, size in zip(pictured["Id"], pictured["log file size"], strict=True):
        assert size == pytest.approx(math.log(Path(f"toy/train/{name}.jpg").stat().st_size), abs=1e-5)


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
    assert {
        band["name"]: (round(band["rmse"], 2), round(band["share"], 3), band["n"]) for band in found["bands"]
    } == V31
    gap = found["gap"]
    assert (gap["slope"], gap["intercept"]) == (pytest.approx(0.9145, abs=5e-5), pytest.approx(2.938, abs=5e-4))
    assert gap["noise_share"] == pytest.approx((10.7 / 17.4695) ** 2, abs=1e-5)
    assert gap["noise_share_interval"] == pytest.approx([0.220, 0.562], abs=0.03)  # the noise's ends alone
    assert gap["explainable"]["ceiling"] == pytest.approx(0.730, abs=5e-4)
    assert (found["photos"], found["recency"]["dates"]) == (photos, 0)
    eyes = next(share for share in found["shares"] if (share["side"], share["column"]) == ("over-scored", "Eyes"))
    # The models under-score open eyes (residual +1.34, Holm .007), so the over-scored have fewer.
    assert photos or (found["compared"] == 496 and eyes["difference"] < -0.04 and eyes["banded"] < 0)
    assert Path("oof/errors/v31.csv/worst.png").is_file() == bool(photos)
