"""What stands around the photos of one command: common scales, tests over all of them, pictures, tables, the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pawpularity.console import log
from pawpularity.errors import UserError
from pawpularity.explain.chosen import Chosen, trained_words
from pawpularity.explain.convergence import draw_convergence
from pawpularity.explain.explain import SANITY_BLOCKS, Explained, Photo, decoded, map_of
from pawpularity.explain.faithfulness_summary import summarise, summary_text
from pawpularity.explain.gallery import Frame, Section, csv_text, page, write_pictures
from pawpularity.explain.known_truth import PartSummary, parts_text, read_parts, summarise_parts
from pawpularity.explain.masks import MaskDesign
from pawpularity.explain.methods import TITLES
from pawpularity.explain.panel import error_scale, scale_of
from pawpularity.explain.sanity import Sanity, cascade, draw_sanity
from pawpularity.explain.scored import PhotoScore
from pawpularity.files import write_json, write_text
from pawpularity.predictor import Predictor
from pawpularity.runs import versions

_LINES = 7  # of a drawing: more could not be told apart


def finish(
    chosen: Chosen, predictor: Predictor, explained: Sequence[Explained], photos: Sequence[Photo], part: Path, what: str
) -> tuple[dict[str, Any], str]:
    """Everything that needs all photos: scales, pictures, tables, the page. Returns the JSON and the text."""
    cfg = predictor.config.photos
    by_name = {photo.name: photo for photo in photos}
    pixels = {one.name: decoded(by_name[one.name].path, cfg.size, cfg.fit) for one in explained}
    methods = list(dict.fromkeys(name for one in explained for name in one.maps))
    scales = {name: scale_of([one.maps[name].map for one in explained if name in one.maps]) for name in methods}
    errors = [one.maps["rise"].standard_error for one in explained if "rise" in one.maps]
    scales["error"] = error_scale([error for error in errors if error is not None])
    groups = None
    if what == "extremes":
        groups = np.array([one.record["group"] for one in explained])
    summaries = summarise([one.judged for one in explained], groups)
    cascades = _cascades(chosen, predictor, explained, by_name, pixels)
    truth = _known_truth(chosen, explained, methods, predictor, groups)
    write_pictures(part, explained, pixels, scales)
    columns = {s.method: {"sanity": s.verdict, "sanity_left_signed": s.left["signed"].mean,
                          "sanity_left_absolute": s.left["absolute"].mean} for s in cascades}  # fmt: skip
    write_text(part / "explain.csv", csv_text(explained, columns))
    sections = []
    if cascades:
        draw_sanity(cascades, part / "sanity.png")
        sections.append(_sanity_section(cascades))
    sections += _convergence(explained, part)
    sections += [_truth_section(name, rows) for name, rows in truth.items()]
    units = {name: next(one.maps[name].unit for one in explained if name in one.maps) for name in methods}
    title = {
        "extremes": f"{chosen.run.name}: the extremes of its out-of-fold predictions",
        "photos": f"{chosen.run.name}: photos",
    }[what]
    frame = Frame(
        title, _intro(chosen, predictor, explained, what), scales, units, summaries, sections, _foot(chosen, predictor)
    )
    write_text(part / "index.html", page(explained, frame))
    value = {
        "run": chosen.run.name, "data": chosen.dataset.name, "what": what, "photos": [one.record for one in explained],
        "scales": scales, "summary": [one.to_dict() for one in summaries], "sanity": [one.to_dict() for one in cascades],
        "known_truth": {name: [row.to_dict() for row in rows] for name, rows in truth.items()},
        "settings": chosen.settings.model_dump(), "versions": versions(),
    }  # fmt: skip
    write_json(part / "explain.json", value)
    blocks = [summary_text(summaries)]
    if cascades:
        blocks.append("with random weights: " + "; ".join(f"{TITLES[one.method]} {one.verdict}" for one in cascades))
    blocks += [
        f"{TITLES[name]} and what is known of these drawn photos\n{parts_text(rows)}" for name, rows in truth.items()
    ]
    return value, "\n\n".join(blocks)


def _cascades(
    chosen: Chosen,
    predictor: Predictor,
    explained: Sequence[Explained],
    photos: dict[str, Photo],
    pixels: dict[str, Any],
) -> list[Sanity]:
    """Each method with weights randomised from the top down, on a few photos of the fold that has most of them."""
    settings = chosen.settings
    folds = [one.record["fold"] for one in explained if one.record["fold"] is not None]
    if settings.sanity_photos < 2 or not folds:
        return []
    fold = max(sorted(set(folds)), key=folds.count)
    taken = [one for one in explained if one.record["fold"] == fold][: settings.sanity_photos]
    if len(taken) < 2:
        return []
    log(f"what is left of the maps of {len(taken)} photos when the weights of fold {fold} are made random ...")
    scores = [PhotoScore(predictor.networks[fold], predictor.compute, photos[one.name].metadata) for one in taken]
    xs = [score.input_of(pixels[one.name]) for score, one in zip(scores, taken, strict=True)]
    masks = SANITY_BLOCKS * MaskDesign(settings.cells).block_size
    fixed = settings.model_copy(update={"masks": masks})
    shape = xs[0].shape[-2:]

    def maps_of(method: str) -> Any:
        def one(score: PhotoScore, x: Tensor, drawn: int) -> NDArray[Any]:
            try:
                return map_of(score, x, method, fixed.model_copy(update={"seed": fixed.seed + drawn})).map
            except UserError:  # a random network may not look at the photo at all: nothing is left of the map
                return np.zeros(shape, dtype=np.float32)

        return one

    groups = np.array([one.record["group"] for one in taken])
    return [
        cascade(scores, xs, maps_of(method), method=method, seed=settings.seed, groups=groups)
        for method in settings.methods if all(method in one.maps for one in taken)
    ]  # fmt: skip


def _known_truth(
    chosen: Chosen, explained: Sequence[Explained], methods: Sequence[str], predictor: Predictor, groups: Any
) -> dict[str, list[PartSummary]]:
    """By method, how the maps of a drawn shelter's photos find the parts that move the score."""
    if not chosen.dataset.is_drawn:
        return {}
    cfg = predictor.config.photos
    found = {}
    own = [one for one in explained if one.record["fold"] is not None]
    parts = {one.name: read_parts(chosen.dataset.folder, one.name, size=cfg.size, fit=cfg.fit) for one in own}
    for method in methods:
        shown = [one for one in own if method in one.maps]
        if shown:
            held = None if groups is None else np.array([one.record["group"] for one in shown])
            found[method] = summarise_parts(
                [one.maps[method].judged for one in shown], [parts[one.name] for one in shown], held
            )
    return found


