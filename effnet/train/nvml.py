"""What a GPU does during an epoch, as the driver's library says (NVML, extra `gpu`); what it does not say is left out.

Nothing here may end a training: whatever goes wrong with the library means that there is no number.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from effnet.machine import SHARES_GPU

LOOK_SECONDS = 1.0  # between samples: the driver's utilisation is a mean over up to a second


class Meter:
    """Measures one GPU, one epoch at a time.

    Args:
        nvml: the module `pynvml`, initialised.
        handle: its name for the GPU.
        shared: whether other trainings run on the GPU as well, so that its energy is not this one's.
    """

    def __init__(self, nvml: Any, handle: Any, *, shared: bool) -> None:
        self._nvml, self._handle, self._shared = nvml, handle, shared
        # Each with what becomes of its samples.
        self._sampled: dict[str, tuple[Callable[[], float], Callable[[list[float]], float]]] = {
            "gpu_utilization": (lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100, statistics.fmean),
            "gpu_power_watts": (lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000, statistics.fmean),
            "gpu_temperature_celsius": (
                lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
                max,
            ),
            "gpu_sm_clock_mhz": (
                lambda: float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
                statistics.fmean,
            ),
        }
        self.begin()

    def begin(self) -> None:
        """Begin an epoch."""
        self._samples: dict[str, list[float]] = {name: [] for name in self._sampled}
        self._energy, self._looked = self._joules(), time.monotonic()

    def look(self) -> None:
        """Take a sample, if a second has passed since the last one."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._sample()

    def numbers(self) -> dict[str, float]:
        """Return the epoch's numbers so far.

        Utilisation is between 0 and 1, a mean over samples like power (W) and clock (MHz); the temperature (°C) is the
        highest. Energy (J) is the driver's counter's. Errors of the memory that were not corrected are those since the
        driver was loaded.
        """
        if not any(self._samples.values()):
            self._sample()
        found = {name: self._sampled[name][1](samples) for name, samples in self._samples.items() if samples}
        now = self._joules()
        if not self._shared and now is not None and self._energy is not None and now >= self._energy:
            found["gpu_energy_joules"] = now - self._energy
        errors = _asked(self._errors)
        return found | ({} if errors is None else {"gpu_ecc_errors": errors})

    def _sample(self) -> None:
        self._looked = time.monotonic()
        for name, (ask, _) in self._sampled.items():
            if (value := _asked(ask)) is not None:
                self._samples[name].append(value)

    def _errors(self) -> float:
        nvml = self._nvml
        kinds = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        return float(nvml.nvmlDeviceGetTotalEccErrors(self._handle, *kinds))

    def _joules(self) -> float | None:
        """Return what the GPU has used since the driver was loaded; None if it does not count."""
        told = _asked(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        return None if told is None else float(told) / 1000


def find_meter(device: torch.device) -> Meter | None:
    """Return the meter of a CUDA device; None where NVML cannot be had, or does not know the device."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # not installed, no driver, or one that it does not fit
        return None
    properties = torch.cuda.get_device_properties(device)
    if (handle := _handle(pynvml, properties)) is None:
        return None
    return Meter(pynvml, handle, shared=SHARES_GPU in os.environ)


def _handle(nvml: Any, properties: Any) -> Any:
    """Return the library's name for a device; its number means another one where devices are hidden."""
    for prefix in ("GPU-", "MIG-"):
        found = _asked(functools.partial(nvml.nvmlDeviceGetHandleByUUID, f"{prefix}{properties.uuid}"))
        if found is not None:
            return found
    return _asked(lambda: nvml.nvmlDeviceGetHandleByPciBusId(_bus_id(properties)))


def _bus_id(properties: Any) -> str:
    return f"{properties.pci_domain_id:08X}:{properties.pci_bus_id:02X}:{properties.pci_device_id:02X}.0"


def _asked(ask: Callable[[], Any]) -> Any:
    """Return an answer; None if there is none on this GPU."""
    try:
        return ask()
    except Exception:
        return None
