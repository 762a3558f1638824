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

from pawpularity.data.photo_facts import DATE, PROPERTIES, QUANTISATION, displayed_size, exif_day, facts_of
from pawpularity.data.photos import PhotoError
from pawpularity.data.tables import METADATA, read_train
from pawpularity.evaluation.contact_sheet import Tile, contact_sheet
from pawpularity.evaluation.label_noise import LabelNoise
from pawpularity.evaluation.leak_detection import OTHER_KIND, Origin
from pawpularity.evaluation.metrics import BANDS, band_of
from pawpularity.evaluation.predictions import open_predictions
from pawpularity.sample.spec import score_variance
from pawpularity.sample.truth import plan
from pawpularity.studies.errors.analysis import (
    SIDES,
    affine_cross_fitted,
    permutations_within,
    the_gap,
    what_they_share,
    worst_rows,
)
from pawpularity.studies.errors.recency import FILE_PROPERTIES, neighbour_link, rank_link, recency
from pawpularity.studies.errors.report import look_up, with_groups

# An independent computation's figures for v31: RMSE, share of the squared error, n of each band of true score.
V31 = {"<=20": (24.82, 0.289, 1417), "21-30": (10.76, 0.106, 2779), "31-40": (9.41, 0.068, 2340),
       "41-60": (12.98, 0.116, 2088), "61-80": (23.46, 0.132, 727), "81-99": (36.82, 0.122, 273),
       "100": (41.72, 0.166, 288)}  # fmt: skip


def rows(n, seed, liked=0.0):
    """Scores, predictions that know 30 % of them, and 0/1 columns: one the popular have, one the model likes, one idle."""
    random = np.random.default_rng(seed)
    target = np.clip(np.rint(random.gamma(3.5, 11, n)), 1, 100)
    columns = np.stack(
        [random.random(n) < np.where(target > 60, 0.7, 0.3), random.random(n) < 0.4, random.random(n) < 0.2], 1
    )
    prediction = 38 + 0.3 * (target - 38) + random.normal(0, 9, n) + liked * columns[:, 1]
    return target, prediction, columns.astype(float)


def test_worst_rows_are_the_furthest_first_and_ties_stand_in_order():
    error = np.array([3.0, -7.0, 9.0, 9.0, -7.5, 0.0])
    assert worst_rows(error, SIDES[0], 3).tolist() == [2, 3, 0]
    assert worst_rows(error, SIDES[1], 2).tolist() == [4, 1]


def test_differences_and_p_against_exact_ones():
    """Plain: two means and the hypergeometric test. Banded: Mantel-Haenszel by hand and hypergeometrics convolved."""
    target, prediction, columns = rows(800, 0, liked=3.0)
    error, band = prediction - target, band_of(target)
    found = what_they_share(("popular", "liked", "idle"), columns, error, target, count=40, draws=4000)
    assert [(s.side, s.column) for s in found] == [(side, c) for side in SIDES for c in ("popular", "liked", "idle")]
    for share in found:
        x = columns[:, ("popular", "liked", "idle").index(share.column)]
        inside = np.zeros(800, dtype=bool)
        inside[worst_rows(error, share.side, 40)] = True
        assert share.worst == pytest.approx(x[inside].mean())
        assert share.difference == pytest.approx(x[inside].mean() - x[~inside].mean())
        assert share.p == pytest.approx(exact_p(x, inside, np.zeros(800, dtype=int)), abs=0.025)
        assert share.banded == pytest.approx(mantel_haenszel(x, inside, band))
        assert share.banded_p == pytest.approx(exact_p(x, inside, band), abs=0.025)
        sd = math.sqrt(share.worst * (1 - share.worst) / 40 + share.rest * (1 - share.rest) / 760)
        assert share.high - share.low == pytest.approx(2 * 1.96 * sd, rel=0.12)
        assert share.banded_low < share.banded < share.banded_high
    assert min(share.p for share in found) < 0.01


def mantel_haenszel(x, inside, band):
    above = weight = 0.0
    for b in np.unique(band):
        one, other = x[(band == b) & inside], x[(band == b) & ~inside]
        if len(one) and len(other):
            w = len(one) * len(other) / (len(one) + len(other))
            above, weight = above + w * (one.mean() - other.mean()), weight + w
    return above / weight


