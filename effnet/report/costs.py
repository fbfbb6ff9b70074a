"""What a family took, in one table: trainings, hours of a device, energy and money of each stage, and one total.

Hours are counted as if one device had done everything, one thing after the other: of a GPU, or of one core of a CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from effnet import devices
from effnet.family import FamilyResult
from effnet.forecast.findings import FORECAST, ForecastFindings
from effnet.report.words import counted, hours
from effnet.runs import RunFolder, read_journal, read_value
from effnet.search.findings import FIT, SEARCH, STUDY, FitFindings, SearchFindings, StudyFindings
from effnet.stages import Stage
from effnet.store import Store, publish
from effnet.values import Value

CORE = "one CPU core"
EVALUATE, REGISTER, REPORT = "evaluate", "register members", "write report"
_TIMES = ".times.json"  # in the family's folder
_JOULES_PER_KWH = 3.6e6


class StageCost(NamedTuple):
    """What a stage took."""

    stage: str
    trainings: int
    reused: int  # of these, made by an earlier build
    hours: dict[str, float]  # by device: the name of a GPU, or CORE; empty if it was not measured
    kwh: float | None = None  # of GPUs, as they say themselves; None if none did

    @property
    def dollars(self) -> float | None:
        """What its hours cost on the devices that have a price (effnet.devices); None if none of them has."""
        found = [
            hours * device.dollars_per_hour
            for name, hours in self.hours.items()
            if (device := devices.of_gpu(name)) and device.dollars_per_hour is not None
        ]
        return sum(found) if found else None


class _Times(Value):
    """Seconds of the stages that train nothing."""

    seconds: dict[str, float]


def total(costs: Sequence[StageCost]) -> StageCost:
    """Return what all stages took together: the total that is quoted everywhere."""
    hours: dict[str, float] = {}
    for cost in costs:
        for device, each in cost.hours.items():
            hours[device] = hours.get(device, 0.0) + each
    known = [cost.kwh for cost in costs if cost.kwh is not None]
    return StageCost(
        "all", sum(cost.trainings for cost in costs), sum(cost.reused for cost in costs), hours,
        sum(known) if known else None,
    )  # fmt: skip


def told_hours(cost: StageCost) -> str:
    """Say how much of which device's time, as `12 min of one CPU core`."""
    return ", ".join(f"{hours(time)} of {device}" for device, time in cost.hours.items())


def told_total(costs: Sequence[StageCost]) -> str:
    """Say in a line what a family took in all."""
    whole = total(costs)
    told = f"{counted(whole.trainings, 'training')}, {told_hours(whole) or 'not measured'} in all"
    told += f", {whole.kwh:.3g} kWh of GPUs" if whole.kwh is not None else ""
    return told + (f", {whole.dollars:,.2f} dollars" if whole.dollars is not None else "")


def read_costs(store: Store, family: FamilyResult) -> tuple[StageCost, ...]:
    """Return what every stage of a finished build took, in their order; those that it did not have are left out."""
    folder = store.families / family.key
    stages = {stage: runs for stage, runs in stage_runs(folder, family).items() if runs}
    costs = [_training_cost(store, family.key, stage, runs) for stage, runs in stages.items()]
    on_val = [RunFolder(store.runs / run) for stage, runs in stages.items() if stage.on_val for run in sorted(runs)]
    costs.append(StageCost(EVALUATE, 0, 0, _evaluation_hours(on_val)))
    times = read_value(_Times, folder / _TIMES)
    for stage in (REGISTER, REPORT):
        seconds = times.seconds.get(stage) if times else None
        costs.append(StageCost(stage, 0, 0, {} if seconds is None else {CORE: seconds / 3600}))
    return tuple(costs)


def add_time(folder: Path, stage: str, seconds: float) -> None:
    """Add to the time of a stage that trains nothing, in a family's folder; what a build repeats adds nothing."""
    times = read_value(_Times, folder / _TIMES)
    known = dict(times.seconds) if times else {}
    known[stage] = known.get(stage, 0.0) + seconds
    publish(folder / _TIMES, _Times(seconds=known).model_dump_json().encode())


def stage_runs(folder: Path, family: FamilyResult) -> dict[Stage, set[str]]:
    """Return the keys of the runs of each stage of a build, whose folder holds what its stages found."""
    search, study = read_value(SearchFindings, folder / SEARCH), read_value(StudyFindings, folder / STUDY)
    fit = read_value(FitFindings, folder / FIT)
    forecast = read_value(ForecastFindings, folder / FORECAST)
    networks = [network for found in study.baselines.values() for network in found] if study else []
    study_runs = {run for network in networks for run in network.runs}
    fit_runs = set(fit.runs) if fit else set()
    member_runs = {run for member in family.members for run in member.runs}
    return {
        Stage.SEARCH: {trial.run for trial in (*search.trials, *search.control)} if search else set(),
        Stage.STUDY: study_runs,
        Stage.FIT: fit_runs,
        # What other stages train as well is counted there.
        Stage.FORECAST: (forecast.runs if forecast else set()) - study_runs - fit_runs - member_runs,
        Stage.MEMBER: member_runs,
    }


def _training_cost(store: Store, key: str, stage: Stage, runs: set[str]) -> StageCost:
    hours: dict[str, float] = {}
    reused, joules = 0, list[float]()
    for run in sorted(runs):
        folder = RunFolder(store.runs / run)
        about, lines = folder.about(), read_journal(folder.metrics_path)[0]
        reused += about is not None and about.family != key
        joules += [float(line["gpu_energy_joules"]) for line in lines if line.get("gpu_energy_joules") is not None]
        result = folder.result()
        device, many = _devices(result.environment if result else {})
        seconds = float(lines[-1]["seconds"]) if lines else 0.0
        hours[device] = hours.get(device, 0.0) + many * seconds / 3600
    kwh = sum(joules) / _JOULES_PER_KWH if joules else None
    return StageCost(stage.heading, len(runs), reused, hours, kwh)


def _evaluation_hours(folders: Iterable[RunFolder]) -> dict[str, float]:
    hours: dict[str, float] = {}
    for folder in folders:
        if (evaluation := folder.evaluation()) and evaluation.seconds is not None:
            device, many = _devices(evaluation.environment)
            hours[device] = hours.get(device, 0.0) + many * evaluation.seconds / 3600
    return hours


def _devices(environment: dict[str, str]) -> tuple[str, int]:
    """Return what a training or an evaluation ran on, and how many of it; one core where nothing says."""
    name, ranks = environment.get("device", "cpu"), int(environment.get("ranks", 1))
    if name.startswith("cpu") or not (gpu := name.removeprefix("cuda (").removesuffix(")")):
        return CORE, ranks * int(environment.get("threads", 1))
    return gpu, ranks
