"""From a run to a submission: every trained fold predicts the test photos, the mean goes into submissions/NAME.csv.

A blend scores clip(intercept + sum of weight x member, 1, 100), with the weights it was made with.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pawpularity.console import log
from pawpularity.data.dataset import Rows
from pawpularity.data.tables import ID, METADATA
from pawpularity.ensemble.methods import Weights
from pawpularity.ensemble.record import read_weights
from pawpularity.features.build import FeatureCache
from pawpularity.pipeline.submission import require_wanted, write_submission
from pawpularity.predictor import Predictor
from pawpularity.runs import OOF, Run, git_commit, versions


def submit(run: Run, test: Rows, path: Path, cache: Path, flip: bool | None = None) -> NDArray[np.float64]:
    """Predict `test` with `run` (an ensemble: with its members) and write the submission; returns the scores, (N,).

    `flip`: score mirror images too; None = as each run scored its own rows. Members of weight 0 are not predicted.
    Raises UserError for a member that has no networks (a probe, or a file of predictions), and where test.csv and
    sample_submission.csv hold different Ids.
    """
    ids = test.table[ID].tolist()
    require_wanted(ids, test.folder)  # before the first of the networks has worked for an hour
    intercept, members, weights = members_of(run)
    parts, used = [], {}
    for member in members:
        predictor = Predictor.load(member.folder)
        used[member.name] = sorted(predictor.networks)
        if missing := member.k - len(predictor.networks):
            log(
                f"{member.name}: {missing} of {member.k} folds are not trained; the mean is over fold {_list(used[member.name])}"
            )
        cfg = predictor.config
        photos = test.photos(cfg.photos.size, cfg.photos.fit, cache)
        trunks = FeatureCache(cache / "features", photos, cfg.photos.size, cfg.cache.budget_gb)
        columns = test.table[list(METADATA)].to_numpy(dtype=np.float32)
        both = cfg.predict.flip if flip is None else flip
        total = len(photos) * (2 if both else 1)
        with tqdm(total=total, desc=f"predict {member.name}", unit="photo", leave=False, disable=None) as bar:
            parts.append(predictor.predict(photos, columns, flip=both, trunks=trunks, progress=bar.update))
    origin: dict[str, Any] = {"run": run.name, "folds": used}
    if run.kind == "ensemble":
        origin["blend"] = {"intercept": intercept, "weights": dict(zip(used, weights.tolist(), strict=True))}
        answers = np.stack(parts, axis=1) if parts else np.empty((len(test.table), 0))
        scores = Weights(intercept, weights)(answers)
    else:
        scores = parts[0]
    origin |= {
        "flip": flip,
        "test": {"data": test.folder.resolve().name, "hash": test.hash},
        "trained_on": run.record["data"],
        "git_commit": git_commit(),
        "versions": versions(),
    }
    write_submission(path, ids, scores, origin)
    return scores


def members_of(run: Run) -> tuple[float, list[Run], NDArray[np.float64]]:
    """What `run` predicts with: an intercept, runs with networks, and their weights; itself alone if it is no blend.

    Raises UserError for a member without networks, before the first of them has worked for an hour.
    """
    if run.kind != "ensemble":
        run.require_networks()
        return 0.0, [run], np.ones(1)
    intercept, weights = read_weights(run)
    members = [Run.open(OOF / name) for name in weights]
    for member in members:
        member.require_networks()
    return intercept, members, np.array(list(weights.values()))


def _list(folds: Sequence[int]) -> str:
    return ", ".join(str(fold) for fold in folds)
