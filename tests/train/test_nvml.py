"""What NVML says of a GPU goes into the journal. No GPU is here: the library and torch's device are made up."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from effnet.machine import SHARES_GPU
from effnet.runs import RunFolder
from effnet.train import nvml
from effnet.train.distributed import World
from effnet.train.nvml import find_meter
from effnet.train.state import prepare
from effnet.train.usage import Clock, with_all_energy
from tasks.records.tracking import SYSTEM

CUDA = torch.device("cuda", 0)
UUID = "1a2b3c4d-0000-0000-0000-000000000000"


class Card:
    """The library's answers for two GPUs: torch's cuda:0 is the second one."""

    def __init__(self) -> None:
        self.millijoules, self.busy, self.watts, self.missing = 5_000_000, [40, 80], 300.0, set[str]()

    def module(self) -> ModuleType:
        fake = ModuleType("pynvml")

        class NVMLError(Exception):
            pass

        def answer(name: str, value: Any) -> Any:
            def ask(handle: str, *_: Any) -> Any:
                assert handle == "second"
                if name in self.missing:
                    raise NVMLError("Not Supported")
                return value()

            return ask

        def by_uuid(uuid: str) -> str:
            if "uuid" in self.missing or uuid != f"GPU-{UUID}":
                raise NVMLError("Not Found")
            return "second"

        def by_bus(bus: str) -> str:
            if bus != "00000000:65:00.0":
                raise NVMLError("Not Found")
            return "second"

        def utilization() -> SimpleNamespace:
            return SimpleNamespace(gpu=self.busy.pop(0))

        vars(fake).update(
            NVMLError=NVMLError,
            NVML_TEMPERATURE_GPU=0,
            NVML_CLOCK_SM=1,
            NVML_MEMORY_ERROR_TYPE_UNCORRECTED=1,
            NVML_VOLATILE_ECC=0,
            nvmlInit=lambda: None,
            nvmlDeviceGetHandleByIndex=lambda _number: pytest.fail("asked by number"),
            nvmlDeviceGetHandleByUUID=by_uuid,
            nvmlDeviceGetHandleByPciBusId=by_bus,
            nvmlDeviceGetUtilizationRates=answer("utilization", utilization),
            nvmlDeviceGetPowerUsage=answer("power", lambda: self.watts * 1000),
            nvmlDeviceGetTemperature=answer("temperature", lambda: 61),
            nvmlDeviceGetClockInfo=answer("clock", lambda: 1980),
            nvmlDeviceGetTotalEnergyConsumption=answer("energy", lambda: self.millijoules),
            nvmlDeviceGetTotalEccErrors=answer("ecc", lambda: 2),
        )
        return fake


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    card = Card()
    monkeypatch.setitem(sys.modules, "pynvml", card.module())
    properties = SimpleNamespace(uuid=UUID, pci_domain_id=0, pci_bus_id=0x65, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: 123)
    monkeypatch.setattr(nvml, "LOOK_SECONDS", 0.0)
    monkeypatch.delenv(SHARES_GPU, raising=False)
    return card


def test_numbers_of_an_epoch(card: Card) -> None:
    clock = Clock(time.time(), CUDA)
    clock.begin()
    assert list(clock.waiting(iter("a"))) == ["a"]  # asked for twice: two samples
    card.millijoules += 90_000
    usage = clock.usage(30)
    found = {name: usage[name] for name in usage if name.startswith("gpu_")}
    assert found == {
        "gpu_memory_bytes": 123,
        "gpu_utilization": pytest.approx(0.6),
        "gpu_power_watts": 300.0,
        "gpu_temperature_celsius": 61.0,
        "gpu_sm_clock_mhz": 1980.0,
        "gpu_energy_joules": 90.0,
        "gpu_ecc_errors": 2.0,
    }
    card.busy = [10]
    clock.begin()
    assert clock.usage(30)["gpu_energy_joules"] == 0.0  # each epoch counts for itself
    assert clock.usage(30)["gpu_utilization"] == pytest.approx(0.1)


def test_what_a_gpu_does_not_tell_is_left_out(card: Card) -> None:
    card.missing = {"utilization", "energy", "ecc"}
    meter = find_meter(CUDA)
    assert meter
    assert meter.numbers() == {
        "gpu_power_watts": 300.0,
        "gpu_temperature_celsius": 61.0,
        "gpu_sm_clock_mhz": 1980.0,
    }


def test_the_device_is_found_by_its_bus_where_it_has_no_uuid(card: Card) -> None:
    card.missing = {"uuid"}
    meter = find_meter(CUDA)
    assert meter
    assert meter.numbers()["gpu_power_watts"] == 300.0


def test_energy_of_a_gpu_with_others_on_it_is_nobodys(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHARES_GPU, "1")
    meter = find_meter(CUDA)
    assert meter
    card.millijoules += 1000
    assert "gpu_energy_joules" not in meter.numbers()


@pytest.mark.usefixtures("card")
def test_nothing_is_told_where_the_library_is_missing_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise sys.modules["pynvml"].NVMLError("driver/library version mismatch")

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlInit", broken)
    assert find_meter(CUDA) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_meter(CUDA) is None
    assert "gpu_power_watts" not in Clock(time.time(), CUDA).usage(1)


def test_a_training_that_misses_its_gpu_says_so(run_folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told: list[str] = []
    for named in ("GPU-1a2b3c4d", "", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        training = prepare(run_folder, World(), time.time(), told.append)
        training.train_loader.close()
        training.minival_loader.close()
    assert told == ["is to use GPU-1a2b3c4d, where torch sees no GPU: trains on the CPU (effnet doctor says more)"]


class Ranks:
    """Two ranks, the other of which used 10 J, or measured nothing."""

    def __init__(self, device: str, other: float = 10.0) -> None:
        self.device, self._other = torch.device(device), other

    def sum_(self, tensor: torch.Tensor) -> None:
        tensor += self._other


def test_joules_per_image_are_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda value, dtype, device: real(value, dtype=dtype))  # noqa: ARG005
    usage = {"images_per_second": 1.0, "gpu_energy_joules": 30.0}
    found = with_all_energy(usage, 20, Ranks("cuda"))  # type: ignore[arg-type]
    assert found == {"images_per_second": 1.0, "gpu_energy_joules": 40.0, "joules_per_image": 2.0}
    unknown = with_all_energy(usage, 20, Ranks("cuda", float("nan")))  # type: ignore[arg-type]
    assert unknown == {"images_per_second": 1.0}
    assert with_all_energy({"a": 1.0}, 20, Ranks("cpu")) == {"a": 1.0}  # type: ignore[arg-type]


@pytest.mark.usefixtures("card")
def test_mlflow_shows_them_as_system_metrics() -> None:
    names = {"joules_per_image", *Clock(time.time(), CUDA).usage(1)}
    assert {name for name in names if SYSTEM.get(name) != f"system/{name}"} == set()
