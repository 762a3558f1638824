"""The folds: groups never span them, every score is spread evenly, and the file is verified before it is used."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pawpularity.data.dataset import Dataset
from pawpularity.data.duplicates import numbered
from pawpularity.data.folds import _DEAL, Folds, deal, inner_split, make_folds, read_folds
from pawpularity.data.tables import ID, METADATA, TARGET
from pawpularity.errors import UserError
from pawpularity.files import text_hash


def scores_like_the_contests(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(np.round(rng.gamma(4, 9.5, n)), 1, 100)


def labels(folder: Path, scores: np.ndarray, order: np.ndarray | None = None) -> Dataset:
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame({ID: [f"p{i:05d}" for i in range(len(scores))]})
    for name in METADATA:
        frame[name] = 0
    frame[TARGET] = scores
    (frame if order is None else frame.iloc[order]).to_csv(folder / "train.csv", index=False)
    return Dataset.load(folder, folder.parent / "cache")


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return labels(tmp_path / "toy", scores_like_the_contests(200, 0))


def folds_of(data: Dataset, tmp_path: Path, **options: object) -> Folds:
    return make_folds(data, **({"seed": 0, "out": tmp_path / "folds", "cache_folder": tmp_path / "cache"} | options))


def test_file(data: Dataset, tmp_path: Path) -> None:
    folds = folds_of(data, tmp_path)
    assert folds.path.parent == tmp_path / "folds"
    assert folds.path.name.startswith("toy-")
    text = folds.path.read_text()
    assert text.startswith("Id,group,fold\np00000,0,")
    assert text.count("\n") == 201
    assert folds.frame[ID].is_monotonic_increasing
    assert folds.frame["group"].tolist() == list(range(200))
    assert (folds.k, len(folds.hash)) == (5, 12)
    assert folds.note.startswith("labels only")


def test_is_read_not_made_again(data: Dataset, tmp_path: Path) -> None:
    first = folds_of(data, tmp_path)
    before = first.path.stat().st_mtime_ns
    again = folds_of(data, tmp_path)
    assert again.path.stat().st_mtime_ns == before
    assert again.hash == first.hash


def test_a_changed_file_is_refused(data: Dataset, tmp_path: Path) -> None:
    """Moved between folds by hand, a group may span them: the name alone must not vouch for the content."""
    first = folds_of(data, tmp_path)
    swapped = first.frame.assign(fold=(first.frame["fold"] + 1) % 5)
    swapped.to_csv(first.path, index=False)
    with pytest.raises(UserError, match="was changed since it was made"):
        folds_of(data, tmp_path)
    first.path.unlink()
    assert folds_of(data, tmp_path).hash == first.hash


def test_depends_on_what_it_should(data: Dataset, tmp_path: Path) -> None:
    base = folds_of(data, tmp_path).path.name
    names = {
        base,
        folds_of(data, tmp_path, k=4).path.name,
        folds_of(data, tmp_path, seed=1).path.name,
        folds_of(data, tmp_path, bins=7).path.name,
        folds_of(data, tmp_path, duplicate_threshold=0.95).path.name,
    }
    assert len(names) == 5


def test_does_not_depend_on_row_order_or_place(data: Dataset, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(200)
    other = labels(tmp_path / "far" / "toy", data.train[TARGET].to_numpy(), order)
    first, second = folds_of(data, tmp_path), folds_of(other, tmp_path, out=tmp_path / "out2")
    assert first.path.name == second.path.name
    assert first.path.read_bytes() == second.path.read_bytes()


def test_rows_are_found_by_id(data: Dataset, tmp_path: Path) -> None:
    folds = folds_of(data, tmp_path)
    ids = data.train[ID].sample(frac=1, random_state=0).tolist()
    known = dict(zip(folds.frame[ID], folds.frame["fold"], strict=True))
    for fold in range(5):
        training, scored = folds.rows(ids, fold)
        assert {known[ids[i]] for i in scored} == {fold}
        assert sorted([*training, *scored]) == list(range(200))
    assert folds.folds_of(pd.Series(ids)).tolist() == [known[name] for name in ids]
    assert folds.groups_of(ids[:3]).tolist() == [int(name[1:]) for name in ids[:3]]


def test_other_ids_are_refused(data: Dataset, tmp_path: Path) -> None:
    folds = folds_of(data, tmp_path)
    ids = data.train[ID].tolist()
    with pytest.raises(UserError, match='does not know Id "stranger"'):
        folds.rows([*ids[:50], "stranger", *ids[51:]], 0)
    with pytest.raises(UserError, match='has Id "p00007", which the table lacks'):
        folds.rows(ids[:7] + ids[8:], 0)
    with pytest.raises(UserError, match='Id "p00001" stands in the table twice'):
        folds.rows([*ids, "p00001"], 0)
    with pytest.raises(UserError, match="folds 0 to 4"):
        folds.rows(ids, 5)


def test_bad_wishes(data: Dataset, tmp_path: Path) -> None:
    for options, says in (
        ({"k": 1}, "folds.k 1: must be 2 or more"),
        ({"k": 201}, "k may be 200 at most"),
        ({"bins": 0}, "folds.bins 0"),
        ({"duplicate_threshold": 0.3}, "duplicate_threshold"),
    ):
        with pytest.raises(UserError, match=says):
            folds_of(data, tmp_path, **options)
    assert not (tmp_path / "folds").exists()
    assert folds_of(data, tmp_path, k=200).k == 200
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        folds_of(data, tmp_path, out=tmp_path / "file")


def test_a_file_of_other_data_is_refused(data: Dataset, tmp_path: Path) -> None:
    folds = folds_of(data, tmp_path)
    folds.frame.iloc[:-1].to_csv(folds.path, index=False)
    with pytest.raises(UserError, match='does not know Id "p00199"'):
        folds_of(data, tmp_path)
    folds.frame.assign(fold=folds.frame["fold"] % 4).to_csv(folds.path, index=False)
    with pytest.raises(UserError, match="has 4 folds, its name stands for 5"):
        folds_of(data, tmp_path)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("is empty",)),
        ("Id,group,fold\n", ("no rows",)),
        ("Id,fold\na,0\n", ('column "group" is missing',)),
        ("Id,group,fold\na,0,0\nb,1,1\na,2,1\n", ("row 2", "row 4")),
        ("Id,group,fold\na,0,0\nb,0,1\n", ("group 0", "row 2", "row 3")),
        ("Id,group,fold\na,0,0\nb,1,2\n", ("no row is in fold 1",)),
        ("Id,group,fold\na,0,1\nb,1,2\n", ("no row is in fold 0",)),
        ("Id,group,fold\na,0,0\nb,1,0\n", ("no row is in fold 1",)),
        ("Id,group,fold\na,0,0\nb,1,1000000000\n", ("no row is in fold 1",)),
        ("Id,group,fold\na,0,0\nb,1,x\n", ("row 3", 'column "fold"')),
        ("Id,group,fold\na,0,0\nb,1,-1\n", ("row 3", 'column "fold"')),
        ("Id,group,fold\na,0,0\nb,1.5,1\n", ("row 3", 'column "group"')),
        ("Id,group,fold\na,0,0\nb,,1\n", ("row 3", 'column "group"', "empty")),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    path = tmp_path / "f.csv"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_folds(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message, message


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        read_folds(tmp_path / "f.csv")


def test_ids_with_commas_survive(tmp_path: Path) -> None:
    data = labels(tmp_path / "toy", np.arange(1.0, 11))
    names = ['a,b"c', *data.train[ID][1:]]
    data.train[ID] = names
    folds = folds_of(data, tmp_path, k=2)
    assert set(folds.frame[ID]) == set(names)


def test_deal_never_splits_a_group_and_leaves_no_part_empty() -> None:
    rng = np.random.default_rng(0)
    for trial in range(150):
        n = int(rng.integers(2, 80))
        groups = numbered(rng.integers(0, rng.integers(2, n + 1), n).tolist())
        count = int(groups.max()) + 1
        if count < 2:
            continue
        k = int(rng.integers(2, count + 1))
        scores = rng.integers(1, 101, n).astype(float)
        bins = int(rng.integers(1, 30))
        part = deal(groups, scores, k=k, seed=trial, bins=bins)
        assert set(part.tolist()) == set(range(k))
        assert len({*zip(groups.tolist(), part.tolist(), strict=True)}) == count
        np.testing.assert_array_equal(part, deal(groups, scores, k=k, seed=trial, bins=bins))


def test_deal_levels_sizes_and_scores() -> None:
    rng = np.random.default_rng(0)
    scores = scores_like_the_contests(3000, 1)
    groups = np.arange(3000)
    twins = rng.permutation(3000)[:200]
    groups[twins[:100]] = groups[twins[100:]]
    groups = numbered(groups.tolist())
    spread = []
    for seed in range(5):
        part = deal(groups, scores, k=5, seed=seed, bins=10)
        sizes = np.bincount(part)
        assert sizes.max() - sizes.min() <= 4
        spread.append(np.ptp([scores[part == f].mean() for f in range(5)]))
        hundreds = [(scores[part == f] >= np.quantile(scores, 0.97)).sum() for f in range(5)]
        assert max(hundreds) - min(hundreds) <= 5
    assert max(spread) < 0.3


@pytest.mark.parametrize("scores", [np.arange(200.0), np.full(200, 40.0), scores_like_the_contests(200, 0)])
def test_another_seed_is_another_split(scores: np.ndarray) -> None:
    """Not only other names for the same parts: two photos that met once meet again as often as chance has it."""
    parts = [deal(np.arange(200), scores, k=5, seed=seed, bins=10) for seed in range(8)]
    together = [(part[:, None] == part)[np.triu_indices(200, 1)] for part in parts]
    again = np.mean([b[a].mean() for a in together for b in together if a is not b])
    assert 0.17 < again < 0.23


@pytest.mark.parametrize("seed", range(3))
def test_every_part_has_its_share_of_every_bin(seed: int) -> None:
    """A thousand scores without ties, ten bins, five parts: twenty of each tenth in each, and means that are as good as equal."""
    scores = np.arange(1000.0)
    parts = deal(np.arange(1000), scores, k=5, seed=seed, bins=10)
    found = np.zeros((5, 10), dtype=int)
    np.add.at(found, (parts, (scores // 100).astype(int)), 1)
    assert (found == 20).all()
    assert np.ptp([scores[parts == part].mean() for part in range(5)]) < 0.1


def some_groups() -> tuple[np.ndarray, np.ndarray]:
    """300 rows, the first thirty in groups of three, and scores that are no library's random numbers."""
    i = np.arange(300)
    return np.where(i < 30, i // 3, i - 20), (1 + (i * i * 37 + 11 * i) % 100).astype(float)


def test_the_rule_that_a_files_name_stands_for_does_not_change() -> None:
    """Folds and inner splits that others hold stay theirs. Whoever changes how they are dealt gives `_DEAL` another name."""
    groups, scores = some_groups()
    parts = "".join(map(str, deal(groups, scores, k=5, seed=7, bins=10)))
    assert _DEAL == "deal-1"
    assert parts[:60] == "444000333444333222111000111222110231230244212401242231003214"
    assert text_hash(parts) == "41ead45ea776"
    inner = inner_split(groups, scores, share=0.1, seed=3)[1]
    assert inner.tolist() == [15, 16, 17, 30, 31, 43, 58, 71, 74, 78, 84, 91, 93, 117, 133, 159, 160, 165, 170, 173, 210, 220,
                              221, 234, 241, 247, 253, 272, 287, 294]  # fmt: skip
    assert text_hash(str(inner_split(groups, scores, share=0.3, seed=4)[1].tolist())) == "af2327c786cc"


@pytest.mark.parametrize(
    ("n", "share", "seed", "due"),
    [(300, 0.5, 1, "f095f99ec6f0"), (300, 0.004, 2, "54b2e504e071"), (15, 0.1, 3, "bbcd1c9ba135")],
)
def test_nor_does_that_of_odd_shares_and_few_rows(n, share, seed, due) -> None:
    """Two parts; a hundred, the most there are; ten of fifteen groups, which have one bin."""
    groups, scores = (column[-n:] for column in some_groups())
    assert text_hash(str(inner_split(groups, scores, share=share, seed=seed)[1].tolist())) == due


def test_what_is_just_allowed(data: Dataset, tmp_path: Path) -> None:
    assert folds_of(data, tmp_path, bins=1).k == 5
    usual = make_folds(data, out=tmp_path / "folds", cache_folder=tmp_path / "cache")
    assert usual.path == folds_of(data, tmp_path, seed=0).path
    with pytest.raises(UserError, match=r"fold -1: .* has folds 0 to 4"):
        usual.rows(usual.frame[ID], -1)
    with pytest.raises(UserError, match="inner_share 0: must lie between"):
        inner_split([0, 1], [1.0, 2.0], share=0.0, seed=0)
    with pytest.raises(UserError, match=r"are 0 group\(s\)"):
        inner_split([], [], seed=0)


def test_the_first_number_that_is_none_is_named(tmp_path: Path) -> None:
    """Above 2^53 a float64 is not every whole number."""
    path = tmp_path / "folds.csv"
    path.write_text("Id,group,fold\na,9007199254740992,0\nb,1,1\n")
    assert read_folds(path).frame["group"].tolist() == [2**53, 1]
    path.write_text("Id,group,fold\na,0,0\nb,9007199254740994,1\nc,0.5,0\n")
    with pytest.raises(UserError, match='row 3, column "group": "9007199254740994" is no whole number'):
        read_folds(path)


def test_rows_of_a_file_are_numbered_in_the_order_of_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    path.write_text("Id,group,fold\nb,1,1\nc,2,0\na,0,0\n")
    found = read_folds(path).frame
    assert found.index.tolist() == [0, 1, 2]
    assert found[ID].tolist() == ["a", "b", "c"]


def test_deal_is_no_worse_than_scikit_learn() -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    scores = scores_like_the_contests(600, 2)
    groups = np.arange(600)
    twins = np.random.default_rng(0).permutation(600)[:60]
    groups[twins[:30]] = groups[twins[30:]]
    groups = numbered(groups.tolist())

    def spread(part: np.ndarray) -> float:
        return float(np.ptp([scores[part == f].mean() for f in range(5)]))

    edges = np.quantile(scores, np.linspace(0, 1, 11)[1:-1])
    ours, theirs = [], []
    for seed in range(5):
        ours.append(spread(deal(groups, scores, k=5, seed=seed, bins=10)))
        part = np.empty(600, dtype=int)
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for f, (_, rows) in enumerate(splitter.split(scores, np.searchsorted(edges, scores, side="right"), groups)):
            part[rows] = f
        theirs.append(spread(part))
    assert np.mean(ours) < np.mean(theirs)


@pytest.mark.parametrize("n", [2, 3, 4, 8, 9, 15, 19, 20, 21, 40, 100, 1000])
def test_inner_split(n: int) -> None:
    scores = scores_like_the_contests(n, n)
    fit, inner = inner_split(np.arange(n), scores, seed=3)
    assert sorted([*fit, *inner]) == list(range(n))
    assert len(inner) >= 1
    assert len(fit) >= 1
    assert abs(len(inner) - 0.1 * n) <= max(1, 0.05 * n)
    assert (np.diff(fit) > 0).all()
    assert (np.diff(inner) > 0).all()
    again = inner_split(np.arange(n), scores, seed=3)
    np.testing.assert_array_equal(again[1], inner)
    if n >= 100:
        assert abs(scores[inner].mean() - scores[fit].mean()) < 3
        assert inner_split(np.arange(n), scores, seed=4)[1].tolist() != inner.tolist()


def test_inner_split_keeps_groups_whole() -> None:
    rng = np.random.default_rng(0)
    for seed in range(100):
        n = int(rng.integers(4, 60))
        groups = rng.integers(100, 100 + rng.integers(2, n), n)
        if len(set(groups.tolist())) < 2:
            continue
        share = float(rng.choice([0.05, 0.1, 0.3, 0.5, 0.9]))
        fit, inner = inner_split(groups, rng.integers(1, 101, n), share=share, seed=seed)
        assert len(fit)
        assert len(inner)
        assert not set(groups[fit].tolist()) & set(groups[inner].tolist())
        assert sorted([*fit, *inner]) == list(range(n))


def test_inner_split_spares_the_huge_group() -> None:
    for seed in range(10):
        _, inner = inner_split([0] * 7 + [1], [50] * 8, seed=seed)
        assert inner.tolist() == [7]


def test_inner_split_cannot() -> None:
    for groups in ([], [3], [3, 3, 3]):
        with pytest.raises(UserError, match="two or more"):
            inner_split(groups, [1.0] * len(groups), seed=0)
    with pytest.raises(UserError, match="inner_share"):
        inner_split([0, 1], [1.0, 2.0], share=1.0, seed=0)


def test_duplicates_share_a_fold(tmp_path: Path) -> None:
    folder = tmp_path / "shots"
    (folder / "train").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"p{i:02d}" for i in rng.permutation(40)]
    lines = [",".join([ID, *METADATA, TARGET])]
    for i, name in enumerate(names):
        path = folder / "train" / f"{name}.jpg"
        if i % 4 == 3:  # every fourth photo is the one before, again
            shutil.copy(folder / "train" / f"{names[i - 1]}.jpg", path)
        else:
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((80, 80)).save(path)
        lines.append(f"{name}{',0' * 12},{rng.integers(1, 101)}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    data = Dataset.load(folder, tmp_path / "cache")
    folds = folds_of(data, tmp_path)
    assert folds.note == "20 near-duplicates in 10 group(s), kept together"
    assert folds.frame["group"].nunique() == 30
    groups = dict(zip(folds.frame[ID], folds.frame["group"], strict=True))
    assert all(groups[names[i]] == groups[names[i - 1]] for i in range(3, 40, 4))
    firsts = folds.frame.drop_duplicates("group")["group"].tolist()
    assert firsts == list(range(30))
    with pytest.raises(UserError, match="k may be 30 at most"):
        folds_of(data, tmp_path, k=31)
    assert folds_of(data, tmp_path).note == folds.note


def test_the_contests_labels(real: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from pawpularity.data.dataset import Dataset\n"
        "from pawpularity.data.folds import make_folds\n"
        "data = Dataset.load(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "print(make_folds(data, k=5, seed=0, out=Path(sys.argv[2]), cache_folder=Path(sys.argv[2])).path)\n"
        "assert not {'torch', 'sklearn'} & set(sys.modules)\n"
    )
    source = real / "pawpularity-labels" / "train.csv"
    words = [sys.executable, "-c", code, str(source), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    frame = read_folds(Path(done.stdout.strip())).frame.merge(Dataset.load(source, tmp_path).train, on=ID)
    scores = frame.groupby("fold")[TARGET]
    assert np.ptp(scores.mean()) < 0.05
    assert np.ptp(scores.std()) < 0.1
    assert np.ptp(scores.size()) <= 1
    assert np.ptp((frame[TARGET] == 100).groupby(frame["fold"]).sum()) <= 1
