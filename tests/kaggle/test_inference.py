"""The script that Kaggle runs, in sandboxes: what it writes, what it refuses, what it survives."""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.conftest import ROOT
from tests.kernel.test_bundle import edit, reseal

from pawpularity.errors import UserError
from pawpularity.kaggle import fake_test_set as hidden
from pawpularity.kaggle import guard, inference, sandbox
from pawpularity.kaggle import shared_backbones as families_module
from pawpularity.kaggle.build_folders import building
from pawpularity.kaggle.paths import find_competition
from pawpularity.kaggle.plan import Use
from pawpularity.kaggle.shared_backbones import load_families

BUILD = Path("kernels/build")


@pytest.fixture
def built(checkout, paw):
    done = paw("kernel", "--runs", "blend")
    assert done.code == 0, done.err
    return checkout / BUILD


@pytest.fixture
def session(built, tmp_path):
    """Run the built script on a competition folder; `session(data, "--hours", "1")`."""

    def run(data, *words, layout=sandbox.LAYOUTS[0], **more):
        root = tmp_path / f"session{len(list(tmp_path.glob('session*')))}"
        root.mkdir()
        sandbox.lay_out(root, layout, built / "dataset", data)
        return sandbox.run(root, built / "kernel" / "inference.py", *words, **more)

    return run


@pytest.fixture(scope="module")
def drawn_contest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contest") / "contest"
    hidden.hidden(folder, 70, size=64)
    return folder


@pytest.fixture
def contest(drawn_contest, tmp_path):
    return shutil.copytree(drawn_contest, tmp_path / "contest")


def rows(session):
    with (session.working / "submission.csv").open(newline="") as file:
        return list(csv.reader(file))


@pytest.mark.slow
def test_kernel_check_passes_and_says_what_it_saw(built, paw):
    closed = built / ".check.killed" / "a" / "input"  # of a check that was killed
    closed.mkdir(parents=True)
    linked = closed / "weights.json"
    linked.hardlink_to(built / "dataset" / "weights.json")
    linked.chmod(0o444)
    closed.chmod(0o555)
    done = paw("kernel-check", "--photos", "30", "--json", "-")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["difference"] <= report["bound"] == 1e-4
    assert report["broken"] == 9
    assert report["photos"] == 30
    assert report["left_out"] == []
    assert {name.split(",")[0] for name in report["ms"]} == {"decoding", "trunk", "2 tails"}
    assert not list(BUILD.glob(".check.*")), "it leaves nothing behind"
    assert (built / "dataset" / "weights.json").stat().st_mode & 0o777 == 0o444, "what is linked stays as it is"


def test_an_older_image_is_refused_in_one_line_and_so_is_a_python_that_cannot_predict(built, refused, tmp_path):
    for script in (built / "kernel/inference.py", ROOT / "kernels/train/train.py"):
        old = f"import runpy, sys; sys.version_info = (3, 10, 12); runpy.run_path({str(script)!r}, run_name='__main__')"
        done = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True, check=False,
                              env={**os.environ, "PAWPULARITY_KAGGLE": str(tmp_path)})  # fmt: skip
        assert done.returncode == 2
        assert "and 3.11 is needed" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    bare = tmp_path / "bare"
    venv.create(bare)
    assert "has no numpy" in refused("kernel-check", "--python", str(bare / "bin/python"))
    for odd in (tmp_path / "nothing", Path("/bin/true")):
        assert "is no Python 3.11 or newer that answers" in refused("kernel-check", "--python", str(odd))


def test_kernel_check_and_a_build_do_not_meet(built, refused):
    with building(built / ".lock"):
        assert "another command is at work there" in refused("kernel-check", "--photos", "8")


def test_kernel_check_sees_a_kernel_that_answers_otherwise(built, refused):
    record = built / "dataset" / "whole.config.json"
    about = json.loads(record.read_text())
    about["config"]["predict"]["flip"] = not about["config"]["predict"]["flip"]
    record.write_text(json.dumps(about))
    reseal(built / "dataset")
    assert "the kernel and make predict differ by" in refused("kernel-check", "--photos", "8")


