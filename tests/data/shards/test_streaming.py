"""Other readers see our datasets as they are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from uv import find_uv_bin

from effnet.config import Augment
from effnet.data.loader import Loader
from effnet.data.shards.index import Index
from effnet.data.shards.manifest import Manifest
from effnet.data.shards.streaming import webdataset
from effnet.errors import ConfigError
from effnet.store import Store


@pytest.fixture
def folder(dataset_store: Store, manifest: Manifest) -> Path:
    return dataset_store.datasets / manifest.digest


def test_webdataset_gives_the_loaders_images(folder: Path) -> None:
    loader = Loader(folder, "val", batch_size=100, resolution=8, augment=Augment(crop_padding=0))
    images = np.concatenate([batch.images.permute(0, 2, 3, 1).numpy() for batch in loader.epoch(0)])
    pairs = list(webdataset(folder, "val"))
    assert np.array_equal(np.stack([image for image, _ in pairs]), images)
    assert [label for _, label in pairs] == loader.index.labels.tolist()


def test_shuffled_and_encoded(folder: Path) -> None:
    plain = [image for image, _ in webdataset(folder, "train", decoded=False)]
    mixed = [image for image, _ in webdataset(folder, "train", decoded=False, shuffle=500)]
    assert sorted(plain) == sorted(mixed)
    assert plain != mixed
    with pytest.raises(ConfigError, match="no test split here"):
        webdataset(folder, "test")


def test_dali_index_names_every_file(folder: Path) -> None:
    """The format of DALI's tool wds2idx, version 1.2: a count, then extension, offset, size and name of each file."""
    index = Index.read(folder / "index.parquet", "minival")
    head, *lines = (folder / "minival-00000.idx").read_text().splitlines()
    assert head == f"v1.2 {len(lines)}"
    data = (folder / "minival-00000.tar").read_bytes()
    for number, line in enumerate(lines):
        kind, at, size, name, extension, offset, length, image = line.split(" ")
        assert (kind, extension) == ("cls", "png")
        assert data[int(at) : int(at) + int(size)] == str(index.labels[number]).encode()
        assert (int(offset), int(length)) == (index.offsets[number], index.lengths[number])
        assert data[int(at) - 512 :].startswith(name.encode() + b"\0")
        assert data[int(offset) - 512 :].startswith(image.encode() + b"\0")


def test_dali_reads_what_the_loader_reads(folder: Path) -> None:
    command = [find_uv_bin(), "run", "--quiet", "--no-project", "--python", sys.executable]
    packages = ["--with", "nvidia-dali-cuda130==2.4.0", "--with", "numpy<2.4"]
    script = str(Path(__file__).with_name("dali_reader.py"))
    done = subprocess.run(
        [*command, *packages, "python", script, str(folder), "val"], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    loader = Loader(folder, "val", batch_size=100, resolution=8, augment=Augment(crop_padding=0))
    means = [float(image) for batch in loader.epoch(0) for image in batch.images.float().mean((1, 2, 3))]
    assert json.loads(done.stdout) == [
        [label, pytest.approx(mean, abs=1e-3)] for label, mean in zip(loader.index.labels.tolist(), means, strict=True)
    ]