def exact_p(x, inside, band):
    distribution = np.ones(1)
    for b in np.unique(band):
        n, k, total = (int(v) for v in ((band == b).sum(), (inside & (band == b)).sum(), x[band == b].sum()))
        distribution = np.convolve(distribution, stats.hypergeom(n, total, k).pmf(np.arange(k + 1)))
    counts = np.arange(len(distribution))
    mean = counts @ distribution
    return distribution[np.abs(counts - mean) >= abs(x[inside].sum() - mean) - 1e-9].sum()


def test_what_only_follows_from_the_true_score_vanishes_among_rows_of_similar_score():
    target, prediction, columns = rows(6000, 1, liked=4.0)
    found = {(s.side, s.column): s for s in what_they_share(("popular", "liked", "idle"), columns, prediction - target, target,
                                                           count=300, draws=1000)}  # fmt: skip
    popular = found["under-scored", "popular"]
    assert popular.p_holm < 0.01
    assert popular.difference > 0.2
    assert popular.banded_p > 0.05
    assert popular.banded_low < 0 < popular.banded_high
    liked = found["over-scored", "liked"]
    assert liked.p_holm < 0.01
    assert liked.banded_p_holm < 0.01
    assert liked.banded > 0.1
    assert all(found[side, "idle"].p_holm > 0.05 and found[side, "idle"].banded_p_holm > 0.05 for side in SIDES)


def test_holm_is_over_the_columns_of_a_family_and_both_sides():
    target, prediction, columns = rows(500, 2)
    words = ("popular", "liked", "idle"), columns, prediction - target, target
    apart = what_they_share(*words, count=25, families=(0, 0, 1), draws=300)
    for side, share in ((s.side, s) for s in apart if s.column == "idle"):
        p = sorted(s.p for s in apart if s.column == "idle")
        assert share.p_holm == pytest.approx(min(1, 2 * p[0]) if share.p == p[0] else max(p[1], min(1, 2 * p[0]))), side
    assert [s.p for s in apart] == [s.p for s in what_they_share(*words, count=25, draws=300)]


def test_doubled_rows_are_no_more_evidence():
    """Every row twice, as pairs: the same difference; interval and p stay those of the single rows."""
    target, prediction, columns = rows(600, 3, liked=2.0)
    single = what_they_share(("a", "b", "c"), columns, prediction - target, target, count=30, draws=2000)
    twice = [np.repeat(v, 2, axis=0) for v in (columns, prediction - target, target)]
    double = what_they_share(("a", "b", "c"), *twice, np.repeat(np.arange(600), 2), count=60, draws=2000)
    for one, two in zip(single, double, strict=True):
        assert two.difference == pytest.approx(one.difference)
        assert two.p == pytest.approx(one.p, abs=0.05)
        assert two.high - two.low == pytest.approx(one.high - one.low, rel=0.1)


def test_orders_within_bands_keep_bands_and_groups():
    random = np.random.default_rng(4)
    strata, groups = random.integers(0, 3, 60), np.concatenate([np.repeat(np.arange(15), 2), np.arange(15, 45)])
    moved = set()
    for order in permutations_within(strata, groups, draws=200):
        assert sorted(order.tolist()) == list(range(60))
        assert np.array_equal(strata[order], strata)
        for group in range(15):
            assert len(set(groups[order[groups == group]])) == 1
        moved |= set(np.flatnonzero(order != np.arange(60)).tolist())
    assert len(moved) > 40
    # Every order within a stratum of single rows is as likely as any other.
    seen = [tuple(order[:3].tolist()) for order in permutations_within(np.array([0, 0, 0, 1]), draws=3000)]
    counts = np.unique(seen, axis=0, return_counts=True)[1]
    assert stats.chisquare(counts).pvalue > 0.001
    assert len(counts) == 6


