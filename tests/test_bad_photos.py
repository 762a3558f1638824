"""Photos from outside: what is legal comes out as Pillow's pixels, everything else is refused in one line, and no file is touched.

The real commands read the toy shelter with a photo exchanged. What the decoder does with every mode of pixels is in
`competition/test_photos.py`.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from pawpularity.cli import main

# Said once by Pillow while pytest lists warnings; users never see them (competition/test_photos.py).
pytestmark = [pytest.mark.filterwarnings("ignore:Corrupt EXIF"), pytest.mark.filterwarnings("ignore:Image size")]
ROOT = Path(__file__).resolve().parents[1]
TOY = ("--config", "scratch", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "folds.k=2", "train.batch_size=16",
       "train.augment=none", "train.dtype=float32")  # fmt: skip


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def picture(mode: str = "RGB", seed: int = 0, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Soft blobs, different for each seed, so that none is a near-duplicate of another."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 4), dtype=np.uint8)
    return Image.fromarray(coarse, "RGBA").resize(size, Image.Resampling.BICUBIC).convert(mode)


def deep(seed: int) -> Image.Image:
    return Image.fromarray(np.asarray(picture("L", seed)).astype(np.uint16) * 256 + 77)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def moving(kind: str, **options: object) -> bytes:
    frames = [picture(seed=seed) for seed in (1, 2, 3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)


LEGAL: dict[str, Callable[[], bytes]] = {  # all of them under the name of a .jpg
    "JPEG": lambda: encoded(picture(seed=10), "JPEG"),
    "PNG": lambda: encoded(picture(seed=11), "PNG"),
    "WebP": lambda: encoded(picture(seed=12), "WEBP"),
    "BMP": lambda: encoded(picture(seed=13), "BMP"),
    "TIFF": lambda: encoded(picture(seed=14), "TIFF"),
    "grey JPEG": lambda: encoded(picture("L", 15), "JPEG"),
    "CMYK JPEG": lambda: encoded(picture("CMYK", 16), "JPEG"),
    "progressive JPEG": lambda: encoded(picture(seed=17), "JPEG", progressive=True),
    "16-bit PNG": lambda: encoded(deep(18), "PNG"),
    "palette PNG": lambda: encoded(picture(seed=19).quantize(16), "PNG"),
    "palette PNG with alpha": lambda: encoded(picture(seed=20).quantize(16), "PNG", transparency=2),
    "PNG with alpha": lambda: encoded(picture("RGBA", 21), "PNG"),
    "grey PNG with alpha": lambda: encoded(picture("LA", 22), "PNG"),
    "black and white PNG": lambda: encoded(picture("1", 23), "PNG"),
    "JPEG turned by a quarter": lambda: encoded(picture(seed=24), "JPEG", exif=turned(6)),
    "JPEG mirrored and turned": lambda: encoded(picture(seed=25), "JPEG", exif=turned(7)),
    "PNG on its head": lambda: encoded(picture(seed=26), "PNG", exif=turned(3)),
    "JPEG with broken EXIF": lambda: encoded(picture(seed=27), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40),
    "JPEG with more after its end": lambda: encoded(picture(seed=28), "JPEG") + b"\0" * 5000,
    "moving GIF": lambda: moving("GIF"),
    "moving WebP": lambda: moving("WEBP", lossless=True),
    "moving PNG": lambda: moving("PNG"),
    "1 x 1": lambda: encoded(Image.new("RGB", (1, 1), (200, 90, 40)), "PNG"),
    "30,000 wide": lambda: encoded(picture(seed=29, size=(30_000, 50)), "PNG"),
    "1 wide": lambda: encoded(picture(seed=30, size=(1, 900)), "PNG"),
}


def seen_by_pillow(data: bytes) -> np.ndarray:
    """By Pillow's own steps: first frame, upright, over white, 8-bit, squashed to 32 x 32."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.has_transparency_data:
        over = Image.new("RGBA", image.size, "white")
        over.alpha_composite(image.convert("RGBA"))
        image = over
    return np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a run r, trained on a shelter whose first photos are those of LEGAL, the next a link to another disk."""
    place = tmp_path_factory.mktemp("odd")
    (place / "configs").symlink_to(ROOT / "configs")
    (place / "toy" / "train").mkdir(parents=True)
    table = pd.read_csv(drawn / "train.csv", dtype=str)
    table.to_csv(place / "toy" / "train.csv", index=False)
    for name in table["Id"]:
        (place / "toy" / "train" / f"{name}.jpg").write_bytes((drawn / "train" / f"{name}.jpg").read_bytes())
    photos = [place / "toy" / "train" / f"{name}.jpg" for name in table["Id"]]
    for photo, make in zip(photos, LEGAL.values(), strict=False):
        photo.write_bytes(make())
    photos[len(LEGAL)].rename(place / "elsewhere")
    photos[len(LEGAL)].symlink_to(place / "elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", "--data", "toy", *TOY, "--run", "r"]) == 0
    return place


@pytest.fixture(scope="module")
def pixels(trained: Path) -> np.ndarray:
    """What training saw: (60, 32, 32, 3)."""
    (file,) = (trained / ".cache" / "photos").glob("*-32-squash-*.npy")
    return np.load(file)


@pytest.mark.parametrize("kind", LEGAL)
def test_a_legal_photo_is_trained_on_as_it_is(pixels, kind):
    difference = pixels[list(LEGAL).index(kind)].astype(int) - seen_by_pillow(LEGAL[kind]()).astype(int)
    assert np.abs(difference).max() <= (1 if "alpha" in kind else 0)


def test_a_link_out_of_the_tree_is_followed(trained, pixels):
    np.testing.assert_array_equal(pixels[len(LEGAL)], seen_by_pillow((trained / "elsewhere").read_bytes()))


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
    truth = pd.read_csv("toy/train.csv", dtype=str, keep_default_na=False).set_index("Id")["Pawpularity"].astype(float)
    found = pd.read_csv("oof/odd/oof.csv", dtype={"Id": str}, keep_default_na=False).set_index("Id")
    assert found["target"].to_dict() == truth.to_dict()
    given = pd.read_csv("submissions/odd.csv", dtype=str, keep_default_na=False)["Id"]
    assert given.tolist() == pd.read_csv("toy/test.csv", dtype=str, keep_default_na=False)["Id"].tolist()


GOOD = encoded(picture(size=(300, 200)), "JPEG")
BAD: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "empty"),
    "cut short": (GOOD[: len(GOOD) // 2], "truncated"),
    "its head alone": (GOOD[:20], "truncated"),
    "a PNG cut short": (encoded(picture(), "PNG")[:900], "truncated"),
    "a WebP cut short": (encoded(picture(), "WEBP")[:200], "damaged ("),
    "text": (b"not a photo at all", "not a JPEG, PNG, WebP, GIF, BMP or TIFF image"),
    "a page": (b"<html>Sign in</html>", "not a JPEG, PNG, WebP, GIF, BMP or TIFF image"),
    "a program for a printer": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG"),
    "a drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a JPEG"),
    "zeros": (bytes(5000), "not a JPEG"),
    "too many pixels": (encoded(Image.new("1", (9460, 9460)), "PNG"), "too large (9460 x 9460; 89 Mpx at most); shrink it"),
    "a bomb 30,000 wide": (encoded(Image.new("1", (30_000, 30_000)), "PNG"), "too large (89 Mpx at most); shrink it"),
    "pixels that are no whole numbers": (encoded(picture("F"), "TIFF"), "floating-point pixels have no known range; save"),
    "32-bit grey": (encoded(Image.new("I", (9, 9), 70_000), "TIFF"), "32-bit grey; save it as 8-bit"),
}  # fmt: skip


@pytest.fixture
def one(work: Path, drawn: Path) -> Path:
    """The first photo of a small shelter in the current folder, to be damaged."""
    for name in ("train", "test"):
        Path("toy", name).mkdir(parents=True)
        table = pd.read_csv(drawn / f"{name}.csv", dtype=str)[:12]
        table.to_csv(f"toy/{name}.csv", index=False)
        for photo in table["Id"]:
            Path("toy", name, f"{photo}.jpg").symlink_to(drawn / name / f"{photo}.jpg")
    first = Path("toy/train", f"{pd.read_csv('toy/train.csv', dtype=str)['Id'][0]}.jpg")
    first.unlink()
    return first


def refuses(refused, unharmed, photo: Path, said: str) -> None:
    with unharmed(Path()):
        line = refused("folds", "--data", "toy")
    assert line == f"1 of 12 photos cannot be used (train/{photo.name}: {said}); replace them, or drop their rows"


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_photo_is_refused(one, refused, unharmed, kind):
    data, said = BAD[kind]
    one.write_bytes(data)
    with unharmed(Path()):
        line = refused("folds", "--data", "toy")
    assert line.startswith(f"1 of 12 photos cannot be used (train/{one.name}: {said}")
    assert line.endswith("); replace them, or drop their rows")
    assert len(line) < 250


def in_its_place(kind: str, photo: Path) -> None:
    if kind == "folder":
        photo.mkdir()
    elif kind == "pipe":
        os.mkfifo(photo)
    elif kind == "PNG":
        photo.with_suffix(".png").write_bytes(encoded(picture(), "PNG"))
    elif kind == "giant":
        photo.touch()
        os.truncate(photo, 3_000_000_000)  # takes no disk
    elif kind != "nothing":
        photo.symlink_to({"device": "/dev/zero", "dangling": "/nowhere/x.jpg", "loop": photo.name}[kind])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nothing", "missing"),
        ("PNG", "missing (found {id}.png; photos must be .jpg)"),
        ("folder", "a folder, not a photo"),
        ("pipe", "not a regular file"),
        ("device", "not a regular file"),
        ("dangling", "a link that leads nowhere"),
        ("loop", "cannot be read (Too many levels of symbolic links)"),
        ("giant", "too large a file (3000 MB; 1000 MB at most)"),
    ],
)
def test_something_else_in_its_place(one, refused, unharmed, kind, said):
    in_its_place(kind, one)
    refuses(refused, unharmed, one, said.format(id=one.stem))


def test_a_photo_that_cannot_be_read(one, refused, unharmed, monkeypatch):
    """Root reads what chmod forbids, so the refusal is the file system's stand-in."""
    one.write_bytes(GOOD)
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == one.name:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    refuses(refused, unharmed, one, "cannot be read (Permission denied)")


