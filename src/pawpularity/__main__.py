"""`python -m pawpularity`."""

from pawpularity.cli import entry

if __name__ == "__main__":
    entry()
