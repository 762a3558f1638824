"""The data folder as one object: where the photos are, and what its hashes depend on."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pawpularity.data import dataset as module
from pawpularity.data.dataset import Dataset, fingerprints, load_test
from pawpularity.data.photos import decode, photo_size
from pawpularity.data.tables import ID, METADATA, TARGET
from pawpularity.errors import UserError

HEADER = ",".join([ID, *METADATA, TARGET])
NAMES = ["d", "a", "c", "b", "e"]


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def rows(names: list[str]) -> list[str]:
    return [f"{name},{'0,1,' * 6}{10 + ord(name[0]) % 50}" for name in names]


def write(folder: Path, lines: list[str]) -> None:
    (folder / "train.csv").write_text("\n".join([HEADER, *lines]) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five training photos d a c b e, two test photos x y."""
    folder = tmp_path / "contest"
    for part, names in (("train", NAMES), ("test", ["x", "y"])):
        (folder / part).mkdir(parents=True)
        for name in names:
            picture(ord(name)).save(folder / part / f"{name}.jpg")
    write(folder, rows(NAMES))
    (folder / "test.csv").write_text("\n".join([HEADER.rsplit(",", 1)[0], *(f"{n}{',1' * 12}" for n in "xy")]) + "\n")
    return folder


def load(folder: Path) -> Dataset:
    return Dataset.load(folder, folder.parent / "cache")


def test_both_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(folder)
    assert (data.name, data.has_photos, data.folder, len(data.hash)) == ("contest", True, folder, 12)
    assert data.paths == [folder / "train" / f"{name}.jpg" for name in NAMES]
    np.testing.assert_array_equal(data.photos(16, "crop").pixels[1], decode(folder / "train" / "a.jpg", 16, "crop"))
    (folder / "train.csv").rename(folder / "away")  # a kernel may have no training part
    test = load_test(folder, folder.parent / "cache")
    assert test.paths == [folder / "test" / "x.jpg", folder / "test" / "y.jpg"]
    assert test.photos(16, "crop").pixels.shape == (2, 16, 16, 3)
    assert test.hash != data.hash
    (folder / "away").rename(folder / "train.csv")
    monkeypatch.chdir(folder)
    assert load(Path()).name == load(Path("train.csv")).name == "contest"


def test_hash_ignores_place_times_and_row_order_and_cached_rows_do_not(folder: Path, tmp_path: Path) -> None:
    """The trap: one hash for both orders, one cache folder, and yet row i must be photo i."""
    before = load(folder)
    forward = np.array(before.photos(16, "squash").pixels)
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "train.csv").write_text("\r\n".join([HEADER, *reversed(rows(NAMES))]) + "\r\n")
    for path in (other / "train").iterdir():
        os.utime(path, (1, 1))
    after = load(other)
    assert after.train[ID].tolist() == NAMES[::-1]
    assert after.hash == before.hash
    assert after.photo_key != before.photo_key
    np.testing.assert_array_equal(after.photos(16, "squash").pixels, forward[::-1])


@pytest.mark.parametrize("change", ["score", "metadata", "photo", "id", "row", "swap", "no photos"])
def test_hash_follows_content(folder: Path, change: str) -> None:
    before = load(folder)
    assert len({before.hash, before.photo_key}) == 2
    lines, train = rows(NAMES), folder / "train"
    if change == "score":
        lines[0] = lines[0][:-2] + "99"
    elif change == "metadata":
        lines[0] = lines[0].replace("d,0,", "d,1,")
    elif change == "photo":
        picture(999).save(train / "a.jpg")
    elif change == "id":
        lines[0] = "z" + lines[0][1:]
        (train / "d.jpg").rename(train / "z.jpg")
    elif change == "row":
        lines.pop()
    elif change == "swap":
        for old, new in (("a", "t"), ("b", "a"), ("t", "b")):
            (train / f"{old}.jpg").rename(train / f"{new}.jpg")
    else:
        shutil.rmtree(train)
    write(folder, lines)
    after = load(folder)
    assert after.hash != before.hash
    if change in ("score", "metadata", "id"):
        assert after.photo_key == before.photo_key, "new labels keep the decoded photos"


@pytest.mark.parametrize("as_file", [True, False])
def test_labels_alone(folder: Path, as_file: bool) -> None:
    shutil.rmtree(folder / "train")
    data = load(folder / "train.csv" if as_file else folder)
    assert (data.name, data.has_photos, len(data.train), data.folder) == ("contest", False, 5, folder)
    for ask in (data.require_photos, lambda: data.paths, lambda: data.photo_key, lambda: data.photos(8, "crop")):
        with pytest.raises(UserError, match=r"no photos.*train/ID\.jpg"):
            ask()


@pytest.mark.parametrize(("name", "found"), [("b", "b.png"), ("b", "B.JPG"), ("b.jpg", "b.jpg"), ("b", None)])
def test_missing_photos_are_named_with_what_was_found(folder: Path, name: str, found: str | None) -> None:
    (folder / "train" / "a.jpg").unlink()
    (folder / "train" / "b.jpg").rename(folder / "train" / (found or "other"))
    write(folder, [*rows(["d", "a", "c", "e"]), *rows([name])])
    with pytest.raises(UserError, match=r"2 of 5 photos.*train/a\.jpg: missing") as caught:
        load(folder)
    assert f"train/{name}.jpg: missing" in str(caught.value)
    assert ("found" in str(caught.value)) == (found is not None)
    assert found is None or found in str(caught.value)


def test_fingerprints_follow_content_and_are_remembered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = load(folder).paths
    shutil.copy(paths[0], paths[1])
    before = fingerprints(paths, tmp_path)
    assert before[0] == before[1]
    assert len(set(before)) == 4
    assert fingerprints(paths[::-1], tmp_path) == before[::-1]
    about, content = paths[2].stat(), bytearray(paths[2].read_bytes())
    content[-3] ^= 1
    paths[2].write_bytes(content)  # the same size ...
    os.utime(paths[2], ns=(about.st_atime_ns, about.st_mtime_ns))  # ... and modification time
    after = fingerprints(paths, tmp_path)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True, True]
    next((tmp_path / "fingerprints").glob("*.json")).write_text("{")
    assert fingerprints(paths, tmp_path) == after
    (tmp_path / "file").write_text("")
    assert fingerprints(paths, tmp_path / "file") == after, "the cache need not be writable"
    monkeypatch.setattr(module, "fingerprint", lambda data: pytest.fail("read again"))
    assert fingerprints(paths, tmp_path) == after


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_displayed_size_is_that_of_the_upright_photo(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(0).save(tmp_path / "x.jpg", kind, exif=exif)
    assert photo_size(tmp_path / "x.jpg") == ((20, 30) if orientation > 4 else (30, 20))