def _intro(chosen: Chosen, predictor: Predictor, explained: Sequence[Explained], what: str) -> list[str]:
    run, config = chosen.run, predictor.config
    lines = [f"{config.model.backbone} at {config.photos.size} px on {chosen.dataset.name}."]
    if what == "extremes":
        lines.append(
            f"Of {len(chosen.source.target):,} out-of-fold predictions: the highest, the lowest, and those furthest off. "
            "Each photo is explained by the fold's network that never saw it."
        )
        if not chosen.source.complete:
            lines.append(f"{trained_words(run).capitalize()}, so no other photos were looked at.")
    if any(one.record["fold"] is None for one in explained):
        lines.append("Photos from elsewhere are explained by the mean of the trained folds, without metadata.")
    if run.leaky:
        lines.append("This run is leaky by design: its networks have seen copies of the photos they score.")
    return lines


def _foot(chosen: Chosen, predictor: Predictor) -> list[str]:
    s = chosen.settings
    masks = f"until the map's error is {s.precision:g} of it, {s.budget} at most" if s.masks == "auto" else s.masks
    return [
        f"RISE: {s.cells} x {s.cells} cells in blocks of {MaskDesign(s.cells).block_size} masks, {masks}; a hidden place shows "
        f"the mean colour. Gradient: the mean over {s.smooth} copies with noise {s.noise:g} (SmoothGrad). Seed {s.seed}. "
        f"Computed on {predictor.compute}.",
        "A map says what the network does, not what people like: the network may be wrong about a photo. The photo's metadata "
        "are held fixed.",
    ]


