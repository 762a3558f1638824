"""Question: how much does a score change when the photo hardly changes?

Command: `make robustness [RUNS="densenet161 resnet152"] [PHOTOS=50] [SEED=0]`.
Result: a table, runs side by side, and for each run oof/RUN/robustness.csv (a row per photo and change) and robustness.json.

Attacks change the photo as the network sees it, square and decoded, in levels of 0..255. PGD (Madry et al. 2018) takes ten steps of
a quarter of `size` levels along the sign of the score's gradient, from a random start within `size`, and clips to the bounds after
each step. Gradients are in float32 and include the normalisation. Every scored photo has whole levels within 0..255 and within
`size` of the original, so a file could hold it. `chance` also moves every level by `size`, but up or down at random.

Harmless changes happen when a photo is shared: it is saved again as a JPEG, a twentieth of its sides is cropped, it gets a tenth
brighter or darker, it is mirrored. The JPEG is made of the file, and the crop of a larger decoding of the file, so that both go
through the project's decoder once.

Moves are in score points before clipping, by the network of the fold that never saw the photo.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.config import Photos as PhotoSettings
from pawpularity.config import resolve
from pawpularity.console import Progress, emit, log, next_step, table
from pawpularity.context import choose_data, default_config, default_run
from pawpularity.data.dataset import Dataset
from pawpularity.data.photos import decode
from pawpularity.data.tables import ID, METADATA
from pawpularity.errors import UserError, listed
from pawpularity.evaluation.bootstrap import bootstrap_sums, interval
from pawpularity.evaluation.metrics import evaluate, indicative
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.files import text_hash, write_json, write_text
from pawpularity.runs import Run, check_name

if TYPE_CHECKING:
    from torch import Tensor

    from pawpularity.models.network import Network

    PixelScore = Callable[[Tensor], Tensor]
    """From (B, H, W, 3) levels 0..255, float, to (B,) score points before clipping; differentiable."""

SIZES = (1, 4)  # levels of 255
STEPS = 10
DIRECTIONS = {"raise": 1, "lower": -1}
JPEG_QUALITIES = (90, 70, 50, 30)
KEPT = 0.95  # share of a side that a crop keeps
BRIGHTNESS = (0.9, 1.1)
DRAWS = 2000
LARGEST = 8  # moves that are printed without --full
BATCH = 16  # fixed: another batch size may change a score's last digits, and with them an attack's steps

Pixels = NDArray[np.uint8]


def robustness(
    *, runs: Sequence[str] = (), photos: int = 50, seed: int = 0, run: str | None = None, config: str | None = None,
    data: str | None = None, settings: Sequence[str] = (), json: str | None = None,
) -> None:  # fmt: skip
    """`pawpularity robustness`: measure, print and write. `photos`: how many, drawn at random; 0 = all.

    Raises UserError for runs without networks, of other data, or without photos.
    """
    if other := [word for word in settings if not word.startswith("cache.")]:
        raise UserError(f'robustness: uses the settings the runs were trained with; remove "{other[0]}"')
    if runs and run:
        raise UserError("--run and --runs: give only one of them")
    chosen = choose_data(data)
    configs = config or default_config(chosen)
    cache = Path(resolve(configs, settings).cache.folder)
    opened = [_open(check_name(name)) for name in dict.fromkeys(runs or [run or default_run(configs, chosen)])]
    first, trained_on = opened[0][0], opened[0][0].record["data"]
    place = Path(data or trained_on.get("folder") or chosen)
    if not place.exists():
        raise UserError(f"{first.name}: was trained on {trained_on['name']}; name it with DATA=DIR")
    dataset = Dataset.load(place, cache)
    dataset.require_photos()
    for one, _ in opened:
        if (trained_on := one.record["data"])["hash"] != dataset.hash:
            raise UserError(f"{one.folder}: was trained on {trained_on['name']}, not on {place}; name it with DATA=DIR")
    ids = _choose_ids([source for _, source in opened], photos, seed)
    log(f"photos  {len(ids)} of {place}, each by the fold that never saw it")
    found = []
    for one, source in opened:
        rows, figures = measure(one, source, dataset, ids, cache, seed)
        write_text(one.folder / "robustness.csv", rows.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
        write_json(one.folder / "robustness.json", figures)
        found.append(figures)
    emit({"runs": found}, "\n".join(map(robustness_text, found)), json, more="\n\n".join(map(more_text, found)))
    log(f"wrote robustness.csv and .json in {', '.join(str(one.folder) for one, _ in opened)}")
    next_step("make report", RUNS=[one.name for one, _ in opened])


def _open(name: str) -> tuple[Run, Predictions]:
    source = open_predictions(name, partly=True)
    run = source.run
    assert run is not None
    run.require_networks()
    if run.leaky:
        log(f"{name} is leaky by design (train.split=leaky): its networks saw copies of these photos")
    if not source.complete:
        log(f"{name}: only folds {listed(run.trained_folds())} of {run.k} are trained")
    return run, source


def _choose_ids(sources: Sequence[Predictions], count: int, seed: int) -> list[str]:
    """`count` random Ids (0, or fewer than `count`: all) that every run has scored out of fold, sorted."""
    common = sorted(set.intersection(*(set(source.table[ID]) for source in sources)))
    if len(common) < 2:
        raise UserError("the runs have scored fewer than two photos in common; train the same folds of all of them")
    if not count or count >= len(common):
        return common
    chosen = np.random.default_rng([seed, 0xF070]).choice(len(common), count, replace=False)
    return [common[row] for row in sorted(chosen)]


def measure(
    run: Run, source: Predictions, dataset: Dataset, ids: list[str], cache: Path, seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Score every change of the photos `ids`: a row per photo and change, and the figures for JSON."""
    import torch

    from pawpularity.predictor import Predictor

    own = source.table.set_index(ID).loc[ids]
    folds, cfg = own["fold"].to_numpy(), run.config
    predictor = Predictor.load(run.folder, folds=sorted(set(folds.tolist())))
    device = predictor.compute.device
    log(f"run     {run.folder}: {cfg.model.backbone}, {cfg.photos.size} px; {device.type}, float32")
    where = pd.Index(dataset.train[ID]).get_indexer(ids)
    pixels, paths = dataset.photos(cfg.photos.size, cfg.photos.fit, cache).pixels, dataset.paths
    metadata = dataset.train[list(METADATA)].to_numpy(dtype=np.float32)
    parts = []
    with Progress(len(ids), f"robustness {run.name}") as progress:
        for fold, network in predictor.networks.items():
            network.eval().requires_grad_(False)
            in_fold = np.flatnonzero(folds == fold)
            for rows in np.split(in_fold, range(BATCH, len(in_fold), BATCH)):
                photos = np.stack([pixels[row] for row in where[rows]])
                noise = torch.from_numpy(np.stack([noise_of(str(seed), ids[row], photos[0].shape) for row in rows]))
                points = pixel_score(network, metadata[where[rows]], flip=cfg.predict.flip)
                levels = torch.from_numpy(photos).to(device).float()
                changes = attacked(points, levels, noise.to(device))
                changes |= harmless(photos, [paths[row] for row in where[rows]], cfg.photos)
                with torch.no_grad():
                    clean = points(levels).double().cpu().numpy()
                    for name, changed in changes.items():
                        move = points(changed.to(device).round()).double().cpu().numpy() - clean
                        parts.append(pd.DataFrame({ID: np.array(ids)[rows], "fold": fold, "change": name,
                                                   "score": clean, "move": move}))  # fmt: skip
                progress.add(len(rows))
    table = pd.concat(parts, ignore_index=True)
    if not np.isfinite(table[["score", "move"]]).all(axis=None):
        raise UserError(f"{run.name}: its scores are not finite: training diverged; train it with a lower train.lr")
    groups = None if source.groups is None else source.groups[source.table[ID].searchsorted(ids)]
    return table, {
        "run": run.name, "backbone": cfg.model.backbone, "size": cfg.photos.size, "photos": len(ids), "seed": seed,
        "flip": cfg.predict.flip, "score": evaluate(source.target, source.prediction, source.constant, source.groups).to_dict(),
        "sd_of_scores": float(table.drop_duplicates(ID)["score"].std(ddof=0)), "moves": summary(table, groups, seed=seed),
    }  # fmt: skip


