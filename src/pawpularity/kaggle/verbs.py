"""`pawpularity data`: the download. `kernel`: the bundle that Kaggle gets. `kernel-check`: its script, run as on Kaggle."""

import argparse
from pathlib import Path

from pawpularity.command_line import Verb, json_argument, names_in
from pawpularity.console import emit
from pawpularity.kaggle.push_verbs import PUSH_VERBS


def _kernel(options: argparse.Namespace) -> None:
    from pawpularity.console import log
    from pawpularity.errors import UserError
    from pawpularity.files import size_text
    from pawpularity.kaggle.bundle import USER, Wishes, build, recipe_of
    from pawpularity.kaggle.inference import HOURS
    from pawpularity.kaggle.training_data import material_of

    runs = names_in(options, "runs")
    if other := [*(["--config"] if options.config else []), *options.settings]:
        raise UserError(f'kernel: uses the runs\' own settings; remove "{other[0]}"')
    hours = HOURS if options.hours is None else options.hours
    if not 0.1 <= hours <= 9:
        raise UserError(f"--hours {hours:g}: must lie in 0.1..9; Kaggle stops the contest's kernels after 9")
    if options.photos < 1:
        raise UserError(f"--photos {options.photos}: must be 1 or more")
    data = Path(options.data) if options.data else None
    recipe = recipe_of(runs)
    wishes = Wishes(options.user or None, options.half, options.photos, data, hours)
    bundle = build(recipe, wishes, Path(options.into))
    sizes = {name: int(entry["bytes"]) for name, entry in bundle.about["files"].items()}
    for run in bundle.runs:
        tails = [sizes.pop(run.head_file(fold).name) for fold in run.trained_folds()]
        print(f"{size_text(sum(tails)):>10s}  {run.name}: {len(tails)} tails")
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{size_text(size):>10s}  {name}")
    total = sum(int(entry["bytes"]) for entry in bundle.about["files"].values())
    print(f"{size_text(total):>10s}  in all: {options.into}/dataset")
    for name, loss in (bundle.about["half"] or {}).items():
        most, before, after = loss["largest_difference"], loss["rmse"], loss["rmse_half"]
        print(f"half precision moves {name} by {most:.4f} points at most, RMSE {before:.4f} -> {after:.4f} "
              f"(constant {loss['constant_rmse']:.2f}; {loss['photos']} photos out of fold, {loss['dtype']})")  # fmt: skip
    material = material_of(bundle)
    print(material)
    if not material.contest:
        log("make submit will refuse this without ARGS=--anyway; make data fetches the contest's photos")
    if wishes.user is None:
        log(f"{USER} stands where your Kaggle name belongs; to push, build with KAGGLE_USER=you")
    log("next: make kernel-check, then make kernel-push")


def _kernel_arguments(parser: argparse.ArgumentParser) -> None:
    from_root = "kernels/build"
    parser.add_argument("--runs", nargs="+", metavar="NAME", help="trained runs (their mean), or one blend")
    parser.add_argument("--user", metavar="NAME", help="your name on Kaggle (default: left open; needed to push)")
    parser.add_argument(
        "--half", action="store_true", help="tails in half precision: half the size; the loss is measured"
    )
    parser.add_argument("--photos", type=int, default=200, metavar="N", help="photos to measure it on (default: 200)")
    parser.add_argument("--hours", type=float, metavar="H", help="the kernel ends by then (default: 8.5 of Kaggle's 9)")
    parser.add_argument("--into", default=from_root, metavar="DIR", help=f"where to build (default: {from_root})")


def _check(options: argparse.Namespace) -> None:
    from pawpularity.console import log
    from pawpularity.errors import UserError
    from pawpularity.kaggle.check import check

    if not 8 <= options.photos <= 100_000:
        raise UserError(f"--photos {options.photos}: must lie in 8..100000")
    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads {options.threads}: must be 1 or more")
    report, text = check(Path(options.build), photos=options.photos, threads=options.threads, python=options.python)
    emit(report, text, options.json)
    log("next: make kernel-push")


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--build", default="kernels/build", metavar="DIR", help="what make kernel built")
    parser.add_argument(
        "--photos", type=int, default=2000, metavar="N", help="hidden photos to simulate (default: 2000)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads that decode (default: one a core)")
    parser.add_argument("--python", metavar="PATH", help="run the script with this Python and its libraries")
    json_argument(parser)


def _data(options: argparse.Namespace) -> None:
    from pawpularity.data.dataset import CONTEST
    from pawpularity.kaggle.download import download

    download(Path(options.into or CONTEST))


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--into", metavar="DIR", help="where to put it (default: input/petfinder-pawpularity-score)")


VERBS = [
    Verb("data", "download the competition's data with the kaggle command", _data, _data_arguments, configured=False),
    Verb("kernel", "build the Kaggle kernel and its data set from trained runs", _kernel, _kernel_arguments),
    Verb("kernel-check", "run the built kernel as Kaggle would: no network, its libraries alone, hidden photos", _check,
         _check_arguments, configured=False),
    *PUSH_VERBS,
]  # fmt: skip
