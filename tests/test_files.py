"""Files and folders that appear whole or not at all."""

import json
import os
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pawpularity.errors import UserError, nearest
from pawpularity.files import atomic_file, atomic_folder, plain, read_json, write_json, write_text


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_is_half_written(kind, tmp_path):
    place = tmp_path / "a.txt"
    with (atomic_file if kind == "file" else atomic_folder)(place) as temporary:
        (temporary if kind == "file" else temporary / "x").write_text("old")

    def fail():
        with (atomic_file if kind == "file" else atomic_folder)(place) as temporary:
            (temporary if kind == "file" else temporary / "x").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (place if kind == "file" else place / "x").read_text() == "old"
    with (atomic_file if kind == "file" else atomic_folder)(place) as temporary:
        (temporary if kind == "file" else temporary / "y").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    if kind == "folder":
        assert [path.name for path in place.iterdir()] == ["y"]


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    for name, age in ((".a.txt.old.part", 7200), (".a.txt.new.part", 60)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_text(tmp_path / "a.txt", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.txt.new.part", "a.txt"]


def test_a_full_disk_names_the_file(tmp_path):
    def fill():
        with atomic_file(tmp_path / "a.txt"):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        fill()
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_a_pipe_and_a_device_are_written_into(tmp_path):
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_text()))
    reader.start()
    write_json(pipe, {"a": 1})
    reader.join(10)
    assert json.loads(heard[0]) == {"a": 1}
    write_json(Path("/dev/null"), {"a": 1})
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_json_takes_what_numpy_gives_and_no_nan(tmp_path):
    value = {"a": float("nan"), 2: (1.5, [np.float32("inf"), np.int64(3)]), "d": "nan", "e": None, "f": True}
    assert plain(value) == {"a": None, "2": [1.5, [None, 3]], "d": "nan", "e": None, "f": True}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    for text in ("{", "\xff", "[" * 100_000):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(UserError, match=r"x\.json"):
            read_json(tmp_path / "x.json", "a thing")


def test_nearest_name():
    assert '"train"' in nearest("trian", ["train", "tune"])
    assert "train, tune" in nearest("zzz", ["train", "tune"])
