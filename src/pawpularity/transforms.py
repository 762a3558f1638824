"""Random transforms of a photo: a list of albumentations' names and arguments, read, checked and built.

    - HorizontalFlip: {p: 0.5}
    - RandomResizedCrop: {scale: [0.7, 1.0], ratio: [0.85, 1.18], p: 1}

`configs/augment/NAME.yaml` holds such a list. Reading a config puts the list itself into `train.augment`, so runs record what
they were trained with, whatever the file says later. `size`, `height` and `width` are `photos.size` where the list leaves them out.

No other module uses albumentations. It is pinned to 2.0.8, the last MIT release; newer code of that import name is under the
AGPL, so another version is refused. It is imported when a list is checked or an augmentation needs it: prediction does not.
"""

import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping
from functools import cache
from inspect import signature
from typing import Any, cast

import numpy as np

from pawpularity.errors import UserError, nearest

PINNED = "2.0.8"
TRIES = 4
"""How often each list is tried on a photo when it is checked."""
OTHERS = {"metadata_key", "reference_images"}
"""Arguments of transforms that mix a photo with something else."""

Pipeline = list[dict[str, dict[str, Any]]]
"""One dictionary a transform: {name: arguments}."""


def as_pipeline(value: Any, where: str) -> Pipeline:
    """`value`, as YAML gives it, if it is a list of transforms; else UserError, which starts with `where`."""
    if not isinstance(value, list) or not value:
        raise UserError(f"{where}: must be a list of transforms, as configs/augment/strong.yaml is")
    return [_step(item, where) for item in value]


def _step(item: Any, where: str) -> dict[str, dict[str, Any]]:
    step = {item: None} if isinstance(item, str) else item
    if not isinstance(step, dict) or len(step) != 1 or not isinstance(next(iter(step.values())), dict | None):
        raise UserError(f"{where}: {item}: is not a transform; write it like - HorizontalFlip: {{p: 0.5}}")
    ((name, args),) = step.items()
    p = (args or {}).get("p", 1)
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise UserError(f"{where}: {name}: p={p}: must be a number in 0..1")
    return {str(name): {str(key): given for key, given in (args or {}).items()}}


def check_pipeline(pipeline: Pipeline, size: int) -> None:
    """Raise UserError for what albumentations does not know, and for a list that does not turn a photo into one alike.

    Every transform is built and tried on a photo of `size` pixels a side.
    """
    if pipeline:
        _check(json.dumps(pipeline, default=str), size)


@cache
def _check(text: str, size: int) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    steps = [(name, args) for step in json.loads(text) for name, args in step.items()]
    places = [f"train.augment: transform {number}, {name}" for number, (name, _) in enumerate(steps, 1)]
    certain = [_certain(where, name, args, size) for where, (name, args) in zip(places, steps, strict=True)]
    for seed in range(TRIES):
        seen, changed = photo, ""
        for where, transform in zip(places, certain, strict=True):
            transform.set_random_seed(seed)
            before = seen
            try:
                seen = transform(image=before)["image"]
            except Exception as error:  # of another library: any kind
                raise UserError(f"{where}: does not work on a photo alone ({_reason(error)})") from None
            if (seen.shape, seen.dtype) != (before.shape, before.dtype):
                changed = where
        if (seen.shape, seen.dtype) != (photo.shape, photo.dtype):
            raise UserError(f"{changed}: a photo of {_kind(photo)} must stay one, and becomes {_kind(seen)}; leave it out, or add "
                            "Resize behind it")  # fmt: skip


def _kind(photo: Any) -> str:
    return f"{'x'.join(map(str, photo.shape))} {photo.dtype}"


def _certain(where: str, name: str, args: Mapping[str, Any], size: int) -> Any:
    """The transform with `p` 1. Raises UserError for a name or an argument that albumentations does not know, or refuses."""
    library = albumentations()
    if issubclass(getattr(library, name, object), library.BaseCompose):
        raise UserError(f"{where}: holds transforms of its own, which is not supported; list them, each with its p")
    known = {word: one for word, one in vars(library).items()
             if getattr(one, "__module__", "").startswith("albumentations.augmentations.") and isinstance(one, type)}  # fmt: skip
    if name not in known:
        raise UserError(f"{where}: albumentations has no such transform{nearest(name, known)}")
    valid = set(signature(known[name]).parameters)
    if unknown := args.keys() - valid:
        raise UserError(f"{where}: unknown argument {min(unknown)}{nearest(min(unknown), valid)}")
    if valid & OTHERS:
        raise UserError(f"{where}: needs more than the photo itself; take another transform")
    # Without `strict` albumentations may only warn about a wrong value, and take its default.
    strict = {"strict": True} if "InitSchema" in vars(known[name]) else {}
    try:
        return _transform(name, {**args, "p": 1, **strict}, size)
    except Exception as error:  # of another library: any kind
        raise UserError(f"{where}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Why the library refused, in a line; of several reasons the first."""
    errors = getattr(error.__cause__, "errors", None)
    if errors is None:
        return str(error)
    first = errors()[0]
    return ": ".join([*map(str, first["loc"][:1]), first["msg"]])


def build(pipeline: Pipeline, size: int) -> Any:
    """The albumentations pipeline for photos of `size` pixels a side. `pipeline` was checked."""
    transforms = [_transform(name, args, size) for step in pipeline for name, args in step.items()]
    return albumentations().Compose(transforms, seed=0)


def _transform(name: str, args: Mapping[str, Any], size: int) -> Any:
    made = getattr(albumentations(), name)
    usual = {"size": (size, size), "height": size, "width": size}
    takes = signature(made).parameters
    return made(**{**{key: value for key, value in usual.items() if key in takes}, **args})


def albumentations() -> Any:
    """The library. Raises UserError for another version than the pinned one."""
    version = importlib.metadata.version("albumentations")
    if version != PINNED:
        raise UserError(
            f"albumentations {version} is installed; this project uses {PINNED}, the last release under the MIT licence; "
            f"run: pip install albumentations=={PINNED}"
        )
    # Unless this is set before the import, albumentations asks a package registry for its newest version.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # Its part for torch would import torch, which takes seconds; nothing here needs that part.
    cast("dict[str, Any]", sys.modules).setdefault("albumentations.pytorch", None)
    import albumentations as library

    return library
