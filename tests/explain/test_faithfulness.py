"""Faithfulness against closed forms; what knows nothing beats random once in twenty times; summaries over photos."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from scipy import stats

from pawpularity.errors import UserError
from pawpularity.explain import faithfulness, removal
from pawpularity.explain.estimates import as_json, estimates, proportion
from pawpularity.explain.faithfulness import judge, passes_to_judge
from pawpularity.explain.removal import filled, random_fields, ranks_of, road
from pawpularity.explain.summary import summarise, summary_text

SIDE = 32
TOP = 12.0


def square(first: int, last: int) -> np.ndarray:
    """(SIDE, SIDE): 1 in a square, 0 outside."""
    mask = np.zeros((SIDE, SIDE))
    mask[first:last, first:last] = 1.0
    return mask


class Linear:
    """score = base + sum of weights x photo: the area under any order's curve has a closed form."""

    def __init__(self, weights: np.ndarray, base: float = 40.0) -> None:
        self.weights, self.base, self.asked = torch.from_numpy(weights), base, 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += len(x)
        return self.base + (x[:, 0].double() * self.weights).sum(dim=(1, 2))


PHOTO = torch.ones(1, SIDE, SIDE)
OBJECT = square(8, 24)  # a quarter of the picture


def rows_of(score, maps, *, photo=PHOTO, **words):
    found = judge(score, photo, maps, **{"steps": 32, "with_road": False} | words)
    return {(row["method"], row["baseline"]): row for row in found}


def test_areas_have_their_closed_form():
    """The object is worth TOP points, evenly, and is a quarter of the picture: removed first, the score falls on a line."""
    score = Linear(OBJECT * TOP / OBJECT.sum())
    found = rows_of(score, {"true": OBJECT, "opposite": -OBJECT})
    true, opposite = found["true", "grey"], found["opposite", "grey"]
    assert true["deletion_auc"] == pytest.approx(40.0 + TOP * 0.25 / 2)
    assert true["insertion_auc"] == pytest.approx(40.0 + TOP * (1 - 0.25 / 2))
    assert true["insertion_minus_deletion"] == pytest.approx(TOP * 0.75)
    assert opposite["insertion_minus_deletion"] == pytest.approx(-TOP * 0.75)
    assert (true["beats_random"], true["mark"]) == (True, "")
    assert (opposite["beats_random"], opposite["mark"]) == (False, "no better than random")
    # A blurred photo of one level is that photo: nothing can be hidden with it.
    assert found["true", "blur"]["insertion_minus_deletion"] == pytest.approx(0.0, abs=1e-9)
    assert not found["true", "blur"]["beats_random"]


def test_useless_maps_beat_random_in_one_of_twenty():
    """Fine, as coarse as a cell, and coarser: a map that knows nothing of the photo must fail, whatever its grain."""
    weights = random_fields((SIDE, SIDE), 6.0, 1, [77])[0] + OBJECT

    def score(x: torch.Tensor) -> torch.Tensor:
        return 100 * torch.sigmoid(Linear(0.02 * weights, base=0.0)(x))

    cells = {"fine": 0.5, "cell": 4.0, "coarse": 12.0}
    wins = dict.fromkeys(cells, 0)
    for seed in range(90):
        useless = {name: random_fields((SIDE, SIDE), cell, 1, [seed, 5])[0] for name, cell in cells.items()}
        rows = rows_of(score, useless, steps=8, baselines=["grey"], seed=seed)
        for name in cells:
            wins[name] += rows[name, "grey"]["beats_random"]
    # 1 in 22 where the grains agree; more than 11 of 90 happens once in a thousand times.
    assert max(wins.values()) <= 11, wins
    assert wins["cell"] >= 1, "a test that nothing can pass by chance is not the one described"


