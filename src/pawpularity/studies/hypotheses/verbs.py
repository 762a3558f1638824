"""`pawpularity hypotheses`: the paper's five hypotheses, put to all rows of the data."""

import argparse
import math

from pawpularity.command_line import Verb, json_argument
from pawpularity.console import emit

FEWEST_DRAWS, MOST_DRAWS, FEWEST_ROWS = 100, 1_000_000, 20


def _hypotheses(options: argparse.Namespace) -> None:
    from pathlib import Path

    from pawpularity.console import log
    from pawpularity.context import choose
    from pawpularity.errors import UserError
    from pawpularity.runs import OOF

    draws = options.draws
    if not FEWEST_DRAWS <= draws <= MOST_DRAWS:
        raise UserError(
            f"--draws {draws}: must be {FEWEST_DRAWS} (below, the intervals' ends are a matter of luck) to {MOST_DRAWS}"
        )
    if options.margin is not None and not (math.isfinite(options.margin) and options.margin > 0):
        raise UserError(f"--margin {options.margin:g}: must be above 0 score points")
    word, options.run = options.run, None  # here --run names whose beliefs to look at, which may be a file
    chosen = choose(options)
    margin = chosen.config.hypotheses.margin if options.margin is None else options.margin
    dataset, cache = chosen.dataset, Path(chosen.config.cache.folder)
    if len(dataset.train) < FEWEST_ROWS:
        raise UserError(
            f"{chosen.data}: has {len(dataset.train)} rows; {FEWEST_ROWS} or more are needed to test anything"
        )

    from pawpularity.evaluation.predictions import open_predictions
    from pawpularity.files import write_json, write_text
    from pawpularity.studies.hypotheses.data import gather
    from pawpularity.studies.hypotheses.findings import adjusted_otherwise, disagreements, find
    from pawpularity.studies.hypotheses.forest import draw_forest
    from pawpularity.studies.hypotheses.report import as_csv, as_json, tables

    source = None if word is None else open_predictions(word, scale=options.scale)
    if source is not None and source.run is not None and source.run.leaky:
        log(f"{source.name} is leaky by design (train.split=leaky): its predictions have seen their answers")
    if dataset.has_photos:
        log(f"contrast of {len(dataset.train):,} photos: some 0.1 s each the first time, then kept")
    gathered = gather(dataset, chosen.folds.groups_of, cache, source)
    found = find(
        gathered.table, gathered.groups, contrast=gathered.contrast, prediction=gathered.prediction,
        known=gathered.known, draws=draws, margin=margin,
    )  # fmt: skip
    if not found.rows:
        raise UserError(f"{chosen.data}: no claim can be tested, every column of the family is the same on all photos")
    name = None if source is None else source.name
    lines = [] if name is None else disagreements(found.rows, name)
    if name is not None and not lines:
        lines = [f"no disagreement: what {name} believes is borne out, or too little to tell"]
    title = f"{dataset.name}: {len(found.scores):,} photos, mean score {found.scores.mean():.2f}, sd {found.scores.std():.2f}"
    others = adjusted_otherwise(found.rows)
    text = "\n".join([title, "", tables(found, name), *gathered.notes, *others, *lines])
    value = (
        {"data": dataset.name}
        | as_json(found)
        | {"run": name, "predictions_hash": None if source is None else source.predictions_hash}
        | {"disagreements": lines, "notes": gathered.notes + others}
    )
    own = OOF / "hypotheses" / dataset.name
    out = Path(options.out) if options.out else own if source is None else own / source.folder_name
    write_text(out / "hypotheses.csv", as_csv(found))
    write_json(out / "hypotheses.json", value)
    draw_forest(found, title, name, out / "forest.png")
    emit(value, text, options.json)
    log(f"wrote {out}/hypotheses.csv, hypotheses.json, forest.png")


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", metavar="RUN",
                        help="also what a model believes: a run, or a CSV of Id,fold,target,prediction")  # fmt: skip
    parser.add_argument("--scale", type=float, metavar="N", help="what predictions of 0-1 are multiplied by (100)")
    parser.add_argument("--draws", type=int, default=10_000, metavar="N",
                        help="bootstrap resamples, and shuffles (default: 10000)")  # fmt: skip
    parser.add_argument("--margin", type=float, metavar="POINTS",
                        help="inside +-POINTS an effect is too small to matter (default: hypotheses.margin, 3)")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="folder for CSV, JSON and plot (default: oof/hypotheses/DATA)")
    json_argument(parser)


VERBS = [
    Verb("hypotheses", "test what the paper says makes a photo popular, on the true scores", _hypotheses, _arguments)
]
