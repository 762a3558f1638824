"""`pawpularity probe` through the real command: the out-of-fold contract, the table, blends, and what is refused."""

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

from pawpularity import Predictor
from pawpularity.data.photo_cache import Photos
from pawpularity.device import choose
from pawpularity.ensemble.record import mean_blend
from pawpularity.errors import UserError
from pawpularity.evaluation.metrics import rmse
from pawpularity.evaluation.oof import constant_predictions, read_oof, read_run
from pawpularity.features.build import FeatureCache
from pawpularity.heads.features import frozen_features
from pawpularity.heads.heads import Probe
from pawpularity.runs import Run
from pawpularity.config import Model

TOY = ("--config", "scratch", "photos.size=32", "folds.k=3", "--backbones", "test_resnet")


@pytest.fixture
def probed(work, shelter, paw):
    """One tower, with metadata and without, and what was printed."""
    done = paw("probe", "--data", shelter, *TOY, "--head", "both")
    assert done.code == 0, done.err
    return shelter, done


def test_a_probe_leaves_the_contract(probed):
    shelter, done = probed
    names = ["probe-test_resnet", "probe-test_resnet-meta", "probe-test_resnet-svr", "probe-test_resnet-svr-meta"]
    assert {p.name for p in Path("oof").iterdir()} == {"folds", *(f"{name}-toy" for name in names)}
    truth = pd.read_csv(shelter / "train.csv").set_index("Id")["Pawpularity"]
    for name in names:
        run = Run.open(Path(f"oof/{name}-toy"))
        assert run.kind == "probe"
        assert run.trained_folds() == [0, 1, 2]
        table = read_run(run)
        assert list(table["Id"]) == sorted(truth.index)
        assert (table["target"].to_numpy() == truth.loc[table["Id"]].to_numpy()).all()
        assert table["prediction"].between(1, 100).all()
        assert {p.name for p in (run.folder / "fold1").iterdir()} == {"predictions.csv", "metrics.json"}
        constant = constant_predictions(table)
        for fold in range(3):
            metrics, rows = run.metrics(fold), table["fold"] == fold
            assert {"rmse", "constant_rmse", "n", "seconds", "seed", "device", "dtype", "chosen"} <= metrics.keys()
            assert metrics["rmse"] == pytest.approx(rmse(table["target"][rows], table["prediction"][rows]), abs=1e-6)
            assert metrics["training_mean"] == pytest.approx(constant[rows][0])
    assert "by these figures flatters it" in done.err
    assert "random weights" in done.err
    assert "alpha" in done.out
    assert str(shelter.parent) not in Path("oof/probe-test_resnet-toy/config.json").read_text()


def test_the_table_and_the_blend_take_probes(probed, paw):
    listed = json.loads(paw("oof", "--json", "-").out)["runs"]
    assert len(listed) == 4
    assert all(len(row["chosen"]) == 3 for row in listed)
    runs = [Run.open(Path("oof") / f"probe-test_resnet{mark}-toy") for mark in ("", "-svr-meta")]
    blend = mean_blend(runs, Path("oof/mean"))
    tables = [read_oof(run.oof_file)["prediction"] for run in (*runs, blend)]
    np.testing.assert_allclose(tables[2], (tables[0] + tables[1]) / 2, atol=1e-6)
    assert "mean" in paw("oof").out


def test_the_same_command_gives_the_same_bytes_and_replaces_the_run(probed, paw, refused):
    shelter, _ = probed
    file = Path("oof/probe-test_resnet-meta-toy/fold1/predictions.csv")
    before = file.read_bytes()
    file.write_text("Id,fold,target,prediction\n")
    said = refused("oof", "probe-test_resnet-meta-toy")
    assert "make probe" in said or "a header and no rows" in said
    assert paw("probe", "--data", shelter, *TOY, "--metadata", "use").code == 0
    assert file.read_bytes() == before


