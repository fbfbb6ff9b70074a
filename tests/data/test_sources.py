"""Every kind of source gives the same images, and tells what is wrong with it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import webdataset as wds
from PIL import Image

from effnet.config import (
    DataConfig,
    FolderSource,
    IdxSource,
    ImageNetSource,
    ParquetSource,
    SourceConfig,
    WebDatasetSource,
)
from effnet.data.shards import index
from effnet.data.shards.manifest import load_manifest
from effnet.data.shards.quarantine import listed
from effnet.data.shards.remarks import remarks
from effnet.data.shards.verification import verify
from effnet.data.shards.write import write_shards
from effnet.data.sources import Source, imagenet, open_source
from effnet.data.sources.base import make_key
from effnet.errors import ConfigError, DataError
from tests.data.photographs import encode, photograph

CLASSES = ("cat", "dog")


def image(number: int) -> bytes:
    return encode(photograph(24).rotate(number * 17), quality=90)


def open_(config: SourceConfig, base: Path) -> Source:
    return open_source(config, base, base / "scratch")


def images_of(source: Source) -> dict[tuple[str, str, int], set[bytes]]:
    """Return each class's images by (split, class)."""
    found: dict[tuple[str, str, int], set[bytes]] = {}
    for entry in source.entries():
        found.setdefault((entry.split, source.classes[entry.label], entry.label), set()).add(source.read(entry))
        assert source.describe(entry)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        path = tmp_path / "images" / CLASSES[number % 2] / ("deep" if number > 7 else "") / f"photo {number}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(number))
    return tmp_path


WANTED = {("", "cat", 0): {image(n) for n in range(0, 12, 2)}, ("", "dog", 1): {image(n) for n in range(1, 12, 2)}}


