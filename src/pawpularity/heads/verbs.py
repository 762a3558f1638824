"""`pawpularity probe`: what frozen networks know about the scores, by a ridge or a support vector machine."""

import argparse

from pawpularity.command_line import Verb, json_argument, names_in
from pawpularity.console import emit, log

METADATA = {"use": (True,), "none": (False,), "both": (False, True)}
HEADS = {"ridge": ("ridge",), "svr": ("svr",), "both": ("ridge", "svr")}
FEATURES = {"pooled": "pooled", "logits": "logits"}


def _probe(options: argparse.Namespace) -> None:
    from pawpularity.context import choose, data_suffix
    from pawpularity.errors import UserError, nearest
    from pawpularity.runs import check_name

    def one_of(option: str, value: str, valid: dict[str, object]) -> None:
        if value not in valid:
            raise UserError(f"--{option} {value}: is not known{nearest(value, valid)}")

    one_of("features", options.features, dict(FEATURES))
    one_of("head", options.head, dict(HEADS))
    one_of("metadata", options.metadata, dict(METADATA))
    named = names_in(options, "backbones")
    if repeated := next((name for name in named if named.count(name) > 1), None):
        raise UserError(f"--backbones: names {repeated} twice; name it once")
    word = check_name(options.run or "probe")
    chosen = choose(options)
    dataset = chosen.dataset
    dataset.require_photos()  # labels alone are refused before a folds file is made
    folds = chosen.folds

    from pawpularity.device import choose as choose_device
    from pawpularity.evaluation.leaderboard import floor_line, run_row, table_text
    from pawpularity.heads.heads import run_probes

    config = chosen.config
    compute = choose_device(config.train.dtype)
    towers = named or [config.model.backbone]
    random = config.model.weights == "none"
    weights = "random weights" if random else f"weights {config.model.weights}"
    classifier = " and a random classifier" if random and options.features == "logits" else ""
    log(f"towers  {', '.join(towers)}: {weights}{classifier}, {config.photos.size} px")
    log(f"device  {compute}")
    runs = run_probes(
        config, dataset, folds, compute, backbones=towers, kind=FEATURES[options.features], heads=HEADS[options.head],
        metadata=METADATA[options.metadata], word=word, suffix=data_suffix(chosen.data),
    )  # fmt: skip
    rows = [run_row(run) for run in runs]
    emit({"runs": rows}, table_text(rows), options.json)
    if any("(edge)" in word for row in rows for word in row["chosen"]):
        log("(edge): the smallest or largest value tried; a better one may lie beyond it")
    if len(rows) > 1:
        log(f"choosing the best of these {len(rows)} rows by these figures flatters it: five equal ones by about 0.5 points at 120 "
            "photos, 0.06 at 9,912")  # fmt: skip
    if (line := floor_line(chosen.data)) is not None:
        log(line)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbones", nargs="+", metavar="NAME",
                        help="timm names, each scored alone and all together (default: the config's backbone)")  # fmt: skip
    parser.add_argument("--features", default="pooled", metavar="KIND",
                        help="pooled = before the classifier; logits = the network's own classifier (default: pooled)")  # fmt: skip
    parser.add_argument("--head", default="ridge", metavar="HEAD", help="ridge, svr or both (default: ridge)")
    parser.add_argument("--metadata", default="both", metavar="USE",
                        help="the twelve columns beside the features: use, none or both (default: both)")  # fmt: skip
    parser.add_argument("--run", metavar="WORD", help="first word of the runs' names (default: probe)")
    json_argument(parser)


VERBS = [Verb("probe", "score heads on frozen features of any timm networks, out of fold", _probe, _arguments)]
