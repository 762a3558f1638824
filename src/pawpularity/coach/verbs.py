"""`pawpularity coach`: how a photo will do, and what to change. `pawpularity app`: the same as a page."""

import argparse

from pawpularity.command_line import Verb, json_argument, out_argument, run_argument

HOST, PORT = "127.0.0.1", 8501


def _coach(options: argparse.Namespace) -> None:
    from pawpularity.coach.command import run_coach

    run_coach(options)


def _coach_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", nargs="+", metavar="PHOTO", help="photo files, or a folder: then the answer is a CSV")
    out_argument(parser, "also write the CSV there")
    run_argument(parser)
    json_argument(parser)


def _app(options: argparse.Namespace) -> None:
    from pawpularity.coach.serve import run_app

    run_app(options)


def _app_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default=HOST, metavar="ADDRESS",
                        help=f"address to listen on (default: {HOST}, which only this machine reaches)")  # fmt: skip
    parser.add_argument("--port", type=int, default=PORT, metavar="N", help=f"port (default: {PORT}; 0 = any free one)")
    run_argument(parser)


VERBS = [
    Verb("coach", "how well a photo will do, what that is worth, and what to change on it", _coach, _coach_arguments),
    Verb("app", "the photo coach as a page in the browser", _app, _app_arguments),
]
