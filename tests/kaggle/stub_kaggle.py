"""A stand-in for Kaggle's own command, version 2.2.4: the same words, options, sentences and exit statuses.

The sentences were recorded by running that version against a local server that answered as Kaggle's would (its functions in
kaggle/api/kaggle_api_extended.py are named beside them). What it "knows" and which faults it plays stand in `state.json`
beside it; what it was asked is added to `calls.jsonl`.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
LOGGED_OUT = """Authentication required to call the Kaggle API.

First, you will need a Kaggle account. You can sign up at
  https://www.kaggle.com/account/login

Recommended: log in with OAuth via a web-based authorization flow.
No token to manage; credentials are cached locally for you.
    kaggle auth login

If you'd rather not use OAuth, generate an API token at
  https://www.kaggle.com/settings/api  (click "Generate New Token" under "API")
and supply it to the CLI in one of these ways:

  Option A: Environment variable
    export KAGGLE_API_TOKEN=xxxxxxxxxxxxxx  # token copied from the settings UI

  Option B: API token file
    Save the token to ~/.kaggle/access_token"""  # print_auth_help
NO_NETWORK = (
    "HTTPSConnectionPool(host='api.kaggle.com', port=443): Max retries exceeded with url: "
    '/v1/kernels.KernelsApiService/GetKernelSessionStatus (Caused by NameResolutionError("HTTPSConnection('
    "host='api.kaggle.com', port=443): Failed to resolve 'api.kaggle.com' ([Errno -2] Name or service not known)\"))"
)
NO_SIX = """Traceback (most recent call last):
  File "/venv/lib/python3.11/site-packages/kaggle/models/upload_file.py", line 22, in <module>
    import six
