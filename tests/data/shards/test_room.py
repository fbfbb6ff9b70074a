"""A cache that is smaller than the dataset: what is fetched is counted, and what cannot go well is refused before."""

from __future__ import annotations

from collections import Counter, namedtuple
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from effnet.arch.spec import Architecture
from effnet.config import Augment, DataConfig, DatasetSource, DigitsSource, FamilyConfig, LocalCompute, PoolCompute
from effnet.data.loader import Loader
from effnet.data.shards import room
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.mirror import Origin, mirror
from effnet.data.shards.room import check_room, largest_groups, order_that_fits, wanted_bytes, whole_bytes
from effnet.data.shards.write import write_shards
from effnet.errors import ConfigError, MachineError
from effnet.exchange import Exchange
from effnet.family import build_key
from effnet.process import process_started
from effnet.runs import RunFolder, RunSpec, read_value
from effnet.stages import Stage
from effnet.storage.local import LocalFolder
from effnet.store import Store
from effnet.train.loop import Stop, train
from tasks.build import Build
from tasks.records.tracking import Tracker
from tasks.terminal.screen import Screen

BATCH = 4  # so that the shards that are fetched ahead are few of all


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a dataset of 63 train shards of 20 images lies, which machines fetch it from."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="module")
def far(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    data = DataConfig(source=DigitsSource(image_size=8), shard_samples=20)
    return write_shards(data, tmp_path_factory.mktemp("written"), to=str(place))[0]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each shard was fetched."""
    count: Counter[str] = Counter()
    fetch = LocalFolder.fetch

    def counting(folder: LocalFolder, name: str, target: Path) -> None:
        count[name] += name.endswith(".tar")
        fetch(folder, name, target)

    monkeypatch.setattr(LocalFolder, "fetch", counting)
    return count


def pool(cache_bytes: float, **options: int) -> FamilyConfig:
    compute = PoolCompute(work_pool="gpus", exchange="/mnt/exchange", cache_gb=cache_bytes / 1e9, **options)
    return FamilyConfig(family="f", baseline="efficientnet_b0", compute=compute)


def epochs(folder: Path, shuffle_shards: int, fetched: Counter[str]) -> list[Counter[str]]:
    """Return what each of three epochs of a training fetches, its evaluations on minival included."""
    shared = {"resolution": 8, "augment": Augment(), "threads": 3}
    learns = Loader(folder, "train", batch_size=BATCH, train=True, shuffle_shards=shuffle_shards, **shared)  # type: ignore[arg-type]
    judges = Loader(folder, "minival", batch_size=20, **shared)  # type: ignore[arg-type]
    found = []
    for epoch in range(3):
        fetched.clear()
        for loader in (learns, judges):
            for _batch in loader.epoch(epoch if loader is learns else 0):
                pass
        found.append(Counter(fetched))
    learns.close()
    judges.close()
    return found


@pytest.mark.parametrize("share", [0.1, 0.35, 0.67])
def test_each_shard_is_fetched_once_per_epoch_in_the_order_that_fits(
    share: float, place: Path, far: Manifest, fetched: Counter[str], tmp_path: Path
) -> None:
    cache = share * whole_bytes(far)
    order = order_that_fits(pool(cache), far)
    assert 0 < order.shuffle_shards == largest_groups(far, round(cache))
    mirror(str(place), round(cache), tmp_path)
    check_room(tmp_path / far.digest, far, order.shuffle_shards)
    first, *later = epochs(tmp_path / far.digest, order.shuffle_shards, fetched)
    read = {shard.name for shard in far.shards if shard.split != "val"}
    assert first == dict.fromkeys(read, 1)
    for epoch in later:
        assert epoch
        assert {name: times for name, times in epoch.items() if times > 1} == {}
    here = sum(path.stat().st_size for path in (tmp_path / far.digest).glob("*.tar"))
    assert here <= cache


def test_mixing_all_would_fetch_the_split_many_times_and_is_warned_of(
    place: Path, far: Manifest, fetched: Counter[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror(str(place), round(0.67 * whole_bytes(far)), tmp_path)
    shards = len([shard for shard in far.shards if shard.split == "train"])
    assert all(epoch.total() > 3 * shards for epoch in epochs(tmp_path / far.digest, 0, fetched))
    told = capsys.readouterr()
    assert (told.out + told.err).count("was fetched 3 times within an epoch") == 1
    assert "compute.cache_gb" in told.out + told.err


def test_what_fits_is_left_as_it_is(far: Manifest) -> None:
    whole = whole_bytes(far)
    assert order_that_fits(pool(whole), far) == (0, "")
    half = pool(whole / 2)
    few = half.model_copy(update={"recipe": half.recipe.model_copy(update={"shuffle_shards": 3})})
    assert order_that_fits(few, far) == (3, "")
    shared = half.model_copy(update={"compute": PoolCompute(work_pool="gpus", cache_gb=1e-9)})
    assert order_that_fits(shared, far) == (0, "")  # the store itself is shared: nothing is fetched


def test_the_order_is_told_with_the_disk_that_would_hold_all(far: Manifest) -> None:
    note = order_that_fits(pool(0.5 * whole_bytes(far)), far).note
    assert note.startswith("compute.cache_gb is 0.00152 GB, less than the 0.00303 GB")
    assert "train and minival shards: images are mixed within 18 shards at a time (recipe.shuffle_shards: 18)" in note


def test_trainings_that_share_a_cache_share_its_room(far: Manifest) -> None:
    cache = 0.9 * whole_bytes(far)
    alone, together = (order_that_fits(pool(cache, batch=batch), far).shuffle_shards for batch in (1, 4))
    assert together == alone // 4
    source = DatasetSource(kind="dataset", location="/far", cache_bytes=1 << 20)
    config = FamilyConfig(
        family="f",
        baseline="efficientnet_b0",
        data=DataConfig(source=source),
        compute=LocalCompute(),
    )
    large = far.model_copy(update={"shards": tuple(each.model_copy(update={"bytes": 1 << 17}) for each in far.shards)})
    with pytest.raises(ConfigError, match=r"say how many at a time in compute\.parallel"):
        order_that_fits(config, large)
    two = config.model_copy(update={"compute": LocalCompute(parallel=2)})
    assert order_that_fits(two, large).shuffle_shards == 2  # of 8 in the cache


def test_what_fits_in_no_order_is_refused_with_what_to_set(far: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"too little for any order: give it 0\.0\d+ GB at least") as caught:
        order_that_fits(pool(wanted_bytes(far, 1) / 2), far)
    assert "\n" not in str(caught.value)
    config = pool(0.5 * whole_bytes(far))
    config = config.model_copy(update={"recipe": config.recipe.model_copy(update={"shuffle_shards": 40})})
    with pytest.raises(ConfigError, match=r"shuffle_shards: 40 is too many: .* set it to 18 or less, or "):
        order_that_fits(config, far)


def test_the_order_is_part_of_the_runs_and_the_familys_key(baseline: Architecture, far: Manifest, store: Store) -> None:
    def build(cache: float) -> Build:
        return Build(pool(cache), baseline, far, store, cast(Tracker, SimpleNamespace()), Screen(), Path())

    small, large = build(0.5 * whole_bytes(far)), build(whole_bytes(far))
    runs = [each.training(Stage.MEMBER, "B0", baseline, each.recipe, {}).spec for each in (small, large)]
    assert [run.recipe.shuffle_shards for run in runs] == [18, 0]
    assert runs[0].key() != runs[1].key()
    keys = [build_key(each.config, baseline, far.digest, each.order.shuffle_shards) for each in (small, large)]
    assert keys[0] != keys[1] == build_key(large.config, baseline, far.digest)


def test_a_machine_with_too_small_a_cache_refuses_before_it_fetches(
    place: Path, far: Manifest, fetched: Counter[str], baseline: Architecture, config: FamilyConfig, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    store.prepare()
    spec = RunSpec(architecture=baseline, dataset=far.digest, num_classes=10, recipe=config.recipe)
    folder = RunFolder.create(store, spec)
    mirror(str(place), round(0.5 * whole_bytes(far)), store.datasets)
    with pytest.raises(ConfigError, match=r"too small for recipe\.shuffle_shards: 0.* or less") as caught:
        train(folder, started=process_started(), stop=Stop(), warn=print)
    assert caught.value.exit_code == 2
    assert not fetched.total()
    assert "set compute.cache_gb (or data.source.cache_bytes) to 0.0" in str(caught.value)


def test_a_disk_that_is_smaller_than_the_cache_is_told_before(
    place: Path, far: Manifest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mirror(str(place), 2 * whole_bytes(far), tmp_path)
    check_room(tmp_path / far.digest, far, 0)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _path: usage(10, 5, 5))
    with pytest.raises(MachineError, match=r"the disk of machine .* has room for"):
        check_room(tmp_path / far.digest, far, 0)


def test_a_config_with_another_cache_changes_a_mirror_that_is_there(place: Path, far: Manifest, tmp_path: Path) -> None:
    for cache in (5 << 20, 9 << 20):
        mirror(str(place), cache, tmp_path)
        origin = read_value(Origin, tmp_path / far.digest / "origin.json")
        assert origin == Origin(location=str(place), cache_bytes=cache)
    exchange = Exchange(str(tmp_path / "exchange"), Store(tmp_path / "machine"))
    (tmp_path / "machine").mkdir()
    mirror(str(place), 5 << 20, tmp_path / "machine" / "datasets")
    exchange._fetch_dataset(far.digest, 7 << 20)
    origin = read_value(Origin, tmp_path / "machine" / "datasets" / far.digest / "origin.json")
    assert origin is not None
    assert origin.cache_bytes == 7 << 20
