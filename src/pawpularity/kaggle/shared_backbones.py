"""The networks of a bundle, by the trunk they share: a photo goes through each trunk once, however many tails stand behind it.

Prediction itself is `predictor.score_heads`, as everywhere; here is what may go wrong with it on a machine nobody looks
at: a GPU that runs out of memory gets smaller batches, half precision that overflows is computed again in float32, and a
network that answers what is no number is left out for those photos.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.console import log
from pawpularity.data.augment import FLIP, ORIGINAL
from pawpularity.data.photo_cache import Photos
from pawpularity.device import Compute, choose
from pawpularity.errors import UserError
from pawpularity.features.load import PixelInputs
from pawpularity.kaggle.contents import Bundle, BundledRun
from pawpularity.kaggle.plan import Use
from pawpularity.kaggle.stream import BATCH
from pawpularity.models.network import Network
from pawpularity.predictor import load_network, score_heads

Floats = NDArray[np.float64]


@dataclass
class _TimedInputs(PixelInputs):
    """Photos, and how long the trunk took."""

    compute: Compute | None = None
    seconds: float = 0.0

    def features(self, network: Network, x: Tensor) -> Tensor:
        """Runs the trunk, by the clock."""
        assert self.compute is not None
        self.compute.synchronise()
        started = time.perf_counter()
        state = super().features(network, x)
        self.compute.synchronise()
        self.seconds += time.perf_counter() - started
        return state


@dataclass
class Answer:
    """What a family makes of a chunk of photos."""

    scores: dict[str, Floats]
    """run -> (photos,), NaN where no network of the run gave a number"""
    trunk_s: float
    """seconds a view"""
    tail_s: float
    """seconds a view and network"""


@dataclass
class Family:
    """Runs that share a trunk, the photos' size, and how they compute."""

    name: str
    size: int
    fit: str
    compute: Compute
    networks: dict[str, list[Network]] = field(default_factory=dict)
    """by run, in the order of the folds"""
    batch: int = BATCH

    reload: "Callable[[], Family] | None" = None
    """the family on the CPU, with others that compute alike there"""

    def answer(self, pixels: NDArray[np.uint8], columns: NDArray[np.float32] | None, uses: Mapping[str, Use]) -> Answer:
        """Scores of (n, size, size, 3) pixels and (n, 12) metadata by the runs of `uses` that are of this family.

        A GPU that fails is given up for good: what it held is read again from the bundle.
        """
        try:
            return self._answer(pixels, columns, uses)
        except RuntimeError as error:
            if self.reload is None or self.compute.device.type == "cpu":
                raise
            log(f"{self.name}: the GPU failed ({str(error).splitlines()[0][:200]}); going on with the CPU")
            instead = self.reload()
            # Two families may be one there: the other's networks are not ours to hold.
            own = {run: networks for run, networks in instead.networks.items() if run in self.networks}
            self.compute, self.networks, self.batch, self.reload = instead.compute, own, BATCH, None
            return self._answer(pixels, columns, uses)

    def _answer(
        self, pixels: NDArray[np.uint8], columns: NDArray[np.float32] | None, uses: Mapping[str, Use]
    ) -> Answer:
        seen: dict[str, list[Floats]] = {}
        trunk_s, tail_s, views, tails = 0.0, 0.0, 0, 0
        for view in (ORIGINAL, FLIP):
            asked = [name for name in self.networks if name in uses and (view == ORIGINAL or uses[name].flip)]
            if not asked:
                continue
            networks = [network for name in asked for network in self.networks[name][: uses[name].folds]]
            started = time.perf_counter()
            answers, in_trunk = self._score(networks, pixels, columns, view)
            trunk_s, tail_s = trunk_s + in_trunk, tail_s + time.perf_counter() - started - in_trunk
            views, tails = views + 1, tails + len(networks)
            at = 0
            for name in asked:
                seen.setdefault(name, []).append(answers[at : at + uses[name].folds])
                at += uses[name].folds
        scores = {name: _mean(np.mean(both, axis=0)) for name, both in seen.items()}
        return Answer(scores, trunk_s / max(1, views), tail_s / max(1, tails))

    def _score(
        self, networks: Sequence[Network], pixels: NDArray[np.uint8], columns: NDArray[np.float32] | None, view: int
    ) -> tuple[Floats, float]:
        rows = np.arange(len(pixels))
        while True:
            inputs = _TimedInputs(Photos.of(pixels), rows, compute=self.compute)
            try:
                answers = score_heads(networks, inputs, rows, columns, self.compute, view=view, batch_size=self.batch)
                return answers, inputs.seconds
            except torch.cuda.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch //= 2
                torch.cuda.empty_cache()
                log(f"{self.name}: the GPU is out of memory; going on with {self.batch} photos at a time")
            except UserError:  # an answer that is no number
                return self._one_by_one(networks, inputs, columns, view), inputs.seconds

    def _one_by_one(
        self, networks: Sequence[Network], inputs: PixelInputs, columns: NDArray[np.float32] | None, view: int
    ) -> Floats:
        """As `score_heads`, a network and a photo's answer at a time: NaN for those that are no number even in float32."""
        precise = replace(self.compute, dtype=torch.float32, reason="half precision gave no number")
        rows = np.arange(len(inputs.photos))
        answers = np.full((len(networks), len(rows)), np.nan)
        for at, network in enumerate(networks):
            try:
                answers[at] = score_heads([network], inputs, rows, columns, precise, view=view, batch_size=self.batch)[
                    0
                ]
            except UserError:
                for row in rows:
                    given = None if columns is None else columns[row : row + 1]
                    try:
                        answers[at, row] = score_heads(
                            [network], inputs, rows[row : row + 1], given, precise, view=view
                        )[0, 0]
                    except UserError:
                        continue
        return answers


