"""The argparse entry of `pawpularity sample`."""

import argparse
from pathlib import Path

from pawpularity.command_line import Verb
from pawpularity.sample import SAMPLE


def _sample(options: argparse.Namespace) -> None:
    from pawpularity.sample.draw import sample

    sample(photos=options.photos, test_photos=options.test_photos, size=options.size, seed=options.seed,
           pairs=options.twins, into=Path(options.into))  # fmt: skip


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--photos", type=int, default=600, metavar="N", help="photos in train.csv (default: 600)")
    parser.add_argument("--test-photos", type=int, default=8, metavar="N", help="photos in test.csv (default: 8)")
    parser.add_argument("--size", type=int, default=160, metavar="PX", help="longer side in pixels (default: 160)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other pets (default: 0)")
    parser.add_argument("--twins", type=int, default=0, metavar="N",
                        help="counterfactual pairs per part: the same pet with and without it (default: 0)")  # fmt: skip
    parser.add_argument("--into", default=str(SAMPLE), metavar="DIR", help=f"a new folder (default: {SAMPLE})")


VERBS = [
    Verb("sample", "draw photos of pets whose scores follow a known rule", _sample, _sample_arguments, configured=False)
]
