"""Explain photos one by one (make and judge every method's map), then write what needs all photos: scales, tables, the gallery."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.config import Explain
from pawpularity.console import Progress, log, track
from pawpularity.data.photos import PhotoError
from pawpularity.errors import UserError, listed
from pawpularity.explain.estimates import as_json
from pawpularity.explain.faithfulness import judge, passes_to_judge
from pawpularity.explain.gallery import Explained, csv_text, page, write_pictures
from pawpularity.explain.gradcam import AUTO, module_of
from pawpularity.explain.methods import METHODS, TITLES
from pawpularity.explain.panel import draw_convergence, draw_sanity, error_scale, scale_of
from pawpularity.explain.photos import Photo, RunData, trained_words
from pawpularity.explain.players import MaskDesign
from pawpularity.explain.rise import constant_score
from pawpularity.explain.saliency import Results, Saliency
from pawpularity.explain.sanity import Sanity, cascade, maps_in_cascade
from pawpularity.explain.scored import FoldsMean, PhotoScore
from pawpularity.explain.summary import more_text, summarise, summary_text
from pawpularity.files import write_json, write_text
from pawpularity.models.network import HIGHEST, LOWEST
from pawpularity.predictor import Predictor
from pawpularity.runs import versions

SANITY_BLOCKS = 4  # blocks of masks for each map of a network with random weights
PLOTTED = 7  # photos in the convergence plot: more lines could not be distinguished


def predictor_for(data: RunData, photos: Sequence[Photo]) -> Predictor:
    """The networks of the photos' folds, or of all trained folds where a picture is not one of the run's photos."""
    folds = {one.fold for one in photos}
    known = sorted(fold for fold in folds if fold is not None)
    predictor = Predictor.load(data.run.folder, folds=None if None in folds else known)
    if data.settings.layer != AUTO and "gradcam" in data.settings.methods:
        module_of(
            next(iter(predictor.networks.values())), data.settings.layer
        )  # a wrong name is refused before any map
    log(f"device  {predictor.compute}")
    if None in folds:
        trained = listed(sorted(predictor.networks))
        log(f"pictures outside {data.dataset.name} are explained by the mean of folds {trained}, without metadata")
    return predictor


def passes_a_photo(settings: Explain) -> int:
    """Passes of the network, at most, to map a photo and judge the maps."""
    passes = passes_to_judge(len(settings.methods), with_road=settings.road)
    if "rise" in settings.methods:
        passes += settings.budget if settings.masks == "auto" else settings.masks
    return passes


def explain_photos(settings: Explain, predictor: Predictor, photos: Sequence[Photo], results: Results) -> list[str]:
    """Explain the photos that `results` does not hold yet. Returns an error message for each photo that cannot be explained."""
    faults = []
    todo = [one for one in photos if not results.done(one.name)]
    if len(todo) < len(photos):
        log(f"{len(photos) - len(todo)} of {len(photos)} photos are explained already")
    passes = passes_a_photo(settings)
    with Progress(len(todo) * passes, "explain", "passes") as progress:
        for number, photo in enumerate(todo, start=1):
            try:
                record, maps = _explain(settings, predictor, photo, progress)
                results.add(photo.name, record, maps)
                progress.note(f"photo {number} of {len(todo)}, score {record['score']:.1f}")
            except PhotoError as error:
                faults.append(str(error) if photo.row is not None else f"{photo.path}: {error.reason}")
            except UserError as error:
                faults.append(f"{photo.name}: {error}")
            # Fill the bar up: RISE stopped early, or the photo cannot be explained.
            progress.add(max(0, number * passes - progress.done))
    return faults


def _explain(
    settings: Explain, predictor: Predictor, photo: Photo, progress: Progress
) -> tuple[dict[str, Any], dict[str, Saliency]]:
    """One photo's record and maps. Raises UserError if it cannot be explained."""
    score = photo.score(predictor)
    x = score.input_of(photo.pixels(predictor))
    if (value := constant_score(score, x)) is not None:
        raise UserError(
            f"its score is {value:.6g} whatever is hidden: the network ignores the photo; train with a lower train.lr"
        )
    score = replace(score, on_scored=progress.add)
    maps, refusals = maps_of(score, x, settings)
    seed = zlib.crc32(f"{settings.seed} {photo.name}".encode())
    judged = judge(score, x, {name: one.judged for name, one in maps.items()}, seed=seed, with_road=settings.road)
    shown, hidden = (float(score(picture[None])[0]) for picture in (x, torch.zeros_like(x)))
    row = photo.row or {"prediction": min(max(shown, LOWEST), HIGHEST)}
    record = {
        "name": photo.name, "photo": photo.path.name, "kinds": list(photo.kinds), "folds": sorted(predictor.networks),
        **{key: row.get(key) for key in ("fold", "target", "constant", "group", "prediction")},
        "score": shown, "hidden_score": hidden, "refusals": refusals,
        "methods": {name: one.about() for name, one in maps.items()}, "judged": judged,
    }  # fmt: skip
    return record, maps


