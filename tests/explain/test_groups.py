"""Group maps: unbiased energy, figures of maps whose answer is known, errors beside scipy's, and a test that keeps its level."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pawpularity.errors import UserError
from pawpularity.explain.extremes import Scored
from pawpularity.explain.groups import FIGURES, Mapped, drawn_from, findings, require_two, rows_of, sides_of

SIZE = 40
BACKDROP = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)


def mapped(signal, *, noise=0.0, subject=None, cluster=0, seed=0, blocks=2):
    random = np.random.default_rng(seed)
    each = signal + noise * random.standard_normal((blocks, *signal.shape))
    return Mapped(each.astype(np.float32), subject, cluster, 50.0)


def several(signal, count, start=0, **words):
    return [mapped(signal, cluster=start + i, seed=start + i, **words) for i in range(count)]


def figures_of(signal, **words):
    found = findings(
        "scores", {"a": several(signal, 4, **words), "b": several(signal, 4, 4, **words)}, BACKDROP, draws=200
    )
    return {key: figure.value for key, figure in found.sides[0].figures.items()}


@pytest.mark.parametrize("blocks", [2, 4])
def test_energy_is_unbiased_where_the_plain_square_is_not(blocks):
    signal = np.full((SIZE, SIZE), 0.5)
    photos = [mapped(signal, noise=2.0, seed=seed, blocks=blocks) for seed in range(60)]
    energy = np.array([photo.energy().mean() for photo in photos])
    error = energy.std(ddof=1) / math.sqrt(len(energy))
    assert abs(energy.mean() - 0.25) < 4 * error
    plain = np.mean([(photo.map**2).mean() for photo in photos])
    assert plain == pytest.approx(0.25 + 4.0 / blocks, rel=0.02), "noise counts as energy"


def test_figures_of_maps_whose_answer_is_known():
    # A constant map: its energy is spread evenly over the unit square, whose variance is 1/12 each way.
    even = figures_of(np.full((SIZE, SIZE), 3.0))
    assert even["spread"] == pytest.approx(math.sqrt(1 / 6), rel=1e-3)
    assert (even["centre x"], even["centre y"], even["balance"]) == pytest.approx((0.5, 0.5, 1.0))
    point = np.zeros((SIZE, SIZE))
    point[4:6, 30:32] = -2.0
    subject = np.zeros((SIZE, SIZE), dtype=bool)
    subject[:10, 20:] = True
    found = figures_of(point, subject=subject)
    assert (found["centre x"], found["centre y"]) == pytest.approx((31 / SIZE, 5 / SIZE))
    assert found["spread"] == pytest.approx(math.sqrt(2) * 0.5 / SIZE, rel=1e-6)
    assert found["inside"] == pytest.approx(1.0 - subject.mean()), "all of it inside, less what chance puts there"
    assert found["balance"] == pytest.approx(-math.sqrt(4 / SIZE**2)), "mean over root mean square"
    checks = np.where(np.indices((SIZE, SIZE)).sum(axis=0) % 2, 1.0, -1.0)
    assert figures_of(checks)["balance"] == pytest.approx(0.0, abs=1e-9)


def test_a_photo_without_a_subject_counts_for_everything_but_inside():
    point = np.zeros((SIZE, SIZE))
    point[5, 5] = 1.0
    subject = point > 0
    photos = [mapped(point, subject=subject if i < 6 else None, cluster=i) for i in range(8)]
    found = findings("scores", {"a": photos, "b": several(point, 4, 8)}, BACKDROP, draws=200)
    assert found.sides[0].figures["inside"].value == pytest.approx(1.0 - subject.mean())
    assert found.sides[1].figures["inside"].value is None, "no photo has a subject"


def test_noise_alone_has_no_figures():
    sides = {
        "a": several(np.zeros((SIZE, SIZE)), 12, noise=1.0),
        "b": several(np.zeros((SIZE, SIZE)), 12, 12, noise=1.0),
    }
    found = findings("scores", sides, BACKDROP, draws=400)
    assert {figure.text() for figure in found.sides[0].figures.values()} == {"no signal found"}
    assert all(row["value"] is None for row in rows_of(found))


def test_errors_of_mean_maps_are_those_of_scipy_and_know_of_near_duplicates():
    random = np.random.default_rng(5)
    signals = random.standard_normal((9, SIZE, SIZE))
    alone = [mapped(signal, cluster=i) for i, signal in enumerate(signals)]
    found = findings("scores", {"a": alone, "b": several(signals[0], 3, 20)}, BACKDROP, draws=100)
    maps = np.stack([photo.map for photo in alone])
    assert np.allclose(found.sides[0].map, maps.mean(axis=0))
    assert np.allclose(found.sides[0].standard_error, stats.sem(maps, axis=0))
    # Every photo posted three times is no more evidence than once.
    thrice = [mapped(signal, cluster=i) for i, signal in enumerate(signals) for _ in range(3)]
    again = findings("scores", {"a": thrice, "b": several(signals[0], 3, 20)}, BACKDROP, draws=100)
    assert np.allclose(again.sides[0].standard_error, stats.sem(maps, axis=0))
    assert (again.sides[0].photos, again.sides[0].clusters) == (27, 9)


def test_intervals_know_of_near_duplicates():
    random = np.random.default_rng(6)
    signals = [np.roll(np.eye(SIZE) + 0.2, int(step), axis=1) * scale for step, scale in
               zip(random.integers(0, SIZE, 16), random.uniform(0.5, 2.0, 16), strict=True)]  # fmt: skip
    other = several(np.eye(SIZE), 4, 50)
    widths = []
    for copies, clusters in ((1, 1), (4, 1), (4, 4)):
        photos = [mapped(signal, cluster=i if clusters == 1 else 4 * i + copy)
                  for i, signal in enumerate(signals) for copy in range(copies)]  # fmt: skip
        figure = findings("scores", {"a": photos, "b": other}, BACKDROP, draws=1000).sides[0].figures["centre x"]
        widths.append(figure.high - figure.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.1), "a photo posted four times is one"
    assert widths[2] == pytest.approx(widths[0] / 2, rel=0.15), "four photos alike are four"


def test_the_test_of_the_whole_map_keeps_its_level_and_sees_a_difference():
    random = np.random.default_rng(1)
    smooth = np.kron(np.eye(5), np.ones((SIZE // 5, SIZE // 5)))

    def side(shift, start):
        # Photos differ as wholes, as real ones do, and in large patches.
        return [
            mapped(random.standard_normal() + np.kron(random.standard_normal((5, 5)), np.ones((8, 8))) + shift, cluster=start + i)
            for i in range(16)
        ]  # fmt: skip

    nulls = np.array(
        [
            findings("scores", {"a": side(0.0, 0), "b": side(0.0, 16)}, BACKDROP, draws=99).difference.p
            for _ in range(80)
        ]
    )
    assert (nulls <= 0.05).mean() <= 0.14, "false alarms: binomial 99.9 % of .05 at 80"
    assert 0.3 < nulls.mean() < 0.7
    shifted = findings("scores", {"a": side(3.0 * smooth, 0), "b": side(0.0, 16)}, BACKDROP, draws=999).difference
    assert shifted.p < 0.01
    beyond = np.abs(shifted.map) > shifted.threshold * shifted.standard_error
    assert beyond[smooth > 0].mean() > 0.5
    assert beyond[smooth == 0].mean() < 0.02


def test_a_small_side_of_strong_maps_beside_a_large_one_of_faint_ones_is_no_difference():
    """8 photos of three times the spread beside 40: photos that change sides would give 38 false alarms in a hundred."""
    random = np.random.default_rng(3)

    def side(count, spread, start):
        return [mapped(spread * random.standard_normal() + spread * np.kron(random.standard_normal((5, 5)), np.ones((8, 8))),
                       cluster=start + i) for i in range(count)]  # fmt: skip

    alarms = [
        findings("scores", {"a": side(8, 3.0, 0), "b": side(40, 1.0, 8)}, BACKDROP, draws=99).difference.p <= 0.05
        for _ in range(60)
    ]
    assert np.mean(alarms) <= 0.17, "binomial 99.9 % of .05 at 60"


@pytest.mark.parametrize(("few", "many"), [(5, 5), (5, 40), (6, 6), (6, 40)])
def test_a_difference_is_tested_from_six_photos_a_side_on(few, many):
    """With fewer there are too few ways to draw signs, and noise would be told from noise."""
    random = np.random.default_rng(4)

    def noise(count, start):
        return [
            mapped(np.kron(random.standard_normal((5, 5)), np.ones((8, 8))), cluster=start + i) for i in range(count)
        ]

    alarms = []
    for _ in range(60):
        found = findings("scores", {"a": noise(few, 0), "b": noise(many, few)}, BACKDROP, draws=99)
        if few < 6:
            assert found.difference.p is None
            assert {row["p_anywhere"] for row in rows_of(found)} == {None}
            assert not (
                np.abs(found.difference.map) > found.difference.threshold * found.difference.standard_error
            ).any()
            return
        alarms.append(found.difference.p <= 0.05)
    assert np.mean(alarms) <= 0.17, "binomial 99.9 % of .05 at 60"


def test_near_duplicates_are_one_photo():
    rows = [Scored(f"{i}", 0, 50.0, 50.0, 40.0, i // 2) for i in range(8)]
    require_two("scores", {"high": [0, 2], "low": [4, 5, 6]}, rows)
    with pytest.raises(UserError, match="GROUP=scores: the 2 photos low are near-duplicates of one another"):
        require_two("scores", {"high": [0, 2], "low": [4, 5]}, rows)


def rows_and_table(count=30):
    random = np.random.default_rng(0)
    scores = random.integers(1, 101, count)
    rows = [Scored(f"{i:02d}", 0, float(scores[i]), float(100 - scores[i]), 40.0, i) for i in range(count)]
    from pawpularity.data.tables import METADATA

    return rows, pd.DataFrame({name: random.integers(0, 2, count) for name in METADATA})


def test_sides_are_thirds_of_scores_and_columns_with_and_without():
    rows, table = rows_and_table()
    thirds = sides_of("scores", rows, table, None)
    values = {side: [rows[place].target for place in places] for side, places in thirds.items()}
    assert sorted(place for places in thirds.values() for place in places) == list(range(30))
    assert max(values["low"]) < min(values["middle"])
    assert max(values["middle"]) < min(values["high"])
    assert sides_of("predictions", rows, table, None)["high"] == thirds["low"], "the toy predicts 100 - score"
    eyes = sides_of("eyes", rows, table, None)
    assert eyes["with Eyes"] == np.flatnonzero(table["Eyes"] == 1).tolist()
    focus = sides_of("subject-focus", rows, table, None)
    assert len(focus["with Subject Focus"]) == table["Subject Focus"].sum()
    levels = np.arange(30.0)
    levels[:4] = np.nan
    assert sides_of("contrast", rows, table, levels)["below the median"] == list(range(4, 17)), (
        "unmeasured ones on no side"
    )
    for word, said in (("eye", 'did you mean "eyes"'), ("contrast", "measured from photos")):
        with pytest.raises(UserError, match=said):
            sides_of(word, rows, table, None)
    table["Blur"] = 0
    with pytest.raises(UserError, match="0 of 30 photos are with Blur"):
        sides_of("blur", rows, table, None)


def test_the_draw_is_of_ids_not_of_places():
    rows, _ = rows_and_table()
    taken = [rows[place].id for place in drawn_from(list(range(30)), rows, 7, 0)]
    turned = rows[::-1]
    assert [turned[place].id for place in drawn_from(list(range(30)), turned, 7, 0)] == taken
    assert len(set(taken)) == 7
    assert taken != [rows[place].id for place in drawn_from(list(range(30)), rows, 7, 1)]


TOY = ("photos.size=64", "model.backbone=test_resnet", "model.weights=none", "train.epochs=1", "train.batch_size=16",
       "train.dtype=float32", "train.warmup_epochs=0", "folds.k=2")  # fmt: skip


def test_the_command_writes_figures_maps_and_a_picture(work, shelter, paw, refused, monkeypatch):
    assert paw("train", "--data", shelter, "--fold", "0", *TOY).code == 0
    words = ("explain", "--run", "sample-toy", "--data", shelter, "--n", "2")
    done = paw(*words, "--group", "scores", "group")
    assert done.code == 0, done.err
    assert "only fold 0 of 2" in done.err
    folder = Path("oof/sample-toy/explain/groups/scores")
    table = pd.read_csv(folder / "groups.csv")
    assert list(table["side"].unique()) == ["high", "middle", "low", "high - low"]
    assert list(table["figure"].unique()) == list(FIGURES)
    with np.load(folder / "maps.npz", allow_pickle=False) as maps:
        assert np.allclose(maps["difference"], maps["high"] - maps["low"], atol=1e-6)
        assert np.allclose(
            maps["difference_standard_error"],
            np.hypot(maps["high_standard_error"], maps["low_standard_error"]),
            atol=1e-6,
        )
    assert json.loads((folder / "groups.json").read_text())["masks"] == 256
    assert (folder / "figure.png").is_file()
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    # Stopped after two photos, the same command goes on and ends with the same bytes.
    from pawpularity.explain import group_command

    rise, calls = group_command.rise, []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return rise(*args, **kwargs)

    monkeypatch.setattr(group_command, "rise", stopping)
    assert paw(*words, "--group", "scores").code == 130
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before, "the old ones stay"
    done = paw(*words, "--group", "scores")
    assert done.code == 0
    assert "going on" in done.err
    assert len(calls) == 3 + 4, "two of six were there"
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before
    assert "not tested, which takes 6 photos or more on each side" in done.out
    assert "--n 1: must be 2 to 1000" in refused(*words[:-1], "1", "--group", "scores")
    assert "--photo: names no photo" in refused(*words[:-2], "--photo", "explain.masks=512")
    assert 'did you mean "scores"' in refused(*words, "--group", "score")
