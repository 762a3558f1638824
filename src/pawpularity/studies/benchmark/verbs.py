"""`pawpularity bench`: how fast this machine trains, predicts, builds trunks, searches and explains, beside the plain way."""

import argparse
from pathlib import Path
from typing import Any

from pawpularity.command_line import Verb, json_argument
from pawpularity.console import emit, log

LOOPS = ("train", "predict", "cache", "profile")
WHAT = (*LOOPS, "search", "rise", "all")  # all but the search and the maps, which take a quarter of an hour each


def _bench(options: argparse.Namespace) -> None:
    from pawpularity.errors import UserError

    if options.out and Path(options.out).exists() and not Path(options.out).is_dir():
        raise UserError(f"--out {options.out}: is a file; name a folder")
    if options.what == "search":
        _search(options)
        return
    if options.trials is not None:
        raise UserError("--trials: is of --what search alone")
    photos = 64 if options.photos is None else options.photos
    repeats = 3 if options.repeats is None else options.repeats
    if repeats < 1 or photos < 32:
        raise UserError("bench: takes at least --repeats 1 and --photos 32")
    if options.what == "rise":
        _rise(options, photos, repeats)
        return
    if options.data or options.weights:
        raise UserError(
            "bench: --data and --weights belong to --what rise; the others draw photos and take random weights"
        )
    _loops(options, photos, repeats)


def _search(options: argparse.Namespace) -> None:
    from pawpularity.errors import UserError

    photos, repeats, trials = (
        default if value is None else value
        for value, default in ((options.photos, 600), (options.repeats, 1), (options.trials, 50))
    )
    if repeats < 1 or photos < 32 or trials < 2:
        raise UserError("bench: a search takes at least --repeats 1, --photos 32 and --trials 2")
    if options.unfrozen is not None or not options.frozen_bn:
        raise UserError(
            "bench: a search tries depths by itself and trains as its config does; leave out --unfrozen and --trained-bn"
        )

    from pawpularity.config import resolve
    from pawpularity.device import choose
    from pawpularity.studies.benchmark.search import bench_search
    from pawpularity.studies.benchmark.table import leave, text

    names = options.backbones or ["sample"]
    for name in names:
        if resolve(name).model.unfrozen == "all":
            raise UserError(
                f"bench: {name} freezes nothing, so there is no warm trunk to search behind; name another config"
            )
    rows: list[dict[str, Any]] = []
    for name in names:
        compute = choose(resolve(name).train.dtype)
        log(f"device  {compute}")
        rows += bench_search(name, photos, trials, compute, repeats)
    if options.out:
        leave(Path(options.out), "search", rows, compute)
    emit({"search": rows}, text("search", rows), options.json)


def _loops(options: argparse.Namespace, photos: int, repeats: int) -> None:
    from pawpularity.device import choose
    from pawpularity.errors import UserError
    from pawpularity.studies.benchmark.cache import bench_cache
    from pawpularity.studies.benchmark.predict import bench_predict
    from pawpularity.studies.benchmark.profile import bench_profile
    from pawpularity.studies.benchmark.table import leave, text
    from pawpularity.studies.benchmark.train import DEPTHS, bench_train, settings, shelter

    if options.unfrozen is not None and options.unfrozen < 0:
        raise UserError(f"--unfrozen {options.unfrozen}: must be a count of parameter tensors, 0 or more")
    compute = choose("auto")
    names = options.backbones or list(DEPTHS)
    depths = {name: options.unfrozen if options.unfrozen is not None else DEPTHS.get(name) for name in names}
    for name, depth in depths.items():
        # Said before anything is drawn.
        if settings(name, depth).model.unfrozen == "all":
            raise UserError(
                f"bench: {name} freezes nothing, so there is no trunk to time; name a depth with --unfrozen N"
            )
    log(f"device  {compute}, whatever train.dtype says; random weights: their values change no time")
    tables: dict[str, list[dict[str, Any]]] = {}
    wanted = LOOPS if options.what == "all" else (options.what,)
    with shelter(photos) as data:
        for what in wanted:
            rows: list[dict[str, Any]] = []
            for name, depth in depths.items():
                log(f"{what}: {name} ...")
                if what == "train":
                    rows += bench_train(name, depth, data, compute, repeats, options.frozen_bn)
                elif what == "predict":
                    rows += bench_predict(name, depth, compute, repeats)
                elif what == "profile":
                    rows += bench_profile(name, depth, data, compute, repeats, options.frozen_bn)
                else:
                    rows += bench_cache(name, depth, data, compute, repeats)
            tables[what] = rows
            if options.out:
                leave(Path(options.out), what, rows, compute)
    emit(tables, "\n\n".join(text(what, rows) for what, rows in tables.items()), options.json)


def _rise(options: argparse.Namespace, photos: int, repeats: int) -> None:
    from pawpularity.device import choose
    from pawpularity.errors import UserError
    from pawpularity.studies.benchmark.rise import bench_rise
    from pawpularity.studies.benchmark.table import leave, text

    compute = choose("auto")

    if options.backbones and len(options.backbones) > 1:
        raise UserError("bench --what rise takes one network at a time; name one with --backbones")
    log(f"device  {compute}")
    rows = bench_rise(
        Path(options.data) if options.data else None, options.weights, (options.backbones or [None])[0], compute,
        maps=options.maps, drawn=photos, repeats=repeats,
    )  # fmt: skip
    if options.out:
        leave(Path(options.out), "rise", rows, compute)
    emit({"rise": rows}, text("rise", rows), options.json)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--what", choices=WHAT, default="train", help="what to measure (default: train); all = all but search and rise"
    )
    parser.add_argument(
        "--backbones",
        nargs="+",
        metavar="NAME",
        help="configs, not timm names (default: the paper's four; of a search: sample); for rise a timm name",
    )
    parser.add_argument(
        "--unfrozen",
        type=int,
        metavar="N",
        help="tensors trained (default: as the authors; densenet161 100)",
    )
    parser.add_argument(
        "--photos", type=int, metavar="N", help="photos to draw, 32 at least (default: 64; of a search: 600)"
    )
    parser.add_argument("--repeats", type=int, metavar="N", help="repeats that are timed (default: 3; of a search: 1)")
    parser.add_argument("--trials", type=int, metavar="N", help="trials of a search (default: 50)")
    parser.add_argument("--trained-bn", dest="frozen_bn", action="store_false", help="train the tail's BatchNorms")
    parser.add_argument(
        "--data", metavar="DIR", help="rise: a folder in the contest's layout (default: photos are drawn)"
    )
    parser.add_argument(
        "--weights", metavar="DIR", help="rise: as model.weights, of mobilenetv2_100 (default: the package's)"
    )
    parser.add_argument(
        "--maps", type=int, default=16, metavar="N", help="rise: photos that are explained (default: 16)"
    )
    parser.add_argument("--out", metavar="DIR", help="also write DIR/WHAT-DEVICE.csv, with machine and versions")
    json_argument(parser)


VERBS = [
    Verb("bench", "time training, prediction and trunk building beside the plain loop, searches and maps (minutes each)", _bench,
         _arguments, configured=False),
]  # fmt: skip
