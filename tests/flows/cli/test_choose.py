"""effnet choose, on a family whose scores are made up."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from effnet.arch import zoo
from effnet.config import Recipe
from effnet.family import FamilyResult, MemberResult
from effnet.hits import keep_hits
from effnet.models.build import build
from effnet.models.weights import save_weights
from effnet.runs import Evaluation, RunFolder, RunResult, RunSpec
from effnet.store import Store, publish, sha256_file
from flows.cli.find import find
from tests.tiny import run_effnet

IMAGES = 1000
NEWER = "effnet: the family is newer"
MEMBERS = {"B0": (100, 800, 2.0), "B1": (200, 900, 3.0), "B2": (400, 905, 5.0)}  # multiply-adds, right, milliseconds


def add_family(store: Store, name: str, built: float, seed: int = 0) -> None:
    """Write a family that was built so many seconds ago: its members, and what each is right about."""
    members = []
    for place, (member, (macs, right, latency)) in enumerate(MEMBERS.items()):
        spec = RunSpec(
            architecture=zoo.get("efficientnet_b0"), dataset="0" * 16, num_classes=2, recipe=Recipe(), seed=seed + place
        )
        folder = RunFolder.create(store, spec)
        folder.weights_path.write_bytes(bytes(1000 * macs))
        facts = {"key": folder.key, "top1": right / IMAGES, "top5": 1.0, "loss": 0.1, "params": 10 * macs, "macs": macs}
        zeros = {"best_epoch": 1, "epochs": 1, "steps": 1, "seconds": 1.0, "weights_sha256": "0" * 64}
        publish(folder.result_path, RunResult(**facts, **zeros, environment={}).model_dump_json().encode())
        scores = {name: facts[name] for name in ("key", "top1", "top5", "loss")}
        evaluation = Evaluation(
            **scores,
            dataset="0" * 16,
            split="val",
            samples=IMAGES,
            calibration_error=0.0,
            class_samples=(500, 500),
            class_right=(400, 400),
            confusion=(),
            resolutions={},
            latency_ms=latency,
            images_per_second=1.0,
            best_batch=1,
            environment={},
        )
        publish(folder.evaluation_path, evaluation.model_dump_json().encode())
        keep_hits(folder.hits_path, "0" * 16, "0" * 64, "val", np.arange(IMAGES) < right)
        members.append(
            MemberResult(
                name=member,
                phi=place,
                resolution=224,
                params=10 * macs,
                macs=macs,
                top1=right / IMAGES,
                top5=1.0,
                latency_ms=latency,
                latency_on="1 thread of a processor" + ", beside other work" * (member == "B2"),
                seconds=1.0,
                run_key=folder.key,
                mlflow_run_id=None,
                reused=False,
            )
        )
    result = FamilyResult(
        family=name, key=name, dataset="0" * 16, val_samples=IMAGES, coefficients={}, members=tuple(members)
    )
    path = store.families / name / "family.json"
    publish(path, result.model_dump_json().encode())
    os.utime(path, (built, built))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name, built in (("older", 1e9), ("newer", 2e9)):
        add_family(Store(tmp_path / ".effnet"), name, built)
    return tmp_path


@pytest.mark.parametrize(
    ("limits", "member", "outside"),
    [
        ((), "B2", {}),
        (("--max-latency", "4ms"), "B1", {"B2": "5.00 ms (beside other work)"}),
        (("--max-macs", "200"), "B1", {"B2": "400 multiply-adds"}),
        (("--max-params", "1k"), "B0", {"B1": "2,000 parameters", "B2": "4,000 parameters"}),
        (("--max-size", "0.3MB"), "B1", {"B2": "0.40 MB"}),
        (("--min-top1", "90.1%"), "B2", {"B0": "top-1 80.00%", "B1": "top-1 90.00%"}),
        (
            ("--max-latency", "0.004s", "--min-top1", "0.85"),
            "B1",
            {"B0": "top-1 80.00%", "B2": "5.00 ms (beside other work)"},
        ),
    ],
)
def test_the_member_that_a_build_of_those_within_would_name(
    home: Path, limits: tuple[str, ...], member: str, outside: dict[str, str]
) -> None:
    done = run_effnet("choose", *limits, "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["family"], found["member"], found["outside"]) == ("newer", member, outside)
    assert sorted(found["within"] + list(outside)) == ["B0", "B1", "B2"]


def test_it_says_why_and_how_to_use_it(home: Path) -> None:
    done = run_effnet("choose", "older", "--max-latency", "4", cwd=home)
    assert done.returncode == 0, done.stderr
    left_out, use, how = done.stdout.splitlines()
    assert left_out == "B2 is left out: 5.00 ms (beside other work)"
    assert use.startswith("Use B1: among those within the limits it has the best top-1, 90.0%")
    assert done.stderr == ""
    assert how.startswith("effnet predict ")


def test_what_it_prints_means_this_model_whatever_is_built_later(home: Path) -> None:
    """A member's name means that of the family that was built last; B1 is in both."""
    store = Store(home / ".effnet")
    keys = {}
    for name, built in (("older", 1e9), ("newer", 2e9)):
        add_family(store, name, built, seed=10 * (name == "older"))
        told = json.loads(run_effnet("choose", name, "--json", cwd=home).stdout)
        keys[name] = told["run"]
        assert told["predict"] == f"effnet predict {keys[name][:12]} IMAGES"
    assert keys["older"] != keys["newer"]
    lines = run_effnet("choose", "older", "--store", home / ".effnet", cwd=home.parent).stdout.splitlines()
    assert lines[-1] == f"effnet predict {keys['older'][:12]} IMAGES --store {home / '.effnet'}"
    assert find(keys["older"][:12], store.root).name == keys["older"]


