"""The checkpoint of a fold in training, `oof/RUN/.foldK.checkpoint.safetensors`: written at every epoch, every few minutes
(`train.checkpoint_minutes`) and when the process is asked to stop; deleted when the fold is finished.

Tensors (weights, moving average, best epoch, optimiser, random states) are safetensors, everything else (epoch, step,
history) JSON in their header; never a pickle. The same command resumes from it with the same order of data, and ends within
float noise of an uninterrupted run. A checkpoint of another device, number of processes or package version is refused: hours of
work are thrown away only by `--fresh`. A damaged one is dropped, and the log says so.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from timm.utils import ModelEmaV3
from torch import Tensor

from pawpularity.console import log
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.models.network import Network
from pawpularity.models.weights import read_tensors, save_tensors
from pawpularity.runs import Run, differences, recipe
from pawpularity.signals import Stopped, StopRequest


@dataclass(frozen=True)
class Epoch:
    """One line of history.csv: an epoch, or a check of several in one. RMSEs in points; NaN where not measured."""

    epoch: int
    train_rmse: float
    inner_rmse: float
    lr: float
    seconds: float


@dataclass
class Training:
    """Everything a training step changes, as it goes into the file and comes back."""

    network: Network
    optimiser: torch.optim.Optimizer
    scaler: Any
    """accelerate's GradScaler; None without float16"""
    ema: ModelEmaV3 | None
    mixing: np.random.Generator
    device: torch.device

    def tensors(self) -> dict[str, Tensor]:
        """Trained weights, their moving average, the optimiser's tensors, random states."""
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
        return found

    def state(self) -> dict[str, Any]:
        """Everything that is no tensor."""
        scaler = self.scaler.state_dict() if self.scaler is not None else None
        return {"scaler": scaler, "mixing": self.mixing.bit_generator.state}

    def restore(self, checkpoint: "Checkpoint") -> None:
        """Put everything back but the learning rate, which follows from the history."""
        self.network.load_state_dict(checkpoint.part("network:"), strict=False)
        if self.ema is not None:
            self.ema.module.load_state_dict(checkpoint.part("average:"), strict=False)
        state: dict[int, dict[str, Tensor]] = {}
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        for name, value in checkpoint.part("optimiser:").items():
            index, key = name.split(":")
            parameter = parameters[int(index)]
            # In the parameter's own memory layout: the fused optimiser reads both side by side.
            laid_out = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
            state.setdefault(int(index), {})[key] = laid_out.detach()
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        if self.scaler is not None:
            self.scaler.load_state_dict(checkpoint.state["scaler"])
        self.mixing.bit_generator.state = checkpoint.state["mixing"]
        torch.set_rng_state(checkpoint.tensors["random:cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(checkpoint.tensors["random:cuda"], self.device)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that fits this run."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]
    """check, step, seen, seconds, spent, before, chosen, kept, history, and what `Training.state` gave"""

    @property
    def history(self) -> list[Epoch]:
        """Finished epochs, those before a refit first."""
        return [Epoch(int(line[0]), *(float(number) for number in line[1:])) for line in self.state["history"]]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, by the rest of their names."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


class Checkpointer:
    """Writes the checkpoint of one fold, and finds it again. The fold's lock must be held."""

    def __init__(self, run: Run, fold: int, compute: Compute, minutes: float) -> None:
        self.path = run.checkpoint(fold)
        self.fold, self.every = fold, 60 * minutes
        self.request = StopRequest()
        self.fingerprint = {
            "settings": recipe(run.record), "seed": run.record["config"]["train"]["seed"], "device": compute.device.type,
            "dtype": compute.dtype_name, "processes": int(os.environ.get("WORLD_SIZE", "1")),
            **{package: version(package) for package in ("torch", "timm", "numpy")},
        }  # fmt: skip
        self.started = self.saved = time.perf_counter()
        self.spent = 0.0
        """Seconds that earlier processes spent on this fold."""

    def check(self) -> dict[str, Any] | None:
        """What the checkpoint says; None where there is none or, which is logged, it is damaged. Raises UserError for one of
        another device, number of processes or version."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                state: dict[str, Any] = json.loads(json.loads((file.metadata() or {})["pawpularity"])["state"])
            change = differences(state["fingerprint"], self.fingerprint)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            log(f"fold {self.fold}: checkpoint dropped: it is damaged; training starts from the beginning")
            self.remove()
            return None
        if change:
            raise UserError(
                f"{self.path}: fold {self.fold} was stopped half way in another setting: {change}; resume it there, or start it "
                "afresh with --fresh (ARGS=--fresh)"
            )
        return state

    def find(self) -> Checkpoint | None:
        """The checkpoint to resume from; None as `check`."""
        state = self.check()
        if state is None:
            return None
        found = Checkpoint(read_tensors(self.path), state)
        self.spent = float(state["spent"])
        log(f"fold {self.fold}: resuming in {state['where']}")
        return found

    def due(self) -> bool:
        """Whether a checkpoint is due within the epoch."""
        return self.request.number is not None or time.perf_counter() - self.saved >= self.every

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write the checkpoint. A full disk is logged and does not end the training."""
        spent = self.spent + time.perf_counter() - self.started
        text = json.dumps(dict(state) | {"fingerprint": self.fingerprint, "spent": spent}, allow_nan=False)
        try:
            save_tensors(self.path, tensors, {"state": text})
        except (OSError, UserError) as error:
            log(f"fold {self.fold}: no checkpoint could be written ({error}); training goes on")
        self.saved = time.perf_counter()

    def stop_if_asked(self, where: str) -> None:
        """Raise Stopped after a stop signal; `where` says what is saved."""
        if self.request.number is not None:
            kept = where if self.path.exists() else "nothing of it is saved"
            raise Stopped(self.request.number, f"Stopped fold {self.fold}: {kept}. Run the same command to resume.")

    def remove(self) -> None:
        """Delete the checkpoint: the fold is finished, or starts from the beginning."""
        self.path.unlink(missing_ok=True)
