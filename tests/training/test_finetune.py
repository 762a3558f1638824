"""Layer-wise rates, LoRA, soups, bins and what else fine-tuning adds: each against what it must equal."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch.nn.functional import softmax

from pawpularity.config import Train, resolve
from pawpularity.models.network import build_network
from pawpularity.training.loop import Loop, shrunk
from pawpularity.training.losses import LOSSES
from pawpularity.training.optimiser import Kept, mean_state, parameter_groups

VIT = ("model.backbone=test_vit", "photos.size=160", "model.unfrozen=all")


def toy(*words):
    return resolve("scratch", ["photos.size=32", "model.backbone=test_resnet", *words])


def test_rates_fall_from_the_last_block_to_the_first_and_norms_need_not_decay():
    train = Train(layer_decay=0.5, decay_norms=False, lr=1.0)
    network = build_network(toy(*VIT), fold=0)
    groups = parameter_groups(network, train)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(p.requires_grad for p in network.parameters())
    assert {rates[id(p)] for p in network.fusion.parameters()} == {1.0} == {groups[0]["lr"]}
    blocks = network.split.blocks
    by_block = [{rates[id(p)] for p in block.parameters()} for block in blocks]
    assert by_block == [{0.5 ** (len(blocks) - at)} for at in range(len(blocks))]
    for group in groups:
        assert group.get("weight_decay", 1.0) == (0.0 if all(p.ndim <= 1 for p in group["params"]) else 1.0)


def test_unfrozen_blocks_hold_a_layer_each():
    few, more = (build_network(toy(*VIT, f"model.unfrozen={n} blocks"), fold=0) for n in (1, 2))
    trained = [{name for name, p in net.backbone.named_parameters() if p.requires_grad} for net in (few, more)]
    assert trained[0] < trained[1]
    last = max(name.split(".")[1] for name in trained[0] if name.startswith("blocks."))
    assert all(name.startswith((f"blocks.{last}.", "norm", "fc_norm")) for name in trained[0])


@pytest.mark.parametrize("backbone", ["test_vit", "test_convnext", "test_efficientnet"])
def test_lora_starts_as_the_network_was_and_trains_thin_matrices_alone(backbone):
    size = 160 if backbone == "test_vit" else 64
    words = (f"model.backbone={backbone}", f"photos.size={size}", "model.unfrozen=2 blocks")
    plain, thin = build_network(toy(*words), fold=0), build_network(toy(*words, "model.lora=2"), fold=0)
    photos = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    pooled = [net.split.run(net.frozen_features(photos), net.frozen_blocks) for net in (plain, thin)]
    assert torch.equal(*pooled)
    inside = {name for name in thin.trained_state() if name.startswith("backbone.")}
    assert inside
    assert all(name.endswith((".up", ".down")) for name in inside)
    thin.train().head(thin.frozen_features(photos)).sum().backward()
    learning = [name for name, p in thin.backbone.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert learning
    assert all(name.endswith(".up") for name in learning), "down follows once up has left zero"


@pytest.mark.parametrize("output", ["bins", "ordinal", "sigmoid", "relu", "linear"])
def test_an_untrained_network_answers_the_mean_and_a_perfect_one_the_score(output):
    config = toy(f"model.output={output}", "train.loss=mse", "model.bins=7")
    network = build_network(config, fold=0, training_mean=37.0)
    with torch.no_grad():
        network.score.weight.zero_()
        raw = network(torch.zeros(3, 32, 32, 3, dtype=torch.uint8))
        assert network.points(raw).tolist() == pytest.approx([37.0] * 3, abs=1e-3)
    if output not in LOSSES:
        return
    target = torch.tensor([1.0, 20.0, 51.3, 100.0])
    learnt = torch.zeros(4, 7, requires_grad=True)
    best = torch.optim.LBFGS([learnt], max_iter=300, line_search_fn="strong_wolfe")

    def loss():
        best.zero_grad()
        found = LOSSES[output](learnt, network.points(learnt), target, config.train)
        found.backward()
        return found

    best.step(loss)
    assert network.points(learnt).tolist() == pytest.approx(target.tolist(), abs=0.2)
    if output == "bins":
        assert (softmax(learnt, 1) > 0.01).sum(1).max() <= 2, "all chance on the two bins beside the score"


def test_gradients_are_the_same_when_blocks_are_computed_again():
    network = build_network(toy(*VIT, "model.dropout=0"), fold=0).train()
    photos, found = torch.randint(0, 256, (2, 160, 160, 3), dtype=torch.uint8), []
    for network.recomputes in (False, True):
        network.zero_grad()
        network(photos).sum().backward()
        found.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@dataclass
class Mixer:
    """As much of a Loop as mixing photos needs."""

    mixing: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))


def test_scores_follow_the_area_that_cutmix_covers():
    n = 16
    photos = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 40, 60, 3).clone()
    scores, shares = torch.arange(n, dtype=torch.float32), set()
    mixer = Mixer()
    for _ in range(20):
        cut, columns, target = Loop._cut(mixer, (photos, scores[:, None].repeat(1, 12), scores), 1.0)
        assert cut.dtype == photos.dtype
        torch.testing.assert_close(cut.float().mean(dim=(1, 2, 3)), target, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(columns[:, 0], target)
        shares.add(round(float((cut != photos).any(-1).float().mean()), 2))
    assert len(shares) > 8


def test_photos_grow_to_their_size():
    train = Train(start_size=96, epochs=9)
    photos = torch.zeros(2, 224, 224, 3, dtype=torch.uint8)
    sizes = [shrunk(photos, train, 224, epoch).shape[1] for epoch in np.arange(0, 9, 0.5)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 96
    assert sizes[12:] == [224] * 6
    assert set(sizes) <= {96, 128, 160, 192, 224}
    assert shrunk(photos, Train(), 224, 0.0) is photos


@dataclass
class Scored:
    """As much of a Loop as a soup needs: the RMSE of a one-number network that aims at 2."""

    kept: list
    value: float = 0.0

    def _scored(self):
        return self

    def load_state_dict(self, state, strict):
        self.value = float(state["w"])

    def _inner_rmse(self, watched):
        return abs(self.value - 2.0)


def test_a_soup_takes_what_lowers_the_inner_rmse():
    values = {1: 5.0, 2: 1.5, 3: 2.9, 4: -3.0}
    kept = [
        Kept(at, abs(value - 2.0), {"w": torch.tensor(value), "n": torch.tensor(at)}) for at, value in values.items()
    ]
    soup = Loop._soup(Scored(kept), None)
    assert [one.check for one in soup] == [2, 3]
    assert mean_state(soup)["w"] == pytest.approx(2.2)
    assert mean_state(soup)["n"] == 2, "a counter"


def test_checks_within_an_epoch_change_no_step(work, drawn, paw):
    words = ("train", "--data", drawn, "--config", "scratch", "model.backbone=test_resnet", "photos.size=32", "folds.k=2",
             "train.epochs=2", "train.batch_size=8", "train.warmup_epochs=0.5", "train.dtype=float32", "--fold", "0")  # fmt: skip
    for run, more in {"one": (), "three": ("train.checks=3",)}.items():
        assert paw(*words, "--run", run, *more).code == 0
    one, three = (work / f"oof/{run}/fold0" for run in ("one", "three"))
    assert (one / "predictions.csv").read_text() == (three / "predictions.csv").read_text()
    assert len((three / "history.csv").read_text().splitlines()) == 1 + 3 * 2


@pytest.mark.parametrize(
    ("words", "cure"),
    [(("train.optimizer=adamx",), "adam"), (("train.soup=2",), "stop=early"),
     (("train.start_size=64", "model.backbone=deit_tiny_patch16_224", "photos.size=224"), "dynamic_img_size"),
     (("train.start_size=64", "model.unfrozen=9"), "unfrozen=all"),
     (("train.cutmix=1", "train.manifold_mixup=1", "model.unfrozen=9"), "manifold_mixup")],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_written(work, drawn, refused, words, cure):
    line = refused("train", "--data", drawn, "--config", "scratch", "model.backbone=test_resnet", *words)
    assert cure in line
    assert not list(work.glob("oof/*/config.json"))