def test_the_gap_of_a_drawn_shelter_is_what_its_truth_says():
    entries = plan(4000, 7)
    target = np.array([entry.score for entry in entries], dtype=float)
    expected = np.array([entry.expected for entry in entries])
    floor = float(np.sqrt(score_variance(np.array([entry.mean for entry in entries])).mean()))
    random = np.random.default_rng(0)
    prediction = 38 + 0.5 * (expected - 38) + random.normal(0, 7, 4000)
    fold = random.integers(0, 5, 4000)
    gap = the_gap(target, prediction, fold, LabelNoise(floor, floor, floor, 0, "exact"), expected, draws=1000)
    assert gap.exact.noise + gap.exact.rest + gap.exact.both == pytest.approx(1)
    assert gap.exact.noise == pytest.approx(np.mean((target - expected) ** 2) / np.mean((target - prediction) ** 2))
    assert gap.noise_share_interval[0] < gap.exact.noise < gap.noise_share_interval[1]
    assert gap.noise_share == pytest.approx(floor**2 / np.mean((target - prediction) ** 2))
    line = stats.linregress(prediction, target)
    assert (gap.slope, gap.intercept) == pytest.approx((line.slope, line.intercept))
    assert np.diff(gap.slope_interval)[0] == pytest.approx(2 * 1.96 * line.stderr, rel=0.15)
    assert np.diff(gap.intercept_interval)[0] == pytest.approx(2 * 1.96 * line.intercept_stderr, rel=0.15)
    fitted = cross_val_predict(LinearRegression(), prediction[:, None], target, groups=fold, cv=LeaveOneGroupOut())
    assert affine_cross_fitted(target, prediction, fold) == pytest.approx(fitted)
    gain = gap.rmse - np.sqrt(np.mean((target - fitted) ** 2))
    assert gap.affine_gain == pytest.approx(gain)
    assert gap.affine_gain_interval[0] < gain < gap.affine_gain_interval[1]
    # The predictions are half as bold as the truth, so the slope is above 1 and mending it helps.
    assert gap.slope_interval[0] > 1.0
    assert 0 < gap.affine_gain < gap.affine_gain_same_rows
    best = the_gap(target, expected, fold, gap.noise, expected, draws=200)
    assert best.explainable.share == pytest.approx(1.0, abs=0.03)
    assert best.explainable.share_low < 1.0 < best.explainable.share_high


def test_constant_predictions_and_one_fold_have_no_line():
    target = np.random.default_rng(5).normal(40, 10, 60)
    flat = the_gap(target, np.full(60, 38.0), np.zeros(60, dtype=int), None, draws=200)
    assert math.isnan(flat.slope)
    assert math.isnan(flat.affine_gain)
    assert flat.explainable is None
    one = the_gap(target, target + 1, np.zeros(60, dtype=int), None, draws=200)
    assert math.isnan(one.affine_gain)
    assert one.affine_gain_same_rows == pytest.approx(1.0)


def test_correlations_against_scipy_and_the_smallest_detectable_by_simulation():
    random = np.random.default_rng(6)
    x, y = random.normal(size=(2, 90))
    x[:10] = np.nan
    link = rank_link("x", x, "score", y)
    assert (link.n, link.correlation) == (80, pytest.approx(stats.spearmanr(x[10:], y[10:]).statistic))
    assert rank_link("x", np.ones(90), "score", y) is None
    rho = rank_link("x", random.normal(size=150), "score", random.normal(size=150)).smallest
    rank_rho = 2 * math.sin(math.pi * rho / 6)  # the normal correlation whose rank correlation is rho
    found = []
    for _ in range(1000):
        a, b = random.normal(size=(2, 150))
        found.append(rank_link("x", a, "score", rank_rho * a + math.sqrt(1 - rank_rho**2) * b).p < 0.05)
    assert np.mean(found) == pytest.approx(0.80, abs=0.05)
    wave = np.repeat(random.normal(size=60), 3)
    assert neighbour_link("order", "score", wave).p < 1e-6
    false = [neighbour_link("order", "score", random.gamma(2, 5, 200)).p < 0.05 for _ in range(1000)]
    assert np.mean(false) == pytest.approx(0.05, abs=0.025)


def facts(n, dates, random):
    table = pd.DataFrame(random.random((n, len(FILE_PROPERTIES))), columns=list(FILE_PROPERTIES))
    table[DATE] = dates
    return table


