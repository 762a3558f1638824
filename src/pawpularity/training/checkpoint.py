"""Going on within a fold: the whole state of a fit between two steps, in one file, `oof/RUN/.foldK.resume.safetensors`.

It is written whole or not at all, every half minute and when the process is asked to stop, and goes when the fold is
finished. Tensors are safetensors, everything else JSON in their header, never a pickle. What the order of batches, the best
epoch, the plateau schedule and early stopping need is not kept: they are functions of the seed and of the history.

A fit that goes on gives the same bytes as one that was never stopped. So a state is taken up only by the very same fit on
the same kind of device with the same packages; any other, and a damaged one, is dropped and said.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from timm.utils import ModelEmaV3
from torch import Tensor

from pawpularity.console import log
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.files import text_hash
from pawpularity.models.network import Network
from pawpularity.models.weights import read_tensors, save_tensors, tensors_hash
from pawpularity.runs import Run, recipe
from pawpularity.signals import Stopped
from pawpularity.training.early_stopping import Epoch
from pawpularity.training.stop import StopRequest

VERSION = 1
SECONDS = "PAWPULARITY_RESUME_SECONDS"
"""Environment variable: seconds of training between two states; 0 = after every step."""
COST = 0.02
"""Share of the time that writing states may take: a large network is kept less often."""


@dataclass
class Sums:
    """What an epoch has added up so far. The tensors stay on the device: reading them would make every step wait."""

    squared: Tensor
    loss: Tensor
    seen: int = 0
    steps: int = 0
    started: float = field(default_factory=time.perf_counter)
    """As `time.perf_counter` counts, less the time that earlier processes spent on this epoch."""

    @property
    def elapsed(self) -> float:
        """Seconds spent on this epoch."""
        return time.perf_counter() - self.started

    @classmethod
    def none(cls, device: torch.device) -> "Sums":
        """Nothing yet."""
        return cls(torch.zeros((), device=device), torch.zeros((), device=device))


@dataclass
class Parts:
    """Everything that a training step moves, and how it goes into the file and comes back."""

    network: Network
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: ModelEmaV3 | None
    mixing: np.random.Generator
    device: torch.device

    def tensors(self) -> dict[str, Tensor]:
        """Trained tensors with the statistics training moves, their moving average, the optimiser's, random states."""
        names = self.network.trained_state()
        found = {f"network:{name}": tensor for name, tensor in names.items()}
        if self.ema is not None:
            averaged = self.ema.module.state_dict()
            found |= {f"average:{name}": averaged[name] for name in names}
        for index, state in self.optimiser.state_dict()["state"].items():
            found |= {f"optimiser:{index}:{key}": value for key, value in state.items()}
        found["random:cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            found["random:cuda"] = torch.cuda.get_rng_state(self.device)
        if self.device.type == "mps":
            found["random:mps"] = torch.mps.get_rng_state()
        return found

    def numbers(self) -> dict[str, Any]:
        """What is no tensor."""
        return {"scaler": self.scaler.state_dict(), "mixing": self.mixing.bit_generator.state}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Put everything back. The learning rate is not part of it: the loop sets it from the history."""
        self.network.load_state_dict(_below(tensors, "network:"), strict=False)
        if self.ema is not None:
            self.ema.module.load_state_dict(_below(tensors, "average:"), strict=False)
        state: dict[int, dict[str, Tensor]] = {}
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        for name, value in _below(tensors, "optimiser:").items():
            index, key = name.split(":")
            parameter = parameters[int(index)]
            # In the parameter's own memory layout: the fused optimiser walks through both side by side.
            laid_out = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
            state.setdefault(int(index), {})[key] = laid_out.detach()
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.scaler.load_state_dict(numbers["scaler"])
        self.mixing.bit_generator.state = numbers["mixing"]
        torch.set_rng_state(tensors["random:cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random:cuda"], self.device)
        if self.device.type == "mps":
            torch.mps.set_rng_state(tensors["random:mps"])


@dataclass(frozen=True)
class Kept:
    """A state that was found, and belongs."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    @property
    def history(self) -> list[Epoch]:
        """Epochs that were finished, those before a refit first."""
        return [Epoch(int(line[0]), *(float(number) for number in line[1:])) for line in self.numbers["history"]]

    @property
    def chosen(self) -> int | None:
        """Epochs that the inner split chose, if the refit has begun."""
        chosen: int | None = self.numbers["chosen"]
        return chosen

    @property
    def before(self) -> int:
        """Epochs of `history` before this phase."""
        return int(self.numbers["before"])

    @property
    def best(self) -> dict[str, Tensor]:
        """Weights of the best epoch so far; empty before there was one."""
        return _below(self.tensors, "best:")

    def sums(self, device: torch.device) -> Sums:
        """Of the epoch that was begun."""
        numbers = self.numbers
        squared, loss = (self.tensors[f"sum:{name}"].to(device) for name in ("squared", "loss"))
        return Sums(squared, loss, numbers["seen"], numbers["steps"], time.perf_counter() - numbers["seconds"])


class Keeper:
    """Keeps the state of one fold in training, and finds it again. The fold's lock must be held."""

    def __init__(self, path: Path, fold: int, belongs: Mapping[str, str], request: StopRequest) -> None:
        self.path, self.fold, self.belongs, self.request = path, fold, dict(belongs), request
        self.every = float(os.environ.get(SECONDS, "30"))
        self.started = time.perf_counter()
        self.next = self.started + self.every
        self.spent = 0.0
        """Seconds that earlier processes spent on this fold."""
        self.epochs_before = 0
        """Epochs that they finished."""
        self.saves = 0
        self.failed = ""

    @property
    def processes(self) -> int:
        """How many train together."""
        return 1

    @property
    def asked(self) -> int | None:
        """The signal that asked for an end."""
        return self.request.asked

    def find(self, network: Network) -> Kept | None:
        """The state of the fit that begins with `network`; None, with the reason said, where there is none to go on with.

        Raises UserError for the state of another number of processes, whose random numbers are others: it stays.
        """
        self.belongs["weights"] = tensors_hash(network.state_dict())
        if not self.path.exists():
            return None
        kept = read_state(self.path)
        if isinstance(kept, str):
            self._drop(kept)
            return None
        was = kept.numbers["belongs"]
        differs = [name for name in self.belongs.keys() | was.keys() if self.belongs.get(name) != was.get(name)]
        if differs:
            first = next((name for name in self.belongs if name in differs), differs[0])
            self._drop(f"was made with other {first} ({was.get(first)}, now {self.belongs.get(first)})")
            return None
        if (were := kept.numbers.get("processes", 1)) != self.processes:
            how = "without torchrun" if were == 1 else f"with torchrun --nproc-per-node {were}"
            raise UserError(
                f"fold {self.fold}: was stopped in a training by {were} process{'es' * (were > 1)}, and goes on only with as "
                f"many; start it {how}, or anew with --fresh"
            )
        self._going_on(kept)
        return kept

    def _going_on(self, kept: Kept) -> None:
        self.spent, self.epochs_before = float(kept.numbers["spent"]), len(kept.history)
        phase = "the refit, " if kept.chosen is not None else ""
        epoch, step = len(kept.history) - kept.before + 1, kept.numbers["steps"]
        log(
            f"fold {self.fold}: goes on where it was stopped, in {phase}epoch {epoch}, after step {step} (--fresh: starts anew)"
        )

    def _drop(self, why: str) -> None:
        log(f"fold {self.fold}: what was kept of its training {why}; it is dropped, and the fold starts anew")
        self.remove()

    def due(self) -> bool:
        """Whether the state should be kept now."""
        return self.request.asked is not None or time.perf_counter() >= self.next

    def save(
        self,
        parts: Parts,
        history: list[Epoch],
        sums: Sums,
        *,
        before: int,
        chosen: int | None,
        best: Mapping[str, Tensor],
        where: str,
    ) -> None:
        """Write the state; then end with `Stopped` if that was asked for. A full disk does not end the training.

        `before`, `chosen`, `best` as in `Kept`; `where` says to the user what is kept.
        """
        began = time.perf_counter()
        tensors = self._gathered(parts.tensors() | {"sum:squared": sums.squared, "sum:loss": sums.loss})
        tensors |= {f"best:{name}": tensor for name, tensor in best.items()}
        numbers = parts.numbers() | {
            "version": VERSION,
            "processes": self.processes,
            "belongs": self.belongs,
            # As text: JSON has no NaN.
            "history": [[str(x) for x in (e.epoch, e.train_rmse, e.inner_rmse, e.lr, e.seconds)] for e in history],
            "before": before, "chosen": chosen, "seen": sums.seen, "steps": sums.steps, "seconds": sums.elapsed,
            "spent": self.spent + began - self.started,
        }  # fmt: skip
        self._write(tensors, json.dumps(numbers, allow_nan=False))
        now = time.perf_counter()
        self.next = now + (max(self.every, (now - began) / COST) if self.every else 0.0)
        if (asked := self.asked) is not None:
            raise self.stopped(asked, where)

    def _gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """With what only other processes know."""
        return tensors

    def _write(self, tensors: dict[str, Tensor], text: str) -> None:
        try:
            save_tensors(self.path, tensors, {"state": text, "check": text_hash(text, tensors_hash(tensors))})
            self.saves, self.failed = self.saves + 1, ""
        except (OSError, UserError) as error:
            if not self.failed:
                log(f"fold {self.fold}: its state cannot be kept ({error}); training goes on")
            self.failed = str(error)

    def stopped(self, number: int, where: str) -> Stopped:
        """The end that was asked for, with the line to say."""
        if self.failed:
            return Stopped(number, f"fold {self.fold} stopped in {where}, which could not be kept ({self.failed}); "
                                   "the same command goes on with what was kept before")  # fmt: skip
        return Stopped(number, f"fold {self.fold} stopped in {where}, and is kept; the same command goes on there")

    @contextmanager
    def helped(self) -> Iterator[None]:
        """Inside, the death of processes that prepare batches is no fault if we were asked to stop: they were asked too.

        The step in hand may be half done then, so the last state that was kept stands.
        """
        try:
            yield
        except (RuntimeError, EOFError, OSError) as error:  # PyTorch's own word, or a pipe whose other end is gone
            if self.request.asked is None:
                raise
            raise self.broken_off(self.request.asked) from error

    def broken_off(self, number: int) -> Stopped:
        """An end that came before the state could be kept."""
        on = "goes on with what was kept before" if self.path.exists() else "starts it anew"
        return Stopped(number, f"fold {self.fold} stopped; the same command {on}")

    @contextmanager
    def scoring(self, keep: Callable[[], None]) -> Iterator[None]:
        """Inside nothing is moved: a request to stop is obeyed at once, after `keep()` has kept what was trained."""
        self.request.at_once = True
        try:
            yield
        except Stopped as stopped:
            self.request.at_once, self.request.asked = False, stopped.signal_number
            keep()
            raise
        finally:
            self.request.at_once = False

    def remove(self) -> None:
        """The fold is finished, or starts anew."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def belongings(run: Run, fold: int, compute: Compute) -> dict[str, str]:
    """What a state must have been made with to be taken up: the same settings, data, folds, device and packages."""
    belongs = {
        "data": str(run.record["data"]["hash"]),
        "folds": str(run.record["folds"]["hash"]),
        "fold": str(fold),
        "seed": str(run.config.train.seed),
        "settings": text_hash(recipe(run.record)),
        "device": compute.device.type,
        "dtype": compute.dtype_name,
    }
    for package in ("torch", "timm", "numpy", "albumentations", "opencv-python-headless"):
        with suppress(PackageNotFoundError):
            belongs[package] = version(package)
    return belongs


def read_state(path: Path) -> Kept | str:
    """The state in `path`, or what is wrong with it."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["pawpularity"])
        tensors = read_tensors(path)
        if header["check"] != text_hash(header["state"], tensors_hash(tensors)):
            return "is damaged"
        numbers = json.loads(header["state"])
    except (SafetensorError, OSError, UserError, ValueError, KeyError, TypeError):
        return "is damaged"
    return Kept(tensors, numbers) if numbers["version"] == VERSION else "was kept by another version of this program"


def _below(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
