"""The data folder as one object: where the photos are, and what its hashes depend on."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pawpularity.data import dataset as module
from pawpularity.data.dataset import Dataset, fingerprints, is_drawn, load_test
from pawpularity.data.photos import decode
from pawpularity.data.tables import ID, METADATA, TARGET
from pawpularity.errors import UserError
from pawpularity.files import file_hash

HEADER = ",".join([ID, *METADATA, TARGET])
NAMES = ["d", "a", "c", "b", "e"]


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8))


def rows(names: list[str]) -> list[str]:
    return [f"{name},{'0,1,' * 6}{10 + ord(name[0]) % 50}" for name in names]


@pytest.fixture
def shelter(tmp_path: Path) -> Path:
    """Five training photos d a c b e, two test photos x y."""
    folder = tmp_path / "contest"
    for part, names in (("train", NAMES), ("test", ["x", "y"])):
        (folder / part).mkdir(parents=True)
        for name in names:
            picture(ord(name)).save(folder / part / f"{name}.jpg")
    (folder / "train.csv").write_text("\n".join([HEADER, *rows(NAMES)]) + "\n")
    (folder / "test.csv").write_text("\n".join([HEADER.rsplit(",", 1)[0], *(f"{n}{',1' * 12}" for n in "xy")]) + "\n")
    return folder


def load(folder: Path, cache: Path | None = None) -> Dataset:
    return Dataset.load(folder, cache or folder.parent / "cache")


def test_load(shelter: Path) -> None:
    data = load(shelter)
    assert (data.name, data.has_photos, data.folder) == ("contest", True, shelter)
    assert data.train[ID].tolist() == NAMES
    assert data.photo_paths() == [shelter / "train" / f"{name}.jpg" for name in NAMES]
    assert len(data.hash) == 12
    photos = data.photos(16, "squash").pixels
    np.testing.assert_array_equal(photos[1], decode(shelter / "train" / "a.jpg", 16, "squash"))


def test_test_part(shelter: Path) -> None:
    data = load(shelter)
    assert data.photo_paths("test") == [shelter / "test" / "x.jpg", shelter / "test" / "y.jpg"]
    assert data.photos(16, "crop", part="test").pixels.shape == (2, 16, 16, 3)
    (shelter / "train.csv").unlink()  # a kernel may have no training part
    test = load_test(shelter, shelter.parent / "cache")
    assert test.table[ID].tolist() == ["x", "y"]
    assert test.paths == data.photo_paths("test")
    assert test.hash != data.hash


def test_name_of_the_current_folder(shelter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shelter)
    assert load(Path(), shelter.parent / "cache").name == "contest"
    assert load(Path("train.csv"), shelter.parent / "cache").name == "contest"


def test_hash_ignores_place_times_and_row_order(shelter: Path, tmp_path: Path) -> None:
    before = load(shelter)
    other = Path(shutil.copytree(shelter, tmp_path / "elsewhere" / "other"))
    (other / "train.csv").write_text("\r\n".join([HEADER, *reversed(rows(NAMES))]) + "\r\n")
    for path in (other / "train").iterdir():
        os.utime(path, (1, 1))
    after = load(other, tmp_path / "cache2")
    assert after.hash == before.hash
    assert after.train[ID].tolist() == NAMES[::-1]


@pytest.mark.parametrize("change", ["score", "metadata", "photo", "id", "row", "swap"])
def test_hash_follows_content(shelter: Path, change: str) -> None:
    before = load(shelter).hash
    lines = rows(NAMES)
    train = shelter / "train"
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
    else:
        (train / "a.jpg").rename(train / "t.jpg")
        (train / "b.jpg").rename(train / "a.jpg")
        (train / "t.jpg").rename(train / "b.jpg")
    (shelter / "train.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    assert load(shelter).hash != before


def test_hash_tells_labels_from_photos(shelter: Path) -> None:
    before = load(shelter).hash
    shutil.rmtree(shelter / "train")
    assert load(shelter).hash != before


def test_cached_rows_follow_the_tables_order(shelter: Path) -> None:
    """The trap: one hash for both orders, one cache folder, and yet row i must be photo i."""
    cache = shelter.parent / "cache"
    first = load(shelter, cache)
    forward = np.array(first.photos(16, "squash").pixels)
    (shelter / "train.csv").write_text("\n".join([HEADER, *reversed(rows(NAMES))]) + "\n")
    second = load(shelter, cache)
    assert second.hash == first.hash
    assert second.photo_key() != first.photo_key()
    np.testing.assert_array_equal(second.photos(16, "squash").pixels, forward[::-1])


def test_new_labels_keep_the_decoded_photos(shelter: Path) -> None:
    key = load(shelter).photo_key()
    (shelter / "train.csv").write_text("\n".join([HEADER, *(line[:-2] + "77" for line in rows(NAMES))]) + "\n")
    assert load(shelter).photo_key() == key


@pytest.mark.parametrize("as_file", [True, False])
def test_labels_alone(shelter: Path, as_file: bool) -> None:
    if not as_file:
        shutil.rmtree(shelter / "train")
    data = load(shelter / "train.csv" if as_file else shelter)
    assert (data.name, data.has_photos, len(data.train), data.folder) == ("contest", False, 5, shelter)
    assert len(data.hash) == 12
    for ask in (data.photo_paths, data.photo_key, lambda: data.photos(8, "crop")):
        with pytest.raises(UserError, match=r"has labels only.*train/ID\.jpg"):
            ask()


def test_missing_photos_are_told_at_once(shelter: Path) -> None:
    (shelter / "train" / "a.jpg").unlink()
    (shelter / "train" / "b.jpg").rename(shelter / "train" / "b.png")
    with pytest.raises(UserError) as caught:
        load(shelter)
    message = str(caught.value)
    assert "2 of 5 photos" in message
    assert "train/a.jpg: missing" in message
    assert "found b.png; photos must be .jpg" in message
    assert "\n" not in message
    (shelter / "test" / "x.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 photos.*test/x\.jpg"):
        load_test(shelter, shelter.parent / "cache")


def test_is_drawn(tmp_path: Path) -> None:
    assert not is_drawn(tmp_path)
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "floor.json").write_text("{}")
    assert is_drawn(tmp_path)


def test_fingerprints_are_of_the_content(shelter: Path, tmp_path: Path) -> None:
    paths = load(shelter).photo_paths()
    shutil.copy(paths[0], paths[1])
    prints = fingerprints(paths, tmp_path)
    assert all(len(value) == 16 for value in prints)
    assert prints[0] == prints[1]
    assert len(set(prints)) == len({file_hash(path) for path in paths}) == 4
    assert fingerprints(paths[::-1], tmp_path) == prints[::-1]


def test_fingerprints_notice_changes(shelter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = load(shelter).photo_paths()
    for settled in (2.0, -1.0):  # files too young to be remembered, and files that are remembered
        monkeypatch.setattr(module, "SETTLED_S", settled)
        before = fingerprints(paths, tmp_path)
        about = paths[2].stat()
        content = bytearray(paths[2].read_bytes())
        content[-3] ^= 1
        paths[2].write_bytes(content)  # the same size ...
        os.utime(paths[2], ns=(about.st_atime_ns, about.st_mtime_ns))  # ... and modification time
        after = fingerprints(paths, tmp_path)
        assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True, True]


def test_fingerprints_are_remembered(shelter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLED_S", -1.0)
    paths = load(shelter).photo_paths()
    before = fingerprints(paths, tmp_path)
    monkeypatch.setattr(module, "_content_hash", lambda path: pytest.fail("read again"))
    assert fingerprints(paths, tmp_path) == before
    assert fingerprints(paths[:2], tmp_path) == before[:2]
    assert fingerprints(paths, tmp_path) == before


@pytest.mark.parametrize("rubbish", ["", "[1]", "{", '{"a.jpg": 3, "b.jpg": [1, 2]}'])
def test_rubbish_in_the_memory_is_forgotten(shelter: Path, tmp_path: Path, rubbish: str) -> None:
    paths = load(shelter).photo_paths()
    before = fingerprints(paths, tmp_path)
    next((tmp_path / "fingerprints").glob("*.json")).write_text(rubbish)
    assert fingerprints(paths, tmp_path) == before


def test_fingerprints_without_a_writable_cache(shelter: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(fingerprints(load(shelter).photo_paths(), tmp_path / "file")) == 5


def test_fingerprints_of_absent_files(shelter: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 of 2 photos.*p/q\.jpg: missing; p/r\.jpg: missing"):
        fingerprints([tmp_path / "p" / "q.jpg", tmp_path / "p" / "r.jpg"], tmp_path)


def test_the_real_hundred(real: Path, tmp_path: Path) -> None:
    data = Dataset.load(real / "pawpularity-100", tmp_path)
    assert (len(data.train), data.has_photos, data.name) == (100, True, "pawpularity-100")
    assert data.photos(32, "squash").pixels.shape == (100, 32, 32, 3)
    assert data.photos(32, "squash", part="test").pixels.shape == (8, 32, 32, 3)
    labels = Dataset.load(real / "pawpularity-labels" / "train.csv", tmp_path)
    assert (len(labels.train), labels.has_photos, labels.name) == (9912, False, "pawpularity-labels")


def test_a_photo_that_changes_after_it_was_hashed_is_refused(shelter: Path) -> None:
    """Its pixels would else be cached under the name of what it was, for good."""
    data = load(shelter)
    photos = data.photos(16, "squash")
    path = data.photo_paths()[3]
    old = path.read_bytes()
    path.write_bytes(data.photo_paths()[4].read_bytes())
    with pytest.raises(UserError, match=r"changed while it was read"):
        assert photos.pixels.size
    path.write_bytes(old)
    assert load(shelter).photos(16, "squash").pixels.shape[0] == len(data.train)
