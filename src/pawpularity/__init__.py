"""PetFinder.my Pawpularity: photo and metadata in, a score out of 100 with honest out-of-fold evidence.

Importing the package imports nothing heavy: the modules that need torch load it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pawpularity.predictor import Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]


def __getattr__(name: str) -> object:
    if name == "Predictor":
        from pawpularity.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'pawpularity' has no attribute {name!r}")