def test_metadata_is_one_column_set_more(work, shelter, paw):
    """With metadata made to tell the score, the run that has it must find out."""
    table = pd.read_csv(shelter / "train.csv")
    for bit, name in enumerate(["Eyes", "Face", "Near", "Action", "Accessory", "Group", "Collage"]):
        table[name] = (table["Pawpularity"] // 2**bit) % 2
    table.to_csv(shelter / "train.csv", index=False)
    done = paw("probe", "--data", shelter, *TOY, "--json", "-")
    without, with_ = (row["score"]["rmse"] for row in json.loads(done.out)["runs"])
    assert with_ < without - 2


def test_several_towers_stand_alone_and_together(work, shelter, paw):
    words = ("--features", "logits", "--metadata", "none", "--run", "two", "--json", "-", "model.args.num_x=1")
    done = paw("probe", "--data", shelter, *TOY, "test_vit3.r160_in1k", *words, "photos.size=160")
    assert done.code == 2, "the arguments are of the first backbone"
    done = paw("probe", "--data", shelter, *TOY, "test_efficientnet", *words[:-1])
    assert done.code == 0, done.err
    assert "a random classifier" in done.err
    names = [row["run"] for row in json.loads(done.out)["runs"]]
    assert names == ["two-test_resnet-logits-toy", "two-test_efficientnet-logits-toy",
                     "two-test_resnet-test_efficientnet-logits-toy"]  # fmt: skip
    record = json.loads(Path(f"oof/{names[2]}/config.json").read_text())
    assert record["probe"]["widths"] == [1000, 1000]
    assert Run.open(Path("oof") / names[2]).metrics(0)["features"] == 2000


def test_features_follow_the_rows_and_the_weights(tmp_path):
    torch.manual_seed(5)
    net = timm.create_model("test_resnet")
    save_file(net.state_dict(), tmp_path / "test_resnet.safetensors")
    photos = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    decoded = replace(Photos.of(photos), key="k")
    model, compute = Model(backbone="test_resnet", weights=str(tmp_path)), choose("float32", "cpu")
    rows = np.arange(70)[::-1].copy()
    for kind, width in (("logits", 1000), ("pooled", 64)):
        got = frozen_features(decoded, rows, model, kind, 32, compute)
        kept = [
            frozen_features(
                decoded, rows, model, kind, 32, compute, trunks=FeatureCache(tmp_path / "t", decoded, 32, 1.0)
            )
            for _ in range(2)
        ]
        np.testing.assert_allclose(kept[0], got, rtol=1e-4, atol=1e-5)
        assert np.array_equal(kept[0], kept[1]), "read from the disk the second time"
        assert got.dtype == np.float32
        assert got.shape[0] == 70
        cfg = net.pretrained_cfg
        pixels = torch.from_numpy(photos[:3]).permute(0, 3, 1, 2).float() / 255
        x = (pixels - torch.tensor(cfg["mean"]).view(3, 1, 1)) / torch.tensor(cfg["std"]).view(3, 1, 1)
        with torch.inference_mode():
            states = net.eval().forward_features(x)
            wanted = net.forward_head(states, pre_logits=kind == "pooled")
        np.testing.assert_allclose(got[::-1][:3], wanted.numpy(), rtol=1e-3, atol=1e-3)
        assert kind == "pooled" or got.shape[1] == width
    save_file({k: v for k, v in net.state_dict().items() if "fc" not in k}, tmp_path / "test_resnet.safetensors")
    assert frozen_features(decoded, rows, model, "pooled", 32, compute).shape[0] == 70
    with pytest.raises(UserError, match="needs the classifier"):
        frozen_features(decoded, rows, model, "logits", 32, compute)


def test_long_lists_get_a_short_name():
    def name(*names):
        return Probe(tuple(_Named(n) for n in names), "ridge", True).name("probe", "-x")

    class _Named:
        kind = "pooled"

        def __init__(self, name):
            self.name = name

    assert name("a.b_c", "d") == "probe-a.b_c-d-meta-x"
    long = [f"a_rather_long_name_{i}.tag" for i in range(9)]
    assert name(*long).startswith("probe-a_rather_long_name_0.tag-and-8-more-")
    assert name(*long) != name(*long[:8], "b")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--features", "foo"), "--features foo: is not known"),
        (("--features", "logit"), 'did you mean "logits"?'),
        (("--head", "rigde"), 'did you mean "ridge"?'),
        (("--metadata", "yes"), "valid: both, none, use"),
        (("--run", "../x"), "must be letters"),
        (("--backbones", "mobilenet_v2_100"), 'did you mean "mobilenetv2_100"'),
        (("--backbones", "test_resnet,test_resnet"), "names test_resnet twice"),
        (("--backbones", "test_resnet", "model.weights=nowhere"), "must be imagenet"),
        (("--fold", "0"), "unknown option --fold"),
        (("folds.k=2",), "take 3 or more"),
    ],
)
def test_wrong_words(work, shelter, refused, words, said):
    assert said in refused("probe", "--data", shelter, "--config", "sample", "photos.size=32", *words)
    assert not list(Path("oof").glob("*/config.json"))


