"""Photos from outside: what is legal comes out as Pillow's pixels, everything else is refused in one line, and no file is touched.

The real commands read a toy sample with a photo exchanged.
"""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from pawpularity.cli import main

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


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def moving(kind: str, **options: object) -> bytes:
    frames = [picture(seed=seed) for seed in (1, 2, 3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)


KINDS = {"RGB": "JPEG PNG WEBP BMP TIFF GIF", "L": "JPEG PNG", "1": "PNG", "CMYK": "JPEG TIFF", "YCbCr": "JPEG", "LAB": "TIFF",
         "P": "PNG GIF", "RGBA": "PNG", "LA": "PNG"}  # fmt: skip
LEGAL: dict[str, bytes] = {  # all of them under the name of a .jpg
    **{
        f"{mode} {kind}": encoded(picture(mode, i), kind)
        for i, mode in enumerate(KINDS)
        for kind in KINDS[mode].split()
    },
    **{f"moving {kind}": moving(kind) for kind in ("GIF", "PNG", "TIFF")},
    **{f"JPEG of orientation {turn}": encoded(picture(seed=turn), "JPEG", exif=turned(turn)) for turn in (6, 7)},
    "moving WebP": moving("WEBP", lossless=True),
    "progressive JPEG": encoded(picture(seed=17), "JPEG", progressive=True),
    "16-bit PNG": encoded(Image.fromarray(np.asarray(picture("L", 18)).astype(np.uint16) * 256 + 77), "PNG"),
    "palette PNG, alpha": encoded(picture(seed=20).quantize(16), "PNG", transparency=2),
    "PNG, one colour for alpha": encoded(picture("L", 35), "PNG", transparency=90),
    "PNG on its head": encoded(picture(seed=26), "PNG", exif=turned(3)),
    "JPEG with broken EXIF": encoded(picture(seed=27), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40),
    "JPEG with more after its end": encoded(picture(seed=28), "JPEG") + b"\0" * 5000,
    "1 x 1": encoded(Image.new("RGB", (1, 1), (200, 90, 40)), "PNG"),
    "30,000 wide": encoded(picture(seed=29, size=(30_000, 50)), "PNG"),
    "1 wide": encoded(picture(seed=30, size=(1, 900)), "PNG"),
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
    """A checkout with a run r, trained on a sample whose first photos are those of LEGAL, the next a link to another disk."""
    place = tmp_path_factory.mktemp("odd")
    (place / "configs").symlink_to(ROOT / "configs")
    (place / "toy" / "train").mkdir(parents=True)
    table = pd.read_csv(drawn / "train.csv", dtype=str)
    table.to_csv(place / "toy" / "train.csv", index=False)
    photos = [place / "toy" / "train" / f"{name}.jpg" for name in table["Id"]]
    for photo in photos:
        photo.write_bytes((drawn / "train" / photo.name).read_bytes())
    for photo, data in zip(photos, LEGAL.values(), strict=False):
        photo.write_bytes(data)
    photos[len(LEGAL)].rename(place / "elsewhere")
    photos[len(LEGAL)].symlink_to(place / "elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train", "--data", "toy", *TOY, "--run", "r"]) == 0
    return place


def test_legal_photos_are_trained_on_as_pillow_sees_them(trained):
    (file,) = (trained / ".cache" / "photos").glob("*-32-squash-*.npy")
    pixels = np.load(file).astype(int)
    sources = LEGAL | {"a link": (trained / "elsewhere").read_bytes()}
    for found, (kind, data) in zip(pixels, sources.items(), strict=False):
        assert np.abs(found - seen_by_pillow(data)).max() <= (kind in ("RGBA PNG", "LA PNG") or "alpha" in kind), kind
    red = Image.new("CMYK", (40, 40), (0, 255, 255, 0))  # magenta and yellow
    assert np.abs(seen_by_pillow(encoded(red, "JPEG", quality=95)).astype(int) - [255, 0, 0]).max() < 8


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


GOOD = encoded(picture(size=(300, 200)), "JPEG")
BAD: dict[str, tuple[bytes | Callable[[Path], object], str]] = {
    "no bytes": (b"", "empty"),
    "cut short": (GOOD[: len(GOOD) // 2], "truncated"),
    "its head alone": (GOOD[:20], "truncated"),
    "a PNG cut short": (encoded(picture(), "PNG")[:900], "truncated"),
    "a WebP cut short": (encoded(picture(), "WEBP")[:200], "damaged"),
    "text": (b"not a photo at all", "not a JPEG"),
    "a page": (b"<html>Sign in</html>", "not a JPEG"),
    "a program for a printer": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a JPEG"),
    "a drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a JPEG"),
    "zeros": (bytes(5000), "not a JPEG"),
    "too many pixels": (encoded(Image.new("1", (9460, 9460)), "PNG"), "9460 x 9460; 89 Mpx"),
    "a bomb 30,000 wide": (encoded(Image.new("1", (30_000, 30_000)), "PNG"), "89 Mpx"),
    "pixels that are no whole numbers": (encoded(picture("F"), "TIFF"), "floating-point"),
    "32-bit grey": (encoded(Image.new("I", (9, 9), 70_000), "TIFF"), "32-bit grey"),
    "negative grey": (encoded(Image.new("I", (9, 9), -1), "TIFF"), "32-bit grey"),
    "nothing": (lambda photo: None, "missing"),
    "a PNG beside": (lambda photo: photo.with_suffix(".png").touch(), "found"),
    "a folder": (lambda photo: photo.mkdir(), "folder"),
    "a pipe": (lambda photo: os.mkfifo(photo), "regular"),
    "a device": (lambda photo: photo.symlink_to("/dev/zero"), "regular"),
    "a broken link": (lambda photo: photo.symlink_to("/nowhere/x.jpg"), "link"),
    "a loop": (lambda photo: photo.symlink_to(photo.name), "cannot be read"),
    "a giant": (lambda photo: (photo.touch(), os.truncate(photo, 3_000_000_000)), "3000 MB"),  # takes no disk
}  # fmt: skip


def put(photo: Path, bad: bytes | Callable[[Path], object]) -> None:
    if isinstance(bad, bytes):
        photo.write_bytes(bad)
    else:
        bad(photo)


@pytest.fixture
def one(work: Path, drawn: Path) -> Path:
    """The first photo of a small sample in the current folder, gone."""
    for name in ("train", "test"):
        Path("toy", name).mkdir(parents=True)
        table = pd.read_csv(drawn / f"{name}.csv", dtype=str)[:12]
        table.to_csv(f"toy/{name}.csv", index=False)
        for photo in table["Id"]:
            Path("toy", name, f"{photo}.jpg").symlink_to(drawn / name / f"{photo}.jpg")
    first = Path("toy/train", f"{pd.read_csv('toy/train.csv', dtype=str)['Id'][0]}.jpg")
    first.unlink()
    return first


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_photo_is_refused(one, refused, unharmed, kind):
    bad, word = BAD[kind]
    put(one, bad)
    with unharmed(Path()):
        line = refused("folds", "--data", "toy")
    assert line.startswith(f"1 of 12 photos cannot be used (train/{one.name}: ")
    assert word in line
    assert len(line) < 250


def test_a_photo_that_cannot_be_read(one, refused, monkeypatch):
    """Root reads what chmod forbids, so the refusal is the file system's stand-in."""
    one.write_bytes(GOOD)
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == one.name:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    assert f"{one.name}: cannot be read (Permission denied)" in refused("folds", "--data", "toy")


@pytest.mark.parametrize(
    "kinds", [("nothing", "a PNG beside"), ("a folder", "a broken link"), ("no bytes", "text", "cut short")]
)
def test_several_bad_photos_are_named_at_once(one, refused, kinds):
    photos = [one, *sorted(photo for photo in one.parent.iterdir() if photo != one)]
    for photo, kind in zip(photos, kinds, strict=False):
        photo.unlink(missing_ok=True)
        put(photo, BAD[kind][0])
    line = refused("folds", "--data", "toy")
    assert line.startswith(f"{len(kinds)} of 12 photos cannot be used (")
    for photo, kind in zip(photos, kinds, strict=False):
        assert re.search(f"train/{photo.name}: [^;]*{BAD[kind][1]}", line)


def test_leakcheck_looks_at_photos_as_strictly(one, drawn, refused, unharmed):
    table = pd.read_csv(drawn / "train.csv", dtype=str)
    pd.DataFrame(
        {
            "Id": table["Id"],
            "fold": np.arange(60) % 4,
            "target": table["Pawpularity"],
            "prediction": np.linspace(20, 60, 60),
        }
    ).to_csv("theirs.csv", index=False)
    Path("photos").mkdir()
    for name in table["Id"]:
        Path("photos", f"{name}.jpg").symlink_to(drawn / "train" / f"{name}.jpg")
    photo = Path("photos", one.name)
    for kind in ("cut short", "a folder", "a pipe", "a broken link"):
        photo.unlink() if not photo.is_dir() else photo.rmdir()
        put(photo, BAD[kind][0])
        with unharmed(Path()):
            line = refused("leakcheck", "theirs.csv", "--photos", "photos")
        assert line.startswith(f"1 of 60 photos cannot be used (photos/{photo.name}: ")
    for folder in ("theirs.csv", "nowhere", "toy/test"):
        with unharmed(Path()):
            assert f"--photos {folder}: " in refused("leakcheck", "theirs.csv", "--photos", folder)


@pytest.fixture
def scoring(one, trained, drawn) -> None:
    """The run r, and a sample whose test part it may score."""
    Path("oof").symlink_to(trained / "oof")
    Path("toy/sample_submission.csv").write_text((drawn / "sample_submission.csv").read_text())


@pytest.mark.parametrize("kind", ["file", "broken link"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_no_folder_where_the_photos_should_be(scoring, refused, unharmed, kind, part):
    """Else a link whose disk is away would quietly make labels of a data set."""
    Path("toy", part).rename(f"{part}-away")
    if kind == "file":
        Path("toy", part).write_text("x")
    else:
        Path("toy", part).symlink_to("/nowhere")
    with unharmed(Path("toy")):
        line = refused(*(("folds",) if part == "train" else ("predict", "--run", "r")), "--data", "toy")
    assert f"toy/{part}: is no folder" in line


TABLES: list[tuple[str, Callable[[str], str], str]] = [
    ("test.csv", lambda text: text.replace("Blur", "Blurry", 1), 'rename column "Blurry"'),
    ("test.csv", lambda text: text.replace(",0", ",x", 1), 'row 2, column "'),
    ("test.csv", lambda text: text + text.splitlines()[1] + "\n", "again in row"),
    ("sample_submission.csv", lambda text: "", "toy/sample_submission.csv: is empty"),
    ("sample_submission.csv", lambda text: text.replace("Id", "id", 1), 'rename column "id"'),
    ("sample_submission.csv", lambda text: text + "zzz,1\n", "first zzz"),
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
        table = pd.read_csv(file, dtype=str)
        table[table.columns[::-1]].assign(note="ü").to_csv(
            file, index=False, encoding="utf-8-sig", lineterminator="\r\n", quoting=1
        )
    done = paw(*words, "odd.csv")
    assert done.code == 0, done.err
    assert Path("odd.csv").read_bytes() == Path("plain.csv").read_bytes()
    photo = sorted(Path("toy/test").iterdir())[2]
    photo.unlink()
    photo.write_bytes(GOOD[:900])
    with unharmed(Path()):
        assert f"1 of 5 photos cannot be used (test/{photo.name}: truncated)" in refused(*words, "odd.csv")
