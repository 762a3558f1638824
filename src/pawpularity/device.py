"""The device and the dtype of a computation, and the reason for the choice, which every such command logs.

The dtype follows capability, not `is_bf16_supported()`, which says yes where bfloat16 is emulated (a T4 is then four
times slower): bfloat16 on GPUs >= 8.0 and CPUs with AMX or AVX512-BF16, float16 on 7.x GPUs, float32 elsewhere.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from pawpularity.errors import UserError


@dataclass(frozen=True)
class Compute:
    """A device, the dtype of its matrix products, and the reason for the choice."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def dtype_name(self) -> str:
        """`float32`, `bfloat16` or `float16`."""
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.device.type}, {self.dtype_name} ({self.reason})"

    def synchronise(self) -> None:
        """Wait until the GPU has finished, as timing must. Does nothing on a CPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Run the block's matrix products in `dtype`; nothing changes for float32."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            yield


def choose(dtype: str = "auto", device: str | None = None) -> Compute:
    """`device`, else `PAWPULARITY_DEVICE`, else the first of cuda, mps and cpu that works; and the dtype native to it.

    Raises UserError for a device that this machine lacks.
    """
    name, why = _device(device or os.environ.get("PAWPULARITY_DEVICE") or None)
    if dtype != "auto":
        return Compute(torch.device(name), getattr(torch, dtype), "set by train.dtype")
    kind, reason = _native(name)
    return Compute(torch.device(name), kind, f"{why}{reason}")


def _device(wanted: str | None) -> tuple[str, str]:
    if wanted is not None:
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        counts = {"cpu": 1, "cuda": gpus, "mps": int(torch.backends.mps.is_available())}
        kind, colon, number = wanted.partition(":")
        numbers = range(counts.get(kind, 0))
        if not numbers or (colon and number not in map(str, numbers)):
            available = [
                name if count == 1 else f"{name}:0 to {name}:{count - 1}" for name, count in counts.items() if count
            ]
            raise UserError(f"device {wanted}: is not here; available: {', '.join(available)}")
        return wanted, ""
    if torch.cuda.is_available():
        # A GPU too old for this torch build says it is available and fails at its first operation.
        try:
            torch.ones(2, device="cuda").add_(1).sum().item()
            return "cuda", ""
        except RuntimeError as error:
            print(f"the GPU cannot run this torch ({str(error).splitlines()[0]}); using the CPU", file=sys.stderr)
            return "cpu", "the GPU failed its first operation; "
    if torch.backends.mps.is_available():
        return "mps", ""
    return "cpu", ""


def _native(name: str) -> tuple[torch.dtype, str]:
    kind = name.partition(":")[0]
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability(torch.device(name))
        if major >= 8:
            return torch.bfloat16, f"compute capability {major}.{minor} has native bfloat16"
        if major == 7:
            return (
                torch.float16,
                f"compute capability {major}.{minor} has float16 tensor cores and only emulates bfloat16",
            )
        return torch.float32, f"compute capability {major}.{minor} has no fast half precision"
    if kind == "mps":
        return torch.float32, "half precision on mps is not tested here"
    capabilities = _cpu_capabilities()
    for key, word in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")):
        if capabilities.get(key):
            return torch.bfloat16, f"the CPU has {word}"
    return torch.float32, "the CPU has no native bfloat16"


def _cpu_capabilities() -> dict[str, bool]:
    get = getattr(torch.cpu, "get_capabilities", None)  # torch >= 2.10
    if get is not None:
        return dict(get())
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    avx = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return {"amx_bf16": bool(amx()), "avx512_bf16": bool(avx())}
