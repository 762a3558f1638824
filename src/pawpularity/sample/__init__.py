"""The drawn sample: photos of cats and dogs whose scores follow a known rule, in the contest's layout."""

from pathlib import Path

SAMPLE = Path("input/sample")
