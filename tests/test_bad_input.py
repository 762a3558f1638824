"""Tables and photos from outside: every command refuses them in one line that says what to do, and touches no file.

`tests/oracles/test_tables_and_photos.py` has every kind of damage.
"""

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tests.conftest import ROOT

from pawpularity.cli import main
from pawpularity.data.tables import METADATA
from pawpularity.evaluation.oof import read_oof

LABELS, OOF = Path("labels/train.csv"), Path("theirs.csv")
LONGEST = 400  # characters of a line that is still read
TOY = ("--config", "scratch", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "folds.k=2", "train.batch_size=16",
       "train.augment=none", "train.dtype=float32")  # fmt: skip
Damage = Callable[[bytes], bytes]


def labels(n: int = 40) -> pd.DataFrame:
    random = np.random.default_rng(0)
    table = pd.DataFrame({"Id": [f"p{i:02d}" for i in range(n)]})
    for name in METADATA:
        table[name] = random.integers(0, 2, n)
    return table.assign(Pawpularity=random.integers(1, 101, n))


def predictions(seed: int = 1) -> pd.DataFrame:
    random, table = np.random.default_rng(seed), labels()
    guess = np.round(38 + 0.3 * (table["Pawpularity"] - 38) + random.normal(0, 8, len(table)), 3)
    return pd.DataFrame(
        {"Id": table["Id"], "fold": np.arange(len(table)) % 4, "target": table["Pawpularity"], "prediction": guess}
    )


def rewritten(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Damage:
    """The damage of saving the table again, changed; its other cells stay the same text."""
    return lambda raw: change(pd.read_csv(io.BytesIO(raw), dtype=str)).to_csv(index=False).encode()


def cell(row: int, column: str, value: str) -> Damage:
    """Write `value` into the spreadsheet's row."""
    return rewritten(lambda table: table.assign(**{column: table[column].where(table.index != row - 2, value)}))


@pytest.fixture
def refuses(work, refused, unharmed):
    """A command ends with one line of readable length that names the file and holds `word`; nothing was touched."""
    LABELS.parent.mkdir()
    labels().to_csv(LABELS, index=False)
    predictions().to_csv(OOF, index=False)

    def check(file: Path, word: str, *words: object) -> None:
        with unharmed(Path()):
            line = refused(*words)
        assert file.name in line
        assert word in line
        assert len(line) <= LONGEST
        assert line.isprintable()

    return check


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (b",", b";", "semicolons"),
        (b",", b"\t", "tabs"),
        (b",", b"|", "bars"),
        (b"Id", b"ID", 'rename column "ID"'),
        (b"Subject Focus", b"subject_focus", 'rename column "subject_focus"'),
        (b"Pawpularity", b"popularity", 'rename column "popularity"'),
        (b"Blur", b"xyz", '"Blur" is missing'),
        (b"Blur", b"Eyes", "Eyes"),
        (b"p01", "pé".encode("latin-1"), "UTF-8"),
    ],
)
def test_a_table_of_another_habit_is_told_its_cure(refuses, old, new, word):
    LABELS.write_bytes(LABELS.read_bytes().replace(old, new))
    refuses(LABELS, word, "folds", "--data", "labels")


