"""`pawpularity predict`: every trained fold scores the photos of test.csv, and their mean goes into submissions/RUN.csv.

A blend scores clip(intercept + sum of weight x member, 1, 100). A .json beside the CSV records where the scores come from.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pawpularity.config import resolve
from pawpularity.console import Progress, log, next_step, say
from pawpularity.context import choose_data, default_config, default_run
from pawpularity.data import data_name
from pawpularity.data.dataset import Rows, load_test
from pawpularity.data.tables import ID, METADATA
from pawpularity.ensemble.methods import Weights
from pawpularity.ensemble.record import read_weights
from pawpularity.errors import UserError
from pawpularity.files import file_hash, require_not_input, write_json, write_text
from pawpularity.kaggle.submission_file import check_ids, submission_text
from pawpularity.runs import OOF, Run, check_name, git_commit, versions

SUBMISSIONS = Path("submissions")


def predict(*, out: str | None, run: str | None, config: str | None, data: str | None, settings: list[str]) -> None:
    """Score the test.csv of the run's own data, or of `data`. Raises UserError for settings that only training could change."""
    if other := [word for word in settings if not word.startswith(("cache.", "predict."))]:
        raise UserError(f'predict: uses the run\'s own settings; remove "{other[0]}"')
    if out and not out.endswith(".csv"):
        raise UserError(f"--out {out}: must end in .csv (a .json of the same name is written beside it)")
    folder = choose_data(data)
    configs = config or default_config(folder)
    chosen = resolve(configs, settings)
    found = Run.open(OOF / check_name(run or default_run(configs, folder)))
    members_of(found)  # refuses a member without networks before anything else
    if run and not data:
        folder = _own_data(found, folder)
    log(f"run     {found.folder}, trained on {found.record['data']['name']}")
    if found.leaky:
        log(f"{found.name} is leaky by design (train.split=leaky): its own RMSE says nothing about these photos")
    log(f"data    {folder}")
    flip = chosen.predict.flip if any(word.startswith("predict.flip") for word in settings) else None
    path = Path(out) if out else SUBMISSIONS / f"{found.name}.csv"
    require_not_input("--out", path, *(folder / f"{name}.csv" for name in ("train", "test", "sample_submission")))
    scores = predict_test(found, load_test(folder, Path(chosen.cache.folder)), path, flip)
    say(f"{path}: {len(scores)} photos, scores {scores.min():.1f} to {scores.max():.1f}, mean {scores.mean():.1f}")
    log("the contest takes no files: Kaggle runs a kernel")
    next_step("make kernel", RUNS=found.name)


def _own_data(run: Run, chosen: Path) -> Path:
    """The folder of the data the run was trained on; `chosen` if the run does not record one but has its name."""
    trained_on = run.record["data"]
    if trained_on.get("folder") is None and trained_on["name"] != data_name(chosen):
        raise UserError(
            f"{run.name} was trained on {trained_on['name']}, not on {chosen}; name the photos with DATA=DIR"
        )
    return Path(trained_on.get("folder") or chosen)


def predict_test(run: Run, test: Rows, path: Path, flip: bool | None = None) -> NDArray[np.float64]:
    """Score `test` with `run` (a blend: with its members), write the submission, and return the scores, (N,).

    `flip`: score mirror images too; None = as each run scored its own rows. Members of weight 0 are not used.
    Raises UserError for a member without networks, and if test.csv and sample_submission.csv hold different Ids.
    """
    from pawpularity.features.build import FeatureCache
    from pawpularity.predictor import Predictor

    ids = test.table[ID].tolist()
    check_ids(ids, f"{test.folder / 'test.csv'}", test.folder)
    intercept, members, weights = members_of(run)
    columns = test.table[list(METADATA)].to_numpy(dtype=np.float32)
    parts, folds = [], {}
    for member in members:
        predictor = Predictor.load(member.folder)
        cfg = predictor.config
        folds[member.name] = sorted(predictor.networks)
        if len(folds[member.name]) < member.k:
            log(f"{member.name}: only folds {folds[member.name]} of {member.k} are trained; the mean is over those")
        photos = test.photos(cfg.photos.size, cfg.photos.fit, test.cache_folder)
        cache = FeatureCache(test.cache_folder / "features", photos, cfg.photos.size, cfg.cache.budget_gb)
        both = cfg.predict.flip if flip is None else flip
        with Progress(len(photos) * (2 if both else 1), f"predict {member.name}") as progress:
            parts.append(predictor.predict(photos, columns, flip=both, cache=cache, progress=progress.add))
    origin: dict[str, Any] = {"run": run.name, "folds": folds, "flip": flip}
    scores = parts[0] if parts else np.empty(0)
    if run.kind == "ensemble":
        origin["blend"] = {"intercept": intercept, "weights": dict(zip(folds, weights.tolist(), strict=True))}
        scores = Weights(intercept, weights)(np.stack(parts, axis=1) if parts else np.empty((len(ids), 0)))
    origin |= {
        "test": {"data": data_name(test.folder), "hash": test.hash},
        "trained_on": run.record["data"],
        "git_commit": git_commit(),
        "versions": versions(),
        "rows": len(ids),
    }
    write_text(path, submission_text(ids, scores))
    write_json(path.with_suffix(".json"), origin | {"submission_hash": file_hash(path)})
    return scores


def members_of(run: Run) -> tuple[float, list[Run], NDArray[np.float64]]:
    """What `run` predicts with: an intercept, runs with networks, and their weights; itself alone if it is not a blend.

    Raises UserError for a member without networks.
    """
    if run.kind != "ensemble":
        run.require_networks()
        return 0.0, [run], np.ones(1)
    intercept, weights = read_weights(run)
    members = [Run.open(OOF / name) for name in weights]
    for member in members:
        member.require_networks()
    return intercept, members, np.array(list(weights.values()))
