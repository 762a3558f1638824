"""What is built: everything prediction needs, nothing twice, and nothing that was tampered with is opened."""

import errno
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pawpularity.data.tables import read_train
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.predictions import open_predictions
from pawpularity.kaggle import bundle
from pawpularity.kaggle.build_folders import building
from pawpularity.kaggle.contents import open_bundle, sha256
from pawpularity.kaggle.half import halved
from pawpularity.kaggle.training_data import CONTEST_IDS, ids_hash
from pawpularity.kaggle.wheel import PACKAGE, modules_for, write_wheel
from pawpularity.models.weights import _load_plainly

BUILD = Path("kernels/build")


@pytest.fixture
def built(checkout, paw):
    done = paw("kernel", "--runs", "blend", "--user", "someone")
    assert done.code == 0, done.err
    return checkout / BUILD


def reseal(dataset):
    """Write the hashes anew, as somebody would who changes a file on purpose."""
    about = json.loads((dataset / "bundle.json").read_text())
    for name, entry in about["files"].items():
        entry["sha256"] = sha256(dataset / name)
    (dataset / "bundle.json").write_text(json.dumps(about))
    sums = {name: entry["sha256"] for name, entry in about["files"].items()} | {
        "bundle.json": sha256(dataset / "bundle.json")
    }
    (dataset / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def test_the_folders_hold_what_kaggle_needs(built):
    dataset, kernel = built / "dataset", built / "kernel"
    assert all(path.is_file() for path in dataset.iterdir()), "Kaggle's command leaves folders out"
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=dataset, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    listed = {line.split("  ")[1] for line in (dataset / "SHA256SUMS").read_text().splitlines()}
    assert listed == {path.name for path in dataset.iterdir()} - {"SHA256SUMS", "dataset-metadata.json"}
    about = json.loads((kernel / "kernel-metadata.json").read_text())
    assert about["enable_internet"] is False
    assert about["enable_gpu"] is True
    assert about["machine_shape"] == "NvidiaTeslaT4"
    assert about["dataset_sources"] == [json.loads((dataset / "dataset-metadata.json").read_text())["id"]]
    assert about["dataset_sources"][0].startswith("someone/")
    assert about["competition_sources"] == ["petfinder-pawpularity-score"]
    assert sorted(path.name for path in kernel.iterdir()) == ["inference.py", "kernel-metadata.json"]


def test_what_it_was_trained_on_is_said(built, checkout, paw, real):
    about = json.loads((built / "dataset" / "bundle.json").read_text())
    assert about["data"] == {"name": "toy", "photos": 60, "drawn": True, "contest": False}
    shutil.rmtree(checkout / "input")  # the predictions know the photos, whatever became of their folder
    done = paw("kernel", "--runs", "near", "--user", "someone")
    assert "trained on toy: 60 photos, not the contest's" in done.out
    assert "ARGS=--anyway" in done.err
    table = read_train(real / "pawpularity-labels")
    assert ids_hash(table["Id"].tolist()[::-1]) == CONTEST_IDS
    assert ids_hash(table["Id"].tolist()[1:]) != CONTEST_IDS


def test_links_are_replaced_and_not_followed(built, checkout, paw):
    for name in ("dataset", "kernel"):
        (built / name).rename(checkout / name)
        (built / name).symlink_to(checkout / name)
    (built / ".dataset.old.part").symlink_to(checkout / "dataset")
    before = {path: path.read_bytes() for name in ("dataset", "kernel") for path in (checkout / name).iterdir()}
    assert paw("kernel", "--runs", "near", "--user", "other").code == 0
    for name in ("dataset", "kernel"):
        assert not (built / name).is_symlink()
    assert all(path.read_bytes() == data for path, data in before.items())
    assert not list(built.glob("*.part")) + list(built.glob(".*.part"))


def test_what_fails_half_way_leaves_both_folders(built, refused, monkeypatch):
    """The disk is full when the last file is due."""
    before = {path: path.is_file() and path.read_bytes() for path in built.rglob("*")}
    write = bundle.write_text

    def full(path, text):
        if path.name == "inference.py":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, text)

    monkeypatch.setattr(bundle, "write_text", full)
    assert "no disk space left" in refused("kernel", "--runs", "near", "--user", "other")
    assert {path: path.is_file() and path.read_bytes() for path in built.rglob("*")} == before


