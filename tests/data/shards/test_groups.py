"""Groups: all images of a video, a patient or a day in one split, and the shares met as closely as they allow."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from effnet.config import DataConfig, FolderSource, ParquetSource, WebDatasetSource
from effnet.data.shards import groups
from effnet.data.shards.groups import TOLERANCE
from effnet.data.shards.plan import split_by_group
from effnet.data.shards.write import source_key, write_shards
from effnet.data.sources import Entry, open_source
from effnet.data.sources.groups import matched
from effnet.errors import ConfigError, DataError
from flows.cli.main import cli
from tests.data.photographs import encode, photograph

Images = list[tuple[str, int, int]]  # (group, class, content)


def split(images: Images, config: DataConfig) -> dict[str, str]:
    """Return the split of every group; all images of a group must have the same."""
    entries = [Entry(f"i{place}", label) for place, (_, label, _) in enumerate(images)]
    marks = [content.to_bytes(16) for _, _, content in images]
    names = [group for group, _, _ in images]
    splits, _ = split_by_group(entries, marks, names, config)
    found: dict[str, set[str]] = defaultdict(set)
    for name, members in splits.items():
        for entry in members:
            found[names[int(entry.key[1:])]].add(name)
    assert all(len(each) == 1 for each in found.values())
    return {group: next(iter(each)) for group, each in found.items()}


def videos(number: int, length: int, classes: int) -> Images:
    """Return so many groups for each class, of so many images each, all different."""
    return [
        (f"v{label}-{video}", label, (label * number + video) * length + frame)
        for label in range(classes)
        for video in range(number)
        for frame in range(length)
    ]


def shares(images: Images, found: dict[str, str]) -> Counter[str]:
    """Return the share of the images in each split."""
    counts = Counter(found[group] for group, _, _ in images)
    return Counter({name: number / len(images) for name, number in counts.items()})  # type: ignore[misc]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2), st.integers(0, 80)), min_size=1, max_size=80),
    st.randoms(use_true_random=False),
    st.sampled_from([0.05, 0.2, 0.45]),
)
def test_groups_stay_whole_in_any_order_and_copies_join_them(
    some: list[tuple[int, int, int]], shuffle: random.Random, share: float
) -> None:
    images = [(f"g{group}", label, content) for group, label, content in some]
    config = DataConfig(minival=share, val=share)
    found = split(images, config)
    by_content: dict[int, set[str]] = defaultdict(set)
    for group, _, content in images:
        by_content[content].add(found[group])
    assert all(len(each) == 1 for each in by_content.values())  # equal bytes are on one side, whatever their groups
    other = images.copy()
    shuffle.shuffle(other)
    assert split(other, config) == found


@settings(max_examples=100, deadline=None)
@given(st.integers(3, 60), st.integers(1, 4), st.integers(0, 5), st.sampled_from([0.1, 0.2, 0.3]))
def test_shares_are_met_within_a_quarter_or_half_a_group(number: int, classes: int, seed: int, share: float) -> None:
    images = videos(number, 5, classes)
    found = split(images, DataConfig(minival=share, val=share, seed=seed))
    met = shares(images, found)
    for name in ("val", "minival"):
        group = 1 / number  # of a class's images; each class has one in each split at least
        assert abs(met[name] - share) <= max(TOLERANCE * share, group / 2, group - share) + 1e-9
    for label in range(classes):
        assert {found[group] for group, of, _ in images if of == label} == {"train", "minival", "val"}


def test_uneven_groups_meet_the_shares_as_documented(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    images = [
        (f"p{n}", rng.randrange(3), n * 100 + i) for n in range(30) for i in range(rng.choice((2, 5, 20, 60)))
    ]  # patients with images of several classes

    def ranges() -> list[tuple[float, float]]:
        configs = [DataConfig(minival=0.1, val=0.2, seed=seed) for seed in range(200)]
        met = [shares(images, split(images, config)) for config in configs]
        found = [[each[name] for each in met] for name in ("val", "minival")]
        return [(round(min(each), 3), round(max(each), 3)) for each in found]

    assert ranges() == [(0.155, 0.247), (0.089, 0.143)]
    monkeypatch.setattr(groups, "TOLERANCE", 100)  # by the groups' numbers alone
    assert ranges()[0] == (0.003, 0.493)


def test_groups_that_are_added_move_no_others_where_there_are_many() -> None:
    config = DataConfig(minival=0.2, val=0.2)
    few, many = videos(400, 2, 1), videos(600, 2, 1)
    old, new = split(few, config), split(many, config)
    assert len(old) == 400
    assert {group: new[group] for group in old} == old
    grown = few + [("v0-1", 0, 10**6 + n) for n in range(8)]
    assert split(grown, config) == old  # nor do images that are added to a group


def write(folder: Path, names: list[str], first: int = 0) -> Path:
    for number, name in enumerate(names, first):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photograph(16 + number), quality=80))
    return folder


def folder_of(tmp_path: Path, name: str = "photos", patients: int = 9, first: int = 0) -> Path:
    names = [f"{label}/p{n:02d}_{i}.jpg" for label in "ab" for n in range(first, first + patients) for i in range(2)]
    return write(tmp_path / name, names)


def test_a_folder_is_split_by_patient_and_says_so(tmp_path: Path) -> None:
    source = FolderSource(kind="folder", train=str(folder_of(tmp_path)))
    config = DataConfig(source=source, val=0.2, minival=0.2, group=r"/(p\d+)_")
    manifest, _ = write_shards(config, tmp_path / "d")
    rows = pq.read_table(tmp_path / "d" / manifest.digest / "index.parquet").to_pylist()
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        splits[row["key"].split("_")[1]].add(row["split"])  # p07, in both classes
    assert len(splits) == 9
    assert all(len(each) == 1 for each in splits.values())
    counts = Counter(next(iter(each)) for each in splits.values())
    line = (
        f"9 groups of 4 to 4 images: train {counts['train']}, minival {counts['minival']}, val {counts['val']}; "
        f"minival is {counts['minival'] / 9:.1%} of the images, 20% wanted, "
        f"val is {counts['val'] / 9:.1%} of the images, 20% wanted"
    )
    assert manifest.notes[0] == line
    done = CliRunner().invoke(cli, ["data", "report", str(tmp_path / "d" / manifest.digest)])
    assert line in done.output
    whole = write_shards(config.model_copy(update={"group": r"p\d+"}), tmp_path / "d")[0]
    assert whole.digest == manifest.digest  # the whole match names the same groups
    assert write_shards(config.model_copy(update={"group": None}), tmp_path / "d")[0].digest != manifest.digest


def test_a_group_in_both_train_and_the_val_folder_is_told(tmp_path: Path) -> None:
    train, val = folder_of(tmp_path), folder_of(tmp_path, "val", patients=5, first=7)
    for number, path in enumerate(sorted(val.rglob("*.jpg"))):  # other images of p07 and p08
        path.write_bytes(encode(photograph(90 + number), quality=80))
    source = FolderSource(kind="folder", train=str(train), val=str(val))
    manifest, _ = write_shards(DataConfig(source=source, minival=0.2, group=r"(p\d+)_"), tmp_path / "d")
    told = "groups that are in train or minival and in val: 2, with 8 of the 20 images of val ('p07', 'p08'); this"
    assert any(note.startswith(told) for note in manifest.notes)
    assert manifest.samples["val"] == 20
    assert ", val is" not in manifest.notes[0]  # its size is the user's own


def test_a_group_larger_than_a_share_and_joined_groups_are_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    write(folder, [f"a/p99_{n}.jpg" for n in range(30)], first=36)
    (folder / "a" / "p00_copy.jpg").write_bytes((folder / "a" / "p01_0.jpg").read_bytes())
    config = DataConfig(source=FolderSource(kind="folder", train=str(folder)), group=r"(p\d+)_")
    notes = write_shards(config, tmp_path / "d")[0].notes
    assert any(note.startswith("groups larger than a share of 10% (7 of 67 images): 'p99' (30)") for note in notes)
    assert "1 groups share images of the same bytes with another, and are in the same split as that one" in notes


def test_too_few_groups_are_refused_in_one_line(tmp_path: Path) -> None:
    source = FolderSource(kind="folder", train=str(folder_of(tmp_path, patients=2)))
    needed = "a class needs 3 groups without an image in common to be in all splits, and the largest, 'a', has 2"
    with pytest.raises(DataError, match=rf"^data\.group '\(p\\d\+\)': the minival split is empty: {needed}$"):
        write_shards(DataConfig(source=source, group=r"(p\d+)"), tmp_path / "d")


def test_an_image_without_a_group_is_an_error_that_counts_them(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    write(folder, [f"a/loose{n}.jpg" for n in range(4)])
    config = DataConfig(source=FolderSource(kind="folder", train=str(folder)), group=r"(p\d+)")
    with pytest.raises(ConfigError) as error:
        write_shards(config, tmp_path / "d")
    assert str(error.value).startswith("data.group: 4 of 40 images have no group (their paths: a/loose0.jpg, a/loose1")
    assert "\n" not in str(error.value)


def test_the_rule_is_checked_and_cannot_hang() -> None:
    with pytest.raises(ConfigError, match=r"data\.group: missing \): p\(; the syntax is RE2's"):
        matched(["a"], "p(", "their paths")
    with pytest.raises(ConfigError, match="RE2's"):
        matched(["a"], "(?=a)", "their paths")
    with pytest.raises(ValidationError, match="at most 500"):
        DataConfig(source=FolderSource(kind="folder", train="x"), group="a" * 501)
    with pytest.raises(ValidationError, match="group needs a source of kind folder, parquet or webdataset: digits"):
        DataConfig(group="a")
    begun = time.perf_counter()
    with pytest.raises(ConfigError, match="1 of 1 images have no group"):
        matched(["a" * 4000 + "!"], "^(a+)+$", "their paths")  # Python's re would need 2^4000 steps
    assert time.perf_counter() - begun < 5
    assert matched(["x/A7.jpg", "y\nz/a8"], r"(?i)a(\d)", "") == ["7", "8"]
    with pytest.raises(ConfigError, match="1 of 2 images have no group"):
        matched(["a", "b"], "a|(b)", "their paths")  # matched, but its parentheses hold nothing


def test_columns_and_keys_group_too(tmp_path: Path) -> None:
    images = [encode(photograph(16 + n), quality=80) for n in range(24)]
    table = pa.table({"image": images, "label": [n % 2 for n in range(24)], "patient": [n // 4 for n in range(24)]})
    pq.write_table(table, tmp_path / "a.parquet")
    config = DataConfig(source=ParquetSource(kind="parquet", train=str(tmp_path / "a.parquet")), group="patient")
    manifest, _ = write_shards(config, tmp_path / "d")
    rows = pq.read_table(tmp_path / "d" / manifest.digest / "index.parquet").to_pylist()
    splits = {(int(row["key"][-8:]) // 4, row["split"]) for row in rows}
    assert len(splits) == 6
    assert manifest.notes[0].startswith("6 groups of 4 to 4 images: ")
    with pytest.raises(ConfigError, match=r"no column 'video' \(it has image, label, patient\); set data.group"):
        write_shards(config.model_copy(update={"group": "video"}), tmp_path / "d")
    holes = table.set_column(2, "patient", pa.array([None, *range(23)]))
    pq.write_table(holes, tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"1 of 24 images have no group \(column 'patient' is empty: .*: row 0\)"):
        write_shards(config, tmp_path / "d")
    with wds.TarWriter(str(tmp_path / "w.tar"), encoder=False) as writer:
        for n, image in enumerate(images):
            writer.write({"__key__": f"clip{n // 4}_{n}", "jpg": image, "cls": b"0"})
    shards = DataConfig(source=WebDatasetSource(kind="webdataset", train=str(tmp_path / "w.tar")), group=r"clip\d+")
    assert write_shards(shards, tmp_path / "d")[0].notes[0].startswith("6 groups of 4 to 4 images: ")


def test_without_groups_a_source_keeps_its_key(tmp_path: Path) -> None:
    source = open_source(DataConfig().source, Path(), tmp_path)
    assert source_key(DataConfig(), source) == "d88cd858df2b314b"  # as before there were any
