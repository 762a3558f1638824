"""`kernel` builds everything prediction needs, and nothing that was tampered with is opened."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tests.kaggle.conftest import sign

from pawpularity.data.tables import METADATA, read_test, read_train
from pawpularity.errors import UserError
from pawpularity.kaggle import built_kernel, kernel
from pawpularity.kaggle.bundle import open_bundle
from pawpularity.kaggle.scoring import load_blend
from pawpularity.predictor import Predictor


def test_the_folders_hold_what_kaggle_needs(built, checkout):
    dataset, script = built / "dataset", built / "kernel"
    assert all(path.is_file() for path in dataset.iterdir()), "the client leaves out folders"
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=dataset, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    listed = {line.split("  ")[1] for line in (dataset / "SHA256SUMS").read_text().splitlines()}
    assert listed == {path.name for path in dataset.iterdir()} - {"SHA256SUMS"}
    about = json.loads((script / "kernel-metadata.json").read_text())
    assert (about["enable_internet"], about["enable_gpu"], about["machine_shape"]) == (False, True, "NvidiaTeslaT4")
    assert about["dataset_sources"] == ["someone/pawpularity-bundle"]
    assert about["competition_sources"] == ["petfinder-pawpularity-score"]
    assert sorted(path.name for path in script.iterdir()) == ["inference.py", "kernel-metadata.json"]
    text = "".join(path.read_text() for path in dataset.glob("*.json"))
    assert not [word for word in (str(checkout), "input/toy", '"machine"') if word in text], "nothing of this machine"


def test_the_files_may_travel_as_a_model(built, paw):
    assert paw("kernel", "--runs", "near", "--user", "someone", "kernel.carrier=model").code == 0
    about = json.loads((built / "kernel" / "kernel-metadata.json").read_text())
    assert about["model_sources"] == ["someone/pawpularity-bundle/pyTorch/default"]
    assert about["dataset_sources"] == []


def test_the_blend_is_its_own_and_its_networks_answer_as_before(built, checkout):
    kept = json.loads((checkout / "oof/blend/weights.json").read_text())
    bundle = open_bundle(built / "dataset")
    assert bundle.mean == kept["mean_prediction"]
    blend = load_blend(bundle, "cpu")
    assert blend.intercept == kept["intercept"]
    columns = read_test(Path("input/toy"))[list(METADATA)].to_numpy(np.float32)[:2]
    for member, due in zip(blend.members, kept["members"], strict=True):
        assert (member.predictor.run.name, member.weight) == (due["name"], due["weight"])
        assert member.mean == pytest.approx(due["mean_prediction"], abs=1e-6)
        pixels = np.random.default_rng(0).integers(0, 255, (2, *([member.shape[0]] * 2), 3), np.uint8)
        before = Predictor.load(f"oof/{due['name']}", device="cpu").predict(pixels, columns)
        assert np.array_equal(member.score(pixels, columns), before)


def test_what_it_was_trained_on_is_known(built, real):
    about = open_bundle(built / "dataset").about["trained_on"]
    assert about == {"name": "toy", "photos": 60, "contest": False}
    ids = read_train(real / "pawpularity-labels")["Id"].tolist()
    assert kernel.ids_hash(ids[::-1]) == kernel.CONTEST_IDS != kernel.ids_hash(ids[1:])


def test_runs_of_one_frozen_backbone_share_its_file(built, checkout, paw):
    (checkout / "oof/also").symlink_to("near")
    assert paw("kernel", "--runs", "near", "also", "far").code == 0
    places = open_bundle(built / "dataset").about["places"]
    files = [places[f"{name}/frozen.safetensors"] for name in ("near", "also", "far")]
    assert files == ["near.frozen.safetensors", "near.frozen.safetensors", "far.frozen.safetensors"]


def test_the_same_runs_give_the_same_bytes_in_the_place_of_the_old(built, paw):
    first = (built / "dataset" / "SHA256SUMS").read_bytes()
    assert paw("kernel", "--runs", "blend", "--user", "other").code == 0
    assert (built / "dataset" / "SHA256SUMS").read_bytes() == first
    assert sorted(path.name for path in built.iterdir()) == ["dataset", "kernel"]


def test_what_fails_half_way_leaves_both_folders(built, refused, monkeypatch):
    before = {path: path.is_file() and path.read_bytes() for path in built.rglob("*")}

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(built_kernel.shutil, "copyfile", full)
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
    missing = {"pydantic", "typer", "rich", "accelerate", "sklearn", "scipy", "cv2", "albumentations"}
    assert not set(names.split()) & missing


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


def test_a_head_behind_other_frozen_weights_is_refused(built):
    dataset = built / "dataset"
    file = dataset / "far.frozen.safetensors"
    kept, frozen = file.read_bytes(), load_file(file)
    name = max(frozen, key=lambda name: frozen[name].numel())
    frozen[name] = frozen[name] + 1e-3
    save_file(frozen, file)
    sign(dataset)
    with pytest.raises(UserError, match="frozen"):
        load_blend(open_bundle(dataset), "cpu")
    file.write_bytes(kept)
    (dataset / "whole.fold1.head.safetensors").write_bytes((dataset / "whole.fold0.head.safetensors").read_bytes())
    sign(dataset)
    with pytest.raises(UserError, match="fold 1"):
        load_blend(open_bundle(dataset), "cpu")


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
    ],
)
def test_what_cannot_be_built_is_said(checkout, built, refused, words, part):
    before = (built / "kernel" / "kernel-metadata.json").read_bytes()
    assert part in refused("kernel", *words)
    assert (built / "kernel" / "kernel-metadata.json").read_bytes() == before
