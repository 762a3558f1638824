"""The command line: `pawpularity VERB [--config NAME] [--data DIR] [--run NAME] [key=value ...]`.

Dispatches only: each room registers its own verbs in its `verbs.py`, and torch is imported only when a verb needs it.
Exit codes: 0 done; 2 something the user can mend, said in one line; 1 a defect of ours, with its traceback; 130 and 143
stopped by Ctrl-C and by SIGTERM.
"""

import argparse
import errno
import importlib
import io
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from pawpularity import __version__
from pawpularity.command_line import Verb
from pawpularity.errors import UserError, nearest
from pawpularity.signals import Stopped, Told, terminable
from pawpularity.training.launch import one_voice, refuse_several

ROOMS = (
    *("data.verbs", "sample.verbs", "studies.pretraining.verbs", "training.verbs", "tuning.verbs"),
    *("heads.verbs", "evaluation.verbs", "studies.errors.verbs", "ensemble.verbs", "studies.hypotheses.verbs"),
    *("studies.leakage.verbs", "explain.verbs", "pipeline.verbs", "kaggle.verbs", "studies.checklist.verbs"),
    *("report.verbs", "coach.verbs", "studies.benchmark.verbs"),
)

# Set before the imports that read them. Nothing connects to a network unless the user asks for it, and threads that wait
# sleep instead of spinning: on two cores shared with another program an epoch then takes 3 s instead of 10.
ENVIRONMENT = {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "ALBUMENTATIONS_NO_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}

STOPPED = (
    "stopped; what was finished is kept, what was not is left as it was before; the same command goes on from there"
)


class _Parser(argparse.ArgumentParser):
    """argparse that fails as everything here fails: one line, exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message}; see: {self.prog} --help")


def verbs() -> dict[str, Verb]:
    """Every verb of every room, by name."""
    found: dict[str, Verb] = {}
    for room in ROOMS:
        for verb in importlib.import_module(f"pawpularity.{room}").VERBS:
            found[verb.name] = verb
    return found


def parser(known: dict[str, Verb]) -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(
        prog="pawpularity",
        description="Predict how popular a shelter pet's photo will be, with out-of-fold figures that can be trusted.",
        epilog="Settings are given as key=value, for example: pawpularity train --fold 0 train.lr=3e-4. "
        "configs/default.yaml lists every key. Everyday use: make help.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"pawpularity {__version__}")
    words = top.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)
    for verb in known.values():
        sub = words.add_parser(verb.name, help=verb.help, description=verb.help, allow_abbrev=False)
        verb.arguments(sub)
        if verb.configured:
            sub.add_argument("--config", metavar="NAME", help="configs/NAME.yaml; several, separated by commas, are laid "
                             "over one another (default: sample for the sample shelter, else densenet161)")  # fmt: skip
            sub.add_argument("--data", metavar="DIR", help="folder in Kaggle's layout (default: "
                             "input/petfinder-pawpularity-score if there, else input/sample)")  # fmt: skip
            sub.add_argument("settings", nargs="*", metavar="key=value", help="settings that win over the config")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an Id that the terminal cannot write ends nothing
    words = list(sys.argv[1:] if arguments is None else arguments)
    return one_voice(lambda: _stoppable(words))


def split_words(words: Sequence[str]) -> list[str]:
    """`words`, with each `--words TEXT` replaced by what a shell would split TEXT into, a leading ~ expanded and nothing run.

    `make` hands over what its user typed in this way: a name cannot become a command.
    Raises UserError for a quote that is not closed.
    """
    found: list[str] = []
    rest = iter(words)
    for word in rest:
        text = next(rest, "") if word == "--words" else None
        if text is None:
            found.append(word)
            continue
        try:
            found += (str(Path(part).expanduser()) if part.startswith("~/") else part for part in shlex.split(text))
        except ValueError as error:
            raise UserError(f"{text.strip()}: {str(error).lower()}; close the quote, or put a \\ before it") from error
    return found


def _stoppable(words: list[str]) -> int:
    try:
        with terminable(sys._getframe()) as told:
            return _run(words, told)
    except KeyboardInterrupt as stop:
        line = stop.line if isinstance(stop, Stopped) else ""
        print(f"pawpularity: {line or STOPPED}", file=sys.stderr)
        return stop.exit_code if isinstance(stop, Stopped) else 130


def _run(words: list[str], told: Told) -> int:
    verb = ""
    try:
        known = verbs()
        words = split_words(words)
        if words and not words[0].startswith("-") and words[0] not in known:
            raise UserError(f'there is no verb "{words[0]}"{nearest(words[0], known)}')
        options = _parse(known, words)
        if options.verb is None:
            parser(known).print_help()
            return 0
        refuse_several(options.verb)
        options.words = words  # for processes that are to run the same command
        verb = options.verb
        known[options.verb].run(options)
    except Exception as error:
        told.obey()
        if isinstance(error, BrokenPipeError) and not _helper_died(error, verb):
            # The reader (head, less) went away: not an error of anybody's.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        line = _line(error, verb)
        if line is None:
            raise
        print(f"pawpularity: {line}", file=sys.stderr)
        return 2
    return 0


def _line(error: Exception, verb: str) -> str | None:
    """What the user can mend; None for a defect of ours."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    return _helper_died(error, verb) or (_mendable(error) if isinstance(error, OSError) else _too_large(error, verb))


def _parse(known: dict[str, Verb], words: Sequence[str]) -> argparse.Namespace:
    top = parser(known)
    options, extra = top.parse_known_args(words)
    # argparse takes key=value words only where they stand together; those between options come back as extra.
    if hasattr(options, "settings"):
        options.settings = [*options.settings, *(word for word in extra if _is_setting(word))]
        extra = [word for word in extra if not _is_setting(word)]
    if extra:
        chosen = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
        valid = list((chosen.choices[options.verb] if options.verb else top)._option_string_actions)
        raise UserError(f"{options.verb or 'before the verb'}: unknown option {extra[0]}{nearest(extra[0], valid)}")
    return options


def _is_setting(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def _mendable(error: OSError) -> str | None:
    """One line for operating-system errors that are the user's to mend."""
    where = error.filename or "the output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = error.filename2 or where  # of a copy, the file that was written
        return f"{where}: no disk space left to write it; free some on that disk, and give the same command again"
    if error.errno == errno.ENOMEM:
        return "out of memory; end other programs, or use a machine with more"
    if error.errno is None:
        return None
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}: {os.strerror(error.errno).lower()}; make it accessible, or work in another folder"
    return f"{where}: {os.strerror(error.errno).lower()}; move it away, or choose another place"


def _helper_died(error: Exception, verb: str) -> str | None:
    """One line for a process that prepared batches and was killed; None for any other error, also one raised inside such a process.

    PyTorch says so itself, or its pipe breaks first.
    """
    frames = {str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)}
    told = isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")
    broken = isinstance(error, EOFError | ConnectionError | FileNotFoundError)
    # A tensor's handle comes over a socket of its own (multiprocessing.reduction), which may be the one that breaks.
    piped = "torch.utils.data.dataloader" in frames and any(name.startswith("multiprocessing.") for name in frames)
    if not (told or (broken and piped)):
        return None
    what = "shared memory (/dev/shm)" if "Bus error" in str(error) else "memory"
    return (
        f"{verb}: a process that prepares batches was killed, most likely because {what} ran out; lower train.workers, or end "
        "other programs; the same command goes on with what was kept"
    )


