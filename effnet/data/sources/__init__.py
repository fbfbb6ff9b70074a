"""Where images come from."""

from __future__ import annotations

from pathlib import Path

from effnet.config import (
    DatasetSource,
    DigitsSource,
    FolderSource,
    IdxSource,
    ImageNetSource,
    Mnist5kSource,
    ParquetSource,
    SourceConfig,
)
from effnet.data.sources.base import Entry, Refused, Remarks, Source
from effnet.errors import ConfigError

__all__ = ["Entry", "Refused", "Remarks", "Source", "open_source"]


def open_source(config: SourceConfig, base: Path, scratch: Path) -> Source:
    """Return the source that a config names; no image is read yet.

    Args:
        config: which source, and its settings.
        base: folder that relative paths are relative to.
        scratch: folder for copies of what can only be read from front to end; it is made when one is needed.

    Raises:
        ConfigError: if a file or folder is not there.
    """
    from effnet.data.sources.download import localized

    config = localized(config, scratch)
    if isinstance(config, DigitsSource):
        from effnet.data.sources.digits import Digits

        return Digits(config.image_size)
    if isinstance(config, Mnist5kSource):
        from effnet.data.sources.mnist5k import Mnist5k

        return Mnist5k()
    if isinstance(config, FolderSource):
        from effnet.data.sources.folder import ImageFolder

        return ImageFolder(base / config.train, base / config.val if config.val else None)
    if isinstance(config, IdxSource):
        from effnet.data.sources.idx import Idx

        return Idx(base / config.folder, config.classes)
    if isinstance(config, ImageNetSource):
        from effnet.data.sources.imagenet import ImageNet

        return ImageNet(base / config.train, base / config.val, base / config.devkit, check_md5=config.check_md5)
    if isinstance(config, ParquetSource):
        from effnet.data.sources.parquet import ParquetImages

        return ParquetImages(config, base, scratch)
    if isinstance(config, DatasetSource):
        raise ConfigError("data.source: a dataset is not sharded again; give the images that it was made from")
    from effnet.data.sources.webdataset import WebDatasetShards

    return WebDatasetShards(config, base, scratch)
