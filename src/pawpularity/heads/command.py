"""`pawpularity heads`: fit heads on frozen features of any timm networks, and score them out of fold."""

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec

from pawpularity.console import emit, log, next_step
from pawpularity.context import Context
from pawpularity.errors import UserError, nearest
from pawpularity.evaluation.leaderboard import FLATTERED, run_row, table_text
from pawpularity.evaluation.oof import floor_line
from pawpularity.runs import KEPT_HEADS, check_name

FEATURES = ("pooled", "logits")
HEADS = (*KEPT_HEADS, "boosting", "tabpfn")
METADATA = {"use": (True,), "none": (False,), "both": (False, True)}
MOST_KERNEL_ROWS = 20_000  # an SVR holds the kernel of its training rows in memory: 3.2 GB for so many


def heads(
    context: Context,
    *,
    encoders: Sequence[str] = (),
    features: str = "pooled",
    heads: Sequence[str] = (),
    metadata: str = "both",
    run: str | None = None,
    json: str | None = None,
) -> None:
    """Score each of `encoders` (lists or timm names; default: the config's backbone) alone and all together, one run each.

    `features`: pooled or logits. `heads`: some of HEADS (default: ridge). `metadata`: the twelve columns beside the features: use,
    none or both. `run`: the first word of the runs' names (default: heads).
    """
    methods = list(dict.fromkeys(heads)) or ["ridge"]
    options = [("features", features, FEATURES), ("metadata", metadata, METADATA)]
    for option, value, valid in [*options, *(("heads", method, HEADS) for method in methods)]:
        if value not in valid:
            raise UserError(f"--{option} {value}: is not known{nearest(value, valid)}")
    word = check_name(run or "heads")
    config, dataset = context.config, context.dataset
    dataset.require_photos()  # labels alone are refused before a folds file is made
    if "tabpfn" in methods and find_spec("tabpfn") is None:
        raise UserError("--heads tabpfn: is not installed; run: pip install tabpfn (non-commercial weights)")
    kernels = [method for method in methods if method in ("svr", "kernel-ridge")]
    if kernels and len(dataset.train) > MOST_KERNEL_ROWS:
        raise UserError(
            f"--heads {kernels[0]}: {len(dataset.train)} rows are more than its {MOST_KERNEL_ROWS}; take ridge"
        )

    from pawpularity.device import choose as choose_device
    from pawpularity.heads.encoders import Encoder, read_encoders
    from pawpularity.heads.run import make_runs

    usual = Encoder.of(config, features)
    chosen_encoders = read_encoders(encoders, usual) if encoders else [usual]
    compute = choose_device(config.train.dtype)
    log(f"device  {compute}")
    runs = make_runs(context, chosen_encoders, methods, METADATA[metadata], word, compute)
    rows = [run_row(run) for run in runs]
    chosen = [
        f"{row['run']}: {', '.join(f'{word} ({n} folds)' for word, n in Counter(row['chosen']).items())}"
        for row in rows
    ]
    emit({"runs": rows}, table_text(rows), json, more="\n".join(chosen))
    if any("(edge)" in chosen for row in rows for chosen in row["chosen"]):
        log("(edge): the smallest or largest value tried; a better one may lie beyond it")
    if len(rows) > 1:
        log(FLATTERED)
    if (line := floor_line(context.data)) is not None:
        log(line)
    if len(runs) > 1:
        next_step("make ensemble", MEMBERS=[run.name for run in runs])
    elif runs[0].has_networks:
        next_step("make predict", RUN=runs[0].name)
    else:
        next_step("make oof", RUN=runs[0].name)
