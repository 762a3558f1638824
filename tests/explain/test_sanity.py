import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from tests.explain.linear_network import any_pixels, score_of
from torch import nn

from pawpularity.config import resolve
from pawpularity.explain.map_similarity import ssim
from pawpularity.explain.sanity import cascade, draw_sanity
from pawpularity.explain.scored import PhotoScore
from pawpularity.models.network import Network, build_network

SIZE = 32


def network_of(backbone: str = "test_resnet", **settings: object) -> Network:
    words = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    config = resolve("scratch", ["photos.size=32", f"model.backbone={backbone}", "model.weights=none", *words])
    network = build_network(config, fold=0, training_mean=38.0)
    random = torch.Generator().manual_seed(1)
    for parameter in network.parameters():  # as if trained: heads start so small that scores would hardly differ
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
    return network


def photos_for(score: PhotoScore, count: int = 6) -> list[torch.Tensor]:
    return [score.input_of(any_pixels(SIZE, seed)) for seed in range(count)]


def gradient_map(score: PhotoScore, x: torch.Tensor, drawn: int = 0) -> np.ndarray:
    x = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(score.exact(x[None]).sum(), x)
    return slope.sum(dim=0).numpy()


def edges(score: PhotoScore, x: torch.Tensor, drawn: int = 0) -> np.ndarray:
    return np.hypot(*np.gradient(gaussian_filter(x.mean(dim=0).numpy(), 1.0)))


@pytest.fixture(scope="module")
def score() -> PhotoScore:
    return score_of(network_of())


@pytest.fixture(scope="module")
def xs(score) -> list[torch.Tensor]:
    return photos_for(score)


def test_a_map_of_the_network_passes_and_one_of_the_photo_fails(score, xs):
    before = copy.deepcopy(score.network.state_dict())
    asked = torch.random.get_rng_state()
    passed = cascade(score, xs, gradient_map, method="gradient")
    failed = cascade(score, xs, edges, method="edges")
    assert passed.verdict == "passes"
    assert failed.verdict == "fails"
    assert failed.left["signed"].mean == pytest.approx(1.0)
    assert passed.stages[0].name == "trained"
    assert passed.stages[0].likeness["signed"].mean == pytest.approx(1.0)
    assert abs(passed.stages[-1].likeness["signed"].mean) < 0.15
    assert len(passed.stages) <= 1 + 8
    for name, tensor in score.network.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} was changed"
    assert torch.equal(asked, torch.random.get_rng_state())
    # Half the trained network, half the photo: it falls, but not far enough.
    mixed = cascade(score, xs, lambda s, x, _: _scaled(gradient_map(s, x)) + 2 * _scaled(edges(s, x)), method="mixed")
    assert mixed.verdict == "fails"
    assert mixed.stages[-1].likeness["signed"].mean < 0.95


