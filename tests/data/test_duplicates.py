"""Near-duplicates: copies are found, different and empty pictures are not."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from pawpularity.data import duplicates as module
from pawpularity.data.duplicates import THRESHOLD, components, duplicate_groups, is_copy, signature, similar_pairs
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


def save(folder: Path, images: list[Image.Image], quality: int = 90) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i:02d}.jpg" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path, quality=quality)
    return paths


@pytest.mark.parametrize("how", COPIES)
def test_copies_are_found_and_nothing_else(tmp_path: Path, how: str) -> None:
    originals = [picture(i) for i in range(12)]
    paths = save(tmp_path / "p", [*originals, *map(COPIES[how], originals)], quality=70)
    assert duplicate_groups(paths, cache_folder=tmp_path).tolist() == [*range(12), *range(12)]


def test_mirrored_and_cropped_copies_are_found_pair_by_pair(tmp_path: Path) -> None:
    one, mirrored, smaller, other = save(
        tmp_path / "p", [picture(0), ImageOps.mirror(picture(0)), cropped(picture(0), 0.05), picture(1)]
    )
    assert [is_copy(one, path) for path in (one, mirrored, smaller, other)] == [True, True, True, False]


def screen(image: Image.Image, clock: int) -> Image.Image:
    """A phone's screen around a picture."""
    shown = Image.new("RGB", (180, 390), "black")
    shown.paste(image.resize((180, 135)), (0, 120))
    draw = ImageDraw.Draw(shown)
    draw.rectangle((0, 0, 180, 14), fill=(30, 30, 30))
    draw.text((5, 2), f"{clock % 24:02d}:{7 * clock % 60:02d}", fill="white")
    draw.ellipse((60, 350, 120, 385), fill="white")
    return shown


def letterbox(image: Image.Image, _: int) -> Image.Image:
    shown = Image.new("RGB", (160, 284), "black")
    shown.paste(image.resize((160, 90)), (0, 97))
    return shown


def pillars(image: Image.Image, _: int) -> Image.Image:
    shown = Image.new("RGB", (284, 160), "white")
    shown.paste(image.resize((90, 160)), (97, 0))
    return shown


def frame(image: Image.Image, _: int) -> Image.Image:
    shown = Image.new("RGB", (300, 300), (120, 60, 20))
    for edge in range(0, 60, 10):
        ImageDraw.Draw(shown).rectangle((edge, edge, 300 - edge, 300 - edge), outline=(255, 220, 120), width=4)
    shown.paste(image.resize((140, 140)), (80, 80))
    return shown


LAYOUTS = (screen, letterbox, pillars, frame)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pets_in_one_layout_are_told_apart_and_their_copies_found(tmp_path: Path, layout) -> None:
    pets = [picture(i) for i in range(16)]
    shown = [layout(pet, i) for i, pet in enumerate(pets)]
    copies = [layout(cropped(pet, 0.01), i + 5) for i, pet in enumerate(pets[:4])]
    paths = save(tmp_path / "p", [*shown, *copies], quality=80)
    assert duplicate_groups(paths, cache_folder=tmp_path).tolist() == [*range(16), *range(4)]
    assert is_copy(paths[0], paths[16])
    assert not any(is_copy(paths[0], other) for other in paths[1:16])


@pytest.mark.parametrize("layout", [screen, pillars])
def test_real_pets_in_one_layout(real: Path, tmp_path: Path, layout) -> None:
    photos = sorted((real / "pawpularity-100" / "train").glob("*.jpg"))
    paths = save(tmp_path / "p", [layout(Image.open(path).convert("RGB"), i) for i, path in enumerate(photos)])
    assert duplicate_groups(paths, cache_folder=tmp_path).tolist() == list(range(100))


def test_flat_pictures_are_duplicates_of_identical_files_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flat = [Image.new("RGB", (60, 60), (v, v, v)) for v in (0, 90, 91, 128, 255)]
    noise = [Image.fromarray((128 + rng.normal(0, 2, (60, 60, 3))).astype(np.uint8)) for _ in range(5)]
    paths = save(tmp_path / "p", [*flat, *noise])
    paths += [Path(shutil.copy(paths[1], tmp_path / "p" / f"again{i}.jpg")) for i in range(30)]
    assert duplicate_groups(paths, cache_folder=tmp_path).tolist() == [*range(10), *[1] * 30]