@pytest.mark.parametrize(
    ("dated", "slope", "said"),
    [
        (0, 0.0, "Cannot be tested: no dates. The table has none, and 0 of 80 photos carry one (EXIF)."),
        (
            29,
            5.0,
            "Cannot be tested: no dates. The table has none, and 29 of 80 photos carry one (EXIF); 30 are needed.",
        ),
        (
            30,
            5.0,
            "30 of 80 photos carry a date (EXIF: of the camera or an editor, not of the posting). It goes with the",
        ),
        (80, 0.0, "It goes neither with score nor with residual; one below 0.32 could have been missed."),
    ],
)
def test_recency_claims_no_more_than_its_dates_allow(dated, slope, said):
    random = np.random.default_rng(7)
    dates = random.normal(16_000, 100, 80)
    target = 40 + slope * (dates - 16_000) / 100 + random.normal(0, 1, 80)
    dates[dated:] = np.nan
    ids = [f"{i:02d}" for i in range(80)]
    found = recency(ids, np.arange(80), target, random.normal(size=80), facts(80, dates, random), hashed=True)
    assert said in found.verdict
    assert ("EXIF date" in {link.what for link in found.links}) == (dated >= 30)
    assert "stands in the order of its Ids" in found.notes[0]


def test_an_order_that_goes_with_the_score_is_said_as_that():
    random = np.random.default_rng(8)
    place = random.permutation(200)
    target = place / 10 + random.normal(0, 3, 200)
    found = recency([f"{i:03d}" for i in range(200)], place, target, random.normal(size=200), None, hashed=False)
    assert "Cannot be tested: no dates. The table has none, and no photos are at hand" in found.verdict
    assert "score (row of train.csv: +0.8" in found.verdict
    assert "whether time is the reason cannot be told" in found.verdict
    assert "not hashes" in found.verdict
    by = {(link.what, link.against): link for link in found.links}
    assert by["neighbours, row of train.csv", "score"].p_holm < 0.001
    assert by["order of Ids", "score"].p_holm > 0.05
    assert by["row of train.csv", "residual"].p_holm > 0.05


def test_facts_of_a_photo(tmp_path):
    turned = Image.new("RGB", (300, 200), "white")
    exif = Image.Exif()
    exif[0x0112], exif[0x0132] = 6, "2019:05:01 06:00:00"
    exif.get_ifd(0x8769)[0x9003] = "0000:00:00 00:00:00"  # what cameras write that do not know
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=50)
    assert displayed_size(tmp_path / "turned.jpg") == (200, 300)
    found = dict(zip((*PROPERTIES, QUANTISATION, DATE), facts_of(tmp_path / "turned.jpg").tolist(), strict=True))
    assert (found["width, px"], found["height, px"], found["megapixels"]) == (200, 300, pytest.approx(0.06))
    assert found["width / height"] == pytest.approx(2 / 3)
    assert found["log file size"] == pytest.approx(math.log((tmp_path / "turned.jpg").stat().st_size))
    assert (found["log sharpness"], found["mean luma"]) == (pytest.approx(0, abs=1e-6), pytest.approx(255))
    assert found[QUANTISATION] == pytest.approx(57.625)  # the standard's own luma table, which quality 50 is
    assert found[DATE] == pytest.approx((pd.Timestamp("2019-05-01 06:00") - pd.Timestamp(0)) / pd.Timedelta(days=1))
    sharp = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    sharp.save(tmp_path / "sharp.png")
    sharp.resize((64, 64)).resize((256, 256)).save(tmp_path / "soft.png")
    at = PROPERTIES.index("log sharpness")
    assert facts_of(tmp_path / "sharp.png")[at] > facts_of(tmp_path / "soft.png")[at] + 2
    assert math.isnan(facts_of(tmp_path / "sharp.png")[-2])
    assert math.isnan(exif_day([None, "yesterday", "1970:01:01 00:00:00"]))
    (tmp_path / "bad.jpg").write_bytes(b"no photo")
    with pytest.raises(PhotoError, match=r"bad\.jpg"):
        facts_of(tmp_path / "bad.jpg")


