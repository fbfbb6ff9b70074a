"""Peers measured in turn: what every benchmark here shares."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping


def in_turn(work: Mapping[str, Callable[[], int]], rounds: int, *, warm_up: bool = True) -> dict[str, float]:
    """Return each function's median items per second (it returns how many it did); they take turns."""
    rates: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + warm_up):
        for name, function in work.items():
            start = time.perf_counter()
            items = function()
            if number >= warm_up:
                rates[name].append(items / (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def report(what: str, rates: Mapping[str, float], ours: str = "effnet") -> None:
    """Print one JSON line: rates, and our ratio to each peer."""
    ratios = {f"x_{name}": round(rates[ours] / rate, 2) for name, rate in rates.items() if name != ours}
    values = {name: round(rate, 1) for name, rate in rates.items()}
    print(json.dumps({"what": what, **values, **ratios, "load": round(os.getloadavg()[0], 1)}), flush=True)