def test_labels_alone_are_refused(work, shelter, refused):
    shutil.rmtree(shelter / "train")
    assert "has labels only" in refused("probe", "--data", shelter, *TOY)
    assert not Path("oof").exists()


def test_other_settings_other_kinds_and_networks_are_refused(probed, paw, refused):
    shelter, _ = probed
    assert "photos.fit was squash, is crop" in refused("probe", "--data", shelter, *TOY, "photos.fit=crop")
    words = ("probe", "--data", shelter, *TOY, "--metadata", "none", "--run", "w", "model.weights=weights")
    _make_weights(1)
    assert paw(*words).code == 0
    _make_weights(2)
    assert "its weights had hash" in refused(*words)
    assert "it is a probe of frozen features" in refused(
        "train",
        "--data",
        shelter,
        *TOY[:4],
        "train.epochs=1",
        "train.warmup_epochs=0",
        "--run",
        "probe-test_resnet-toy",
    )
    with pytest.raises(UserError, match="probe of frozen features and keeps no network"):
        Predictor.load("oof/probe-test_resnet-toy")
    assert "keeps no network" in refused("predict", "--run", "probe-test_resnet-toy", "--data", shelter)
    # What a probe does not use may differ.
    assert paw("probe", "--data", shelter, *TOY, "train.lr=0.1", "--metadata", "none").code == 0


def _make_weights(seed):
    torch.manual_seed(seed)
    Path("weights").mkdir(exist_ok=True)
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), "weights/test_resnet.safetensors")


def test_a_stopped_start_binds_nobody(work, shelter, paw, refused, monkeypatch):
    import pawpularity.heads.heads as probe

    with monkeypatch.context() as patch:
        patch.setattr(probe, "assemble", lambda run: (_ for _ in ()).throw(UserError("stopped")))
        assert "stopped" in refused("probe", "--data", shelter, *TOY, "--metadata", "none")
    with monkeypatch.context() as patch:
        patch.setattr(probe, "write_json", lambda *a: (_ for _ in ()).throw(UserError("stopped")))
        assert "stopped" in refused("probe", "--data", shelter, *TOY, "--metadata", "none")
    assert Run.open(Path("oof/probe-test_resnet-toy")).trained_folds() == []
    assert paw("probe", "--data", shelter, *TOY, "--metadata", "none", "photos.fit=crop").code == 0


def test_real_photos_and_real_weights(work, real, paw):
    words = (
        "--backbones",
        "mobilenetv2_100",
        f"model.weights={real / 'weights'}",
        "photos.size=224",
        "train.dtype=float32",
    )
    done = paw("probe", "--data", real / "pawpularity-100", *words, "--json", "-")
    assert done.code == 0, done.err
    for row in json.loads(done.out)["runs"]:
        assert row["score"]["n"] == 100
        assert row["score"]["rmse"] < row["score"]["constant_rmse"]