def test_two_do_not_build_in_one_place(built, paw, refused):
    with building(built / ".lock"):
        assert "another command is at work there" in refused("kernel", "--runs", "near")
    assert paw("kernel", "--runs", "near").code == 0


def test_a_run_that_was_changed_since_is_named(built, checkout, paw, refused):
    blend = checkout / "oof" / "blend"
    blend.rename(checkout / "kept")
    assert paw("ensemble", "near", "far", "whole", "--run", "blend", "--method", "mean").code == 0
    assert "oof/blend was changed since the bundle was built (its weights)" in refused("kernel-check", "--photos", 8)
    shutil.rmtree(blend)
    (checkout / "kept").rename(blend)
    metrics = checkout / "oof" / "far" / "fold1" / "metrics.json"
    known = metrics.read_text()
    metrics.write_text(json.dumps(json.loads(known) | {"tail_hash": "0" * 12}))
    assert "fold 1 was trained anew" in refused("kernel-check", "--photos", 8)
    metrics.write_text(known)
    shutil.move(checkout / "oof" / "near" / "fold0", checkout / "fold0")
    assert "oof/near was changed since the bundle was built (folds [1], were [0, 1])" in refused(
        "kernel-check", "--photos", 8
    )


def test_nothing_is_there_twice(built):
    seen = {}
    for file in sorted((built / "dataset").glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            if tensor.numel() > 16:
                key = (name, tensor.numpy().tobytes())
                assert key not in seen, f"{file.name}: {name} is {seen[key]} again"
                seen[key] = f"{file.name}: {name}"
    # `far` trains more, so what it freezes `near` freezes as well: it needs no trunk of its own.
    assert (built / "dataset" / "near.trunk.safetensors").is_file()
    assert not (built / "dataset" / "far.trunk.safetensors").exists()


def test_nothing_of_this_machine_is_told(built, checkout):
    text = "".join(path.read_text() for path in (built / "dataset").glob("*.json"))
    for word in (str(checkout), "input/toy", '"machine"'):
        assert word not in text


def test_the_same_runs_give_the_same_bytes(built, paw):
    first = (built / "dataset" / "SHA256SUMS").read_bytes()
    assert paw("kernel", "--runs", "blend", "--user", "someone").code == 0
    assert (built / "dataset" / "SHA256SUMS").read_bytes() == first


def test_the_wheel_holds_what_prediction_imports_and_no_more(tmp_path):
    files = modules_for("pawpularity.kaggle.inference")
    names = {file.relative_to(PACKAGE).as_posix() for file in files}
    assert {"predictor.py", "kernel/stream.py", "competition/photos.py"} <= names
    rooms = {name.split("/")[0] for name in names}
    assert not rooms & {"shelter", "training", "search", "probe", "evaluation", "leakage", "pipeline", "cli.py"}
    write_wheel(tmp_path / "a-1-py3-none-any.whl", files)
    with zipfile.ZipFile(tmp_path / "a-1-py3-none-any.whl") as archive:
        assert archive.testzip() is None
        assert sum(name.endswith("RECORD") for name in archive.namelist()) == 1


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            lambda d: (d / "near.fold0.tail.safetensors").write_bytes(b"x"),
            "near.fold0.tail.safetensors: is not the file",
        ),
        (lambda d: (d / "weights.json").unlink(), "weights.json: is missing"),
        (lambda d: (d / "SHA256SUMS").unlink(), "SHA256SUMS"),
        (lambda d: (d / "bundle.json").write_text("{}"), "is no bundle's"),
        (lambda d: edit(d, format=2), "format 2"),
        (lambda d: edit(d, package="1.0.0"), "built by pawpularity 1.0.0"),
        (lambda d: edit(d, runs={}), "was changed"),
        (lambda d: edit(d, hours=3), "bundle.json: is not the file"),
    ],
)
def test_what_was_tampered_with_is_refused(built, damage, said):
    damage(built / "dataset")
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        open_bundle(built / "dataset")


