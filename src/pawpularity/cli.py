"""The command line: `pawpularity COMMAND [--config NAME] [--data DIR] [--run NAME] [key=value ...]`.

Each command below declares its options and names the function that does the work; that function is imported when the command
runs, so `--help` and a typing mistake answer at once. `make COMMAND FOLD=0 train.lr=1e-4` comes here too: the Makefile
hands its words over as text (`make_words`).

Exit codes: 0 done; 2 an error that the user can fix, in one line; 1 a defect of ours, with its traceback; 130 stopped by Ctrl-C;
143 stopped by SIGTERM.
"""

import errno
import functools
import importlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer import Argument, Option
from typer.core import TyperGroup
from typer.exceptions import TyperException

from pawpularity import __version__
from pawpularity.command_line import make_words, spread
from pawpularity.console import Progress, show_full
from pawpularity.errors import UserError, nearest, printable
from pawpularity.signals import Stopped, terminable

# Set before the imports that read them. Nothing connects to a network unless the user asks for it, and threads that wait
# sleep instead of spinning: on two cores shared with another program an epoch then takes 3 s instead of 10.
ENVIRONMENT = {
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "ALBUMENTATIONS_NO_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}

START, TRAIN, EVALUATE, EXPLAIN = "Start here", "Train and search", "Evaluate", "Explain"
SUBMIT, SHARE, STUDY, HOUSE = "Submit", "Share", "Studies", "Housekeeping"

app = typer.Typer(
    name="pawpularity",
    help="Predict how popular a shelter pet's photo will be, with out-of-fold figures that can be trusted.",
    epilog="Settings are words key=value, such as train.lr=3e-4; configs/default.yaml lists them. "
    "make COMMAND FOLD=0 CONFIG=densenet161 is pawpularity COMMAND --fold 0 --config densenet161.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

Config = Annotated[
    str | None, Option(metavar="NAME", help="configs/NAME.yaml; of several, comma-separated, later ones override.")
]
Data = Annotated[str | None, Option(metavar="DIR", help="A folder in Kaggle's layout, or a CSV of labels.")]
Run = Annotated[str | None, Option(metavar="NAME", help="The run's folder below oof/ (default: the config's name).")]
Settings = Annotated[list[str] | None, Option("--set", metavar="key=value", help="A setting; --set may be left out.")]
Json = Annotated[str | None, Option(metavar="FILE", help="Also write the result as JSON (- prints only that).")]
Full = Annotated[bool, Option("--full", help="Print the whole result, not the first lines.")]
Folds = Annotated[Path | None, Option(metavar="FILE", help="A folds file: which rows of CSVs are near-duplicates.")]
Scale = Annotated[float | None, Option(metavar="100", help="Multiply columns on another scale by it (0-1: 100).")]
Yes = Annotated[bool, Option("--yes", help="Do not ask.")]
Go = Annotated[bool, Option("--go", help="Do it; without this the steps are only shown.")]
User = Annotated[str | None, Option(metavar="NAME", help="Your user name on Kaggle.")]
Kernel = Annotated[str, Option(metavar="NAME", help="inference, or train-RUN.")]
Storage = Annotated[
    str | None, Option(metavar="URL", help="postgresql://USER:PASSWORD@HOST/DATABASE, for several machines.")
]
Wait = Annotated[
    float | None, Option(metavar="MINUTES", min=0, max=1440, help="Wait at most this long for the kernel to end.")
]

TARGETS: dict[str, str] = {}
"""For every command the module and function that does its work."""


def command(
    group: str, target: str, example: str, name: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare a command whose work is done by `target` (`module.function` below pawpularity).

    The target gets the command's options by name. If its first argument is `context`, it gets a Context resolved from --config,
    --data, --run and the settings.
    """

    def declare(function: Callable[..., None]) -> Callable[..., None]:
        word = name or function.__name__.replace("_", "-")
        TARGETS[word] = target
        lists = [
            key for key, param in inspect.signature(function).parameters.items() if "list[str]" in str(param.annotation)
        ]

        @functools.wraps(function)
        def run(**options: Any) -> None:
            show_full(options.pop("full", True))
            module, _, attribute = target.rpartition(".")
            options |= {key: [] for key in lists if options[key] is None}
            if not (options.get("json") or "-").endswith(("-", ".json")):
                raise UserError(
                    f"--json {options['json']}: must end in .json, so that it replaces no other file; - prints it"
                )
            with Progress(None, "loading"):
                work = getattr(importlib.import_module(f"pawpularity.{module}"), attribute)
            parameters = inspect.signature(work).parameters
            if "context" not in parameters:
                work(**options)
                return
            from pawpularity.context import context

            chosen = {key: options[key] for key in ("config", "data", "run", "settings") if key in options}
            rest = {key: value for key, value in options.items() if key not in chosen or key in parameters}
            work(context(**chosen), **rest)

        app.command(word, rich_help_panel=group, epilog=f"Example: {example}")(run)
        return run

    return declare


def Flag(name: str, about: str) -> Any:
    """A switch, off by default."""
    return Option(name, help=about)


# --- Start here -------------------------------------------------------------------------------------------------------


@command(START, "pipeline.compete.paper", "make all YES=1", name="all")
def all_(
    yes: Yes = False,
    config: Config = None,
    data: Data = None,
    settings: Settings = None,
    full: Full = False,
    json: Json = None,
) -> None:
    """The paper's four backbones, maps, a blend, a submission and a checked kernel; estimates the time first and asks."""


@command(START, "pipeline.compete.compete", "make compete PRESET=laptop")
def compete(
    preset: Annotated[str, Option(metavar="NAME", help="paper, laptop, gpu or kaggle.")] = "paper",
    yes: Yes = False, config: Config = None, data: Data = None, settings: Settings = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """Heads on encoders, fine-tuned networks, their blend, a submission and a checked kernel in one go."""


@command(START, "kaggle.download.data", "make data")
def data(into: Annotated[str | None, Option(metavar="DIR", help="Where to put it.")] = None) -> None:
    """Download the competition's data (accept its rules on Kaggle first)."""


@command(START, "sample.draw.sample", "pawpularity sample --photos 60 --seed 7 --into input/seven")
def sample(
    photos: Annotated[int, Option(metavar="N", min=1, max=100_000, help="Photos in train.csv.")] = 600,
    test_photos: Annotated[int, Option(metavar="N", min=1, max=100_000, help="Photos in test.csv.")] = 8,
    size: Annotated[int, Option(metavar="PX", min=48, max=1024, help="Longer side in pixels.")] = 160,
    seed: Annotated[int, Option(min=0, help="Another seed draws other photos.")] = 0,
    pairs: Annotated[
        int, Option(metavar="N", min=0, max=1000, help="Counterfactual pairs per part: with and without it.")
    ] = 0,
    into: Annotated[str, Option(metavar="DIR", help="A new folder.")] = "input/sample",
) -> None:
    """Draw the sample: photos of cats and dogs whose scores follow a known rule."""


# --- Train and search -------------------------------------------------------------------------------------------------


@command(TRAIN, "pipeline.seeds.train", "make train FOLD=0 CONFIG=densenet161 train.lr=3e-4")
def train(
    fold: Annotated[int | None, Option(metavar="K", help="Train this fold again (default: every fold not trained yet).")] = None,
    jobs: Annotated[int | None, Option(metavar="N", min=1, help="Train N folds side by side.")] = None,
    processes: Annotated[int | None, Option(metavar="N", min=1, help="Share every fold among N GPUs or CPU processes.")] = None,
    fresh: Annotated[bool, Flag("--fresh", "Ignore checkpoints of folds that were stopped half way.")] = False,
    skip_taken: Annotated[bool, Flag("--skip-taken", "Skip folds that are trained or being trained elsewhere.")] = False,
    seeds: Annotated[list[str] | None, Option(metavar="N", help="Train several seeds, and blend them (SEEDS=\"0 1 2\").")] = None,
    run: Run = None, config: Config = None, data: Data = None, settings: Settings = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """Train a fold, or all that are missing, and print the out-of-fold RMSE beside the constant."""


@command(TRAIN, "tuning.command.tune", "make tune CONFIG=densenet161 TRIALS=50 WORKERS=2")
def tune(
    trials: Annotated[int | None, Option(metavar="N", help="Trials in all (search.trials).")] = None,
    workers: Annotated[int, Option(metavar="N", help="Processes on this machine.")] = 1,
    storage: Storage = None,
    search_only: Annotated[bool, Flag("--search-only", "Run trials, and leave the rescoring to another worker.")] = False,
    run: Run = None, config: Config = None, data: Data = None, settings: Settings = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """Search settings on one fold's inner split, then score the best on all folds, cross-fitted."""


@command(TRAIN, "tuning.command.study", "make study RUN=densenet161")
def study(
    study: Annotated[str, Argument(metavar="RUN", help="The study's name.")],
    storage: Storage = None,
    full: Full = False,
    json: Json = None,
) -> None:
    """Show a search: best trials, importances, what depth costs; plots as PNG and HTML."""


@command(TRAIN, "heads.command.heads", 'make heads ENCODERS="classic" HEADS="ridge svr"')
def heads(
    encoders: Annotated[list[str] | None, Option(metavar="NAME", help="Lists (configs/encoders) or timm names.")] = None,
    features: Annotated[str, Option(metavar="KIND", help="pooled = before the classifier; logits = its answers.")] = "pooled",
    heads: Annotated[list[str] | None, Option(metavar="HEAD", help="ridge, forward, kernel-ridge, svr, boosting, tabpfn.")] = None,
    metadata: Annotated[str, Option(metavar="USE", help="The twelve columns beside the features: use, none or both.")] = "both",
    run: Run = None, config: Config = None, data: Data = None, settings: Settings = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """Ridge, SVR and others on the frozen features of any timm networks: runs that predict and ship."""


@command(TRAIN, "training.augment_preview.augment_preview", "make augment-preview AUGMENT=strong")
def augment_preview(
    augment: Annotated[str | None, Option(metavar="NAME", help="As train.augment: NAME of configs/augment/, or a file.")] = None,
    n: Annotated[int, Option("--n", metavar="N", min=1, max=50, help="Photos.")] = 6,
    config: Config = None, data: Data = None, settings: Settings = None,
) -> None:  # fmt: skip
    """Show what augmentation makes of a few photos, epoch by epoch: oof/augment/NAME.png."""


@command(TRAIN, "context.folds", "make folds DATA=input/mine")
def folds(config: Config = None, data: Data = None, settings: Settings = None, json: Json = None) -> None:
    """Make the folds file: near-duplicates grouped, scores stratified."""


@command(TRAIN, "pipeline.jobs.jobs", 'pawpularity jobs --configs "densenet161 resnet152" --seeds "0 1"')
def jobs(
    configs: Annotated[str | None, Option(metavar='"A B"', help="Several configurations.")] = None,
    seeds: Annotated[str | None, Option(metavar='"0 1"', help="train.seed of each run.")] = None,
    folds: Annotated[str | None, Option(metavar='"0 1"', help="These folds only.")] = None,
    fresh: Annotated[bool, Flag("--fresh", "Jobs ignore checkpoints.")] = False,
    run: Run = None, config: Config = None, data: Data = None, settings: Settings = None,
) -> None:  # fmt: skip
    """Print a shell line for every fold, config and seed not trained yet, for any scheduler."""


# --- Evaluate ---------------------------------------------------------------------------------------------------------


@command(EVALUATE, "evaluation.leaderboard.oof", "make oof RUN=densenet161")
def oof(
    runs: Annotated[list[str] | None, Argument(metavar="RUN", help="Runs or out-of-fold CSVs; a single one in detail.")] = None,
    data: Annotated[Path | None, Option(metavar="DIR", help="Data of the CSVs (default: found by their Ids).")] = None,
    folds: Folds = None, scale: Scale = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """Every run's out-of-fold RMSE, interval, constant and n; one run or CSV in detail."""


@command(EVALUATE, "evaluation.compare.compare_runs", 'make compare RUNS="densenet161 resnet152 theirs.csv"')
def compare(
    runs: Annotated[list[str] | None, Argument(metavar="RUN", help="Runs or CSVs of the same rows, the reference first.")] = None,
    draws: Annotated[int, Option(metavar="N", min=100, max=1_000_000, help="Resamples and sign flips.")] = 10_000,
    folds: Folds = None, scale: Scale = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """Compare runs or CSVs with the first, paired on the same rows: difference, interval, p."""


@command(EVALUATE, "ensemble.ensemble.ensemble", 'make ensemble MEMBERS="densenet161 vgg19_bn theirs.csv"')
def ensemble(
    members: Annotated[list[str] | None, Argument(metavar="MEMBER", help="Runs or CSVs (default: all finished runs).")] = None,
    method: Annotated[
        str | None, Option(metavar="METHOD", help="best, mean, nnls[-intercept], simplex, ridge[-gcv], hill-climb; +affine.")
    ] = None,
    run: Annotated[str, Option(metavar="NAME", help="The blend's folder below oof/.")] = "ensemble",
    seed: Annotated[int, Option(metavar="N", min=0, help="Seed of the resamples.")] = 0,
    draws: Annotated[int, Option(metavar="N", min=100, max=1_000_000, help="Bootstrap resamples.")] = 10_000,
    folds: Folds = None, scale: Scale = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """Blend runs and CSVs: the cross-fitted RMSE of every method, and weights for new photos."""


@command(EVALUATE, "studies.errors.errors", "make errors RUN=densenet161")
def errors(
    source: Annotated[str | None, Argument(metavar="RUN", help="A run or an out-of-fold CSV.")] = None,
    top: Annotated[int, Option(metavar="N", min=1, help="Rows of each side to list.")] = 12,
    draws: Annotated[int, Option(metavar="N", min=100, max=1_000_000, help="Resamples and permutations.")] = 10_000,
    out: Annotated[str | None, Option(metavar="DIR", help="Where to write (default: oof/errors/RUN).")] = None,
    config: Config = None, data: Data = None, settings: Settings = None,
    folds: Folds = None, scale: Scale = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """The largest errors, what they share, and how much label noise explains."""


@command(EVALUATE, "studies.leakcheck.leakcheck", "make leakcheck OOF=theirs.csv PHOTOS=DIR")
def leakcheck(
    oof: Annotated[str, Argument(metavar="OOF", help="A run or an out-of-fold CSV.")],
    photos: Annotated[str | None, Option(metavar="DIR", help="Folder of ID.jpg, to look for near-duplicates.")] = None,
    out: Annotated[str | None, Option(metavar="DIR", help="Where to write (default: oof/leakcheck/NAME).")] = None,
    config: Config = None, data: Data = None, settings: Settings = None,
    folds: Folds = None, scale: Scale = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """Look for signs of leakage in out-of-fold predictions."""


# --- Explain ----------------------------------------------------------------------------------------------------------


@command(EXPLAIN, "explain.command.explain", "make explain RUN=densenet161 N=8")
def explain(
    n: Annotated[int | None, Option("--n", metavar="N", help="Photos of each extreme (8); with --group, photos a side.")] = None,
    masks: Annotated[str | None, Option(metavar="auto", help="RISE's masks a photo: a count, or auto.")] = None,
    photo: Annotated[list[str] | None, Option(metavar="PHOTO", help="Explain these: photo files, or Ids.")] = None,
    group: Annotated[list[str] | None, Option(metavar="GROUP", help="Mean maps of groups: scores, eyes, face, ...; all.")] = None,
    out: Annotated[str | None, Option(metavar="DIR", help="Where to write (default: oof/RUN/explain).")] = None,
    run: Run = None, config: Config = None, data: Data = None, settings: Settings = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """Maps of where scores come from, tested for faithfulness; a gallery."""


@command(EXPLAIN, "coach.command.coach", 'make coach PHOTO="a.jpg b.jpg"')
def coach(
    photos: Annotated[list[str], Argument(metavar="PHOTO", help="Photo files, or a folder, which gives a CSV.")],
    out: Annotated[str | None, Option(metavar="FILE", help="Also write the CSV there.")] = None,
    run: Run = None, config: Config = None, data: Data = None, settings: Settings = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """How well a photo will do, how sure that is, and what to change."""


@command(EXPLAIN, "coach.app.app", "make app", name="app")
def app_(
    host: Annotated[str, Option(metavar="ADDRESS", help="Address to listen on; the default is this machine only.")] = "127.0.0.1",
    port: Annotated[int, Option(metavar="N", min=0, max=65535, help="Port; 0 = any free one.")] = 8501,
    run: Run = None, config: Config = None, data: Data = None, settings: Settings = None,
) -> None:  # fmt: skip
    """The photo coach as a page in the browser."""


@command(EXPLAIN, "studies.robustness.robustness", 'make robustness RUNS="densenet161 resnet152"')
def robustness(
    runs: Annotated[list[str] | None, Option(metavar="NAME", help="Several runs of the same data, side by side.")] = None,
    photos: Annotated[int, Option(metavar="N", min=0, help="Photos drawn at random; 0 = all.")] = 50,
    seed: Annotated[int, Option(metavar="N", min=0, help="Seed of the drawn photos, the noise and the resamples.")] = 0,
    run: Run = None, config: Config = None, data: Data = None, settings: Settings = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """How far attacks and harmless changes move the scores."""


# --- Submit -----------------------------------------------------------------------------------------------------------


@command(SUBMIT, "kaggle.submission.predict", "make predict RUN=densenet161")
def predict(
    out: Annotated[str | None, Option(metavar="FILE", help="The submission (default: submissions/RUN.csv).")] = None,
    run: Run = None, config: Config = None, data: Data = None, settings: Settings = None,
) -> None:  # fmt: skip
    """Score the photos of test.csv: submissions/RUN.csv."""


@command(SUBMIT, "kaggle.kernel.kernel", 'make kernel RUNS="densenet161 resnet152" KAGGLE_USER=you')
def kernel(
    runs: Annotated[list[str] | None, Option(metavar="NAME", help="Trained runs (their mean), or one blend.")] = None,
    user: User = None,
    hours: Annotated[float, Option(metavar="H", help="The kernel's time limit, of Kaggle's 9.")] = 8.5,
    settings: Settings = None,
) -> None:
    """Build the inference kernel and its data set from trained runs."""


@command(SUBMIT, "kaggle.check.kernel_check", "make kernel-check PHOTOS=200")
def kernel_check(
    photos: Annotated[int, Option(metavar="N", help="Test photos to simulate.")] = 500,
    python: Annotated[
        str | None, Option(metavar="PATH", help="Run the script with this Python and its libraries.")
    ] = None,
    full: Full = False,
    json: Json = None,
) -> None:
    """Run the built kernel as Kaggle would: no network, its libraries only, broken photos."""


@command(SUBMIT, "kaggle.push.kernel_push", "make kernel-push GO=1")
def kernel_push(name: Kernel = "inference", user: User = None, go: Go = False, wait: Wait = None) -> None:
    """Upload a built kernel and its data set, and wait for the trial run."""


@command(SUBMIT, "kaggle.watch.kernel_status", "make kernel-status")
def kernel_status(name: Kernel = "inference", user: User = None, wait: Wait = 0.0) -> None:
    """Show the status of a pushed kernel, and the end of its log if it failed."""


@command(SUBMIT, "kaggle.watch.submit", "make submit GO=1")
def submit(
    user: User = None,
    go: Go = False,
    again: Annotated[bool, Flag("--again", "Submit a version that was submitted already.")] = False,
    anyway: Annotated[bool, Flag("--anyway", "Submit runs that were not trained on the contest's photos.")] = False,
) -> None:
    """Submit the pushed kernel to the contest."""


@command(SUBMIT, "kaggle.train_kernel.kernel_train", "make kernel-train CONFIG=densenet161 KAGGLE_USER=you")
def kernel_train(
    folds: Annotated[list[str] | None, Option(metavar="K", help="These folds only (default: all).")] = None,
    hours: Annotated[float, Option(metavar="H", help="Stop and save after this time, of Kaggle's 12.")] = 11.0,
    resume: Annotated[bool, Flag("--resume", "Resume from the output of the kernel's last version.")] = False,
    offline: Annotated[bool, Flag("--offline", "Without internet: put the pretrained weights into the data set.")] = False,
    user: User = None, run: Run = None, config: Config = None, settings: Settings = None,
) -> None:  # fmt: skip
    """Build a kernel that trains a run on Kaggle's GPUs."""


@command(SUBMIT, "kaggle.fetch.kernel_fetch", "make kernel-fetch NAME=train-densenet161 GO=1")
def kernel_fetch(
    name: Kernel = "inference",
    user: User = None,
    go: Go = False,
    zip: Annotated[
        str | None, Option(metavar="FILE", help="An archive downloaded by hand from the kernel's page.")
    ] = None,
) -> None:
    """Download the run that a training kernel trained."""


# --- Share ------------------------------------------------------------------------------------------------------------


@command(SHARE, "report.command.report", 'make report RUNS="densenet161 resnet152"')
def report(
    runs: Annotated[list[str] | None, Option(metavar="RUN", help="Runs or CSVs, the reference first (default: all).")] = None,
    out: Annotated[str | None, Option(metavar="FILE", help="The page (default: oof/report.html).")] = None,
    data: Data = None, folds: Folds = None, scale: Scale = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """Write the results of all runs and commands to one page that works offline: oof/report.html."""


@command(SHARE, "studies.checklist.checklist", "make checklist")
def checklist(
    runs: Annotated[list[str] | None, Option(metavar="RUN", help="Runs below oof/ (default: all).")] = None,
    full: Full = False,
    json: Json = None,
) -> None:
    """The reproducibility checklist of runs, every answer with its file: oof/checklist.md."""


# --- Studies ----------------------------------------------------------------------------------------------------------


@command(STUDY, "studies.leakage.leakage", "make leakage LABELS=input/train.csv")
def leakage(
    labels: Annotated[str | None, Option(metavar="CSV", help="Replay the split from this table alone.")] = None,
    copies: Annotated[str, Option(metavar="RULE", help="authors (their code), paper (their text) or none.")] = "authors",
    replay_only: Annotated[bool, Flag("--replay-only", "Train no network, even where there are photos.")] = False,
    answers: Annotated[str | None, Option(metavar="CSV", help="Also write the predictions made from labels alone.")] = None,
    config: Config = None, data: Data = None, settings: Settings = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """Replay the paper's leak from labels, then train a network the leaky and the honest way."""


@command(STUDY, "studies.table1.table1", 'make table1 BACKBONES="densenet161 vgg19_bn"')
def table1(
    backbones: Annotated[list[str] | None, Option(metavar="NAME", help="Some of the four (default: all).")] = None,
    copies: Annotated[list[str] | None, Option(metavar="RULE", help="Some of none, paper, authors (default: all).")] = None,
    data: Data = None, settings: Settings = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """The paper's Table 1: four backbones x copies x honest and leaky splits; resumable."""


@command(STUDY, "studies.hypotheses.hypotheses", "make hypotheses RUN=densenet161")
def hypotheses(
    run: Annotated[str | None, Option(metavar="RUN", help="Also test the predictions of this run or CSV.")] = None,
    draws: Annotated[int, Option(metavar="N", min=100, max=1_000_000, help="Bootstrap resamples and permutations.")] = 10_000,
    margin: Annotated[float | None, Option(metavar="POINTS", help="Effects within +-POINTS are too small to matter.")] = None,
    out: Annotated[str | None, Option(metavar="DIR", help="Where to write (default: oof/hypotheses/DATA).")] = None,
    config: Config = None, data: Data = None, settings: Settings = None, scale: Scale = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """The paper's five hypotheses on the true scores: effect, interval, Holm p, verdict."""


@command(STUDY, "pipeline.mlebench.mlebench", "make mlebench CONFIG=densenet161")
def mlebench(
    submission: Annotated[Path | None, Option(metavar="FILE", help="Grade this file instead of training.")] = None,
    run: Run = None, config: Config = None, data: Data = None, settings: Settings = None, json: Json = None,
) -> None:  # fmt: skip
    """Train and grade on MLE-bench's split of the contest: 992 hidden photos, the medals' lines beside it."""


@command(STUDY, "studies.known_truth.known_truth", "make known-truth RUN=sample")
def known_truth(
    pairs: Annotated[str | None, Option(metavar="DIR", help="Counterfactual pairs drawn by: pawpularity sample --pairs.")] = None,
    masks: Annotated[str | None, Option(metavar="auto", help="RISE's masks a photo: a count, or auto.")] = None,
    out: Annotated[str | None, Option(metavar="DIR", help="Folder of the maps (default: oof/RUN/explain).")] = None,
    run: Run = None, config: Config = None, data: Data = None, settings: Settings = None, full: Full = False, json: Json = None,
) -> None:  # fmt: skip
    """Drawn photos: do maps find the parts that are known to change the score?"""


@command(STUDY, "studies.benchmark.bench", "make bench BENCH=all")
def bench(
    what: Annotated[
        str, Option(metavar="WHAT", help="train, predict, cache, search, rise; all = the first three.")
    ] = "train",
    backbones: Annotated[
        list[str] | None,
        Option(metavar="NAME", help="Configs (default: the paper's four; search: sample); rise: a timm name."),
    ] = None,
    unfrozen: Annotated[int | None, Option(metavar="N", min=0, help="Tensors trained.")] = None,
    photos: Annotated[
        int | None, Option(metavar="N", min=32, help="Photos to draw (default: 64; search: 600).")
    ] = None,
    repeats: Annotated[int | None, Option(metavar="N", min=1, help="Timed repeats (default: 3; search: 1).")] = None,
    trials: Annotated[int, Option(metavar="N", min=2, help="search: trials.")] = 50,
    data: Annotated[str | None, Option(metavar="DIR", help="rise: photos to explain (default: drawn).")] = None,
    weights: Annotated[str | None, Option(metavar="DIR", help="rise: weights of mobilenetv2_100.")] = None,
    maps: Annotated[int, Option(metavar="N", min=1, help="rise: photos to explain.")] = 16,
    out: Annotated[str | None, Option(metavar="DIR", help="Also write DIR/WHAT-DEVICE.csv.")] = None,
    full: Full = False,
    json: Json = None,
) -> None:
    """Time this project against plain implementations, on this machine."""


@command(STUDY, "studies.pretrain.pretrain", "pawpularity pretrain --out mine.safetensors")
def pretrain(
    out: Annotated[str | None, Option(metavar="FILE", help="The file to write (default: the packaged one).")] = None,
    photos: Annotated[int, Option(metavar="N", min=2, max=100_000, help="Photos to learn from.")] = 5000,
    epochs: Annotated[int, Option(metavar="N", min=1, max=1000, help="Passes over them.")] = 15,
    seed: Annotated[int, Option(metavar="N", min=0, help="Seed of the drawn photos and of the training.")] = 1001,
) -> None:
    """Train the packaged network of model.weights=drawn again."""


# --- Housekeeping -----------------------------------------------------------------------------------------------------


@command(HOUSE, "data.clean_cache.clean_cache", "make clean-cache YES=1")
def clean_cache(
    folder: Annotated[Path, Option(metavar="DIR", help="The cache folder.")] = Path(".cache"), yes: Yes = False
) -> None:
    """Show what the cache holds, then delete it."""


# --- Running a command ------------------------------------------------------------------------------------------------


@app.callback(invoke_without_command=True)
def _top(context: typer.Context, version: Annotated[bool, Flag("--version", "Show the version.")] = False) -> None:
    if version:
        print(f"pawpularity {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def commands_text() -> str:
    """Every command by group, as `make help` shows them; docs/commands.txt is this text."""
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    lines = [
        "make COMMAND [FOLD=0] [CONFIG=densenet161] [DATA=DIR] [RUN=name] [key=value ...]    (options: make COMMAND ARGS=--help)"
    ]
    for group in (START, TRAIN, EVALUATE, EXPLAIN, SUBMIT, SHARE, STUDY, HOUSE):
        lines += ["", group]
        for name, command in root.commands.items():
            if getattr(command, "rich_help_panel", None) == group:
                lines.append(f"  {name:15s} {command.help}")
    lines += ["  setup           Make .venv and install the project with its tested versions.",
              "  test            Run the tests (SLOW=1: also those over ten seconds; ARGS=\"-k folds\": some).",
              "  test-oldest     Run the prediction tests with the oldest supported libraries.",
              "  lint            Run ruff, mypy and the check of import layers."]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # else printing an Id that the terminal cannot show fails
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with terminable():
            _run(words)
    except KeyboardInterrupt as stop:
        line = str(stop) or "Stopped. Finished work is saved; run the same command to resume."
        print(f"pawpularity: {printable(line)}", file=sys.stderr)
        return stop.exit_code if isinstance(stop, Stopped) else 130
    except BrokenPipeError:  # the reader (head, less) went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, TyperException, OSError, MemoryError, RuntimeError) as error:
        line = _line(error)
        if not line:
            raise
        print(f"pawpularity: {printable(line)}", file=sys.stderr)
        return 2
    return 0


def entry() -> NoReturn:
    """The `pawpularity` program."""
    sys.exit(main())


def _run(words: list[str]) -> None:
    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    if words[:1] == ["probe"] or words[:2] == ["--make", "probe"]:
        raise UserError("probe: is called heads now: make heads ENCODERS=... HEADS=...")
    if words[:1] == ["--make"]:
        words = make_words(root, words[1], os.environ.get("MAKEFLAGS", ""))
    if words and words[0] in root.commands:
        words = [words[0], *spread(root.commands[words[0]], words[1:])]
    elif words and not words[0].startswith("-"):
        raise UserError(f'there is no command "{words[0]}"{nearest(words[0], root.commands)}')
    if "_PAWPULARITY_COMPLETE" in os.environ:  # the shell asks for completions
        root.main(words, prog_name="pawpularity")
    try:
        with root.make_context("pawpularity", words) as context:
            root.invoke(context)
    except typer.Exit:  # --help
        return


def _line(error: Exception) -> str:
    """The line for an error that the user can fix; empty for a defect of ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        return f"{error.format_message()} See: {context.command_path if context else 'pawpularity'} --help"
    text = str(error)
    if "Too many open files" in text:  # also as a RuntimeError of torch, and wrapped by a process that prepares photos
        return "too many open files for this shell; raise its limit (ulimit -n 4096), or lower train.workers"
    if isinstance(error, OSError):
        return _os_error_line(error)
    if text.startswith("DataLoader worker (pid"):
        return "a process that prepares photos was killed, most likely for lack of memory; lower train.workers, and run again"
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        return "not enough memory; lower train.batch_size (or explain.batch_size, photos.size), or close other programs"
    return ""


NO_MEMORY = re.compile(
    r"out of memory|not enough memory|can't allocate memory|Insufficient memory|CUBLAS_STATUS_ALLOC_FAILED"
)


def _os_error_line(error: OSError) -> str:
    if error.errno is None:
        return ""
    where, why = error.filename or "the output", os.strerror(error.errno).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}: no disk space left; free some, and run the same command again"
    if error.errno == errno.ENOENT:
        return f"{where}: {why}; check the name"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}: {why}; make it accessible, or work in another folder"
    return f"{where}: {why}; move it away, or choose another place"
