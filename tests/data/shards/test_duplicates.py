"""Twins in a dataset: the same bytes, or nearly the same picture; and never two different small or flat images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageEnhance

from effnet.config import DataConfig, FolderSource, Mnist5kSource
from effnet.data.images.decode import thumbnail
from effnet.data.shards.duplicates import ALIKE, BITS, _candidates, _units, find_duplicates, phash
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.write import write_shards
from effnet.data.sources import open_source
from effnet.errors import ConfigError
from effnet.store import Store
from flows.cli.main import cli
from tests.data.photographs import encode


def scene(seed: int, side: int = 96) -> Image.Image:
    """Return a picture of its own: a few large shapes, as photographs have, and some grain."""
    rng = np.random.default_rng(seed)
    large = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    grain = rng.normal(0, 6, (side, side, 3))
    return Image.fromarray(np.clip(np.asarray(large) + grain, 0, 255).astype(np.uint8))


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "compressed": lambda image: encode(image, quality=40),
    "halved": lambda image: encode(image.resize((image.width * 2 // 3,) * 2), quality=85),
    "lighter": lambda image: encode(ImageEnhance.Brightness(image).enhance(1.15), quality=85),
    "paler": lambda image: encode(ImageEnhance.Contrast(image).enhance(0.8), "png"),
    "grey": lambda image: encode(image.convert("L"), "png"),
}


def put(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def shard(tmp_path: Path, **settings: object) -> Path:
    source = FolderSource(kind="folder", train=str(tmp_path / "train"), val=str(tmp_path / "val"))
    manifest, _ = write_shards(DataConfig(source=source, **settings), tmp_path / "d")  # type: ignore[arg-type]
    return tmp_path / "d" / manifest.digest


def test_same_and_near_twins_are_listed_with_split_and_class(tmp_path: Path) -> None:
    for n in range(40):
        put(tmp_path / "train", f"{'ab'[n % 2]}/{n}.jpg", encode(scene(n, 100), quality=95))
        put(tmp_path / "val", f"{'ab'[n % 2]}/{n}.jpg", encode(scene(1000 + n, 100), quality=95))
    for n, (name, change) in enumerate(CHANGES.items()):
        put(
            tmp_path / "val",
            f"{'ab'[n % 2]}/{name}.{'png' if name in ('paler', 'grey') else 'jpg'}",
            change(scene(n, 100)),
        )
    put(tmp_path / "train", "b/other.jpg", encode(scene(6, 100), quality=60))  # a is right
    put(
        tmp_path / "train", "a/again.jpg", encode(scene(10, 100), quality=60)
    )  # in its twin's split and class: not listed
    put(tmp_path / "val", "a/copy.jpg", (tmp_path / "train" / "a" / "8.jpg").read_bytes())
    folder, out = shard(tmp_path), tmp_path / "twins.json"
    done = CliRunner().invoke(cli, ["data", "duplicates", str(folder), "--out", str(out)], catch_exceptions=False)
    rows = json.loads(out.read_text())
    found = {tuple(sorted((row["image"], row["twin"]))): row for row in rows}
    # every pair that was made, and no other
    made = {tuple(sorted((f"train_{'ab'[n % 2]}_{n}", f"val_{'ab'[n % 2]}_{name}"))) for n, name in enumerate(CHANGES)}
    short = {tuple(sorted(key.rsplit("-", 1)[0] for key in pair)) for pair in found}
    assert short == made | {("train_a_6", "train_b_other"), ("train_a_8", "val_a_copy")}
    by_kind = {row["kind"] for row in rows}
    assert by_kind == {"same", "near"}
    assert rows[0]["kind"] == "same"
    assert rows[0]["leak"]
    for row in rows:
        assert row["leak"] == (row["image_split"] != row["twin_split"])
        assert row["conflict"] == (row["image_class"] != row["twin_class"])
        assert row["correlation"] >= ALIKE
    assert sum(row["conflict"] for row in rows) == 1
    assert "pairs of the same bytes: 1, 1 across splits, 0 across classes" in done.output
    assert "pairs nearly the same: 6, " in done.output
    assert done.output.endswith(f"{out}: written\n")
    assert not done.output.startswith("\n")
    CliRunner().invoke(
        cli, ["data", "duplicates", str(folder), "--out", str(tmp_path / "t.csv")], catch_exceptions=False
    )
    table = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert [row["image"] for row in table] == [row["image"] for row in rows]
    report = CliRunner().invoke(cli, ["data", "report", str(folder)], catch_exceptions=False)
    assert "effnet data duplicates lists them" in report.output


def test_small_and_flat_images_are_compared_by_their_bytes_alone(
    tmp_path: Path, dataset_store: Store, manifest: Manifest
) -> None:
    digits = find_duplicates(dataset_store.datasets / manifest.digest)  # 8 pixels
    assert digits.small == 1797
    assert not digits.twins
    for n in range(8):
        noise = np.random.default_rng(n).integers(100, 104, (80, 80, 3), dtype=np.uint8)
        put(tmp_path / "train", f"a/{n}.png", encode(Image.fromarray(noise), "png"))
        put(tmp_path / "val", f"a/{n}.png", encode(Image.fromarray(noise + np.uint8(1)), "png"))
    flat = find_duplicates(shard(tmp_path))
    assert flat.flat == 16
    assert not flat.twins


def test_why_small_images_are_compared_by_their_bytes_alone(tmp_path: Path) -> None:
    """On MNIST, hash and correlation would pair different images: the figures of the documentation."""
    source = open_source(Mnist5kSource(kind="mnist5k"), Path(), tmp_path)
    small = np.stack([thumbnail(source.read(entry), 32, entry.key) for entry in source.entries()])
    flat, by_hash, alike = small.reshape(len(small), -1), set(), set()
    for one, two, close in _candidates(phash(small)):
        close &= one[:, None] < two
        near = close & (_units(flat[one]) @ _units(flat[two]).T >= ALIKE)
        for found, mask in ((by_hash, close), (alike, near)):
            rows, columns = np.nonzero(mask)
            found |= set(zip(one[rows].tolist(), two[columns].tolist(), strict=True))
    assert (len(by_hash), len(alike)) == (11_983, 105)


def test_every_pair_of_close_hashes_is_a_candidate() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 400, dtype=np.uint64)
    for place in range(200):  # the other half differs from the first in up to eight bits
        flips = rng.choice(64, rng.integers(0, 9), replace=False)
        hashes[200 + place] = hashes[place] ^ np.bitwise_or.reduce(
            np.uint64(1) << flips.astype(np.uint64), initial=np.uint64(0)
        )
    close = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= BITS
    found = np.zeros(close.shape, int)
    for one, two, near in _candidates(hashes):
        found[np.ix_(one, two)] += near
    for each in (close, found):
        np.fill_diagonal(each, 0)
    assert close.sum() >= 200  # both ways round
    assert (found == close).all()  # once


def test_of_frames_that_look_alike_each_pair_is_compared_once() -> None:
    found = list(_candidates(np.zeros(2000, np.uint64)))
    assert sum(int(close.sum()) for *_, close in found) == 2000**2
    assert len(found) == 4**2  # blocks, each of which is one product of matrices


def test_broken_requests_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no manifest\.json here"):
        find_duplicates(tmp_path)
    for out, told in (
        (tmp_path / "a.txt", r"ends in \.csv or \.json"),
        (tmp_path / "no" / "a.csv", "there is no folder"),
    ):
        with pytest.raises(ConfigError, match=told):
            CliRunner().invoke(cli, ["data", "duplicates", str(tmp_path), "--out", str(out)], catch_exceptions=False)


def test_hash_and_correlation_of_what_people_do_to_pictures() -> None:
    for seed in range(20):
        image = scene(seed)
        pictures = [encode(image, "png"), *(change(image) for change in CHANGES.values())]
        small = np.stack([thumbnail(data, 32, "") for data in pictures])
        flat = small.reshape(len(small), -1)
        assert np.bitwise_count(phash(small)[0] ^ phash(small)).max() <= BITS
        assert (_units(flat[:1]) @ _units(flat).T).min() >= ALIKE