def test_contact_sheet_shows_every_tile_in_its_shape(tmp_path):
    Image.new("RGB", (200, 100), (0, 0, 255)).save(tmp_path / "blue.png")
    red = np.full((90, 30, 3), (255, 0, 0), np.uint8)
    tiles = [[Tile(tmp_path / "blue.png", ("a blue one",))], [Tile(red, ("red " * 40,))] * 7, []]
    for name in ("one.png", "two.png"):
        contact_sheet(tiles, tmp_path / name, ("blue", "seven red ones", ""))
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    pixels = np.asarray(Image.open(tmp_path / "one.png")).astype(int)
    blue = (pixels == (0, 0, 255)).all(axis=2)
    wide, high = np.ptp(np.flatnonzero(blue.any(axis=0))) + 1, np.ptp(np.flatnonzero(blue.any(axis=1))) + 1
    assert wide == 2 * high
    assert blue.sum() == wide * high
    red_area = round(wide / 3) * wide
    assert (pixels == (255, 0, 0)).all(axis=2).sum() == 7 * red_area  # none is covered by text or by another
    with pytest.raises(ValueError, match="shorter"):
        contact_sheet(tiles, tmp_path / "three.png", ("a", "b"))
    with pytest.raises(PhotoError):
        contact_sheet([[Tile(tmp_path / "none.jpg")]], tmp_path / "three.png")
    assert not (tmp_path / "three.png").exists()


@pytest.fixture
def predictions(work, shelter):
    """An OOF CSV of the toy shelter: the truth, made vague."""
    truth = pd.read_csv(shelter / "truth" / "parts.csv").set_index("Id")
    table = read_train(shelter)
    expected = truth.loc[table["Id"], "expected"].to_numpy()
    random = np.random.default_rng(0)
    prediction = 38 + 0.7 * (expected - 38) + random.normal(0, 6, len(table))
    oof = table[["Id"]].assign(fold=np.arange(len(table)) % 4, target=table["Pawpularity"], prediction=prediction)
    oof.to_csv("vague.csv", index=False)
    return oof


QUICK = ("--draws", "200")


def test_the_command_on_a_drawn_shelter(predictions, shelter, paw):
    done = paw("errors", "vague.csv", "--data", shelter, "--top", "5", *QUICK, "--json", "found.json")
    assert done.code == 0, done.err
    folder, found = Path("oof/errors/vague.csv"), json.loads(Path("found.json").read_text())
    assert sorted(file.name for file in folder.iterdir()) == ["bands.csv", "recency.csv", "report.txt", "shares.csv", "worst.csv",
                                                              "worst.png"]  # fmt: skip
    assert (folder / "report.txt").read_text() == done.out
    worst = pd.read_csv(folder / "worst.csv")
    error = (predictions["prediction"] - predictions["target"]).to_numpy()
    assert worst["error"].tolist() == pytest.approx([*np.sort(error)[::-1][:5], *np.sort(error)[:5]], abs=1e-5)
    assert (worst["noise"] + worst["expected"]).tolist() == pytest.approx(worst["target"].tolist())
    known = read_train(shelter).set_index("Id").loc[worst["Id"]]
    assert (worst[list(METADATA)].to_numpy() == known[list(METADATA)].to_numpy()).all()
    with Image.open(shelter / "train" / f"{worst['Id'][0]}.jpg") as photo:
        assert (worst["width, px"][0], worst["height, px"][0]) == photo.size
    floor = json.loads((shelter / "truth" / "floor.json").read_text())["floor"]
    assert found["gap"]["noise"]["sd"] == floor
    assert found["gap"]["noise_share"] == pytest.approx(floor**2 / np.mean(error**2))
    exact = found["gap"]["exact"]
    assert sum(exact.values()) == pytest.approx(1)
    assert exact["noise"] == pytest.approx(found["gap"]["noise_share"], rel=0.35)
    assert sum(band["share"] for band in found["bands"]) == pytest.approx(1)
    assert found["compared"]["each_side"] == 3
    assert len(found["shares"]) == 2 * (12 + len(PROPERTIES))
    assert "Cannot be tested: no dates" in done.out
    link = next(x for x in found["recency"]["links"] if (x["what"], x["against"]) == ("order of Ids", "residual"))
    ordered = -error[np.argsort(predictions["Id"])]
    assert link["correlation"] == pytest.approx(stats.spearmanr(np.arange(len(error)), ordered).statistic)
    # The picture is of these photos: another --top makes another.
    size = Image.open(folder / "worst.png").size
    assert paw("errors", "vague.csv", "--data", shelter, "--top", "8", *QUICK).code == 0
    assert Image.open(folder / "worst.png").size[1] > size[1]


