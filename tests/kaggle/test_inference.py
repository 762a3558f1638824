"""The script that Kaggle runs: what it writes, what it refuses, and the sandbox that stands for Kaggle."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from tests.conftest import ROOT

from pawpularity.errors import UserError
from pawpularity.kaggle import check, inference, kaggle_image
from pawpularity.kaggle.check import FAULTS, break_photos
from pawpularity.sample.draw import draw_sample

ROWS = 70


@pytest.fixture(scope="module")
def drawn_contest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contest") / "contest"
    draw_sample(folder, photos=1, size=64, test_photos=ROWS)
    return folder


@pytest.fixture
def contest(drawn_contest, tmp_path):
    return Path(shutil.copytree(drawn_contest, tmp_path / "contest"))


@pytest.fixture
def root(contest, built, tmp_path):
    """Kaggle's folders, under the legacy mounts."""
    place = tmp_path / "kaggle"
    (place / "input").mkdir(parents=True)
    (place / "working").mkdir()
    (place / "input" / "petfinder-pawpularity-score").symlink_to(contest)
    (place / "input" / "pawpularity-bundle").symlink_to(built / "dataset")
    return place


def script(built, root, python="import runpy; runpy.run_path({script!r}, run_name='__main__')"):
    """The built script in another process, without a sandbox."""
    code = python.format(script=str(built / "kernel" / "inference.py"))
    environment = {**os.environ, "PAWPULARITY_KAGGLE": str(root)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("kernel.carrier=model",)])
def test_kernel_check_passes_and_leaves_nothing(built, paw, words):
    if words:
        assert paw("kernel", "--runs", "near", "far", *words).code == 0
    done = paw("kernel-check", "--photos", "30", "--json", "-")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["difference"] <= report["bound"] == 1e-4
    assert (report["broken"], report["photos"], report["left_out"]) == (9, 30, [])
    assert sorted(path.name for path in built.iterdir()) == ["dataset", "kernel"]


@pytest.mark.slow
def test_kernel_check_sees_a_kernel_that_answers_otherwise_and_one_that_needs_more(built, paw, refused, edit):
    edit(built / "dataset", intercept=9.0)
    assert "differ by" in refused("kernel-check", "--photos", "8")
    (built / "kernel" / "inference.py").write_text("import sklearn\n")
    done = paw("kernel-check", "--photos", "8")
    assert done.code == 2
    assert "ModuleNotFoundError" in done.err


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_little_time_and_broken_photos_still_give_every_id_once(root, contest, built, edit, capfd):
    edit(built / "dataset", hours=0.00001)
    faults = break_photos(contest, 0.2)
    assert set(faults.values()) == set(FAULTS)
    assert inference.main(built / "dataset", root, time.monotonic()) == 0
    assert f"such as {next(iter(faults))} (missing)" in capfd.readouterr().err
    written = pd.read_csv(root / "working" / "submission.csv")
    assert written["Id"].tolist() == pd.read_csv(contest / "test.csv")["Id"].tolist()
    assert written["Pawpularity"].between(1, 100).all()
    report = json.loads((root / "working" / "inference.json").read_text())
    assert report["photos_without_time"] == ROWS - 64
    assert report["photos_unusable"].keys() == faults.keys() & set(written["Id"][:64])


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda d: (d / "near.fold0.head.safetensors").write_bytes(b"x"), "near.fold0.head.safetensors"),
        (lambda d: next(d.glob("*.whl")).write_bytes(b"x"), "is not the file that was built"),
        (lambda d: (d / "bundle.json").write_text("{}"), "is not a whole bundle"),
        (lambda d: (d / "bundle.json").unlink(), "must hold one bundle"),
        (lambda d: (d / "bundle.json").write_text('{"format": 1, "code": "x"}'), "format"),
    ],
)
def test_a_bundle_that_is_not_what_was_built_is_refused_in_one_line(built, root, damage, part):
    damage(built / "dataset")
    done = script(built, root)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("pawpularity: ")]
    assert len(lines) == 1
    assert part in lines[0]
    assert not list((root / "working").iterdir())


def test_no_competition_and_two_are_refused_and_both_mounts_are_found(tmp_path, root, contest):
    assert inference.find_competition(root / "input").resolve() == contest
    (root / "input" / "petfinder-pawpularity-score").unlink()
    with pytest.raises(UserError, match="competition data"):
        inference.find_competition(root / "input")
    for place in ("petfinder-pawpularity-score", "competitions/petfinder-pawpularity-score"):
        (tmp_path / "mounts" / place).mkdir(parents=True)
        (tmp_path / "mounts" / place / "test.csv").touch()
    assert inference.find_competition(tmp_path / "mounts" / "competitions").name == "petfinder-pawpularity-score"
    with pytest.raises(UserError, match="competition data"):
        inference.find_competition(tmp_path / "mounts")


def test_an_older_image_is_refused_in_one_line(built, root, refused):
    old = "import runpy, sys; sys.version_info = (3, 10, 12); runpy.run_path({script!r}, run_name='__main__')"
    for code in (old, old.replace("{script!r}", repr(str(ROOT / "kernels/train/train.py")))):
        done = script(built, root, code)
        assert done.returncode == 2
        assert "3.11 is needed" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert "is no program" in refused("kernel-check", "--python", "nothing")
    assert "--photos 0" in refused("kernel-check", "--photos", "0")


PROBE = """
import importlib.util, os, pathlib, socket
import numpy
for name in ("sklearn", "albumentations", "pydantic", "pytest"):
    assert importlib.util.find_spec(name) is None, name
for reach in (lambda: socket.socket().connect(("127.0.0.1", 9)), lambda: socket.create_connection(("kaggle.com", 80))):
    try:
        reach()
    except OSError as error:
        assert "no network" in str(error)
    else:
        raise AssertionError
print(sorted(line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]))
print(sorted(os.environ))
"""


@pytest.mark.parametrize("namespaces", [True, False])
def test_the_sandbox_hides_what_is_not_promised_and_the_network(contest, tmp_path, monkeypatch, capfd, namespaces):
    if not namespaces:
        monkeypatch.setattr(check, "network_namespace", lambda: ())
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE)
    code, guard = check.run_script(tmp_path / "a", probe, {"competition": contest})
    printed = capfd.readouterr().err
    assert code == 0, printed
    assert guard["connections"] == ["('127.0.0.1', 9)", "kaggle.com"]
    assert "PYTHONPATH" not in printed
    assert ("['lo']" in printed) >= bool(check.network_namespace())
    assert ("sockets blocked" in check.isolation()) is not bool(check.network_namespace())
    assert not {"torch", "timm", "PIL", "pandas", "numpy", "safetensors", "yaml"} & kaggle_image.hidden_imports()