def test_bad_photos_of_every_kind_are_told_at_once(one, refused, unharmed):
    photos = [one, *sorted(photo for photo in one.parent.iterdir() if photo != one)]
    for photo in photos[1:5]:
        photo.unlink()
    photos[1].write_bytes(b"")
    photos[2].write_bytes(GOOD[:300])
    photos[3].mkdir()
    photos[4].symlink_to("nowhere.jpg")
    with unharmed(Path()):
        line = refused("folds", "--data", "toy")
    assert line.startswith("5 of 12 photos cannot be used (")
    reasons = ("missing", "empty", "truncated", "a folder, not a photo", "a link that leads nowhere")
    for photo, said in zip(photos, reasons, strict=False):
        assert f"train/{photo.name}: {said}" in line


def test_leakcheck_looks_at_photos_as_strictly(one, drawn, refused, unharmed):
    table = pd.read_csv(drawn / "train.csv", dtype=str)
    rows = {
        "Id": table["Id"],
        "fold": np.arange(60) % 4,
        "target": table["Pawpularity"],
        "prediction": np.linspace(20, 60, 60),
    }
    pd.DataFrame(rows).to_csv("theirs.csv", index=False)
    Path("photos").mkdir()
    for name in table["Id"]:
        Path("photos", f"{name}.jpg").symlink_to(drawn / "train" / f"{name}.jpg")
    bad = Path("photos", one.name)
    for damage in (
        lambda: bad.write_bytes(GOOD[:500]),
        bad.mkdir,
        lambda: os.mkfifo(bad),
        lambda: bad.symlink_to("nowhere.jpg"),
    ):
        bad.unlink() if not bad.is_dir() else bad.rmdir()
        damage()
        with unharmed(Path()):
            line = refused("leakcheck", "theirs.csv", "--photos", "photos")
        assert line.startswith(f"1 of 60 photos cannot be used (photos/{bad.name}: ")
    for folder in ("theirs.csv", "nowhere", "toy/test"):
        with unharmed(Path()):
            assert f"--photos {folder}: " in refused("leakcheck", "theirs.csv", "--photos", folder)


