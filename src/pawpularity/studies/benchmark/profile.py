"""Where a tail's step spends its time, operator by operator, each beside its own floor."""

from typing import Any

from torch.profiler import ProfilerActivity, profile

from pawpularity.device import Compute
from pawpularity.features.build import FeatureCache
from pawpularity.studies.benchmark.train import Shelter, Way, settings, with_train

SHOWN = 12
STEPS = 5


def bench_profile(
    name: str, unfrozen: int | None, data: Shelter, compute: Compute, repeats: int, frozen_bn: bool
) -> list[dict[str, Any]]:
    """Rows of the table for one backbone: milliseconds an image of the dearest operators, of the rest, and of all."""
    base = settings(name, unfrozen)
    size = base.photos.size
    photos = data.photos(size, f"profile-{name}")
    trunks = FeatureCache(data.folder / f"profile-{name}" / "features", photos, size, 1e6)
    config = with_train(base, channels_last=True, dtype=compute.dtype_name, frozen_bn=frozen_bn)
    way = Way(config, data.rows(photos, trunks), compute)
    way.open()
    items, step = way.step()
    step()
    floor = way.floor()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if compute.device.type == "cuda" else [])
    steps = STEPS * repeats
    with profile(activities=activities) as found:
        for _ in range(steps):
            step()
    spent: dict[str, tuple[float, int]] = {}
    for event in found.key_averages():
        microseconds = event.self_device_time_total if compute.device.type == "cuda" else event.self_cpu_time_total
        operator = event.key.removeprefix("aten::").rstrip("_") or event.key
        before = spent.get(operator, (0.0, 0))
        spent[operator] = (before[0] + microseconds / 1e3 / steps / items, before[1] + event.count // steps)
    floors: dict[str, float] = {}
    for operator, seconds in floor.by_name.items():
        floors[operator.rstrip("_")] = floors.get(operator.rstrip("_"), 0.0) + 1e3 * seconds / items
    # The profiler names the library's own kernel; the dispatcher the operator it stands for.
    floors["mkldnn_convolution"] = floors.pop("convolution", 0.0)
    total, least = sum(ms for ms, _ in spent.values()), 1e3 * floor.seconds / items
    dearest = sorted(spent, key=lambda operator: -spent[operator][0])[:SHOWN]
    rest = total - sum(spent[operator][0] for operator in dearest)
    lines = [(operator, *spent[operator], floors.get(operator)) for operator in dearest]
    lines += [
        ("the rest", rest, sum(n for o, (_, n) in spent.items() if o not in dearest), None),
        ("all", total, 0, least),
    ]
    return [
        {
            "backbone": name,
            "unfrozen": base.model.unfrozen,
            "device": compute.device.type,
            "dtype": compute.dtype_name,
            "frozen_bn": frozen_bn,
            "operator": operator,
            "calls": calls or None,
            "ms_per_image": ms,
            "share": ms / total,
            "floor_ms": own,
            "times_floor": ms / own if own else None,
        }
        for operator, ms, calls, own in lines
    ]
