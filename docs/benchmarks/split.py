"""Split networks of many families at every border, and time a training step of the head on cached features.

python docs/benchmarks/split.py > docs/benchmarks/split-cpu.csv

`exact`: the pooled features from every border on equal timm's own to the last bit (float32, two random photos, random weights).
`step_ratio`: forward and backward pass of the head at the border nearest a quarter of the FLOPs from the end, batch 32, float32:
features read from the memory-mapped file, over the same features in memory. Medians of three, taken in turn; not
measured where such a step takes more than MOST_FLOPS.
"""

import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pawpularity.features.store import FeatureFile, to_rows
from pawpularity.models.split import Split
from pawpularity.runs import machine, versions

NETWORKS = [
    "resnet152", "vgg19_bn", "densenet161", "tf_efficientnet_b7", "vit_base_patch16_siglip_224", "vit_small_patch16_dinov3",
    "eva02_tiny_patch14_224", "beit_base_patch16_224", "swinv2_tiny_window8_256", "swin_tiny_patch4_window7_224",
    "maxvit_tiny_tf_224", "convnextv2_nano", "convnext_tiny", "naflexvit_base_patch16_gap", "vit_base_patch16_clip_224",
    "vit_small_patch14_dinov2", "tiny_vit_5m_224", "repvit_m1", "fastvit_t8", "hiera_tiny_224", "mobilenetv4_conv_small",
    "efficientnetv2_rw_t", "nfnet_f0", "regnety_016", "resnext50_32x4d", "seresnext50_32x4d", "xcit_nano_12_p16_224",
    "deit3_small_patch16_224", "coatnet_0_rw_224", "mobileone_s0", "ghostnet_100", "tf_efficientnet_lite0", "tresnet_m",
    "resnetv2_50", "vit_large_r50_s32_224", "caformer_s18", "edgenext_small",
]  # fmt: skip
ROWS, BATCH, REPEATS, MOST_FLOPS = 64, 32, 3, 3e11


def measure(name: str) -> dict[str, object]:
    """One row of the table."""
    torch.manual_seed(0)
    args = {"img_size": 224} if "dinov2" in name else {}
    net = timm.create_model(name, num_classes=0, **args).eval().requires_grad_(False)  # the counter of FLOPs stumbles
    size = min(int(net.pretrained_cfg["input_size"][-1]), 224 if args or "b7" in name else 1024)
    started = time.perf_counter()
    split = Split(net, size)
    seconds = time.perf_counter() - started
    x = torch.randn(2, 3, size, size)
    flops, features = [], [x]
    with torch.inference_mode():
        wanted = net(x.clone())
        for position in range(len(split)):
            features.append(split.run(features[-1].clone(), position, position + 1))
            with FlopCounterMode(display=False) as counter:  # it may take other kernels
                split.run(features[-2].clone(), position, position + 1)
            flops.append(counter.get_total_flops())
        exact = all(torch.equal(split.run(one.clone(), at), wanted) for at, one in enumerate(features))
    behind = np.cumsum(flops[::-1])[::-1] / max(1, sum(flops))
    at = int(np.abs(behind - 0.25).argmin()) if len(split) > 1 else 0
    about = {"network": name, "parameter_tensors": split.total, "borders": len(split) - 1, "exact": exact,
             "seconds_to_split": round(seconds, 2), "border": split.blocks[at].name, "share_of_flops": round(float(behind[at]), 2),
             "features_kb": features[at][0].numel() * 4 // 1000, "runs_whole_because": split.whole}  # fmt: skip
    net.requires_grad_(True)
    step = 3 * BATCH / len(x) * sum(flops[at:])
    return about | {"step_ratio": round(step_ratio(split, at, features[at]), 2) if step < MOST_FLOPS else ""}


def step_ratio(split: Split, at: int, features: Tensor) -> float:
    """Time of a step on features from the file over that of one on features in memory."""
    with tempfile.TemporaryDirectory() as folder:
        probe = features[:1]
        shape = (probe.shape[2], probe.shape[3], probe.shape[1]) if probe.ndim == 4 else tuple(probe.shape[1:])
        file = FeatureFile(Path(folder), "bench", {"shape": list(shape), "dtype": "float32"}, ROWS)
        rows = features[:1].repeat(ROWS, *[1] * (features.ndim - 1))
        pairs = np.stack([np.arange(ROWS), np.zeros(ROWS, dtype=np.int64)], axis=1)
        with file.building():
            file.append(pairs, to_rows(rows))
        chosen = np.random.default_rng(0).permutation(ROWS)[:BATCH]
        kept = file.take(chosen)

        def step(x: Tensor) -> None:
            split.run(x, at).square().mean().backward()  # type: ignore[no-untyped-call]

        def seconds(work: Callable[[], None]) -> float:
            started = time.perf_counter()
            work()
            return time.perf_counter() - started

        step(kept)
        times = [(seconds(lambda: step(file.take(chosen))), seconds(lambda: step(kept))) for _ in range(REPEATS)]
    return statistics.median(a for a, _ in times) / statistics.median(b for _, b in times)


def main() -> None:
    """The table, on stdout."""
    about = machine()
    where = f"{about['processor']}, {about['cores']} cores; torch {versions()['torch']}, timm {versions()['timm']}"
    writer: csv.DictWriter[str] | None = None
    for name in sys.argv[1:] or NETWORKS:
        row = measure(name) | {"machine": where}
        if writer is None:
            writer = csv.DictWriter(sys.stdout, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
