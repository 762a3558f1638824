"""The configuration: frozen dataclasses are the schema (`schema`), YAML files are deltas, `key=value` words win over both.

    configs/default.yaml  <-  configs/densenet161.yaml  <-  configs/paper.yaml  <-  train.lr=3e-4

`resolve("densenet161,paper", ["train.lr=3e-4"])` merges them in that order. A file may start from others with
`base: NAME` (or a comma-separated list). Unknown keys are errors with the nearest valid name, and so are values of the
wrong type or outside their range. The resolved configuration is written into every run as `config.json`.

The meaning of every key stands beside it in `configs/default.yaml`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from pawpularity.errors import UserError, nearest
from pawpularity.schema import Config, check

CONFIGS = "configs"


def config_path(name: str) -> Path:
    """`configs/NAME.yaml` below the current folder, else beside the source tree, or NAME itself if it is a YAML file."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"--config {name}: no such file")
        return path
    roots = [Path(CONFIGS), Path(__file__).resolve().parents[2] / CONFIGS]
    for root in roots:
        path = root / f"{name}.yaml"
        if path.is_file():
            return path
    known = {str(p.relative_to(root).with_suffix("")) for root in roots for p in root.rglob("*.yaml")}
    if not known:
        raise UserError(f"--config {name}: there is no {CONFIGS}/ folder here; run from the repository's top folder")
    raise UserError(f"--config {name}: no such configuration{nearest(name, known - {'default'})}")


def run_name(configs: str) -> str:
    """The run's default name for a `--config` word: `small/vgg,paper` -> `small-vgg-paper`."""
    words = (re.sub(r"\.ya?ml$", "", part.strip()) for part in configs.split(","))
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-.") for word in words if word)


def resolve(configs: str, overrides: Sequence[str] = (), *, validate: bool = True) -> Config:
    """Merge default.yaml, the comma-separated `configs` in order, and `key=value` words into a checked Config.

    Raises UserError naming the file or word, the key, and the nearest valid key.
    """
    from omegaconf import OmegaConf

    tree = _schema()
    for source in [config_path("default"), *_with_bases(configs)]:
        tree = _merge(tree, _read_yaml(source), str(source))
    for word in overrides:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise UserError(f'"{word}": options are written key=value, for example train.lr=3e-4')
        if key in ("name", "base"):
            raise UserError(f"{key}: is not set by hand; use --run for the name, --config for the base")
        if not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", part) for part in key.split(".")):
            raise UserError(f'"{word}": a key is words joined by dots, for example train.lr=3e-4')
        try:
            delta = OmegaConf.from_dotlist([f"{key}={value}"])
        except Exception as error:
            raise UserError(f"{word}: {_first_line(error)}") from None
        tree = _merge(tree, delta, f'"{word}"')
    tree = OmegaConf.merge(tree, {"name": run_name(configs) or "default"})
    config = OmegaConf.to_object(tree)
    assert isinstance(config, Config)
    if validate:
        check(config)
    return config


def from_dict(value: Mapping[str, Any], where: str) -> Config:
    """A Config from the `config` part of a run's config.json. Raises UserError naming `where` and the key."""
    return _of_text(json.dumps(dict(value)), where)


@lru_cache(maxsize=512)
def _of_text(text: str, where: str) -> Config:
    """A command asks for a record's Config again and again, 40 ms each time."""
    from omegaconf import OmegaConf

    tree = _merge(_schema(), OmegaConf.create(json.loads(text)), where)
    config = OmegaConf.to_object(tree)
    assert isinstance(config, Config)
    check(config)
    return config


def _with_bases(configs: str, seen: tuple[str, ...] = ()) -> list[Path]:
    paths: list[Path] = []
    for name in (part.strip() for part in configs.split(",")):
        if not name or name == "default":
            continue
        if name in seen:
            raise UserError(f"--config {name}: its `base` leads back to itself ({' -> '.join([*seen, name])})")
        path = config_path(name)
        base = _read_yaml(path, keep_base=True).get("base")
        if base is not None:
            paths += _with_bases(str(base), (*seen, name))
        paths.append(path)
    return paths


def _read_yaml(path: Path, *, keep_base: bool = False) -> Any:
    from omegaconf import DictConfig, OmegaConf

    try:
        tree = OmegaConf.load(path)
    except Exception as error:
        raise UserError(f"{path}: is not readable YAML ({_first_line(error)})") from None
    if not isinstance(tree, DictConfig):
        raise UserError(f"{path}: must hold keys and values, like configs/densenet161.yaml")
    _refuse_placeholders(OmegaConf.to_container(tree, resolve=False), str(path))
    if not keep_base and "base" in tree:
        del tree["base"]
    return tree


@cache
def _schema() -> Any:
    """The schema's defaults as a tree to merge into: omegaconf 2.3 would refuse that for the sections of a frozen class.

    Made once (33 ms): a merge copies what it merges into.
    """
    from omegaconf import DictConfig, OmegaConf

    tree = OmegaConf.structured(Config)
    for node in (tree, *tree.values()):
        if isinstance(node, DictConfig):
            OmegaConf.set_readonly(node, False)
    return tree


def _merge(tree: Any, delta: Any, where: str) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    _refuse_placeholders(OmegaConf.to_container(delta, resolve=False), where)
    try:
        merged = OmegaConf.merge(tree, delta)
        # `args` of another backbone mean nothing to this one: a delta that names a backbone starts its args afresh.
        named = OmegaConf.select(delta, "model.backbone")
        if named is not None and named != OmegaConf.select(tree, "model.backbone"):
            merged.model.args = OmegaConf.select(delta, "model.args") or {}
        return merged
    except (ConfigKeyError, ConfigAttributeError) as error:
        key = str(error.full_key or error.key)
        parent, _, leaf = key.rpartition(".")
        node = OmegaConf.select(tree, parent) if parent else tree
        valid = [str(name) for name in (node or {})]
        dotted = [f"{parent}.{name}" if parent else name for name in valid]
        raise UserError(
            f"{where}: unknown key {key}{nearest(f'{parent}.{leaf}' if parent else leaf, dotted)}"
        ) from None
    except OmegaConfBaseException as error:
        raise UserError(f"{where}: {error.full_key or 'value'}: {_first_line(error)}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {_first_line(error)}") from None


def _refuse_placeholders(value: Any, where: str) -> None:
    """OmegaConf reads `???` as "keep the old value" and `${...}` as a reference; here both would only be surprises."""
    if isinstance(value, Mapping):
        for item in value.values():
            _refuse_placeholders(item, where)
    elif isinstance(value, list):
        for item in value:
            _refuse_placeholders(item, where)
    elif isinstance(value, str) and ("${" in value or value == "???"):
        raise UserError(f"{where}: {value} is a placeholder; write the value itself")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()