def _scaled(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def test_the_weights_go_from_the_top_down_and_every_layer_by_its_own_seed(score, xs):
    seen: list[dict[str, torch.Tensor]] = []

    def record(now: PhotoScore, x: torch.Tensor, drawn: int) -> np.ndarray:
        if x is xs[0] and not drawn:
            seen.append({name: tensor.clone() for name, tensor in now.network.state_dict().items()})
        return gradient_map(now, x)

    stages = [stage.name for stage in cascade(score, xs, record, method="gradient").stages]
    seen = seen[1:]  # the maps of the trained network come first, then the cascade begins with it
    assert stages[:4] == ["trained", "score", "fusion", "image"]
    assert stages[-1] == "stem"
    weights = [name for name, tensor in seen[0].items() if tensor.ndim > 1]
    changed = [{name for name in weights if not torch.equal(now[name], seen[0][name])} for now in seen]
    assert changed[0] == set()
    assert changed[1] == {"score.weight"}
    assert all(a < b for a, b in itertools.pairwise(changed)), "each stage changes more, and keeps what was"
    assert changed[-1] == set(weights)
    assert all(not name.startswith("backbone") for name in changed[3])
    for before, after in itertools.pairwise(seen[1:]):
        for name in weights:
            if not torch.equal(before[name], seen[0][name]):
                assert torch.equal(before[name], after[name]), "a layer is randomised once"
    by_shape: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for name in weights:
        by_shape.setdefault(tuple(seen[-1][name].shape), []).append(seen[-1][name])
    pairs = [group for group in by_shape.values() if len(group) > 1]
    assert pairs
    assert not any(torch.equal(group[0], group[1]) for group in pairs)


def test_batchnorm_of_random_blocks_has_the_photos_statistics(score, xs):
    kept: dict[str, nn.Module] = {}

    def record(now: PhotoScore, x: torch.Tensor, drawn: int) -> np.ndarray:
        kept["last"] = copy.deepcopy(now.network)
        return gradient_map(now, x)

    found = cascade(score, xs, record, method="gradient")
    network = kept["last"]
    norm = network.backbone.conv1[1]  # the first: nothing before it is normalised
    inputs: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    with torch.no_grad():
        network.split.run(torch.stack(xs))
    np.testing.assert_allclose(norm.running_mean, inputs[0].mean(dim=(0, 2, 3)), atol=1e-5)
    assert not norm.training
    assert norm.momentum == score.network.backbone.conv1[1].momentum
    assert torch.equal(norm.weight, torch.ones_like(norm.weight))
    assert all(stage.state == "alive" for stage in found.stages)
    assert all(stage.score_sd > 1e-3 for stage in found.stages)


def test_parameters_without_an_initialiser_are_shuffled():
    score = score_of(network_of("test_vit", photos__size=160))
    xs = [score.input_of(any_pixels(160, seed)) for seed in range(3)]
    kept: dict[str, torch.Tensor] = {}

    def record(now: PhotoScore, x: torch.Tensor, drawn: int) -> np.ndarray:
        kept["table"] = now.network.backbone.pos_embed.detach().clone()
        return gradient_map(now, x)

    found = cascade(score, xs, record, method="gradient", at_most=4)
    before = score.network.backbone.pos_embed.detach()
    assert not torch.equal(kept["table"], before)
    assert torch.equal(kept["table"].flatten().sort().values, before.flatten().sort().values)
    assert len(found.stages) <= 5


def test_the_same_seed_gives_the_same_cascade(score, xs):
    one, same, other = (cascade(score, xs[:4], gradient_map, seed=seed).per_photo["signed"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_photos_may_have_their_own_metadata_but_one_network(score, xs):
    columns = np.zeros(12, dtype=np.float32)
    each = [score_of(score.network, columns + (i % 2)) for i in range(len(xs))]
    assert cascade(each, xs, gradient_map).verdict == "passes"
    with pytest.raises(ValueError, match="same network"):
        cascade([*each[:-1], score_of(network_of())], xs, gradient_map)
    with pytest.raises(ValueError, match="two photos"):
        cascade(score, xs[:1], gradient_map)


def test_a_network_that_tells_no_photos_apart_is_named(score, xs):
    found = cascade(score, [xs[0]] * 4, gradient_map)
    assert found.stages[0].state == "flat"
    assert all(stage.state in ("flat", "saturated") for stage in found.stages)
    assert found.verdict == f"undecided: the randomised network is {found.stages[-1].state}"
    loud = score_of(copy.deepcopy(score.network))
    with torch.no_grad():
        loud.network.score.weight.fill_(float("inf"))
    assert cascade(loud, xs[:2], edges).stages[0].state == "exploded"


def test_constant_maps_are_named(score, xs):
    found = cascade(score, xs, lambda s, x, _: np.ones((SIZE, SIZE)), method="flat")
    assert found.verdict == "constant maps"
    assert found.constant == len(xs)
    assert found.to_dict()["floor"]["signed"] is None
    half = cascade(score, xs[:3], lambda s, x, _: gradient_map(s, x) * (x is not xs[0]))
    assert half.constant == 1
    assert half.stages[0].likeness["signed"].n == 2


def test_the_bounds_are_maps_made_again_with_other_noise(score, xs):
    """Maps with noise as large as what they show correlate 1/2 with themselves made again, and with others' only by the pet."""
    pet = gaussian_filter(np.random.default_rng(0).standard_normal((64, 64)), 3.0)
    pet /= pet.std()

    def noisy(now: PhotoScore, x: torch.Tensor, drawn: int) -> np.ndarray:
        number = next(i for i, one in enumerate(xs) if one is x)
        own = np.random.default_rng([number, 5]).standard_normal((64, 64))
        # As masks do, the noise of one number is the same for all photos: what they share of it is no likeness of photos.
        return 0.5**0.5 * (pet + own) + np.random.default_rng([drawn, 6]).standard_normal((64, 64))

    found = cascade(score, xs, noisy, method="noisy")
    as_spearman = [6 / np.pi * np.arcsin(r / 2) for r in (0.5, 0.25)]  # of normal pairs
    assert found.ceiling["signed"] == pytest.approx(as_spearman[0], abs=0.03)
    assert found.floor["signed"] == pytest.approx(as_spearman[1], abs=0.03)
    assert found.stages[-1].likeness["signed"].mean == pytest.approx(1.0), "at every stage the same masks"
    assert cascade(score, xs, edges).ceiling["signed"] == pytest.approx(1.0), "drawn without luck"
    strangers = cascade(score, [xs[0], xs[0], xs[1], xs[1]], edges, groups=np.array([0, 0, 1, 1]))
    own = spearmanr(edges(score, xs[0]), edges(score, xs[1]), axis=None).statistic
    assert strangers.floor["signed"] == pytest.approx(own), "near-duplicates are no floor"


def test_a_map_whose_sizes_stay_fails_whatever_its_signs_do(score, xs):
    def turning(now: PhotoScore, x: torch.Tensor, drawn: int) -> np.ndarray:
        signs = np.sign(gradient_map(now, x))  # the network's, and random with its weights
        return signs * (1.0 + edges(now, x))

    found = cascade(score, xs, turning, method="turning")
    assert abs(found.stages[-1].likeness["signed"].mean) < 0.2
    assert found.left["absolute"].low > 0.9
    assert found.verdict == "fails"


def test_ssim_is_the_papers():
    """By its definition, window by window."""
    random = np.random.default_rng(0)
    one, other = gaussian_filter(random.standard_normal((2, 18, 18)), (0, 1, 1))
    assert ssim(one, one) == pytest.approx(1.0)
    assert ssim(one, 5 * one + 3) == pytest.approx(1.0)
    assert ssim(one, -one) < 0, "a map and its opposite are not alike"
    a, b = ((v - v.mean()) / v.std() for v in (one, other))
    a, b = a - min(a.min(), b.min()), b - min(a.min(), b.min())
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    wide = [np.pad(v, 5, mode="symmetric") for v in (a, b)]
    c1, c2 = ((k * max(a.max(), b.max())) ** 2 for k in (0.01, 0.03))
    values = []
    for y in range(18):
        for x in range(18):
            p, q = (v[y : y + 11, x : x + 11] for v in wide)
            mp, mq = (window * p).sum(), (window * q).sum()
            joint = (window * (p - mp) * (q - mq)).sum()
            spread = (window * ((p - mp) ** 2 + (q - mq) ** 2)).sum()
            values.append((2 * mp * mq + c1) * (2 * joint + c2) / ((mp**2 + mq**2 + c1) * (spread + c2)))
    assert ssim(one, other) == pytest.approx(np.mean(values), abs=1e-9)


def test_the_figure_is_the_same_bytes_again(score, xs, tmp_path):
    found = cascade(score, xs[:4], gradient_map, method="gradient")
    for name in ("one.png", "two.png"):
        draw_sanity([found, found], tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
