"""A worker in a process of its own: `worker.py FOLDER URL TRIALS SECONDS [die]`; a trial sleeps and gives (x - 0.3)^2.

URL `-`: the journal in FOLDER. A trial leaves a line in FOLDER/began and, if it lives, in FOLDER/ended. `die`: the worker kills
itself in that moment of its second trial: `unknown` = before it says who runs the trial, `undrawn` = before x is drawn.
"""

import os
import signal
import sys
import time
from pathlib import Path

import optuna

from pawpularity.config import resolve
from pawpularity.tuning.storage import Store
from pawpularity.tuning.study import open_study, work


def main() -> None:
    folder, url, trials, seconds, *die = Path(sys.argv[1]), *sys.argv[2:]
    store = Store(folder, None if url == "-" else url, heartbeat=1)
    study, _ = open_study(store, folder.name, resolve("sample", ["search.pruner=none"]), {}, dict)

    def note(file: str, trial: optuna.Trial, x: float) -> None:
        with (folder / file).open("a") as out:
            out.write(f"{os.getpid()} {trial.number} {x!r}\n")

    def die_in_second(number: int) -> None:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    if die == ["unknown"]:
        ask = optuna.Study.ask

        def asked(study, *args):
            trial = ask(study, *args)
            die_in_second(trial.number)
            return trial

        optuna.Study.ask = asked

    def objective(trial: optuna.Trial) -> float:
        if die == ["undrawn"]:
            die_in_second(trial.number)
        x = trial.suggest_float("x", 0, 1)
        note("began", trial, x)
        time.sleep(float(seconds))
        note("ended", trial, x)
        return (x - 0.3) ** 2

    work(store, study, int(trials), 0, objective, {"x": 0.5})


if __name__ == "__main__":
    main()