def edit(dataset, **values):
    file = dataset / "bundle.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_tail_for_other_trunk_weights_is_refused(built):
    from pawpularity.kaggle.shared_backbones import load_families

    dataset = built / "dataset"
    trunk = load_file(dataset / "near.trunk.safetensors")
    name = max(trunk, key=lambda name: trunk[name].numel())
    trunk[name] = trunk[name] + 1e-3
    save_file(trunk, dataset / "near.trunk.safetensors")
    reseal(dataset)
    with pytest.raises(UserError, match="was trained behind"):
        load_families(open_bundle(dataset))
    shutil.copyfile(dataset / "whole.fold0.tail.safetensors", dataset / "whole.fold1.tail.safetensors")
    reseal(dataset)
    bundle = open_bundle(dataset)
    with pytest.raises(UserError, match="is not what training fold 1 wrote"):
        load_families(
            type(bundle)(
                bundle.folder, bundle.about | {"runs": {"whole": bundle.about["runs"]["whole"]}}, bundle.weights
            )
        )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name what to bundle"),
        (["--runs", "nothing"], "holds no run"),
        (["--runs", "near", "blend"], "is a blend; bundle it alone"),
        (["--runs", "near", "--user", "Some One"], "no Kaggle user name"),
        (["--runs", "near", "--hours", "12"], "must lie in 0.1..9"),
        (["--runs", "near", "train.lr=1"], "uses the runs' own settings"),
        (["--runs", "near", "--config", "sample"], 'uses the runs\' own settings; remove "--config"'),
        (["--runs", "near", "--half", "--data", "configs"], "half precision is measured on its own photos"),
    ],
)
def test_what_cannot_be_built_is_said(checkout, refused, words, said):
    assert said in refused("kernel", *words)
    assert not (checkout / BUILD / "dataset").exists()


def test_half_precision_halves_and_is_measured(checkout, paw):
    assert paw("kernel", "--runs", "whole").code == 0
    whole = (checkout / BUILD / "dataset" / "whole.fold0.tail.safetensors").stat().st_size
    done = paw("kernel", "--runs", "whole", "--half", "--photos", "20")
    assert done.code == 0, done.err
    assert "half precision moves whole" in done.out
    dataset = checkout / BUILD / "dataset"
    assert (dataset / "whole.fold0.tail.safetensors").stat().st_size < 0.6 * whole
    loss = open_bundle(dataset).about["half"]["whole"]
    assert loss["photos"] == 20
    assert 0 < loss["largest_difference"] < 0.1
    assert abs(loss["rmse_half"] - loss["rmse"]) <= loss["largest_difference"]
    # Measured on every photo, its constant is the one that stands beside the run's own RMSE.
    assert paw("kernel", "--runs", "whole", "--half", "--photos", "200").code == 0
    loss, source = open_bundle(dataset).about["half"]["whole"], open_predictions("whole")
    assert loss["photos"] == len(source.target)
    assert loss["constant_rmse"] == pytest.approx(rmse(source.target, source.constant), abs=1e-6)


def test_what_float16_cannot_hold_stays_whole():
    tensors = {
        "w": torch.full((2, 2), 1.0),
        "large": torch.full((2, 2), 1e6),
        "bias": torch.ones(3),
        "n": torch.tensor(3),
    }
    kinds = {name: tensor.dtype for name, tensor in halved(tensors).items()}
    assert kinds == {"w": torch.float16, "large": torch.float32, "bias": torch.float32, "n": torch.int64}


def test_our_reader_reads_what_safetensors_reads(tmp_path):
    random = torch.Generator().manual_seed(0)
    tensors = {
        "a": torch.rand(3, 4, generator=random), "b": torch.rand(5, generator=random).half(), "c": torch.tensor(7),
        "d": torch.rand(2, 2, generator=random).bfloat16(), "e": torch.empty(0, 3), "f": torch.tensor([True, False]),
    }  # fmt: skip
    save_file(tensors, tmp_path / "x.safetensors", {"about": "this"})
    ours, theirs = _load_plainly(tmp_path / "x.safetensors"), load_file(tmp_path / "x.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-3])
    with pytest.raises(ValueError, match="is not whole"):
        _load_plainly(tmp_path / "cut.safetensors")


def test_weights_are_the_blends_own(built, checkout):
    kept = json.loads((checkout / "oof/blend/weights.json").read_text())
    ours = json.loads((built / "dataset/weights.json").read_text())
    assert ours["intercept"] == kept["intercept"]
    assert ours["mean_prediction"] == kept["mean_prediction"]
    for mine, theirs in zip(ours["members"], kept["members"], strict=True):
        assert mine["weight"] == theirs["weight"]
        assert np.isclose(mine["mean_prediction"], theirs["mean_prediction"], atol=1e-6)
