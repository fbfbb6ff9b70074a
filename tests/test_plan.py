"""Prices of stages against sums written out plainly."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from effnet.arch import zoo
from effnet.arch.cost import Cost, count
from effnet.arch.scaling import PAPER
from effnet.arch.spec import Architecture
from effnet.config import (
    DataConfig,
    DatasetSource,
    FamilyConfig,
    FitConfig,
    MembersConfig,
    PoolCompute,
    Recipe,
    SearchConfig,
    SearchedBaseline,
    StudyConfig,
)
from effnet.devices import DEVICES, find
from effnet.errors import ConfigError
from effnet.family import plan_members
from effnet.memory import plan_micro_batch, training_bytes
from effnet.plan import Speed, _price_of_search, disk, known_of, price, price_members, speed_of, work
from effnet.train.speed import line, measure_speed

B0 = zoo.get("efficientnet_b0")
MACS, ACTIVATIONS = count(B0)[1:]


def prices(config: FamilyConfig) -> dict[str, object]:
    members = plan_members(B0, config, PAPER, 1000)
    return {stage.stage: stage for stage in price(config, B0, PAPER, members, num_classes=1000, images=1000)}


def test_members_cost_their_activations_times_epochs_times_images() -> None:
    members = MembersConfig(phi=(0,))
    config = FamilyConfig(
        family="f", baseline="efficientnet_b0", coefficients=PAPER, members=members, recipe=Recipe(epochs=10)
    )
    (stage,) = prices(config).values()
    assert stage[:2] == ("members", 1)
    assert stage.work == stage.longest == (10 * 1000, MACS * 10 * 1000, ACTIVATIONS * 10 * 1000)  # type: ignore[attr-defined]
    hours = speed_of(DEVICES["a100-80"]).hours(stage.work)  # type: ignore[attr-defined]
    assert hours == pytest.approx(ACTIVATIONS * 10_000 / 16.6e9 / 3600)


def test_b7_is_priced_against_b0_by_activations_which_published_rates_confirm() -> None:
    one, other = (zoo.get(f"efficientnet_b{number}") for number in (0, 7))
    speed = speed_of(DEVICES["rtx3090"])
    ratio = speed.hours(work(1, count(other))) / speed.hours(work(1, count(one)))
    assert ratio == pytest.approx(count(other).activations / count(one).activations)
    published = 1779 / 37.2  # images/s of timm's benchmark on that card
    assert ratio == pytest.approx(published, rel=0.11)
    assert count(other).macs / count(one).macs > 2 * published


@pytest.mark.parametrize(
    ("number", "images_per_second"),
    [(0, 1779), (1, 1100), (2, 849), (3, 495), (4, 242), (5, 111), (6, 62.8), (7, 37.2)],
)
def test_one_rate_prices_all_members_on_a_gpu(number: int, images_per_second: float) -> None:
    rate = count(zoo.get(f"efficientnet_b{number}")).activations * images_per_second
    assert rate == pytest.approx(DEVICES["rtx3090"].activations_per_second, rel=0.09)


def test_images_multiply_adds_and_activations_cost_each_its_own() -> None:
    config = FamilyConfig(family="f", baseline="efficientnet_b0", coefficients=PAPER, recipe=Recipe(epochs=10))
    members = plan_members(B0, config, PAPER, 1000)
    (stage,) = price(config, B0, PAPER, members, num_classes=1000, images=1000)
    costs = [count(member.architecture, 1000) for member in members]
    seconds = sum(10 * 1000 * (0.002 + cost.macs * 1e-12 + cost.activations * 1e-11) for cost in costs)
    speed = Speed(0.002, 1e-12, "", seconds_per_activation=1e-11)
    assert speed.hours(stage.work) == pytest.approx(seconds / 3600)
    alone = price_members(members, config.recipe, speed, num_classes=1000, images=1000)
    assert sum(row.hours for row in alone) == pytest.approx(seconds / 3600)
    assert stage.wall_hours(speed, 1) == pytest.approx(seconds / 3600)
    assert stage.wall_hours(speed, 100) == pytest.approx(max(row.hours for row in alone))  # no less than the longest


def test_members_on_a_device_have_memory_and_dollars() -> None:
    config = FamilyConfig(family="f", baseline="efficientnet_b0", coefficients=PAPER, recipe=Recipe(batch_size=512))
    members = plan_members(B0, config, PAPER, 1000)
    speed = speed_of(DEVICES["a100-40"])
    rows = price_members(members, config.recipe, speed, num_classes=1000, images=1000)
    for member, row in zip(members, rows, strict=True):
        arch = member.architecture
        planned = plan_micro_batch(arch, 1000, 512, memory=40 * 10**9, bfloat16=True, wanted=None)  # as a training does
        assert row.micro_batch == planned.images
        assert row.memory_bytes == training_bytes(arch, 1000, row.micro_batch, recompute=planned.recompute) < 35e9
        assert row.dollars == pytest.approx(row.hours * 1.844)
    assert rows[0].micro_batch == 512
    assert rows[-1].micro_batch == 64  # each block computed twice
    exact = Recipe(batch_size=512, precision="float32")
    assert price_members(members, exact, speed, num_classes=1000, images=1000)[-2].micro_batch == 64
    tiny = speed._replace(memory_bytes=10**9)
    assert price_members(members, config.recipe, tiny, num_classes=1000, images=1000)[-1].micro_batch == 0


def test_disk_is_dataset_cache_and_checkpoints() -> None:
    config = FamilyConfig(
        family="f", baseline="efficientnet_b0", coefficients=PAPER, members=MembersConfig(phi=(0, 1), seeds=2)
    )
    members = plan_members(B0, config, PAPER, 1000)
    params = 2 * sum(member.params for member in members)
    assert disk(config, members, 147 * 10**9) == (147 * 10**9, None, params * (3 * 16 + 4))
    pool = config.model_copy(update={"compute": PoolCompute(work_pool="p", exchange="/mnt/x", cache_gb=100)})
    assert disk(pool, members, 147 * 10**9).cache == 100 * 10**9
    assert disk(pool, members, 40 * 10**9).cache == 40 * 10**9
    far = config.model_copy(update={"data": DataConfig(source=DatasetSource(kind="dataset", location="/far"))})
    assert disk(far, members, 147 * 10**9)[:2] == (None, 147 * 10**9)


def test_folds_multiply_trainings_hours_and_disk() -> None:
    plain = FamilyConfig(family="f", baseline="efficientnet_b0", coefficients=PAPER, members=MembersConfig(seeds=2))
    folded = FamilyConfig(
        family="f", baseline="efficientnet_b0", coefficients=PAPER, members=MembersConfig(seeds=2, folds=5)
    )
    members = plan_members(B0, plain, PAPER, 1000)
    (once,), (often,) = (price(each, B0, PAPER, members, num_classes=1000, images=1000) for each in (plain, folded))
    assert often.trainings == 5 * once.trainings == 5 * 2 * len(members)
    assert often.work == pytest.approx(once.work.times(5))
    assert often.longest == once.longest
    assert (once.note, often.note) == ("", "each is trained on 5 folds, with 2 seeds")
    small, large = disk(plain, members, 10**9), disk(folded, members, 10**9)
    assert (large.dataset, large.checkpoints) == (5 * 10**9, 5 * small.checkpoints)
    archives = {"kind": "imagenet", "train": "a", "val": "b", "devkit": "c"}
    data = FamilyConfig.parse(
        {"family": "f", "baseline": "efficientnet_b0", "data": {"source": archives}, "members": {"folds": 5}}, "f"
    ).data
    assert known_of(data, Path(), Path()).images == round(1_281_167 * 0.8)


def test_a_device_is_one_of_the_table_or_a_file_that_may_begin_with_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"called 'a100-8'; did you mean 'a100-80'\? known: rtx3090, .*h200"):
        find("a100-8")
    (tmp_path / "spot.yaml").write_text("base: a100-80\ndollars_per_hour: 1.1\n")
    spot = find("spot.yaml", tmp_path)
    assert spot.activations_per_second == DEVICES["a100-80"].activations_per_second
    assert (spot.dollars_per_hour, spot.price_from) == (1.1, "as stated")
    assert spot.rate_from == DEVICES["a100-80"].rate_from
    (tmp_path / "own.yaml").write_text("{name: mine, memory_gb: 48, activations_per_second: 2.0e+10}")
    own = speed_of(find("own.yaml", tmp_path))
    assert own.hours(work(3600, Cost(0, 0, 20_000_000_000))) == pytest.approx(1)
    assert own.dollars(5) is None
    (tmp_path / "bad.yaml").write_text("{base: a100-80, dollar_per_hour: 1}")
    with pytest.raises(ConfigError, match="did you mean 'dollars_per_hour'"):
        find("bad.yaml", tmp_path)


def test_every_rate_and_price_of_the_table_says_where_from_and_when() -> None:
    for device in DEVICES.values():
        assert re.search(r"20\d\d", device.rate_from)
        assert device.dollars_per_hour is None or re.search(r"20\d\d", device.price_from)


def test_a_processor_is_measured_by_multiply_adds(baseline: Architecture) -> None:
    config = FamilyConfig.model_validate({"family": "f", "baseline": "efficientnet_b0"})
    speed = measure_speed([baseline, baseline.model_copy(update={"resolution": 16})], 10, config.recipe, 1)
    assert speed.seconds_per_mac > 0
    assert speed.seconds_per_activation == 0
    assert speed.memory_bytes is None


def test_two_times_give_a_fixed_cost_and_one_that_grows() -> None:
    assert line([(100, 3.0), (300, 5.0)]) == pytest.approx((2.0, 0.01))
    assert line([(100, 3.0), (300, 2.0)]) == pytest.approx((0.0, 2.0 / 300))  # noise: neither is below 0
    assert line([(100, 3.0)]) == pytest.approx((0.0, 0.03))


def test_every_stage_of_the_config_has_a_price() -> None:
    config = FamilyConfig(
        family="f",
        baseline=SearchedBaseline(search=SearchConfig(trials=20, epochs=3, target_macs=MACS)),
        study=StudyConfig(factors=(2,), strategies=("depth", "width"), seeds=3, epochs=4),
        fit=FitConfig(step=0.1, maximum=1.4, tolerance=0.1, max_candidates=16, epochs=16, halving=4, seeds=2),
    )
    found = prices(config)
    assert list(found) == ["search", "study", "fit", "members"]
    assert found["search"][:2] == ("search", 20)
    assert found["search"].work == work(20 * 3 * 1000, Cost(0, MACS, ACTIVATIONS))  # type: ignore[attr-defined]
    assert found["study"].trainings == 9  # type: ignore[attr-defined]  # the baseline once, two ways, three seeds
    assert 3 * 4 * 1000 * MACS * 4 < found["study"].work.macs < 3 * 4 * 1000 * MACS * 5.01  # type: ignore[attr-defined]
    # 10 networks of the grid for 4 epochs, 3 of them anew for 16; the paper's, and a second seed of all four
    assert found["fit"].work.macs == pytest.approx((10 * 4 + 8 * 16) * 1000 * MACS * 2)  # type: ignore[attr-defined]
    assert found["fit"].note == "1 of 10 candidates grows in depth, width and resolution"  # type: ignore[attr-defined]
    assert found["fit"].trainings == 10 + 8  # type: ignore[attr-defined]


def test_halving_and_control_are_priced() -> None:
    cost = Cost(0, 1000, 50)
    plain = _price_of_search(SearchConfig(trials=10, batch=4, epochs=6), 100, cost)
    assert plain[:3] == ("search", 10, work(10 * 6 * 100, cost))
    halved = _price_of_search(SearchConfig(trials=10, batch=4, epochs=6, halving=3), 100, cost)
    # batches of 4, 4, 2: 2, 2 and 1 trials are trained for 6 epochs, 5 for 2
    assert halved[:4] == ("search", 10, work((5 * 6 + 5 * 2) * 100, cost), work(6 * 100, cost))
    both = _price_of_search(SearchConfig(trials=10, batch=4, epochs=6, control=True), 100, cost)
    assert both[:3] == ("search", 20, plain.work.times(2))
