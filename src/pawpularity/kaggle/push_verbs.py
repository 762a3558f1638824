"""`pawpularity kernel-push`, `kernel-status`, `submit`; `kernel-train` and `kernel-fetch` for training on Kaggle's GPUs.

What would reach Kaggle is only shown, as commands, unless --go is given.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pawpularity.command_line import Verb, names_in, run_argument
from pawpularity.console import log

if TYPE_CHECKING:
    from pawpularity.kaggle.build_folders import Names, Pair

_ACT = "nothing was sent; add GO=1 (--go) to do it"


def _named(options: argparse.Namespace) -> "tuple[Pair, Names]":
    from pawpularity.kaggle.build_folders import check_pair, pair_of

    pair = pair_of(options.name, Path(options.build))
    return pair, check_pair(pair, options.user or None)


def _pushed(options: argparse.Namespace) -> "tuple[Pair, Names, dict[str, Any]]":
    """The pair, with the record of its push. Raises UserError where it was never pushed."""
    from pawpularity.errors import UserError

    pair, names = _named(options)
    record = pair.record()
    again = f"run: make kernel-push{pair.name_word} GO=1"
    if record.get("kernel") == names.kernel and record.get("fault"):
        raise UserError(f"{names.kernel}: Kaggle {record['fault']}; when that is mended, {again}")
    if not isinstance(record.get("kernel_version"), int) or record.get("kernel") != names.kernel:
        raise UserError(f"{names.kernel}: was not pushed from here yet; {again}")
    return pair, names, record


def _push(options: argparse.Namespace) -> None:
    from pawpularity import __version__
    from pawpularity.kaggle import progress, push
    from pawpularity.kaggle.kaggle_cli import Kaggle

    pair, names = _named(options)
    note = f"pawpularity {__version__}, {pair.dataset_hash()}"
    if not options.go:
        print(push.push_plan(pair, names, note))
        log(_ACT)
        return
    kaggle = Kaggle.find()
    record = push.push(kaggle, pair, names, note)
    log(f"pushed  {names.kernel} version {record['kernel_version']}: {names.kernel_url}")
    minutes = options.wait if options.wait is not None else 60.0 if pair.inference else 0.0
    if minutes == 0:
        print(
            f"{names.kernel} version {record['kernel_version']} is running; ask with: make kernel-status{pair.name_word}"
        )
        return
    log("waiting for Kaggle to start it ...")
    progress.pause()
    _look(kaggle, pair, names, record, minutes)


def _look(kaggle: Any, pair: "Pair", names: "Names", record: dict[str, Any], minutes: float) -> None:
    """Wait for the newest version, keep what became of it, and say it."""
    from pawpularity.kaggle import progress

    now = progress.wait(kaggle, names, minutes, record.get("log_before"))
    pair.keep(record | {"status": now.status})
    progress.require_complete(kaggle, pair, names, now)
    if pair.inference:
        rows = progress.check_output(kaggle, names)
        pair.keep(record | {"status": "checked", "rows": rows})
        print(f"{names.kernel} version {record['kernel_version']}: complete, submission.csv with {rows} rows is sound; "
              "next: make submit")  # fmt: skip
    else:
        print(
            f"{names.kernel} version {record['kernel_version']}: complete; next: make kernel-fetch{pair.name_word} GO=1"
        )


def _status(options: argparse.Namespace) -> None:
    from pawpularity.kaggle import progress
    from pawpularity.kaggle.kaggle_cli import Kaggle

    pair, names, record = _pushed(options)
    kaggle = Kaggle.find()
    now = progress.progress(kaggle, names, record.get("log_before"))
    if not now.over and options.wait == 0:
        print(f"{names.kernel} version {record['kernel_version']}: {now.status}; {names.kernel_url}")
        return
    _look(kaggle, pair, names, record, options.wait)


def _submit(options: argparse.Namespace) -> None:
    from pawpularity import __version__
    from pawpularity.errors import UserError
    from pawpularity.kaggle import progress, push
    from pawpularity.kaggle.contents import open_bundle
    from pawpularity.kaggle.kaggle_cli import Kaggle, shell_line
    from pawpularity.kaggle.training_data import material_of

    options.name = "inference"
    pair, names, record = _pushed(options)
    version = record["kernel_version"]
    bundle = pair.dataset_hash()
    if (record.get("dataset_hash"), record.get("kernel_hash")) != (bundle, pair.kernel_hash()):
        raise UserError(
            f"{pair.dataset.parent}: was changed since version {version} of {names.kernel} was pushed; run: make kernel-push GO=1"
        )
    if record.get("submitted") and not options.again:
        raise UserError(
            f"{names.kernel} version {version}: was submitted already; look at {push.SUBMISSIONS_URL}, or add ARGS=--again"
        )
    if record.get("submitting") and not options.again:
        raise UserError(
            f"{names.kernel} version {version}: submitting it was cut off before Kaggle's answer was read; if "
            f"{push.SUBMISSIONS_URL} does not show it, add ARGS=--again"
        )
    message = options.message or f"pawpularity {__version__}, bundle {bundle}"
    if not message.isprintable() or len(message) > 500 or message.startswith("-"):
        raise UserError('--message: must be one line of at most 500 characters that does not begin with "-"')
    words = push.submit_words(names, version, message)
    material = material_of(open_bundle(pair.dataset, check_files=False))
    if not material.contest and not options.anyway:
        if options.go:
            raise UserError(f"{names.kernel}: {material}, so its score would say nothing of the contest; train on the contest's "
                            "data (make data), or add ARGS=--anyway")  # fmt: skip
        log(f"{material}: GO=1 would refuse it without ARGS=--anyway")
    else:
        log(str(material))
    if not options.go:
        print(shell_line(words))
        log(f"version {version} is {record['status']}; {_ACT}")
        return
    kaggle = Kaggle.find()
    if record["status"] != "checked":
        now = progress.progress(kaggle, names, record.get("log_before"))
        progress.require_complete(kaggle, pair, names, now)
        rows = progress.check_output(kaggle, names)
        record |= {"status": "checked", "rows": rows}
        pair.keep(record)
    # Kept before: whoever is cut off between Kaggle's yes and our note of it must not submit twice unawares.
    earlier = {key: value for key, value in record.items() if key != "submitting"}
    pair.keep(record | {"submitting": True})
    try:
        said = push.submit(kaggle, words, names)
    except progress.Unanswered as unanswered:
        if not unanswered.answer.unreachable:
            pair.keep(earlier)
        raise
    except UserError:
        pair.keep(earlier)
        raise
    pair.keep(earlier | {"submitted": True})
    print(f"submitted {names.kernel} version {version}; Kaggle says: {said}")
    log(f"it now runs on the hidden photos, which takes hours; the score will stand at {push.SUBMISSIONS_URL}")


def _train(options: argparse.Namespace) -> None:
    from pawpularity.config import resolve
    from pawpularity.context import default_run
    from pawpularity.data.dataset import CONTEST
    from pawpularity.errors import UserError
    from pawpularity.files import size_text
    from pawpularity.kaggle.train_kernel import Wanted, build_train_kernel, fold_numbers
    from pawpularity.runs import check_name

    if options.data:
        raise UserError("kernel-train: trains on the contest's data, which Kaggle has; leave --data out")
    configs = options.config or "densenet161"
    folds = names_in(options, "folds")
    config = resolve(configs, options.settings)
    wanted = Wanted(
        config=config,
        run=check_name(options.run or default_run(configs, CONTEST)),
        folds=fold_numbers(folds, config.folds.k),
        hours=options.hours,
        user=options.user or None,
        resume=options.resume,
        offline=options.offline,
    )
    pair = build_train_kernel(wanted, Path(options.build))
    total = sum(path.stat().st_size for path in pair.files)
    print(f"{pair.dataset.parent}: fold {', '.join(map(str, wanted.folds))} of run {wanted.run}, at most {wanted.hours:g} h; "
          f"{len(pair.files)} files, {size_text(total)}")  # fmt: skip
    if wanted.user is None:
        log("to push, build with KAGGLE_USER=you")
    log(f"next: make kernel-push NAME={pair.name}, and GO=1 to do it")


def _fetch(options: argparse.Namespace) -> None:
    import tempfile

    from pawpularity.errors import UserError
    from pawpularity.kaggle import progress
    from pawpularity.kaggle.fetch import ARCHIVE, bring_home
    from pawpularity.kaggle.kaggle_cli import Kaggle, shell_line

    if options.zip:
        print(bring_home(Path(options.zip)))
        return
    if options.name == "inference":
        raise UserError("kernel-fetch: brings trained runs home; name a training kernel: NAME=train-RUN")
    pair, names, record = _pushed(options)
    if not options.go:
        print(shell_line(progress.output_words(names, Path("DIR"), ARCHIVE)))
        log(_ACT)
        return
    kaggle = Kaggle.find()
    progress.require_complete(kaggle, pair, names, progress.progress(kaggle, names, record.get("log_before")))
    with tempfile.TemporaryDirectory() as scratch:
        files = progress.fetch(kaggle, names, Path(scratch), ARCHIVE)
        if len(files) != 1:
            raise UserError(
                f"{names.kernel}: left {len(files)} archives of a run, one was due; look at {names.kernel_url}"
            )
        print(bring_home(files[0], pair.name.removeprefix("train-")))
    pair.keep(record | {"status": "fetched"})


def _common(parser: argparse.ArgumentParser, *, go: bool = True, name: bool = True) -> None:
    if name:
        parser.add_argument("--name", default="inference", metavar="NAME", help="inference (default), or train-RUN")
    parser.add_argument("--user", metavar="KAGGLE_USER", help="your user name on Kaggle")
    parser.add_argument(
        "--build", default="kernels/build", metavar="DIR", help="where it was built (default: kernels/build)"
    )
    if go:
        parser.add_argument("--go", action="store_true", help="do it; without this the commands are only shown")


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 24 * 60:
        raise ValueError
    return value


def _wait_argument(parser: argparse.ArgumentParser, default: float | None, text: str) -> None:
    parser.add_argument(
        "--wait", type=_minutes, default=default, metavar="MINUTES", help=f"wait for its end at most that long ({text})"
    )


def _push_arguments(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    _wait_argument(parser, None, "default: 60, for a training kernel 0")


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    _common(parser, go=False)
    _wait_argument(parser, 0.0, "default: ask once")


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    _common(parser, name=False)
    parser.add_argument("--message", metavar="TEXT", help="the submission's description (default: version and bundle)")
    parser.add_argument("--again", action="store_true", help="submit a version that was submitted already")
    parser.add_argument(
        "--anyway", action="store_true", help="submit runs that were not trained on the contest's photos"
    )


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    run_argument(parser)
    _common(parser, go=False, name=False)
    parser.add_argument("--folds", nargs="+", metavar="N", help="these folds alone (default: all)")
    parser.add_argument(
        "--hours",
        type=float,
        default=11.0,
        metavar="H",
        help="stop and pack up after that (default: 11 of Kaggle's 12)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with what the kernel's last version left")
    parser.add_argument(
        "--offline", action="store_true", help="no internet there: pack the pretrained weights into the data set"
    )


def _fetch_arguments(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument("--zip", metavar="FILE", help="an archive that was downloaded by hand from the kernel's page")


def _verb(name: str, text: str, run: Any, arguments: Any) -> Verb:
    return Verb(name, text, run, arguments, configured=False)


PUSH_VERBS = [
    _verb(
        "kernel-push", "upload a built kernel and its data set; shows the commands unless --go", _push, _push_arguments
    ),
    _verb("kernel-status", "what became of a pushed kernel; its log's end if it failed", _status, _status_arguments),
    _verb(
        "submit", "submit the pushed kernel to the contest; shows the command unless --go", _submit, _submit_arguments
    ),
    Verb("kernel-train", "build a kernel that trains one run on Kaggle's GPUs", _train, _train_arguments),
    _verb(
        "kernel-fetch",
        "bring home the run of a training kernel; shows the command unless --go",
        _fetch,
        _fetch_arguments,
    ),
]