@pytest.mark.parametrize(("kind", "said"), [("file", "is no folder"), ("dangling", "is a link that leads nowhere")])
@pytest.mark.parametrize("part", ["train", "test"])
def test_no_folder_where_the_photos_should_be(one, trained, refused, unharmed, kind, said, part):
    """Else a link whose disk is away would quietly make labels of a data set."""
    Path("oof").symlink_to(trained / "oof")
    Path("toy", part).rename(f"{part}-away")
    if kind == "file":
        Path("toy", part).write_text("x")
    else:
        Path("toy", part).symlink_to("/nowhere")
    with unharmed(Path("toy")):
        line = refused(*(("folds",) if part == "train" else ("predict", "--run", "r")), "--data", "toy")
    assert line == f"toy/{part}: {said}; put the folder of photos there, or take it away for labels alone"


def header(text: str) -> str:
    return text.splitlines()[0] + "\n"


TABLES: list[tuple[str, Callable[[str], str], str]] = [
    ("test.csv", lambda text: "", "is empty; it must begin with a header row"),
    ("test.csv", header, "has a header and no rows; add"),
    ("test.csv", lambda text: text.replace(",", ";"), "is separated by semicolons, not commas; save it as"),
    ("test.csv", lambda text: text.replace("Blur", "Blurry", 1), 'column "Blur" is missing; rename column "Blurry"?'),
    ("test.csv", lambda text: text.replace(",0", ",x", 1), 'row 2, column "'),
    ("test.csv", lambda text: text + text.splitlines()[1] + "\n", "again in row"),
    ("sample_submission.csv", lambda text: "", "is empty; it must begin with a header row (Id)"),
    ("sample_submission.csv", header, "has a header and no rows; add"),
    ("sample_submission.csv", lambda text: text.replace("Id", "id", 1), 'column "Id" is missing; rename column "id"?'),
    ("sample_submission.csv", lambda text: text + "zzz,1\n", '"zzz" is in sample_submission.csv and not in test.csv (1 differ);'),
    ("sample_submission.csv", lambda text: "".join(text.splitlines(keepends=True)[:-1]), "is in test.csv and not in sample"),
]  # fmt: skip


