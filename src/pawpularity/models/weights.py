"""Weights: find a backbone's pretrained weights, and save and load tensors, strictly.

`model.weights` is `imagenet` (timm's file for the backbone's tag: `input/weights/`, else the Hugging Face cache, else a
download), `drawn` (the packaged network, trained on drawings: `pretrained/NAME.drawn.safetensors`), `none` (random,
seeded), a file, or a folder holding `NAME.TAG.safetensors` or `NAME.safetensors`.
Only safetensors are read and written, never a pickle. A run keeps `head.safetensors` (the trained tensors) per fold. The frozen
part is named by the hash of its tensors, and saved as `frozen.safetensors` only if the run alone can restore it.
"""

import hashlib
import json
import socket
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from pawpularity.errors import UserError
from pawpularity.files import atomic_file

LOCAL_WEIGHTS = Path("input/weights")
PACKAGED = Path(__file__).resolve().parent / "pretrained"
_DRAWN = ".drawn.safetensors"


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """12 hex digits over names, dtypes, shapes and bytes, in name order; the same wherever the tensors came from."""
    digest = hashlib.blake2b(digest_size=6)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def find_weights(backbone: str, weights: str) -> Path | None:
    """The safetensors file that `model.weights` means for `backbone` (timm name with tag); None for random weights.

    Raises UserError saying where to put the file when it is missing; never falls back to a random start.
    """
    if weights == "none":
        return None
    if weights == "imagenet":
        return _imagenet(backbone)
    path = packaged_weights(backbone) if weights == "drawn" else Path(weights)
    if path.is_file():
        return path
    if path.is_dir():
        found = _in_folder(path, backbone)
        if found is None:
            raise UserError(
                f"model.weights={weights}: holds no {' and no '.join(_names(backbone))}; put the file there"
            )
        return found
    if weights == "drawn":
        available = ", ".join(sorted(file.name.removesuffix(_DRAWN) for file in PACKAGED.glob(f"*{_DRAWN}")))
        raise UserError(f"model.weights=drawn: the package has none for {backbone}; it has weights for: {available}")
    raise UserError(f"model.weights={weights}: must be imagenet, none, drawn, a .safetensors file or a folder of them")


def packaged_weights(backbone: str) -> Path:
    """Where the package keeps the net of `backbone` (timm name, with or without tag) that learned from drawings."""
    return PACKAGED / f"{backbone.partition('.')[0]}{_DRAWN}"


def _in_folder(folder: Path, backbone: str) -> Path | None:
    found = [folder / name for name in _names(backbone) if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError(f"model.weights={folder}: holds both {found[0].name} and {found[1].name}; remove one")
    return found[0] if found else None


def _names(backbone: str) -> list[str]:
    return list(dict.fromkeys(f"{name}.safetensors" for name in (backbone, backbone.partition(".")[0])))


def _imagenet(backbone: str) -> Path:
    import timm
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    if LOCAL_WEIGHTS.is_dir() and (local := _in_folder(LOCAL_WEIGHTS, backbone)) is not None:
        return local
    published = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    if published is None or not published.hf_hub_id:
        raise UserError(f"model.weights=imagenet: timm publishes no weights for {backbone}; take a file, or none")
    cached = try_to_load_from_cache(published.hf_hub_id, "model.safetensors")
    if isinstance(cached, str):
        return Path(cached)
    remedy = (
        f"download model.safetensors of {published.hf_hub_id} from huggingface.co elsewhere and put it at "
        f"{LOCAL_WEIGHTS / (backbone + '.safetensors')}, or take model.weights=none for a random start"
    )
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"weights of {backbone} are not here and HF_HUB_OFFLINE is set; {remedy}")
    # Try the host first: the hub's own client retries for tens of seconds before it gives up.
    host = urlsplit(constants.ENDPOINT)
    if not urllib.request.getproxies():
        try:
            socket.create_connection((host.hostname or "huggingface.co", host.port or 443), timeout=5).close()
        except OSError as error:
            raise UserError(f"weights of {backbone} cannot be downloaded ({error}); {remedy}") from None
    try:
        return Path(hf_hub_download(published.hf_hub_id, "model.safetensors"))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"weights of {backbone} cannot be downloaded ({reason}); {remedy}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises UserError when it is missing, damaged, or something else (a pickle)."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; train the run again, or restore the file") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: is damaged, or no safetensors file ({error}); download or make it again") from None


def load_backbone(net: nn.Module, path: Path, classifier: str | tuple[str, ...] | None) -> None:
    """Load `path` into a timm net built with `num_classes=0`, strictly; the file may also hold a classifier."""
    state = read_tensors(path)
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    state = {name: tensor for name, tensor in state.items() if not any(name.startswith(f"{head}.") for head in heads)}
    # Older files hold buffers that the net computes itself, or other names; timm keeps a filter beside each architecture.
    filter_fn = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if filter_fn is not None:
        try:
            state = filter_fn(state, net)
        except (LookupError, AttributeError, RuntimeError, ValueError, TypeError) as error:
            reason = f"timm's filter for its files fails ({type(error).__name__}: {error})"[:200]
            raise UserError(f"{path}: does not fit this network: {reason}; is it for another backbone?") from None
    load_strictly(net, state, path)


def load_strictly(net: nn.Module, state: Mapping[str, Tensor], where: Path | str) -> None:
    """`load_state_dict(strict=True)` whose complaint is one line naming the first tensor that does not fit."""
    own = net.state_dict()
    missing, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [name for name in sorted(own.keys() & state.keys()) if own[name].shape != state[name].shape]
    if missing or foreign or shapes:
        first = [
            *(f"{name} is missing ({len(missing)} in all)" for name in missing),
            *(f"{name} is not in the network ({len(foreign)} in all)" for name in foreign),
            *(f"{name} has shape {tuple(state[name].shape)}, the network {tuple(own[name].shape)}" for name in shapes),
        ][0]
        raise UserError(f"{where}: does not fit this network: {first}; is it for another backbone or other model.args?")
    net.load_state_dict(dict(state), strict=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write a safetensors file whole. Its header holds `about`, which says what the tensors are.

    The header gets one entry only: safetensors writes several in an order that changes from file to file, and the same
    training must give the same bytes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = {"pawpularity": json.dumps(dict(about), sort_keys=True)}
    held: dict[int, str] = {}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    for name, tensor in whole.items():
        if held.setdefault(tensor.untyped_storage().data_ptr(), name) != name:
            whole[name] = tensor.clone()  # safetensors refuses tensors that share memory
    with atomic_file(path) as temporary:
        try:
            save_file(whole, temporary, header)
            temporary.chmod(0o644)  # safetensors makes files that only their owner can read
        except SafetensorError as error:  # raised for a full disk too
            raise UserError(f"{path}: cannot be written ({error}); free disk space, or check the folder") from None
