"""Children on the GPUs that are really here: which one each of them sees, and what the driver says of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from effnet.config import LocalCompute
from effnet.errors import MachineError
from effnet.order import Order
from effnet.runs import RunFolder, read_journal
from effnet.train.nvml import find_meter
from tasks.compute import mps
from tasks.compute.here import run_here, run_jobs
from tasks.compute.watch import Watch
from tasks.servers import gpus as listing
from tasks.servers.gpus import VISIBLE, gpus, require_gpus
from tests.tasks.compute.jobs import jobs_in

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

# What a child notes: what it was given, what torch sees, and from when to when it kept its GPU busy.
NOTE = """
import json, torch
begun = time.time()
given, pipes = os.environ.get({visible!r}), os.environ.get({pipes!r})
uuids = [str(torch.cuda.get_device_properties(n).uuid) for n in range(torch.cuda.device_count())]
square = torch.ones(1024, 1024, device="cuda")
while time.time() < begun + {seconds}:
    total = float((square @ square).sum())
noted = dict(given=given, pipes=pipes, uuids=uuids, total=total, begun=begun, ended=time.time())
Path({path!r}).write_text(json.dumps(noted))
"""


def notes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int, need: float | None, per_gpu: int
) -> tuple[list[dict], list[str]]:
    """Return what children that run through the real code note, and what is said of them."""
    make, jobs, said = jobs_in(folder, monkeypatch), [], []
    for child in range(number):
        told = {"visible": VISIBLE, "pipes": mps.PIPES, "seconds": 2.0, "path": str(folder / f"{child}.json")}
        jobs.append(replace(make(f"child {child}", NOTE.format(**told)), need=need))
    run_jobs(jobs, LocalCompute(per_gpu=per_gpu), Watch(print, say=said.append))
    return [json.loads((folder / f"{child}.json").read_text()) for child in range(number)], said


def overlap(one: dict, other: dict) -> bool:
    return one["begun"] < other["ended"] and other["begun"] < one["ended"]


def test_each_child_sees_one_gpu_by_its_uuid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (one, other), said = notes(tmp_path, monkeypatch, 2, None, 1)
    known = {gpu.uuid for gpu in gpus()}
    for child in (one, other):
        assert child["given"].startswith(("GPU-", "MIG-"))
        assert child["given"] in known
        assert len(child["uuids"]) == 1
        assert child["given"].partition("-")[2] == child["uuids"][0]
        assert child["total"] == 1024**3
    if len(known) == 1:
        assert not overlap(one, other)
    else:
        assert one["given"] != other["given"]
        assert overlap(one, other)
    assert said[0].startswith("child 0 on GPU ")


def test_two_share_a_gpu_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gpus()[0]
    monkeypatch.setenv(VISIBLE, first.uuid)
    (one, other), said = notes(tmp_path, monkeypatch, 2, 1e9, 2)
    assert one["given"] == other["given"] == first.uuid
    assert overlap(one, other)
    through_mps = "through NVIDIA MPS" in said[0]
    assert through_mps or "in turns" in said[0]
    assert (one["pipes"] is not None) == through_mps


def test_nvml_nvidia_smi_and_torch_name_the_same_gpus() -> None:
    by_torch = {gpu.uuid for gpu in listing._of_torch(as_set=False)}
    assert by_torch
    for found in (listing._of_nvml(), listing._of_smi()):
        if found is not None and not any(gpu.uuid.startswith("MIG-") for gpu in found):
            assert {gpu.uuid for gpu in found} == by_torch
    for gpu in listing.devices():
        assert gpu.memory > 1e9
        assert gpu.name


def test_looking_and_trying_leave_no_context_in_this_process() -> None:
    code = (
        "import sys; from tasks.servers.gpus import gpus, require_gpus\n"
        "assert gpus(); require_gpus(1)\n"
        "torch = sys.modules.get('torch'); assert torch is None or not torch.cuda.is_initialized()"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(MachineError, match="GPUs here, 99 wanted"):
        require_gpus(99)


def test_a_training_is_on_its_gpu_and_the_journal_says_what_it_did(run_folder: RunFolder) -> None:
    said: list[str] = []
    order = Order(name="train tiny", action="train", runs=(run_folder.key,))
    run_here([order], LocalCompute(), run_folder.store, Watch(print, say=said.append))
    assert said[0].startswith("train tiny on GPU ")
    assert run_folder.trained().environment["device"].startswith("cuda (")
    (*_, line) = read_journal(run_folder.metrics_path)[0]
    assert line["gpu_memory_bytes"] > 0
    pytest.importorskip("pynvml")
    assert line["gpu_power_watts"] > 0
    assert line["gpu_temperature_celsius"] > 0
    assert 0 <= line["gpu_utilization"] <= 1


def test_nvml_sees_the_gpu_that_torch_keeps_busy() -> None:
    pytest.importorskip("pynvml")
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    meter = find_meter(device)
    assert meter
    square, begun = torch.ones(4096, 4096, device=device), time.time()
    while time.time() < begun + 3:
        (square @ square).sum().item()
        meter.look()
    found = meter.numbers()
    assert found["gpu_utilization"] > 0.5
    assert found["gpu_power_watts"] > 10
    if "gpu_energy_joules" in found:
        assert found["gpu_energy_joules"] == pytest.approx(3 * found["gpu_power_watts"], rel=0.5)


def test_a_hidden_gpu_is_given_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "")
    assert gpus() == ()
    make = jobs_in(tmp_path, monkeypatch)
    told = tmp_path / "told"
    line = f"import torch; Path({str(told)!r}).write_text(str(torch.cuda.device_count()) + os.environ[{VISIBLE!r}])"
    run_jobs([make("hidden", line)], LocalCompute(), Watch(print))
    assert told.read_text() == "0"
    assert os.environ[VISIBLE] == ""
