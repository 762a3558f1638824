"""Stand-ins for the contest's folders on Kaggle: its eight visible photos of noise, and a hidden test set of any size.

A few photos are drawn and come again under new Ids, because drawing thousands takes longer than scoring them.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pawpularity.data.tables import ID, METADATA, TARGET, read_test
from pawpularity.kaggle.submission_file import VISIBLE
from pawpularity.sample.draw import draw_sample

DRAWN = 150
SIZE = 224
_SEED = 4_000_000
_WAYS = ("missing", "empty", "text", "truncated", "enormous", "a folder")


def noise(folder: Path) -> None:
    """What the contest shows: eight photos of noise, any metadata."""
    random = np.random.default_rng(0)
    ids = [_name(f"noise {number}") for number in range(VISIBLE)]
    (folder / "test").mkdir(parents=True)
    for name in ids:
        Image.fromarray(random.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(folder / "test" / f"{name}.jpg")
    _tables(folder, pd.DataFrame({ID: ids, **{column: random.integers(0, 2, VISIBLE) for column in METADATA}}))


def hidden(folder: Path, photos: int, size: int = SIZE) -> None:
    """A hidden test set of `photos` photos whose longer side is `size` pixels, at most 150 different ones."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        drawn = Path(scratch) / "drawn"
        draw_sample(drawn, photos=1, size=size, seed=_SEED, test_photos=min(DRAWN, photos))
        table = read_test(drawn)
        chosen = table.iloc[np.arange(photos) % len(table)].reset_index(drop=True)
        ids = [_name(f"hidden {number}") for number in range(photos)]
        (folder / "test").mkdir(parents=True)
        for name, source in zip(ids, chosen[ID], strict=True):
            os.link(drawn / "test" / f"{source}.jpg", folder / "test" / f"{name}.jpg")
        _tables(folder, chosen.assign(**{ID: ids}))


def first(folder: Path, rows: int, into: Path) -> Path:
    """The first rows of a test set, as a folder of its own."""
    table = read_test(folder).head(rows)
    (into / "test").mkdir(parents=True)
    for name in table[ID]:
        shutil.copy2(folder / "test" / f"{name}.jpg", into / "test")
    _tables(into, table)
    return into


def spoil(folder: Path, share: float) -> dict[str, str]:
    """Break that share of the test photos, in every way known; returns Id -> the way."""
    table = read_test(folder)
    ids = table[ID].tolist()
    broken = [
        ids[at] for at in np.unique(np.linspace(0, len(ids) - 1, max(1, round(share * len(ids)))).round().astype(int))
    ]
    ways = {name: _WAYS[number % len(_WAYS)] for number, name in enumerate(broken)}
    for name, way in ways.items():
        path = folder / "test" / f"{name}.jpg"
        data = path.read_bytes()
        path.unlink()
        if way == "empty":
            path.touch()
        elif way == "text":
            path.write_text("no photo", encoding="utf-8")
        elif way == "truncated":
            path.write_bytes(data[: len(data) // 3])
        elif way == "enormous":
            # One bit a pixel keeps the file small: 100 megapixels that would be 300 MB of colours.
            Image.new("1", (10_000, 10_000)).save(path, format="PNG")
        elif way == "a folder":
            path.mkdir()
    return ways


def _tables(folder: Path, table: pd.DataFrame) -> None:
    table.to_csv(folder / "test.csv", index=False)
    pd.DataFrame({ID: table[ID], TARGET: 43.75}).to_csv(folder / "sample_submission.csv", index=False)
    (folder / "train").mkdir()
    table.head(1).assign(**{TARGET: 38}).to_csv(folder / "train.csv", index=False)


def _name(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
