"""`pawpularity data`, `pawpularity sample`, `pawpularity clean-cache`."""

import argparse
from pathlib import Path

from pawpularity.errors import UserError
from pawpularity.verb import Verb, say


def _data(options: argparse.Namespace) -> None:
    from pawpularity.competition.dataset import CONTEST
    from pawpularity.competition.download import download

    download(Path(options.into or CONTEST))


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--into", metavar="DIR", help="where to put it (default: input/petfinder-pawpularity-score)")


def _sample(options: argparse.Namespace) -> None:
    from pawpularity.competition.dataset import SAMPLE
    from pawpularity.competition.sample import draw_shelter

    folder = Path(options.into or SAMPLE)
    draw_shelter(
        folder, photos=options.photos, size=options.size, seed=options.seed, twins=options.twins,
        test_photos=options.test_photos,
    )  # fmt: skip
    say(f"drew {options.photos} photos into {folder}; what moves each score stands in {folder / 'truth'}")


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photos", type=int, default=600, metavar="N", help="photos in train.csv (default: 600)")
    parser.add_argument("--test-photos", type=int, default=8, metavar="N", help="photos in test.csv (default: 8)")
    parser.add_argument("--size", type=int, default=160, metavar="PX", help="longer side in pixels (default: 160)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws another shelter (default: 0)")
    parser.add_argument(
        "--twins", type=int, default=0, metavar="N", help="pairs with and without one part, per part (default: 0)"
    )
    parser.add_argument("--into", metavar="DIR", help="where to draw it (default: input/sample)")


def _clean_cache(options: argparse.Namespace) -> None:
    import shutil
    import sys

    folder = Path(options.folder)
    if not folder.is_dir():
        print(f"{folder}: nothing is cached")
        return
    total = 0
    for part in sorted(folder.iterdir()):
        size = sum(file.stat().st_size for file in ([part] if part.is_file() else part.rglob("*")) if file.is_file())
        total += size
        print(f"{size / 1e6:10.1f} MB  {part}")
    print(f"{total / 1e6:10.1f} MB  in all; everything here can be made again from input/")
    if not options.yes:
        if not sys.stdin.isatty():
            raise UserError("clean-cache: add --yes (make clean-cache YES=1) to delete these")
        if input("delete? [y/N] ").strip().lower() not in ("y", "yes"):
            print("kept")
            return
    shutil.rmtree(folder)
    print(f"deleted {folder}")


def _clean_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", default=".cache", metavar="DIR", help="the cache folder (default: .cache)")
    parser.add_argument("--yes", action="store_true", help="delete without asking")


VERBS = [
    Verb("data", "download the competition's data with the kaggle command", _data, _data_arguments, configured=False),
    Verb(
        "sample",
        "draw the sample shelter: photos whose scores follow a known rule",
        _sample,
        _sample_arguments,
        configured=False,
    ),
    Verb("clean-cache", "show what the cache holds, and delete it", _clean_cache, _clean_arguments, configured=False),
]
