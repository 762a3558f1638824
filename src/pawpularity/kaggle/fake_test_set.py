"""Stand-ins for the contest's data on Kaggle: its eight visible photos of noise, and a hidden test set of any size."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pawpularity.data.tables import ID, METADATA, TARGET, read_test
from pawpularity.kaggle.submission_file import VISIBLE
from pawpularity.sample.draw import draw_sample

DRAWN = 128
"""Photos that are drawn; they repeat under other Ids, because drawing thousands takes longer than scoring them."""
SIZE = 224
SEED = 4_000_000
FAULTS = ("missing", "empty", "text", "truncated", "huge", "a folder")


def noise(folder: Path) -> Path:
    """Write the contest's visible test set: eight photos of noise with random metadata."""
    random = np.random.default_rng(0)
    table = pd.DataFrame({ID: _ids(VISIBLE), **{column: random.integers(0, 2, VISIBLE) for column in METADATA}})
    _write_tables(folder, table)
    for name in table[ID]:
        Image.fromarray(random.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(folder / "test" / f"{name}.jpg")
    return folder


def hidden(folder: Path, photos: int, *, broken: float = 0.0, size: int = SIZE) -> tuple[Path, dict[str, str]]:
    """Write a hidden test set whose photo i is the drawn photo i modulo `DRAWN`, a share `broken` of them broken.

    Returns the folder of drawn photos, a test set itself, and the faults (see `FAULTS`) by Id.
    """
    drawn = folder.with_name(f"{folder.name}-drawn")
    draw_sample(drawn, photos=1, size=size, seed=SEED, test_photos=min(DRAWN, photos))
    table = read_test(drawn)
    table = table.iloc[np.arange(photos) % len(table)].reset_index(drop=True)
    ids = _ids(photos)
    _write_tables(folder, table.assign(**{ID: ids}))
    for name, source in zip(ids, table[ID], strict=True):
        shutil.copyfile(drawn / "test" / f"{source}.jpg", folder / "test" / f"{name}.jpg")
    at = np.unique(np.linspace(0, photos - 1, round(broken * photos)).round().astype(int))
    faults = {ids[row]: FAULTS[number % len(FAULTS)] for number, row in enumerate(at)}
    for name, fault in faults.items():
        _damage(folder / "test" / f"{name}.jpg", fault)
    return drawn, faults


def _damage(path: Path, fault: str) -> None:
    data = path.read_bytes()
    path.unlink()
    if fault == "a folder":
        path.mkdir()
    elif fault == "huge":  # one bit a pixel keeps the file small: 100 megapixels, 300 MB of colours
        Image.new("1", (10_000, 10_000)).save(path, format="PNG")
    elif fault != "missing":
        path.write_bytes({"empty": b"", "text": b"no photo", "truncated": data[: len(data) // 3]}[fault])


def _write_tables(folder: Path, table: pd.DataFrame) -> None:
    (folder / "test").mkdir(parents=True)
    (folder / "train").mkdir()
    table.to_csv(folder / "test.csv", index=False)
    pd.DataFrame({ID: table[ID], TARGET: 43.75}).to_csv(folder / "sample_submission.csv", index=False)
    table.head(1).assign(**{TARGET: 38}).to_csv(folder / "train.csv", index=False)


def _ids(count: int) -> list[str]:
    """Names like the contest's."""
    return [hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest() for number in range(count)]
