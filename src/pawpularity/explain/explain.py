"""`pawpularity explain`: the photos one by one, each with every method, each map judged; what is found goes to disk at once.

A photo of the run is explained with the network of its own fold, which never saw it, and with its metadata. Any other
picture has no such fold: its score is the mean of all trained folds, its metadata absent, and its maps are maps of that mean.
"""

import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.config import Explain
from pawpularity.console import log
from pawpularity.data.photo_facts import displayed_size
from pawpularity.data.photos import PhotoError, Pixels, decode
from pawpularity.device import Compute
from pawpularity.errors import UserError
from pawpularity.explain.extremes import Scored
from pawpularity.explain.faithfulness import Faithfulness, judge, judge_forwards
from pawpularity.explain.masks import MaskDesign
from pawpularity.explain.methods import METHODS
from pawpularity.explain.panel import write_maps
from pawpularity.explain.saliency import Saliency
from pawpularity.explain.scored import FoldsMean, PhotoScore
from pawpularity.files import read_json, write_json
from pawpularity.models.network import Network
from pawpularity.predictor import Predictor

SMALLEST = 32  # pixels of a photo's shorter side
RECORDS, MAPS = "records", "maps"
SANITY_BLOCKS = 4  # of masks, for every map of a network with random weights
_STAGES = 11  # of randomising, and what is done once more
_FEW_MASKS = 512  # four blocks: the fewest that "auto" stops at


@dataclass(frozen=True, eq=False)
class Photo:
    """One photo to explain."""

    name: str
    """its Id, or a name made of its file's: what its artefacts are called"""
    path: Path
    row: Scored | None = None
    """None: a picture that is not of the run"""
    metadata: NDArray[np.float32] | None = None
    """(12,); None = absent"""


@dataclass(frozen=True, eq=False)
class Explained:
    """What is known of one photo, as it was read back from disk."""

    record: dict[str, Any]
    maps: dict[str, Saliency]

    @property
    def name(self) -> str:
        """The photo's Id, or the name made of its file's."""
        return str(self.record["name"])

    @property
    def judged(self) -> list[Faithfulness]:
        """The rows of `judge`, without their curves."""
        rows: list[dict[str, Any]] = [dict(row) for row in self.record["judged"]]
        for row in rows:
            row.pop("mark")
            row |= {name: float("nan") for name, value in row.items() if value is None}
        return [Faithfulness(**row) for row in rows]


def score_of(photo: Photo, networks: Mapping[int, Network], compute: Compute) -> PhotoScore | FoldsMean:
    """The function of the photo that its maps explain."""
    if photo.row is not None:
        return PhotoScore(networks[photo.row.fold], compute, photo.metadata)
    return FoldsMean(tuple(PhotoScore(network, compute, photo.metadata) for network in networks.values()))


def explain_all(predictor: Predictor, photos: Sequence[Photo], settings: Explain, part: Path) -> list[str]:
    """Explain what `part` does not hold yet, photo by photo: `maps/NAME.npz`, then `records/NAME.json`.

    Returns a line for each photo that cannot be used; the others are there. Raises UserError where none can.
    """
    faults: list[str] = []
    todo = [photo for photo in photos if not (part / RECORDS / f"{photo.name}.json").is_file()]
    if todo:
        _announce(predictor, todo, settings)
    for number, photo in enumerate(photos, start=1):
        if photo not in todo:
            continue
        start = time.perf_counter()
        try:
            record = _explain(predictor, photo, settings, part)
        except UserError as error:
            faults.append(str(error) if isinstance(error, PhotoError) else f"{photo.name}: {error}")
            log(f"  {number}/{len(photos)}  {faults[-1]}")
            continue
        facts = record["methods"].get("rise", {}).get("facts", {})
        found = f"RISE {facts['masks']} masks, {facts['verdict']}; " if "masks" in facts else ""
        log(
            f"  {number}/{len(photos)}  {photo.name}: score {record['score']:.1f}; {found}{time.perf_counter() - start:.1f} s"
        )
    if len(faults) == len(photos):
        raise UserError(f"none of {len(photos)} photos can be explained: {'; '.join(faults)}")
    return faults


def read_explained(part: Path, photos: Sequence[Photo]) -> list[Explained]:
    """What `explain_all` left of those of `photos` that could be used, in their order."""
    found = []
    for photo in photos:
        file = part / RECORDS / f"{photo.name}.json"
        if not file.is_file():
            continue
        record = read_json(file, photo.name)
        with np.load(part / MAPS / f"{photo.name}.npz", allow_pickle=False) as arrays:
            maps = {
                name: Saliency(name, arrays[name], about["unit"],
                               arrays.get(f"{name}_standard_error"), about["facts"],
                               effect=arrays.get(f"{name}_effect"), warnings=tuple(about["warnings"]))
                for name, about in record["methods"].items()
            }  # fmt: skip
        found.append(Explained(record, maps))
    return found