def test_a_constant_map_is_named_and_beats_nothing():
    score = Linear(OBJECT * TOP / OBJECT.sum())
    row = rows_of(score, {"flat": np.full((SIDE, SIDE), 3.0)}, with_road=True)["flat", "grey"]
    assert (row["mark"], row["p_random"], row["beats_random"], row["road_beats_random"]) == (
        "constant map",
        1,
        False,
        False,
    )


def test_forward_passes_are_as_announced_and_batches_change_nothing(monkeypatch):
    score = Linear(random_fields((SIDE, SIDE), 6.0, 1, [1])[0])
    maps = {"one": OBJECT, "two": random_fields((SIDE, SIDE), 5.0, 1, [2])[0]}
    photo = torch.from_numpy(random_fields((SIDE, SIDE), 6.0, 1, [3])).float()
    first = judge(score, photo, maps, seed=4)
    assert 0.6 * passes_to_judge(2) < score.asked <= passes_to_judge(2)
    monkeypatch.setattr(faithfulness, "BATCH", 7)
    assert judge(score, photo, maps, seed=4) == first
    other = judge(score, photo, maps, seed=5)
    assert other[1]["insertion_minus_deletion"] == first[1]["insertion_minus_deletion"]
    assert [row["p_random"] for row in other] != [row["p_random"] for row in first]


def test_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(UserError, match="not a number"):
        judge(lambda x: Linear(OBJECT)(x) * float("nan"), PHOTO, {"map": OBJECT}, with_road=False)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_fill_is_the_packages(share):
    field = random_fields((40, 30), 6.0, 1, [1])[0]
    removed = field > np.quantile(field, 1 - share)
    photo = np.random.default_rng(0).standard_normal((3, 40, 30)).astype(np.float32)
    theirs = NoisyLinearImputer(noise=0.0)(torch.from_numpy(photo), torch.from_numpy((~removed).astype(np.float32)))
    np.testing.assert_allclose(filled(photo, removed), theirs.numpy(), atol=1e-5)


def test_road_has_its_closed_form_and_needs_no_luck(monkeypatch):
    """A bright square on black: filled in from black it is gone, and with it its TOP points."""
    photo = torch.from_numpy(OBJECT[None]).float()
    score = Linear(OBJECT * TOP / OBJECT.sum())
    ties = random_fields((SIDE, SIDE), 4.0, 1, [0])[0]
    ranks = np.stack([ranks_of(OBJECT, ties), ranks_of(-OBJECT, -ties)])
    before = torch.random.get_rng_state()
    noisy = road(score, photo, ranks, seed=3)
    np.testing.assert_array_equal(noisy, road(score, photo, ranks, seed=3))
    assert torch.equal(before, torch.random.get_rng_state())
    assert noisy[0] == pytest.approx(-noisy[1], abs=0.05)
    monkeypatch.setattr(removal, "SHARES", [0.5])
    monkeypatch.setattr(removal, "NOISE", 0.0)
    # The half ranked highest holds the square, the half ranked lowest lies outside it.
    np.testing.assert_allclose(road(score, photo, ranks), [TOP / 2, -TOP / 2], atol=1e-6)


