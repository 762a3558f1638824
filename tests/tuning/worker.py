"""A worker in a process of its own: `worker.py FOLDER URL TRIALS SECONDS HOST`; a trial sleeps and gives (x - 0.3)^2.

URL `-`: the journal in FOLDER. HOST `-`: this machine, else one of that name. A trial
leaves a line in FOLDER/began and, if it lives, in FOLDER/ended.
"""

import os
import sys
import time
from pathlib import Path

import optuna

from pawpularity.config import resolve
from pawpularity.tuning import storage
from pawpularity.tuning.storage import Store, signature
from pawpularity.tuning.study import open_study, record_of, work


def note(folder: Path, file: str, line: str) -> None:
    with (folder / file).open("a") as out:
        out.write(f"{line}\n")


def main() -> None:
    folder, url, trials, seconds, host = Path(sys.argv[1]), *sys.argv[2:]
    if host != "-":
        storage.this_host = lambda: host
    store = Store(folder, None if url == "-" else url, heartbeat=1)
    config = resolve("sample", ["search.pruner=none"])
    record = record_of(config, {}, "data", "folds", "weights", 0)
    study, _ = open_study(store, folder.name, config, record, dict, lambda space: None)

    def objective(trial: optuna.Trial) -> float:
        for key, value in signature().items():
            trial.set_user_attr(key, value)
        x = trial.suggest_float("x", 0, 1)
        store.release()
        note(folder, "began", f"{os.getpid()} {trial.number} {x!r}")
        time.sleep(float(seconds))
        note(folder, "ended", f"{os.getpid()} {trial.number} {x!r}")
        return (x - 0.3) ** 2

    work(store, study, int(trials), 0, objective)


if __name__ == "__main__":
    main()