def test_kernel_check_says_what_it_cannot_know_of_a_script_that_ends_past_its_guard(built, refused):
    script = built / "kernel" / "inference.py"
    whole = script.read_text()
    # A machine so slow that no photo is there in time: the threads go on, and the script ends as it stands.
    slow = whole.replace("    return main(", "    import pawpularity.kaggle.stream as stream\n\n"
                                             "    stream.PATIENCE_S = 0.0\n    return main(")  # fmt: skip
    assert slow != whole
    script.write_text(slow)
    assert "the script gave up" in refused("kernel-check", "--photos", "8")
    script.write_text("import os\n\nos._exit(0)\n")
    assert "the script ended past its guard" in refused("kernel-check", "--photos", "8")


@pytest.mark.parametrize("threads", ["0", "-1"])
def test_no_threads_at_all_are_refused(work, refused, tmp_path, capfd, threads):
    line = f"--threads {threads}: must be 1 or more"
    assert refused("kernel-check", "--threads", threads) == line
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch:  # the bundle is looked at later
        patch.setattr(inference, "open_bundle", lambda folder: pytest.fail("it went on"))
        assert inference.main(["--threads", threads], tmp_path, tmp_path, 0.0) == 2
    assert f"pawpularity: {line}\n" in capfd.readouterr().err


def test_too_little_time_still_gives_every_row(session, contest):
    done = session(contest, "--hours", "0.00001")
    assert done.code == 0, done.said
    assert "no photo more fits" in done.said
    assert done.report["photos_without_time"] == 6
    written = rows(done)
    assert [row[0] for row in written[1:]] == pd.read_csv(contest / "test.csv")["Id"].tolist()
    assert all(1 <= float(row[1]) <= 100 for row in written[1:])


def test_without_safetensors_and_with_odd_metadata_and_another_sample(session, contest):
    table = pd.read_csv(contest / "test.csv", dtype=str)
    table.loc[3, "Eyes"] = "maybe"
    table.to_csv(contest / "test.csv", index=False)
    pd.read_csv(contest / "sample_submission.csv").iloc[1:].to_csv(contest / "sample_submission.csv", index=False)
    bare = sandbox.interpreter(without=["safetensors"])
    done = session(contest, layout=sandbox.LAYOUTS[1], python=bare, rerun=True)
    assert done.code == 0, done.said
    assert "safetensors" not in done.log["imported"]
    assert "safetensors" in done.log["refused"]
    assert '"maybe" is not a number' in done.said
    assert "going on without metadata" in done.said
    assert "differ: 1 Ids" in done.said
    assert len(rows(done)) == 71


