"""Files that appear whole, and what must never be replaced by one."""

import io
import json
import os
import random
import stat
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pawpularity.errors import UserError
from pawpularity.files import DAMAGED_ZIP, plain, write_json, write_text, written_whole


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def fail() -> None:
        with written_whole(file) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert file.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    left = tmp_path / ".a.txt.xyz.part"
    left.write_text("half")
    os.utime(left, (time.time() - 7200, time.time() - 7200))
    write_text(tmp_path / "a.txt", "new")
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_what_json_does_not_know_becomes_null_at_any_depth(tmp_path):
    value = {
        "a": float("nan"),
        2: (1.5, [np.float32("inf"), {"b": -np.inf, "c": np.int64(3)}]),
        "d": "nan",
        "e": None,
        "f": True,
    }
    due = {"a": None, "2": [1.5, [None, {"b": None, "c": 3}]], "d": "nan", "e": None, "f": True}
    assert plain(value) == due
    write_json(tmp_path / "x.json", plain(value))
    assert json.loads((tmp_path / "x.json").read_text()) == due
    assert [plain(number) for number in (1.5, float("-inf"), 0)] == [1.5, None, 0]


def test_a_pipe_is_written_into_and_stays_one(tmp_path):
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_text()))
    reader.start()
    write_json(pipe, {"a": 1})
    reader.join(10)
    assert heard == ['{\n  "a": 1\n}\n']
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_devices_are_not_replaced():
    write_json(Path("/dev/null"), {"a": 1})
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        write_text(tmp_path, "x")


def test_whatever_zipfile_makes_of_a_changed_archive_is_named():
    whole, draw, met = io.BytesIO(), random.Random(0), set()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("run/a.csv", "Id,Pawpularity\n" * 100)
        zipped.writestr("b.json", "{}")
    for _ in range(3000):
        changed = bytearray(whole.getvalue())
        for _ in range(draw.choice((1, 2, 4))):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        try:
            with zipfile.ZipFile(io.BytesIO(bytes(changed))) as zipped:
                for member in zipped.infolist():
                    zipped.read(member)
        except DAMAGED_ZIP as error:
            met.add(next(kind for kind in DAMAGED_ZIP if isinstance(error, kind)))
    assert len(met) >= 3, "which of them is the Python version's affair"
