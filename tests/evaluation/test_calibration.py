"""Ranges, chances and orders against figures of the real out-of-fold files, closed forms, and a bootstrap."""

import numpy as np
import pytest
from scipy.stats import expon, norm

from pawpularity.errors import UserError
from pawpularity.evaluation.calibration import Calibration, Order
from pawpularity.evaluation.oof import read_oof


def skewed(n, seed=0):
    """Predictions and true scores whose residuals are skewed and grow with the prediction."""
    random = np.random.default_rng(seed)
    prediction = random.uniform(20, 60, n)
    return prediction + 0.15 * prediction * (random.exponential(1.0, n) - 1.0), prediction


def wide(n, seed=0, middle=40):
    """Predictions and true scores that are normal about them, cut at 1 and 100."""
    random = np.random.default_rng(seed)
    prediction = random.normal(middle, 18, n).clip(5, 95)
    return (prediction + 12 * random.standard_normal(n)).clip(1, 100), prediction


def test_chances_are_those_of_real_photos(real):
    tables = [read_oof(file) for file in (real / "oof-peers").glob("*.csv")]
    prediction = np.mean([table["prediction"] for table in tables], axis=0)
    known = Calibration(tables[0]["target"], prediction)
    assert (known.n, known.median, known.top_quarter, known.indicative) == (9912, 33, 46, False)
    bands = (0, 25, 30, 35, 40, 50, 60, 101)
    for score, shares in ((None, (10, 22, 36, 54, 71, 81, 88)), (45.5, (2, 5, 13, 23, 42, 62, 79))):
        for low, high, share in zip(bands, bands[1:], shares, strict=False):
            here = prediction[(prediction >= low) & (prediction < high)]
            assert 100 * known.chance_above(here, score).mean() == pytest.approx(share, abs=2.5)


def test_ranges_and_chances_hold_for_unseen_rows_of_every_real_file(real):
    """Each half by the other one; ranges in every fifth and in the top 5 %, chances in every tenth."""
    for file in (real / "oof-peers").glob("*.csv"):
        table = read_oof(file).sort_values("prediction", kind="stable")
        target, prediction, half = (table[name].to_numpy() for name in ("target", "prediction", "fold"))
        bars = np.median(target), np.quantile(target, 0.75)
        inside, chances = np.empty((2, len(table))), np.empty((2, len(table)))
        for here in (half % 2 == 0, half % 2 == 1):
            known = Calibration(target[~here], prediction[~here])
            for row, level, bar in zip((0, 1), (0.5, 0.9), bars, strict=True):
                low, high = known.interval(prediction[here], level)
                inside[row, here] = (low <= target[here]) & (target[here] <= high)
                chances[row, here] = known.chance_above(prediction[here], bar)
        for row, level, bar in zip((0, 1), (0.5, 0.9), bars, strict=True):
            parts = [*np.array_split(inside[row], 5), inside[row, int(0.95 * len(table)) :]]
            assert [part.mean() for part in parts] == pytest.approx([level] * 6, abs=0.03), file.stem
            for share, said in zip(np.array_split(target > bar, 10), np.array_split(chances[row], 10), strict=True):
                error = np.sqrt(said.mean() * (1 - said.mean()) / len(said))
                assert abs(share.mean() - said.mean()) < 3 * error, file.stem


@pytest.mark.parametrize("n", [100, 600, 4000])
@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize("middle", [40, 60])
def test_chances_agree_with_the_ranges_beside_them(n, rounded, middle):
    """One lucky photo at the low end, and piles at 1 and 100, up to half of the photos with a prediction; at every prediction."""
    target, prediction = wide(n, middle=middle)
    target[np.argmin(prediction)] = 90.0
    known = Calibration(np.round(target) if rounded else target, prediction)
    at = np.linspace(0, 100, 400)
    (half_low, half_high), ends = known.interval(at, 0.5), known.interval(at, 0.9)
    assert np.all((ends[0] <= half_low + 1e-6) & (half_high <= ends[1])), "half of the photos are among nine of ten"
    for level, (low, high) in ((0.5, (half_low, half_high)), (0.9, ends)):
        for bar in (known.median, known.top_quarter):
            chance, tail = known.chance_above(at, bar), (1 - level) / 2
            assert np.all(np.diff(chance) > -1e-9)
            assert np.all((chance > 0) & (chance < 1))
            # Of a range that reaches an end of the scale all that is outside lies on the other side.
            assert np.all((chance <= tail * np.where(low == 1, 2, 1) + 1e-9)[high < bar])
            assert np.all((chance >= 1 - tail * np.where(high == 100, 2, 1) - 1e-9)[low > bar])


def test_chances_are_those_of_a_known_law_at_both_ends():
    """A run of 600 photos: the mean chance of the lowest tenth, over ten samples, is the true one."""
    excess = []
    for seed in range(10):
        target, prediction = wide(600, seed)
        known = Calibration(target, prediction)
        ends = np.sort(prediction)[[range(60), range(540, 600)]]
        excess.append((known.chance_above(ends) - norm.sf((known.median - ends) / 12)).mean(axis=1))
    assert np.mean(excess, axis=0) == pytest.approx([0, 0], abs=0.02)


