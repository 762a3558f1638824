"""`pawpularity probe`, until cli.py declares it."""

import argparse

from pawpularity.command_line import Verb, json_argument, names_in


def _probe(options: argparse.Namespace) -> None:
    from pawpularity.context import choose
    from pawpularity.heads.probe import probe

    backbones = names_in(options, "backbones")
    probe(choose(options), backbones=backbones, features=options.features, head=options.head,
          metadata=options.metadata, run=options.run, json=options.json)  # fmt: skip


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
