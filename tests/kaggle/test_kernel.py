"""`kernel` builds everything prediction needs, nothing twice, and nothing that was tampered with is opened."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.kaggle.conftest import sign

from pawpularity.data.tables import read_train
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.predictions import open_predictions
from pawpularity.kaggle import kernel
from pawpularity.kaggle.bundle import open_bundle
from pawpularity.kaggle.half_precision import halved
from pawpularity.kaggle.scoring import load_backbones


def test_the_folders_hold_what_kaggle_needs(built, checkout):
    dataset, script = built / "dataset", built / "kernel"
    assert all(path.is_file() for path in dataset.iterdir()), "the client leaves out folders"
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=dataset, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    listed = {line.split("  ")[1] for line in (dataset / "SHA256SUMS").read_text().splitlines()}
    assert listed == {path.name for path in dataset.iterdir()} - {"SHA256SUMS", "dataset-metadata.json"}
    about = json.loads((script / "kernel-metadata.json").read_text())
    assert (about["enable_internet"], about["enable_gpu"], about["machine_shape"]) == (False, True, "NvidiaTeslaT4")
    assert about["dataset_sources"] == [json.loads((dataset / "dataset-metadata.json").read_text())["id"]]
    assert about["dataset_sources"] == ["someone/pawpularity-bundle"]
    assert about["competition_sources"] == ["petfinder-pawpularity-score"]
    assert sorted(path.name for path in script.iterdir()) == ["inference.py", "kernel-metadata.json"]
    text = (dataset / "bundle.json").read_text()
    assert not [word for word in (str(checkout), "input/toy", '"machine"') if word in text], "nothing of this machine"


def test_the_files_may_travel_as_a_model(built, paw):
    assert paw("kernel", "--runs", "near", "--user", "someone", "kernel.carrier=model").code == 0
    about = json.loads((built / "kernel" / "kernel-metadata.json").read_text())
    assert about["model_sources"] == ["someone/pawpularity-bundle/pyTorch/default"]
    assert about["dataset_sources"] == []


def test_the_blend_is_its_own(built, checkout):
    kept = json.loads((checkout / "oof/blend/weights.json").read_text())
    bundle = open_bundle(built / "dataset")
    assert (bundle.about["intercept"], bundle.mean) == (kept["intercept"], kept["mean_prediction"])
    assert {run.name: run.weight for run in bundle.runs} == {m["name"]: m["weight"] for m in kept["members"]}
    for member in kept["members"]:
        due = pytest.approx(member["mean_prediction"], abs=1e-6)
        assert bundle.about["runs"][member["name"]]["mean_prediction"] == due


def test_what_it_was_trained_on_is_known(built, real):
    assert open_bundle(built / "dataset").about["trained_on"] == {
        "name": "toy",
        "photos": 60,
        "drawn": True,
        "contest": False,
    }
    ids = read_train(real / "pawpularity-labels")["Id"].tolist()
    assert kernel.ids_hash(ids[::-1]) == kernel.CONTEST_IDS != kernel.ids_hash(ids[1:])


def test_nothing_is_there_twice(built):
    seen = {}
    for file in sorted((built / "dataset").glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            if tensor.numel() > 16:
                key = (name, tensor.numpy().tobytes())
                assert key not in seen, f"{file.name}: {name} is {seen[key]} again"
                seen[key] = f"{file.name}: {name}"
    # `far` trains more, so `near` freezes all that it freezes.
    first, second = (
        sum(t.numel() for t in load_file(f).values()) for f in sorted((built / "dataset").glob("*.frozen.*"))
    )
    assert first + second < 1.1 * sum(t.numel() for t in open_bundle(built / "dataset").runs[1].frozen().values())


def test_the_same_runs_give_the_same_bytes_in_the_place_of_the_old(built, paw):
    first = (built / "dataset" / "SHA256SUMS").read_bytes()
    assert paw("kernel", "--runs", "blend", "--user", "other").code == 0
    assert (built / "dataset" / "SHA256SUMS").read_bytes() == first
    assert sorted(path.name for path in built.iterdir()) == ["dataset", "kernel"]


def test_what_fails_half_way_leaves_both_folders(built, refused, monkeypatch):
    before = {path: path.is_file() and path.read_bytes() for path in built.rglob("*")}

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(kernel.shutil, "copyfile", full)
    assert "no disk space left" in refused("kernel", "--runs", "near", "--user", "other")
    assert {path: path.is_file() and path.read_bytes() for path in built.rglob("*")} == before


def test_the_wheel_is_the_package_and_prediction_imports_only_what_kaggle_has(built):
    (file,) = (built / "dataset").glob("*.whl")
    code = (
        "import sys; from pawpularity.kaggle import inference, scoring; print(inference.__file__); print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(file)}
    )
    assert done.returncode == 0, done.stderr
    place, names = done.stdout.splitlines()
    assert place.startswith(str(file))
    assert not set(names.split()) & {
        "pydantic",
        "typer",
        "rich",
        "accelerate",
        "sklearn",
        "scipy",
        "cv2",
        "albumentations",
    }


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda d: (d / "near.fold0.head.safetensors").write_bytes(b"x"), "near.fold0.head.safetensors"),
        (lambda d: (d / "far.fold0.head.safetensors").unlink(), "is missing"),
        (lambda d: (d / "SHA256SUMS").write_bytes(b"\xff\xfe"), "SHA256SUMS"),
        (lambda d: (d / "SHA256SUMS").write_text(""), "bundle.json"),
        (lambda d: (d / "bundle.json").write_text("{}"), "format"),
    ],
)
def test_what_was_tampered_with_is_refused(built, damage, part):
    damage(built / "dataset")
    with pytest.raises(UserError, match=part):
        open_bundle(built / "dataset")


def test_another_version_is_refused(built, edit):
    edit(built / "dataset", package="9.0.0")
    with pytest.raises(UserError, match=r"9\.0\.0"):
        open_bundle(built / "dataset")


def test_a_head_behind_other_frozen_weights_is_refused(built, edit):
    dataset = built / "dataset"
    file = next(dataset.glob("far.frozen.safetensors"))
    frozen = load_file(file)
    name = max(frozen, key=lambda name: frozen[name].numel())
    kept, frozen[name] = file.read_bytes(), frozen[name] + 1e-3
    save_file(frozen, file)
    sign(dataset)
    with pytest.raises(UserError, match="frozen"):
        load_backbones(open_bundle(dataset), "cpu")
    file.write_bytes(kept)
    (dataset / "whole.fold1.head.safetensors").write_bytes((dataset / "whole.fold0.head.safetensors").read_bytes())
    sign(dataset)
    with pytest.raises(UserError, match="fold 1"):
        load_backbones(open_bundle(dataset), "cpu")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "name what to bundle"),
        (["--runs", "nothing"], "holds no run"),
        (["--runs", "near", "blend"], "is a blend"),
        (["--runs", "near", "--user", "Some One"], "KAGGLE_USER"),
        (["--runs", "near", "--hours", "12"], "--hours"),
        (["--runs", "near", "train.lr=1"], "train.lr"),
        (["--runs", "near", "kernel.carrier=pigeon"], "kernel.carrier"),
        (["--runs", "near", "--config", "sample"], "--config"),
        (["--runs", "near", "--half", "--data", "configs"], "DATA=DIR"),
    ],
)
def test_what_cannot_be_built_is_said(checkout, refused, words, part):
    assert part in refused("kernel", *words, "--into", "other")
    assert not (checkout / "other" / "dataset").exists()


def test_half_precision_halves_and_is_measured(built, paw):
    whole = (built / "dataset" / "whole.fold0.head.safetensors").stat().st_size
    done = paw("kernel", "--runs", "whole", "--half", "--photos", "200")
    assert done.code == 0, done.err
    assert "half precision moves whole" in done.out
    assert (built / "dataset" / "whole.fold0.head.safetensors").stat().st_size < 0.6 * whole
    loss, source = open_bundle(built / "dataset").about["half"]["whole"], open_predictions("whole")
    assert loss["photos"] == len(source.target) == 60
    assert 0 < loss["largest_difference"] < 0.1
    assert abs(loss["rmse_half"] - loss["rmse"]) <= loss["largest_difference"]
    # The scores and the constant are those of the run's own out-of-fold RMSE.
    assert loss["rmse"] == pytest.approx(rmse(source.target, source.prediction), abs=1e-4)
    assert loss["constant_rmse"] == pytest.approx(rmse(source.target, source.constant), abs=1e-6)


def test_what_float16_cannot_hold_stays_whole():
    tensors = {"w": torch.ones(2, 2), "large": torch.full((2, 2), 1e6), "bias": torch.ones(3), "n": torch.tensor(3)}
    kinds = {name: tensor.dtype for name, tensor in halved(tensors).items()}
    assert kinds == {"w": torch.float16, "large": torch.float32, "bias": torch.float32, "n": torch.int64}