def maps_of(score: PhotoScore | FoldsMean, x: Tensor, settings: Explain) -> tuple[dict[str, Saliency], list[str]]:
    """The maps of one photo by method, and a line for each method that refuses this network."""
    maps: dict[str, Saliency] = {}
    refusals: list[str] = []
    for method in settings.methods:
        try:
            maps[method] = map_of(score, x, method, settings)
        except PhotoError:
            raise
        except UserError as error:
            refusals.append(str(error))
    if not maps:
        raise UserError("; ".join(refusals))
    return maps, refusals


def map_of(score: PhotoScore | FoldsMean, x: Tensor, method: str, settings: Explain) -> Saliency:
    """One method's map of one photo, with the settings of the section `explain`."""
    return METHODS[method].map_of(score, x, settings)


def decoded(path: Path, size: int, fit: str) -> Pixels:
    """(size, size, 3) pixels. Raises PhotoError for what is no photo, or one that is too small to tell places apart."""
    width, height = displayed_size(path)
    if min(width, height) < SMALLEST:
        raise PhotoError(
            path, f"is {width} x {height} px; {SMALLEST} or more a side are needed to tell its places apart"
        )
    return decode(path, size, fit)


def _explain(predictor: Predictor, photo: Photo, settings: Explain, part: Path) -> dict[str, Any]:
    pixels = decoded(photo.path, predictor.config.photos.size, predictor.config.photos.fit)
    score = score_of(photo, predictor.networks, predictor.compute)
    x = score.input_of(pixels)
    maps, refusals = maps_of(score, x, settings)
    # Every photo has random orders of its own: of one set for all, a lucky one would be lucky everywhere.
    own_seed = zlib.crc32(f"{settings.seed} {photo.name}".encode())
    judged = judge(score, x, {name: found.judged for name, found in maps.items()}, seed=own_seed,
                   with_road=settings.road)  # fmt: skip
    row = photo.row
    own = float(score(x[None])[0])
    record: dict[str, Any] = {
        "name": photo.name, "photo": photo.path.name, "kinds": [] if row is None else list(row.kinds),
        "fold": None if row is None else row.fold, "folds": sorted(predictor.networks),
        "target": None if row is None else row.target, "constant": None if row is None else row.constant,
        "prediction": min(max(own, 1.0), 100.0) if row is None else row.prediction,
        "score": own, "hidden_score": float(score(torch.zeros_like(x)[None])[0]),
        "group": None if row is None else row.group, "refusals": refusals,
        "methods": {name: {"unit": s.unit, "facts": s.facts, "warnings": list(s.warnings)} for name, s in maps.items()},
        "judged": [line.to_dict() for line in judged],
    }  # fmt: skip
    write_maps(part / MAPS / f"{photo.name}.npz", maps)
    write_json(part / RECORDS / f"{photo.name}.json", record)
    return record


def _announce(predictor: Predictor, todo: Sequence[Photo], settings: Explain) -> None:
    """Say how long this will take: a batch is timed, and the rest is counted in forward passes of one photo."""
    size, photo = predictor.config.photos.size, todo[0]
    score = score_of(photo, predictor.networks, predictor.compute)
    batch = torch.zeros(settings.batch_size, 3, size, size, device=predictor.compute.device)
    score(batch)
    start = time.perf_counter()
    float(score(batch)[0])  # waits for the device
    each = (time.perf_counter() - start) / settings.batch_size
    low = high = 0
    block = MaskDesign(settings.cells).block_size
    if "rise" in settings.methods and settings.masks == "auto":
        high = settings.budget // block * block
        low = min(_FEW_MASKS // MaskDesign().block_size * block, high)  # as many blocks, of another size
    elif "rise" in settings.methods:
        low = high = -(-int(settings.masks) // block) * block
    judging = judge_forwards(len(settings.methods), with_road=settings.road)
    again = 0
    if "rise" in settings.methods and todo[0].row is not None:
        again = settings.sanity_photos * _STAGES * SANITY_BLOCKS * block
    masks = "" if not high else f"{high:,} masks and " if low == high else f"{low:,} to {high:,} masks and "
    times = [span(each * (len(todo) * (count + judging) + again)) for count in (low, high)]
    log(
        f"{len(todo)} photo{'s' if len(todo) > 1 else ''} at {1000 * each:.2f} ms a forward pass, {masks}{judging:,} passes "
        f"to judge maps for each, {again:,} with random weights: about {' to '.join(dict.fromkeys(times))}"
        f"{', and the filling of holes for ROAD' if settings.road else ''}"
    )


def span(seconds: float) -> str:
    """A time for people."""
    return (
        f"{max(seconds, 1):.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