@pytest.fixture
def scoring(one, trained, drawn) -> None:
    """The run r, and a shelter whose test part it may score."""
    Path("oof").symlink_to(trained / "oof")
    Path("toy/sample_submission.csv").write_text((drawn / "sample_submission.csv").read_text())


@pytest.mark.parametrize(("file", "damage", "said"), TABLES)
def test_a_table_of_the_test_part_is_refused(scoring, refused, unharmed, file, damage, said):
    path = Path("toy", file)
    path.write_text(damage(path.read_text()))
    with unharmed(Path("toy"), Path()):
        line = refused("predict", "--run", "r", "--data", "toy")
    assert str(path) in line or "and not in" in line
    assert said in line


def test_a_folder_in_place_of_the_sample_submission(scoring, refused, unharmed):
    Path("toy/sample_submission.csv").unlink()
    Path("toy/sample_submission.csv").mkdir()
    with unharmed(Path()):
        assert "toy/sample_submission.csv: is a folder, not a CSV file" in refused(
            "predict", "--run", "r", "--data", "toy"
        )


def test_a_test_part_however_saved_is_scored_alike(scoring, paw):
    assert paw("predict", "--run", "r", "--data", "toy", "--out", "plain.csv").code == 0
    for file in (Path("toy/test.csv"), Path("toy/sample_submission.csv")):
        table = pd.read_csv(file, dtype=str)
        table[table.columns[::-1]].assign(note="ü").to_csv(
            file, index=False, encoding="utf-8-sig", lineterminator="\r\n", quoting=1
        )
    done = paw("predict", "--run", "r", "--data", "toy", "--out", "odd.csv")
    assert done.code == 0, done.err
    assert Path("odd.csv").read_bytes() == Path("plain.csv").read_bytes()


def test_a_bad_test_photo_leaves_the_last_submission(scoring, paw, refused, unharmed):
    assert paw("predict", "--run", "r", "--data", "toy", "--out", "s.csv").code == 0
    photo = sorted(Path("toy/test").iterdir())[2]
    photo.unlink()
    photo.write_bytes(GOOD[:900])
    with unharmed(Path()):
        said = refused("predict", "--run", "r", "--data", "toy", "--out", "s.csv")
    assert f"1 of 5 photos cannot be used (test/{photo.name}: truncated); replace" in said