class TestFolder:
    CONFIG = FolderSource(kind="folder", train="images")

    def test_images_and_labels(self, folder: Path) -> None:
        assert images_of(open_(self.CONFIG, folder)) == WANTED

    def test_dataset_is_written_and_sound(self, folder: Path) -> None:
        config = DataConfig(source=self.CONFIG, minival=0.2, val=0.2, shard_samples=4)
        one, _ = write_shards(config, folder / "one", base=folder, workers=1)
        three, _ = write_shards(config, folder / "three", base=folder, workers=3)
        names = sorted(path.name for path in (folder / "one" / one.digest).iterdir())
        for name in names:
            assert (folder / "one" / one.digest / name).read_bytes() == (
                folder / "three" / three.digest / name
            ).read_bytes()
        assert verify(folder / "one" / one.digest) == []
        assert one.classes == CLASSES

    def test_a_touched_file_gives_the_same_dataset_and_a_changed_one_another(self, folder: Path) -> None:
        config = DataConfig(source=self.CONFIG, minival=0.2, val=0.2)
        first, _ = write_shards(config, folder / "d", base=folder)
        next((folder / "images" / "cat").glob("*.JPG")).touch()
        again, reused = write_shards(config, folder / "d", base=folder)
        assert (again.digest, reused) == (first.digest, False)
        assert write_shards(config, folder / "d", base=folder)[1]
        next((folder / "images" / "cat").glob("*.JPG")).write_bytes(image(99))
        assert write_shards(config, folder / "d", base=folder)[0].digest != first.digest

    def test_own_validation_folder(self, folder: Path) -> None:
        path = folder / "val" / "dog" / "x.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(image(50))
        source = open_(FolderSource(kind="folder", train="images", val="val"), folder)
        assert images_of(source)["val", "dog", 1] == {image(50)}
        assert sum(entry.split == "train" for entry in source.entries()) == 12

    def test_missing_folder_is_a_wrong_config(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such file"):
            open_(self.CONFIG, tmp_path)

    def test_bad_images_fail_the_run_and_are_listed(self, folder: Path) -> None:
        (folder / "images" / "cat" / "bad.jpg").write_bytes(image(3)[:200])
        (folder / "images" / "cat" / "page.png").write_bytes(b"<html>")
        config = DataConfig(source=self.CONFIG, minival=0.2, val=0.2)
        with pytest.raises(
            DataError, match=r"2 bad files of 14, data.images.max_bad allows 0; all are listed in"
        ) as caught:
            write_shards(config, folder / "d", base=folder)
        quarantine = Path(str(caught.value).splitlines()[0].rpartition(" listed in ")[2])
        rows = [json.loads(line) for line in quarantine.read_text().splitlines()]
        assert sorted(Path(row["where"]).name for row in rows) == ["bad.jpg", "page.png"]
        allowed = config.model_copy(update={"images": config.images.model_copy(update={"max_bad": 2})})
        manifest, _ = write_shards(allowed, folder / "d", base=folder)
        assert (manifest.num_samples, manifest.quarantined) == (12, 2)
        assert verify(folder / "d" / manifest.digest) == []
        with pytest.raises(DataError, match=r"2 bad files of 14, data\.images.max_bad allows 0"):
            write_shards(config, folder / "d", base=folder)  # also once a larger number made the dataset

    def test_a_dataset_tells_of_the_folder_that_is_asked_for(self, folder: Path) -> None:
        """Another folder with the same images among broken files gives the same dataset."""
        shutil.copytree(folder / "images", folder / "dirty")
        (folder / "dirty" / "cat" / "bad.jpg").write_bytes(image(3)[:200])
        clean = DataConfig(source=self.CONFIG, minival=0.2, val=0.2)
        dirty = DataConfig.parse(
            clean.model_dump() | {"source": {"kind": "folder", "train": "dirty"}, "images": {"max_bad": 1}}, "data"
        )
        for _ in range(2):
            first, _ = write_shards(clean, folder / "d", base=folder)
            where = folder / "d" / first.digest
            assert (first.quarantined, listed(where), list(remarks(where, first))) == (0, [], [])
            again, _ = write_shards(dirty, folder / "d", base=folder)
            assert again.digest == first.digest
            assert (again.quarantined, len(listed(where))) == (1, 1)
            assert verify(where) == []


def assert_copied_once(config: SourceConfig, folder: Path) -> None:
    """All images of a source lie in one file of the scratch folder, which a second opening leaves as it is."""
    scratch = folder / "scratch"
    bytes_ = sum(len(data) for images in images_of(open_(config, folder)).values() for data in images)
    (copy,) = scratch.rglob("images.bin")
    before = copy.stat()
    assert before.st_size == bytes_
    images_of(open_(config, folder))
    (again,) = scratch.rglob("images.bin")
    assert (again.stat().st_ino, again.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_keys_are_safe_and_unique() -> None:
    assert make_key("cat-1_a") == "cat-1_a"
    keys = {make_key(path) for path in ("a b", "a_b", "a/b", "a.b", "ä", "x" * 200, "y" + "x" * 200)}
    assert len(keys) == 7
    assert all(len(key) <= 90 and not set(key) & set("./ \\") for key in keys)


class TestIdx:
    def write(self, folder: Path, prefix: str, number: int, *, packed: bool = False) -> None:
        images = np.arange(number * 5 * 4, dtype=np.uint8).reshape(number, 5, 4)
        labels = np.arange(number, dtype=np.uint8) % 3
        for name, data in (
            (f"{prefix}-images-idx3-ubyte", struct.pack(">4I", 0x803, number, 5, 4) + images.tobytes()),
            (f"{prefix}-labels-idx1-ubyte", struct.pack(">2I", 0x801, number) + labels.tobytes()),
        ):
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / name).write_bytes(data)

    @pytest.mark.parametrize("packed", [False, True])
    def test_images_and_labels(self, tmp_path: Path, packed: bool) -> None:
        self.write(tmp_path, "train", 7, packed=packed)
        self.write(tmp_path, "t10k", 3, packed=packed)
        source = open_(IdxSource(kind="idx", folder=".", classes=("a", "b", "c")), tmp_path)
        entries = source.entries()
        assert [(entry.split, entry.label) for entry in entries] == [
            *(("train", n % 3) for n in range(7)),
            *(("val", n % 3) for n in range(3)),
        ]
        pixels = np.asarray(Image.open(io.BytesIO(source.read(entries[4]))))
        assert np.array_equal(pixels.ravel(), np.arange(80, 100))

    def test_faults_are_named(self, tmp_path: Path) -> None:
        config = IdxSource(kind="idx", folder=".")
        with pytest.raises(ConfigError, match="neither train-images-idx3-ubyte nor"):
            open_(config, tmp_path)
        self.write(tmp_path, "train", 7)
        self.write(tmp_path, "t10k", 3)
        with pytest.raises(ConfigError, match="labels go up to 2"):
            open_(IdxSource(kind="idx", folder=".", classes=("a",)), tmp_path)
        path = tmp_path / "train-images-idx3-ubyte"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(DataError, match="139 bytes of data, but its header says 7 x 5 x 4"):
            open_(config, tmp_path)
        path.write_bytes(b"nonsense" * 9)
        with pytest.raises(DataError, match="not an IDX file"):
            open_(config, tmp_path)


class TestParquet:
    CONFIG = ParquetSource(kind="parquet", train="*.parquet")

    def write(self, folder: Path, labels: list[object], *, names: bool = False, struct_: bool = True) -> None:
        data = [image(number) for number in range(len(labels))]
        column = pa.array([{"bytes": row, "path": None} for row in data]) if struct_ else pa.array(data, pa.binary())
        table = pa.table({"image": column, "label": labels})
        if names:
            info = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
        pq.write_table(table, folder / "part-0.parquet", row_group_size=5)

    @pytest.mark.parametrize("struct_", [True, False])
    @pytest.mark.parametrize(("labels", "names"), [([0, 1] * 6, True), (["cat", "dog"] * 6, False)])
    def test_images_and_labels(self, tmp_path: Path, labels: list[object], names: bool, struct_: bool) -> None:
        self.write(tmp_path, labels, names=names, struct_=struct_)
        assert images_of(open_(self.CONFIG, tmp_path)) == WANTED
        source = open_(self.CONFIG, tmp_path)
        assert source.describe(source.entries()[7]).endswith("part-0.parquet: row 7")

    def test_images_are_copied_once_into_one_file(self, tmp_path: Path) -> None:
        self.write(tmp_path, [0, 1] * 6, names=True)
        assert_copied_once(self.CONFIG, tmp_path)

    def test_faults_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such file"):
            open_(self.CONFIG, tmp_path)
        self.write(tmp_path, [0, 1, None])
        with pytest.raises(DataError, match="row 2 has no label"):
            open_(self.CONFIG, tmp_path)
        self.write(tmp_path, [0, 7], names=True)
        with pytest.raises(DataError, match="labels from 0 to 7, but classes from 0 to 1"):
            open_(self.CONFIG, tmp_path)
        self.write(tmp_path, [0, 1])
        with pytest.raises(ConfigError, match=r"no column 'pixels' \(it has image, label\)"):
            open_(self.CONFIG.model_copy(update={"image": "pixels"}), tmp_path)
        path = tmp_path / "part-0.parquet"
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(DataError, match="not a readable Parquet file"):
            open_(self.CONFIG, tmp_path)

    @pytest.mark.parametrize("image_type", [pa.binary(), pa.large_binary(), pa.binary_view()])
    @pytest.mark.parametrize(
        "label_type",
        [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
    )
    def test_columns_as_polars_and_pandas_write_them(
        self, tmp_path: Path, image_type: pa.DataType, label_type: pa.DataType
    ) -> None:
        images = pa.array([image(number) for number in range(12)], image_type)
        labels = pa.array(["cat", "dog"] * 6, pa.large_string()).cast(label_type)
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "part-0.parquet")
        assert pq.read_schema(tmp_path / "part-0.parquet").field("label").type == label_type
        assert images_of(open_(self.CONFIG, tmp_path)) == WANTED

    def test_a_frame_of_pandas(self, tmp_path: Path) -> None:
        import pandas as pd

        frame = pd.DataFrame({"image": [image(number) for number in range(12)], "label": ["cat", "dog"] * 6})
        frame.to_parquet(tmp_path / "part-0.parquet")
        assert images_of(open_(self.CONFIG, tmp_path)) == WANTED
        frame["label"] = frame["label"].astype("category")
        frame.to_parquet(tmp_path / "part-0.parquet")
        assert images_of(open_(self.CONFIG, tmp_path)) == WANTED

    @pytest.mark.parametrize(
        ("labels", "classes"),
        [
            (pa.array([False, True] * 6), ("false", "true")),
            (pa.array([0.0, 1.0] * 6), ("0", "1")),  # what pandas makes of integers when a value was missing once
            (pa.array([7, 99_999_999] * 6), ("7", "99999999")),
            (pa.array([5, 2**63] * 6, pa.uint64()), ("5", str(2**63))),
        ],
    )
    def test_labels_of_other_kinds_and_ids(self, tmp_path: Path, labels: pa.Array, classes: tuple[str, ...]) -> None:
        images = pa.array([image(number) for number in range(12)])
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "part-0.parquet")
        source = open_(self.CONFIG, tmp_path)
        assert source.classes == classes
        assert [entry.label for entry in source.entries()] == [0, 1] * 6
        ids = classes[1].isdecimal() and int(classes[1]) > 1
        told = f"labels run to {int(classes[1]):,}, but only 2 different ones occur: each of these is" if ids else ""
        assert told in "".join(source.remarks().notes)
        assert bool(source.remarks().notes) == ids

    def test_text_that_is_not_utf8_is_told(self, tmp_path: Path) -> None:
        labels = pa.array([b"caf\xe9", b"bar"] * 3).view(pa.string())
        pq.write_table(
            pa.table({"image": [image(number) for number in range(6)], "label": labels}), tmp_path / "p.parquet"
        )
        with pytest.raises(DataError, match=r"p\.parquet: column 'label' holds text that is not UTF-8"):
            open_(self.CONFIG, tmp_path)

    def test_names_with_brackets_and_folders_that_are_called_like_files(self, tmp_path: Path) -> None:
        self.write(tmp_path, [0, 1] * 6)
        (tmp_path / "all" / "table.parquet").mkdir(parents=True)
        for path in (tmp_path / "photos [1].parquet", tmp_path / "all" / "table.parquet" / "part.0.parquet"):
            path.write_bytes((tmp_path / "part-0.parquet").read_bytes())
        for train in ("photos [1].parquet", "all"):
            assert len(open_(self.CONFIG.model_copy(update={"train": train}), tmp_path).entries()) == 12

    def test_nested_folders_of_files(self, tmp_path: Path) -> None:
        self.write(tmp_path, [0, 1] * 6)
        for number, name in enumerate(("x/y", "z", ".hidden")):
            (tmp_path / "all" / name).mkdir(parents=True)
            table = pq.read_table(tmp_path / "part-0.parquet").slice(number * 6, 6)
            pq.write_table(table, tmp_path / "all" / name / "part-0.parquet")
        (tmp_path / "all" / "_SUCCESS").touch()
        (tmp_path / "all" / "x" / "y" / "all").mkdir()
        source = open_(ParquetSource(kind="parquet", train="all"), tmp_path)
        found = {name: images for (_, name, _), images in images_of(source).items()}
        assert found == {str(label): images for (_, _, label), images in WANTED.items()}
        assert source.describe(source.entries()[8]) == f"{tmp_path}/all/z/part-0.parquet: row 2"
        with pytest.raises(ConfigError, match=r"no \.parquet file in it"):
            open_(ParquetSource(kind="parquet", train="all"), tmp_path / "all" / "x" / "y")

    def test_files_without_rows(self, tmp_path: Path) -> None:
        self.write(tmp_path, [0, 1] * 6)
        empty = pq.read_table(tmp_path / "part-0.parquet").slice(0, 0)
        pq.write_table(empty, tmp_path / "part-1.parquet")
        assert len(open_(self.CONFIG, tmp_path).entries()) == 12
        pq.write_table(empty, tmp_path / "part-0.parquet")
        with pytest.raises(DataError, match=r"part-0\.parquet: no rows in it, nor in the others"):
            open_(self.CONFIG, tmp_path)

    def test_the_file_with_a_damaged_page_is_named(self, tmp_path: Path) -> None:
        self.write(tmp_path, [0, 1] * 6)
        data = (tmp_path / "part-0.parquet").read_bytes()
        column = pq.ParquetFile(tmp_path / "part-0.parquet").metadata.row_group(2).column(0)
        begin = column.dictionary_page_offset or column.data_page_offset
        damaged = data[:begin] + b"\xff" * 40 + data[begin + 40 :]
        (tmp_path / "part-1.parquet").write_bytes(damaged)
        (tmp_path / "part-2.parquet").write_bytes(data)
        with pytest.raises(DataError, match=r"part-1\.parquet: damaged after row \d+ .*get this file again") as caught:
            open_(self.CONFIG, tmp_path).entries()
        assert "\n" not in str(caught.value)

    def test_paths_instead_of_bytes_and_mixed_labels_are_told(self, tmp_path: Path) -> None:
        images = pa.array(
            [{"bytes": None, "path": "cat/1.jpg"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})
        )
        pq.write_table(pa.table({"image": images, "label": [0]}), tmp_path / "part-0.parquet")
        with pytest.raises(DataError, match=r"row 0: column 'image' holds the path 'cat/1.jpg', not the image's bytes"):
            open_(self.CONFIG, tmp_path).entries()
        pq.write_table(pa.table({"image": images, "label": ["cat"]}), tmp_path / "part-1.parquet")
        with pytest.raises(DataError, match=r"some labels are numbers \(0\), some are text \('cat'\)"):
            open_(self.CONFIG, tmp_path)


