"""`pawpularity explain`: choose the photos, map each with every method, judge each map, then write tables and pictures.

Writes to oof/RUN/explain/ (the extremes), or below it to photos/ (PHOTO=...) or groups/GROUP/ (GROUP=...; see `groups`):

    index.html              the gallery, written last
    panels/ID.png           photo, gradient, Grad-CAM, RISE, RISE's standard error; scores, scales, verdicts
    strips/ID.png           the same without words, for the gallery
    maps/ID.npz             raw signed maps
    records/ID.json         one photo's figures
    explain.csv             a row per photo and method
    explain.json            summaries, sanity check, settings, run
    sanity.png              similarity of the maps to those of networks with random weights
    convergence.png         error of RISE's maps by number of masks, for the first few photos
"""

from collections.abc import Sequence
from pathlib import Path

from pawpularity.console import Progress, emit, log, next_step
from pawpularity.context import Context
from pawpularity.errors import UserError, listed
from pawpularity.explain.photos import RunData, extremes, named_photos, photo_hash, photo_of
from pawpularity.explain.saliency import Results

N, MOST = 8, 1000
FILES = (
    "panels",
    "strips",
    "sanity.png",
    "convergence.png",
    "explain.csv",
    "explain.json",
    "known_truth.json",
    "index.html",
)


def explain(
    context: Context,
    *,
    n: int | None = None,
    masks: str | None = None,
    photo: Sequence[str] = (),
    group: Sequence[str] = (),
    out: str | None = None,
    json: str | None = None,
) -> None:
    """Explain the `n` photos of each extreme, the photos named by `photo`, or the mean maps of groups of photos.

    Raises UserError for wrong options, and at the end for photos that cannot be explained.
    """
    if photo and (n is not None or group):
        raise UserError(f"explain: --photo names what to explain; remove {'--group' if group else '--n'}")
    least = 2 if group else 1
    if n is not None and not least <= n <= MOST:
        raise UserError(f"--n {n}: must be {least} to {MOST}")
    data = RunData.open(context, masks)
    if group:
        with Progress(None, "loading torch"):
            from pawpularity.explain.groups import explain_groups

        explain_groups(data, group, n or data.settings.group_photos, Path(out) if out else data.folder / "groups", json)
        return
    faults: list[str] = []
    if photo:
        photos, faults = named_photos(data, photo)
        what, folder = "photos", data.folder / "photos"
    else:
        photos = [photo_of(data, name, kinds) for name, kinds in extremes(data.table, n or N).items()]
        what, folder = "extremes", data.folder
    if not photos:
        raise UserError(listed(faults, "; ", most=5))
    with Progress(None, "loading torch"):  # late, because wrong options should answer at once
        from pawpularity.explain.explain import explain_photos, finish, predictor_for

    predictor = predictor_for(data, photos)
    if predictor.config.predict.flip:
        log("predictions are the mean of a photo and its mirror image (predict.flip); maps are of the photo alone")
    prints = {one.name: [photo_hash(one.path), *one.kinds] for one in photos}
    results = Results(Path(out) if out else folder, data.fingerprint(what, predictor, prints), FILES)
    with results.locked():
        faults += explain_photos(data.settings, predictor, photos, results)
        found = [one for one in photos if results.done(one.name)]
        if not found:
            raise UserError(listed(faults, "; ", most=5))
        value, text, more = finish(data, predictor, found, results, what)
    emit(value, text, json, more=more)
    log(f"wrote   {results.folder / 'index.html'} ({len(found)} panels; raw maps and explain.csv beside it)")
    if what != "extremes":
        next_step("make report")
    elif data.dataset.is_drawn:
        next_step(context.make_line("known-truth", settings=False))
    else:
        next_step(context.make_line("explain", settings=False), GROUP="scores")
    if faults:
        of = f"{len(faults)} of {len(found) + len(faults)} photos"
        raise UserError(
            f"{of} cannot be explained ({listed(faults, '; ', most=5)}); the others are in {results.folder}"
        )