def test_the_same_command_gives_the_same_bytes_and_removes_what_is_no_longer_true(predictions, shelter, paw):
    for out in ("a", "b"):
        assert paw("errors", "vague.csv", "--data", shelter, "--out", out, *QUICK).code == 0
    files = sorted(file.name for file in Path("a").iterdir())
    assert all(Path("a", name).read_bytes() == Path("b", name).read_bytes() for name in files)
    done = paw("errors", "vague.csv", "--data", shelter / "train.csv", "--out", "b", *QUICK)
    assert done.code == 0, done.err
    assert "no photos" in done.out
    assert sorted(file.name for file in Path("b").iterdir()) == [name for name in files if name != "worst.png"]


def test_without_a_table_only_what_needs_none(predictions, paw):
    done = paw("errors", "vague.csv", *QUICK)
    assert done.code == 0, done.err
    assert "no table with these rows is at hand" in done.out
    assert "What the worst" not in done.out
    assert "The rows furthest off" in done.out
    assert not Path("oof/errors/vague.csv/shares.csv").exists()


def test_a_table_that_knows_some_rows(predictions, shelter, paw):
    table = pd.read_csv(shelter / "train.csv")
    shutil.rmtree(shelter / "truth")
    for name in table["Id"][1::2]:
        (shelter / "train" / f"{name}.jpg").unlink()
    table[::2].sort_values("Pawpularity").to_csv(shelter / "train.csv", index=False)  # not in the order of Ids
    done = paw("errors", "vague.csv", "--data", shelter, "--top", "4", *QUICK)
    assert done.code == 0, done.err
    assert "metadata of 30 of the 60 rows, and their photos" in done.out
    worst = pd.read_csv("oof/errors/vague.csv/worst.csv")
    assert worst.groupby("among").size().to_dict() == {"all rows": 8, "rows with photos": 8}
    pictured = worst[worst["among"] == "rows with photos"]
    assert pictured["Eyes"].notna().all()
    oof = predictions[predictions["Id"].isin(pd.read_csv(shelter / "train.csv")["Id"])]
    error = np.sort(oof["prediction"] - oof["target"])
    assert pictured["error"].tolist() == pytest.approx([*error[::-1][:4], *error[:4]], abs=1e-5)
    known = read_train(shelter).set_index("Id").loc[pictured["Id"]]
    assert (pictured[list(METADATA)].to_numpy() == known[list(METADATA)].to_numpy()).all()


def test_what_is_at_hand_is_found_by_id(predictions, shelter):
    """Half of the rows, in another order, one photo posted twice: photos, facts and groups still belong to their Ids."""
    table = pd.read_csv(shelter / "train.csv")
    shutil.rmtree(shelter / "truth")
    half = table[1::2].sort_values("Pawpularity")
    half.to_csv(shelter / "train.csv", index=False)
    first, second = half["Id"].iloc[[3, 20]]
    shutil.copy(shelter / "train" / f"{first}.jpg", shelter / "train" / f"{second}.jpg")
    source = open_predictions("vague.csv")
    found = look_up(source, Origin(OTHER_KIND, ""), shelter, Path(".cache"))
    ids = source.table["Id"].to_numpy()[found.rows].tolist()
    assert sorted(ids) == sorted(half["Id"])
    assert [path.stem for path in found.paths] == ids
    assert half["Id"].to_numpy()[found.place].tolist() == ids
    for path, (_, facts) in zip(found.paths, found.facts.iterrows(), strict=True):
        assert facts["log file size"] == pytest.approx(math.log(path.stat().st_size))
    groups = dict(zip(source.table["Id"], with_groups(source, found, Path(".cache")).groups.tolist(), strict=True))
    assert groups[first] == groups[second]
    outside = [groups[name] for name in set(table["Id"]) - set(ids)]
    assert len(set(outside)) == 30
    assert not set(outside) & {groups[name] for name in ids}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere",), "oof/nowhere: holds no run"),
        (("nowhere.csv",), "there is no such file"),
        ((), "holds no run"),
        (("vague.csv", "--data", "nowhere"), "--data nowhere: there is no such folder"),
        (("vague.csv", "--top", "0"), "--top 0: must be 1 or more"),
        (("vague.csv", "--draws", "99"), "--draws 99: must be 100 to 100000"),
        (("vague.csv", "train.lr=1"), 'remove "train.lr=1"'),
        (("train.lr=1",), 'remove "train.lr=1"'),
        (("vague.csv", "--out", "vague.csv"), "vague.csv: is a file; name a folder"),
        (("vague.csv", "--tops", "3"), "unknown option --tops"),
        (("vague.csv", "--data", "other"), "knows none of the 60 rows"),
        (("perfect.csv",), "every prediction is its target"),
        (("vague.csv", "--data", "changed.csv"), "(1 rows differ)"),
    ],
)
def test_wrong_words(predictions, shelter, refused, words, said):
    other = pd.read_csv(shelter / "train.csv")
    other.assign(Pawpularity=[other["Pawpularity"][0] + 1, *other["Pawpularity"][1:]]).to_csv(
        "changed.csv", index=False
    )
    Path("other").mkdir()
    other.assign(Id=[f"x{i}" for i in range(len(other))]).to_csv("other/train.csv", index=False)
    predictions.assign(prediction=predictions["target"]).to_csv("perfect.csv", index=False)
    assert said in refused("errors", *words, *(QUICK if "--draws" not in words else ()))
    assert not Path("oof/errors").exists()


