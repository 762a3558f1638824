"""Near-duplicates: copies are found, different and empty pictures are not."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pawpularity.data import duplicates as module
from pawpularity.data.duplicates import Duplicates, compare, components, find_duplicates, signature
from pawpularity.errors import UserError


def picture(seed: int, size: tuple[int, int] = (240, 180)) -> Image.Image:
    """A picture with structure at every scale, as photos have."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size[1], size[0], 3))
    for cells in (3, 6, 12, 24):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=float) / cells
    total -= total.min()
    return Image.fromarray((total / total.max() * 255).astype(np.uint8))


def cropped(image: Image.Image, share: float) -> Image.Image:
    dx, dy = round(image.width * share), round(image.height * share)
    return image.crop((dx, dy, image.width - dx, image.height - dy))


COPIES = {
    "encoded": lambda image: image,
    "halved": lambda image: image.resize((image.width // 2, image.height // 2)),
    "squashed": lambda image: image.resize((224, 224)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "grey": ImageOps.grayscale,
    "cropped 1 %": lambda image: cropped(image, 0.01),
}


def save(folder: Path, images: dict[str, Image.Image], quality: int = 90) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        image.save(folder / f"{name}.jpg", quality=quality)
    return {name: folder / f"{name}.jpg" for name in images}


def find(files: dict[str, Path], cache: Path, **options: object) -> Duplicates:
    return find_duplicates(list(files), list(files.values()), cache_folder=cache, **options)


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_found_and_nothing_else(tmp_path: Path, how: str) -> None:
    originals = {f"p{i}": picture(i) for i in range(12)}
    files = save(tmp_path / "a", originals)
    files |= save(tmp_path / "b", {f"{name}-copy": COPIES[how](image) for name, image in originals.items()}, quality=70)
    found = find(files, tmp_path)
    assert set(zip(found.pairs["Id_a"], found.pairs["Id_b"], strict=True)) == {
        (f"p{i}", f"p{i}-copy") for i in range(12)
    }
    assert found.groups.tolist() == [*range(12), *range(12)]
    assert found.pairs["similarity"].between(0.85, 1).all()
    assert found.pairs["correlation"].between(0.9, 1 + 1e-9).all()


def test_flat_pictures_are_not_one_group(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flat = {f"plain{v}": Image.new("RGB", (60, 60), (v, v, v)) for v in (0, 90, 91, 128, 255)}
    for i in range(5):
        flat[f"noise{i}"] = Image.fromarray((128 + rng.normal(0, 2, (60, 60, 3))).astype(np.uint8))
    files = save(tmp_path / "a", flat)
    found = find(files, tmp_path)
    assert found.pairs.empty
    assert found.groups.tolist() == list(range(10))
    # ... but the very same file twice is one picture, flat or not
    files["again"] = Path(shutil.copy(files["plain90"], tmp_path / "a" / "again.jpg"))
    found = find(files, tmp_path)
    assert found.pairs[["Id_a", "Id_b"]].to_numpy().tolist() == [["plain90", "again"]]
    assert found.groups[-1] == 1


def test_many_identical_files_are_listed_once_each(tmp_path: Path) -> None:
    files = save(tmp_path / "a", {"x": picture(1), "y": picture(2)})
    for i in range(30):
        files[f"x{i}"] = Path(shutil.copy(files["x"], tmp_path / "a" / f"x{i}.jpg"))
    found = find(files, tmp_path)
    assert len(found.pairs) == 30
    assert set(found.pairs["Id_a"]) == {"x"}
    assert found.groups.tolist() == [0, 1, *[0] * 30]


def test_chains_are_one_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(3)
    files = save(tmp_path / "a", {"a": image, "b": cropped(image, 0.015), "c": cropped(image, 0.03)})
    loose = find(files, tmp_path)
    first = loose.pairs.set_index(["Id_a", "Id_b"])["similarity"]
    # Just below what joins neighbours, above what joins the ends.
    threshold = min(first["a", "b"], first["b", "c"])
    assert first.get(("a", "c"), 0) < threshold
    found = find(files, tmp_path, threshold=float(threshold))
    assert len(found.pairs) == 2
    assert found.groups.tolist() == [0, 0, 0]


def test_signatures_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = save(tmp_path / "a", {f"p{i}": picture(i) for i in range(4)})
    find(files, tmp_path)
    monkeypatch.setattr(module, "signature", lambda path: pytest.fail("computed again"))
    find(files, tmp_path, threshold=0.95)


def test_signature_of_a_known_picture(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (64, 64, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "ramp.png")
    bits = np.unpackbits(signature(tmp_path / "ramp.png")[:128]).reshape(4, 16, 16)
    right_half = np.broadcast_to(np.arange(16) >= 8, (16, 16))
    np.testing.assert_array_equal(bits[0], right_half)  # brighter than the mean
    np.testing.assert_array_equal(bits[2], np.ones((16, 16)))  # every pixel brighter than its left neighbour
    np.testing.assert_array_equal(bits[3], right_half)  # the wavelet's low band, above its median
    thumb = signature(tmp_path / "ramp.png")[128:].reshape(16, 16)
    assert (np.diff(thumb.astype(int), axis=1) > 0).all()


def test_compare_against_counting_every_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (8, 384), dtype=np.uint8)
    rows = base[rng.integers(0, 8, 150)].copy()
    rows[:, :128] ^= np.packbits(rng.random((150, 1024)) < rng.uniform(0, 0.15, (150, 1)), axis=1)
    rows[:, 128:] = np.clip(rows[:, 128:] + rng.normal(0, 25, (150, 256)), 0, 255).astype(np.uint8)
    rows[::17, 128:] = 7
    bits = np.unpackbits(rows[:, :128], axis=1)
    expected = []
    for a in range(150):
        for b in range(a + 1, 150):
            share = (bits[a] == bits[b]).mean()
            x, y = rows[a, 128:].astype(float), rows[b, 128:].astype(float)
            if share >= 0.85 and min(x.std(), y.std()) >= 4 and np.corrcoef(x, y)[0, 1] >= 0.9:
                expected.append((a, b, share, np.corrcoef(x, y)[0, 1]))
    assert 100 < len(expected) < 150 * 149 / 2
    for tile in (2048, 37):
        monkeypatch.setattr(module, "_TILE", tile)
        np.testing.assert_allclose(np.array(compare(rows, 0.85)).T, expected)


def test_threshold_is_met_exactly() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (2, 384), dtype=np.uint8)
    rows[1] = rows[0]
    rows[1, :16] ^= 255  # 128 of 1,024 bits
    assert len(compare(rows, 0.875)[0]) == 1
    assert len(compare(rows, 0.876)[0]) == 0


def test_components_against_scipy() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        n = int(rng.integers(1, 60))
        left, right = rng.integers(0, n, (2, int(rng.integers(0, 60))))
        ours = components(n, left, right)
        graph = coo_array((np.ones(len(left)), (left, right)), shape=(n, n))
        count, theirs = connected_components(graph, directed=False)
        assert len(set(zip(ours.tolist(), theirs.tolist(), strict=True))) == count == ours.max() + 1
        firsts = np.unique(ours, return_index=True)[1]
        assert (np.diff(firsts) > 0).all()


def test_ten_thousand_photos_compare_in_seconds() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (9912, 384), dtype=np.uint8)
    rows[5000] = rows[17]
    a, b, share, _ = compare(rows, 0.85)
    assert (a.tolist(), b.tolist(), share.tolist()) == ([17], [5000], [1.0])


@pytest.mark.parametrize("threshold", [0.5, 0.79, 1.01, float("nan")])
def test_threshold_out_of_range(tmp_path: Path, threshold: float) -> None:
    with pytest.raises(UserError, match=r"duplicate_threshold.*0\.8 to 1"):
        find({"a": tmp_path / "a.jpg"}, tmp_path, threshold=threshold)


def test_bad_photos_are_named(tmp_path: Path) -> None:
    files = save(tmp_path / "a", {"p": picture(0), "q": picture(1)})
    files["q"].write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"1 of 2 photos.*q\.jpg: not a JPEG"):
        find(files, tmp_path)


def test_real_photos(real: Path, tmp_path: Path) -> None:
    paths = sorted((real / "pawpularity-100" / "train").glob("*.jpg"))
    files = {path.stem: path for path in paths}
    assert find(files, tmp_path).pairs.empty
    recall = {}
    for name, change in {**COPIES, "cropped 2 %": lambda image: cropped(image, 0.02)}.items():
        changed = [change(Image.open(path).convert("RGB")) for path in paths[::4]]
        found = 0
        for path, image in zip(paths[::4], changed, strict=True):
            out = io.BytesIO()
            image.save(out, "JPEG", quality=70)
            (tmp_path / "copy.jpg").write_bytes(out.getvalue())
            pair = np.stack([signature(path), signature(tmp_path / "copy.jpg")])
            found += len(compare(pair, module.THRESHOLD)[0])
        recall[name] = found / len(changed)
    assert min(recall.values()) >= 0.95, recall


def test_the_shelters_reposts_are_found(drawn: Path, tmp_path: Path) -> None:
    truth = (drawn / "truth" / "duplicates.csv").read_text().splitlines()[1:]
    files = {path.stem: path for path in sorted((drawn / "train").glob("*.jpg"))}
    pairs = find(files, tmp_path).pairs
    found = {frozenset(pair) for pair in zip(pairs["Id_a"], pairs["Id_b"], strict=True)}
    assert truth
    assert found == {frozenset(line.split(",")) for line in truth}