@pytest.mark.parametrize(("mark", "word"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_quoted_table_of_another_separator_is_told_its_cure(work, refused, mark, word):
    predictions().to_csv(OOF, index=False, sep=mark, quoting=1)
    assert word in refused("oof", OOF)


@pytest.mark.parametrize(
    "above",
    [
        "\n",
        "sep=,\n",
        ",,,\n\n",
        "Out of fold, five folds\n",
        '"My ""best"" model"\n# 2024\n\n',
        "Id of each photo\nsep=,\n",
        "\ufeff\ufeff",
        "Saved twice\n\ufeff",
    ],
)
def test_what_stands_above_a_header_is_passed_over(work, refused, above):
    rows = predictions().to_csv(index=False)
    OOF.write_text(rows)
    expected = read_oof(OOF)
    OOF.write_text(above + rows)
    pd.testing.assert_frame_equal(read_oof(OOF), expected)
    line = above.count("\n") + 4  # rows are still counted as a spreadsheet does
    OOF.write_text(above + rows.replace("p02,2,", "p02,x,"))
    assert f"row {line}," in refused("oof", OOF)
    OOF.write_text(above.replace(",", ";") + rows.replace(",", ";"))
    assert "semicolons" in refused("oof", OOF)


def test_the_last_of_many_rows_is_named_as_a_spreadsheet_does(refuses):
    """A quoted line break belongs to its row; a blank line is a row of its own."""
    row = ",0,1,0,1,0,1,0,1,0,1,0,1,"
    lines = [f"x{i}{row}{1 + i % 100}\n" for i in range(100_000)]
    head = "note," + ",".join(labels().columns) + '\n"two\nlines",' + lines[0] + "\n"
    LABELS.write_text(head + "".join("," + line for line in lines[1:-1]) + "," + lines[-1].replace(",100\n", ",101\n"))
    refuses(LABELS, 'row 100002, column "Pawpularity"', "folds", "--data", "labels")


COMMANDS = {
    "compare": ("compare", OOF, "other.csv", "--draws", "100"),
    "ensemble": ("ensemble", OOF, "other.csv", "--draws", "100"),
    "oof": ("oof", OOF, "other.csv"),
    "errors": ("errors", OOF, "--data", "labels", "--draws", "100"),
    "hypotheses": ("hypotheses", "--run", OOF, "--data", "labels", "--draws", "100"),
}
PREDICTIONS: dict[str, tuple[Damage, str, tuple[str, ...]]] = {
    "no number": (cell(4, "prediction", "NaN"), 'row 4, column "prediction"', tuple(COMMANDS)),
    "another scale": (rewritten(lambda table: table.assign(prediction=table["prediction"].astype(float) / 100)), "--scale",
                      tuple(COMMANDS)),
    "another target": (cell(5, "target", "1.25"), "p03", ("compare", "ensemble", "errors", "hypotheses")),
    "a row less": (rewritten(lambda table: table[:-1]), "p39", ("compare", "ensemble", "hypotheses")),
    "another row": (rewritten(lambda table: table.replace("p39", "zzz")), "p39", ("compare", "ensemble", "hypotheses")),
}  # fmt: skip


@pytest.mark.parametrize("how", PREDICTIONS)
def test_every_command_reads_predictions_as_strictly(refuses, paw, how):
    predictions(seed=2).to_csv("other.csv", index=False)
    assert paw("folds", "--data", "labels").code == 0  # the folds file is there too
    damage, word, commands = PREDICTIONS[how]
    OOF.write_bytes(damage(OOF.read_bytes()))
    for command in commands:
        refuses(OOF, word, *COMMANDS[command])


# --- Photos -----------------------------------------------------------------------------------------------------------


IDS = ["a b", "a,b", 'a"b', "a'b", "a;b", "ä ö", "e\u0301", "é", "日本", "🐶", "-x", "--run", "=1+1", "~", "*", "?", "[a]", "$HOME",
       "`id`", "<b>", "a&b", "50 %", "a%20b", "#1", "x.jpg", "x" * 200, "é" * 100, "1e5", "007", "7", "NA", "nan", "None", "null",
       "True", "0x1", "1,000", "A", "a", "a=b", "a|b", "a:b"]  # fmt: skip


def test_any_id_that_names_a_file_is_that_photos(work, drawn, paw):
    for part in ("train", "test"):
        table = pd.read_csv(drawn / f"{part}.csv", dtype=str)
        ids = [*IDS, *table["Id"]][: len(table)]
        Path("toy", part).mkdir(parents=True)
        for old, new in zip(table["Id"], ids, strict=True):
            Path("toy", part, f"{new}.jpg").symlink_to(drawn / part / f"{old}.jpg")
        table.assign(Id=ids).to_csv(f"toy/{part}.csv", index=False)
    for words in (("train", *TOY, "--run", "odd"), ("errors", "odd", "--draws", "100"), ("predict", "--run", "odd")):
        done = paw(*words, "--data", "toy")
        assert done.code == 0, done.err

    def read(path: str) -> pd.DataFrame:
        return pd.read_csv(path, dtype=str, keep_default_na=False).set_index("Id")

    truth, found = read("toy/train.csv")["Pawpularity"].astype(float), read("oof/odd/oof.csv")["target"].astype(float)
    assert found.to_dict() == truth.to_dict()
    assert read("submissions/odd.csv").index.tolist() == read("toy/test.csv").index.tolist()


@pytest.fixture
def photos(shelter, work):
    """The training photos of a copy of the sample, `toy` in the current folder."""
    Path("toy").symlink_to(shelter)
    return sorted((shelter / "train").iterdir())


HARMS: dict[str, Callable[[Path], object]] = {
    "truncated": lambda photo: photo.write_bytes(photo.read_bytes()[:900]),
    "not a JPEG": lambda photo: photo.write_bytes(b"not a photo"),
    "missing": lambda photo: photo.unlink(),
    "found": lambda photo: photo.rename(photo.with_suffix(".png")),
}


@pytest.mark.parametrize("words", [("truncated", "not a JPEG"), ("missing", "found")])
def test_several_bad_photos_are_named_at_once(photos, refused, unharmed, words):
    for photo, word in zip(photos, words, strict=False):
        HARMS[word](photo)
    with unharmed(Path("toy")):
        line = refused("folds", "--data", "toy")
    assert line.startswith(f"{len(words)} of {len(photos)} photos cannot be used (")
    for photo, word in zip(photos, words, strict=False):
        assert re.search(f"train/{photo.name}: [^;]*{word}", line)


def test_a_photo_that_cannot_be_read(photos, refused, monkeypatch):
    """Root reads what chmod forbids, so the refusal is the file system's stand-in."""
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == photos[0].name:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    assert f"{photos[0].name}: cannot be read (Permission denied)" in refused("folds", "--data", "toy")


def test_leakcheck_looks_at_photos_as_strictly(photos, refused):
    table = pd.read_csv("toy/train.csv", dtype=str)
    columns = {"fold": np.arange(60) % 4, "target": table["Pawpularity"], "prediction": np.linspace(20, 60, 60)}
    pd.DataFrame({"Id": table["Id"], **columns}).to_csv("theirs.csv", index=False)
    photos[0].write_bytes(photos[0].read_bytes()[:900])
    assert f"(train/{photos[0].name}: " in refused("leakcheck", "theirs.csv", "--photos", "toy/train")
    for folder in ("theirs.csv", "nowhere", "toy/test"):
        assert f"--photos {folder}: " in refused("leakcheck", "theirs.csv", "--photos", folder)


# --- The test part ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(drawn, tmp_path_factory) -> Path:
    """oof/ with a run r of the toy sample."""
    place = tmp_path_factory.mktemp("trained")
    (place / "configs").symlink_to(ROOT / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", "--data", str(drawn), *TOY, "--run", "r"]) == 0
    return place / "oof"


@pytest.fixture
def scoring(photos, trained) -> None:
    """The run r beside the sample `toy`."""
    Path("oof").symlink_to(trained)


@pytest.mark.parametrize("kind", ["file", "broken link"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_no_folder_where_the_photos_should_be(scoring, refused, unharmed, kind, part):
    """Else a link whose disk is away would quietly make labels of a data set."""
    shutil.move(Path("toy", part), f"{part}-away")
    if kind == "file":
        Path("toy", part).write_text("x")
    else:
        Path("toy", part).symlink_to("/nowhere")
    with unharmed(Path("toy")):
        line = refused(*(("folds",) if part == "train" else ("predict", "--run", "r")), "--data", "toy")
    assert f"toy/{part}: is no folder" in line


TABLES: list[tuple[str, Callable[[str], str], str]] = [
    ("test.csv", lambda text: text.replace("Blur", "Blurry", 1), 'rename column "Blurry"'),
    ("sample_submission.csv", lambda text: "", "is empty"),
    ("sample_submission.csv", lambda text: text + "zzz,1\n", "first zzz"),
    ("sample_submission.csv", lambda text: text.upper().replace("ID,PAWPULARITY", "Id,Pawpularity"), "looks like"),
    ("sample_submission.csv", lambda text: text.rpartition("\n")[0].rpartition("\n")[0], "different Ids"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "damage", "word"), TABLES)
def test_a_table_of_the_test_part_is_refused(scoring, refused, unharmed, file, damage, word):
    path = Path("toy", file)
    path.write_text(damage(path.read_text()))
    with unharmed(Path("toy"), Path()):
        assert word in refused("predict", "--run", "r", "--data", "toy")


def test_a_test_part_however_saved_is_scored_alike_and_a_bad_photo_leaves_the_submission(
    scoring, paw, refused, unharmed
):
    words = ("predict", "--run", "r", "--data", "toy", "--out")
    assert paw(*words, "plain.csv").code == 0
    for file in (Path("toy/test.csv"), Path("toy/sample_submission.csv")):
        table = pd.read_csv(file, dtype=str)[lambda table: table.columns[::-1]].assign(note="ü")
        table.to_csv(file, index=False, encoding="utf-8-sig", lineterminator="\r\n", quoting=1)
    for photo in Path("toy/test").iterdir():  # the same pixels in another format
        Image.open(io.BytesIO(photo.read_bytes())).save(photo, "PNG")
    done = paw(*words, "odd.csv")
    assert done.code == 0, done.err
    assert Path("odd.csv").read_bytes() == Path("plain.csv").read_bytes()
    photo = sorted(Path("toy/test").iterdir())[2]
    photo.write_bytes(photo.read_bytes()[:900])
    with unharmed(Path()):
        line = refused(*words, "odd.csv")
    assert f"1 of 5 photos cannot be used (test/{photo.name}: truncated)" in line
    assert "drop" not in line, "a submission needs every row"
