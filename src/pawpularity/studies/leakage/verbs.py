"""`pawpularity leakage`: the paper's protocol replayed, from labels alone and with a network. `leakcheck`: a leak meter."""

import argparse
import time
from pathlib import Path
from typing import Any

from pawpularity.command_line import Verb, file_arguments, json_argument
from pawpularity.console import emit, log

FIXED = (
    "train.copies",
    "train.split",
    "train.augment",
    "train.views",
    "train.mixup",
    "train.manifold_mixup",
    "train.refit",
)


def _leakage(options: argparse.Namespace) -> None:
    from pawpularity.config import resolve
    from pawpularity.context import choose, choose_data, default_config, draw_if_missing
    from pawpularity.data.tables import ID, TARGET, read_train
    from pawpularity.errors import UserError
    from pawpularity.evaluation.oof import write_oof
    from pawpularity.studies.leakage.replay import SEED, answers_table, over_seeds, replay

    if options.labels and options.data:
        raise UserError(
            "--labels and --data: give one of them; --labels replays the split from a table, without photos"
        )
    rule = options.copies
    if rule not in ("authors", "paper", "none"):
        raise UserError(f"--copies {rule}: must be authors, paper or none")
    if options.labels and (options.config or options.settings):
        raise UserError(
            f"--labels: trains nothing, so it takes no {'--config' if options.config else options.settings[0]}"
        )
    data = Path(options.labels) if options.labels else choose_data(options.data)
    resolve(
        options.config or default_config(data), options.settings
    )  # a word that is wrong is told before anything else
    if own := [word for word in options.settings if word.startswith(FIXED)]:
        raise UserError(f'leakage: "{own[0]}" is what the experiment sets itself (copies by --copies); leave it out')
    draw_if_missing(data)
    table = read_train(data)
    scores = table[TARGET].to_numpy(dtype=float)
    if len(scores) < 20:
        raise UserError(f"{data}: has {len(scores)} rows; the split needs 20 or more")
    import torch  # noqa: F401  its own second is not the replay's

    started = time.perf_counter()
    found = replay(scores, rule)
    seeds = over_seeds(scores, rule)
    seconds = time.perf_counter() - started
    value: dict[str, Any] = found.to_dict() | {
        "copies": rule,
        "seed": SEED,
        "over_seeds": seeds,
        "seconds": round(seconds, 3),
    }
    text = _replay_text(data, value)
    if options.answers:
        write_oof(Path(options.answers), answers_table(table[ID].tolist(), scores, rule))
        log(f"wrote {options.answers}: the answers of somebody who looks at no photo")
    photos = not options.labels and (data / "train").is_dir()
    if photos and not options.replay_only:
        from pawpularity.studies.leakage.record import experiment_of, experiment_text

        chosen = choose(options)
        value["experiment"], folder = experiment_of(chosen, rule)
        text += "\n\n" + experiment_text(value["experiment"])
        log(f"wrote {folder}/")
    elif not photos and not options.labels:
        log(f"{data} has no photos, so no network was trained the leaky way and the honest way")
    emit(value, text, options.json)


def _replay_text(data: Path, v: dict[str, Any]) -> str:
    seeds, share = v["over_seeds"], v["over_seeds"]["sibling_share"]
    lines = [
        f"The paper's split of {data}, from the labels alone (copies: {v['copies']}, seed {v['seed']})",
        f"{v['photos']:,} photos become {v['items']:,} items; {v['validation']:,} of them are validated on, "
        f"{v['siblings']:,} ({100 * v['sibling_share']:.1f} %) with a copy of themselves in training",
        f"RMSE {v['lookup_rmse']:.3f}  answering with the copy's score, else the training items' mean: no photo is looked at",
        f"RMSE {v['constant_rmse']:.3f}  answering with the training items' mean alone (sd of these items {v['sd']:.3f})",
        f"over seeds 0..{seeds['seeds'] - 1}: copies {100 * share['mean']:.2f} +- {100 * share['sd']:.2f} %, lookup "
        f"{seeds['lookup_rmse']['mean']:.3f} +- {seeds['lookup_rmse']['sd']:.3f}, constant "
        f"{seeds['constant_rmse']['mean']:.3f} +- {seeds['constant_rmse']['sd']:.3f}  ({v['seconds']:.2f} s)",
    ]
    return "\n".join(lines)


def _leakage_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", metavar="CSV", help="a table with Pawpularity: the replay alone, without photos")
    parser.add_argument(
        "--copies", default="authors", metavar="RULE", help="authors (their code), paper (their text) or none"
    )
    parser.add_argument("--replay-only", action="store_true", help="train no network, even where there are photos")
    parser.add_argument(
        "--answers", metavar="CSV", help="also write the answers that look at no photo, as an OOF table"
    )
    json_argument(parser)


def _leakcheck(options: argparse.Namespace) -> None:
    from pawpularity.config import resolve
    from pawpularity.context import choose_data, default_config
    from pawpularity.errors import UserError
    from pawpularity.evaluation.leak_detection import folder_of, origin_of
    from pawpularity.evaluation.metrics import evaluate
    from pawpularity.evaluation.predictions import open_predictions
    from pawpularity.studies.leakage.check import check_leaks, check_text, photos_for, write_check

    if "=" in options.oof and not Path(options.oof).is_file():
        raise UserError(f"leakcheck: needs a run or a CSV before {options.oof}")
    data = Path(options.data) if options.data else None
    source = open_predictions(options.oof, scale=options.scale, folds=Path(options.folds) if options.folds else None)
    origin = origin_of(source, data)
    result = evaluate(source.target, source.prediction, source.constant, source.groups)
    at_hand = origin.folder or folder_of(source, origin)
    photos = photos_for(options.photos, source, at_hand)
    config = resolve(options.config or default_config(at_hand or choose_data(options.data)), options.settings)
    found = check_leaks(source, result, origin, photos, config)
    folder = write_check(source, found, Path(options.out) if options.out else None)
    emit(found.to_dict(), check_text(found), options.json)
    log(f"wrote {folder}/")


def _leakcheck_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("oof", metavar="OOF", help="a run below oof/, or anybody's CSV with Id,fold,target,prediction")
    file_arguments(parser)
    parser.add_argument(
        "--photos", metavar="DIR", help="folder of ID.jpg, for what looks alike (default: the data's, if at hand)"
    )
    parser.add_argument("--out", metavar="DIR", help="where the findings go (default: oof/leakcheck/NAME)")
    json_argument(parser)


VERBS = [
    Verb("leakage", "replay the paper's split: what a label alone scores, then a net trained the leaky and the honest way",
         _leakage, _leakage_arguments),
    Verb("leakcheck", "signs that out-of-fold predictions, ours or anybody's, have seen their answers", _leakcheck,
         _leakcheck_arguments),
]  # fmt: skip