# --- Changes ----------------------------------------------------------------------------------------------------------


def pixel_score(network: "Network", metadata: NDArray[np.float32] | None, *, flip: bool = False) -> "PixelScore":
    """The score of a batch of photos in float32, their metadata (B, 12) held fixed. `flip`: the mean of photo and mirror image."""
    import torch

    def once(levels: "Tensor") -> "Tensor":
        columns = None if metadata is None else torch.tensor(metadata, device=levels.device)
        return network.points(network(levels.float(), columns))

    return (lambda levels: (once(levels) + once(levels.flip(2))) / 2) if flip else once


def pgd(
    score: "PixelScore", photos: "Tensor", size: int, direction: int, noise: "Tensor", steps: int = STEPS
) -> "Tensor":
    """Projected gradient descent: `steps` steps of `size` / 4 from `photos` + `size` x `noise` (in -1..1); float32, not rounded.

    The result is within 0..255 and within `size` of `photos`: for each photo the step with the best score before rounding.
    """
    import torch

    low, high = (photos - size).clamp(min=0), (photos + size).clamp(max=255)
    now = torch.clamp(photos + size * noise, low, high)
    best, reached = now, torch.full((len(photos),), -torch.inf, device=photos.device)
    for step in range(steps + 1):
        levels = now.detach().clone().requires_grad_(step < steps)
        points = direction * score(levels)
        better = points.detach() > reached
        reached = torch.where(better, points.detach(), reached)
        best = torch.where(better[:, None, None, None], now, best)
        if step < steps:
            (slope,) = torch.autograd.grad(points.sum(), levels)
            now = torch.clamp(now + size / 4 * slope.sign(), low, high)
    return best


