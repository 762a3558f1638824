"""The cascade of random weights: a map of the network passes, one of the photo fails; how the weights are made random."""

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from tests.explain.linear_network import any_pixels, score_of

from pawpularity.config import resolve
from pawpularity.explain.panel import draw_sanity
from pawpularity.explain.sanity import cascade, maps_in_cascade
from pawpularity.explain.scored import PhotoScore
from pawpularity.models.network import Network, build_network

SIZE = 32


def network_of(backbone: str = "test_resnet", size: int = SIZE) -> Network:
    words = [f"photos.size={size}", f"model.backbone={backbone}", "model.weights=none"]
    network = build_network(resolve("scratch", words), fold=0, training_mean=38.0)
    random = torch.Generator().manual_seed(1)
    for parameter in network.parameters():  # as if trained: heads start so small that scores would hardly differ
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
    return network


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
    return [score.input_of(any_pixels(SIZE, seed)) for seed in range(6)]


def run(score, xs, maps_of, **words):
    return cascade([score] * len(xs), xs, maps_of, **words)


def test_a_map_of_the_network_passes_and_one_of_the_photo_fails(score, xs, tmp_path):
    before = copy.deepcopy(score.network.state_dict())
    asked = torch.random.get_rng_state()
    made = []
    passed = run(score, xs, gradient_map, method="gradient", on_map=lambda: made.append(1))
    failed = run(score, xs, edges, method="edges")
    assert passed.verdict == "passes"
    assert failed.verdict == "fails"
    assert failed.left["signed"].mean == pytest.approx(1.0)
    assert passed.stages[0].name == "trained"
    assert passed.stages[0].similarity["signed"].mean == pytest.approx(1.0)
    assert abs(passed.stages[-1].similarity["signed"].mean) < 0.15
    assert len(made) == maps_in_cascade(len(xs), len(score.network.split.blocks))
    for name, tensor in score.network.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} was changed"
    assert torch.equal(asked, torch.random.get_rng_state())
    # Half the trained network, half the photo: it falls, but not far enough.
    mixed = run(score, xs, lambda s, x, _: _scaled(gradient_map(s, x)) + 2 * _scaled(edges(s, x)))
    assert mixed.verdict == "fails"
    assert mixed.stages[-1].similarity["signed"].mean < 0.95
    for name in ("one.png", "two.png"):
        draw_sanity([passed, failed], tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def _scaled(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def test_the_weights_go_from_the_top_down_and_no_two_layers_are_alike(score, xs):
    seen: list[dict[str, torch.Tensor]] = []

    def record(now: PhotoScore, x: torch.Tensor, drawn: int) -> np.ndarray:
        if x is xs[0] and not drawn:
            seen.append({name: tensor.clone() for name, tensor in now.network.state_dict().items()})
        return gradient_map(now, x)

    stages = [stage.name for stage in run(score, xs, record).stages]
    seen = seen[1:]  # the maps of the trained network come first, then the cascade begins with it
    assert stages[:4] == ["trained", "score", "fusion", "image"]
    assert stages[-1] == "stem"
    weights = [name for name, tensor in seen[0].items() if tensor.ndim > 1]
    changed = [{name for name in weights if not torch.equal(now[name], seen[0][name])} for now in seen]
    assert changed[0] == set()
    assert changed[1] == {"score.weight"}
    assert all(a < b for a, b in itertools.pairwise(changed)), "each stage changes more, and keeps what was"
    assert changed[-1] == set(weights)
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
    kept: dict[str, Network] = {}

    def record(now: PhotoScore, x: torch.Tensor, drawn: int) -> np.ndarray:
        kept["last"] = copy.deepcopy(now.network)
        return gradient_map(now, x)

    found = run(score, xs, record)
    network = kept["last"]
    norm = network.backbone.conv1[1]  # the first: nothing before it is normalised
    inputs: list[torch.Tensor] = []
    norm.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    with torch.no_grad():
        network.split.run(torch.stack(xs))
    np.testing.assert_allclose(norm.running_mean, inputs[0].mean(dim=(0, 2, 3)), atol=1e-5)
    assert not norm.training
    assert all(stage.state == "alive" for stage in found.stages)


def test_parameters_without_an_initialiser_are_shuffled():
    score = score_of(network_of("test_vit", size=160))
    xs = [score.input_of(any_pixels(160, seed)) for seed in range(2)]
    kept: dict[str, torch.Tensor] = {}

    def record(now: PhotoScore, x: torch.Tensor, drawn: int) -> np.ndarray:
        kept["table"] = now.network.backbone.pos_embed.detach().clone()
        return gradient_map(now, x)

    run(score, xs, record)
    before = score.network.backbone.pos_embed.detach()
    assert not torch.equal(kept["table"], before)
    assert torch.equal(kept["table"].flatten().sort().values, before.flatten().sort().values)


def test_networks_and_maps_that_say_nothing_are_named(score, xs):
    found = run(score, [xs[0]] * 4, gradient_map)
    assert found.stages[0].state == "flat"
    assert found.verdict == f"undecided: the randomised network is {found.stages[-1].state}"
    loud = score_of(copy.deepcopy(score.network))
    with torch.no_grad():
        loud.network.score.weight.fill_(float("inf"))
    assert run(loud, xs[:2], edges).stages[0].state == "exploded"
    flat = run(score, xs, lambda s, x, _: np.ones((SIZE, SIZE)))
    assert (flat.verdict, flat.photos) == ("constant maps", 0)
    assert flat.to_dict()["floor"]["signed"] is None
    half = run(score, xs[:3], lambda s, x, _: gradient_map(s, x) * (x is not xs[0]))
    assert (half.photos, half.stages[0].similarity["signed"].n) == (2, 2)


def test_the_bounds_are_maps_made_again_with_other_noise(score, xs):
    """Maps with noise as large as what they show correlate 1/2 with themselves made again, and with others' only by the pet."""
    pet = gaussian_filter(np.random.default_rng(0).standard_normal((64, 64)), 3.0)
    pet /= pet.std()

    def noisy(now: PhotoScore, x: torch.Tensor, drawn: int) -> np.ndarray:
        number = next(i for i, one in enumerate(xs) if one is x)
        own = np.random.default_rng([number, 5]).standard_normal((64, 64))
        # As masks do, the noise of one number is the same for all photos: what they share of it is no similarity of photos.
        return 0.5**0.5 * (pet + own) + np.random.default_rng([drawn, 6]).standard_normal((64, 64))

    found = run(score, xs, noisy)
    as_spearman = [6 / np.pi * np.arcsin(r / 2) for r in (0.5, 0.25)]  # of normal pairs
    assert found.ceiling["signed"] == pytest.approx(as_spearman[0], abs=0.03)
    assert found.floor["signed"] == pytest.approx(as_spearman[1], abs=0.03)
    assert found.stages[-1].similarity["signed"].mean == pytest.approx(1.0), "at every stage the same masks"
    pairs = run(score, [xs[0], xs[0], xs[1], xs[1]], edges, groups=np.array([0, 0, 1, 1]))
    own = spearmanr(edges(score, xs[0]), edges(score, xs[1]), axis=None).statistic
    assert pairs.floor["signed"] == pytest.approx(own), "near-duplicates are no floor"


def test_a_map_whose_sizes_stay_fails_whatever_its_signs_do(score, xs):
    def turning(now: PhotoScore, x: torch.Tensor, drawn: int) -> np.ndarray:
        return np.sign(gradient_map(now, x)) * (1.0 + edges(now, x))  # signs: random with the network's weights

    found = run(score, xs, turning)
    assert abs(found.stages[-1].similarity["signed"].mean) < 0.2
    assert found.left["absolute"].low > 0.9
    assert found.verdict == "fails"
