"""Where a step's time goes on the device, kernel by kernel."""

from __future__ import annotations

from torch.profiler import ProfilerActivity, profile

from gpukit.kit import Findings, Kit, network
from gpukit.rates import our_step

NAMED = 24  # kernels


def run(kit: Kit) -> Findings:
    """Profile one step of B0."""
    found = Findings()
    if not kit.gpu:
        return found
    size = 256
    step = our_step(kit, network("efficientnet_b0"), size)
    for _ in range(4):
        step()
    seconds = kit.seconds(step)
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step()
        kit.wait()
    events = [event for event in seen.key_averages() if event.device_type.name == "CUDA"]
    busy = sum(event.device_time_total for event in events) / 1e6
    found.numbers |= {
        "images_per_s": round(size / seconds),
        "step_ms": round(1e3 * seconds, 2),
        "device_busy_ms": round(1e3 * busy, 2),
        "launches": sum(event.count for event in events),
    }
    ranked = sorted(events, key=lambda event: -event.device_time_total)[:NAMED]
    found.numbers["kernels_ms"] = {
        f"{event.count} x {event.key[:90]}": round(event.device_time_total / 1e3, 2) for event in ranked
    }
    return found
