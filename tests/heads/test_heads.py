"""`pawpularity heads` through the command: the out-of-fold contract, saved heads, the table, blends, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy.optimize import nnls
from tests.conftest import ROOT

from pawpularity.data.photo_cache import Photos
from pawpularity.data.tables import METADATA
from pawpularity.device import choose
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.oof import constant_predictions, read_run
from pawpularity.features.build import FeatureCache
from pawpularity.heads.encoders import Encoder, read_encoders
from pawpularity.heads.features import frozen_features
from pawpularity.heads.run import run_name
from pawpularity.kaggle.bundle import open_bundle
from pawpularity.kaggle.scoring import load_blend
from pawpularity.predictor import Predictor
from pawpularity.runs import Run

TOY = ("--config", "scratch", "photos.size=32", "folds.k=3", "train.dtype=float32", "--encoders", "test_resnet")


@pytest.fixture
def fitted(work, shelter, paw):
    """One encoder under both heads, with metadata and without, and what was printed."""
    done = paw("heads", "--data", shelter, *TOY, "--heads", "ridge", "svr", "boosting")
    assert done.code == 0, done.err
    return shelter, done


def test_a_head_leaves_the_contract_and_can_be_blended(fitted, paw):
    shelter, done = fitted
    names = [
        f"heads-test_resnet{mark}-toy" for mark in ("", "-meta", "-svr", "-svr-meta", "-boosting", "-boosting-meta")
    ]
    assert {p.name for p in Path("oof").iterdir()} == {"folds", *names}
    truth = pd.read_csv(shelter / "train.csv").set_index("Id")["Pawpularity"]
    for name in names:
        run = Run.open(Path("oof") / name)
        assert (run.kind, run.trained_folds()) == ("head", [0, 1, 2])
        table = read_run(run)
        assert list(table["Id"]) == sorted(truth.index)
        assert (table["target"].to_numpy() == truth.loc[table["Id"]].to_numpy()).all()
        kept = set() if "boosting" in name else {"head.safetensors"}
        assert {p.name for p in run.fold(1).iterdir()} == {"predictions.csv", "metrics.json", "head.json"} | kept
        assert run.has_networks == bool(kept)
        constant = constant_predictions(table)
        for fold in range(3):
            metrics, rows = run.metrics(fold), table["fold"] == fold
            assert metrics["rmse"] == pytest.approx(rmse(table["target"][rows], table["prediction"][rows]), abs=1e-6)
            assert metrics["training_mean"] == pytest.approx(constant[rows][0])
    assert [len(row["chosen"]) for row in json.loads(paw("oof", "--json", "-").out)["runs"]] == [3] * 6
    done_blend = paw("ensemble", run.name, names[0], "--method", "mean", "--run", "mean", "--draws", 100)
    assert done_blend.code == 0, done_blend.err
    tables = [read_run(Run.open(Path("oof") / name))["prediction"] for name in (names[0], run.name, "mean")]
    np.testing.assert_allclose(tables[2], (tables[0] + tables[1]) / 2, atol=1e-6)
    assert "flatters" in done.err
    assert str(shelter.parent) not in (run.folder / "config.json").read_text()


def test_a_saved_head_predicts_like_a_trained_run(fitted, paw):
    """From the photos on: features computed again, metadata beside them, clipped to the contest's scores."""
    shelter, _ = fitted
    for name in ("heads-test_resnet-meta-toy", "heads-test_resnet-svr-toy"):
        run = Run.open(Path("oof") / name)
        table = read_run(run)
        train = pd.read_csv(shelter / "train.csv").set_index("Id").loc[table["Id"]]
        predictor = Predictor.load(run.folder)
        files = [shelter / "train" / f"{name}.jpg" for name in table["Id"]]
        scores = predictor.predict_folds(files, train)
        own = scores[table["fold"].to_numpy(), np.arange(len(table))]
        np.testing.assert_allclose(own, table["prediction"], atol=1e-4)
        alone = predictor.predict(files)
        assert np.isfinite(alone).all(), "absent metadata count as average"
    done = paw("predict", "--run", run.name, "--data", shelter)
    assert done.code == 0, done.err
    assert paw("kernel", "--runs", run.name).code == 0
    bundle = load_blend(open_bundle(Path("kernels/build/dataset")))
    pixels = {bundle.members[0].shape: predictor.decode(files[:9])}
    np.testing.assert_allclose(bundle.score(pixels, train[:9].reindex(columns=METADATA).to_numpy(np.float32)),
                               predictor.predict(files[:9], train[:9]).clip(1, 100), atol=1e-6)  # fmt: skip


def test_every_encoder_list_of_the_project_names_networks_and_their_licences():
    for path in sorted((ROOT / "configs/encoders").glob("*.yaml")):
        for encoder in read_encoders([str(path)], Encoder("test_resnet", 224)):
            published = timm.get_pretrained_cfg(encoder.backbone)
            assert published is not None
            assert encoder.licence.startswith(published.license), encoder.backbone
            assert not published.fixed_input_size or published.input_size[-1] == encoder.size, encoder.backbone
            assert encoder.features == "pooled" or published.num_classes == 1000


