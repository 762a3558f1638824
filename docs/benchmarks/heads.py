"""Time heads on the contest's rows: three encoders of 1,280 columns each, concatenated, five folds, features in memory.

OMP_NUM_THREADS=2 python docs/benchmarks/heads.py data/petfinder-pawpularity-score/train.csv > docs/benchmarks/heads-cpu.csv

The scores are the contest's. The features are drawn at random; the first two encoders carry a weak signal, the third is noise.
Each row is a process of its own. On a shared machine trust `processor_s` more than `wall_s`. `peak_mb`: highest resident memory.
"""

import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import torch

from pawpularity.evaluation.metrics import rmse
from pawpularity.heads.fit import METHODS, Training, out_of_fold
from pawpularity.runs import machine, versions

WIDTHS = {"first": 1280, "second": 1280, "noise": 1280}
FOLDS, SIGNAL, PHOTOS = 5, 0.7, 1000
CASES = ("ridge kernel-ridge svr", "ridge", "kernel-ridge", "svr", "forward", "predict")


def peak_mb() -> int:  # noqa: D103
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def drawn(target: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, 3840), float32, and folds (n,)."""
    random, columns = np.random.default_rng(seed), sum(WIDTHS.values())
    weights = random.standard_normal(columns, dtype=np.float32) / np.sqrt(columns)
    weights[-WIDTHS["noise"] :] = 0
    features = random.standard_normal((len(target), columns), dtype=np.float32)
    standard = ((target - target.mean()) / target.std()).astype(np.float32)
    for start in range(0, len(target), 512):  # little at once: the peak is to be the heads'
        features[start : start + 512] += SIGNAL * np.outer(standard[start : start + 512], weights)
    return features, random.integers(FOLDS, size=len(target))


def measure(case: str, labels: str) -> dict[str, object]:
    """One row of the table."""
    target = pd.read_csv(labels)["Pawpularity"].to_numpy(float)
    features, folds = drawn(target)
    groups, known, found = np.arange(len(target)), folds != 0, np.empty(len(target))
    words, scored, head = [], groups, None
    if case == "predict":
        head = METHODS["kernel-ridge"](Training(features[known], target[known], groups[known])).head
    before = peak_mb()
    began, used = time.perf_counter(), time.process_time()
    if head is not None:
        scored = np.flatnonzero(~known)[:PHOTOS]
        found[scored] = head.predict(features[scored])
    else:
        heads = out_of_fold(case.split(), features, target, folds, groups, widths=WIDTHS)
        for fold, method, prediction, fitted in heads:
            found[folds == fold] = prediction
            words += [f"{method} {fitted.words}"] if fold == 0 else []
    return {"heads": f"kernel-ridge predicts {PHOTOS} photos" if case == "predict" else case, "rows": len(target),
            "columns": features.shape[1], "folds": FOLDS, "wall_s": round(time.perf_counter() - began, 1),
            "processor_s": round(time.process_time() - used, 1),
            "at_start_mb": before, "peak_mb": peak_mb(), "rmse_of_last": round(rmse(target[scored], found[scored]), 3),
            "chosen_in_fold_0": "; ".join(words), "threads": torch.get_num_threads()}  # fmt: skip


def main() -> None:
    """The table, on stdout."""
    where = f"{machine()['processor']}, {machine()['cores']} cores; torch {versions()['torch']}"
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        rows = [
            row | {"machine": where} for row in pool.map(measure, sys.argv[2:] or CASES, [sys.argv[1]] * len(CASES))
        ]
    pd.DataFrame(rows).to_csv(sys.stdout, index=False, lineterminator="\n")


if __name__ == "__main__":
    main()