def test_without_a_family_it_says_which_one_it_took(home: Path) -> None:
    assert run_effnet("choose", "--json", cwd=home).stderr == "effnet: the family is newer\n"


def test_the_only_one_within_limits_is_not_called_the_only_member(home: Path) -> None:
    done = run_effnet("choose", "newer", "--max-macs", "100", cwd=home)
    assert done.stdout.splitlines()[-2] == "Use B0: it is the only one within the limits; top-1 80.0%."
    told = json.loads(run_effnet("choose", "newer", "--max-macs", "100", "--json", cwd=home).stdout)
    assert told["because"] == "it is the only one within the limits; top-1 80.0%"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--device", "gpu"), "--device gpu: no such device; write cpu, cuda, or cuda:1 for the second GPU"),
        (("nobody",), "no family 'nobody' was built in "),
        (
            ("--max-latency", "1ms"),
            "family newer: no member is within the limits (B0: 2.00 ms; B1: 3.00 ms; B2: 5.00 ms (beside other work))",
        ),
        (("--max-latency", "soon"), "'soon' is no number above 0 in ms, s"),
        (("--max-size", "3 parsecs"), "'3 parsecs' is no number above 0 in kB, MB, GB"),
        (("--max-size", "15"), "'15' has no unit; write 15kB, 15MB, 15GB"),
        (("--max-size", "0"), "'0' is no number above 0 in kB, MB, GB"),
        (("--min-top1", "-1%"), "'-1%' is no number above 0 in %, at most 1"),
        (("--min-top1", "90"), "'90' is no number above 0 in %, at most 1"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(home: Path, arguments: tuple[str, ...], told: str) -> None:
    done = run_effnet("choose", *arguments, cwd=home)
    *told_before, line = done.stderr.splitlines()
    assert (done.returncode, told_before) == (2, [NEWER] if "family newer" in told or "--device" in told else [])
    assert told in line


@pytest.mark.slow
def test_by_a_latency_measured_now_which_is_told(home: Path) -> None:
    """The members' stored milliseconds are made up; here they get networks that differ by far."""
    small = {"resolution": 32, "name": "small"}
    family = json.loads((home / ".effnet/families/newer/family.json").read_text())
    for place, side in enumerate((32, 64, 320)):
        arch = zoo.get("efficientnet_lite0").model_copy(update=small | {"resolution": side})
        spec = RunSpec(architecture=arch, dataset="0" * 16, num_classes=2, recipe=Recipe(), seed=place)
        folder = RunFolder.create(Store(home / ".effnet"), spec)
        old = home / ".effnet/runs" / family["members"][place]["run_key"]
        save_weights(folder.weights_path, build(arch, 2, seed=0))
        for name in ("evaluation.json", "result.json", "hits.json"):
            text = (old / name).read_text().replace(old.name, folder.key)
            (folder.path / name).write_text(text.replace("0" * 64, sha256_file(folder.weights_path)))
        family["members"][place]["run_key"] = folder.key
    (home / ".effnet/families/newer/family.json").write_text(json.dumps(family))
    command = ("choose", "--device", "cpu", "--min-top1", "85%", "--json")
    timed = run_effnet(*command, cwd=home)
    assert timed.returncode == 0, timed.stderr
    measured = {name: each["latency_ms"] for name, each in json.loads(timed.stdout)["measured"].items()}
    assert list(measured) == ["B1", "B2"]  # B0 is outside another limit: not timed
    assert timed.stderr == f"{NEWER}\neffnet: timing B1\neffnet: timing B2\n"
    between = (measured["B1"] * measured["B2"]) ** 0.5
    done = run_effnet(*command[:-1], "--max-latency", f"{between}ms", cwd=home)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(" ms, measured now (1 thread of ")[0].split()[0] for line in lines[:2]] == ["B1", "B2"]
    assert "measured now (1 thread of " in lines[0]
    assert lines[2] == "B0 is left out: top-1 80.00%"
    assert lines[3].startswith("B2 is left out: ")
    assert lines[4].startswith("Use B1: ")


def test_of_equal_networks_the_first_is_named_as_in_a_build(home: Path) -> None:
    path = home / ".effnet/families/newer/family.json"
    family = json.loads(path.read_text())
    family["members"][1] |= {"run_key": family["members"][2]["run_key"], "macs": family["members"][2]["macs"]}
    path.write_text(json.dumps(family))
    done = run_effnet("choose", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["member"] == "B1"
