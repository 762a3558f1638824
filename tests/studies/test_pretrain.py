"""The small network that comes with the package: how it is made, what it learned from, and that it loads."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pawpularity.config import Model
from pawpularity.errors import UserError
from pawpularity.models.backbone import build_backbone
from pawpularity.models.weights import find_weights, packaged_weights, read_tensors, tensors_hash
from pawpularity.sample.spec import TRAIN, Photo, describe
from pawpularity.studies.pretrain import BACKBONE, FLAGS, KINDS, MEASURES, SIZE, augment, labels_of


@pytest.mark.slow
def test_the_same_command_gives_the_same_bytes(paw, work):
    files = [work / f"{name}.safetensors" for name in "abc"]
    for file, seed in zip(files, (1001, 1001, 1002), strict=True):
        outcome = paw("pretrain", "--photos", 40, "--epochs", 1, "--seed", seed, "--out", file)
        assert outcome.code == 0, outcome.err
    first, second, other = (file.read_bytes() for file in files)
    assert first == second != other
    record = json.loads(files[0].with_suffix(".json").read_text())
    assert record["command"] == "pawpularity pretrain --photos 40 --epochs 1 --seed 1001"
    assert record["tensors_hash"] == tensors_hash(read_tensors(files[0]))
    packaged = json.loads(packaged_weights(BACKBONE).with_suffix(".json").read_text())
    assert list(record["labels"]) == list(packaged["labels"]) == [*KINDS, *FLAGS, *MEASURES]
    assert build_backbone(Model(backbone=BACKBONE, weights=str(files[0])), size=SIZE, seed=0).weights_file == files[0]


@pytest.mark.parametrize(("option", "value"), [("--seed", 7), ("--out", "net.pt")])
def test_a_seed_that_figures_are_made_on_and_a_foreign_file_are_refused(refused, work, option, value):
    assert f"{option} {value}" in refused("pretrain", option, value)


def test_the_packaged_network_is_the_one_its_record_names():
    path = packaged_weights(BACKBONE)
    record, tensors = json.loads(path.with_suffix(".json").read_text()), read_tensors(path)
    assert record["tensors_hash"] == tensors_hash(tensors)
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float16}
    assert record["data"]["seed"] not in (0, 1, 3, 7)
    assert record["labels"]["species"]["accuracy"] > record["labels"]["species"]["majority"] + 0.4
    built = build_backbone(Model(backbone=f"{BACKBONE}.r160_in1k", weights="drawn"), size=SIZE, seed=0)
    for name, tensor in built.net.state_dict().items():
        assert torch.equal(tensor, tensors[name].to(tensor.dtype)), name
    with pytest.raises(UserError, match="drawn"):
        find_weights("densenet161.tv_in1k", "drawn")


def test_labels_know_nothing_of_the_score(monkeypatch):
    def forbidden(self):
        raise AssertionError("the score was asked for")

    photos = [describe(5, TRAIN, index) for index in range(200)]
    monkeypatch.setattr(Photo, "points", forbidden)
    monkeypatch.setattr(Photo, "mean_unclipped", forbidden)
    # The two parts of the rule that are not taught: they may change, and no label does.
    changed = labels_of([replace(photo, contrast=0.5, clutter=4) for photo in photos])
    assert all(map(torch.equal, labels_of(photos), changed))


def test_labels_are_those_of_the_description():
    photos = [describe(5, TRAIN, index) for index in range(300)]
    kinds, flags, measures = labels_of(photos)
    names = {kind: [list(KINDS[kind])[code] for code in kinds[:, i]] for i, kind in enumerate(KINDS)}
    assert names["pose"] == [photo.pose for photo in photos]
    assert names["coat"] == [f"{photo.species} {photo.coat}" for photo in photos]
    assert names["occlusion"] == [photo.occlusion or "none" for photo in photos]
    assert names["second pet"] == [photo.second_species if photo.second else "none" for photo in photos]
    assert {names["eyes"][i] for i, p in enumerate(photos) if p.eyes in ("left shut", "right shut")} == {"one shut"}
    assert flags[:, list(FLAGS).index("spotlight")].tolist() == [float(photo.focus) for photo in photos]
    assert measures[:, MEASURES.index("radius")].exp().tolist() == pytest.approx([photo.radius for photo in photos])
    assert kinds.min() >= 0


def test_labels_follow_a_crop_and_a_flip():
    photo = replace(describe(5, TRAIN, 0), x=0.55, y=0.45, pose="sitting", tilt=8.0)
    labels = labels_of([photo] * 64)
    pixels = np.zeros((64, SIZE, SIZE, 3), np.uint8)
    row, column = round(photo.y * SIZE), round(photo.x * SIZE)
    pixels[:, row - 3 : row + 3, column - 3 : column + 3] = 200  # a bright square where the head is said to be
    views, moved = augment(torch.from_numpy(pixels), labels, torch.Generator().manual_seed(0))
    light = views.mean(dim=1)
    light = (light - light.amin(dim=(1, 2), keepdim=True)).clamp_min(0)
    share = light / light.sum(dim=(1, 2), keepdim=True)
    where = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    x, y, radius, _, tilt = moved.measures.unbind(1)
    assert (share.sum(dim=1) @ where - x).abs().max() < 0.02
    assert (share.sum(dim=2) @ where - y).abs().max() < 0.02
    assert tilt.unique().tolist() == pytest.approx([-0.8, 0.8])
    assert (radius >= labels.measures[:, MEASURES.index("radius")] - 1e-6).all()
