"""Our shards as a `webdataset` pipeline, for people who train with their own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effnet.data.images.decode import decode
from effnet.data.shards.manifest import MANIFEST, load_manifest
from effnet.errors import ConfigError


def webdataset(folder: Path | str, split: str, *, shuffle: int = 0, decoded: bool = True) -> Any:
    """Return a `wds.WebDataset` over a split: (image, label) pairs.

    Images are uint8 RGB arrays (height, width, 3), or the encoded bytes with `decoded=False`; labels are integers. Only
    these two files of a sample are touched.

    Args:
        folder: the dataset; its shards must be here.
        split: "train", "minival" or "val".
        shuffle: samples that are mixed at a time; 0 keeps the order. (The shards' order is drawn anew with it.)
        decoded: see above.

    Raises:
        ConfigError: if the folder is no dataset or has no such split.
    """
    from webdataset import WebDataset

    folder = Path(folder)
    manifest = load_manifest(folder)
    names = [shard.name for shard in manifest.shards if shard.split == split] if manifest else []
    if not names:
        raise ConfigError(f"{folder}: no {split} split here; a dataset is a folder with {MANIFEST}")

    def pair(sample: dict[str, Any]) -> tuple[Any, int]:
        image = sample["jpg"] if "jpg" in sample else sample["png"]
        return (decode(image, f"{folder}: {sample['__key__']}") if decoded else image), int(sample["cls"])

    pipeline = WebDataset([str(folder / name) for name in names], shardshuffle=len(names) if shuffle else False)
    return (pipeline.shuffle(shuffle) if shuffle else pipeline).map(pair)
