"""Tables and photos from outside: read right, or refused with exit code 2 and one line that names what is wrong."""

import csv
import io
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from tests.oracles import adapter

pytestmark = [pytest.mark.filterwarnings("ignore:Corrupt EXIF"), pytest.mark.filterwarnings("ignore:Image size")]
FILES = {"labels": "train.csv", "predictions": "theirs.csv"}


def sound(kind: str) -> pd.DataFrame:
    """40 rows of labels, or of somebody's predictions of them; cells are text."""
    random = np.random.default_rng(0)
    names, score = [f"p{i:02d}" for i in range(40)], random.integers(1, 101, 40)
    columns = {name: random.integers(0, 2, 40) for name in adapter.METADATA} | {"Pawpularity": score}
    if kind == "predictions":
        guess = np.round(38 + 0.3 * (score - 38) + random.normal(0, 8, 40), 3)
        columns = {"fold": np.arange(40) % 4, "target": score, "prediction": guess}
    return pd.DataFrame({"Id": names} | columns).astype(str)


def text(table: pd.DataFrame, **options) -> bytes:
    return table.to_csv(index=False, **options).encode()


def cell(column: str, value: str):
    """Another value in the fourth line."""

    def change(table):
        table.loc[2, column] = value
        return text(table)

    return change


def raw(change):
    """A change of the file's bytes."""
    return lambda table: change(text(table))


def read(kind: str, data: bytes, at):
    """(code, err, what was read): the command that reads such a table."""
    if kind == "labels":
        (at / "labels").mkdir(exist_ok=True)
        (at / "labels" / "train.csv").write_bytes(data)
        return adapter.read_labels("labels", at)
    (at / "theirs.csv").write_bytes(data)
    return adapter.read_oof("theirs.csv", at)


def refused(code: int, err: str, *words: str) -> None:
    """Exit code 2, one line, all of `words` in it."""
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("pawpularity: ")]
    assert len(lines) == 1, err
    assert err.splitlines()[-1] == lines[0]
    assert "Traceback" not in err
    assert len(lines[0]) < 500
    for word in words:
        assert word in lines[0]


