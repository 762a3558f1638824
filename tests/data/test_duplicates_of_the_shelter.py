"""Near-duplicates that the sample shelter planted, found by the folds: recall and precision, at the sample's own size."""

import pandas as pd
import pytest

from pawpularity.data.dataset import Dataset
from pawpularity.data.folds import make_folds
from pawpularity.sample.draw import draw_shelter


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 11])
def test_planted_duplicates_are_found(tmp_path, seed, capsys):
    draw_shelter(tmp_path / "sample", photos=600, size=160, seed=seed, test_photos=1)
    dataset = Dataset.load(tmp_path / "sample", tmp_path / "cache")
    folds = make_folds(dataset, k=5, seed=0, out=tmp_path / "folds", cache_folder=tmp_path / "cache")
    group = folds.frame.set_index("Id")["group"]
    planted = pd.read_csv(tmp_path / "sample" / "truth" / "duplicates.csv")
    wanted = {frozenset(pair) for pair in planted.itertuples(index=False)}
    found = {frozenset((a, b)) for _, part in group.groupby(group) for a in part.index for b in part.index if a < b}
    recall, precision = len(wanted & found) / len(wanted), len(wanted & found) / len(found)
    with capsys.disabled():
        print(f"\nduplicates of shelter {seed}: {len(wanted)} planted, recall {recall:.3f}, precision {precision:.3f}")
    assert len(wanted) >= 10
    assert recall >= 0.95
    assert precision >= 0.95
    assert (folds.frame.groupby("group")["fold"].nunique() == 1).all(), "no group spans folds"
    scores = dataset.train.set_index("Id")["Pawpularity"]
    pairs = [(scores[a], scores[b]) for a, b in planted.itertuples(index=False)]
    assert any(a != b for a, b in pairs), "posted twice with different scores, as in the real data"
