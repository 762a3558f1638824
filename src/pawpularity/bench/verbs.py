"""`pawpularity bench`: how fast this machine trains, predicts, builds trunks and explains, beside the plain way."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pawpularity.verb import Verb, give, json_argument, say

if TYPE_CHECKING:
    from pawpularity.device import Compute

TIMED = ("train", "predict", "cache", "profile")
WHAT = (*TIMED, "rise", "all")


def _bench(options: argparse.Namespace) -> None:
    from pawpularity.bench.cache import bench_cache
    from pawpularity.bench.predict import bench_predict
    from pawpularity.bench.profile import bench_profile
    from pawpularity.bench.table import leave, text
    from pawpularity.bench.train import DEPTHS, bench_train, settings, shelter
    from pawpularity.device import choose
    from pawpularity.errors import UserError

    if options.repeats < 1 or options.photos < 32:
        raise UserError("bench: takes at least --repeats 1 and --photos 32")
    if options.unfrozen is not None and options.unfrozen < 0:
        raise UserError(f"--unfrozen {options.unfrozen}: must be a count of parameter tensors, 0 or more")
    if options.out and Path(options.out).exists() and not Path(options.out).is_dir():
        raise UserError(f"--out {options.out}: is a file; name a folder")
    compute = choose("auto")
    if options.what == "rise":
        _rise(options, compute)
        return
    if options.data or options.weights:
        raise UserError(
            "bench: --data and --weights belong to --what rise; the others draw photos and take random weights"
        )
    names = options.backbones or list(DEPTHS)
    depths = {name: options.unfrozen if options.unfrozen is not None else DEPTHS.get(name) for name in names}
    for name, depth in depths.items():
        # Said before anything is drawn.
        if settings(name, depth).model.unfrozen == "all":
            raise UserError(
                f"bench: {name} freezes nothing, so there is no trunk to time; name a depth with --unfrozen N"
            )
    say(f"device  {compute}, whatever train.dtype says; random weights: their values change no time")
    tables: dict[str, list[dict[str, Any]]] = {}
    wanted = TIMED if options.what == "all" else (options.what,)
    with shelter(options.photos) as data:
        for what in wanted:
            rows: list[dict[str, Any]] = []
            for name, depth in depths.items():
                say(f"{what}: {name} ...")
                if what == "train":
                    rows += bench_train(name, depth, data, compute, options.repeats, options.frozen_bn)
                elif what == "predict":
                    rows += bench_predict(name, depth, compute, options.repeats)
                elif what == "profile":
                    rows += bench_profile(name, depth, data, compute, options.repeats, options.frozen_bn)
                else:
                    rows += bench_cache(name, depth, data, compute, options.repeats)
            tables[what] = rows
            if options.out:
                leave(Path(options.out), what, rows, compute)
    give(tables, "\n\n".join(text(what, rows) for what, rows in tables.items()), options.json)


def _rise(options: argparse.Namespace, compute: "Compute") -> None:
    from pawpularity.bench.rise import bench_rise
    from pawpularity.bench.table import leave, text
    from pawpularity.errors import UserError

    if options.backbones and len(options.backbones) > 1:
        raise UserError("bench --what rise takes one network at a time; name one with --backbones")
    say(f"device  {compute}")
    rows = bench_rise(
        Path(options.data) if options.data else None, options.weights, (options.backbones or [None])[0], compute,
        maps=options.maps, drawn=options.photos, repeats=options.repeats,
    )  # fmt: skip
    if options.out:
        leave(Path(options.out), "rise", rows, compute)
    give({"rise": rows}, text("rise", rows), options.json)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--what", choices=WHAT, default="train", help="what to measure (default: train); all = all but rise"
    )
    parser.add_argument(
        "--backbones",
        nargs="+",
        metavar="NAME",
        help="configs, not timm names (default: the paper's four); for rise a timm name",
    )
    parser.add_argument(
        "--unfrozen",
        type=int,
        metavar="N",
        help="tensors trained (default: as the authors; densenet161 100)",
    )
    parser.add_argument("--photos", type=int, default=64, metavar="N", help="photos to draw, 32 at least (default: 64)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="repeats that are timed (default: 3)")
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


VERBS = [Verb("bench", "time training, prediction and trunk building beside the plain loop (minutes a network)", _bench, _arguments,
              configured=False)]  # fmt: skip
