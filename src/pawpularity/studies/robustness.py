"""Question: how far does a score move when the photo hardly does?

Command: `make robustness [RUNS="densenet161 resnet152"] [PHOTOS=50] [SEED=0]`.
Result: a table, runs side by side, and for each run oof/RUN/robustness.csv (a row per photo and change) and robustness.json.

Attacks are made on the photo as the network sees it, square and decoded, in levels of 0..255: PGD (Madry et al. 2018), ten steps
of a quarter of `size` levels along the sign of the score's gradient, from a random start within `size`, put back into the
bounds after each. Gradients are in float32 and go through the normalisation. Every photo that is scored consists of whole
levels within 0..255 and within `size` of the original, as a file could hold it; the move before rounding stands beside it.
`chance` moves every level by `size` too, but up or down at random.

Harmless changes are what happens to a photo that is shared: it is saved again as a JPEG, a twentieth of its sides is cut off, it
gets a tenth brighter or darker, it is mirrored. JPEG is applied to the file and the crop to a larger decoding of it, so that
both go through the project's decoder once.

Moves are in score points before clipping, by the network of the fold that never saw the photo.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pawpularity.config import Photos as PhotoSettings
from pawpularity.config import resolve
from pawpularity.console import Progress, emit, log, make_word, next_step, table
from pawpularity.context import choose_data, default_config, default_run
from pawpularity.data.dataset import Dataset
from pawpularity.data.photos import decode
from pawpularity.data.tables import ID, METADATA
from pawpularity.errors import UserError
from pawpularity.evaluation.bootstrap import bootstrap_sums, interval
from pawpularity.evaluation.metrics import evaluate
from pawpularity.evaluation.predictions import Predictions, open_predictions
from pawpularity.files import text_hash, write_json, write_text
from pawpularity.runs import Run, check_name

if TYPE_CHECKING:
    from torch import Tensor

    from pawpularity.models.network import Network

    PixelScore = Callable[[Tensor], Tensor]
    """From (B, H, W, 3) levels 0..255, float, to (B,) score points before clipping; differentiable."""

SIZES = (1, 2, 4)  # levels of 255
STEPS = 10
DIRECTIONS = {"raise": 1, "lower": -1}
JPEG_QUALITIES = (90, 70, 50, 30)
KEPT = 0.95  # of a side, by a crop
BRIGHTNESS = (0.9, 1.1)
DRAWS = 2000
BATCH = 16  # fixed: another batch size may change a score's last digits, and so an attack's steps

Change = tuple[str, str]
"""Kind (`pgd`, `chance`, `harmless`) and name."""
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]


def robustness(
    *, runs: Sequence[str] = (), photos: int = 50, seed: int = 0, run: str | None = None, config: str | None = None,
    data: str | None = None, settings: Sequence[str] = (), json: str | None = None,
) -> None:  # fmt: skip
    """`pawpularity robustness`: measure, print and write. `photos`: how many, drawn at random; 0 = all.

    Raises UserError for runs without networks, of other data, or without photos.
    """
    if other := [word for word in settings if not word.startswith("cache.")]:
        raise UserError(f'robustness: uses the runs\' own settings; remove "{other[0]}"')
    if runs and run:
        raise UserError("--run, --runs: give one of them")
    if photos < 0 or photos == 1:
        raise UserError(f"--photos {photos}: must be 2 or more, or 0 for all")
    if seed < 0:
        raise UserError(f"--seed {seed}: must be 0 or more")
    asked = choose_data(data)
    configs = config or default_config(asked)
    cache = Path(resolve(configs, settings).cache.folder)
    sources = [_open(check_name(name)) for name in dict.fromkeys(runs or [run or default_run(configs, asked)])]
    opened = [(source.run, source) for source in sources if source.run is not None]
    place = _data_of(opened[0][0], data, asked)
    dataset = Dataset.load(place, cache)
    dataset.require_photos()
    for one, _ in opened:
        if (own := one.record["data"])["hash"] != dataset.hash:
            raise UserError(f"{one.folder}: was trained on {own['name']} of hash {own['hash']}, {place} has {dataset.hash}; name "
                            "its data with DATA=DIR, or runs of the same data")  # fmt: skip
    ids = _drawn(sources, photos, seed)
    log(f"photos  {len(ids)} of {place}, each by the fold that never saw it")
    found = []
    for one, source in opened:
        rows, figures = measure(one, source, dataset, ids, cache, seed)
        write_text(one.folder / "robustness.csv", rows.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
        write_json(one.folder / "robustness.json", figures)
        found.append(figures)
    emit({"runs": found}, robustness_text(found), json)
    log(f"wrote {', '.join(f'{one.folder}/robustness.csv' for one, _ in opened)} (all changes) and .json")
    next_step(f"make report {make_word('RUNS', *(one.name for one, _ in opened))}")


def _open(name: str) -> Predictions:
    source = open_predictions(name, partly=True)
    assert source.run is not None
    source.run.require_networks()
    if source.run.leaky:
        log(f"{name} is leaky by design (train.split=leaky): its networks have seen copies of these photos")
    if not source.complete:
        log(f"{name}: only folds {', '.join(map(str, source.run.trained_folds()))} of {source.run.k} are trained")
    return source


def _data_of(run: Run, named: str | None, default: Path) -> Path:
    own = run.record["data"]
    if not named and own.get("folder") is None and own["name"] != default.resolve().name:
        raise UserError(f"{run.name} was trained on {own['name']}, not on {default}; name its data with DATA=DIR")
    return Path(named or own.get("folder") or default)


def _drawn(sources: Sequence[Predictions], count: int, seed: int) -> list[str]:
    """Ids that every run has scored out of fold: `count` of them at random (0 or too few: all), sorted."""
    common = sorted(set.intersection(*(set(source.table[ID]) for source in sources)))
    if len(common) < 2:
        raise UserError("the runs have scored no photos in common yet; train the same folds of both")
    if not count or count >= len(common):
        return common
    chosen = np.random.default_rng([seed, 0xF070]).choice(len(common), count, replace=False)
    return [common[row] for row in sorted(chosen)]


def measure(
    run: Run, source: Predictions, dataset: Dataset, ids: list[str], cache: Path, seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Every change of the photos `ids`: a row per photo and change, and the figures for JSON."""
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
    clean, moves = np.empty(len(ids)), dict[Change, Floats]()

    @torch.no_grad()
    def scored(points: "PixelScore", photos: "Tensor") -> Floats:
        return np.asarray(points(photos).double().cpu().numpy())

    with Progress(len(ids), f"robustness {run.name}") as progress:
        for fold, network in predictor.networks.items():
            network.eval().requires_grad_(False)
            mine = np.flatnonzero(folds == fold)
            for rows in np.split(mine, range(BATCH, len(mine), BATCH)):
                photos = np.stack([pixels[row] for row in where[rows]])
                noise = np.stack([noise_of(int(text_hash(str(seed), ids[row]), 16), photos[0].shape) for row in rows])
                points = pixel_score(network, metadata[where[rows]], flip=cfg.predict.flip)
                levels = torch.from_numpy(photos).to(device).float()
                clean[rows] = scored(points, levels)
                files = [paths[row] for row in where[rows]]
                for change, changed in [*attacked(points, levels, torch.from_numpy(noise).to(device)),
                                        *harmlessly(photos, files, cfg.photos)]:  # fmt: skip
                    pair = moves.setdefault(change, np.empty((2, len(ids))))
                    both = [scored(points, one) for one in (changed.to(device).round(), changed.to(device))]
                    pair[:, rows] = np.stack(both) - clean[rows]
                progress.add(len(rows))
    if not np.isfinite([clean, *(values for pair in moves.values() for values in pair)]).all():
        raise UserError(
            f"{run.name}: its network gives no numbers (its training diverged); train it with a lower train.lr"
        )
    parts = [pd.DataFrame({ID: ids, "fold": folds, "kind": kind, "change": name, "score": clean, "move": move,
                           "move_unrounded": exact}) for (kind, name), (move, exact) in moves.items()]  # fmt: skip
    groups = None if source.groups is None else source.groups[source.table[ID].searchsorted(ids)]
    return pd.concat(parts), {
        "run": run.name,
        "backbone": cfg.model.backbone,
        "size": cfg.photos.size,
        "photos": len(ids),
        "seed": seed,
        "flip": cfg.predict.flip,
        "score": evaluate(source.target, source.prediction, source.constant, source.groups).to_dict(),
        "sd_of_scores": float(clean.std()),
        "off_predictions": float(np.abs(clean.clip(1, 100) - own["prediction"].to_numpy()).max()),
        "moves": summary(moves, groups, seed=seed),
    }


