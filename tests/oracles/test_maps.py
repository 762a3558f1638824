"""Maps: RISE against masks made here, its error bars against repetition, Grad-CAM against autograd written by hand."""

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from tests.oracles import adapter

SIDE = 32
EXACT = torch.ones(1, SIDE, SIDE)
rows, columns = np.mgrid[:SIDE, :SIDE]
EFFECT = 0.20 * np.exp(-((rows - 10) ** 2 + (columns - 12) ** 2) / 15)
EFFECT -= 0.12 * np.exp(-((rows - 22) ** 2 + (columns - 20) ** 2) / 25)
"""Score points a pixel: a patch that helps, and one that harms."""


def own_masks(n: int, side: int, seed: int) -> torch.Tensor:
    """(n, side, side): 8 x 8 cells, each shown with chance 1/2, drawn up bilinearly, shifted at random by up to a cell."""
    generator = torch.Generator().manual_seed(seed)
    cell = side // 8
    grids = (torch.rand(n, 1, 8, 8, generator=generator) < 0.5).float()
    large = F.interpolate(grids, size=(9 * cell, 9 * cell), mode="bilinear", align_corners=False)[:, 0]
    shifts = torch.randint(cell, (n, 2), generator=generator)
    return torch.stack([one[y : y + side, x : x + side] for one, (y, x) in zip(large, shifts, strict=True)])


def own_map(score_of, photo, n, seed, parts=24):
    """(slope of the score on the mask at every place, its standard error) from `n` independent masks, in `parts` parts."""
    maps = []
    for part in range(parts):
        masks = own_masks(n // parts, photo.shape[-1], 1000 * seed + part)
        with torch.inference_mode():
            scores = torch.cat([score_of(one[:, None] * photo) for one in masks.split(250)]).double()
        centred, spread = masks.double() - masks.double().mean(0), masks.double().var(0)
        maps.append(((scores - scores.mean())[:, None, None] * centred).sum(0) / (len(masks) - 1) / spread)
    found = torch.stack(maps).numpy()
    return found.mean(0), found.std(0, ddof=1) / parts**0.5


def additive(noise=0.0):
    """40 + the sum of the effects shown + noise that no mask explains: a sine of far too many turns."""
    effect = torch.from_numpy(EFFECT)
    turns = torch.from_numpy(np.cos(3.0 * np.arange(SIDE * SIDE)).reshape(SIDE, SIDE))

    def score_of(batch):
        shown = batch[:, 0].double()
        wild = torch.sin(1e4 * (shown * turns).sum((1, 2)))
        return 40 + (shown * effect).sum((1, 2)) + noise * 2**0.5 * wild

    return score_of


def agreement(found, error, due, due_error):
    """(how many times `due` is in `found`, root mean square of the differences in standard errors)."""
    signal = (due**2).sum() - (due_error**2).sum()
    z = (found - due) / np.hypot(error, due_error)
    return (found * due).sum() / signal, float(np.sqrt(np.mean(z**2)))


def closed_form() -> np.ndarray:
    """What any number of masks makes of additive effects: their blur by the masks' covariance, over the variance."""
    cell = SIDE // 8
    unit = F.interpolate(torch.eye(8)[None].double(), size=9 * cell, mode="linear", align_corners=False)[0].numpy()
    shifted = np.stack([unit[:, shift : shift + SIDE] for shift in range(cell)])
    blur = np.einsum("scp,scq->pq", shifted, shifted) / cell
    return blur @ EFFECT @ blur.T / np.outer(np.diag(blur), np.diag(blur))


def test_rise_is_the_slope_of_the_score_on_the_mask():
    """Against the closed form for effects that add up, in score points and with its sign, and against own masks."""
    found, _, _ = adapter.rise_map(additive(), EXACT, masks=2048)
    due = closed_form()
    assert np.linalg.norm(found - due) < 0.05 * np.linalg.norm(due)
    assert found[10, 12] == pytest.approx(due[10, 12], rel=0.1)
    assert due[10, 12] > 0 > due[22, 20]
    own, error = own_map(additive(), EXACT, 4800, seed=1)
    assert np.sqrt(np.mean(((due - own) / error) ** 2)) == pytest.approx(1, abs=0.3), "the closed form is right"


def test_rises_error_bars_are_what_repetition_shows():
    """Over seeds: as far off as it says, inside its own 95 % in 95 of 100, and not biased."""
    due, off, said, inside, total = closed_form(), 0.0, 0.0, [], 0.0
    for seed in range(20):
        found, error, degrees = adapter.rise_map(additive(noise=2.0), EXACT, masks=1024, seed=seed)
        off, said, total = off + ((found - due) ** 2).sum(), said + (error**2).sum(), total + found
        inside.append((np.abs(found - due) <= scipy.stats.t.ppf(0.975, degrees) * error).mean())
    assert off / said == pytest.approx(1, abs=0.2)
    assert 0.92 <= np.mean(inside) <= 0.98
    assert np.linalg.norm(total / 20 - due) < 1.5 * (off / 20) ** 0.5 / 20**0.5


@pytest.mark.slow
def test_rise_of_a_network_against_twelve_thousand_own_masks():
    """A convolutional score that is no sum of effects: slope and error bars."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = adapter.network("test_resnet", 64)
        photo = F.interpolate(torch.randn(1, 3, 8, 8), size=64, mode="bicubic")[0]
    with torch.inference_mode():
        features = net.timm(torch.stack([photo, 0 * photo]))
        turn = features[0] - features[1]

    def score_of(batch):
        """Score points: how much of the photo the network still sees, a bend, and ripples that no mask's cell explains."""
        seen = (net.timm(batch) - features[1]) @ turn / turn.dot(turn)
        return 50 + 20 * torch.tanh(2 * seen - 1) + 3 * torch.sin(60 * seen)

    own, own_error = own_map(score_of, photo, 12_000, seed=2)
    found, errors, _ = map(
        np.stack, zip(*(adapter.rise_map(score_of, photo, 2048, seed) for seed in range(8)), strict=True)
    )
    apart = [agreement(one, error, own, own_error) for one, error in zip(found, errors, strict=True)]
    assert [slope for slope, _ in apart] == pytest.approx([1] * 8, abs=0.1)
    assert np.mean([slope for slope, _ in apart]) == pytest.approx(1, abs=0.04)
    assert 0.85 < np.mean([z for _, z in apart]) < 1.18, "as far from the own map as both errors say"
    assert found.var(0, ddof=1).sum() == pytest.approx((errors**2).mean(0).sum(), rel=0.2), "and from one another"


@pytest.mark.parametrize(("backbone", "size"), [("test_resnet", 96), ("mobilenetv2_100", 64)])
def test_gradcam_is_autograd_by_hand(backbone, size):
    """Sum over channels of activation x mean gradient, from timm's own forward_features and forward_head."""
    net = adapter.network(backbone, size)
    random = np.random.default_rng(0)
    photo = np.kron(random.integers(0, 256, (size // 4, size // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    metadata = random.integers(0, 2, 12).astype(np.float32)
    x = net.input(photo)
    features = net.timm.forward_features(x[None]).detach().requires_grad_(True)
    points = net.head(net.timm.forward_head(features), metadata)
    (slope,) = torch.autograd.grad(points.sum(), features)
    due = (slope.double().mean((2, 3), keepdim=True) * features.double()).sum(1)[0].detach().numpy()
    found = net.gradcam(x, metadata)
    assert due.std() > 0
    np.testing.assert_allclose(found, due, rtol=1e-3, atol=1e-4 * np.abs(due).max())