def attacked(score: "PixelScore", photos: "Tensor", noise: "Tensor") -> "dict[str, Tensor]":
    """Every attack on `photos` (B, H, W, 3; whole levels), and `chance`, not rounded.

    `noise` is uniform in -1..1 and has the photos' shape. It is PGD's start and gives the signs of `chance`.
    """
    found = {}
    for size in SIZES:
        signs = (noise >= 0).float() * 2 - 1
        found[f"chance {size}/255"] = (photos + size * signs).clamp(0, 255)
        for word, sign in DIRECTIONS.items():
            found[f"PGD {size}/255, {word}"] = pgd(score, photos, size, sign, noise)
    return found


def noise_of(seed: str, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uniform in -1..1; depends on the seed and the photo's Id `name` only, not on its batch."""
    return np.random.default_rng(int(text_hash(seed, name), 16)).uniform(-1.0, 1.0, shape).astype(np.float32)


def harmless(photos: Pixels, files: Sequence[Path], settings: PhotoSettings) -> "dict[str, Tensor]":
    """Every harmless change of `files`, which were decoded as `photos` (B, H, W, 3)."""
    import torch

    size, fit = settings.size, settings.fit
    found = {f"JPEG quality {q}": np.stack([decode(saved_again(file, q), size, fit) for file in files])
             for q in JPEG_QUALITIES}  # fmt: skip
    larger = np.stack([decode(file, round(size / KEPT), fit) for file in files])
    rest = larger.shape[1] - size
    cut = f"{100 * (1 - KEPT):.0f} % cut off"
    for word, at in (("all around", rest // 2), ("right and below", 0), ("left and above", rest)):
        found[f"{cut} {word}"] = larger[:, at : at + size, at : at + size]
    for factor in BRIGHTNESS:
        found[f"brightness {100 * (factor - 1):+.0f} %"] = np.clip(np.rint(photos * factor), 0, 255)
    found["mirrored"] = np.ascontiguousarray(photos[:, :, ::-1])
    return {name: torch.from_numpy(changed).float() for name, changed in found.items()}


def saved_again(path: Path, quality: int) -> bytes:
    """The photo, upright and at its full size, as a JPEG file of `quality` (Pillow's default colour subsampling)."""
    from PIL import Image, ImageOps

    buffer = io.BytesIO()
    with Image.open(path) as image:
        ImageOps.exif_transpose(image).convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def summary(table: pd.DataFrame, groups: NDArray[np.int64] | None, *, seed: int = 0) -> list[dict[str, Any]]:
    """A row per change, in points, from a row per photo and change.

    `mean` is signed and `size` is the mean absolute move, both with 95 % intervals over photos. Near-duplicates (`groups`, of the
    photos in the order of their Ids) are drawn together. `largest` is the largest absolute move.
    """
    rows: list[dict[str, Any]] = []
    for name, some in table.groupby("change", sort=False):
        move = some.sort_values(ID)["move"].to_numpy(dtype=np.float64)
        columns = np.column_stack([np.ones(len(move)), move, np.abs(move)])
        count, *sums = bootstrap_sums(columns, groups, draws=DRAWS, seed=seed).T
        row: dict[str, Any] = {"name": name, "n": len(move)}
        for key, value, drawn in zip(("mean", "size"), columns.mean(axis=0)[1:], sums, strict=True):
            low, high = interval(drawn / count)
            row |= {key: float(value), f"{key}_low": low, f"{key}_high": high}
        rows.append(row | {"largest": float(np.abs(move).max())})
    return rows


def robustness_text(v: Mapping[str, Any]) -> str:
    """A run's figures and its largest moves."""
    s, few = v["score"], "; intervals are indicative (n < 50)" if v["photos"] < 50 else ""
    rows = sorted(v["moves"], key=lambda move: -move["size"])[:LARGEST]
    return "\n".join([
        f"{v['run']}: {v['backbone']} at {v['size']} px; out-of-fold RMSE {s['rmse']:.2f} [{s['low']:.2f}, {s['high']:.2f}]"
        f"{indicative(s)}, constant {s['constant_rmse']:.2f}, n = {s['n']:,}; {v['photos']} photos, sd of their scores "
        f"{v['sd_of_scores']:.2f}{few}",
        _moves("largest moves of the score, points", rows),
    ])  # fmt: skip


def more_text(v: Mapping[str, Any]) -> str:
    """All moves of a run."""
    return f"{v['run']}\n{_moves('move of the score, points', v['moves'])}"


def _moves(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [(m["name"], f"{m['mean']:+.2f}", f"{m['size']:.2f} [{m['size_low']:.2f}, {m['size_high']:.2f}]", f"{m['largest']:.2f}")
             for m in rows]  # fmt: skip
    return table((title, "mean", "size, 95 %", "largest"), cells)
