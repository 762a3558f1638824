"""`pawpularity explain`: what to explain, with which networks; then everything that stands around the photos' maps.

Leaves in oof/RUN/explain/ (the extremes), and below it photos/ (PHOTO=...), groups/GROUP/ or twins/:

    index.html              the gallery; it is moved there last, so where it is, the rest is
    panels/ID.png           photo, gradient, Grad-CAM, RISE, RISE's standard error; scores, scales, verdicts
    strips/ID.png           the same without words, for the gallery
    maps/ID.npz             raw signed maps
    explain.csv             a row per photo and method
    explain.json            summaries, sanity, known truth, settings, run
    sanity.png              what is left of the maps of a network with random weights
    convergence.png         how the error of RISE's maps fell with the masks, of the first few photos
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pawpularity.console import emit, log
from pawpularity.data.photos import PhotoError
from pawpularity.errors import UserError
from pawpularity.explain.chosen import Chosen, choose, extreme_photos, listed, named_photos, print_of
from pawpularity.explain.explain import MAPS, RECORDS, Photo, decoded, explain_all, read_explained, score_of
from pawpularity.explain.gallery import PANELS, STRIPS
from pawpularity.explain.groups import FEWEST
from pawpularity.explain.report import finish
from pawpularity.explain.rise import still
from pawpularity.explain.staging import publish, staged
from pawpularity.predictor import Predictor

N = 8
MOST = 1000
_FILES = (MAPS, PANELS, STRIPS, "sanity.png", "convergence.png", "explain.csv", "explain.json", "index.html")


def run_explain(options: argparse.Namespace) -> None:
    """One command. Raises UserError for whatever is wrong with its words, and after the others for photos that cannot be used."""
    words = list(options.settings)
    pictures = [word for word in options.photo or [] if "=" not in word or Path(word).exists()]
    words += [word for word in options.photo or [] if word not in pictures]
    words += [word for word in options.group or [] if "=" in word]
    groups = [word for word in options.group or [] if "=" not in word]
    if options.group and not any(word.replace(",", " ").split() for word in groups):
        raise UserError("--group: names no group; give one, for example scores")
    if options.twins and (options.n is not None or options.group or options.photo):
        raise UserError("explain: --twins names what to explain; leave --n, --group and --photo away")
    if options.photo and (options.n is not None or options.group):
        raise UserError(f"explain: --photo names what to explain; leave {'--group' if options.group else '--n'} away")
    if options.photo and not pictures:
        raise UserError("--photo: names no photo; give files, or Ids of the run's photos")
    least = FEWEST if options.group else 1
    if options.n is not None and not least <= options.n <= MOST:
        raise UserError(f"--n {options.n}: must be {least} to {MOST}")
    chosen = choose(options, words)
    if options.twins:
        from pawpularity.explain.twins_command import explain_twins

        explain_twins(chosen, Path(options.twins), Path(options.out) if options.out else None, options.json)
        return
    if options.group:
        from pawpularity.explain.group_command import explain_groups

        explain_groups(chosen, groups, options.n, Path(options.out) if options.out else None, options.json)
        return
    if options.photo:
        photos, faults = named_photos(chosen, pictures)
        folder, what = chosen.folder / "photos", "photos"
    else:
        photos, faults = extreme_photos(chosen, options.n or N), []
        folder, what = chosen.folder, "extremes"
    if not photos:
        raise UserError(listed(faults))
    _explain(chosen, photos, faults, Path(options.out) if options.out else folder, what, options.json)


def _explain(
    chosen: Chosen, photos: Sequence[Photo], faults: list[str], folder: Path, what: str, destination: str | None
) -> None:
    """Explain `photos` into `folder`; `faults` are those that were named and are none."""
    outside = any(photo.row is None for photo in photos)
    folds = None if outside else sorted({photo.row.fold for photo in photos if photo.row is not None})
    predictor = Predictor.load(chosen.run.folder, folds=folds)
    log(f"device  {predictor.compute}")
    if outside:
        log(f"pictures that are not of {chosen.dataset.name}: the mean of folds {', '.join(map(str, sorted(predictor.networks)))}, "
            "without metadata")  # fmt: skip
    if predictor.config.predict.flip:
        log("predictions are the mean of a photo and its mirror image (predict.flip); maps are of the photo as it is")
    usable = []
    for photo in photos:
        if fault := _fault(predictor, photo):
            faults.append(fault)
        else:
            usable.append(photo)
    if not usable:
        raise UserError(listed(faults))
    with staged(
        folder, chosen.recipe(what, predictor, [(p.name, p.path) for p in usable]), started=(RECORDS,), shown=_FILES
    ) as part:
        faults += explain_all(predictor, usable, chosen.settings, part)
        explained = read_explained(part, usable)
        value, text = finish(chosen, predictor, explained, usable, part, what)
        publish(folder, _FILES)
    emit(value, text, destination)
    panels = "1 panel" if len(explained) == 1 else f"{len(explained)} panels"
    log(f"wrote   {folder / 'index.html'}, with {panels}, raw maps and explain.csv beside it")
    if faults:
        count = len(explained) + len(faults)
        raise UserError(
            f"{len(faults)} of {count} photos cannot be explained ({listed(faults)}); the others are in {folder}"
        )


def _fault(predictor: Predictor, photo: Photo) -> str:
    """Why `photo` cannot be explained, found before any work and any folder is begun; "" where it can."""
    cfg = predictor.config.photos
    try:
        print_of(photo.path)
        score = score_of(photo, predictor.networks, predictor.compute)
        value = still(score, score.input_of(decoded(photo.path, cfg.size, cfg.fit)))
    except PhotoError as error:
        return str(error) if photo.row is not None else f"{photo.path}: {error.reason}"
    except UserError as error:
        return f"{photo.name}: {error}; train with a lower train.lr"
    if value is None:
        return ""
    return f"{photo.name}: its score is {value:.6g} whatever is hidden, as if it were not looked at; train with a lower train.lr"
