"""Trunk files: what they hold equals what the network answers, and nothing wrong is ever read from them."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pawpularity.config import resolve
from pawpularity.data.augment import FLIP, ORIGINAL, RANDOM, Augmenter
from pawpularity.data.photo_cache import CachedRows, Photos, photos_of
from pawpularity.device import choose
from pawpularity.errors import UserError
from pawpularity.features import build, store
from pawpularity.features.build import BATCH, Trunks
from pawpularity.features.load import PixelInputs, StateInputs
from pawpularity.models.network import build_network

CPU = choose("float32", "cpu")
SIZE = 32
NETS = ("small/densenet161", "small/resnet152", "small/vgg19_bn", "small/efficientnet_b7")


@pytest.fixture
def photos():
    pixels = np.random.default_rng(0).integers(0, 256, (90, SIZE, SIZE, 3), dtype=np.uint8)
    return replace(Photos.of(pixels), key="90-photos")


def network(name="small/resnet152", *words):
    config = resolve(name, [f"photos.size={SIZE}", "model.unfrozen=6", *words])
    return build_network(config, fold=0)


def trunks(tmp_path, photos, budget_gb=1.0):
    return Trunks(tmp_path / "trunk", photos, SIZE, budget_gb)


def filled(monkeypatch):
    """A list that `fill` will append the number of pairs of every call to."""
    made, real = [], build.fill

    def fill(file, net, compute, part, *rest):
        made.append(len(part))
        real(file, net, compute, part, *rest)

    monkeypatch.setattr(build, "fill", fill)
    return made


def watched_runs(monkeypatch):
    """A list that `run` will append (first block, batch size) of every call to."""
    ran, real = [], build.run

    def run(net, compute, x, start, stop):
        ran.append((start, len(x)))
        return real(net, compute, x, start, stop)

    monkeypatch.setattr(build, "run", run)
    return ran


def pairs(rows=90, views=(ORIGINAL,)):
    return np.tile(np.arange(rows), len(views)), np.repeat(np.array(views), rows)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_are_what_the_trunk_answers(tmp_path, photos, name, dtype):
    net, compute = network(name), choose(dtype, "cpu")
    rows, views = pairs(views=(ORIGINAL, FLIP, RANDOM + 5))
    file = trunks(tmp_path, photos).open(net, compute, rows, views)
    read = file.take(file.slots(rows, views))
    augmenter = Augmenter(SIZE)
    seen = np.stack([
        augmenter.apply(photos.pixels[r], int(v), int(photos.seeds[r])) for r, v in zip(rows, views, strict=True)
    ])  # fmt: skip
    with torch.inference_mode(), compute.autocast():
        expected = net.trunk(torch.from_numpy(seen))
    assert read.dtype == expected.dtype
    assert read.shape == expected.shape
    rtol = 1e-4 if dtype == "float32" else 0.05
    torch.testing.assert_close(read, expected, rtol=rtol, atol=rtol * float(expected.float().std()))
    with torch.inference_mode(), compute.autocast():
        tail, whole = net.tail(read), net(torch.from_numpy(seen))
    torch.testing.assert_close(tail, whole, rtol=0, atol=1e-4 if dtype == "float32" else 0.05)


def test_a_state_does_not_depend_on_what_else_was_asked_for(tmp_path, photos):
    """Alone, or in the middle of 90, or after a resume: the same bytes."""
    net = network()
    whole = trunks(tmp_path / "a", photos).open(net, CPU, *pairs())
    alone = trunks(tmp_path / "b", photos)
    for row in (89, 3, 41):
        at = np.array([row])
        file = alone.open(net, CPU, at, np.array([ORIGINAL]))
        assert torch.equal(file.take(file.slots(at, at * 0)), whole.take(whole.slots(at, at * 0)))


def test_only_what_is_missing_is_computed(tmp_path, photos, monkeypatch):
    net, made = network(), filled(monkeypatch)
    store_ = trunks(tmp_path, photos)
    store_.open(net, CPU, *pairs(40))
    store_.open(net, CPU, *pairs(60))
    store_.open(net, CPU, *pairs(60))
    file = trunks(tmp_path, photos).open(net, CPU, *pairs(60, (ORIGINAL, FLIP)))
    assert made == [40, 20, 60]
    assert file.states_file.stat().st_size == 120 * file.row_bytes, "and only that is kept"


@pytest.mark.parametrize("layout", ["true", "false"])
@pytest.mark.parametrize("name", NETS)
def test_a_deeper_cut_starts_from_a_shallower_one(tmp_path, photos, name, layout, monkeypatch, capsys):
    shallow, deep = (network(name, f"model.unfrozen={n}", f"train.channels_last={layout}") for n in (12, 3))
    assert 0 < shallow.cut < deep.cut
    trunks(tmp_path, photos).open(shallow, CPU, *pairs(70))
    ran = watched_runs(monkeypatch)
    file = trunks(tmp_path, photos).open(deep, CPU, *pairs(90))
    assert "70 of them from kept states at" in capsys.readouterr().err
    assert {start for start, _ in ran} == {0, shallow.cut}, (
        "70 photos go on from the shallower states, 20 start as photos"
    )
    monkeypatch.undo()
    direct = trunks(tmp_path / "direct", photos).open(deep, CPU, *pairs(90))
    assert torch.equal(file.take(file.slots(*pairs(90))), direct.take(direct.slots(*pairs(90))))


def test_other_weights_photos_or_rules_have_other_files(tmp_path, photos):
    folder = {trunks(tmp_path, photos).open(network(), CPU, *pairs(8)).folder}
    folder.add(trunks(tmp_path, photos).open(network("small/resnet152", "train.seed=1"), CPU, *pairs(8)).folder)
    folder.add(trunks(tmp_path, photos).open(network("small/resnet152", "model.unfrozen=12"), CPU, *pairs(8)).folder)
    folder.add(trunks(tmp_path, photos).open(network(), choose("bfloat16", "cpu"), *pairs(8)).folder)
    folder.add(trunks(tmp_path, replace(photos, key="changed")).open(network(), CPU, *pairs(8)).folder)
    assert len(folder) == 5
    # What training changes is no part of it: every fold and seed of the heads reads the same file.
    same = build_network(
        resolve("small/resnet152", [f"photos.size={SIZE}", "model.unfrozen=6", "train.lr=1e-4"]), fold=3
    )
    assert trunks(tmp_path, photos).open(same, CPU, *pairs(8)).folder in folder


HARMS = {"flipped": 32, "cut short": 58, "torn index": 26, "altered index": 32, "no text": 0, "no shard": 0, "index gone": 90,
         "states gone": 90, "about broken": 90, "about empty": 90}  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
def test_damage_is_found_and_mended(tmp_path, photos, harm, monkeypatch, capsys):
    monkeypatch.setattr(store, "SHARD_BYTES", 1)  # shards of 32 rows
    net = network()
    first = trunks(tmp_path, photos).open(net, CPU, *pairs())
    good = first.take(first.slots(*pairs())).clone()
    assert len(first.shards) == 3
    index = first.folder / "index.jsonl"
    if harm == "flipped":
        with first.states_file.open("r+b") as file:
            file.seek(40 * first.row_bytes + 5)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
    elif harm == "cut short":
        os.truncate(first.states_file, 50 * first.row_bytes)
    elif harm == "torn index":
        index.write_text(index.read_text()[:-40])
    elif harm == "altered index":
        index.write_text(index.read_text().replace('"start": 32', '"start": 64'))
    elif harm == "no text":
        index.write_bytes(index.read_bytes() + b"\xff\xfe\x80garbage\n")
    elif harm == "no shard":
        body = '{"start": 0}'
        index.write_text(index.read_text() + f"{zlib.crc32(body.encode()):08x} {body}\n")
    elif harm.startswith("about"):
        (first.folder / "about.json").write_text("{" if harm == "about broken" else "")
    elif harm == "index gone":
        index.unlink()
    else:
        first.states_file.unlink()
    capsys.readouterr()
    made = filled(monkeypatch)
    again = trunks(tmp_path, photos).open(net, CPU, *pairs())
    assert torch.equal(again.take(again.slots(*pairs())), good)
    assert sum(made) == HARMS[harm]
    assert ("1 damaged part(s)" in capsys.readouterr().err) == (harm == "flipped")
    third = trunks(tmp_path, photos).open(net, CPU, *pairs())
    assert torch.equal(third.take(third.slots(*pairs())), good), "and it stays mended"
    assert sum(made) <= 90


def test_damage_while_a_process_runs_is_not_forgotten(tmp_path, photos, monkeypatch):
    """A shard that failed its check is built anew even though the index on disk still vouches for it."""
    net = network()
    first = trunks(tmp_path, photos).open(net, CPU, *pairs())
    good = first.take(first.slots(*pairs())).clone()
    first.states_file.write_bytes(bytes(first.states_file.stat().st_size))
    again = trunks(tmp_path, photos).open(net, CPU, *pairs())
    assert torch.equal(again.take(again.slots(*pairs())), good)


def test_another_version_is_made_anew(tmp_path, photos, monkeypatch, capsys):
    net = network()
    file = trunks(tmp_path, photos).open(net, CPU, *pairs(8))
    about = json.loads((file.folder / "about.json").read_text())
    (file.folder / "about.json").write_text(json.dumps(about | {"version": 0}))
    trunks(tmp_path, photos).open(net, CPU, *pairs(8))
    assert "written by another version" in capsys.readouterr().err
    assert json.loads((file.folder / "about.json").read_text()) == about


def test_the_budget_is_kept_and_said_once(tmp_path, photos, capsys):
    net = network()
    small = trunks(tmp_path, photos, budget_gb=1e-5)
    assert small.open(net, CPU, *pairs()) is None
    assert small.open(net, CPU, *pairs()) is None
    said = capsys.readouterr().err
    assert said.count("cache.budget_gb allows 10.0 kB") == 1
    assert "runs in every epoch" in said
    assert not list(tmp_path.rglob("states.bin"))
    assert trunks(tmp_path, photos, budget_gb=0).open(net, CPU, *pairs()) is None
    assert "cache.budget_gb is 0" in capsys.readouterr().err
    assert trunks(tmp_path, photos).open(network("small/resnet152", "model.unfrozen=all"), CPU, *pairs()) is None


def test_a_full_disk_is_one_line_and_keeps_what_is_there(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 1)
    net = network()
    appended = []

    def full(self, part, rows, real=store.TrunkFile.append):
        if appended:
            raise OSError(28, "No space left on device")
        appended.append(len(part))
        real(self, part, rows)

    monkeypatch.setattr(store.TrunkFile, "append", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        trunks(tmp_path, photos).open(net, CPU, *pairs())
    monkeypatch.undo()
    made = filled(monkeypatch)
    trunks(tmp_path, photos).open(net, CPU, *pairs())
    assert made == [90 - appended[0]]


def test_a_cache_folder_that_cannot_be_made(tmp_path, photos):
    (tmp_path / "trunk").write_text("a file in the way")
    with pytest.raises(UserError, match="cannot be written"):
        trunks(tmp_path, photos).open(network(), CPU, *pairs(8))


def test_space_is_asked_for_before(tmp_path, photos, monkeypatch):
    asked = []
    monkeypatch.setattr(build, "require_space", lambda folder, needed, *_: asked.append(needed))
    file = trunks(tmp_path, photos).open(network(), CPU, *pairs(10))
    assert asked == [10 * file.row_bytes]


def _build_one_shard(folder: Path, pixels: np.ndarray) -> None:
    store.SHARD_BYTES = 1
    real = store.TrunkFile.append

    def once(self, part, rows):
        real(self, part, rows)
        (folder / "one").touch()
        time.sleep(600)  # until it is killed

    store.TrunkFile.append = once
    photos = replace(Photos.of(pixels), key="90-photos")
    torch.set_num_threads(1)
    Trunks(folder / "trunk", photos, SIZE, 1.0).open(network(), CPU, *pairs())


def test_a_killed_build_goes_on_where_it_stopped(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 1)
    process = multiprocessing.get_context("spawn").Process(target=_build_one_shard, args=(tmp_path, photos.pixels))
    process.start()
    deadline = time.monotonic() + 120
    while not (tmp_path / "one").exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(next(tmp_path.rglob("index.jsonl")).read_text().splitlines()) == 1
    made = filled(monkeypatch)
    net = network()
    file = trunks(tmp_path, photos).open(net, CPU, *pairs())
    assert made == [90 - 32]
    direct = trunks(tmp_path / "direct", photos).open(net, CPU, *pairs())
    assert torch.equal(file.take(file.slots(*pairs())), direct.take(direct.slots(*pairs())))


def test_two_builders_do_the_work_once(tmp_path, photos, monkeypatch):
    net, made = network(), []

    def slow(file, n, c, p, *rest, real=build.fill):
        time.sleep(0.3)
        made.append(len(p))
        real(file, n, c, p, *rest)

    monkeypatch.setattr(build, "fill", slow)
    files = []
    builders = [
        threading.Thread(target=lambda: files.append(trunks(tmp_path, photos).open(net, CPU, *pairs())))
        for _ in range(2)
    ]
    for one in builders:
        one.start()
    for one in builders:
        one.join()
    assert made == [90]
    assert torch.equal(files[0].take(files[0].slots(*pairs())), files[1].take(files[1].slots(*pairs())))


def test_a_cache_that_is_deleted_while_it_is_filled(tmp_path, photos, monkeypatch):
    """Another process may already be filling its successor: nothing is written into that."""
    monkeypatch.setattr(store, "SHARD_BYTES", 1)
    real = store.TrunkFile.append

    def append(self, part, rows):
        if self.shards:
            shutil.rmtree(self.folder)
            self.folder.mkdir()
            (self.folder / ".lock").touch()
        real(self, part, rows)

    monkeypatch.setattr(store.TrunkFile, "append", append)
    with pytest.raises(UserError, match="was deleted while it was filled"):
        trunks(tmp_path, photos).open(network(), CPU, *pairs())


def test_a_full_disk_is_not_left_full(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(store, "SHARD_BYTES", 1)
    net = network()
    file = trunks(tmp_path, photos).open(net, CPU, *pairs(32))
    size = file.states_file.stat().st_size
    real_open = Path.open

    class Full:
        def __init__(self, inner):
            self.inner = inner

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.inner.close()

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def write(self, data):
            self.inner.write(bytes(data)[:100])
            raise OSError(28, "No space left on device")

    def opened(self, mode="r", *more, **words):
        inner = real_open(self, mode, *more, **words)
        return Full(inner) if mode == "r+b" else inner

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(UserError, match="No space left"):
        trunks(tmp_path, photos).open(net, CPU, *pairs())
    assert file.states_file.stat().st_size == size


def test_photos_are_decoded_while_the_network_computes(tmp_path):
    """Without a photo cache rows come one after the other; the cache is filled on the way."""
    pixels = np.random.default_rng(1).integers(0, 256, (70, SIZE, SIZE, 3), dtype=np.uint8)
    rows = CachedRows(
        tmp_path / "rows.npy",
        [Path(str(i)) for i in range(70)],
        lambda path: pixels[int(path.name)],
        (SIZE, SIZE, 3),
        "x",
    )
    file = trunks(tmp_path, Photos("k", np.arange(70, dtype=np.uint64), rows)).open(network(), CPU, *pairs(70))
    assert np.array_equal(rows.opened(), pixels)
    whole = trunks(tmp_path / "b", replace(Photos.of(pixels), key="k")).open(network(), CPU, *pairs(70))
    assert torch.equal(file.take(file.slots(*pairs(70))), whole.take(whole.slots(*pairs(70))))


def test_a_bad_photo_ends_the_build(tmp_path):
    paths = [tmp_path / "none.jpg"] * 2
    stream = photos_of(paths, ["0" * 16] * 2, size=SIZE, fit="squash", folder=tmp_path, key="k")
    with pytest.raises(UserError, match="2 of 2"):
        trunks(tmp_path, stream).open(network(), CPU, *pairs(2))


def test_both_inputs_feed_the_same(tmp_path, photos):
    net = network()
    where = np.arange(90)[::-1].copy()  # the table is not in the order of the photo cache
    rows, views = pairs(90, (ORIGINAL, FLIP))
    file = trunks(tmp_path, photos).open(net, CPU, where[rows], views)
    pixels, states = PixelInputs(photos, where), StateInputs(file, where)
    batches = [(np.array([5, 3, 80]), np.array([ORIGINAL, FLIP, FLIP])), (np.array([1, 2]), np.array([FLIP, ORIGINAL]))]
    items = np.arange(90)
    for (x, at), (state, same) in zip(
        pixels.feed(items, batches, 0, False), states.feed(items, batches, 0, False), strict=True
    ):
        assert np.array_equal(at, same)
        with torch.inference_mode():
            torch.testing.assert_close(net.trunk(x), states.state(net, state), rtol=1e-4, atol=1e-4)


def test_batch_is_what_the_kernels_see(tmp_path, photos, monkeypatch):
    ran = watched_runs(monkeypatch)
    trunks(tmp_path, photos).open(network(), CPU, *pairs(45))  # too few to be timed beforehand
    assert {size for _, size in ran} <= {1, BATCH}, "one row finds out the shape, and the rest come in full batches"
