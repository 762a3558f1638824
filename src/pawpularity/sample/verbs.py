"""`pawpularity sample`: draw the sample shelter."""

import argparse
from pathlib import Path

from pawpularity.command_line import Verb
from pawpularity.console import log
from pawpularity.sample import SAMPLE


def _sample(options: argparse.Namespace) -> None:
    from pawpularity.sample.draw import draw_shelter

    folder = Path(options.into or SAMPLE)
    draw_shelter(
        folder, photos=options.photos, size=options.size, seed=options.seed, twins=options.twins,
        test_photos=options.test_photos,
    )  # fmt: skip
    log(f"drew {options.photos} photos into {folder}; what moves each score stands in {folder / 'truth'}")


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photos", type=int, default=600, metavar="N", help="photos in train.csv (default: 600)")
    parser.add_argument("--test-photos", type=int, default=8, metavar="N", help="photos in test.csv (default: 8)")
    parser.add_argument("--size", type=int, default=160, metavar="PX", help="longer side in pixels (default: 160)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws another shelter (default: 0)")
    parser.add_argument(
        "--twins", type=int, default=0, metavar="N", help="pairs with and without one part, per part (default: 0)"
    )
    parser.add_argument("--into", metavar="DIR", help="where to draw it (default: input/sample)")


VERBS = [
    Verb(
        "sample",
        "draw the sample shelter: photos whose scores follow a known rule",
        _sample,
        _sample_arguments,
        configured=False,
    )
]