def maps_of(score: PhotoScore | FoldsMean, x: Tensor, settings: Explain) -> tuple[dict[str, Saliency], list[str]]:
    """One photo's maps by method, and an error message for each method that failed. Raises UserError if all did."""
    maps: dict[str, Saliency] = {}
    refusals: list[str] = []
    for method in settings.methods:
        try:
            maps[method] = METHODS[method].map_of(score, x, settings)
        except UserError as error:
            refusals.append(str(error))
    if not maps:
        raise UserError("; ".join(refusals))
    return maps, refusals


def finish(
    data: RunData, predictor: Predictor, photos: Sequence[Photo], results: Results, what: str
) -> tuple[dict[str, Any], str, str]:
    """Write everything that needs all photos: scales, pictures, tables, the gallery. Returns the JSON, the text, and its rest."""
    folder, settings = results.folder, data.settings
    explained = [Explained(results.record(one.name), results.maps(one.name)) for one in photos]
    for refusal in dict.fromkeys(line for one in explained for line in one.record["refusals"]):
        log(f"no map  {refusal}")
    methods = dict.fromkeys(name for one in explained for name in one.maps)
    scales = {name: scale_of([one.maps[name].map for one in explained if name in one.maps]) for name in methods}
    scales["error"] = error_scale([one.maps["rise"].standard_error for one in explained if "rise" in one.maps])
    for photo, one in track(list(zip(photos, explained, strict=True)), "panels"):
        write_pictures(folder, one, photo.pixels(predictor), scales)
    groups = np.array([one.record["group"] for one in explained]) if what == "extremes" else None
    summaries = summarise([one.record["judged"] for one in explained], groups)
    sanity = _cascades(settings, predictor, photos, explained)
    if sanity:
        draw_sanity(sanity, folder / "sanity.png")
    history = {one.name: one.maps["rise"].facts["history"] for one in explained if "rise" in one.maps}
    history = {name: looks for name, looks in history.items() if len(looks) > 1}
    if history:
        draw_convergence(dict(list(history.items())[:PLOTTED]), settings.precision, folder / "convergence.png")
    write_text(folder / "explain.csv", csv_text(explained, sanity))
    value = {
        "run": data.run.name, "data": data.dataset.name, "what": what, "photos": [one.record for one in explained],
        "scales": scales, "summary": [as_json(one) for one in summaries], "sanity": [one.to_dict() for one in sanity],
        "settings": settings.model_dump(), "versions": versions(),
    }  # fmt: skip
    write_json(folder / "explain.json", value)
    about = {
        "run": data.run, "config": predictor.config, "device": predictor.compute, "data": data.dataset.name, "what": what,
        "rows": len(data.rows), "partly": "" if data.source.complete else trained_words(data.run), "settings": settings,
        "block": MaskDesign(settings.cells).block_size, "plotted": (min(len(history), PLOTTED), len(history)),
    }  # fmt: skip
    write_text(folder / "index.html", page(explained, scales, summaries, sanity, about))
    verdicts = "; ".join(f"{TITLES[one.method]} {one.verdict}" for one in sanity)
    text = summary_text(summaries) + (f"\nwith random weights: {verdicts}" if sanity else "")
    return value, text, more_text(summaries)


def _cascades(
    settings: Explain, predictor: Predictor, photos: Sequence[Photo], explained: Sequence[Explained]
) -> list[Sanity]:
    """Each method's cascade (`sanity`), on a few photos of the fold that most of `photos` belong to."""
    folds = [one.fold for one in photos if one.fold is not None]
    fold = max(sorted(set(folds)), key=folds.count, default=None)
    chosen = [(photo, one) for photo, one in zip(photos, explained, strict=True) if photo.fold == fold]
    chosen = chosen[: settings.sanity_photos]
    if fold is None or len(chosen) < 2:
        return []
    methods = [name for name in settings.methods if all(name in one.maps for _, one in chosen)]
    scores = [score for photo, _ in chosen if isinstance(score := photo.score(predictor), PhotoScore)]
    xs = [score.input_of(photo.pixels(predictor)) for score, (photo, _) in zip(scores, chosen, strict=True)]
    groups = np.array([one.record["group"] for _, one in chosen])
    masks = SANITY_BLOCKS * MaskDesign(settings.cells).block_size

    def maps_by(method: str) -> Any:
        def map_of(score: PhotoScore, x: Tensor, draw: int) -> NDArray[Any]:
            drawing = settings.model_copy(update={"masks": masks, "seed": settings.seed + draw})
            try:
                return METHODS[method].map_of(score, x, drawing).map
            except UserError:  # a random network may ignore the photo: nothing is left of the map
                return np.zeros(x.shape[-2:], dtype=np.float32)

        return map_of

    total = len(methods) * maps_in_cascade(len(chosen), len(predictor.networks[fold].split.blocks))
    with Progress(total, f"maps with random weights, fold {fold}", "maps") as progress:
        return [
            cascade(scores, xs, maps_by(name), method=name, seed=settings.seed, groups=groups, on_map=progress.add)
            for name in methods
        ]
