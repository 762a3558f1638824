"""The memory-mapped photos: decoded once, whole or not there, one builder at a time."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pawpularity.data import photo_cache
from pawpularity.data.photo_cache import CachedRows, Photos, fingerprint, photos_of
from pawpularity.data.photos import decode
from pawpularity.errors import UserError


@pytest.fixture
def many(tmp_path: Path) -> list[Path]:
    """Thirty small JPEGs, train/00.jpg and so on."""
    (tmp_path / "train").mkdir()
    paths = [tmp_path / "train" / f"{i:02d}.jpg" for i in range(30)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (25, 35, 3), dtype=np.uint8)).save(path)
    return paths


def photos(paths: list[Path], folder: Path, **options: object) -> Photos:
    prints = [fingerprint(path.read_bytes()) if path.is_file() else "0" * 16 for path in paths]
    return photos_of(paths, prints, **({"size": 20, "fit": "squash", "folder": folder, "key": "k"} | options))


def test_photos_are_the_decoded_rows_read_only_and_decoded_once(many: list[Path], tmp_path: Path) -> None:
    rows = photos(many, tmp_path).pixels
    assert isinstance(rows, np.memmap)
    assert not rows.flags.writeable
    expected = np.stack([decode(path, 20, "squash") for path in many])
    np.testing.assert_array_equal(rows, expected)
    again = photos(many, tmp_path)
    for path in many:
        path.unlink()
    np.testing.assert_array_equal(again.pixels, expected)


def test_rows_are_handed_out_while_they_are_decoded(many: list[Path], tmp_path: Path) -> None:
    mine = photos(many, tmp_path)
    assert mine.undecoded_bytes == 30 * 20 * 20 * 3
    for _ in range(2):  # decoded on the way, then from the file
        found = list(mine.each(np.array([0, 7, 29])))
        assert [row for row, _ in found] == [0, 7, 29]
        np.testing.assert_array_equal(np.stack([pixels for _, pixels in found]), mine.pixels[[0, 7, 29]])
    assert mine.undecoded_bytes == 0


@pytest.mark.parametrize("damage", ["cut", "shape", "type", "rubbish", "empty"])
def test_a_damaged_cache_is_made_again(many: list[Path], tmp_path: Path, damage: str) -> None:
    good = np.array(photos(many, tmp_path).pixels)
    file = next((tmp_path / "photos").glob("*.npy"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage in ("shape", "type"):
        np.save(file, good[:-1] if damage == "shape" else good.astype(np.int16))
    else:
        file.write_bytes(b"rubbish" if damage == "rubbish" else b"")
    np.testing.assert_array_equal(photos(many, tmp_path).pixels, good)


def test_all_bad_photos_are_named_and_nothing_is_kept(many: list[Path], tmp_path: Path) -> None:
    many[3].write_bytes(many[3].read_bytes()[:500])
    many[17].unlink()
    with pytest.raises(UserError) as caught:
        assert photos(many, tmp_path).pixels
    assert all(word in str(caught.value) for word in ("2 of 30", "train/03.jpg: truncated", "train/17.jpg: missing"))
    for path in many[2:]:
        path.write_bytes(b"x")
    with pytest.raises(UserError, match="28 of 30") as caught:
        assert photos(many, tmp_path).pixels
    (listed,) = (tmp_path / "photos").glob("*.bad.txt")
    assert str(listed) in str(caught.value)
    assert len(listed.read_text().splitlines()) == 28
    assert not [path for path in (tmp_path / "photos").iterdir() if path.suffix in (".npy", ".part")]


def test_a_photo_that_changed_since_it_was_hashed_is_refused(many: list[Path], tmp_path: Path) -> None:
    """Else its pixels would be cached under the name of other content."""
    mine = photos(many, tmp_path)
    many[3].write_bytes(many[4].read_bytes())
    with pytest.raises(UserError, match="changed while it was read"):
        assert mine.pixels


def test_a_full_disk_is_refused_before_anything_is_decoded(
    many: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("", (), {"free": 30 * 20 * 20 * 3}))
    monkeypatch.setattr(photo_cache, "decode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match="no disk space"):
        assert photos(many, tmp_path).pixels


def test_two_builders_do_the_work_once(many: list[Path], tmp_path: Path) -> None:
    calls: list[Path] = []

    def row(path: Path) -> np.ndarray:
        calls.append(path)
        return np.zeros(3, np.uint8)

    cached = CachedRows(tmp_path / "rows.npy", many, row, (3,), "x")
    builders = [threading.Thread(target=cached.open) for _ in range(3)]
    for one in builders:
        one.start()
    for one in builders:
        one.join()
    assert sorted(calls) == many


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_the_photos(tmp_path: Path) -> None:
    # 2,400 rows of 150 kB are 361 MB; the process may not hold a tenth of them.
    code = (
        "import sys, re, numpy as np; from pathlib import Path; from pawpularity.data.photo_cache import CachedRows\n"
        "anonymous = lambda: int(re.search(r'RssAnon:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = anonymous(); peak = [0]\n"
        "def make(path):\n"
        "    peak[0] = max(peak[0], anonymous()); return np.full((224, 224, 3), 7, np.uint8)\n"
        "rows = CachedRows(Path(sys.argv[1]), [Path('x')] * 2400, make, (224, 224, 3), 'x').open()\n"
        "assert rows[-1, -1, -1, -1] == 7; print(max(peak[0], anonymous()) - before)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "big.npy")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 36_000