LEGAL = {
    "byte order mark": lambda table: b"\xef\xbb\xbf" + text(table),
    "Windows line ends": lambda table: text(table, lineterminator="\r\n"),
    "old Mac line ends": raw(lambda data: data.replace(b"\n", b"\r")),
    "everything quoted": lambda table: text(table, quoting=csv.QUOTE_ALL),
    "no line end at the end": raw(lambda data: data.rstrip(b"\n")),
    "blank lines": raw(lambda data: data.replace(b"\n", b"\n\n")),
    "rows of commas": raw(lambda data: data + b"," * data.split(b"\n")[0].count(b",") + b"\n"),
    "other order of columns": lambda table: text(table[table.columns[::-1]]),
    "other order of rows": lambda table: text(table[::-1]),
    "more columns": lambda table: text(table.assign(note='a, "b"\nc')),
    "floats for whole numbers": lambda table: text(pd.concat([table["Id"], table.iloc[:, 1:].astype(float)], axis=1)),
    "spaces around numbers": lambda table: text(pd.concat([table["Id"], " " + table.iloc[:, 1:] + " "], axis=1)),
}
# Somebody's other habit: read right, or refused by name.
FOREIGN = {
    "semicolons": lambda table: text(table, sep=";"),
    "tabs": lambda table: text(table, sep="\t"),
    "UTF-16": raw(lambda data: data.decode().encode("utf-16")),
    "Id in capitals": raw(lambda data: data.replace(b"Id", b"ID", 1)),
    "a blank line above": raw(lambda data: b"\n" + data),
    "a title above": raw(lambda data: b"my table\n" + data),
    "sep= above": raw(lambda data: b"sep=,\n" + data),
}
FAULTS = {
    "empty": (lambda table: b"", ()),
    "line ends alone": (lambda table: b"\r\n\r\n", ()),
    "a header alone": (lambda table: text(table[:0]), ()),
    "no header": (lambda table: text(table, header=False), ("Id",)),
    "no Id": (lambda table: text(table.drop(columns="Id")), ("Id",)),
    "Id twice in the header": (raw(lambda data: data.replace(b"Id,", b"Id,Id,", 1)), ("Id",)),
    "not UTF-8": (raw(lambda data: data.replace(b"p01", b"p\xe9")), ()),
    "zero bytes": (raw(lambda data: data.replace(b"p01", b"p\x001")), ()),
    "a spreadsheet's own file": (lambda table: b"PK\x03\x04\x14\x00\x06\x00\x08\x00\xd0\xcf", ()),
    "a web page": (lambda table: b"<!DOCTYPE html>\n<html>Sign in</html>\n", ("Id",)),
    "a quote never closed": (raw(lambda data: data.replace(b"p01", b'"p01')), ("row 3",)),
    "a cell of megabytes": (raw(lambda data: data.replace(b"p01", b"p" * 3_000_000)), ("row 3",)),
    "a cell too many": (raw(lambda data: data.replace(b"p01", b"p01,0")), ("row 3",)),
    "a cell too few": (raw(lambda data: data.replace(b"p01,", b"")), ("row 3",)),
    "cut short": (raw(lambda data: data[:-9]), ("row 41",)),
    "every row twice": (lambda table: text(pd.concat([table, table])), ("p00",)),
    "an Id twice": (cell("Id", "p00"), ("p00", "row 4")),
    "no Id in a row": (cell("Id", ""), ("Id", "row 4")),
    "an Id that leads out": (cell("Id", "../p02"), ("../p02", "row 4")),
    "an Id with a slash": (cell("Id", "/etc/passwd"), ("/etc/passwd", "row 4")),
    "an Id of two lines": (cell("Id", "p\n02"), ("Id", "row 4")),
    "an Id too long for a disk": (cell("Id", "é" * 101), ("Id", "row 4")),
    **{f"an Id {name}": (cell("Id", value), ("row 4",)) for name, value in {
        "of spaces": "  ", "with a backslash": "a\\b", "with two dots": "a..b", "that hides": ".p", "that rings": "p\x07"}.items()},
    "a quote within": (raw(lambda data: data.replace(b"p01", b'"p"01')), ("row 3",)),
    "a row of megabytes": (raw(lambda data: data.replace(b"\np01", b",1" * 1_500_000 + b"\np01")), ("row 2",)),
    "a header of megabytes": (raw(lambda data: b"x," * 1_500_000 + data.replace(b"Id", b"Ix")), ()),
    "a comma at the end of all": (raw(lambda data: data.replace(b"\n", b",\n").replace(b",\n", b"\n", 1)), ("row 2",)),
    "UTF-16 without a mark": (raw(lambda data: data.decode().encode("utf-16-le")), ()),
}  # fmt: skip
BAD_CELLS = {
    "labels": [("Eyes", value) for value in ("", "yes", "2", "0.5", "-1")]
    + [("Pawpularity", value) for value in ("", "inf", "1e999", "38,5", "0x1f", "٣", "0", "100.5", "-5")],
    "predictions": [("target", "0x10"), ("target", "True"), ("prediction", "inf"), ("prediction", "1e200"), ("fold", "0.5"),
                    ("fold", ""), ("fold", "A"), ("fold", "1000000000000000001")],
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_legal_and_foreign_tables(work, kind):
    code, err, due = read(kind, text(sound(kind)), work)
    assert code == 0, err
    for name, change in LEGAL.items():
        code, err, found = read(kind, change(sound(kind)), work)
        assert (code, found) == (0, due), f"{name}: {err}"
    for name, change in FOREIGN.items():
        code, err, found = read(kind, change(sound(kind)), work)
        if code == 0:
            assert found == due, name
        else:
            refused(code, err, FILES[kind])


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_table_is_refused(work, kind, fault):
    change, words = FAULTS[fault]
    code, err, _ = read(kind, change(sound(kind)), work)
    refused(code, err, FILES[kind], *words)


@pytest.mark.parametrize("kind", FILES)
def test_a_bad_cell_or_a_missing_column_is_refused_by_its_name(work, kind):
    for column, value in BAD_CELLS[kind]:
        code, err, _ = read(kind, cell(column, value)(sound(kind)), work)
        refused(code, err, FILES[kind], column, "row 4")
    for column in sound(kind).columns[1:]:
        code, err, _ = read(kind, text(sound(kind).drop(columns=column)), work)
        refused(code, err, FILES[kind], column)


@pytest.mark.parametrize("place", ["missing", "folder", "pipe"])
def test_no_file_in_a_tables_place(work, place):
    file = work / "theirs.csv"
    if place != "missing":
        (file.mkdir if place == "folder" else lambda: os.mkfifo(file))()
    code, err, _ = adapter.read_oof("theirs.csv", work)
    refused(code, err, "theirs.csv")


def picture(mode="RGB", seed=0, size=(60, 40)) -> Image.Image:
    """Soft blobs, others for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 4), dtype=np.uint8)
    return Image.fromarray(coarse, "RGBA").resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(image, kind, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def by_pillow(data: bytes) -> np.ndarray:
    """First frame, upright, over white, 8-bit, squashed to 32 x 32."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.has_transparency_data:
        over = Image.new("RGBA", image.size, "white")
        over.alpha_composite(image.convert("RGBA"))
        image = over
    return np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC))