def test_the_same_command_gives_the_same_bytes_and_replaces_the_run(fitted, paw, refused):
    shelter, _ = fitted
    folder = Path("oof/heads-test_resnet-meta-toy/fold1")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "metrics.json"}
    (folder / "predictions.csv").write_text("Id,fold,target,prediction\n")
    refused("oof", "heads-test_resnet-meta-toy")
    assert paw("heads", "--data", shelter, *TOY, "--metadata", "use", "train.lr=0.1").code == 0, "a head has no lr"
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "metrics.json"} == before


def test_metadata_is_one_column_set_more(work, shelter, paw):
    """With metadata made to tell the score, the run that has it must find out."""
    table = pd.read_csv(shelter / "train.csv")
    for bit, name in enumerate(["Eyes", "Face", "Near", "Action", "Accessory", "Group", "Collage"]):
        table[name] = (table["Pawpularity"] // 2**bit) % 2
    table.to_csv(shelter / "train.csv", index=False)
    done = paw("heads", "--data", shelter, *TOY, "--json", "-")
    without, with_ = (row["score"]["rmse"] for row in json.loads(done.out)["runs"])
    assert with_ < without - 2


def test_several_encoders_stand_alone_and_together(work, shelter, paw):
    words = ("test_efficientnet", "--features", "logits", "--metadata", "none", "--run", "two", "--json", "-")
    done = paw("heads", "--data", shelter, *TOY, *words)
    assert done.code == 0, done.err
    names = [row["run"] for row in json.loads(done.out)["runs"]]
    assert names == ["two-test_resnet-logits-toy", "two-test_efficientnet-logits-toy",
                     "two-test_resnet-logits-test_efficientnet-logits-toy"]  # fmt: skip
    run = Run.open(Path("oof") / names[2])
    assert run.metrics(0)["features"] == 2000
    scores = Predictor.load(run.folder).predict_folds(
        [shelter / "train" / f"{name}.jpg" for name in read_run(run)["Id"]]
    )
    table = read_run(run)
    np.testing.assert_allclose(scores[table["fold"], np.arange(len(table))], table["prediction"], atol=1e-4)


def test_a_list_gives_every_encoder_its_own_size_and_says_the_licence(work, shelter, paw, refused):
    """The photos have the largest size; every run of the list predicts what its folds predicted."""
    entries = "[{backbone: test_resnet, size: 32, licence: MIT}, {backbone: test_vit, size: 160, features: logits}]"
    Path("pair.yaml").write_text(f"encoders: {entries}")
    done = paw(
        "heads",
        "--data",
        shelter,
        *TOY[:-2],
        "--encoders",
        "pair.yaml",
        "--heads",
        "kernel-ridge",
        "forward",
        "--metadata",
        "none",
    )
    assert done.code == 0, done.err
    assert "MIT" in done.err
    for run in map(Run.open, Path("oof").glob("heads-*")):
        table = read_run(run)
        scores = Predictor.load(run.folder).predict_folds([shelter / "train" / f"{one}.jpg" for one in table["Id"]])
        np.testing.assert_allclose(scores[table["fold"], np.arange(len(table))], table["prediction"], atol=1e-3)
        assert run.config.photos.size == 160
        if run.record["head"]["method"] == "forward":
            taken = json.loads((run.fold(0) / "head.json").read_text())["taken"]
            assert taken
            assert set(taken) <= {"test_resnet", "test_vit-logits"}
    faults = {"encoders: []": "encoders", "encoders: [{backbone: a, sise: 3}]": '"size"', "encoders: [{}]": "backbone",
              "encoders: [{backbone: test_resnet, size: 8}]": "size"}  # fmt: skip
    for text, said in faults.items():
        Path("pair.yaml").write_text(text)
        assert said in refused("heads", "--data", shelter, *TOY[:-2], "--encoders", "pair.yaml")


def test_heads_are_stacked_without_the_rows_that_they_score(work, shelter, paw):
    """Across heads and encoders: the weights of a fold are those of non-negative least squares on the other folds."""
    words = ("test_efficientnet", "--heads", "ridge", "svr", "--metadata", "none")
    assert paw("heads", "--data", shelter, *TOY, *words).code == 0
    names = sorted(path.name for path in Path("oof").glob("heads-*"))
    assert len(names) == 6
    done = paw("ensemble", *names, "--method", "nnls", "--run", "stack", "--draws", 100)
    assert done.code == 0, done.err
    tables = [read_run(Run.open(Path("oof") / name)) for name in names]
    members, fold, target = (
        np.stack([table["prediction"] for table in tables], axis=1),
        tables[0]["fold"],
        tables[0]["target"],
    )
    stack = read_run(Run.open(Path("oof/stack")))["prediction"]
    for scored in (fold == one for one in range(3)):
        weights, _ = nnls(members[~scored], target[~scored])
        np.testing.assert_allclose(stack[scored], (members[scored] @ weights).clip(1, 100), atol=1e-5)
    predicted = paw("predict", "--run", "stack", "--data", shelter)
    assert predicted.code == 0, predicted.err


def test_a_list_may_ask_for_class_tokens(tmp_path):
    """They are the network's own, other than the average of the patches, and each has its own file in the cache."""
    pools = ("token", "avg")
    entries = [f"{{backbone: test_vit, size: 160, args: {{global_pool: {pool}}}, weights: none}}" for pool in pools]
    (tmp_path / "tokens.yaml").write_text(f"encoders: [{', '.join(entries)}]")
    encoders = read_encoders([str(tmp_path / "tokens.yaml")], Encoder("test_resnet", 32))
    assert [encoder.name for encoder in encoders] == ["test_vit-token", "test_vit-avg"]
    photos = np.random.default_rng(0).integers(0, 256, (5, 160, 160, 3), dtype=np.uint8)
    decoded, compute = replace(Photos.of(photos), key="k"), choose("float32", "cpu")
    cache = FeatureCache(tmp_path / "t", decoded, 160, 1.0)
    found = [frozen_features(decoded, np.arange(5), one, 160, compute, cache=cache) for one in [*encoders, *encoders]]
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[1], found[3])
    for pool, features in zip(pools, found, strict=False):
        torch.manual_seed(0)
        net = timm.create_model("test_vit", num_classes=0, global_pool=pool).eval()
        mean, std = (torch.tensor(net.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
        with torch.inference_mode():
            tokens = net.forward_features((torch.from_numpy(photos).permute(0, 3, 1, 2) / 255 - mean) / std)
            wanted = net.fc_norm(tokens[:, 0] if pool == "token" else tokens[:, 1:].mean(dim=1))
        np.testing.assert_allclose(features, wanted.numpy(), atol=1e-3)
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_long_lists_get_a_short_name():
    def name(*names):
        return run_name("heads", [Encoder(name, 32) for name in names], "ridge", True, "-x")

    assert name("a.b_c", "d") == "heads-a.b_c-d-meta-x"
    long = [f"a_rather_long_name_{i}.tag" for i in range(9)]
    assert name(*long) != name(*long[:8], "b")


@pytest.mark.parametrize("kind", ["logits", "pooled"])
def test_features_are_timms_and_follow_the_rows(tmp_path, kind):
    torch.manual_seed(5)
    net = timm.create_model("test_resnet")
    save_file(net.state_dict(), tmp_path / "test_resnet.safetensors")
    photos = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    decoded = replace(Photos.of(photos), key="k")
    encoder, compute = Encoder("test_resnet", 32, kind, weights=str(tmp_path)), choose("float32", "cpu")
    rows = np.arange(70)[::-1].copy()
    got = frozen_features(decoded, rows, encoder, 32, compute)
    cache = FeatureCache(tmp_path / "t", decoded, 32, 1.0)
    cached = [frozen_features(decoded, rows, encoder, 32, compute, cache=cache) for _ in range(2)]
    np.testing.assert_allclose(cached[0], got, rtol=1e-4, atol=1e-5)
    assert np.array_equal(cached[0], cached[1]), "read from the disk the second time"
    pixels = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(net.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        wanted = net.eval().forward_head(net.forward_features((pixels - mean) / std), pre_logits=kind == "pooled")
    np.testing.assert_allclose(got[::-1], wanted.numpy(), rtol=1e-3, atol=1e-3)
    save_file({k: v for k, v in net.state_dict().items() if "fc" not in k}, tmp_path / "test_resnet.safetensors")
    if kind == "pooled":
        np.testing.assert_array_equal(frozen_features(decoded, rows, encoder, 32, compute), got)
    else:
        with pytest.raises(UserError, match="needs the classifier"):
            frozen_features(decoded, rows, encoder, 32, compute)


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--features", "logit"), '"logits"'), (("--heads", "rigde"), '"ridge"'), (("--metadata", "yes"), "--metadata"),
     (("--encoders", "mobilenet_v2_100"), '"mobilenetv2_100"'), (("--encoders", "test_resnet", "test_resnet"), "twice"),
     (("--encoders", "test_resnet", "model.weights=nowhere"), "model.weights"),
     (("--encoders", "test_resnet", "test_efficientnet", "model.args.num_x=1", "model.backbone=test_resnet"), "model.args")],
)  # fmt: skip
def test_wrong_words(work, shelter, refused, words, said):
    assert said in refused("heads", "--data", shelter, "--config", "sample", "photos.size=32", *words)
    assert not list(Path("oof").glob("*/config.json"))


def test_other_settings_weights_and_kinds_are_refused(fitted, paw, refused):
    shelter, _ = fitted
    assert "photos.fit" in refused("heads", "--data", shelter, *TOY, "photos.fit=crop")
    assert "weights" in refused("heads", "--data", shelter, *TOY, "train.seed=1")
    quick = ("--config", "scratch", "photos.size=32", "folds.k=3", "train.epochs=1", "train.warmup_epochs=0")
    assert "other settings" in refused("train", "--data", shelter, *quick, "--run", "heads-test_resnet-toy")
    assert "only evaluates" in refused("predict", "--run", "heads-test_resnet-boosting-toy", "--data", shelter)
    shutil.rmtree(shelter / "train")
    assert "no photos" in refused("heads", "--data", shelter, *TOY, "--run", "other")
