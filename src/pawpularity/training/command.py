"""`pawpularity train`: one fold, or all that are missing; one after the other, side by side, or a fold on several GPUs."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pawpularity.console import Progress, emit, log, next_step, say
from pawpularity.context import Context
from pawpularity.errors import UserError
from pawpularity.signals import Stopped
from pawpularity.training.trackers import require_tracker

if TYPE_CHECKING:
    from pawpularity.runs import Run


def train(
    context: Context,
    *,
    fold: int | None = None,
    jobs: int | None = None,
    processes: int | None = None,
    fresh: bool = False,
    skip_taken: bool = False,
    json: str | None = None,
) -> None:
    """Train, and print the out-of-fold RMSE with its interval beside the constant.

    Wrong options, data and folds raise UserError before torch is imported.
    """
    if jobs and (fold is not None or processes):
        raise UserError("--jobs trains the missing folds side by side; leave out --fold and --processes")
    check(context, fold)
    if (processes or 1) > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        missing_folds(context, fresh=fresh)  # other settings are refused here, in one line of one process
        words = [*(["--fold", str(fold)] if fold is not None else []), *(["--fresh"] if fresh else []),
                 *(["--skip-taken"] if skip_taken else []), *(["--json", json] if json else []), *context.words]  # fmt: skip
        _launch(processes or 1, ["train", *words])
        return
    first = int(os.environ.get("RANK", "0")) == 0
    out = say if first and json != "-" else log
    run = trained(context, out, fold=fold, jobs=jobs, fresh=fresh, skip_taken=skip_taken)
    if not first:
        return
    from pawpularity.evaluation.leaderboard import run_row, table_text
    from pawpularity.evaluation.oof import floor_line

    if fold is None or json:
        row = run_row(run)
        emit(row, table_text([row]) if fold is None else "", json)
    if (floor := floor_line(Path(context.data))) is not None:
        log(floor)
    missing = len(run.trained_folds()) < run.k
    next_step(context.make_line("train") if missing else context.make_line("explain", settings=False))


def check(context: Context, fold: int | None) -> None:
    """Raise UserError for a wrong fold, a missing tracker, data without photos, and wrong folds."""
    k = context.config.folds.k
    if fold is not None and not 0 <= fold < k:
        raise UserError(f"--fold {fold}: must be 0..{k - 1} (folds.k is {k})")
    require_tracker(context.config.train.log)
    context.dataset.require_photos()
    _ = context.folds


def trained(
    context: Context,
    out: Callable[[str], None],
    *,
    fold: int | None = None,
    jobs: int | None = None,
    fresh: bool = False,
    skip_taken: bool = False,
) -> "Run":
    """Train `fold`, or all that are missing, `jobs` of them side by side; `out` gets a line for each."""
    if (jobs or 1) > 1:
        _side_by_side(context, jobs or 1, fresh=fresh)
    with Progress(None, "loading torch"):
        from pawpularity.evaluation.oof import fold_line
        from pawpularity.training.fold import train_run
    again, wanted = fold is not None and not skip_taken, None if fold is None else [fold]
    return train_run(context, wanted=wanted, again=again, fresh=fresh, skip_taken=skip_taken,
                     on_fold=lambda run, number: out(fold_line(run, number)))  # fmt: skip


def _launch(processes: int, words: Sequence[str]) -> None:
    """Run `pawpularity *words` in `processes` processes that train together. If they fail, exit with 2, 130, 143 or 1.

    By torchrun, as `accelerate launch --multi_gpu` does too (accelerate's own launcher starts a single process on a CPU).
    Raises UserError for more processes than GPUs, or than cores where there is no GPU.
    """
    import torch

    on_gpu = torch.cuda.is_available() and os.environ.get("PAWPULARITY_DEVICE", "cuda").startswith("cuda")
    most = torch.cuda.device_count() if on_gpu else os.cpu_count() or 1
    if processes > most:
        raise UserError(f"--processes {processes}: this machine has {most} {'GPUs' if on_gpu else 'cores and no GPU'}")
    threads = max(1, (os.cpu_count() or 1) // processes)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
               "-m", "--", "pawpularity", *words]  # fmt: skip
    environment = {"TORCH_CPP_LOG_LEVEL": "ERROR"} | os.environ | {"OMP_NUM_THREADS": str(threads)}
    environment |= {} if on_gpu else {"ACCELERATE_USE_CPU": "true"}
    # A new session: Ctrl-C reaches only this process, which then stops the others once.
    child = subprocess.Popen(command, start_new_session=True, env=environment)
    try:
        code = child.wait()
    except KeyboardInterrupt as stop:
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise Stopped(stop.number if isinstance(stop, Stopped) else signal.SIGINT) from None
    if code:
        sys.exit(code if code in (2, 130, 143) else 1)


def _side_by_side(context: Context, jobs: int, *, fresh: bool) -> None:
    """Train the missing folds, `jobs` processes at once, each with its share of the cores."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // jobs))
    environment = os.environ | {"OMP_NUM_THREADS": threads}

    def failed(fold: int) -> bool:
        command = fold_command(context, fold, fresh=fresh)
        return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode != 0

    with ThreadPoolExecutor(jobs) as pool:
        faults = list(pool.map(failed, missing_folds(context, fresh=fresh)))
    if any(faults):
        raise UserError(
            f"{sum(faults)} of {len(faults)} folds failed (see above); run the same command to train them again"
        )


def missing_folds(context: Context, *, fresh: bool = False) -> list[int]:
    """Folds of the context's run that are not trained yet. Raises UserError if its folder holds another run (`Run.same`)."""
    from pawpularity.runs import Run, record_of

    if not (context.run / "config.json").is_file():
        return list(range(context.folds.k))
    there = Run.open(context.run)
    data, folds = {"hash": context.dataset.hash}, {"hash": context.folds.hash}
    weights = there.record.get("weights", {})  # not compared: that would need the network
    record = record_of(context.config, data=data, folds=folds, weights=weights)
    run = Run.same(context.run, record, fresh=fresh)
    trained = run.trained_folds() if run is not None else []
    return [fold for fold in range(context.folds.k) if fold not in trained]


def fold_command(context: Context, fold: int, *, fresh: bool = False) -> list[str]:
    """The command that trains one fold, and does nothing where it is trained or being trained elsewhere."""
    more = ["--fresh"] if fresh else []
    return [sys.executable, "-m", "pawpularity", "train", "--fold", str(fold), "--skip-taken", *more, *context.words]
