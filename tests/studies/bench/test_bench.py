"""The benchmark's own arithmetic against closed forms, and the real command at toy size."""

import csv
import json
import time
from pathlib import Path

import pytest
import torch

from pawpularity.device import Compute
from pawpularity.studies.benchmark import machine, roofline
from pawpularity.studies.benchmark.machine import PeakMemory, anonymous_mb, bandwidth, side_by_side
from pawpularity.studies.benchmark.roofline import floor_of

CPU = torch.device("cpu")


@pytest.fixture
def known(monkeypatch):
    """A machine of 1 TFLOP/s and 10 GB/s."""
    monkeypatch.setattr(roofline, "matrix_rate", lambda device, dtype: 1e12)
    monkeypatch.setattr(roofline, "bandwidth", lambda device, moved: 1e10)
    monkeypatch.setattr(roofline, "bandwidths", lambda device: {})


def test_floor_of_a_product_and_of_an_addition(known):
    a, b = torch.zeros(512, 512), torch.zeros(512, 512)
    square = floor_of(lambda: torch.mm(a, b), CPU)
    assert square.flops == 2 * 512**3
    assert square.bytes == 3 * 4 * 512**2
    assert square.seconds == pytest.approx(max(2 * 512**3 / 1e12, 3 * 4 * 512**2 / 1e10))
    assert floor_of(lambda: torch.add(a, b), CPU).seconds == pytest.approx(3 * 4 * 512**2 / 1e10)
    row = torch.zeros(1, 512).expand(512, 512)
    assert floor_of(lambda: torch.add(a, row), CPU).bytes == 4 * (2 * 512**2 + 512), "an expanded row is one row"
    assert floor_of(lambda: a.t()[:5].unsqueeze(0), CPU).seconds == 0, "views move nothing"


def test_floor_counts_the_backward_pass(known):
    conv = torch.nn.Conv2d(8, 16, 3, padding=1, bias=False)
    x = torch.zeros(4, 8, 20, 20)
    forward = 2 * 4 * 16 * 20 * 20 * 8 * 9
    assert floor_of(lambda: conv(x), CPU).flops == forward
    both = floor_of(lambda: conv(x.requires_grad_()).sum().backward(), CPU)
    assert both.flops == 3 * forward, "gradients of the photo and of the weights cost a forward each"
    assert both.by_name["convolution_backward"] > 0


def test_bandwidth_takes_the_faster_neighbour(monkeypatch):
    monkeypatch.setattr(machine, "bandwidths", lambda device: {1 << 20: 5.0, 1 << 22: 9.0, 1 << 24: 3.0})
    assert bandwidth(CPU, 1 << 21) == 9.0
    assert bandwidth(CPU, 1 << 23) == 9.0
    assert bandwidth(CPU, 1 << 26) == 3.0
    assert bandwidth(CPU, 1) == 5.0


def test_ways_are_timed_in_turn_and_warm_up_is_not_counted():
    order = []
    timings = side_by_side(
        [lambda: order.append("a"), lambda: order.append("b")],
        Compute(CPU, torch.float32, "here"),
        repeats=3,
        warm_up=2,
    )
    assert order == ["a", "b"] * 5
    assert [len(timing.seconds) for timing in timings] == [3, 3]
    assert machine.Timing((1.0, 4.0, 2.0)).median == 2.0
    assert machine.Timing((1.0, 4.0, 2.0)).spread == 1.5


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="RssAnon is read from /proc")
def test_peak_memory_sees_what_was_held():
    with PeakMemory() as peak:
        held = torch.ones(50_000_000)
        inside = anonymous_mb()
        end = time.monotonic() + 300
        while peak.mb < inside - 5:  # it looks every 20 ms, where the machine lets it
            assert time.monotonic() < end, "what was held was not seen"
            time.sleep(0.02)
        del held
    assert inside > 190
    assert peak.mb >= inside - 5
    assert anonymous_mb() > 0


@pytest.mark.slow
def test_the_command_at_toy_size(work, paw):
    words = ("bench", "--what", "all", "--backbones", "small/densenet161", "--unfrozen", "20", "--photos", "40",
             "--repeats", "2", "--out", "here", "--json", "-")  # fmt: skip
    done = paw(*words)
    assert done.code == 0, done.err
    tables = json.loads(done.out)
    ways = {row["way"]: row for row in tables["train"]}
    assert len(ways) == len(tables["train"]), "whatever the machine computes in"
    assert [name.split()[0] for name in ways] == ["plain", "plain", "trunk", "trunk"]
    slow, warm = ways["plain float32"], ways["trunk warm"]
    assert slow["times_plain_float32"] == 1
    assert warm["images_per_s"] == pytest.approx(1e3 / warm["ms_per_image"])
    assert warm["times_floor"] > 1
    assert tables["predict"][0]["times_one_model"] > 0
    assert [row["way"] for row in tables["cache"]] == ["bare trunk", "from JPEGs", "from decoded photos"]
    profile = {row["operator"]: row for row in tables["profile"]}
    assert profile["all"]["ms_per_image"] == pytest.approx(
        sum(r["ms_per_image"] for o, r in profile.items() if o != "all")
    )
    assert profile["convolution_backward"]["times_floor"] > 1
    for what in ("train", "predict", "cache", "profile"):
        rows = list(csv.DictReader(Path(f"here/{what}-cpu.csv").read_text().splitlines()))
        assert rows[0]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
        assert float(rows[0]["bandwidth_16_mb_gb_s"]) > 0


def test_bench_refuses_too_little(work, refused):
    assert "--photos 32" in refused("bench", "--photos", "3")
    assert "densenet161" in refused("bench", "--backbones", "densenet16")
