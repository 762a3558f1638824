"""`pawpularity explain`: what to explain, with which networks; then everything that stands around the photos' maps.

Leaves in oof/RUN/explain/ (the extremes), oof/RUN/explain/photos/ (PHOTO=...) or oof/RUN/explain/groups/GROUP/:

    index.html              the gallery; it is moved there last, so where it is, the rest is
    panels/ID.png           photo, gradient, Grad-CAM, RISE, RISE's standard error; scores, scales, verdicts
    strips/ID.png           the same without words, for the gallery
    maps/ID.npz             raw signed maps
    explain.csv             a row per photo and method
    explain.json            summaries, sanity, known truth, settings, run
    sanity.png              what is left of the maps of a network with random weights
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pawpularity.competition.photos import PhotoError
from pawpularity.errors import UserError
from pawpularity.explain.chosen import Chosen, choose, extreme_photos, named_photos, print_of
from pawpularity.explain.explain import MAPS, RECORDS, Photo, explain_all, read_explained
from pawpularity.explain.gallery import PANELS, STRIPS
from pawpularity.explain.report import finish
from pawpularity.explain.staging import publish, staged
from pawpularity.predictor import Predictor
from pawpularity.verb import give, say

N = 8
MOST = 1000
_FILES = (MAPS, PANELS, STRIPS, "sanity.png", "explain.csv", "explain.json", "index.html")


def run_explain(options: argparse.Namespace) -> None:
    """One command. Raises UserError for whatever is wrong with its words, and after the others for photos that cannot be used."""
    words = list(options.settings)
    pictures = [word for word in options.photo or [] if "=" not in word or Path(word).exists()]
    words += [word for word in options.photo or [] if word not in pictures]
    words += [word for word in options.group or [] if "=" in word]
    groups = [word for word in options.group or [] if "=" not in word]
    if options.group and not any(word.replace(",", " ").split() for word in groups):
        raise UserError("--group: names no group; give one, for example scores")
    if options.photo and (options.n is not None or options.group):
        raise UserError(f"explain: --photo names what to explain; leave {'--group' if options.group else '--n'} away")
    if options.n is not None and not 1 <= options.n <= MOST:
        raise UserError(f"--n {options.n}: must be 1 to {MOST}")
    chosen = choose(options, words)
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
        raise UserError("; ".join(faults))
    _explain(chosen, photos, faults, Path(options.out) if options.out else folder, what, options.json)


def _explain(
    chosen: Chosen, photos: Sequence[Photo], faults: list[str], folder: Path, what: str, destination: str | None
) -> None:
    """Explain `photos` into `folder`; `faults` are those that were named and are none."""
    outside = any(photo.row is None for photo in photos)
    folds = None if outside else sorted({photo.row.fold for photo in photos if photo.row is not None})
    predictor = Predictor.load(chosen.run.folder, folds=folds)
    say(f"device  {predictor.compute}")
    if outside:
        say(f"pictures that are not of {chosen.dataset.name}: the mean of folds {', '.join(map(str, sorted(predictor.networks)))}, "
            "without metadata")  # fmt: skip
    if predictor.config.predict.flip:
        say("predictions are the mean of a photo and its mirror image (predict.flip); maps are of the photo as it is")
    usable = []
    for photo in photos:
        try:
            print_of(photo.path)
            usable.append(photo)
        except PhotoError as error:
            faults.append(str(error))
    if not usable:
        raise UserError("; ".join(faults))
    with staged(
        folder, chosen.recipe(what, predictor, [(p.name, p.path) for p in usable]), started=(RECORDS,), shown=_FILES
    ) as part:
        faults += explain_all(predictor, usable, chosen.settings, part)
        explained = read_explained(part, usable)
        value, text = finish(chosen, predictor, explained, usable, part, what)
        publish(folder, _FILES)
    give(value, text, destination)
    say(f"wrote   {folder / 'index.html'}, with {len(explained)} panels, raw maps and explain.csv beside it")
    if faults:
        count = len(explained) + len(faults)
        raise UserError(
            f"{len(faults)} of {count} photos cannot be explained ({'; '.join(faults)}); the others are in {folder}"
        )