def _sanity_section(cascades: Sequence[Sanity]) -> Section:
    rows = []
    for one in cascades:
        last, left = one.stages[-1], one.left["signed"]
        cells = [last.likeness[name].text(2) for name in ("signed", "absolute", "ssim")]
        bounds = [" / ".join(f"{side[name]:.2f}" if np.isfinite(side[name]) else "-" for name in ("signed", "absolute"))
                  for side in (one.ceiling, one.floor)]  # fmt: skip
        share = " / ".join(f"{v.mean:+.2f}" if np.isfinite(v.mean) else "-" for v in (left, one.left["absolute"]))
        rows.append([TITLES[one.method], str(one.photos), *cells, *bounds, share, one.verdict])
    return Section(
        title="Does a map depend on what the network learnt?",
        short="random weights",
        caption="Likeness of the map of the random network to that of the trained one.",
        head=(
            "",
            "photos",
            "correlation, signed",
            "of sizes",
            "SSIM",
            "made again, signed / sizes",
            "other photos",
            "left",
            "",
        ),
        rows=rows,
        notes=[
            "The network's weights are made random from the score down to its first layer. A method whose map stays the same "
            "draws the photo, not the network. The bounds are maps of the trained network made again with other masks or noise, of "
            "the same photo and of others; 'left' is the share of the way between them."
        ],
        picture="sanity.png",
        alt="Correlation with the trained network's map as weights are randomised, by method; the table has its last points",
    )


@dataclass(frozen=True)
class _Kept:
    """Of a photo's RISE, what its record holds of the error's way."""

    history: Sequence[Any]
    precision: float


def _convergence(explained: Sequence[Explained], part: Path) -> list[Section]:
    """The drawing of how RISE's error fell, of the first few photos that took more than one look."""
    facts = {one.name: one.maps["rise"].facts for one in explained if "rise" in one.maps}
    kept = {name: _Kept(f["history"], f["precision"]) for name, f in facts.items() if len(f.get("history", [])) > 1}
    shown = dict(list(kept.items())[:_LINES])
    if not shown:
        return []
    draw_convergence(shown, part / "convergence.png")
    return [Section(
        title="How the error of RISE's maps falls with the masks", short="convergence",
        notes=[f"The first {len(shown)} of {len(kept)} photos. Independent blocks halve the error with four times the masks "
               "(slope -1/2); a map is finished where its line meets the dashed one, or the masks are spent."],
        picture="convergence.png", alt="Relative standard error of RISE's maps against masks, both logarithmic, a line a photo",
    )]  # fmt: skip


def _truth_section(method: str, rows: Sequence[PartSummary]) -> Section:
    cells = [[row.part, f"{row.points:+.1f}", str(row.share.n), row.pointing.text(2, False), row.energy.text(2, False),
              f"{row.share.mean:.2f}", row.over_others.text(), row.verdict] for row in rows]  # fmt: skip
    return Section(
        f"{TITLES[method]} and what is known of these drawn photos", f"known truth, {TITLES[method]}",
        "Mean over photos [95 %]. By chance a map points at a part, and has its energy in it, as often as the part is wide. "
        "'Opposite sign or elsewhere': less of the energy of the part's sign lies in it than by chance. For the contrast, which is "
        "worth points as a difference between background and pet, the row is the background's: maps may credit the pet's side.",
        ("part", "points", "photos", "points at it", "energy in it", "share of picture", "over other photos' maps", ""), cells,
    )  # fmt: skip
