"""What a family took: one table, one total, in hours of a named device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effnet.arch.spec import Architecture
from effnet.config import FamilyConfig
from effnet.data.shards.manifest import Manifest
from effnet.devices import of_gpu
from effnet.report.costs import (
    CORE,
    REGISTER,
    StageCost,
    add_time,
    read_costs,
    told_hours,
    told_total,
    total,
)
from effnet.report.facts import Facts
from effnet.report.page import markdown
from effnet.runs import About, RunFolder
from effnet.stages import Stage
from effnet.store import Store
from tests.report.made import hits, made_facts, made_page
from tests.report.test_page import words

H100 = "NVIDIA H100 80GB HBM3"


@pytest.fixture
def facts(store: Store, manifest: Manifest, config: FamilyConfig, baseline: Architecture) -> Facts:
    """Two members: one trained with two threads of a CPU, one on two GPUs by another build; both evaluated on a CPU."""
    facts = made_facts(store, manifest, config, baseline, {"B0": [hits(285)], "B1": [hits(288)]})
    devices = {"B0": ("cpu (2 cores)", "2", "1", facts.family.key), "B1": (f"cuda ({H100})", "1", "2", "other")}
    for member in facts.members:
        name = member.result.name
        folder = RunFolder(store.runs / member.result.run_key)
        device, threads, ranks, build = devices[name]
        folder.describe(About(experiment="made", name=name, kind=Stage.MEMBER, labels={}, family=build))
        environment = {"device": device, "threads": threads, "ranks": ranks}
        folder.result_path.write_text(member.run.model_copy(update={"environment": environment}).model_dump_json())
        energy = {"gpu_energy_joules": 1.8e6} if name == "B1" else {}
        lines = [{"epoch": epoch, "seconds": 900 * epoch, **energy} for epoch in (1, 2)]
        folder.metrics_path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        scored = member.evaluation.model_copy(
            update={"seconds": 360.0, "environment": {"device": "cpu", "threads": "1"}}
        )
        folder.evaluation_path.write_text(scored.model_dump_json())
    (store.families / facts.family.key).mkdir(parents=True)
    return facts._replace(folder=store.families / facts.family.key)


def test_each_stage_is_in_hours_of_its_devices_and_all_in_one_total(facts: Facts) -> None:
    add_time(facts.folder, REGISTER, 180)
    add_time(facts.folder, REGISTER, 180)
    members, evaluated, registered, reported = costs = read_costs(facts.store, facts.family)
    assert members.hours == pytest.approx({CORE: 1.0, H100: 1.0})  # half an hour of two threads, of two GPUs
    assert (members.trainings, members.reused, members.kwh) == (2, 1, pytest.approx(1.0))
    assert members.dollars == pytest.approx(4.916)
    assert evaluated.hours == pytest.approx({CORE: 0.2})
    assert registered.hours == pytest.approx({CORE: 0.1})
    assert told_hours(reported) == ""
    whole = total(costs)
    assert whole.hours == pytest.approx({CORE: 1.3, H100: 1.0})
    assert told_total(costs) == (
        f"2 trainings, 1.3 h of one CPU core, 1.0 h of {H100} in all, 1 kWh of GPUs, 4.92 dollars"
    )


def test_the_same_total_is_told_in_the_report_and_in_brief(facts: Facts) -> None:
    facts = facts._replace(costs=read_costs(facts.store, facts.family))
    page, brief = words(made_page(facts)), markdown(facts)
    assert f"Cost {told_total(facts.costs)}." in page
    assert f"Cost: {told_total(facts.costs)}." in brief
    assert f"train members 1.0 h of one CPU core, 1.0 h of {H100} 2 1 1 4.92" in page
    assert "write report not measured – – – –" in page
    assert "Energy was not measured" not in page


def test_what_nobody_measured_or_priced_is_said(facts: Facts) -> None:
    cpu = (StageCost("train members", 2, 0, {CORE: 0.5}),)
    page = words(made_page(facts._replace(costs=cpu)))
    assert "Energy was not measured: GPUs tell theirs, CPUs do not. No price of one CPU core is known." in page
    assert "kWh" not in page
    assert "stage hours of one CPU core trainings reused train members 0.5000 2 0 all 0.5000 2 0" in page
    assert told_total(cpu) == "2 trainings, 30 min of one CPU core in all"


@pytest.mark.parametrize(
    ("name", "device"),
    [
        (H100, "H100 80 GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40 GB"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L40S", None),
        ("NVIDIA H100 PCIe", None),
        (CORE, None),
    ],
)
def test_a_price_is_of_a_gpu_that_is_surely_meant(name: str, device: str | None) -> None:
    found = of_gpu(name)
    assert (found.name if found else None) == device


def test_times_are_no_file_of_the_records(tmp_path: Path) -> None:
    add_time(tmp_path, REGISTER, 1)
    assert [path.name[0] for path in tmp_path.iterdir()] == ["."]