class TestWebDataset:
    CONFIG = WebDatasetSource(kind="webdataset", train="old-{0..1}.tar")

    def write(self, folder: Path, **extra: bytes) -> None:
        for shard in range(2):
            with wds.TarWriter(str(folder / f"old-{shard}.tar"), encoder=False) as writer:
                for number in range(shard, 12, 2):
                    name = CLASSES[number % 2].encode()
                    writer.write({"__key__": f"s{number}", "jpg": image(number), "cls": name, **extra})

    def test_images_and_labels(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        assert images_of(open_(self.CONFIG, tmp_path)) == WANTED

    def test_images_are_copied_once_into_one_file(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        assert_copied_once(self.CONFIG, tmp_path)

    def test_counters_that_restart_in_each_shard(self, tmp_path: Path) -> None:
        for shard in range(2):
            with wds.TarWriter(str(tmp_path / f"old-{shard}.tar"), encoder=False) as writer:
                for count, number in enumerate(range(shard, 12, 2)):
                    writer.write({"__key__": f"{count:04d}", "jpg": image(number), "cls": CLASSES[number % 2].encode()})
        source = open_(self.CONFIG, tmp_path)
        assert images_of(source) == WANTED
        assert len({entry.key for entry in source.entries()}) == 12
        assert source.describe(source.entries()[7]) == f"{tmp_path}/old-1.tar: sample '0001'"
        manifest, _ = write_shards(DataConfig(source=self.CONFIG, minival=0.2), tmp_path / "d", base=tmp_path)
        assert manifest.num_samples == 12

    def test_names_with_dots(self, tmp_path: Path) -> None:
        for shard in range(2):
            with tarfile.open(tmp_path / f"old-{shard}.tar", "w") as tar:
                for number in range(shard, 12, 2):
                    add(tar, f"v1.2_{number:04d}.JPG", image(number))
                    add(tar, f"v1.2_{number:04d}.cls", CLASSES[number % 2].encode())
        assert images_of(open_(self.CONFIG, tmp_path)) == WANTED
        with tarfile.open(tmp_path / "old-0.tar", "w") as tar:
            add(tar, "a.seg.png", image(1))  # by the format's rule the file `seg.png` of the sample `a`
            add(tar, "a.cls", b"cat")
            add(tar, "a.jpg", image(2))
            add(tar, "a.json", b"{}")
        assert images_of(open_(self.CONFIG, tmp_path))["", "cat", 0] == {image(2)}
        with tarfile.open(tmp_path / "old-0.tar", "w") as tar:
            for number in range(300):
                add(tar, f"v1.2_{number:04d}.png", b"x")
        with pytest.raises(
            DataError, match=r"sample 'v1\.2_0000': has png; one image \(.*\) and cls are needed"
        ) as caught:
            open_(self.CONFIG, tmp_path).entries()
        assert len(str(caught.value)) < 300

    @pytest.mark.parametrize("big", ["99999999", "9" * 18, "9" * 5000, str(2**63)])
    def test_labels_that_are_ids_take_no_memory(self, tmp_path: Path, big: str) -> None:
        self.write(tmp_path, cls=b"0")
        with wds.TarWriter(str(tmp_path / "old-1.tar"), encoder=False) as writer:
            writer.write({"__key__": "s", "jpg": image(1), "cls": big.encode()})
        source = open_(self.CONFIG, tmp_path)
        if len(big) > 1000:
            with pytest.raises(DataError, match="its cls has 5,000 bytes, too many for a name or number"):
                source.entries()
            return
        assert source.classes == ("0", big)
        assert bool(source.remarks().notes) == (len(big) <= 18)

    def test_our_own_shards_are_a_source(self, folder: Path) -> None:
        config = DataConfig(source=TestFolder.CONFIG, minival=0.2, val=0.2)
        manifest, _ = write_shards(config, folder / "d", base=folder)
        again = WebDatasetSource(kind="webdataset", train=f"d/{manifest.digest}/*.tar")
        found = images_of(open_(again, folder))
        assert {(key[0], key[2]): images for key, images in found.items()} == {
            (key[0], key[2]): images for key, images in WANTED.items()
        }

    def test_a_pickle_is_never_loaded(self, tmp_path: Path) -> None:
        self.write(tmp_path, pyd=b"cos\nsystem\n(S'touch /tmp/effnet-pickle-ran'\ntR.")
        images_of(open_(self.CONFIG, tmp_path))
        assert not Path("/tmp/effnet-pickle-ran").exists()  # noqa: S108

    def test_faults_are_named(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        path = tmp_path / "old-1.tar"
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])  # webdataset alone would read the first half and say nothing
        with pytest.raises(DataError, match=r"old-1\.tar: byte \d+: "):
            images_of(open_(self.CONFIG, tmp_path))
        path.unlink()
        with pytest.raises(ConfigError, match=r"old-1\.tar: no such file"):
            open_(self.CONFIG, tmp_path)
        with wds.TarWriter(str(path), encoder=False) as writer:
            writer.write({"__key__": "s1", "jpg": image(1)})
        with pytest.raises(DataError, match=r"sample 's1': has jpg; one image \(jpg, .*\) and cls are needed"):
            images_of(open_(self.CONFIG, tmp_path))


class TestImageNet:
    """Small archives of the official shape: three leaf classes whose ids are in another order than their wnids."""

    CONFIG = ImageNetSource(kind="imagenet", train="train.tar", val="val.tar", devkit="devkit.tgz", check_md5=False)
    SYNSETS = (
        (1, "n00000003", "third", 0),
        (2, "n00000001", "first", 0),
        (3, "n00000002", "second", 0),
        (4, "n9", "group", 3),
    )

    def write(self, folder: Path, *, wrong: str | None = None) -> None:
        rows = [(number, wnid, words, children) for number, wnid, words, children in self.SYNSETS]
        fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
        meta = io.BytesIO()
        scipy.io.savemat(meta, {"synsets": np.array(rows, dtype=fields)})
        truth = b"3\n1\n2\n1\n"
        with tarfile.open(folder / "devkit.tgz", "w:gz") as tar:
            add(tar, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
            add(tar, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth)
        with tarfile.open(folder / "train.tar", "w") as outer:
            for number, wnid in enumerate(("n00000002", "n00000001", "n00000003")):
                inner = io.BytesIO()
                with tarfile.open(fileobj=inner, mode="w") as tar:
                    for index in range(4):
                        name = wrong if wrong and (number, index) == (1, 2) else f"{wnid}_{index}.JPEG"
                        add(tar, name, image(10 * number + index))
                add(outer, f"{wnid}.tar", inner.getvalue())
        with tarfile.open(folder / "val.tar", "w") as tar:
            for index in (3, 1, 4, 2):  # not in the order of names
                add(tar, f"ILSVRC2012_val_{index:08d}.JPEG", image(40 + index))

    def test_images_and_labels(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        source = open_(self.CONFIG, tmp_path)
        assert source.classes == ("n00000001", "n00000002", "n00000003")
        assert source.class_names == ("first", "second", "third")
        found = images_of(source)
        assert found["train", "n00000001", 0] == {image(10 + n) for n in range(4)}
        assert found["train", "n00000002", 1] == {image(n) for n in range(4)}
        # line i of the ground truth is the i-th file by name, and holds an ILSVRC2012_ID
        assert found["val", "n00000002", 1] == {image(41)}
        assert found["val", "n00000003", 2] == {image(42), image(44)}
        assert found["val", "n00000001", 0] == {image(43)}

    def test_wnids_and_names_travel_in_the_manifest(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        manifest, _ = write_shards(DataConfig(source=self.CONFIG, minival=0.25), tmp_path / "d", base=tmp_path)
        assert manifest == load_manifest(tmp_path / "d" / manifest.digest)
        assert manifest.class_names == ("first", "second", "third")
        assert manifest.samples == {"train": 8, "minival": 4, "val": 4}
        keys = index.Index.read(tmp_path / "d" / manifest.digest / "index.parquet", "val").keys.to_pylist()
        assert sorted(keys) == [f"ILSVRC2012_val_{number:08d}" for number in range(1, 5)]

    @pytest.mark.parametrize("wrong", ["n00000009_1.JPEG", "n00000001_1.exe", "../n00000001_1.JPEG"])
    def test_strangers_in_an_inner_archive_are_refused(self, tmp_path: Path, wrong: str) -> None:
        self.write(tmp_path, wrong=wrong)
        with pytest.raises(DataError, match=r"train\.tar: n00000001\.tar: byte \d+"):
            open_(self.CONFIG, tmp_path).entries()

    @pytest.mark.parametrize("name", ["train.tar", "val.tar", "devkit.tgz"])
    def test_truncated_archives_are_refused(self, tmp_path: Path, name: str) -> None:
        self.write(tmp_path)
        data = (tmp_path / name).read_bytes()
        for keep in (0.3, 0.7):
            (tmp_path / name).write_bytes(data[: int(len(data) * keep)])
            with pytest.raises(DataError, match=name):
                open_(self.CONFIG, tmp_path).entries()

    def test_other_md5_sums_are_refused(self, tmp_path: Path) -> None:
        self.write(tmp_path)
        with pytest.raises(
            DataError, match=r"devkit\.tgz: MD5 is [0-9a-f]{32}, but the official devkit archive has fa75699e"
        ):
            open_(self.CONFIG.model_copy(update={"check_md5": True}), tmp_path)

    @pytest.mark.parametrize("chunk", [512, 1000, 1 << 23])
    def test_md5_sums_are_checked_while_the_archives_are_walked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
    ) -> None:
        self.write(tmp_path)
        plain = open_(self.CONFIG, tmp_path).entries()
        names = {"train": "train.tar", "val": "val.tar", "devkit": "devkit.tgz"}
        sums = {
            what: hashlib.md5((tmp_path / name).read_bytes(), usedforsecurity=False).hexdigest()
            for what, name in names.items()
        }
        monkeypatch.setattr(imagenet, "MD5", sums)
        monkeypatch.setattr(imagenet, "COUNTS", {"train": 12, "val": 4})
        monkeypatch.setattr(imagenet._Hashed.__init__, "__defaults__", (chunk,))
        checked = self.CONFIG.model_copy(update={"check_md5": True})
        assert open_(checked, tmp_path).entries() == plain
        for name in ("train", "val"):
            path = tmp_path / names[name]
            path.write_bytes(path.read_bytes() + b"\0")
            with pytest.raises(
                DataError, match=rf"{name}\.tar: MD5 is .*, but the official {name} archive has {sums[name]}"
            ):
                open_(checked, tmp_path).entries()
            path.write_bytes(path.read_bytes()[:-1])
        monkeypatch.setattr(imagenet, "COUNTS", {"train": 12, "val": 5})
        with pytest.raises(DataError, match=r"val\.tar: 4 images, not 5"):
            open_(checked, tmp_path).entries()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