def test_summaries_are_means_over_photos_with_honest_intervals():
    random = np.random.default_rng(0)
    score = Linear(OBJECT * TOP / OBJECT.sum())
    photos = []
    for number in range(12):
        photo = PHOTO * float(random.uniform(0.5, 1.5))
        maps = {"true": OBJECT, "useless": random_fields((SIDE, SIDE), 4.0, 1, [number, 8])[0]}
        photos.append(judge(score, photo, maps, steps=8, seed=number, with_road=False, baselines=["grey"]))
    found = {row["method"]: row for row in summarise(photos)}
    true, figure = found["true"], found["true"]["insertion_minus_deletion"]
    own = np.array([rows[0]["insertion_minus_deletion"] for rows in photos])
    assert figure.mean == pytest.approx(own.mean())
    # The percentile bootstrap of a mean is about normal.
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * own.std() / 12**0.5, rel=0.1)
    assert true["beats_random"].mean == 1.0
    # On a photo of one level the middle is in the object, and the object is in the middle.
    assert true["over_centre"].low > 0
    over = [rows[0]["insertion_minus_deletion"] - rows[2]["insertion_minus_deletion"] for rows in photos]
    assert true["over_centre"].mean == pytest.approx(np.mean(over))
    assert true["road"].n == 0
    assert as_json(true)["road"]["mean"] is None
    verdicts = [found[name]["verdict"] for name in ("true", "useless", "centre")]
    assert verdicts == ["beats random and the centre", "no better than random", ""]
    twice = [rows for rows in photos for _ in range(2)]
    alone, grouped = (
        summarise(twice, groups)[0]["insertion_minus_deletion"] for groups in (None, np.repeat(np.arange(12), 2))
    )
    assert alone.mean == pytest.approx(grouped.mean)
    assert grouped.high - grouped.low == pytest.approx(2**0.5 * (alone.high - alone.low), rel=0.1)
    assert "nan" not in summary_text(list(found.values()))


def summary_of(ps, gains=None, groups=None, mark=""):
    gains = np.ones(len(ps)) if gains is None else gains
    figures = dict.fromkeys(("deletion_auc", "insertion_auc", "road"), 0.0)
    either = {**figures, "baseline": "grey", "beats_random": False, "road_beats_random": False, "mark": mark}
    photos = [[{**either, "method": "map", "p_random": p, "insertion_minus_deletion": gain},
               {**either, "method": "centre", "p_random": 0.5, "insertion_minus_deletion": 0.0}]
              for p, gain in zip(ps, gains, strict=True)]  # fmt: skip
    return summarise(photos, groups)[0]


def test_over_photos_the_ps_count_together_and_near_duplicates_once():
    """Closed forms: two uniform numbers sum to at most s with chance s^2 / 2; many are about normal (simulated)."""
    assert summary_of([0.2, 0.3])["p"] == pytest.approx(0.5**2 / 2)
    assert summary_of([0.2, 0.3, 0.4], groups=np.array([0, 1, 1]))["p"] == pytest.approx(0.55**2 / 2)
    # No photo of 30 reaches .05, and all together do: a test by shares would have seen nothing.
    weak = summary_of(np.linspace(0.06, 0.75, 30))
    drawn = np.random.default_rng(0).random((200_000, 30)).sum(axis=1)
    assert weak["p"] == pytest.approx((drawn <= np.linspace(0.06, 0.75, 30).sum()).mean(), rel=0.2)
    gains = np.random.default_rng(1).standard_normal(30)
    for ps, own, mark, verdict in (
        (0.1, np.ones(30), "", "beats random and the centre"),
        (0.1, gains - gains.mean(), "", "beats random, ties with the centre"),
        (0.1, gains - 5, "", "beats random, not the centre"),
        (0.5, np.ones(30), "", "no better than random"),
        (1.0, np.ones(30), "constant map", "constant maps"),
    ):
        assert summary_of(np.full(30, ps), own, mark=mark)["verdict"] == verdict


def test_shares_that_all_agree_keep_an_interval():
    """Five of five: Wilson's interval, by its formula; near-duplicates count once."""
    z = stats.norm.ppf(0.975) ** 2
    assert (proportion(np.ones(5)).low, proportion(np.ones(5)).high) == pytest.approx((5 / (5 + z), 1.0))
    assert proportion(np.zeros(5)).high == pytest.approx(z / (5 + z))
    assert proportion(np.array([1.0, 1.0, 1.0, np.nan]), np.array([0, 0, 1, 2])).low == pytest.approx(2 / (2 + z))
    mixed = np.array([1.0, 0.0, 1.0, 1.0])
    assert proportion(mixed) == estimates(mixed[:, None])[0]
    assert proportion(np.ones(1)).n == 1
    assert np.isnan(proportion(np.ones(1)).low)
