"""The commands about networks: describe and plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effnet.arch import zoo
from effnet.arch.cost import count
from tests.tiny import BASELINE, CONFIG, run_effnet, write_tiny


def test_describe_shows_every_part_and_they_add_up(tmp_path: Path) -> None:
    data = json.loads(run_effnet("describe", "efficientnet_b0", "--json", cwd=tmp_path).stdout)
    assert (data["params"], data["macs"], data["resolution"]) == (5_288_548, 385_814_752, 224)
    assert [stage["resolution"] for stage in data["stages"]] == [112, 112, 56, 28, 14, 14, 7]  # paper, table 1
    assert [stage["channels"] for stage in data["stages"]] == [16, 24, 40, 80, 112, 192, 320]
    assert [stage["repeats"] for stage in data["stages"]] == [1, 2, 2, 3, 3, 4, 1]
    for figure in ("params", "macs", "activations"):
        assert sum(part[figure] for part in (data["stem"], *data["stages"], data["head"])) == data[figure]
    text = run_effnet("describe", "efficientnet_b0", cwd=tmp_path).stdout
    assert "5,288,548 params" in text
    assert text.count("MBConv6 5×5, SE 0.25") == 3


def test_describe_reads_files_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(BASELINE)
    text = run_effnet("describe", "mine.yaml", "--num-classes", "10", cwd=tmp_path).stdout
    assert text.startswith("tiny: 8×8 pixels, 10 classes")
    exported = json.dumps(zoo.get("mobilenet_v1").model_dump(mode="json"))
    (tmp_path / "mine.json").write_text(exported)
    data = json.loads(run_effnet("describe", "mine.json", "--json", cwd=tmp_path).stdout)
    assert data["macs"] == count(zoo.get("mobilenet_v1")).macs


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("repeats: 2", "repeats: 0", "stages.1.repeats: input should be greater than or equal to 1 (got 0)"),
        ("kernel: 3", "kernel: 4", "stages.0.kernel: input should be 0, 1, 3, 5, 7, 9 or 11 (got 4)"),
        ("resolution: 8", "resolution: 3", "resolution 3 is below the network's total stride 4"),
        ("channels: 12", "channels: -12", "stages.1.channels: input should be greater than or equal to 1 (got -12)"),
        (", expand_ratio: 4, se_ratio: 0.25", ", expand_ratio: 5, block: bottleneck", "multiple of its expand_ratio"),
        ("{channels: 12", "{block: separable, channels: 12", "has no squeeze-and-excitation"),
        ("expand_ratio: 4", "expand: 4", "did you mean 'expand_ratio'?"),
        ("stages:", "stages: []\nblocks:", "stages: tuple should have at least 1 item"),
        ("name: tiny", "name: [", "mine.yaml"),
        ("resolution: 8", "resolution: 8\npixel_mean: [1, 2]", "pixel_mean has 2 numbers for 3 input channels"),
    ],
)
def test_mistakes_in_a_network_file_are_one_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in BASELINE
    (tmp_path / "mine.yaml").write_text(BASELINE.replace(old, new))
    done = run_effnet("describe", "mine.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert "mine.yaml" in done.stderr
    assert done.stderr.count("\n") == 1


def test_plan_marks_members_that_rounding_made_identical(tmp_path: Path) -> None:
    config = CONFIG.replace("members: {phi: [0, 1, 2]", "members: {phi: [0, 0.01, 2]")
    assert config != CONFIG
    path = write_tiny(tmp_path, config)
    # Repeats are rounded up: where depth is scaled, the least φ adds a block.
    (tmp_path / "tiny-baseline.yaml").write_text(
        BASELINE.replace("repeats: 2", "repeats: 2, scale_depth: false").replace(
            "repeats: 1", "repeats: 1, scale_depth: false"
        )
    )
    members = json.loads(run_effnet("plan", path, "--json", cwd=tmp_path).stdout)["members"]
    assert [member["same_as"] for member in members] == [None, "B0", None]
    assert members[0]["macs_ratio"] == 1
    assert members[2]["macs_ratio"] > 2
    assert "the same network as B0 after rounding" in run_effnet("plan", path, cwd=tmp_path).stdout


def test_plan_finds_the_largest_member_within_a_budget(tmp_path: Path) -> None:
    data = json.loads(run_effnet("plan", "--max-macs", "1.5G", "--json", cwd=tmp_path).stdout)
    assert data["budget"] == {"macs": 1_500_000_000}
    assert 1.3e9 < data["macs"] <= 1.5e9
    assert data["multipliers"]["depth"] == pytest.approx(1.2 ** data["phi"], abs=1e-4)
    text = run_effnet(
        "plan", "--baseline", "resnet50", "--strategy", "depth", "--max-params", "40M", cwd=tmp_path
    ).stdout
    assert "resnet50 scaled by depth" in text
    assert "of 40,000,000" in text
    path = write_tiny(tmp_path)
    data = json.loads(run_effnet("plan", path, "--max-activations", "20k", "--json", cwd=tmp_path).stdout)
    assert data["baseline"] == "tiny"
    assert data["activations"] <= 20_000


def test_plan_scales_by_multipliers_as_in_table_3(tmp_path: Path) -> None:
    compound = ["plan", "--baseline", "mobilenet_v1", "--multipliers", "1.4", "1.2", "1.3"]
    data = json.loads(run_effnet(*compound, "--json", cwd=tmp_path).stdout)
    assert data["macs"] == 2_469_723_976  # the paper: 2.3 B; it does not tell how its depth was rounded
    assert data["resolution"] == 291
    assert data["realised"]["depth"] == pytest.approx(20 / 13, abs=1e-6)  # rounded up, as by the official code
    fine = json.loads(run_effnet(*compound[:4], "1", "1", "2", "--json", cwd=tmp_path).stdout)
    assert 2.2e9 < fine["macs"] < 2.3e9  # the paper: 2.2 B
    wide = json.loads(run_effnet(*compound[:4], "1", "2", "1", "--json", cwd=tmp_path).stdout)
    assert 2.1e9 < wide["macs"] < 2.3e9  # the paper: 2.2 B
    assert wide["realised"] == {"depth": 1.0, "width": 2.0, "resolution": 1.0}
    assert "mobilenet_v1, depth ×1.4, width ×1.2, resolution ×1.3; after rounding" in (
        run_effnet(*compound, cwd=tmp_path).stdout
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["plan"], "give a CONFIG, a budget such as --max-macs 1.5G, or --multipliers"),
        (["plan", "--max-macs", "1G", "--multipliers", "1", "2", "1"], "give --multipliers or a budget, not both"),
        (["plan", "--multipliers", "1", "2"], "requires 3 arguments; `effnet plan --help` says what can be written"),
        (["plan", "--multipliers", "1", "0", "1"], "width multiplier must be a number above 0 (got 0.0)"),
        (
            ["train", "tiny.yaml", "--member", "b1", "--multipliers", "1", "2", "1"],
            "--member or --multipliers, not both",
        ),
        (["plan", "--max-macs", "1"], "fits the budget"),
        (["plan", "--max-macs", "9M", "--strategy", "deep"], "no strategy is called 'deep'; known: compound, depth"),
        (["plan", "tiny.yaml", "--baseline", "resnet50"], "give CONFIG or --baseline, not both"),
        (["plan", "--baseline", "resnet51", "--max-macs", "1G"], "did you mean 'resnet50'?"),
        (["describe", "nothing.yaml"], "nothing.yaml: no such file or directory"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path: Path, arguments: list[str], told: str) -> None:
    done = run_effnet(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("amount", ["0", "-1G", "many", "1.5X", "nan", "inf"])
def test_amounts_that_are_none_are_refused(tmp_path: Path, amount: str) -> None:
    done = run_effnet("plan", "--max-macs", amount, cwd=tmp_path)
    assert done.returncode == 2
    assert "write 600M or 1.5G" in done.stderr


IMAGENET = """\
family: imagenet
baseline: efficientnet_b0
coefficients: [1.2, 1.1, 1.15]
members: {phi: [0]}
data: {source: {kind: imagenet, train: a.tar, val: b.tar, devkit: c.tar.gz}, minival: 0.02}
compute: {work_pool: gpus}
"""
FOLDER = IMAGENET.replace("kind: imagenet, train: a.tar, val: b.tar, devkit: c.tar.gz", "kind: folder, train: photos")


def test_plan_knows_imagenet_without_its_archives_and_names_the_pools_device(tmp_path: Path) -> None:
    (tmp_path / "imagenet.yaml").write_text(IMAGENET)
    done = run_effnet("plan", "imagenet.yaml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    (stage,) = data["stages"]
    assert stage["images"] == round(1_281_167 * 0.98) * 15  # epochs
    assert stage["macs"] == stage["images"] * count(zoo.get("efficientnet_b0"), 1000).macs
    assert data["speed"]["device"].startswith("A100 80 GB (")
    assert stage["hours"] == pytest.approx(stage["activations"] / 16.6e9 / 3600)
    assert stage["dollars"] == pytest.approx(2.49 * stage["hours"])
    assert data["disk"]["dataset"] == 147_897_477_120 + 6_744_924_160
    assert "work pool 'gpus'" in run_effnet("plan", "imagenet.yaml", cwd=tmp_path).stdout


def test_plan_prices_for_a_device_of_ones_own_and_several_of_them(tmp_path: Path) -> None:
    family = IMAGENET.replace("phi: [0]", "phi: [0, 7]").replace("members:", "recipe: {batch_size: 4096}\nmembers:")
    (tmp_path / "imagenet.yaml").write_text(family)
    (tmp_path / "mine.yaml").write_text("{base: l4, activations_per_second: 5.0e+9, dollars_per_hour: 0.5}")
    plan = ("plan", "imagenet.yaml", "--device", "mine.yaml", "--gpus", "2")
    data = json.loads(run_effnet(*plan, "--json", cwd=tmp_path).stdout)
    (stage,), (small, large) = data["stages"], data["prices"]
    assert stage["hours"] == pytest.approx(stage["activations"] / 5e9 / 3600)
    assert stage["dollars"] == pytest.approx(0.5 * stage["hours"])
    assert stage["wall_hours"] == pytest.approx(large["hours"])
    assert stage["hours"] == pytest.approx(small["hours"] + large["hours"])
    assert (small["micro_batch"], large["micro_batch"]) == (256, 64)
    text = run_effnet(*plan, cwd=tmp_path).stdout
    assert "256 of 4,096" in text
    assert "on L4 (as stated): 5 G activations" in text
    assert "at least, on 2 GPUs, a network on each" in text
    assert "dollars, at 0.5 an hour (as stated)" in text
    assert "disk wanted: dataset 155 GB, checkpoints" in text
    done = run_effnet("plan", "imagenet.yaml", "--device", "tpu", cwd=tmp_path)
    assert done.returncode == 2
    assert "no device is called 'tpu'; known: rtx3090, a10g, l4, a100-40, a100-80, h100, h200" in done.stderr


def test_plan_without_the_images_names_both_flags_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").write_text(FOLDER)
    done = run_effnet("plan", "folder.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "state both --num-classes and --images" in done.stderr
    assert done.stderr.count("\n") == 1
    known = ("--num-classes", "5", "--images", "4k")
    done = run_effnet("plan", "folder.yaml", *known, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ", one after the other" in done.stdout


@pytest.mark.parametrize(("speed", "told"), [(2e10, "20 s"), (1e9, "6 min 45 s"), (1e6, "112 h")])
def test_plan_tells_times_as_people_read_them(tmp_path: Path, speed: str, told: str) -> None:
    (tmp_path / "folder.yaml").write_text(FOLDER)
    (tmp_path / "mine.yaml").write_text(f"{{base: l4, activations_per_second: {speed:.1f}}}")
    known = ("--num-classes", "5", "--images", "4k", "--device", "mine.yaml")
    done = run_effnet("plan", "folder.yaml", *known, cwd=tmp_path)
    assert f" {told}, one after the other" in done.stdout
