"""Fuzzed readers of configs, override words, weights and bundles: every outcome is a right read or a UserError of one line."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pawpularity.config import resolve
from pawpularity.errors import UserError
from pawpularity.kaggle.contents import open_bundle
from pawpularity.models.weights import _load_plainly, read_tensors
from pawpularity.config import Config

CALM = settings(
    derandomize=True, deadline=None, max_examples=60, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
KEYS = st.sampled_from(
    ["train.lr", "train.epochs", "photos.size", "model.args", "model.backbone", "folds.k", "train.split"]
)
SCALARS = st.one_of(st.text(max_size=12), st.sampled_from(["1e-3", "[", "{a: [1", "${x}", "???", "null", "~", "-1", "1e400",
                    "nan", "9" * 5000, "'", '"', "[[[[", "{1: 2}", "0x10", "!!python/name:os.system"]))  # fmt: skip


def outcome(read: Callable[[], Any]) -> Any:
    """What `read` gave, or None for a UserError of one line; anything else is a failure."""
    try:
        return read()
    except UserError as caught:
        said = str(caught)
    assert len(said.splitlines()) == 1, said
    return None


@CALM
@given(key=st.one_of(KEYS, st.text(max_size=8)), value=SCALARS)
def test_override_words(key: str, value: str) -> None:
    found = outcome(lambda: resolve("", [f"{key}={value}"]))
    assert found is None or isinstance(found, Config)


@CALM
@given(
    raw=st.one_of(
        st.binary(max_size=40), st.builds(lambda k, v: f"{k.replace('.', ': {')}: {v}}}".encode(), KEYS, SCALARS)
    )
)
def test_config_bytes(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(raw)
    found = outcome(lambda: resolve(str(tmp_path / "c.yaml")))
    assert found is None or isinstance(found, Config)


HEADERS = st.recursive(
    st.one_of(st.none(), st.integers(-(2**64), 2**64), st.text(max_size=5), st.sampled_from(["F32", "I8"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]), inner, max_size=4),
    ),
    max_leaves=8,
)


def harmed(whole: bytes, cut: int, at: int, byte: int) -> bytes:
    """`whole` with one byte replaced and its end cut off."""
    changed = bytearray(whole)
    changed[at % len(whole)] = byte
    return bytes(changed[: cut % (len(whole) + 1)] if cut else changed)


@pytest.mark.parametrize("plain", [False, True])
def test_tensors(tmp_path: Path, plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's reader and our plain one, which stands in where the library is not installed, agree on what is legal."""
    good = tmp_path / "good.safetensors"
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(1, dtype=torch.int8)}, good)
    whole, file = good.read_bytes(), tmp_path / "x.safetensors"
    if plain:
        monkeypatch.setattr("pawpularity.models.weights._load", _load_plainly)

    @CALM
    @given(
        raw=st.one_of(
            st.binary(max_size=60),
            st.builds(harmed, st.just(whole), st.integers(0, 400), st.integers(0, 400), st.integers(0, 255)),
            st.builds(lambda h: struct.pack("<Q", len(json.dumps(h))) + json.dumps(h).encode() + bytes(24), HEADERS),
        )
    )
    def readable(raw: bytes) -> None:
        file.write_bytes(raw)
        found = outcome(lambda: read_tensors(file))
        if found is not None and not plain:
            assert found.keys() == load_file(file).keys()

    readable()


def test_bundle_records(tmp_path: Path) -> None:
    """bundle.json and SHA256SUMS of any content: none of them is a bundle."""
    (tmp_path / "SHA256SUMS").touch()

    @CALM
    @given(
        about=st.one_of(st.binary(max_size=30), HEADERS.map(lambda value: json.dumps(value).encode())),
        sums=st.one_of(st.binary(max_size=30), st.text("0af \n./bundle.json", max_size=80).map(str.encode)),
    )
    def refused(about: bytes, sums: bytes) -> None:
        (tmp_path / "bundle.json").write_bytes(about)
        (tmp_path / "SHA256SUMS").write_bytes(sums)
        assert outcome(lambda: open_bundle(tmp_path)) is None

    refused()
