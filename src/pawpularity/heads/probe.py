"""`pawpularity probe`: score heads on frozen features of any timm networks, out of fold."""

from collections import Counter
from collections.abc import Sequence

from pawpularity.console import emit, log, next_step
from pawpularity.context import Context
from pawpularity.errors import UserError, nearest
from pawpularity.evaluation.leaderboard import FLATTERED, run_row, table_text
from pawpularity.evaluation.oof import floor_line
from pawpularity.runs import check_name

FEATURES = ("pooled", "logits")
HEADS = {"ridge": ("ridge",), "svr": ("svr",), "both": ("ridge", "svr")}
METADATA = {"use": (True,), "none": (False,), "both": (False, True)}
MOST_SVR_ROWS = 20_000  # a support vector machine holds the kernel of its training rows in memory: 3.2 GB for so many


def probe(
    context: Context,
    *,
    backbones: Sequence[str] = (),
    features: str = "pooled",
    head: str = "ridge",
    metadata: str = "both",
    run: str | None = None,
    json: str | None = None,
) -> None:
    """Score each of `backbones` (default: the config's) alone and all together, one run each.

    `features`: pooled or logits. `head`: ridge, svr or both. `metadata`: the twelve columns beside the features: use, none or
    both. `run`: the first word of the runs' names (default: probe).
    """
    options = {"features": (features, FEATURES), "head": (head, HEADS), "metadata": (metadata, METADATA)}
    for option, (value, valid) in options.items():
        if value not in valid:
            raise UserError(f"--{option} {value}: is not known{nearest(value, valid)}")
    if repeated := next((name for name in backbones if backbones.count(name) > 1), None):
        raise UserError(f"--backbones: names {repeated} twice; name it once")
    word = check_name(run or "probe")
    config, dataset = context.config, context.dataset
    dataset.require_photos()  # labels alone are refused before a folds file is made
    if "svr" in HEADS[head] and len(dataset.train) > MOST_SVR_ROWS:
        raise UserError(f"--head svr: {len(dataset.train)} rows are more than its {MOST_SVR_ROWS}; take --head ridge")

    from pawpularity.device import choose as choose_device
    from pawpularity.heads.run import make_runs

    compute = choose_device(config.train.dtype)
    names = list(backbones) or [config.model.backbone]
    weights = "random weights" if config.model.weights == "none" else f"weights {config.model.weights}"
    log(f"encoder {', '.join(names)}: {weights}, {features} features, {config.photos.size} px")
    log(f"device  {compute}")
    runs = make_runs(context, names, features, HEADS[head], METADATA[metadata], word, compute)
    rows = [run_row(run) for run in runs]
    chosen = [
        f"{row['run']}: {', '.join(f'{word} ({n} folds)' for word, n in Counter(row['chosen']).items())}"
        for row in rows
    ]
    emit({"runs": rows}, "\n".join([table_text(rows), *chosen]), json)
    if any("(edge)" in chosen for row in rows for chosen in row["chosen"]):
        log("(edge): the smallest or largest value tried; a better one may lie beyond it")
    if len(rows) > 1:
        log(FLATTERED)
    if (line := floor_line(context.data)) is not None:
        log(line)
    if len(runs) > 1:
        next_step("make ensemble", MEMBERS=[run.name for run in runs])
    else:
        next_step("make oof", RUN=runs[0].name)
