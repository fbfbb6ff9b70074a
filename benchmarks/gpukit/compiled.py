"""B0's training steps per second, ours and timm's compiled by torch.compile, in turn."""

from __future__ import annotations

from gpukit.kit import Findings, Kit
from gpukit.rates import compare


def run(kit: Kit) -> Findings:
    """Measure."""
    found = Findings()
    if kit.gpu:
        found.numbers["efficientnet_b0"] = compare(kit, "efficientnet_b0", 256, compiled=True)
        found.check(
            "B0: at least 1.1 of compiled timm", found.numbers["efficientnet_b0"]["ours_over_timm compiled"] >= 1.1
        )
    return found