def reweigh(folder, **changed):
    file = folder / "weights.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    reseal(folder)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda d: (d / "near.fold0.head.safetensors").write_bytes(b"x"),
            "near.fold0.head.safetensors: is not the file",
        ),
        (lambda d: next(d.glob("*.whl")).write_bytes(b"x"), "is not the file that was built"),
        (lambda d: (d / "bundle.json").write_text("{}"), "is not a whole bundle"),
        (lambda d: (d / "bundle.json").unlink(), "must hold one bundle, not 0"),
        (lambda d: edit(d, format=2, code="another"), "is of format 2, this script starts 1"),
        (lambda d: edit(d, package="9.0.0"), "was built by pawpularity 9.0.0"),
        (lambda d: (d / "SHA256SUMS").write_bytes(b"\xff\xfe"), "SHA256SUMS: cannot be read"),
        (lambda d: reweigh(d, members=[]), "does not give the weights of the runs"),
        (lambda d: reweigh(d, intercept=float("nan")), "does not give the weights of the runs"),
    ],
)
def test_a_bundle_that_is_not_what_was_built_is_refused_in_one_line(built, session, contest, damage, said):
    damage(built / "dataset")
    done = session(contest)
    assert done.code == 2
    lines = [line for line in done.said.splitlines() if line.startswith("pawpularity: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert done.left == []


def test_a_faulty_table_gives_every_id_once(session, contest):
    ids = pd.read_csv(contest / "test.csv")["Id"].tolist()
    lines = (contest / "test.csv").read_text().splitlines()
    lines[3] += ",1"  # ragged
    lines[5] = f" {lines[5]}"
    lines.insert(8, lines[7])  # twice
    lines.append(",".join(["", *["0"] * 12]))
    (contest / "test.csv").write_bytes("\n".join(lines).encode() + b"\n\xe9" + b",0" * 12)
    (contest / "sample_submission.csv").unlink()
    done = session(contest)
    assert done.code == 0, done.said
    assert "going on without metadata" in done.said
    assert [row[0] for row in rows(done)[1:]] == [*ids, "\ufffd"]
    assert all(1 <= float(row[1]) <= 100 for row in rows(done)[1:])


def test_a_network_that_cannot_be_loaded_is_left_out_and_none_left_is_refused(
    built, session, contest, monkeypatch, capfd
):
    from pawpularity.kaggle import shared_backbones as families
    from pawpularity.kaggle.contents import open_bundle

    bundle = open_bundle(built / "dataset")
    load, names = families.load_network, [run.name for run in bundle.runs]

    def failing(run, *args, **words):
        if run.name in failing.names:
            raise TypeError("timm has\nchanged")
        return load(run, *args, **words)

    monkeypatch.setattr(families, "load_network", failing)
    failing.names = names[:1]
    left = [name for family in load_families(bundle, "cpu") for name in family.networks]
    assert left == names[1:]
    assert f"{names[0]} cannot be loaded and is left out (TypeError: timm has changed)" in capfd.readouterr().err
    failing.names = names
    with pytest.raises(UserError, match="no network of the bundle"):
        load_families(bundle, "cpu")


def test_what_ends_the_script_leaves_a_whole_file(built, contest, tmp_path):
    """SIGTERM in the middle; and a working folder that cannot be written is known before any photo is read."""
    root = tmp_path / "root"
    root.mkdir()
    sandbox.lay_out(root, sandbox.LAYOUTS[0], built / "dataset", contest)
    script = built / "kernel" / "inference.py"
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(
        "import time, PIL.Image as image\n"
        "load = image.open\n"
        "def slowly(*words, **more):\n    time.sleep(1)\n    return load(*words, **more)\n"
        "image.open = slowly\n"
    )
    place = {**os.environ, "PAWPULARITY_KAGGLE": str(root), "PYTHONPATH": str(slow)}
    words = [sys.executable, str(script), "--threads", "1"]
    running = subprocess.Popen(words, env=place, stderr=subprocess.PIPE, text=True)
    for line in running.stderr:
        if line.startswith("device"):
            break
    running.terminate()
    said = running.stderr.read()
    assert running.wait(300) == 143, said
    assert "ended from outside" in said
    written = pd.read_csv(root / "working" / "submission.csv")
    assert written["Id"].tolist() == pd.read_csv(contest / "test.csv")["Id"].tolist()
    assert written["Pawpularity"].between(1, 100).all()
    (root / "working" / "submission.csv").unlink()
    (root / "working" / "submission.csv").mkdir()
    done = subprocess.run(words, env=place | {"PYTHONPATH": ""}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "device" not in done.stderr, "before the first photo"


def test_no_competition_is_said(session, tmp_path):
    (tmp_path / "empty").mkdir()
    done = session(tmp_path / "empty")
    assert done.code == 2
    assert "holds no competition data" in done.said


def test_both_layouts_are_found_and_two_of_a_kind_are_refused(tmp_path):
    for place in ("petfinder-pawpularity-score", "competitions/petfinder-pawpularity-score"):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        for table in ("test.csv", "sample_submission.csv"):
            (folder / table).touch()
        if place.startswith("competitions"):
            with pytest.raises(UserError, match="holds competition data twice"):
                find_competition(tmp_path)
        assert find_competition(folder.parent if "/" in place else tmp_path) == folder


def test_a_network_without_an_answer_is_left_out(built):
    from pawpularity.kaggle.contents import open_bundle

    families = load_families(open_bundle(built / "dataset"), "cpu")
    family = next(family for family in families if "whole" in family.networks)
    pixels = np.random.default_rng(0).integers(0, 256, (5, family.size, family.size, 3), dtype=np.uint8)
    uses = {"whole": Use(family.name, 2, False, 1.0)}
    sound = family.answer(pixels, None, uses).scores["whole"]
    other = family.answer(pixels, None, {"whole": Use(family.name, 1, False, 1.0)}).scores["whole"]
    with torch.no_grad():
        family.networks["whole"][1].score.bias.fill_(torch.nan)
    assert np.allclose(family.answer(pixels, None, uses).scores["whole"], other, atol=1e-4)
    with torch.no_grad():
        family.networks["whole"][0].score.bias.fill_(torch.nan)
    assert np.isnan(family.answer(pixels, None, uses).scores["whole"]).all()
    assert np.isfinite(sound).all()


def test_runs_behind_one_trunk_share_its_memory(built):
    from pawpularity.kaggle.contents import open_bundle

    families = load_families(open_bundle(built / "dataset"), "cpu")
    for family in families:
        for networks in family.networks.values():
            first, second = networks
            own = dict(first.named_parameters()), dict(second.named_parameters())
            for name in first.frozen_state().keys() & own[0].keys():
                assert own[0][name].data_ptr() == own[1][name].data_ptr()
            trained = next(iter(first.trained_state().keys() & own[0].keys()))
            assert own[0][trained].data_ptr() != own[1][trained].data_ptr()


def test_the_guard_hides_what_is_not_promised(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import importlib.util, socket, json\n"
        "import numpy\n"
        "for name in ('sklearn', 'albumentations', 'optuna', 'pytest', 'pawpularity'):\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
        "    try:\n        __import__(name)\n    except ModuleNotFoundError:\n        continue\n    raise SystemExit(name)\n"
        "try:\n    socket.create_connection(('127.0.0.1', 9))\nexcept OSError as error:\n    assert 'no network' in str(error)\n"
        "print('done')\n"
    )
    log = tmp_path / "log.json"
    from pawpularity.kaggle.kaggle_image import promised_imports, standard_library

    allowed = sorted(promised_imports() | standard_library())
    assert {"torch", "timm", "PIL", "pandas", "numpy", "safetensors"} <= set(allowed)
    assert "safetensors" not in promised_imports(without=["safetensors"])
    (tmp_path / "wishes.json").write_text(json.dumps({"allowed": allowed, "sandbox": str(tmp_path), "log": str(log)}))
    done = subprocess.run([sys.executable, "-I", guard.__file__, str(tmp_path / "wishes.json"), str(script)],
                          capture_output=True, text=True)  # fmt: skip
    assert done.stdout.strip() == "done", done.stderr
    said = json.loads(log.read_text())
    assert {"sklearn", "albumentations", "optuna", "pytest"} <= set(said["refused"])
    assert said["connections"]


CLOSED = sandbox.isolation(Path(tempfile.gettempdir()))


@pytest.mark.skipif(not CLOSED.mounted, reason="this machine allows no namespaces, or no mounts in them")
def test_the_sandbox_has_no_network_and_input_cannot_be_written(session, contest, built):
    (built / "kernel" / "inference.py").write_text(
        "import os, pathlib, subprocess, sys\n"
        "root = pathlib.Path(os.environ['PAWPULARITY_KAGGLE'])\n"
        "try:\n    (root / 'input' / 'x').touch()\nexcept OSError as error:\n    print('cannot write', error.errno)\n"
        "print(sorted(line.split(':')[0].strip() for line in open('/proc/net/dev').readlines()[2:]))\n"
        "print(sorted(os.environ))\n"
    )
    done = session(contest)
    assert "cannot write 30" in done.said, "EROFS"
    assert "['lo']" in done.said
    assert "HOME" in done.said
    assert "PYTHONPATH" not in done.said


@pytest.mark.parametrize(
    ("programs", "says"),
    [
        ((), "sockets blocked in Python"),
        (("unshare", "sh", "ip"), "own network namespace, input without write permission"),
    ],
)
def test_less_of_a_sandbox_where_a_container_allows_less(
    session, contest, built, tmp_path, monkeypatch, programs, says
):
    if programs and not CLOSED.namespaces:
        pytest.skip("this machine allows no namespaces")
    (tmp_path / "bin").mkdir()
    for name in programs:
        if found := shutil.which(name, path=sandbox.PATH):
            (tmp_path / "bin" / name).symlink_to(found)
    monkeypatch.setattr(sandbox, "PATH", str(tmp_path / "bin"))
    done = session(contest)
    assert done.code == 0, done.said
    assert done.closed == sandbox.isolation(tmp_path)
    assert says in str(done.closed)
    assert (tmp_path / "session0" / "input").stat().st_mode & 0o200, "it can be deleted again"
    # Root may write where nobody has permission, and is found out.
    (built / "kernel" / "inference.py").write_text(
        "import os, pathlib\n"
        "root = pathlib.Path(os.environ['PAWPULARITY_KAGGLE'])\n"
        "next((root / 'input').rglob('test.csv')).write_text('')\n"
    )
    if os.geteuid() == 0:
        with pytest.raises(AssertionError, match="changed its input"):
            session(contest)
    else:
        assert "PermissionError" in session(contest).said


def test_a_gpu_that_fails_is_given_up_for_the_cpu(built, capfd):
    from dataclasses import replace

    from pawpularity.kaggle.contents import open_bundle

    family = load_families(open_bundle(built / "dataset"), "cpu")[0]
    name = next(iter(family.networks))
    uses = {name: Use(family.name, 2, True, 1.0)}
    pixels = np.random.default_rng(0).integers(0, 256, (5, family.size, family.size, 3), dtype=np.uint8)
    sound = family.answer(pixels, None, uses).scores[name]
    family.compute = replace(family.compute, device=torch.device("meta"))  # a device that computes nothing
    assert np.array_equal(family.answer(pixels, None, uses).scores[name], sound)
    assert family.compute.device.type == "cpu"
    assert "the GPU failed" in capfd.readouterr().err


def test_two_families_that_are_one_on_the_cpu_both_go_on_there(checkout, paw, monkeypatch, capfd):
    """One trunk behind two runs whose dtypes differ on a T4, and not on a CPU without bfloat16."""
    from dataclasses import replace

    from pawpularity.device import choose
    from pawpularity.kaggle.contents import open_bundle

    record = Path(shutil.copytree("oof/near", "oof/also")) / "config.json"
    about = json.loads(record.read_text())
    about["config"]["train"]["dtype"] = "auto"
    record.write_text(json.dumps(about))
    assert paw("kernel", "--runs", "near", "also").code == 0

    def compute(dtype, device):
        return choose("bfloat16" if dtype == "auto" and device is None else "float32", "cpu")

    monkeypatch.setattr(families_module, "_compute", compute)
    bundle = open_bundle(checkout / BUILD / "dataset")
    (one,) = load_families(bundle, "cpu")
    assert list(one.networks) == ["near", "also"]
    pixels = np.random.default_rng(0).integers(0, 256, (5, one.size, one.size, 3), dtype=np.uint8)
    sound = one.answer(pixels, None, {"near": Use("near", 2, False, 1.0)}).scores["near"]
    two = load_families(bundle)
    assert [list(family.networks) for family in two] == [["near"], ["also"]]
    for family in reversed(two):  # the second first: on the CPU the family bears the first one's name
        family.compute = replace(family.compute, device=torch.device("meta"))  # a device that computes nothing
        answer = family.answer(pixels, None, {family.name: Use(family.name, 2, False, 1.0)})
        assert np.array_equal(answer.scores[family.name], sound), "the same tails"
        assert list(family.networks) == [family.name], "and not the other's memory"
    assert capfd.readouterr().err.count("the GPU failed") == 2
