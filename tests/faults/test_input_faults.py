"""Whatever configs, networks, weights and images hold: taken or refused, in seconds and in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.faults.counts import show, wanted
from tests.faults.fuzz import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_taken_or_refused(kind: str) -> None:
    number = wanted(60, 20_000 // len(KINDS))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.faults.fuzz", kind, str(number)],
        capture_output=True,
        text=True,
        timeout=200 if number < 1000 else 20_000,
        check=False,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert outcomes["refused"] > number // 10
    show(f"inputs: {kind}", {kind: sum(outcomes.values())}, outcomes)
