"""Folders and tables whose names are no UTF-8 or hold commands for the terminal: every command works, and shows them as escapes."""

import os
import shutil
from pathlib import Path

from pawpularity.cli import main

QUICK = ("--config", "sample", "photos.size=32", "train.epochs=1", "train.warmup_epochs=0", "folds.k=2")


def test_a_data_folder_of_any_name(work, drawn, capfd):
    name = b"caf\xe9 \x1b]0;owned\x07\x1b[2K\r\nx"
    data, labels = os.fsdecode(name), os.fsdecode(b"labels" + name)
    shutil.copytree(drawn, data)
    Path(labels).mkdir()
    shutil.copy(drawn / "train.csv", labels)
    for line in (("train", *QUICK, "--run", "r", "--data", data), ("errors", "r", "--data", data, "--draws", "100"),
                 ("hypotheses", "--data", labels, "--draws", "100"), ("folds", "--data", labels),
                 ("predict", "--run", "r", "--data", data, "--out", f"{data}.csv"), ("errors", f"{data}.csv"),
                 ("report", "--runs", "r", "--runs", f"oof {data}.csv"), ("jobs", "--data", data)):  # fmt: skip
        if line[0] == "report":
            text = Path("oof/r/oof.csv").read_text()
            Path(f"oof {data}.csv").write_text(text.replace(".", ".1"))  # others than those of the run
        code = main([*line])
        shown = "".join(capfd.readouterr())
        assert code == (2 if line in (("errors", f"{data}.csv"), ("jobs", "--data", data)) else 0), shown
        assert shown.replace("\n", "").isprintable(), line
    for file in Path("oof").rglob("*.txt"):
        assert file.read_text().replace("\n", "").isprintable(), file
