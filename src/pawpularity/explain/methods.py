"""The methods of making a map, by the names that `explain.methods` takes. A new one is a function here and its line in METHODS.

Pages import this module for names and titles only, so the functions import torch and the rest when they run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pawpularity.config import Explain
from pawpularity.errors import UserError, nearest
from pawpularity.explain.saliency import Saliency

if TYPE_CHECKING:
    from torch import Tensor

    from pawpularity.explain.scored import FoldsMean, PhotoScore


@dataclass(frozen=True)
class Method:
    """One method of making a map."""

    title: str
    """the name in tables and pictures"""
    map_of: Callable[["PhotoScore | FoldsMean", "Tensor", Explain], Saliency]
    """map_of(score, x, settings): the map of one photo.

    `score(batch)` gives unclipped score points, (B,), of inputs (B, 3, H, W). `x` (3, H, W) is the photo's input; zero in it is the
    mean colour, which a hidden place shows. Use `over_folds` for maps that need a network and not only its scores. Raise UserError
    for a network that the method does not work with; the other methods' maps are still made.
    """
    judged_as: str = "its effect"
    """the name of what is judged instead of the map, where `Saliency.effect` is given"""


def _gradient(score: "PhotoScore | FoldsMean", x: "Tensor", settings: Explain) -> Saliency:
    from pawpularity.explain.gradient import gradient
    from pawpularity.explain.scored import over_folds

    smooth, noise, seed = settings.smooth, settings.noise, settings.seed
    return over_folds(score, lambda fold: gradient(fold, x, smooth=smooth, noise=noise, seed=seed))


def _gradcam(score: "PhotoScore | FoldsMean", x: "Tensor", settings: Explain) -> Saliency:
    from pawpularity.explain.gradcam import gradcam
    from pawpularity.explain.scored import over_folds

    return over_folds(score, lambda fold: gradcam(fold, x, settings.layer))


def _rise(score: "PhotoScore | FoldsMean", x: "Tensor", settings: Explain) -> Saliency:
    from pawpularity.explain.rise import rise

    found = rise(score, x, masks=settings.masks, cells=settings.cells, precision=settings.precision, budget=settings.budget,
                 seed=settings.seed, batch_size=settings.batch_size)  # fmt: skip
    return found.saliency()


METHODS: dict[str, Method] = {
    "gradient": Method("gradient", _gradient, judged_as="gradient x (photo - mean colour)"),
    "gradcam": Method("Grad-CAM", _gradcam),
    "rise": Method("RISE", _rise),
}
TITLES = {name: method.title for name, method in METHODS.items()}
ERROR = "RISE's standard error"


def require_methods(names: Sequence[str]) -> None:
    """Raise UserError for a name that METHODS lacks. `config` cannot check this: it may not import this package."""
    for name in names:
        if name not in METHODS:
            raise UserError(f"explain.methods={name}: must be one of {', '.join(METHODS)}{nearest(name, METHODS)}")
