"""Cached features equal what the network gives, are computed once, and are never read wrong."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from pawpularity.config import resolve
from pawpularity.data.augment import FLIP, ORIGINAL, RANDOM
from pawpularity.data.photo_cache import Photos
from pawpularity.device import choose
from pawpularity.features import build, store
from pawpularity.features.build import FeatureCache
from pawpularity.features.load import PixelInputs
from pawpularity.models.network import build_network

CPU = choose("float32", "cpu")
SIZE = 32
FLIPS, TURNS = [{"HorizontalFlip": {"p": 0.5}}], [{"VerticalFlip": {"p": 1}}]
NETS = ("small/densenet161", "small/resnet152", "small/vgg19_bn", "small/efficientnet_b7")


@pytest.fixture
def photos():
    pixels = np.random.default_rng(0).integers(0, 256, (90, SIZE, SIZE, 3), dtype=np.uint8)
    return replace(Photos.of(pixels), key="90-photos")


def network(name="small/resnet152", *words):
    return build_network(resolve(name, [f"photos.size={SIZE}", "model.unfrozen=6", *words]), fold=0)


def cache(tmp_path, photos, budget_gb=1.0):
    return FeatureCache(tmp_path / "features", photos, SIZE, budget_gb)


def pairs(rows=90, views=(ORIGINAL,)):
    return np.tile(np.arange(rows), len(views)), np.repeat(np.array(views), rows)


@pytest.fixture
def computed(monkeypatch):
    """The pairs of every call that computes features, counted, and the blocks it starts from."""
    counts, starts, real = [], [], build._fill

    def fill(file, net, compute, part, source, start, progress):
        counts.append(len(part))
        starts.append(start)
        real(file, net, compute, part, source, start, progress)

    monkeypatch.setattr(build, "_fill", fill)
    return counts, starts


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_are_what_the_frozen_part_gives(tmp_path, photos, name, dtype):
    net, compute = network(name), choose(dtype, "cpu")
    rows, views = pairs(views=(ORIGINAL, FLIP, RANDOM + 5))
    file = cache(tmp_path, photos).open(net, compute, rows, views, pipeline=FLIPS)
    read = file.take(file.slots(rows, views))
    seen = PixelInputs(photos, np.arange(90), FLIPS).take(rows, views)
    with torch.inference_mode(), compute.autocast():
        expected, head, whole = net.frozen_features(seen), net.head(read), net(seen)
    assert read.dtype == expected.dtype
    rtol = 1e-4 if dtype == "float32" else 0.05
    torch.testing.assert_close(read, expected, rtol=rtol, atol=rtol * float(expected.float().std()))
    torch.testing.assert_close(head, whole, rtol=0, atol=1e-4 if dtype == "float32" else 0.05)


def test_they_do_not_depend_on_what_else_was_asked_for(tmp_path, photos):
    net = network()
    whole = cache(tmp_path / "a", photos).open(net, CPU, *pairs())
    alone = cache(tmp_path / "b", photos)
    for row in (89, 3, 41):
        at = np.array([row])
        file = alone.open(net, CPU, at, np.array([ORIGINAL]))
        assert torch.equal(file.take(file.slots(at, at * 0)), whole.take(whole.slots(at, at * 0)))


def test_lists_of_transforms_never_share_features(tmp_path, photos):
    """The same numbers of views: each list finds its own pictures behind them, whichever came first."""
    net, one = network(), cache(tmp_path, photos)
    wanted = pairs(8, (ORIGINAL, RANDOM))
    for pipeline in (FLIPS, TURNS, FLIPS):
        file = one.open(net, CPU, *wanted, pipeline=pipeline)
        with torch.inference_mode():
            expected = net.frozen_features(PixelInputs(photos, np.arange(90), pipeline).take(*wanted))
        torch.testing.assert_close(file.take(file.slots(*wanted)), expected, rtol=1e-4, atol=1e-3)


def test_only_what_is_missing_is_computed(tmp_path, photos, computed):
    net, one = network(), cache(tmp_path, photos)
    for rows in (40, 60, 60):
        one.open(net, CPU, *pairs(rows))
    file = cache(tmp_path, photos).open(net, CPU, *pairs(60, (ORIGINAL, FLIP)))
    assert computed[0] == [40, 20, 60]
    assert file.rows_file.stat().st_size == 120 * file.row_bytes


@pytest.mark.parametrize("name", NETS)
def test_a_deeper_block_starts_from_a_shallower_one(tmp_path, photos, name, computed):
    shallow, deep = (network(name, f"model.unfrozen={n}") for n in (12, 3))
    assert 0 < shallow.frozen_blocks < deep.frozen_blocks
    cache(tmp_path, photos).open(shallow, CPU, *pairs(70))
    file = cache(tmp_path, photos).open(deep, CPU, *pairs())
    assert computed == ([70, 70, 20], [0, shallow.frozen_blocks, 0])
    direct = cache(tmp_path / "direct", photos).open(deep, CPU, *pairs())
    assert torch.equal(file.take(file.slots(*pairs())), direct.take(direct.slots(*pairs())))


def test_what_decides_the_features_names_the_file(tmp_path, photos):
    def folder(net, compute=CPU, of=photos):
        return cache(tmp_path, of).open(net, compute, *pairs(8)).folder

    own = folder(network())
    others = [folder(network("small/resnet152", word)) for word in ("train.seed=1", "model.unfrozen=12")]
    others += [folder(network(), choose("bfloat16", "cpu")), folder(network(), of=replace(photos, key="changed"))]
    assert len({own, *others}) == 5
    # What training changes is no part of it: every fold and head shares the file.
    assert folder(network("small/resnet152", "train.lr=1e-4", "model.dropout=0.5")) == own


@pytest.mark.parametrize("harm", ["rows cut short", "index torn", "index gone", "rows gone", "about gone"])
def test_damage_is_found_and_mended(tmp_path, photos, harm, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 1)  # shards of 32 rows
    net = network()
    first = cache(tmp_path, photos).open(net, CPU, *pairs())
    good = first.take(first.slots(*pairs())).clone()
    assert len(first.shards) == 3
    rows, index = first.rows_file, first.folder / "index.jsonl"
    if harm == "rows cut short":
        os.truncate(rows, 50 * first.row_bytes)
    elif harm == "index torn":
        index.write_bytes(index.read_bytes()[:-40] + b"\xff\xfe")
    else:
        {"index gone": index, "rows gone": rows, "about gone": first.folder / "about.json"}[harm].unlink()
    for _ in range(2):  # and it stays mended
        again = cache(tmp_path, photos).open(net, CPU, *pairs())
        assert torch.equal(again.take(again.slots(*pairs())), good)


def test_the_budget_is_kept_and_logged_once(tmp_path, photos, capsys):
    small = cache(tmp_path, photos, budget_gb=1e-5)
    assert [small.open(network(), CPU, *pairs()) for _ in range(2)] == [None, None]
    assert capsys.readouterr().err.count("cache.budget_gb allows") == 1
    assert not list(tmp_path.rglob("features.bin"))
    assert cache(tmp_path, photos, budget_gb=0).open(network(), CPU, *pairs()) is None
    assert cache(tmp_path, photos).open(network("small/resnet152", "model.unfrozen=all"), CPU, *pairs()) is None
    assert cache(tmp_path, photos).open(network(), CPU, *pairs(), build=False) is None