# --- Changes ----------------------------------------------------------------------------------------------------------


def pixel_score(network: "Network", metadata: NDArray[np.float32] | None, *, flip: bool = False) -> "PixelScore":
    """The score of a batch of photos in float32, their metadata (B, 12) held fixed; with `flip` of photo and mirror image."""
    import torch

    def once(levels: "Tensor") -> "Tensor":
        columns = None if metadata is None else torch.tensor(metadata, device=levels.device)
        return network.points(network(levels.float(), columns))

    return (lambda levels: (once(levels) + once(levels.flip(2))) / 2) if flip else once


def pgd(
    score: "PixelScore", photos: "Tensor", size: int, direction: int, noise: "Tensor", steps: int = STEPS
) -> "Tensor":
    """The best of `steps` steps of `size` / 4 from `photos` + `size` x `noise` (in -1..1): float32, not rounded.

    Within 0..255 and within `size` of `photos`. The best is taken photo by photo, by the score before rounding.
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


def attacked(score: "PixelScore", photos: "Tensor", noise: "Tensor") -> "Iterator[tuple[Change, Tensor]]":
    """Every attack on `photos` (B, H, W, 3; whole levels), and chance, not rounded.

    `noise`, uniform in -1..1 and of the photos' shape: PGD's start, and the signs of chance.
    """
    for size in SIZES:
        signs = (noise >= 0).float() * 2 - 1
        yield ("chance", f"chance {size}/255"), (photos + size * signs).clamp(0, 255)
        for word, sign in DIRECTIONS.items():
            yield ("pgd", f"PGD {size}/255, {word}"), pgd(score, photos, size, sign, noise)


def noise_of(key: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Uniform in -1..1, a function of `key` alone, so that no photo's noise depends on the others in its batch."""
    return np.random.default_rng([key, 0xAD7]).uniform(-1.0, 1.0, shape).astype(np.float32)


