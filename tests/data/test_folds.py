"""The folds: groups never span them, every score is spread evenly, and the file is verified before it is used."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pawpularity.data.dataset import Dataset
from pawpularity.data.duplicates import numbered
from pawpularity.data.folds import _DEAL, Folds, deal, inner_split, make_folds, read_folds
from pawpularity.data.tables import ID, METADATA, TARGET
from pawpularity.errors import UserError
from pawpularity.files import text_hash

STEADY = settings(derandomize=True, deadline=None, max_examples=150, database=None)


def scores_like_the_contests(n: int, seed: int) -> np.ndarray:
    return np.clip(np.round(np.random.default_rng(seed).gamma(4, 9.5, n)), 1, 100)


def labels(folder: Path, scores: np.ndarray, order: object = slice(None), first: str = "p00000") -> Dataset:
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame({ID: [first, *(f"p{i:05d}" for i in range(1, len(scores)))], **dict.fromkeys(METADATA, 0)})
    frame.assign(**{TARGET: scores}).iloc[order].to_csv(folder / "train.csv", index=False)
    return Dataset.load(folder, folder.parent / "cache")


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return labels(tmp_path / "toy", scores_like_the_contests(200, 0))


def folds_of(data: Dataset, tmp_path: Path, **options: object) -> Folds:
    return make_folds(data, **({"out": tmp_path / "folds"} | options))


def test_the_file_is_made_once_and_depends_on_content_and_settings_alone(data: Dataset, tmp_path: Path) -> None:
    first = folds_of(data, tmp_path)
    text = first.path.read_text()
    assert first.path.name.startswith("toy-")
    assert text.startswith("Id,group,fold\np00000,0,")
    assert text.count("\n") == 201
    assert (first.k, len(first.hash), first.note.split(":")[0]) == (5, 12, "labels only")
    before = first.path.stat().st_mtime_ns
    assert folds_of(data, tmp_path).hash == first.hash
    assert first.path.stat().st_mtime_ns == before
    order = np.random.default_rng(0).permutation(200)
    other = folds_of(labels(tmp_path / "far" / "toy", data.train[TARGET], order), tmp_path, out=tmp_path / "out2")
    assert (other.path.name, other.path.read_text()) == (first.path.name, text)
    for options in ({"k": 4}, {"seed": 1}, {"bins": 7}, {"duplicate_threshold": 0.95}):
        assert folds_of(data, tmp_path, **options).path.name != first.path.name


def test_the_command_shows_them(data: Dataset, work: Path, paw) -> None:
    done = paw("folds", "--data", data.folder, "--json", "f.json")
    found = json.loads(Path("f.json").read_text())
    assert done.code == 0, done.err
    assert found["hash"] == read_folds(Path(found["file"])).hash
    assert [part["fold"] for part in found["folds"]] == [0, 1, 2, 3, 4]
    assert sum(part["photos"] for part in found["folds"]) == sum(part["groups"] for part in found["folds"]) == 200
    mean = np.average([part["mean"] for part in found["folds"]], weights=[part["photos"] for part in found["folds"]])
    assert mean == pytest.approx(data.train[TARGET].mean())


def test_rows_are_found_by_id(data: Dataset, tmp_path: Path) -> None:
    folds = folds_of(data, tmp_path)
    ids = data.train[ID].sample(frac=1, random_state=0).tolist()
    known = dict(zip(folds.frame[ID], folds.frame["fold"], strict=True))
    for fold in range(5):
        training, scored = folds.rows(ids, fold)
        assert {known[ids[i]] for i in scored} == {fold}
        assert sorted([*training, *scored]) == list(range(200))
    assert folds.groups_of(ids[:3]).tolist() == [int(name[1:]) for name in ids[:3]]
    others = {"stranger": [*ids[:50], "stranger", *ids[51:]], ids[7]: ids[:7] + ids[8:], ids[0]: [*ids, ids[0]]}
    for named, wrong in others.items():
        with pytest.raises(UserError, match=f'Id "{named}"'):
            folds.rows(wrong, 0)
    for fold in (-1, 5):
        with pytest.raises(UserError, match="folds 0 to 4"):
            folds.rows(ids, fold)


def test_a_changed_file_is_refused(data: Dataset, tmp_path: Path) -> None:
    """Rows moved between folds by hand may split a group: the name alone must not vouch for the content."""
    first = folds_of(data, tmp_path)
    first.frame.assign(fold=(first.frame["fold"] + 1) % 5).to_csv(first.path, index=False)
    with pytest.raises(UserError, match="changed"):
        folds_of(data, tmp_path)
    first.path.unlink()
    assert folds_of(data, tmp_path).hash == first.hash


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a,0,0\nb,1,1\na,2,1", ("row 2", "row 4")),
        ("a,0,0\nb,0,1", ("group 0", "row 2", "row 3")),
        ("a,0,0\nb,1,2", ("fold 1",)),
        ("a,0,0\nb,1,1000000000", ("fold 1",)),
        ("a,0,0\nb,1,x", ("row 3", '"fold"')),
        ("a,0,0\nb,1.5,1", ("row 3", '"group"')),
        ("a,0,0\nb,9007199254740994,1", ("row 3", '"group"')),
        ("", ("no rows",)),
    ],
)
def test_damaged_files(tmp_path: Path, rows: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "f.csv"
    path.write_text(f"Id,group,fold\n{rows}\n")
    with pytest.raises(UserError) as caught:
        read_folds(path)
    assert all(word in str(caught.value) for word in (str(path), *words))


@STEADY
@given(st.lists(st.integers(0, 30), min_size=2, max_size=80), st.integers(1, 30), st.integers(0, 9), st.data())
def test_a_group_is_never_split_and_no_part_is_empty(members, bins, seed, data) -> None:
    groups = numbered(members)
    count = int(groups.max()) + 1
    scores = np.random.default_rng(seed).integers(1, 101, len(groups)).astype(float)
    if count < 2:
        with pytest.raises(UserError, match="two or more"):
            inner_split(groups, scores, seed=seed)
        return
    k = data.draw(st.integers(2, count))
    part = deal(groups, scores, k=k, seed=seed, bins=bins)
    assert set(part.tolist()) == set(range(k))
    assert len({*zip(groups.tolist(), part.tolist(), strict=True)}) == count
    share = data.draw(st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.9]))
    fit, inner = inner_split(groups + 100, scores, share=share, seed=seed)
    assert min(len(fit), len(inner)) > 0
    assert not set(groups[fit].tolist()) & set(groups[inner].tolist())
    assert sorted([*fit, *inner]) == list(range(len(groups)))
    assert all((np.diff(rows) > 0).all() for rows in (fit, inner))
    assert inner_split([0] * 7 + [1], [50] * 8, seed=seed)[1].tolist() == [7], "not the huge group"


@pytest.mark.parametrize("scores", [np.arange(200.0), np.full(200, 40.0), scores_like_the_contests(200, 0)])
def test_another_seed_is_another_split(scores: np.ndarray) -> None:
    """Not only other names for the same parts: two photos that met once meet again as often as chance has it."""
    parts = [deal(np.arange(200), scores, k=5, seed=seed, bins=10) for seed in range(8)]
    together = [(part[:, None] == part)[np.triu_indices(200, 1)] for part in parts]
    again = np.mean([b[a].mean() for a in together for b in together if a is not b])
    assert 0.17 < again < 0.23


@pytest.mark.parametrize("seed", range(3))
def test_every_part_has_its_share_of_every_bin(seed: int) -> None:
    """A thousand scores without ties, ten bins, five parts: twenty of each tenth in each, and means as good as equal."""
    scores = np.arange(1000.0)
    parts = deal(np.arange(1000), scores, k=5, seed=seed, bins=10)
    found = np.zeros((5, 10), dtype=int)
    np.add.at(found, (parts, (scores // 100).astype(int)), 1)
    assert (found == 20).all()
    assert np.ptp([scores[parts == part].mean() for part in range(5)]) < 0.1


@pytest.mark.parametrize(
    ("n", "share", "seed", "expected"),
    [(300, 0.1, 3, "f37c50abc10c"), (300, 0.3, 4, "af2327c786cc"), (300, 0.5, 1, "f095f99ec6f0"), (300, 0.004, 2, "54b2e504e071"),
     (15, 0.1, 3, "bbcd1c9ba135")],
)  # fmt: skip
def test_the_rule_that_a_files_name_stands_for_does_not_change(n: int, share: float, seed: int, expected: str) -> None:
    """Folds and inner splits that others hold stay theirs. Whoever changes how they are dealt gives `_DEAL` another name."""
    i = np.arange(300)
    groups, scores = np.where(i < 30, i // 3, i - 20), (1 + (i * i * 37 + 11 * i) % 100).astype(float)
    assert _DEAL == "deal-1"
    assert text_hash("".join(map(str, deal(groups, scores, k=5, seed=7, bins=10)))) == "41ead45ea776"
    inner = inner_split(groups[-n:], scores[-n:], share=share, seed=seed)[1]
    assert text_hash(str(inner.tolist())) == expected


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
    assert folds.note.startswith("20 near-duplicates in 10 group(s)")
    groups = dict(zip(folds.frame[ID], folds.frame["group"], strict=True))
    assert all(groups[names[i]] == groups[names[i - 1]] for i in range(3, 40, 4))
    assert folds.frame.drop_duplicates("group")["group"].tolist() == list(range(30))
    with pytest.raises(UserError, match="30 at most"):
        folds_of(data, tmp_path, k=31)


def test_the_contests_labels(real: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from pawpularity.data.dataset import Dataset\n"
        "from pawpularity.data.folds import make_folds\n"
        "print(make_folds(Dataset.load(Path(sys.argv[1]), Path()), out=Path(sys.argv[2])).path)\n"
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