def test_signatures_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = save(tmp_path / "p", [picture(i) for i in range(4)])
    duplicate_groups(paths, cache_folder=tmp_path)
    monkeypatch.setattr(module, "signature", lambda path: pytest.fail("computed again"))
    assert duplicate_groups(paths, threshold=0.95, cache_folder=tmp_path).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("tile", [2048, 37])
def test_pairs_against_counting_every_bit(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (8, 384), dtype=np.uint8)[rng.integers(0, 8, 150)]
    rows[:, :128] ^= np.packbits(rng.random((150, 1024)) < rng.uniform(0, 0.15, (150, 1)), axis=1)
    rows[:, 128:] = np.clip(rows[:, 128:] + rng.normal(0, 25, (150, 256)), 0, 255).astype(np.uint8)
    rows[::17, 128:] = 7
    bits, thumbs = np.unpackbits(rows[:, :128], axis=1), rows[:, 128:].astype(float)
    expected = {
        (a, b)
        for a in range(150)
        for b in range(a + 1, 150)
        if (bits[a] == bits[b]).mean() >= 0.85
        and min(thumbs[a].std(), thumbs[b].std()) >= 4
        and np.corrcoef(thumbs[a], thumbs[b])[0, 1] >= 0.9
    }
    assert 100 < len(expected) < 150 * 149 / 2
    monkeypatch.setattr(module, "_TILE", tile)
    assert set(zip(*(side.tolist() for side in similar_pairs(rows, 0.85)), strict=True)) == expected


def test_the_threshold_is_met_exactly_and_ten_thousand_photos_take_seconds() -> None:
    rows = np.random.default_rng(0).integers(0, 256, (9912, 384), dtype=np.uint8)
    rows[5000] = rows[17]
    rows[5000, :16] ^= 255  # 128 of 1,024 bits
    assert [side.tolist() for side in similar_pairs(rows, 0.875)] == [[17], [5000]]
    assert len(similar_pairs(rows[[17, 5000]], 0.876)[0]) == 0


@settings(max_examples=100, deadline=None, database=None)
@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=40))
def test_components_are_what_can_be_reached(n: int, edges: list[tuple[int, int]]) -> None:
    pairs = np.array([edge for edge in edges if max(edge) < n], dtype=np.int64).reshape(-1, 2)
    joined = np.eye(n, dtype=bool)
    joined[pairs[:, 0], pairs[:, 1]] = joined[pairs[:, 1], pairs[:, 0]] = True
    reach = np.linalg.matrix_power(joined.astype(float), n) > 0
    found = components(n, pairs[:, 0], pairs[:, 1])
    assert np.array_equal(found[:, None] == found, reach)
    firsts = np.unique(found, return_index=True)
    assert firsts[0].tolist() == list(range(len(firsts[0]))), "numbered from 0 ..."
    assert (np.diff(firsts[1]) > 0).all(), "... by first appearance"


def test_bad_photos_are_named(tmp_path: Path) -> None:
    paths = save(tmp_path / "p", [picture(0), picture(1)])
    paths[1].write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"1 of 2 photos.*01\.jpg: not a JPEG"):
        duplicate_groups(paths, cache_folder=tmp_path)


def test_real_photos(real: Path, tmp_path: Path) -> None:
    paths = sorted((real / "pawpularity-100" / "train").glob("*.jpg"))
    assert duplicate_groups(paths, cache_folder=tmp_path).tolist() == list(range(100))
    for name, change in {**COPIES, "cropped 2 %": lambda image: cropped(image, 0.02)}.items():
        found = 0
        for path in paths[::4]:
            out = io.BytesIO()
            change(Image.open(path).convert("RGB")).save(out, "JPEG", quality=70)
            (tmp_path / "copy.jpg").write_bytes(out.getvalue())
            found += len(similar_pairs(np.stack([signature(path), signature(tmp_path / "copy.jpg")]), THRESHOLD)[0])
        assert found / len(paths[::4]) >= 0.95, name
