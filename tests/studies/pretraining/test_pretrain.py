"""The small net that comes with the package: how it is made, what it learned from, and that it loads."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pawpularity.config import Model
from pawpularity.errors import UserError
from pawpularity.models.backbone import build_backbone
from pawpularity.models.weights import PACKAGED, find_weights, packaged_weights, read_tensors, tensors_hash
from pawpularity.sample.spec import TRAIN, Photo, describe
from pawpularity.studies.pretraining import labels as label_module
from pawpularity.studies.pretraining.labels import FLAGS, IN_RULE, KINDS, MEASURES, labels_of, widths
from pawpularity.studies.pretraining.pretrain import BACKBONE, SIZE, augment, halved

TOY = ("pretrain", "--photos", 40, "--epochs", 1)


def make(paw, path: Path, *words: object) -> dict:
    outcome = paw(*TOY, "--out", path, *words)
    assert outcome.code == 0, outcome.err
    assert "it knows drawings, not photographs" in outcome.err
    return json.loads(path.with_suffix(".json").read_text())


def test_the_same_command_gives_the_same_bytes(paw, work):
    first, second, other = (work / f"{name}.safetensors" for name in "abc")
    made, again, changed = make(paw, first), make(paw, second), make(paw, other, "--seed", 1002)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    assert made["tensors_hash"] == again["tensors_hash"] != changed["tensors_hash"]
    assert made["labels"] == again["labels"]
    assert made["command"] == "pawpularity pretrain --photos 40 --epochs 1 --seed 1001"
    assert sorted(file.name for file in work.iterdir() if file.name != "configs") == [
        f"{name}.{kind}" for name in "abc" for kind in ("json", "safetensors")
    ]
    assert build_backbone(Model(backbone=BACKBONE, weights=str(first)), size=SIZE, seed=0).weights_file == first


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--photos", 1], "--photos 1 is out of range"),
        (["--epochs", 0], "--epochs 0 is out of range"),
        (["--seed", 7], "take another than 0, 1, 3, 7"),
        (["--out", "net.pt"], "must name a .safetensors file"),
    ],
)
def test_what_cannot_be_made_is_refused_at_once(refused, work, words, said):
    assert said in refused("pretrain", *words)
    assert [file.name for file in work.iterdir()] == ["configs"]


def test_the_packaged_net_is_the_one_its_provenance_names():
    path = packaged_weights(BACKBONE)
    provenance = json.loads(path.with_suffix(".json").read_text())
    tensors = read_tensors(path)
    assert path.stat().st_size < 1_500_000
    assert provenance["file"] == path.name
    assert provenance["tensors_hash"] == tensors_hash(tensors)
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float16}
    assert provenance["licence"] == "MIT"
    assert "it knows drawings, not photographs" in provenance["what"]
    assert provenance["data"]["seed"] not in (0, 1, 3, 7)
    assert list(provenance["labels"]) == [*KINDS, *FLAGS, *MEASURES]
    assert {name for name, figures in provenance["labels"].items() if figures["in_rule"]} == IN_RULE
    told = provenance["labels"]["species"]
    assert told["accuracy"] > told["majority"] + 0.4


@pytest.mark.parametrize("name", [BACKBONE, f"{BACKBONE}.r160_in1k"])
def test_the_packaged_net_loads_as_float32(name):
    built = build_backbone(Model(backbone=name, weights="drawn"), size=SIZE, seed=0)
    state = built.net.state_dict()
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float32}
    assert tensors_hash(halved(built.net)) == tensors_hash(read_tensors(packaged_weights(BACKBONE)))
    features = built.net(torch.randn(2, 3, SIZE, SIZE))
    assert features.shape == (2, built.width)
    assert features.isfinite().all()


def test_another_backbone_is_refused_in_one_line(paw, work):
    with pytest.raises(UserError, match="no drawn weights for densenet161") as caught:
        find_weights("densenet161.tv_in1k", "drawn")
    assert "it has them for: test_resnet; take model.weights=imagenet" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="must be imagenet, none, drawn"):
        find_weights(BACKBONE, "nowhere")
    assert {file.suffix for file in PACKAGED.iterdir()} == {".safetensors", ".json"}


def test_a_tensor_beyond_half_precision_is_refused():
    net = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(net.weight, 1e6)
    with pytest.raises(UserError, match="weight left the range of half precision"):
        halved(net)


def test_labels_know_nothing_of_the_score(monkeypatch):
    def forbidden(self):
        raise AssertionError("the score was asked for")

    photos = [describe(5, TRAIN, index) for index in range(200)]
    monkeypatch.setattr(Photo, "points", forbidden)
    monkeypatch.setattr(Photo, "mean_unclipped", forbidden)
    before = labels_of(photos)
    # The two parts of the rule that are not taught at all: they may change and no label does.
    after = labels_of([replace(photo, contrast=0.5, clutter=4) for photo in photos])
    assert torch.equal(before.kinds, after.kinds)
    assert torch.equal(before.flags, after.flags)
    assert torch.equal(before.measures, after.measures)
    assert before.kinds.shape[1] + before.flags.shape[1] + before.measures.shape[1] == len({*KINDS, *FLAGS, *MEASURES})
    assert sum(widths()) == sum(len(names) for names, _ in KINDS.values()) + len(FLAGS) + len(MEASURES)


def test_the_room_imports_no_score():
    scores = {"noise", "scored", "expected_score", "score_variance", "plan", "floor", "truth_row", "draw_sample"}
    for path in Path(label_module.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pawpularity.sample"):
                assert node.module != "pawpularity.sample.truth"
                assert not scores & {alias.name for alias in node.names}


def test_labels_follow_a_crop_and_a_flip():
    photo = replace(describe(5, TRAIN, 0), x=0.55, y=0.45, pose="sitting", tilt=8.0)
    labels = labels_of([photo] * 64)
    pixels = np.zeros((64, SIZE, SIZE, 3), np.uint8)
    row, column = round(photo.y * SIZE), round(photo.x * SIZE)
    pixels[:, row - 3 : row + 3, column - 3 : column + 3] = 200  # a bright square where the head is said to be
    views, moved = augment(torch.from_numpy(pixels), labels, torch.Generator().manual_seed(0))
    assert views.shape == (64, 3, SIZE, SIZE)
    light = views.mean(dim=1)
    light = (light - light.amin(dim=(1, 2), keepdim=True)).clamp_min(0)
    share = light / light.sum(dim=(1, 2), keepdim=True)
    where = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    names = list(MEASURES)
    assert (share.sum(dim=1) @ where - moved.measures[:, names.index("x")]).abs().max() < 0.02
    assert (share.sum(dim=2) @ where - moved.measures[:, names.index("y")]).abs().max() < 0.02
    assert moved.measures[:, names.index("tilt")].unique().tolist() == pytest.approx([-0.8, 0.8])
    assert (moved.measures[:, names.index("radius")] >= labels.measures[:, names.index("radius")] - 1e-6).all()