# The keys that decide how much a verb holds at once. Others take photos in batches of a fixed size: another one may change
# the last digits of what is kept, and so is the size for a training's trunk and for what its fold is scored with.
FITTING = ("train", "all", "table1", "tune", "leakage")
EXPLAINING = ("explain", "coach", "app")
FIXED = {"pawpularity.features.build", "pawpularity.predictor"}
# What PyTorch's allocators and OpenCV say where they raise no type of their own.
NO_MEMORY = re.compile(
    r"DefaultCPUAllocator|not enough memory|out of memory|can't allocate memory|CUBLAS_STATUS_ALLOC_FAILED|Insufficient memory"
)


def _too_large(error: Exception, verb: str) -> str | None:
    """One line for a machine whose memory, or its GPU's, was not enough: which key to lower. None for any other error."""
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__}
    told = bool(kinds & {"builtins.RuntimeError", "cv2.error"}) and NO_MEMORY.search(str(error)) is not None
    if not (kinds & {"builtins.MemoryError", "torch.OutOfMemoryError"} or told):
        return None
    on_gpu = bool(re.search("CUDA|CUBLAS|MPS", str(error)))
    where = "the GPU has not enough memory" if on_gpu else "not enough memory"
    frames = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)}
    fixed = bool(frames & FIXED) and "pawpularity.training.loop" not in frames
    ways = [
        *(["lower train.batch_size"] if verb in FITTING and not fixed else []),
        *(["lower photos.size"] if verb == "probe" or (verb in FITTING and fixed) else []),
        *(["lower explain.batch_size"] if verb in EXPLAINING else []),
        *(["compute on the CPU with PAWPULARITY_DEVICE=cpu"] if on_gpu else []),
        "end other programs that use it",
    ]
    return f"{verb}: {where}; {', or '.join(ways)}"
