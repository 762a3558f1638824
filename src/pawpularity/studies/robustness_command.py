"""`pawpularity robustness`: how far the scores of runs move under attacks and harmless changes, photo by photo out of fold.

Leaves oof/RUN/robustness.csv (a row per photo and change) and oof/RUN/robustness.json (the table and what it was made with).
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pawpularity.command_line import json_argument, names_in, run_argument
from pawpularity.console import emit, log

if TYPE_CHECKING:
    import pandas as pd

    from pawpularity.data.dataset import Dataset
    from pawpularity.evaluation.predictions import Predictions
    from pawpularity.runs import Run

PHOTOS = 50
_BATCH = 16  # fixed: another batch size may change a score's last digits, and so an attack's steps


def robustness_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    run_argument(parser)
    parser.add_argument("--runs", nargs="+", metavar="NAME", help="several runs of the same data, side by side")
    parser.add_argument("--photos", type=int, default=PHOTOS, metavar="N",
                        help=f"how many photos, drawn at random ({PHOTOS}; 0 = all)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws photos, noise and resamples (0)")
    json_argument(parser)


def run_robustness(options: argparse.Namespace) -> None:
    """Measure, print and write. Raises UserError for runs without networks, of other data, or without photos."""
    from pawpularity.config import resolve
    from pawpularity.context import choose_data, default_config, default_run
    from pawpularity.data.dataset import Dataset
    from pawpularity.errors import UserError
    from pawpularity.evaluation.predictions import open_predictions
    from pawpularity.runs import OOF, check_name

    named = names_in(options, "runs")
    if other := [word for word in options.settings if not word.startswith("cache.")]:
        raise UserError(f'robustness: uses the runs\' own settings; remove "{other[0]}"')
    if options.runs is not None and not named:
        raise UserError("--runs: names no run; give one or several, separated by spaces")
    if named and options.run:
        raise UserError("--run, --runs: give one of them")
    if options.photos < 0 or options.photos == 1:
        raise UserError(f"--photos {options.photos}: must be 2 or more, or 0 for all")
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: must be 0 or more")
    if repeated := next((name for name in named if named.count(name) > 1), None):
        raise UserError(f"--runs: names {repeated} twice; name it once")
    asked = choose_data(options.data)
    configs = options.config or default_config(asked)
    cache = Path(resolve(configs, options.settings).cache.folder)
    names = named or [options.run or default_run(configs, asked)]
    sources: list[tuple[Run, Predictions]] = []
    for name in names:
        source = open_predictions(check_name(name), partly=True)
        assert source.run is not None
        source.run.require_networks()
        if source.run.leaky:
            log(f"{name} is leaky by design (train.split=leaky): its networks have seen copies of these photos")
        sources.append((source.run, source))
    data = _data_of(sources[0][0], Path(options.data) if options.data else None, asked)
    dataset = Dataset.load(data, cache)
    dataset.photo_paths()
    for run, _ in sources:
        if (own := run.record["data"])["hash"] != dataset.hash:
            raise UserError(
                f"{run.folder}: was trained on {own['name']} of hash {own['hash']}, {data} has {dataset.hash}; name its "
                "data with DATA=DIR, or runs of the same data"
            )
    for run, _ in sources:
        if len(done := run.trained_folds()) < run.k:
            log(
                f"{run.name}: only folds {', '.join(map(str, done))} of {run.k} are trained; the other folds' photos are left out"
            )
    ids = _drawn([source for _, source in sources], options.photos, options.seed)
    log(
        f"photos  {len(ids)} of {data}, each by the fold that never saw it; attacks on the photos as the networks see them"
    )
    measured = [_measure(run, source, dataset, ids, cache, options.seed) for run, source in sources]
    for one in measured:
        one.write(OOF / one.name)
    emit({"runs": [one.figures for one in measured]}, _text([one.figures for one in measured]), options.json)
    log(f"wrote   {', '.join(str(OOF / one.name / 'robustness.csv') for one in measured)} and .json beside")


def _data_of(run: "Run", named: Path | None, default: Path) -> Path:
    from pawpularity.errors import UserError

    own = run.record["data"]
    if named is not None:
        return named
    if own.get("folder") is None and own["name"] != default.resolve().name:
        raise UserError(f"{run.name} was trained on {own['name']}, not on {default}; name its data with DATA=DIR")
    return Path(own.get("folder") or default)


def _drawn(sources: Sequence["Predictions"], count: int, seed: int) -> list[str]:
    """Ids that every run has scored out of fold: `count` of them at random (0 or too few: all), sorted."""
    import numpy as np

    from pawpularity.errors import UserError

    common = sorted(set.intersection(*(set(source.table["Id"]) for source in sources)))
    if len(common) < 2:
        raise UserError("the runs have scored no photos in common yet; train the same folds of both")
    if not count or count >= len(common):
        return common
    chosen = np.random.default_rng([seed, 0xF070]).choice(len(common), count, replace=False)
    return [common[row] for row in sorted(chosen)]


@dataclass(frozen=True, eq=False)
class _Measured:
    name: str
    rows: "pd.DataFrame"
    figures: dict[str, Any]

    def write(self, folder: Path) -> None:
        from pawpularity.files import write_json, write_text

        text = self.rows.to_csv(index=False, float_format="%.4f", lineterminator="\n")
        write_text(folder / "robustness.csv", text)
        write_json(folder / "robustness.json", self.figures)


def _measure(
    run: "Run", source: "Predictions", dataset: "Dataset", ids: list[str], cache: Path, seed: int
) -> _Measured:
    import numpy as np
    import pandas as pd
    import torch

    from pawpularity.data.photos import bar
    from pawpularity.data.tables import ID, METADATA
    from pawpularity.errors import UserError
    from pawpularity.evaluation.metrics import evaluate as scored
    from pawpularity.explain.gradient import at_rest
    from pawpularity.files import text_hash
    from pawpularity.models.network import HIGHEST, LOWEST
    from pawpularity.predictor import Predictor
    from pawpularity.studies.robustness import Change, attacked, harmless, noise_of, pixel_score, summary

    table = source.table.set_index("Id").loc[ids]
    folds = table["fold"].to_numpy()
    predictor = Predictor.load(run.folder, folds=sorted(set(folds.tolist())))
    cfg = run.config
    log(
        f"run     {run.folder}: {cfg.model.backbone}, {cfg.photos.size} px; {predictor.compute.device.type}, float32 for attacks"
    )
    at = pd.Series(range(len(dataset.train)), index=dataset.train[ID])
    where = at.loc[ids].to_numpy()
    pixels = dataset.photos(cfg.photos.size, cfg.photos.fit, cache).pixels
    metadata = dataset.train[list(METADATA)].to_numpy(dtype=np.float32)
    paths = dataset.photo_paths()
    clean = np.empty(len(ids))
    moved: dict[Change, tuple[np.ndarray, np.ndarray]] = {}

    def keep(change: Change, rows: Any, values: Any, exact: Any) -> None:
        pair = moved.setdefault(change, (np.empty(len(ids)), np.empty(len(ids))))
        pair[0][rows], pair[1][rows] = values - clean[rows], exact - clean[rows]

    with bar(len(ids), f"robustness {run.name}") as shown:
        for fold, network in predictor.networks.items():
            mine = np.flatnonzero(folds == fold)
            for start in range(0, len(mine), _BATCH):
                rows = mine[start : start + _BATCH]
                photos = np.stack([pixels[row] for row in where[rows]])
                noise = np.stack([noise_of(int(text_hash(str(seed), ids[row]), 16), photos[0].shape) for row in rows])
                points = pixel_score(network, metadata[where[rows]], flip=cfg.predict.flip)

                def whole(photos: Any, points: Any = points) -> Any:
                    with torch.no_grad():
                        return points(torch.from_numpy(photos).to(predictor.compute.device)).double().cpu().numpy()

                with at_rest(network):
                    clean[rows] = whole(photos)
                    for change, values, exact in attacked(points, photos, noise, predictor.compute.device):
                        keep(change, rows, values, exact)
                    changed = [
                        harmless(paths[where[row]], photo, cfg.photos) for row, photo in zip(rows, photos, strict=True)
                    ]
                    for name in changed[0]:
                        values = whole(np.ascontiguousarray(np.stack([one[name] for one in changed])))
                        keep(Change("harmless", name), rows, values, values)
                shown.update(len(rows))
    if not np.isfinite([clean, *(values for pair in moved.values() for values in pair)]).all():
        raise UserError(
            f"{run.name}: its network answers what is no number (its training diverged); train it with a lower train.lr"
        )
    groups = None
    if source.groups is not None:
        groups = source.groups[source.table["Id"].searchsorted(ids)]
    result = scored(source.target, source.prediction, source.constant, source.groups)
    lines = summary(moved, groups, seed=seed)
    off = np.abs(clean.clip(LOWEST, HIGHEST) - table["prediction"].to_numpy())
    frame = pd.concat(
        [pd.DataFrame({"Id": ids, "fold": folds, "kind": change.kind, "change": change.name, "score": clean,
                       "move": values, "move_unrounded": exact}) for change, (values, exact) in moved.items()]
    )  # fmt: skip
    figures = {
        "run": run.name,
        "backbone": cfg.model.backbone,
        "size": cfg.photos.size,
        "photos": len(ids),
        "seed": seed,
        "flip": cfg.predict.flip,
        "score": result.to_dict(),
        "sd_of_scores": float(clean.std()),
        "off_predictions": float(off.max()),
        "moves": [line.to_dict() for line in lines],
    }
    return _Measured(run.name, frame, figures)


def _text(found: Sequence[Mapping[str, Any]]) -> str:
    """The table, runs side by side."""
    lines = []
    for one in found:
        s = one["score"]
        note = " (indicative: n < 50)" if s["indicative"] else ""
        rmse = f"RMSE {s['rmse']:.2f} [{s['low']:.2f}, {s['high']:.2f}]{note}, constant {s['constant_rmse']:.2f}, n = {s['n']}"
        lines += [
            f"{one['run']}: {one['backbone']} at {one['size']} px; out-of-fold {rmse}",
            f"  scores of the {one['photos']} photos: sd {one['sd_of_scores']:.2f}; at most {one['off_predictions']:.2f} points "
            "from the run's own predictions (its dtype, and clipping)",
        ]
    few = ", indicative (n < 50)" if found[0]["photos"] < 50 else ""
    lines += [
        "",
        f"moves in score points, on whole levels of 0..255; size = mean absolute move, its 95 % interval over photos{few}",
    ]
    lines.append((" " * 30 + "".join(f"  {one['run'][:36]:<36s}" for one in found)).rstrip())
    lines.append(" " * 30 + "".join(f"  {'mean':>7s} {'size':>6s} {'95 %':<14s} {'most':>6s}" for _ in found))
    kind = ""
    for row, first in enumerate(found[0]["moves"]):
        if kind and (kind == "harmless") != (first["kind"] == "harmless"):
            lines.append("")
        kind = first["kind"]
        cells = ""
        for one in found:
            m = one["moves"][row]
            span = f"[{m['size_low']:.2f}, {m['size_high']:.2f}]"
            cells += f"  {m['mean']:+7.2f} {m['size']:6.2f} {span:<14s} {m['largest']:6.2f}"
        lines.append(f"{first['name']:<30s}{cells}".rstrip())
    return "\n".join(lines)