LEGAL_PHOTOS = {
    **{kind: encoded(picture(seed=1), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF")},
    "grey JPEG": encoded(picture("L", 2), "JPEG"),
    "CMYK JPEG": encoded(picture("CMYK", 3), "JPEG"),
    "progressive JPEG": encoded(picture(seed=4), "JPEG", progressive=True),
    "16-bit PNG": encoded(Image.fromarray(np.asarray(picture("L", 5)).astype(np.uint16) * 256 + 77), "PNG"),
    "palette PNG": encoded(picture(seed=6).quantize(16), "PNG"),
    "PNG with alpha": encoded(picture("RGBA", 7), "PNG"),
    "JPEG turned by a quarter": encoded(picture(seed=8), "JPEG", exif=turned(6)),
    "JPEG mirrored and turned": encoded(picture(seed=9), "JPEG", exif=turned(7)),
    "JPEG with broken EXIF": encoded(picture(seed=10), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40),
    "JPEG with more behind": encoded(picture(seed=11), "JPEG") + bytes(5000),
    "moving GIF": encoded(picture(seed=12), "GIF", save_all=True, append_images=[picture(seed=13)], duration=50),
    "1 x 1": encoded(Image.new("RGB", (1, 1), (200, 90, 40)), "PNG"),
    "1 wide": encoded(picture(seed=14, size=(1, 900)), "PNG"),
    **{f"{mode} {kind}": encoded(picture(mode, 15), kind) for mode, kind in [
        ("1", "PNG"), ("CMYK", "TIFF"), ("YCbCr", "JPEG"), ("LAB", "TIFF"), ("P", "GIF")]},
    "grey PNG with alpha": encoded(picture("LA", 16), "PNG"),
    "palette PNG with alpha": encoded(picture(seed=20).quantize(16), "PNG", transparency=2),
    "grey PNG with one colour for alpha": encoded(picture("L", 35), "PNG", transparency=90),
    **{f"moving {kind}": encoded(picture(seed=17), kind, save_all=True, append_images=[picture(seed=18)], **options)
       for kind, options in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}.items()},
    "30,000 wide": encoded(picture(seed=29, size=(30_000, 50)), "PNG"),
}  # fmt: skip
GOOD = encoded(picture(size=(300, 200)), "JPEG")
BAD_PHOTOS = {
    "no bytes": b"",
    "cut short": GOOD[: len(GOOD) // 2],
    "its head alone": GOOD[:20],
    "a PNG cut short": encoded(picture(), "PNG")[:900],
    "a WebP cut short": encoded(picture(), "WEBP")[:200],
    "text": b"not a photo at all",
    "a web page": b"<html>Sign in</html>",
    "a drawing": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a program for a printer": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "zeros": bytes(5000),
    "too many pixels": encoded(Image.new("1", (9460, 9460)), "PNG"),
    "a bomb": encoded(Image.new("1", (30_000, 30_000)), "PNG"),
    "floating-point pixels": encoded(picture("F"), "TIFF"),
    "32-bit grey": encoded(Image.new("I", (9, 9), 70_000), "TIFF"),
    "negative grey": encoded(Image.new("I", (9, 9), -1), "TIFF"),
}
IN_ITS_PLACE = {
    "nothing": lambda photo: None,
    "a folder": lambda photo: photo.mkdir(),
    "a pipe": os.mkfifo,
    "a device": lambda photo: photo.symlink_to("/dev/zero"),
    "a PNG beside": lambda photo: photo.with_suffix(".png").touch(),
    "a link to nowhere": lambda photo: photo.symlink_to("nowhere.jpg"),
    "a link to itself": lambda photo: photo.symlink_to(photo.name),
    "a file of gigabytes": lambda photo: (photo.touch(), os.truncate(photo, 3_000_000_000)),
}


def test_a_legal_photo_is_pillows_pixels(tmp_path):
    for kind, data in LEGAL_PHOTOS.items():
        (tmp_path / "x.jpg").write_bytes(data)
        off = np.abs(adapter.pixels(tmp_path / "x.jpg", 32).astype(int) - by_pillow(data).astype(int)).max()
        assert off <= (1 if "alpha" in kind else 0), kind


@pytest.mark.parametrize("kind", [*BAD_PHOTOS, *IN_ITS_PLACE])
def test_a_bad_photo_is_refused_by_its_name(sample, work, kind):
    table = pd.read_csv(sample / "train.csv", dtype=str)[:12]
    (work / "few" / "train").mkdir(parents=True)
    table.to_csv(work / "few" / "train.csv", index=False)
    for name in table["Id"][1:]:
        (work / "few" / "train" / f"{name}.jpg").symlink_to(sample / "train" / f"{name}.jpg")
    bad = work / "few" / "train" / f"{table['Id'][0]}.jpg"
    if kind in BAD_PHOTOS:
        bad.write_bytes(BAD_PHOTOS[kind])
    else:
        IN_ITS_PLACE[kind](bad)
    code, err, _ = adapter.read_labels("few", work)
    refused(code, err, bad.name)