ModuleNotFoundError: No module named 'six'"""  # a fresh `pip install kaggle` of 2.2.4
SLUG_WARNING = (
    "Your kernel title does not resolve to the specified id. This may result in surprising behavior. We suggest making your "
    "title something that resolves to the specified id. See https://en.wikipedia.org/wiki/Clean_URL#Slug for more information "
    "on how slugs are determined."
)  # kernels_push
OUTDATED = (
    "Warning: Looks like you're using an outdated `kaggle` version (installed: 2.2.4), please consider upgrading to the latest "
    "version (2.9.0)"
)  # _check_response_version


def options() -> argparse.ArgumentParser:
    """The words of `kaggle --help`, as far as they are used: anything else is refused as the real one refuses it."""
    top = argparse.ArgumentParser(prog="kaggle")
    groups = top.add_subparsers(dest="group", required=True)
    made: dict[str, Any] = {}
    for group, verb in (
        ("datasets", "status"), ("datasets", "create"), ("datasets", "version"),
        ("kernels", "push"), ("kernels", "status"), ("kernels", "logs"), ("kernels", "output"), ("competitions", "submit"),
    ):  # fmt: skip
        if group not in made:
            made[group] = groups.add_parser(group).add_subparsers(dest="verb", required=True)
        sub = made[group].add_parser(verb)
        if verb in ("status", "logs", "output"):
            sub.add_argument("what")
        if (group, verb) == ("datasets", "status"):
            sub.add_argument("--format")
        if verb in ("create", "version"):
            sub.add_argument("-p", "--path", required=True)
            sub.add_argument("-r", "--dir-mode", choices=("skip", "zip", "tar"), default="skip")
            sub.add_argument("-q", "--quiet", action="store_true")
        if verb == "create":
            sub.add_argument("-u", "--public", action="store_true")
        if verb == "version":
            sub.add_argument("-m", "--message", required=True)
        if verb == "push":
            sub.add_argument("-p", "--path", required=True)
        if verb == "output":
            sub.add_argument("-p", "--path")
            sub.add_argument("-o", "--force", action="store_true")
            sub.add_argument("--file-pattern")
        if verb == "submit":
            sub.add_argument("competition")
            for short, long in (("-f", "--file"), ("-k", "--kernel"), ("-v", "--version"), ("-m", "--message")):
                sub.add_argument(short, long, required=True)
    return top


def fail(text: str) -> NoReturn:
    """As cli.py does with errors of the server and its own: standard error, status 1."""
    print(text, file=sys.stderr)
    sys.exit(1)


def size(count: int) -> str:
    """File.get_size, for what tests upload."""
    return f"{count}B" if count < 1024 else f"{count // 1024}KB"


def late(state: dict[str, Any]) -> bool:
    """Whether Kaggle still answers for the version before: behind the next push so often as "late" said."""
    return state.get("kernel_version", 0) > 1 and state.get("late_now", 0) > 0


def upload(state: dict[str, Any], folder: Path, mode: str) -> None:
    """upload_files, _upload_file_or_folder, _upload_file"""
    for path in folder.iterdir():
        if path.name in ("dataset-metadata.json", "kernel-metadata.json"):
            continue
        if path.is_dir() and mode == "skip":
            print(f"Skipping folder: {path.name}; use '--dir-mode' to upload folders")
            continue
        name = path.name + (".zip" if path.is_dir() else "")
        print(f"Starting upload for file {name}", flush=True)
        print("\r100%|██████████| 2.00/2.00 [00:00<00:00, 1.01kB/s]", file=sys.stderr)
        if name in state.get("lost", []):
            print(f"Upload unsuccessful: {name}")
        else:
            print(f"Upload successful: {name} ({size(path.stat().st_size)})", flush=True)


def main() -> None:
    file = HERE / "state.json"
    state: dict[str, Any] = json.loads(file.read_text())
    with (HERE / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    if state.get("broken"):
        fail(NO_SIX)
    if sys.argv[1:] == ["--version"]:
        print(state.get("version", "Kaggle CLI 2.2.4"))
        return
    asked = options().parse_args()
    word = f"{asked.group} {asked.verb}"
    if state.get("logged_out"):
        print(LOGGED_OUT)
        sys.exit(1)
    if state.get("warns"):
        print(OUTDATED)
    # "fails": {"kernels push": ["403 ...", ""]}: one entry a call, the last one for ever
    fails = state.get("fails", {}).get(word, [])
    if fails:
        now = fails[0]
        if len(fails) > 1:
            fails.pop(0)
        file.write_text(json.dumps(state))
        if now:
            fail(NO_NETWORK if now == "network" else now)
    says = state.get("says", {}).get(word)
    data, number = state.get("dataset"), state.get("dataset_version", 0)
    if word == "datasets status":
        # dataset_status: a data set that nobody may see answers 403 with this sentence, one that was never made 404.
        if data is None:
            fail(state.get("absent", "Not found"))
        status = state["dataset_status"].pop(0) if len(state["dataset_status"]) > 1 else state["dataset_status"][0]
        file.write_text(json.dumps(state))
        print(
            status if asked.format is None else json.dumps({"status": status, "current_version_number": number}), end=""
        )
    elif word in ("datasets create", "datasets version"):
        folder = Path(asked.path)
        metadata = json.loads((folder / "dataset-metadata.json").read_text())
        first = asked.verb == "create"
        if first and data is not None:  # dataset_create_new: status 0 all the same
            print(f'Dataset creation error: The requested title "{metadata["title"]}" is already in use by a dataset. '
                  "Please choose another title.")  # fmt: skip
            return
        upload(state, folder, asked.dir_mode)
        if cut := state.pop("cut_off", None):  # whoever asked is stopped behind the last file, Kaggle not
            if cut == "made":
                state |= {"dataset": metadata["id"], "dataset_version": number + 1}
                state.setdefault("dataset_status", ["ready"])
            file.write_text(json.dumps(state))
            time.sleep(0.3)
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(30)
        if says is not None:
            print(says)
            return
        state |= {"dataset": metadata["id"], "dataset_version": number + 1}
        state.setdefault("dataset_status", ["ready"])
        file.write_text(json.dumps(state))
        url = f"https://www.kaggle.com/datasets/{metadata['id']}"
        print(f"Your private Dataset is being created. Please check progress at {url}" if first
              else f"Dataset version is being created. Please check progress at {url}")  # fmt: skip
    elif word == "kernels push":
        metadata = json.loads((Path(asked.path) / "kernel-metadata.json").read_text())
        if state.get("slug_warning"):
            print(SLUG_WARNING)
        if says is not None:
            print(says)
            return
        for kind in ("dataset", "competition", "kernel"):  # kernels_push_cli
            if kind in state.get("invalid", []):
                sources = metadata.get(f"{kind}_sources") or ["anna/gone"]
                print(f"The following are not valid {kind} sources and could not be added to the kernel: {sources}")
        state |= {"kernel_version": state.get("kernel_version", 0) + 1, "late_now": state.pop("late", 0)}
        file.write_text(json.dumps(state))
        url = f"https://www.kaggle.com/code/{state.get('lands_at', metadata['id'])}"
        print(f"Kernel version {state['kernel_version']} successfully pushed.  Please check progress at {url}")
    elif word == "kernels status":
        left = state.get("kernel_status", ["COMPLETE"])
        if late(state):
            state["late_now"] -= 1
            status = "COMPLETE"
        else:
            status = left.pop(0) if len(left) > 1 else left[0]
        file.write_text(json.dumps(state))
        print(f'{asked.what} has status "KernelWorkerStatus.{status}"')
        if status == "ERROR" and state.get("failure"):
            print(f'Failure message: "{state["failure"]}"')
    elif word == "kernels logs":
        shown = state.get("kernel_version", 0) - late(state)
        if not shown:  # kernels_logs
            fail(
                f"Cannot access kernel '{asked.what}' (Permission 'kernels.get' was denied). The most likely cause is a wrong "
                "kernel slug. Use the slug from the notebook URL (kaggle.com/code/owner/KERNEL-SLUG)."
            )
        events = [
            {"stream_name": "stderr", "time": shown + 0.1 * n, "data": f"{line}\n"}
            for n, line in enumerate(["starting", *state.get("log", [])])
        ]
        print(json.dumps(events))
    elif word == "kernels output":
        import re

        into = Path(asked.path)
        into.mkdir(parents=True, exist_ok=True)
        left = HERE / ("output_before" if late(state) else "output")
        for path in sorted(left.iterdir()) if left.is_dir() else []:
            if re.search(asked.file_pattern or "", path.name):
                shutil.copy(path, into)
                print(f"Output file downloaded to {into / path.name}")
        log = into / f"{asked.what.split('/')[1]}.log"
        log.write_text("log")
        print(f"Kernel log downloaded to {log} ")
    else:
        # competition_submit_cli: the day's allowance first, the server's sentence last
        print("4 submissions remaining today.")
        print(says if says is not None else "Successfully submitted to PetFinder.my - Pawpularity Contest", end="")


if __name__ == "__main__":
    main()