def harmlessly(photos: Pixels, files: Sequence[Path], settings: PhotoSettings) -> "Iterator[tuple[Change, Tensor]]":
    """Every harmless change of `files`, which were decoded as `photos` (B, H, W, 3)."""
    import torch

    changed = [harmless(file, photo, settings) for file, photo in zip(files, photos, strict=True)]
    for name in changed[0]:
        yield ("harmless", name), torch.from_numpy(np.stack([one[name] for one in changed])).float()


def harmless(path: Path, pixels: Pixels, settings: PhotoSettings) -> dict[str, Pixels]:
    """The photo of `path`, decoded as `pixels`, after every harmless change: name -> (size, size, 3)."""
    size, fit = settings.size, settings.fit
    found = {f"JPEG quality {q}": decode(saved_again(path, q), size, fit) for q in JPEG_QUALITIES}
    larger = decode(path, round(size / KEPT), fit)
    rest = len(larger) - size
    cut = f"{100 * (1 - KEPT):.0f} % cut off"
    for word, at in (("all around", rest // 2), ("right and below", 0), ("left and above", rest)):
        found[f"{cut} {word}"] = larger[at : at + size, at : at + size]
    for factor in BRIGHTNESS:
        found[f"brightness {100 * (factor - 1):+.0f} %"] = np.clip(np.rint(pixels * factor), 0, 255).astype(np.uint8)
    found["mirrored"] = pixels[:, ::-1]
    return found


def saved_again(path: Path, quality: int) -> bytes:
    """The photo, upright and at its full size, as a JPEG file of `quality` (Pillow's default colour subsampling)."""
    from PIL import Image, ImageOps

    buffer = io.BytesIO()
    with Image.open(path) as image:
        ImageOps.exif_transpose(image).convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def summary(moves: Mapping[Change, Floats], groups: NDArray[np.int64] | None, *, seed: int = 0) -> list[dict[str, Any]]:
    """From the moves (2, n) of every change, on whole levels and before rounding: a row per change, in points.

    `mean` is signed, `size` the mean of the absolute move, both with 95 % intervals over photos (near-duplicates are drawn
    together); `largest` the largest absolute move, `unrounded` the signed mean before rounding.
    """
    columns = np.column_stack([values for move, _ in moves.values() for values in (move, np.abs(move))])
    drawn = bootstrap_sums(np.column_stack([np.ones(len(columns)), columns]), groups, draws=DRAWS, seed=seed)
    ends = [interval(values) for values in (drawn[:, 1:] / drawn[:, :1]).T]
    rows: list[dict[str, Any]] = []
    for at, ((kind, name), (move, exact)) in enumerate(moves.items()):
        row: dict[str, Any] = {"kind": kind, "name": name, "n": len(move)}
        for key, values, (low, high) in zip(
            ("mean", "size"), (move, np.abs(move)), ends[2 * at : 2 * at + 2], strict=True
        ):
            row |= {key: float(values.mean()), f"{key}_low": low, f"{key}_high": high}
        rows.append(row | {"largest": float(np.abs(move).max()), "unrounded": float(exact.mean())})
    return rows


def robustness_text(found: Sequence[Mapping[str, Any]]) -> str:
    """The table, runs side by side. Attacks of 2 levels are in the files only."""
    lines = []
    for one in found:
        s = one["score"]
        few = " (indicative)" if s["indicative"] else ""
        lines.append(f"{one['run']}: {one['backbone']} at {one['size']} px; out-of-fold RMSE {s['rmse']:.2f} [{s['low']:.2f}, "
                     f"{s['high']:.2f}]{few}, constant {s['constant_rmse']:.2f}, n = {s['n']}; sd of {one['photos']} scores "
                     f"{one['sd_of_scores']:.2f}")  # fmt: skip
    head, rows = ["move of the score, points"], []
    for one in found:
        head += [f"{one['run']}: mean", "size, 95 %", "largest"]
    for moves in zip(*(one["moves"] for one in found), strict=True):
        if "2/255" in moves[0]["name"]:
            continue
        row = [moves[0]["name"]]
        for m in moves:
            row += [
                f"{m['mean']:+.2f}",
                f"{m['size']:.2f} [{m['size_low']:.2f}, {m['size_high']:.2f}]",
                f"{m['largest']:.2f}",
            ]
        rows.append(row)
    few = "; intervals are indicative (n < 50)" if found[0]["photos"] < 50 else ""
    lines.append(f"size: mean absolute move{few}; chance: every level moved by as much, at random")
    return "\n".join([*lines, table(head, rows)])
