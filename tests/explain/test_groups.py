"""Group maps: errors beside scipy's, figures by hand, a test of the whole map that keeps its level, and the command."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from tests.explain.conftest import made

from pawpularity.data.tables import METADATA
from pawpularity.errors import UserError
from pawpularity.explain import groups
from pawpularity.explain.groups import FIGURES, Mapped, findings, sides_of

SIZE = 40


def mapped(values, cluster, subject=None):
    return Mapped(np.asarray(values, dtype=np.float64), subject, cluster, 50.0)


def patches(random, spread=1.0):
    """Photos differ as wholes, as real ones do, and in large patches."""
    return spread * (random.standard_normal() + np.kron(random.standard_normal((5, 5)), np.ones((8, 8))))


def test_errors_of_mean_maps_are_those_of_scipy_and_near_duplicates_are_one_photo():
    random = np.random.default_rng(5)
    signals = random.standard_normal((9, SIZE, SIZE))
    others = [mapped(signal, 20 + i) for i, signal in enumerate(signals[:3])]
    for copies in (1, 3):
        photos = [mapped(signal, i) for i, signal in enumerate(signals) for _ in range(copies)]
        found = findings({"a": photos, "b": others}, draws=100)
        side = found.sides["a"]
        assert (side.photos, side.clusters) == (9 * copies, 9)
        np.testing.assert_allclose(side.map, signals.mean(axis=0))
        np.testing.assert_allclose(side.standard_error, stats.sem(signals, axis=0))
        np.testing.assert_allclose(found.difference, side.map - found.sides["b"].map)
        np.testing.assert_allclose(found.standard_error, np.hypot(side.standard_error, found.sides["b"].standard_error))


def test_figures_by_hand():
    subject = np.zeros((SIZE, SIZE), dtype=bool)
    subject[:10, 20:] = True
    photos = [mapped(np.where(subject, 2.0 * i, -1.0), i, subject) for i in range(6)]
    photos.append(mapped(np.ones((SIZE, SIZE)), 6))
    figures = findings({"a": photos, "b": photos}, draws=100).sides["a"].figures
    assert (figures["inside"].mean, figures["inside"].n) == (5.0, 6), "a photo without a subject has no figure"
    assert figures["inside"].low < 5.0 < figures["inside"].high
    assert figures["outside"].mean == -1.0


def test_the_test_of_the_whole_map_keeps_its_level_and_sees_a_difference():
    random = np.random.default_rng(1)

    def p_of(few, many, spread=1.0, shift=0.0, draws=99):
        sides = {"a": [mapped(patches(random, spread) + shift, i) for i in range(few)],
                 "b": [mapped(patches(random), few + i) for i in range(many)]}  # fmt: skip
        return findings(sides, draws=draws)

    for few, many, spread in ((16, 16, 1.0), (8, 40, 3.0), (6, 40, 1.0)):
        # 8 photos of three times the spread beside 40: photos that change sides would give 38 false alarms in a hundred.
        nulls = np.array([p_of(few, many, spread).p for _ in range(60)])
        assert (nulls <= 0.05).mean() <= 0.17, "binomial 99.9 % of .05 at 60"
    smooth = np.kron(np.eye(5), np.ones((SIZE // 5, SIZE // 5)))
    shifted = [p_of(16, 16, shift=3.0 * smooth, draws=499) for _ in range(10)]
    beyond = [np.abs(one.difference) > one.threshold * one.standard_error for one in shifted]
    assert max(one.p for one in shifted) < 0.01
    assert np.mean([one[smooth > 0].mean() for one in beyond]) > 0.9
    assert sum(one[smooth == 0].any() for one in beyond) <= 3, "binomial 99 % of .05 at 10"
    few = p_of(5, 40)
    assert (few.p, few.threshold) == (None, np.inf), "with fewer than six there are too few ways to draw signs"


def rows_of(count=30):
    random = np.random.default_rng(0)
    target = random.permutation(count) + 1.0
    rows = pd.DataFrame({"fold": 0, "target": target, "prediction": 100 - target, "group": range(count)})
    rows = rows.assign(**{name: random.integers(0, 2, count) for name in METADATA})
    return rows.set_index(pd.Index([f"{i:02d}" for i in range(count)]))


def test_sides_are_thirds_of_scores_and_columns_with_and_without():
    rows = rows_of()
    thirds = sides_of("scores", rows, 99)
    target = {side: rows.loc[ids, "target"] for side, ids in thirds.items()}
    assert sorted(name for ids in thirds.values() for name in ids) == list(rows.index)
    assert max(target["low"]) < min(target["middle"]) <= max(target["middle"]) < min(target["high"])
    assert set(sides_of("predictions", rows, 99)["high"]) == set(thirds["low"]), "the toy predicts 100 - score"
    focus = sides_of("subject-focus", rows, 99)
    assert set(focus["with Subject Focus"]) == set(rows.index[rows["Subject Focus"] == 1])
    levels = np.arange(30.0)
    levels[:4] = np.nan
    low = sides_of("contrast", rows.assign(contrast=levels), 99)["below the median"]
    assert set(low) == set(rows.index[4:17]), "unmeasured ones are on no side"
    assert sides_of("scores", rows, 4) == sides_of("scores", rows, 4)
    assert sides_of("scores", rows, 4) != sides_of("scores", rows, 4, seed=1)
    for rows_, group in ((rows.assign(Blur=0), "blur"), (rows.assign(group=1), "scores")):
        with pytest.raises(UserError, match=f"GROUP={group}"):
            sides_of(group, rows_, 99)


def test_the_command_resumes_and_gives_the_same_bytes(at, paw, refused, monkeypatch):
    words = ("explain", "--run", "toy", "--data", "toy", "--n", "2")
    done = paw(*words, "--group", "scores")
    assert done.code == 0, done.err
    folder = Path("oof/toy/explain/groups/scores")
    table = pd.read_csv(folder / "groups.csv")
    assert list(table["side"].unique()) == ["high", "middle", "low"]
    assert list(table["figure"].unique()) == list(FIGURES)
    with np.load(folder / "maps.npz", allow_pickle=False) as maps:
        np.testing.assert_allclose(maps["difference"], maps["high"] - maps["low"], atol=1e-6)
    assert json.loads((folder / "groups.json").read_text())["masks"] == 256
    before = made(folder)
    rise, calls = groups.rise, []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return rise(*args, **kwargs)

    monkeypatch.setattr(groups, "rise", stopping)
    assert paw(*words, "--group", "scores", "--out", "again").code == 130
    assert not Path("again/scores/groups.json").exists()
    assert paw(*words, "--group", "scores", "--out", "again").code == 0
    assert len(calls) == 3 + 4, "two of six were there"
    assert made(Path("again/scores")) == before
    assert "--n 1" in refused(*words[:-1], "1", "--group", "scores")
    assert 'did you mean "scores"' in refused(*words, "--group", "score")
