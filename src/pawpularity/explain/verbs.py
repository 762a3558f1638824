"""`pawpularity explain`: where photos' scores come from."""

import argparse

from pawpularity.command_line import Verb, json_argument, run_argument


def _explain(options: argparse.Namespace) -> None:
    from pawpularity.explain.command import run_explain

    run_explain(options)


def _explain_arguments(parser: argparse.ArgumentParser) -> None:
    run_argument(parser)
    parser.add_argument("--n", type=int, metavar="N",
                        help="photos of each extreme (8); with --group: photos a side (explain.group_photos)")  # fmt: skip
    parser.add_argument("--masks", metavar="auto", help="RISE's masks a photo: a count, or auto (explain.masks)")
    parser.add_argument("--photo", nargs="+", metavar="PHOTO", help="explain these: photo files, or Ids of the run")
    parser.add_argument("--group", nargs="+", metavar="GROUP",
                        help="mean maps of groups: scores, predictions, eyes, face, contrast, ...; all of them: all")  # fmt: skip
    parser.add_argument("--twins", metavar="DIR",
                        help="pairs of a shelter drawn with --twins: do maps say what removing a part does?")  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="where to write (default: oof/RUN/explain)")
    json_argument(parser)


VERBS = [
    Verb(
        "explain",
        "maps of where photos' scores come from, put to tests they can fail; a gallery",
        _explain,
        _explain_arguments,
    ),
]
