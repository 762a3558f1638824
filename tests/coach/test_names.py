"""File names from elsewhere: commands for the terminal and bytes that are no UTF-8 are shown as escapes, and nothing is lost."""

import csv
import json
import os
import shutil
from pathlib import Path

from pawpularity.cli import main

NAMES = (
    b"\x1b]0;owned\x07.jpg",
    b"\x1b[2K\rbest.jpg",
    b"two\nlines.jpg",
    b"caf\xe9.jpg",
    "e\u0301\u202egpj.jpg".encode(),
    b"plain.jpg",
)


def test_names_of_photos_reach_neither_the_terminal_nor_a_file_raw(bench, drawn, tmp_path, capfd):
    album = tmp_path / os.fsdecode(b"alb\xfcm")
    album.mkdir()
    for name, photo in zip(NAMES, sorted((drawn / "test").glob("*.jpg")) * 2, strict=False):
        shutil.copy(photo, album / os.fsdecode(name))
    for name in (b"\x1b]0;no photo\x07.txt", b"bad\xe9\x1b[5m.jpg"):
        (album / os.fsdecode(name)).write_bytes(b"text")
    files = [str(path) for path in sorted(album.iterdir()) if path.suffix == ".jpg"]
    for words in (
        [str(album), "--out", "ranked.csv", "--json", "found.json"],
        files,
        [str(album / os.fsdecode(NAMES[0]))],
    ):
        code = main(["coach", *words, "--run", "toy", "--data", str(drawn)])
        shown = "".join(capfd.readouterr())
        assert code == (0 if len(words) == 1 else 2), shown  # one file is no photo
        assert shown.replace("\n", "").isprintable()
        assert "\\x1b]0;owned\\x07.jpg" in shown
    with Path("ranked.csv").open(encoding="utf-8", newline="") as file:
        named = [Path(row["photo"]).name for row in csv.DictReader(file)]
    assert len(named) == len(NAMES) + 1
    assert {"plain.jpg", "caf\\xe9.jpg", "two\\nlines.jpg", "\\x1b[2K\\rbest.jpg"} < set(named)
    assert all(name.isprintable() for name in named)
    found = json.loads(Path("found.json").read_text(encoding="utf-8"))
    assert {Path(row["photo"]).name for row in found["photos"]} == set(named) - {"bad\\xe9\\x1b[5m.jpg"}
