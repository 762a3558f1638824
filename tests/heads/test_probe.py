"""`pawpularity probe` through the command: the out-of-fold contract, saved heads, the table, blends, and what is refused."""

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

from pawpularity.config import Model
from pawpularity.data.photo_cache import Photos
from pawpularity.data.tables import METADATA
from pawpularity.device import choose
from pawpularity.ensemble.record import mean_blend
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.oof import constant_predictions, read_run
from pawpularity.features.build import FeatureCache
from pawpularity.heads.features import Encoder, frozen_features
from pawpularity.heads.head import load_head
from pawpularity.heads.run import Recipe
from pawpularity.runs import Run

TOY = ("--config", "scratch", "photos.size=32", "folds.k=3", "train.dtype=float32", "--backbones", "test_resnet")


@pytest.fixture
def probed(work, shelter, paw):
    """One encoder under both heads, with metadata and without, and what was printed."""
    done = paw("probe", "--data", shelter, *TOY, "--head", "both")
    assert done.code == 0, done.err
    return shelter, done


def test_a_probe_leaves_the_contract_and_can_be_blended(probed, paw):
    shelter, done = probed
    names = [f"probe-test_resnet{mark}-toy" for mark in ("", "-meta", "-svr", "-svr-meta")]
    assert {p.name for p in Path("oof").iterdir()} == {"folds", *names}
    truth = pd.read_csv(shelter / "train.csv").set_index("Id")["Pawpularity"]
    for name in names:
        run = Run.open(Path("oof") / name)
        assert (run.kind, run.trained_folds()) == ("head", [0, 1, 2])
        table = read_run(run)
        assert list(table["Id"]) == sorted(truth.index)
        assert (table["target"].to_numpy() == truth.loc[table["Id"]].to_numpy()).all()
        assert {p.name for p in run.fold(1).iterdir()} == {
            "predictions.csv", "metrics.json", "head.safetensors", "head.json"
        }  # fmt: skip
        constant = constant_predictions(table)
        for fold in range(3):
            metrics, rows = run.metrics(fold), table["fold"] == fold
            assert metrics["rmse"] == pytest.approx(rmse(table["target"][rows], table["prediction"][rows]), abs=1e-6)
            assert metrics["training_mean"] == pytest.approx(constant[rows][0])
    assert [len(row["chosen"]) for row in json.loads(paw("oof", "--json", "-").out)["runs"]] == [3] * 4
    mean_blend([run, Run.open(Path("oof") / names[0])], Path("oof/mean"))
    tables = [read_run(Run.open(Path("oof") / name))["prediction"] for name in (names[0], names[3], "mean")]
    np.testing.assert_allclose(tables[2], (tables[0] + tables[1]) / 2, atol=1e-6)
    assert "flatters" in done.err
    assert str(shelter.parent) not in (run.folder / "config.json").read_text()


def test_saved_heads_give_the_scores_of_their_folds(probed):
    """From the photos on: features computed again, metadata beside them, clipped to the contest's scores."""
    shelter, _ = probed
    run = Run.open(Path("oof/probe-test_resnet-svr-meta-toy"))
    table = read_run(run)
    train = pd.read_csv(shelter / "train.csv").set_index("Id").loc[table["Id"]]
    from pawpularity.data.photos import decode

    pixels = np.stack([decode(shelter / "train" / f"{name}.jpg", 32, "squash") for name in table["Id"]])
    model = Model(**{key: run.record["config"]["model"][key] for key in ("backbone", "args", "weights")})
    features = frozen_features(Photos.of(pixels), np.arange(60), model, "pooled", 32, choose("float32", "cpu"))
    x = np.concatenate([features, train[list(METADATA)].to_numpy(np.float32)], axis=1)
    for fold in range(3):
        head, about = load_head(run.fold(fold))
        assert (about["method"], about["metadata"], about["widths"]) == ("svr", True, [features.shape[1]])
        rows = table["fold"] == fold
        np.testing.assert_allclose(head.predict(x[rows]).clip(1, 100), table["prediction"][rows], atol=1e-3)


def test_the_same_command_gives_the_same_bytes_and_replaces_the_run(probed, paw, refused):
    shelter, _ = probed
    folder = Path("oof/probe-test_resnet-meta-toy/fold1")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "metrics.json"}
    (folder / "predictions.csv").write_text("Id,fold,target,prediction\n")
    refused("oof", "probe-test_resnet-meta-toy")
    assert paw("probe", "--data", shelter, *TOY, "--metadata", "use", "train.lr=0.1").code == 0, "a head has no lr"
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "metrics.json"} == before


