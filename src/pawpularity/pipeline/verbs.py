"""`pawpularity predict`: test.csv to a submission. `pawpularity all`: everything, from data to submission."""

import argparse
from pathlib import Path

from pawpularity.command_line import Verb, json_argument, out_argument, run_argument
from pawpularity.console import emit, log


def _predict(options: argparse.Namespace) -> None:
    from pawpularity.config import resolve
    from pawpularity.context import choose_data, default_config, default_run
    from pawpularity.data.dataset import load_test
    from pawpularity.ensemble.record import read_weights
    from pawpularity.errors import UserError
    from pawpularity.pipeline.submission import SUBMISSIONS
    from pawpularity.runs import OOF, Run, check_name

    if other := [word for word in options.settings if not word.startswith(("cache.", "predict."))]:
        raise UserError(f'predict: uses the run\'s own settings; remove "{other[0]}"')
    if options.out and not options.out.endswith(".csv"):
        raise UserError(f"--out {options.out}: must end in .csv (a .json of the same name is written beside it)")
    data = choose_data(options.data)
    configs = options.config or default_config(data)
    chosen = resolve(configs, options.settings)
    cache = Path(chosen.cache.folder)
    asked = any(word.startswith("predict.flip") for word in options.settings)
    run = Run.open(OOF / check_name(options.run or default_run(configs, data)))
    if run.kind == "ensemble":
        read_weights(run)  # a member that is a file of predictions is told of before anything else
    if options.run and not options.data:
        # The photos it belongs to, not whatever the default happens to be.
        own = run.record["data"]
        if own.get("folder") is None and own["name"] != data.resolve().name:
            raise UserError(
                f"{run.name} was trained on {own['name']}, not on {data}; name the photos to score with DATA=DIR"
            )
        data = Path(own.get("folder") or data)
    log(f"run     {run.folder}, trained on {run.record['data']['name']}")
    if run.leaky:
        log(f"{run.name} is leaky by design (train.split=leaky): its own figures say nothing of these photos")
    log(f"data    {data}")
    test = load_test(data, cache)
    from pawpularity.pipeline.predict import submit

    path = Path(options.out) if options.out else SUBMISSIONS / f"{run.name}.csv"
    scores = submit(run, test, path, cache, flip=chosen.predict.flip if asked else None)
    print(f"{path}: {len(scores)} photos, scores {scores.min():.1f} to {scores.max():.1f}, mean {scores.mean():.1f}")


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    run_argument(parser)
    out_argument(parser, "the submission (default: submissions/RUN.csv)")


def _all(options: argparse.Namespace) -> None:
    from pawpularity.context import Context, choose_data, data_suffix, draw_if_missing
    from pawpularity.data.dataset import Dataset, load_test
    from pawpularity.data.tables import TARGET
    from pawpularity.device import choose as choose_device
    from pawpularity.ensemble.record import check_free
    from pawpularity.errors import UserError
    from pawpularity.evaluation.leaderboard import run_row, table_text
    from pawpularity.files import OTHER_CACHE, require_space
    from pawpularity.pipeline import compete
    from pawpularity.runs import OOF

    if options.config:
        raise UserError(
            "all: trains the four backbones, each from its own config; use key=value words to change them all"
        )
    if own := [word for word in options.settings if word.startswith(("model.backbone", "model.args"))]:
        raise UserError(f'all: trains four backbones, and "{own[0]}" would make them one; use make train for it')
    data = choose_data(options.data)
    configs = compete.resolved(data, options.settings)
    first = next(iter(configs.values()))
    cache = Path(first.cache.folder)
    draw_if_missing(data)
    dataset = Dataset.load(data, cache)
    suffix = data_suffix(data)
    compete.require_weights(configs)
    check_free(OOF / f"mean{suffix}")
    log(f"data    {data}: {len(dataset.train)} photos; measuring a step of each backbone ...")
    scores = dataset.train[TARGET].to_numpy(dtype=float)
    compute = choose_device(first.train.dtype)
    estimates = [
        compete.estimate(name, config, scores, choose_device(config.train.dtype)) for name, config in configs.items()
    ]
    cache_bytes = compete.photo_cache_bytes(list(configs.values()), len(dataset.train))
    log(compete.plan_text(estimates, cache_bytes, compute))
    require_space(Path(), sum(e.disk_bytes for e in estimates) + cache_bytes, "all of this", OTHER_CACHE)
    compete.go_ahead(options.yes)
    base = Context(first, data, OOF / "all")
    base.__dict__["dataset"] = dataset
    runs = compete.train_all(configs, base, suffix)
    test = load_test(data, cache) if (data / "test.csv").is_file() else None
    blend = compete.blend_and_submit(runs, test, suffix)
    rows = [run_row(run) for run in [*runs, blend]]
    emit({"runs": rows}, table_text(rows), options.json)


def _all_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask after the estimate")
    json_argument(parser)


VERBS = [
    Verb("predict", "score the photos of test.csv and write submissions/RUN.csv", _predict, _predict_arguments),
    Verb("all", "data, folds, four backbones, mean blend, submission; says time and disk first", _all, _all_arguments),
]
