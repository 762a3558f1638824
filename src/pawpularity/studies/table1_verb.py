"""Temporary."""

import argparse
from pathlib import Path
from typing import Any

from pawpularity.command_line import names_in
from pawpularity.console import emit, log


def _table1(options: argparse.Namespace) -> None:
    from pawpularity.context import choose_data, draw_if_missing, folds_of
    from pawpularity.data.dataset import Dataset
    from pawpularity.errors import UserError, nearest
    from pawpularity.pipeline import compete
    from pawpularity.studies import table1

    backbones, copies = names_in(options, "backbones"), names_in(options, "copies")
    if options.config:
        raise UserError(
            "table1: takes the four backbones' own configs; change them all with key=value words, choose by --backbones"
        )
    fixed = ("model.backbone", "model.args", "train.copies", "train.split", "train.mixup", "folds.k")
    if own := [word for word in options.settings if word.startswith(fixed)]:
        raise UserError(f'table1: "{own[0]}" is what the table varies, or what makes it comparable; leave it out')
    data = choose_data(options.data)
    rules = copies or list(table1.COPIES)
    if odd := [rule for rule in rules if rule not in table1.COPIES]:
        raise UserError(f"--copies {odd[0]}: is not known{nearest(odd[0], table1.COPIES)}")
    known = [name.split("/")[-1] for name in compete.family(data)]
    if odd := [name for name in backbones if name.split("/")[-1] not in known]:
        raise UserError(f"--backbones {odd[0]}: is not one of the four{nearest(odd[0], known)}")
    configs = table1.configs_of(data, options.settings, backbones)
    draw_if_missing(data)
    first = next(iter(configs.values()))
    dataset = Dataset.load(data, Path(first.cache.folder))
    dataset.photo_paths()
    compete.require_weights(configs)
    folds = folds_of(dataset, first)
    log(
        f"data    {data}: {len(dataset.train)} photos; backbones {' '.join(configs)}; copies {' '.join(rules)}; honest and leaky"
    )

    def done(row: dict[str, Any]) -> None:
        log(f"{row['backbone']:22s} copies {row['copies']:8s} {row['split']:6s}  RMSE {row['rmse']:6.3f} [{row['low']:.2f}, "
            f"{row['high']:.2f}]  constant {row['constant_rmse']:.3f}  n {row['n']}  {row['seconds']:.0f} s")  # fmt: skip

    rows = table1.make_table(configs, dataset, folds, rules, done)
    csv, page = table1.write_table(rows, data)
    log(f"wrote {csv} and {page}")
    emit({"cells": rows}, table1.markdown(rows), options.json)