def load_families(bundle: Bundle, device: str | None = None) -> list[Family]:
    """The bundle's networks on their device, each trunk once. Raises UserError as `load_network` does."""
    families: dict[str, Family] = {}
    computes: dict[str, Compute] = {}
    for run in bundle.runs:
        dtype = run.config.train.dtype
        if dtype not in computes:
            computes[dtype] = _compute(dtype, device)
        compute, trunk = computes[dtype], run.trunk()
        try:
            networks = _networks(run, compute, trunk)
        except torch.cuda.OutOfMemoryError:
            compute = choose(dtype, "cpu")
            log(f"{run.name}: the GPU has no room for it; it goes on with the CPU")
            networks = _networks(run, compute, trunk)
        except UserError:
            raise  # a bundle that is not whole is not used
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            log(f"{run.name} cannot be loaded and is left out ({reason})")
            continue
        photos, first = run.config.photos, networks[0]
        # Without a trunk the networks share nothing but the photos.
        shared = first.frozen_hash() if first.frozen_blocks else f"none of {run.name}"
        key = f"{shared} {first.frozen_blocks} {photos.size} {photos.fit} {first.channels_last} {compute.dtype_name} {compute.device.type}"
        family = families.setdefault(key, Family(run.name, photos.size, photos.fit, compute))
        if family.networks:
            _share(networks, next(iter(family.networks.values()))[0])
        family.networks[run.name] = networks
    if not families:
        raise UserError("no network of the bundle can be loaded here; see the lines above")
    found = {family.name: family for family in families.values()}
    for name, family in found.items():
        family.reload = partial(_on_cpu, bundle, name)
    return list(found.values())


def _networks(run: BundledRun, compute: Compute, trunk: "dict[str, torch.Tensor]") -> list[Network]:
    networks: list[Network] = []
    for fold in run.trained_folds():
        lender = networks[0] if networks else None
        networks.append(load_network(run, fold, frozen_of=lender, frozen=trunk).place(compute.device))
    return networks


def _on_cpu(bundle: Bundle, name: str) -> Family:
    # By its run: where dtypes that differ on the GPU are one, so are their families, under the first one's name.
    return next(family for family in load_families(bundle, "cpu") if name in family.networks)


def _mean(folds: Floats) -> Floats:
    """Mean over the folds, (photos,), of those that gave a number; NaN where none did."""
    valid = np.isfinite(folds)
    if valid.all():
        mean: Floats = folds.mean(axis=0)
        return mean
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(valid, folds, 0.0).sum(axis=0) / valid.sum(axis=0))


def flips(run: BundledRun) -> bool:
    """Whether the run's photos are scored with their mirror images, as its own rows were."""
    return run.config.predict.flip


def _compute(dtype: str, device: str | None) -> Compute:
    compute = choose(dtype, device)
    native = choose("auto", device)
    # A run trained where bfloat16 is native may meet a GPU that only emulates it, four times slower.
    half = (torch.bfloat16, torch.float16)
    if compute.dtype in half and native.dtype != compute.dtype:
        return native
    return compute


def _share(networks: Sequence[Network], with_network: Network) -> None:
    """Let the frozen tensors that `networks` have in common with a network before the same cut be the same memory."""
    theirs = with_network.frozen_state()
    for network in networks:
        own = network.frozen_state()
        same = {name: theirs[name] for name in own.keys() & theirs.keys() if torch.equal(own[name], theirs[name])}
        network.load_state_dict(same, strict=False, assign=True)
