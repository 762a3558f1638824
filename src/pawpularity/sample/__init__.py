"""The sample shelter: drawn photos whose scores follow a known rule, in Kaggle's layout."""

from pathlib import Path

SAMPLE = Path("input/sample")