def test_few_rows_all_off_to_one_side(work, paw):
    """No row is called over-scored that is not; nothing undefined reaches the JSON."""
    text = "Id,fold,target,prediction\na,0,50,40\nb,0,60,41\nc,1,70,42\nd,1,71,42\n"
    Path("few.csv").write_text(text)
    done = paw("errors", "few.csv", *QUICK, "--json", "found.json")
    assert done.code == 0, done.err
    assert [row["Id"] for row in json.loads(Path("found.json").read_text())["worst"]] == ["d", "c", "b", "a"]
    assert "every interval here is indicative" in done.out
    assert "over-scored, of" not in done.out


def test_a_real_file_with_its_labels(work, real, paw):
    done = paw("errors", real / "oof-peers" / "v31.csv", "--data", real / "pawpularity-labels" / "train.csv", "--draws", "300",
               "--json", "found.json")  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(Path("found.json").read_text())
    for band in found["bands"]:
        assert (round(band["rmse"], 2), round(band["share"], 3), band["n"]) == V31[band["name"]]
    assert [band["name"] for band in found["bands"]] == [name for name, _ in BANDS]
    gap = found["gap"]
    assert (gap["slope"], gap["intercept"]) == (pytest.approx(0.9145, abs=5e-5), pytest.approx(2.938, abs=5e-4))
    assert gap["noise_share"] == pytest.approx((10.7 / 17.4695) ** 2, abs=1e-5)
    # The noise's ends alone give .220 and .562.
    assert gap["noise_share_interval"] == pytest.approx([0.220, 0.562], abs=0.03)
    assert gap["explainable"]["ceiling"] == pytest.approx(0.730, abs=5e-4)
    assert found["compared"]["each_side"] == 496
    eyes = next(share for share in found["shares"] if share["side"] == "over-scored" and share["column"] == "Eyes")
    # The models under-score open eyes (residual +1.34, Holm .007), so the over-scored have fewer.
    assert eyes["difference"] < -0.04
    assert eyes["banded"] < 0
    assert "Cannot be tested: no dates" in found["recency"]["verdict"]
    assert {link["what"] for link in found["recency"]["links"]} == {"order of Ids", "neighbours, order of Ids"}


def test_a_real_file_with_a_hundred_photos(work, real, paw):
    done = paw(
        "errors", real / "oof-peers" / "v31.csv", "--data", real / "pawpularity-100", "--top", "7", "--draws", "200"
    )
    assert done.code == 0, done.err
    assert "metadata of 100 of the 9,912 rows, and their photos" in done.out
    assert "0 of 100 photos carry one (EXIF)" in done.out
    assert "5 over-scored and 5 under-scored of 100 rows" in done.out
    assert "With 5 rows a side the intervals are too narrow" in done.out
    assert Image.open("oof/errors/v31.csv/worst.png").size[0] > 1000