def test_ranges_of_a_known_law():
    known, (target, prediction) = Calibration(*skewed(20_000)), skewed(20_000, seed=1)
    low, high = known.interval(prediction, 0.5)
    assert np.mean((low <= target) & (target <= high)) == pytest.approx(0.5, abs=0.01)
    at = np.array([25.0, 40.0, 55.0])
    for level in (0.5, 0.9):
        ends = expon.ppf([(1 - level) / 2, (1 + level) / 2])
        found = np.array(known.interval(at, level)).T
        assert found == pytest.approx(at[:, None] * (1 + 0.15 * (ends - 1)), abs=1.5)


def test_near_duplicates_make_no_range_too_narrow():
    """Sixty photos, each posted ten times with one score: a range fitted on nine of them would know the tenth."""
    inside = []
    for seed in range(10):
        (target, prediction), groups = wide(60, seed), np.repeat(np.arange(60), 10)
        known = Calibration(np.repeat(target, 10), np.repeat(prediction, 10), groups)
        assert known.indicative
        new, at = wide(2000, 99)
        low, high = known.interval(at, 0.9)
        inside.append(((low <= new) & (new <= high)).mean())
    assert np.mean(inside) == pytest.approx(0.9, abs=0.03)
    with pytest.raises(UserError, match="too few"):
        Calibration(target, prediction, np.arange(60) // 4)


@pytest.mark.parametrize("scores", [[20, 40, 60, 80, 100], [1, 100], [30] * 6 + list(range(1, 101, 10))])
def test_ranges_do_not_cut_a_score_that_many_share(scores):
    """Five classes, two, or a score of every third photo: a range holds it whole or ends before it, and covers its share."""
    random = np.random.default_rng(5)
    target, prediction = random.choice(scores, 4000).astype(float), random.normal(size=4000)
    order = np.argsort(target + random.normal(0, 20, 4000))
    prediction = np.sort(prediction)[np.argsort(order)]
    known = Calibration(target[::2], prediction[::2])
    (half_low, half_high), (low, high) = (known.interval(prediction[1::2], level) for level in (0.5, 0.9))
    inside = [((a <= target[1::2]) & (target[1::2] <= b)).mean() for a, b in ((half_low, half_high), (low, high))]
    assert inside[0] > 0.47
    assert inside[1] > 0.87
    assert np.all((low <= half_low + 1e-6) & (half_high <= high))


def test_few_rows_widen_the_range_to_all_there_is():
    """The smallest of 19 in 20 rows is no 5 % point: the range must say so and not guess."""
    known = Calibration(*skewed(20))
    assert known.interval(40.0, 0.99) == (1.0, 100.0)
    assert known.indicative
    with pytest.raises(UserError, match="too few"):
        Calibration(*skewed(19))


def test_reliability_in_closed_form():
    """Of normal scores about their predictions the higher one is truly higher with Phi(gap / (sigma sqrt 2))."""
    random = np.random.default_rng(2)
    prediction = random.uniform(0, 60, 2000)
    order = Order.measure(prediction + 12 * random.standard_normal(2000), prediction)
    gaps = np.abs(prediction[:, None] - prediction)[np.triu_indices(2000, 1)]
    assert order.reliability(-7.0) == order.reliability(7.0) == order.bands[2].share
    for band in order.bands:
        inside = gaps[(gaps >= band.low) & (gaps < band.high)]
        assert band.pairs == len(inside)
        assert band.share == pytest.approx(norm.cdf(inside / (12 * np.sqrt(2))).mean(), abs=0.02)


def test_its_error_is_that_of_a_bootstrap_over_rows():
    random = np.random.default_rng(3)
    prediction = random.uniform(0, 60, 300)
    target = prediction + 15 * random.standard_normal(300)
    right = np.sign(target[:, None] - target) == np.sign(prediction[:, None] - prediction)
    shares = []
    for _ in range(400):
        rows = random.integers(0, 300, 300)
        pairs = prediction[rows][:, None] != prediction[rows]  # a row is no pair with itself
        shares.append(right[np.ix_(rows, rows)][pairs].mean())
    assert Order.measure(target, prediction).whole.error == pytest.approx(np.std(shares), rel=0.15)


def test_near_duplicates_are_no_pair_and_bands_of_few_pairs_are_joined():
    prediction, target = np.random.default_rng(4).uniform(0, 9, (2, 60))
    order = Order.measure(target, prediction)
    assert order.whole.pairs == 60 * 59 / 2
    assert Order.measure(target, prediction, np.repeat(np.arange(30), 2)).whole.pairs == 60 * 59 / 2 - 30
    assert all(band.pairs >= 100 for band in order.bands[1:])
    assert order.bands[-1].high == float("inf")
