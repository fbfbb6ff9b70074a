"""Folds: val as it is without them, and each image of the rest in the minival of one."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet.config import DataConfig, FamilyConfig, FolderSource
from effnet.data.shards.folds import deal
from effnet.data.shards.plan import plan_shards
from effnet.data.shards.write import find_dataset, source_key, write_shards
from effnet.data.sources import Source, open_source
from effnet.errors import ConfigError, DataError
from tests.data.shards.test_plan import write

FOLDS = 4
PINNED = "aebbc95c84caa3b9"  # key of a source as it was before there were folds


def of_fold(config: DataConfig, fold: int, folds: int = FOLDS) -> DataConfig:
    return config.model_copy(update={"fold": (fold, folds)})


def planned(config: DataConfig) -> dict[str, list[tuple[str, int]]]:
    """Return key and label of the images of each split, in their order."""
    source = open_source(config.source, Path(), Path())
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for plan in plan_shards(source, config):
        found[plan.split] += [(entry.key, entry.label) for entry in plan.entries]
    return found


def test_val_stays_and_every_other_image_is_in_one_minival_evenly_in_each_class() -> None:
    config = DataConfig()  # digits
    plain, folds = planned(config), [planned(of_fold(config, fold)) for fold in range(1, FOLDS + 1)]
    rest = {*plain["train"], *plain["minival"]}
    for fold in folds:
        assert fold["val"] == plain["val"]  # in the same order: hits on it are of the same images
        assert {*fold["minival"]} | {*fold["train"]} == rest
        assert len(fold["minival"]) + len(fold["train"]) == len(rest)
    assert sorted(image for fold in folds for image in fold["minival"]) == sorted(rest)
    for label in range(10):
        counts = [sum(each == label for _, each in fold["minival"]) for fold in folds]
        assert max(counts) - min(counts) <= 1
    sizes = [len(fold["minival"]) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    other = planned(of_fold(config.model_copy(update={"seed": 1}), 1))
    assert {*other["minival"]} != {*folds[0]["minival"]}


units = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=80)  # (unit, class)


@settings(max_examples=200, deadline=None)
@given(units, st.integers(2, 6), st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_the_order_and_differ_by_a_unit_at_most(images, folds, shuffle) -> None:  # type: ignore[no-untyped-def]
    def dealt(images: list[tuple[int, int]]) -> dict[bytes, int]:
        draws = {unit.to_bytes(2): (unit * 7 % 31) / 31 for unit, _ in images}
        return deal([label for _, label in images], [unit.to_bytes(2) for unit, _ in images], draws, folds)

    found = dealt(images)
    other = images.copy()
    shuffle.shuffle(other)
    assert dealt(other) == found
    assert {*found.values()} <= {*range(folds)}
    alone = [(unit, label) for unit, label in images if len({each for name, each in images if name == unit}) == 1]
    if alone == images:  # units of one class each
        for label in {label for _, label in images}:
            mine = Counter(unit for unit, each in images if each == label)
            sizes = [0] * folds
            for unit, number in mine.items():
                sizes[found[unit.to_bytes(2)]] += number
            assert max(sizes) - min(sizes) <= max(mine.values())
            assert len(mine) < folds or min(sizes) > 0


def photos(folder: Path) -> DataConfig:
    """Two classes of 24 images: 12 groups of two each, and in `a` an image twice, in different groups."""
    names = {f"{label}/{label}{n // 2}_{n}.jpg": n + 100 * place for place, label in enumerate("ab") for n in range(24)}
    write(folder, names | {"a/a3_copy.jpg": 0})
    return DataConfig(source=FolderSource(kind="folder", train=str(folder)), minival=0.2, val=0.2)


@pytest.mark.parametrize("group", [None, r"/([ab]\d+)_"])
def test_copies_and_groups_are_in_one_fold(tmp_path: Path, group: str | None) -> None:
    config = photos(tmp_path / "p").model_copy(update={"group": group})
    folds = [planned(of_fold(config, fold, 3)) for fold in (1, 2, 3)]
    place = {key: ("val", 0) for key, _ in folds[0]["val"]}
    place |= {key: ("minival", number) for number, fold in enumerate(folds) for key, _ in fold["minival"]}
    assert len(place) == 49
    together: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for key, where in place.items():
        name = key.split("_")[-2] if group else ("copies" if key.partition("-")[0].endswith(("a0_0", "copy")) else key)
        together["a0" if group and name == "a3" else name].add(where)  # groups that share an image are one
    assert all(len(places) == 1 for places in together.values()), together
    assert len(together) == (23 if group else 48)


def test_the_same_images_give_the_same_bytes_and_a_config_without_folds_keeps_its_key(tmp_path: Path) -> None:
    config = photos(tmp_path / "p")
    first, reused = write_shards(of_fold(config, 2, 3), tmp_path / "d")
    again, _ = write_shards(of_fold(config, 2, 3), tmp_path / "other")
    assert not reused
    assert again.digest == first.digest
    assert find_dataset(of_fold(config, 2, 3), tmp_path / "d") == first
    assert find_dataset(config, tmp_path / "d") is None
    assert write_shards(of_fold(config, 1, 3), tmp_path / "d")[0].digest != first.digest
    rows = pq.read_table(tmp_path / "d" / first.digest / "index.parquet").to_pylist()
    found = planned(of_fold(config, 2, 3))
    assert [(row["key"], row["label"]) for row in rows if row["split"] == "minival"] == found["minival"]
    source = cast(Source, SimpleNamespace(fingerprint=lambda: {"kind": "digits"}))
    assert source_key(DataConfig(), source) == PINNED


@pytest.mark.parametrize(
    ("names", "group", "told"),
    [
        (
            {f"a/{n}.jpg": n for n in range(20)} | {f"b/{n}.jpg": 50 + n for n in range(4)},
            None,
            "members.folds: 5: class 'b' cannot be in all of them: outside of val it has 3 different images; lower it "
            "to 3, or add images",
        ),
        (
            {f"{c}/{c}{n // 4}_{n}.jpg": n + 50 * (c == "b") for c in "ab" for n in range(16)},
            r"/([ab]\d)_",
            "members.folds: 5: class 'a' cannot be in all of them: outside of val it has 3 groups, and 1 more class "
            "likewise; lower it to 3, or add images",
        ),
        (
            {f"a/{n}.jpg": n for n in range(20)} | {"b/1.jpg": 50},
            None,
            "members.folds: 5: class 'b' cannot be in all of them: outside of val it has 1 different images; leave it "
            "out, or add images",
        ),
    ],
)
def test_more_folds_than_a_class_has_images_is_a_line(
    tmp_path: Path, names: dict[str, int], group: str | None, told: str
) -> None:
    folder = write(tmp_path / "p", names)
    source = FolderSource(kind="folder", train=str(folder))
    with pytest.raises(DataError) as caught:
        write_shards(DataConfig(source=source, group=group, fold=(1, 5)), tmp_path / "d")
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("data", "folds", "told"),
    [
        ({}, 0, "members.folds: input should be greater than or equal to 1 (got 0)"),
        ({}, 33, "members.folds: input should be less than or equal to 32 (got 33)"),
        ({}, 2.5, "members.folds: input should be a valid integer"),
        ({}, True, "members.folds: input should be a valid integer"),
        ({"fold": [2, 3]}, 3, "data.fold follows from members.folds: leave it out"),
        ({"fold": [2, 3]}, 1, "data.fold follows from members.folds: leave it out"),
        ({"fold": [3, 2]}, 1, "fold must be at most the number of folds (got [3, 2])"),
        ({"source": {"kind": "dataset", "location": "d"}}, 3, "members.folds splits images anew, and a source of kind"),
    ],
)
def test_folds_that_cannot_be_are_a_line(data: dict[str, object], folds: object, told: str) -> None:
    given = {"family": "f", "baseline": "efficientnet_b0", "data": data, "members": {"folds": folds}}
    with pytest.raises(ConfigError) as caught:
        FamilyConfig.parse(given, "f.yaml")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_family_is_built_on_its_first_fold() -> None:
    plain = FamilyConfig.parse({"family": "f", "baseline": "efficientnet_b0"}, "f.yaml")
    assert plain.fold_data == (plain.data,)
    config = FamilyConfig.parse({"family": "f", "baseline": "efficientnet_b0", "members": {"folds": 3}}, "f.yaml")
    assert [data.fold for data in config.fold_data] == [(1, 3), (2, 3), (3, 3)]
    assert config.fold_data[0] == config.data
    assert FamilyConfig.model_validate_json(config.model_dump_json()) == config
    assert FamilyConfig.model_validate(config.model_dump()) == config  # of Python's values, as Prefect passes them
    assert FamilyConfig(family="f", baseline="efficientnet_b0", data=plain.data, members=config.members) == config
