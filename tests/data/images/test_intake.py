"""Folders as people have them: everything in them is an image, told, or counted, and one run is enough to know."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet.config import DataConfig, FolderSource, ImageNetSource, ImagePolicy, ParquetSource
from effnet.data.images import intake as policy_module
from effnet.data.images.intake import BadImage, prepare
from effnet.data.shards.contents import report
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.verification import verify
from effnet.data.shards.write import FORMAT, find_dataset, write_shards
from effnet.errors import ConfigError, DataError
from tests.data.photographs import bomb, encode, orientation, photograph, sixteen_bit
from tests.tiny import run_effnet

DOCS = Path(__file__).parents[3] / "docs" / "data.md"


def broken_inside() -> bytes:
    data = bytearray(encode(photograph(), quality=90))
    middle = len(data) // 2
    data[middle : middle + 60] = b"\xff\xd0" * 30
    return bytes(data)


def rare_jpeg() -> bytes:
    data = bytearray(encode(photograph()))
    data[data.index(b"\xff\xc0") + 4] = 12  # bits
    return bytes(data)


def heic() -> bytes:
    return b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2000)


def picture(kind: str, **options: object) -> Callable[[], bytes]:
    return lambda: encode(photograph(), kind, **options)


# For each row of the table: images, the policy, and what they become; None: whatever they came as.
ROWS: dict[str, tuple[list[Callable[[], bytes]], ImagePolicy, str | None]] = {
    "JPEG, 8 bits, grey or colour, baseline or progressive": (
        [
            picture("jpeg"),
            picture("jpeg", progressive=True),
            lambda: encode(photograph().convert("L")),
        ],
        ImagePolicy(),
        "jpg",
    ),
    "PNG, 8 bits or fewer, without alpha": (
        [
            picture("png"),
            lambda: encode(photograph().convert("1"), "png"),
            lambda: encode(photograph().convert("P"), "png"),
        ],
        ImagePolicy(),
        "png",
    ),
    "a name that says otherwise (`n02105855_2933.JPEG` is a PNG)": ([picture("png")], ImagePolicy(), "png"),
    "bytes after a JPEG's end": ([lambda: encode(photograph()) + b"more" * 99], ImagePolicy(), "jpg"),
    "CMYK or YCCK JPEG": ([lambda: encode(photograph().convert("CMYK"))], ImagePolicy(), "jpg"),
    "PNG with alpha": (
        [lambda: encode(photograph().convert("RGBA"), "png"), lambda: encode(photograph().convert("LA"), "png")],
        ImagePolicy(),
        "png",
    ),
    "PNG of 16 bits": ([sixteen_bit], ImagePolicy(), "png"),
    "EXIF says that it lies on its side": (
        [
            picture("jpeg", exif=orientation(6)),
            picture("png", exif=orientation(8)),
            picture("webp", exif=orientation(3)),
        ],
        ImagePolicy(),
        None,
    ),
    "GIF": ([picture("gif")], ImagePolicy(), "png"),
    "BMP": ([picture("bmp")], ImagePolicy(), "png"),
    "TIFF": ([picture("tiff"), picture("tiff", compression="tiff_lzw")], ImagePolicy(), "png"),
    "WebP without loss": ([picture("webp", lossless=True)], ImagePolicy(), "png"),
    "WebP with loss": ([picture("webp")], ImagePolicy(), "jpg"),
    "AVIF": ([picture("avif", speed=10)], ImagePolicy(), "jpg"),
    "HEIC, with `pip install 'effnet[heif]'`": ([], ImagePolicy(), "jpg"),
    "progressive JPEG, with `baseline: true`": ([picture("jpeg", progressive=True)], ImagePolicy(baseline=True), "jpg"),
    "larger than `resize_short`, if given": ([picture("jpeg"), picture("png")], ImagePolicy(resize_short=20), None),
    "more than `max_pixels` (50 million)": ([bomb], ImagePolicy(), ""),
    "JPEG of 12 bits, lossless or arithmetic": ([rare_jpeg], ImagePolicy(), ""),
    "TIFF of 32 bits or with fractions": (
        [
            lambda: encode(photograph().convert("F"), "tiff"),
            lambda: encode(Image.fromarray(np.full((9, 9), 70_000, np.int32)), "tiff"),
        ],
        ImagePolicy(),
        "",
    ),
    "HEIC without the extra": ([heic], ImagePolicy(), ""),
    "text, a web page, a PDF, a video, anything else": (
        [
            lambda: b"label,image\n",
            lambda: b"<html>404</html>",
            lambda: b"%PDF-1.7",
            lambda: b"\0\0\0\x18ftypmp42" + bytes(99),
            lambda: b"\x07" * 40,
        ],
        ImagePolicy(),
        "",
    ),
    "cut short": (
        [lambda kind=kind: encode(photograph(), kind)[:-200] for kind in ("jpeg", "png", "gif", "webp", "tiff", "bmp")],
        ImagePolicy(),
        "",
    ),
    "damaged header": ([lambda: encode(photograph())[:9] + b"xxxx", lambda: b"GIF89a" + bytes(9)], ImagePolicy(), ""),
    "wrong PNG checksum": ([lambda: encode(photograph(), "png")[:-20] + bytes(20)], ImagePolicy(), ""),
    "empty": ([lambda: b""], ImagePolicy(), ""),
    "broken inside, with all its marks in place, with `decode: true`": ([broken_inside], ImagePolicy(decode=True), ""),
    "broken inside, with all its marks in place, otherwise": ([broken_inside], ImagePolicy(), "jpg"),
}


def table() -> dict[str, str]:
    """Return what the table of docs/data.md says each image is counted as."""
    lines = DOCS.read_text().split("## What happens to an image\n")[1].strip().split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
    return {image: counted.strip("`") for image, _, counted in cells}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_table_is_what_happens(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = table()[row]
    makers, policy, extension = ROWS[row]
    if row == "HEIC without the extra":
        monkeypatch.setattr(policy_module, "_heif_opener", lambda: False)
    if row.startswith("HEIC, with"):
        heif = pytest.importorskip("pillow_heif")
        heif.register_heif_opener()
        makers = [picture("heif")]
    for make in makers:
        data = make()
        if counted == "quarantine":
            with pytest.raises(BadImage) as refused:
                prepare(data, policy, turn=True)
            assert refused.value.kind
            assert row != "HEIC without the extra" or "pip install 'effnet[heif]'" in str(refused.value)
            continue
        prepared = prepare(data, policy, turn=True)
        assert counted in prepared.actions
        assert (prepared.image == data) == (counted == "kept")
        image = Image.open(io.BytesIO(prepared.image))
        assert image.format == {"jpg": "JPEG", "png": "PNG"}[extension or prepared.extension]
        assert image.size == (prepared.width, prepared.height)


def test_the_table_has_the_rows_that_are_tested() -> None:
    assert list(table()) == list(ROWS)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_what_lies_is_turned_upright(kind: str, value: int) -> None:
    upright = photograph(48)
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"}
    back |= {7: "TRANSVERSE", 8: "ROTATE_270"}
    stored = upright.transpose(Image.Transpose[back[value]]) if value > 1 else upright
    data = encode(stored, kind, exif=orientation(value), **({} if kind in ("png", "tiff") else {"quality": 95}))
    prepared = prepare(data, ImagePolicy(), turn=True)
    assert ("turned" in prepared.actions) == (value > 1)
    found = np.asarray(Image.open(io.BytesIO(prepared.image)).convert("RGB")).astype(int)
    assert found.shape == np.asarray(upright).shape
    assert np.abs(found - np.asarray(upright)).mean() < 6
    assert b"Exif" not in prepared.image or value == 1  # or it would be turned twice


@pytest.mark.parametrize(
    ("source", "orientation", "turned"),
    [
        (FolderSource(kind="folder", train="x"), "auto", True),
        (FolderSource(kind="folder", train="x"), "keep", False),
        (ParquetSource(kind="parquet", train="x"), "auto", True),
        (ImageNetSource(kind="imagenet", train="x", val="x", devkit="x"), "auto", False),
        (ImageNetSource(kind="imagenet", train="x", val="x", devkit="x"), "apply", True),
    ],
)
def test_orientation_is_applied_to_photos_of_ones_own(source: object, orientation: str, turned: bool) -> None:
    assert DataConfig(source=source, images=ImagePolicy(orientation=orientation)).turns_images == turned


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def photos(folder: Path, classes: str = "ab", number: int = 8) -> Path:
    for name in classes:
        for index in range(number):
            path = folder / name / f"{index}.jpg"
            seed = zlib.crc32(str(path.relative_to(folder.parent)).encode())  # wherever the test's folder is
            noise = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
            put(path, encode(Image.fromarray(noise), quality=90))
    return folder


def messy(folder: Path) -> int:
    """Put odd files of ten kinds into a folder; return how many are refused."""
    jpeg = encode(photograph(32))
    odd = {
        ".txt": b"a note",
        ".jpg": jpeg[:300],
        ".jpeg": b"",
        ".png": b"<html>404 not found</html>",
        ".pdf": b"%PDF-1.7 ...",
        ".mp4": b"\0\0\0\x18ftypmp42" + bytes(200),
        ".zip": b"PK\x03\x04" + bytes(50),
        ".webp": encode(photograph(32), "webp")[:60],
    }
    for extension, data in odd.items():
        for number in range(3):
            put(folder / "ab"[number % 2] / "deep" / f"odd {number}{extension}", data)
    put(folder / "loose.jpg", jpeg)
    put(folder / "labels.csv", b"image,label\n")
    (folder / "empty").mkdir()
    put(folder / "docs" / "readme.md", b"# nothing here is an image\n")
    os.symlink(folder / "gone", folder / "a" / "link.jpg")
    os.symlink("circle.jpg", folder / "a" / "circle.jpg")
    os.symlink("0.jpg/1.jpg", folder / "a" / "through.jpg")
    os.symlink("circle", folder / "circle")
    os.mkfifo(folder / "a" / "pipe.jpg")
    put(folder / "a" / os.fsdecode(b"caf\xe9.txt"), b"a name in Latin-1")
    return 24 + 10


def litter(folder: Path) -> None:
    for name in (
        "Thumbs.db",
        "desktop.ini",
        ".DS_Store",
        "a/Thumbs.db",
        "a/._0.jpg",
        "b/.hidden.jpg",
        "b/.ipynb_checkpoints/1.jpg",
    ):
        put(folder / name, encode(photograph(16)))
    put(folder / "__MACOSX" / "a" / "0.jpg", encode(photograph(16)))


def config(folder: Path, max_bad: int = 0, val: str | None = None) -> DataConfig:
    return DataConfig(
        source=FolderSource(kind="folder", train=str(folder), val=val), images=ImagePolicy(max_bad=max_bad)
    )


def test_one_run_tells_all_that_is_wrong_with_a_folder(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    number = messy(folder)
    with pytest.raises(DataError) as caught:
        write_shards(config(folder), tmp_path / "d")
    first, *lines = str(caught.value).splitlines()
    assert first.startswith(f"{number} bad files of {16 + number}, data.images.max_bad allows 0; all are listed in ")
    assert sum(int(line.split()[0]) for line in lines) == number
    for wanted in (
        "  4 .txt: no image but text (first: ",
        "  3 .jpg: JPEG cut short (first: ",
        "  3 .jpeg: empty (first: ",
        "  3 .png: no image but text (first: ",
        "  3 .pdf: no image but PDF (first: ",
        "  3 .mp4: no image but video (first: ",
        "  3 .zip: no image but zip (first: ",
        "  3 .webp: broken (first: ",
        "  1 .jpg: beside the class folders, so of no class (first: ",
        "  1 .csv: beside the class folders, so of no class (first: ",
        f"  1 other: a class folder without files (first: {folder / 'empty'})",
        "  1 .md: no image but text (first: ",
        f"  3 .jpg: a link that leads nowhere (first: {folder}/a/circle.jpg)",
        f"  1 .jpg: a pipe, socket or device (first: {folder}/a/pipe.jpg)",
    ):
        assert any(line.startswith(wanted) for line in lines), wanted
    manifest, _ = write_shards(config(folder, max_bad=number), tmp_path / "d")  # and now it passes
    assert (manifest.quarantined, manifest.num_samples, manifest.classes) == (number, 16, ("a", "b"))
    assert verify(tmp_path / "d" / manifest.digest) == []


def test_max_bad_enough_one_run_is_enough(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    number = messy(folder)
    litter(folder)
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"family: mine\nstore: store\ndata:\n  source: {{kind: folder, train: photos}}\n"
        f"  images: {{max_bad: {number}}}\nbaseline: efficientnet_b0\nmembers: {{phi: [0]}}\n"
    )
    done = run_effnet("shard", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"left out: {number}, listed in " in done.stdout
    assert "3 .pdf: no image but PDF (first: " in done.stdout
    assert (
        "passed over: 1 .DS_Store, 1 ._*, 1 .ipynb_checkpoints, 2 Thumbs.db, 1 __MACOSX, 1 desktop.ini, 1 hidden"
        in done.stdout
    )
    assert done.stderr.strip() == ""
    folder = next((tmp_path / "store" / "datasets").glob("[!.]*/"))
    told = run_effnet("data", "report", folder, cwd=tmp_path)
    assert "passed over: " in told.stdout
    assert len(report(folder)["quarantine"]) == number


def shard(tmp_path: Path, folder: Path, val: str | None = None) -> Manifest:
    return write_shards(config(folder, val=val), tmp_path / "d")[0]


@pytest.mark.parametrize("val", ["val", "valid", "Validation", "dev"])
@pytest.mark.parametrize("train", ["train", "Training"])
def test_roots_as_people_have_them(tmp_path: Path, train: str, val: str) -> None:
    root = tmp_path / "photos"
    photos(root / train)
    photos(root / val, number=2)
    photos(root / "test", number=3)
    manifest = shard(tmp_path, root)
    assert manifest.classes == ("a", "b")
    assert manifest.samples["val"] == 4
    assert manifest.samples["train"] + manifest.samples["minival"] == 16
    assert manifest.notes == (
        f"{root}: train is its folder '{train}', val its folder '{val}'",
        f"{root}/test: 6 images left out; to report on them, name the folder as val:",
    )


def test_a_root_without_val_and_one_whose_val_is_named(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    photos(root / "train", number=30)
    photos(root / "test", number=3)
    manifest = shard(tmp_path, root)
    assert manifest.num_samples == 60
    assert manifest.notes[0] == f"{root}: train is its folder 'train', a share of it is held out as val"
    named = shard(tmp_path, root, val=str(root / "test"))
    assert named.samples["val"] == 6
    photos(root / "valid", number=1)
    both = shard(tmp_path, root, val=str(root / "test"))
    assert both.samples["val"] == 6
    assert f"{root}/valid: 2 images left out; to report on them, name the folder as val:" in both.notes
    photos(root / "val", number=1)
    with pytest.raises(ConfigError, match=r"contains both 'val' and 'valid';|contains both 'valid' and 'val';"):
        shard(tmp_path, root)


def test_classes_called_train_and_bus_are_classes(tmp_path: Path) -> None:
    assert shard(tmp_path, photos(tmp_path / "vehicles", classes=("train", "bus"))).classes == ("bus", "train")


def test_images_of_an_unknown_class_in_val_are_refused_together(tmp_path: Path) -> None:
    photos(tmp_path / "train")
    val = photos(tmp_path / "val", classes="bcd", number=2)
    with pytest.raises(DataError) as caught:
        shard(tmp_path, tmp_path / "train", val=str(val))
    assert f"  4 .jpg: of a class that {tmp_path}/train does not have (first: {val}/c/0.jpg)" in str(caught.value)


def test_names_that_differ_in_their_ending_alone_are_two_images(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    for name in ("0.png", "0.PNG", "0"):
        put(folder / "a" / name, encode(photograph(20 + len(name)), "png"))
    assert shard(tmp_path, folder).num_samples == 19


def test_unreadable_files_are_counted_like_bad_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = photos(tmp_path / "photos")
    real = os.open

    def denied(path: str, *rest: int) -> int:
        if str(path).endswith(("a/0.jpg", "b/1.jpg")):
            raise PermissionError(13, "Permission denied")
        return real(path, *rest)

    monkeypatch.setattr(os, "open", denied)  # root may read all files, and tests may run as root
    with pytest.raises(DataError, match=r"2 bad files of 16") as caught:
        shard(tmp_path, folder)
    assert f"  2 .jpg: permission denied (first: {folder}/" in str(caught.value)


def test_a_dataset_that_was_split_by_the_old_rule_is_not_used_and_named(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    manifest = shard(tmp_path, folder)
    old = tmp_path / "d" / "0123456789abcdef"
    (tmp_path / "d" / manifest.digest).rename(old)
    data = json.loads((old / "manifest.json").read_bytes()) | {"digest": old.name}
    for new in ("format", "notes", "passed_over"):
        del data[new]
    del data["settings"]["images"]["orientation"]
    (old / "manifest.json").write_text(json.dumps(data))
    assert verify(old) == []  # it can still be read
    assert find_dataset(config(folder), tmp_path / "d") is None
    manifest = shard(tmp_path, folder)
    assert (manifest.format, FORMAT) == (3, 3)
    from effnet.data.shards.remarks import remarks

    (line,) = remarks(tmp_path / "d" / manifest.digest, manifest)
    assert line == "0123456789abcdef: from the same source, but split by an older rule (format 2); it is not used"


def test_a_broken_or_newer_dataset_beside_this_one_does_not_matter(tmp_path: Path) -> None:
    from effnet.data.shards.remarks import remarks

    manifest = shard(tmp_path, photos(tmp_path / "photos"))
    put(tmp_path / "d" / "0123456789abcdef" / "manifest.json", b'{"format": 9, "unheard": true}')
    assert list(remarks(tmp_path / "d" / manifest.digest, manifest)) == []


def test_a_mirror_does_not_name_a_list_that_it_does_not_have(tmp_path: Path) -> None:
    from effnet.data.shards.remarks import remarks

    folder = photos(tmp_path / "photos")
    put(folder / "a" / "note.txt", b"a note")
    manifest, _ = write_shards(config(folder, max_bad=1), tmp_path / "d")
    path = tmp_path / "d" / manifest.digest
    assert next(iter(remarks(path, manifest))) == f"left out: 1, listed in {path / 'quarantine.jsonl'}"
    (path / "quarantine.jsonl").unlink()
    assert list(remarks(path, manifest)) == ["left out: 1"]


def test_many_copies_in_two_splits_are_told_in_a_short_line(tmp_path: Path) -> None:
    train, val = photos(tmp_path / "train"), photos(tmp_path / "val")
    for number in range(40):
        put(train / "a" / f"copy {number}.jpg", (val / "a" / "0.jpg").read_bytes())
    told = next(note for note in shard(tmp_path, train, str(val)).notes if note.startswith("the same: "))
    assert f"val {val}/a/0.jpg" in told
    assert "more" in told
    assert told.count(".jpg") == 5


@pytest.mark.parametrize("max_bad", [0, 9])
def test_what_a_reader_or_rights_were_lacking_for_is_read_once_they_are_there(
    max_bad: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    folder = photos(tmp_path / "photos")
    put(folder / "a" / "phone.heic", encode(photograph(40), "heif"))
    with monkeypatch.context() as lacking:
        lacking.setattr(policy_module, "_heif_opener", lambda: False)
        with contextlib.nullcontext() if max_bad else pytest.raises(DataError, match="HEIC needs an extra"):
            manifest, _ = write_shards(config(folder, max_bad), tmp_path / "d")
            assert (manifest.num_samples, manifest.quarantined) == (16, 1)
            assert write_shards(config(folder, max_bad), tmp_path / "d") == (manifest, True)
    manifest, was_there = write_shards(config(folder, max_bad), tmp_path / "d")
    assert (manifest.num_samples, manifest.quarantined, was_there) == (17, 0, False)
    assert report(tmp_path / "d" / manifest.digest)["quarantine"] == []


def test_text_whose_beginning_ends_inside_a_character_is_text(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    put(folder / "a" / "read me.md", b"x" + "ä".encode() * 600)
    with pytest.raises(DataError, match=r"1 \.md: no image but text"):
        shard(tmp_path, folder)


@pytest.mark.parametrize("target", ["..", "../.."])
def test_a_link_to_a_folder_above_brings_no_images_of_other_classes(tmp_path: Path, target: str) -> None:
    folder = photos(tmp_path / "above" / "images")
    images = sum(1 for _ in folder.rglob("*.jpg"))
    os.symlink(target, folder / "a" / "up")
    manifest, _ = write_shards(config(folder, max_bad=1), tmp_path / "store")
    assert sum(manifest.samples.values()) == images
    told = report(tmp_path / "store" / manifest.digest)["quarantine"]
    assert [row["reason"] for row in told] == ["a folder that cannot be opened, or leads back to itself"]
