"""`pawpularity pretrain`: make the small net that comes with the package."""

import argparse
from pathlib import Path

from pawpularity.command_line import Verb, out_argument
from pawpularity.console import log
from pawpularity.studies.pretraining import EPOCHS, PHOTOS, RESERVED, SEED


def _pretrain(options: argparse.Namespace) -> None:
    from pawpularity.models.weights import packaged_weights
    from pawpularity.studies.pretraining import pretrain as room

    out = Path(options.out) if options.out else packaged_weights(room.BACKBONE)
    log(f"draws {options.photos} photos and trains {options.epochs} epochs on the CPU; "
        f"on two idle cores about {room.estimate(options.photos, options.epochs):.0f} s")  # fmt: skip
    made = room.pretrain(out, photos=options.photos, epochs=options.epochs, seed=options.seed)
    for name, figures in made["labels"].items():
        said = (
            f"R2 {figures['r2']:.2f}"
            if "r2" in figures
            else f"accuracy {figures['accuracy']:.3f}, majority {figures['majority']:.3f}"
        )
        log(f"  {name:<13}{said}")
    log(f"wrote {out} ({out.stat().st_size / 1e6:.2f} MB), and where it came from beside it; "
        "it knows drawings, not photographs")  # fmt: skip


def _arguments(parser: argparse.ArgumentParser) -> None:
    out_argument(parser, "the .safetensors file to write (default: the packaged one)")
    parser.add_argument(
        "--photos", type=int, default=PHOTOS, metavar="N", help=f"photos to learn from (default: {PHOTOS})"
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help=f"passes over them (default: {EPOCHS})")
    kept = ", ".join(map(str, RESERVED))
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="of the drawn shelter and of the training "
                        f"(default: {SEED}; {kept} are refused: figures are made on those shelters)")  # fmt: skip


VERBS = [
    Verb(
        "pretrain",
        "make the small net of model.weights=drawn from drawings, in minutes on a CPU",
        _pretrain,
        _arguments,
        configured=False,
    )
]