def test_metadata_is_one_column_set_more(work, shelter, paw):
    """With metadata made to tell the score, the run that has it must find out."""
    table = pd.read_csv(shelter / "train.csv")
    for bit, name in enumerate(["Eyes", "Face", "Near", "Action", "Accessory", "Group", "Collage"]):
        table[name] = (table["Pawpularity"] // 2**bit) % 2
    table.to_csv(shelter / "train.csv", index=False)
    done = paw("probe", "--data", shelter, *TOY, "--json", "-")
    without, with_ = (row["score"]["rmse"] for row in json.loads(done.out)["runs"])
    assert with_ < without - 2


def test_several_encoders_stand_alone_and_together(work, shelter, paw):
    words = ("test_efficientnet", "--features", "logits", "--metadata", "none", "--run", "two", "--json", "-")
    done = paw("probe", "--data", shelter, *TOY, *words)
    assert done.code == 0, done.err
    names = [row["run"] for row in json.loads(done.out)["runs"]]
    assert names == ["two-test_resnet-logits-toy", "two-test_efficientnet-logits-toy",
                     "two-test_resnet-test_efficientnet-logits-toy"]  # fmt: skip
    run = Run.open(Path("oof") / names[2])
    assert (run.record["head"]["widths"], run.metrics(0)["features"]) == ([1000, 1000], 2000)


def test_long_lists_get_a_short_name():
    def name(*names):
        encoders = tuple(Encoder(Model(backbone=name), "pooled", 1, "") for name in names)
        return Recipe(encoders, "ridge", True).name("probe", "-x")

    assert name("a.b_c", "d") == "probe-a.b_c-d-meta-x"
    long = [f"a_rather_long_name_{i}.tag" for i in range(9)]
    assert name(*long) != name(*long[:8], "b")


@pytest.mark.parametrize("kind", ["logits", "pooled"])
def test_features_are_timms_and_follow_the_rows(tmp_path, kind):
    torch.manual_seed(5)
    net = timm.create_model("test_resnet")
    save_file(net.state_dict(), tmp_path / "test_resnet.safetensors")
    photos = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    decoded = replace(Photos.of(photos), key="k")
    model, compute = Model(backbone="test_resnet", weights=str(tmp_path)), choose("float32", "cpu")
    rows = np.arange(70)[::-1].copy()
    got = frozen_features(decoded, rows, model, kind, 32, compute)
    cache = FeatureCache(tmp_path / "t", decoded, 32, 1.0)
    cached = [frozen_features(decoded, rows, model, kind, 32, compute, cache=cache) for _ in range(2)]
    np.testing.assert_allclose(cached[0], got, rtol=1e-4, atol=1e-5)
    assert np.array_equal(cached[0], cached[1]), "read from the disk the second time"
    pixels = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(net.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        wanted = net.eval().forward_head(net.forward_features((pixels - mean) / std), pre_logits=kind == "pooled")
    np.testing.assert_allclose(got[::-1], wanted.numpy(), rtol=1e-3, atol=1e-3)
    save_file({k: v for k, v in net.state_dict().items() if "fc" not in k}, tmp_path / "test_resnet.safetensors")
    if kind == "pooled":
        np.testing.assert_array_equal(frozen_features(decoded, rows, model, kind, 32, compute), got)
    else:
        with pytest.raises(UserError, match="needs the classifier"):
            frozen_features(decoded, rows, model, kind, 32, compute)


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--features", "logit"), '"logits"'), (("--head", "rigde"), '"ridge"'), (("--metadata", "yes"), "--metadata"),
     (("--backbones", "mobilenet_v2_100"), '"mobilenetv2_100"'), (("--backbones", "test_resnet", "test_resnet"), "twice"),
     (("--backbones", "test_resnet", "model.weights=nowhere"), "model.weights"),
     (("--backbones", "test_resnet", "test_efficientnet", "model.args.num_x=1", "model.backbone=test_resnet"), "model.args")],
)  # fmt: skip
def test_wrong_words(work, shelter, refused, words, said):
    assert said in refused("probe", "--data", shelter, "--config", "sample", "photos.size=32", *words)
    assert not list(Path("oof").glob("*/config.json"))


def test_other_settings_weights_and_kinds_are_refused(probed, paw, refused):
    shelter, _ = probed
    assert "photos.fit" in refused("probe", "--data", shelter, *TOY, "photos.fit=crop")
    assert "weights" in refused("probe", "--data", shelter, *TOY, "train.seed=1")
    quick = ("--config", "scratch", "photos.size=32", "folds.k=3", "train.epochs=1", "train.warmup_epochs=0")
    assert "other settings" in refused("train", "--data", shelter, *quick, "--run", "probe-test_resnet-toy")
    assert "keeps no network" in refused("predict", "--run", "probe-test_resnet-toy", "--data", shelter)
    shutil.rmtree(shelter / "train")
    assert "no photos" in refused("probe", "--data", shelter, *TOY, "--run", "other")
