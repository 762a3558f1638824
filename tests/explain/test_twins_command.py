"""Pairs with and without a part, through the command: scores and means as recomputed from files, stopping, refusals."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.explain.conftest import made

from pawpularity.data.photos import decode
from pawpularity.explain import twins_command
from pawpularity.explain.known_truth import PLACES
from pawpularity.explain.scored import PhotoScore
from pawpularity.predictor import Predictor

WORDS = ("explain", "--run", "toy", "--twins", "pairs", "--masks", "256", "explain.smooth=2")


@pytest.fixture
def pairs(at, paw):
    done = paw("sample", "--photos", "32", "--size", "64", "--seed", "31", "--twins", "1", "--into", "pairs")
    assert done.code == 0, done.err
    return at


@pytest.mark.slow
def test_the_table_is_of_the_files_and_stopping_changes_nothing(pairs, paw, monkeypatch):
    done = paw(*WORDS)
    assert done.code == 0, done.err
    folder = Path("oof/toy/explain/twins")
    table = pd.read_csv(folder / "twins.csv")
    drawn = pd.read_csv("pairs/twins/twins.csv").set_index("Id_with")
    assert len(drawn) == table["Id"].nunique() >= 5
    assert set(table["method"]) == {"gradient", "gradcam", "rise"}
    predictor = Predictor.load(Path("oof/toy"))
    for row in table.itertuples():
        own = drawn.loc[row.Id]
        assert (row.part, row.effect) == (own["part"], own["effect"])
        scores = []
        for name in (row.Id, own["Id_without"]):
            pixels = decode(Path(f"pairs/twins/photos/{name}.jpg"), 64, "squash")
            folds = [PhotoScore(net, predictor.compute, None) for net in predictor.networks.values()]
            scores.append(np.mean([float(fold(fold.input_of(pixels)[None])[0]) for fold in folds]))
        assert row.effect_network == pytest.approx(scores[0] - scores[1], abs=1e-4)
        with Image.open(f"pairs/twins/labels/{row.Id}.png") as labels:
            place = np.isin(np.array(labels.resize((64, 64), Image.Resampling.NEAREST)), PLACES[row.part])
        with np.load(folder / "maps" / f"{row.Id}.npz", allow_pickle=False) as arrays:
            values = arrays["gradient_effect" if row.method == "gradient" else row.method]
        assert row.map_mean == pytest.approx(float(values[place].mean()), rel=1e-4)
    before = made(folder)
    explain, calls = twins_command._explain, []

    def stopping(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return explain(*args)

    monkeypatch.setattr(twins_command, "_explain", stopping)
    assert paw(*WORDS).code == 130
    done = paw(*WORDS)
    assert done.code == 0
    assert "going on" in done.err
    assert len(calls) == len(drawn) + 1, "two pairs were there"
    assert made(folder) == before


def test_what_has_no_twins_is_refused(at, refused):
    words = ("explain", "--run", "toy", "--twins")
    assert "was drawn without twins" in refused(*words, "toy")
    assert "is no drawn shelter" in refused(*words, "nowhere")
    assert "leave --n" in refused(*words, "toy", "--n", "2")
    assert not Path("oof/toy/explain").exists()
