"""The command to start with: init."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from effnet.errors import ConfigError
from effnet.files import reason
from effnet.shipped import CONFIGS, shipped_config, shipped_configs

if TYPE_CHECKING:
    from effnet.config import FamilyConfig

OWN = "photos"  # the config for a folder of one's own images


@click.command()
@click.argument("name", default=OWN)
def init(name: str) -> None:
    """Write NAME.yaml, a config to edit, and its baseline's architecture file into this folder.

    NAME is the name of your family, to train on a folder of your own images, or of a config that comes with effnet
    (`digits`, `imagenet`, ...). Existing files are never overwritten.
    """
    from effnet.store import create

    name = name.removesuffix(".yaml")
    text, files = _contents(name)
    config = Path(f"{name}.yaml")
    wanted = {Path(file): (CONFIGS / file).read_bytes() for file in files} | {config: text.encode()}
    if os.path.lexists(config):
        raise ConfigError(f"{config}: already exists and was left unchanged; give another name, or move it away")
    for path, content in wanted.items():
        if os.path.lexists(path) and not (path.is_file() and path.read_bytes() == content):
            raise ConfigError(f"{path}: already exists with other content and was left unchanged; move it away")
    try:
        for path, content in wanted.items():
            if create(path, content):
                click.echo(f"{path}: written")
    except OSError as error:
        raise ConfigError(f"{config}: cannot be written here: {reason(error)}") from error
    click.echo(f"Edit {config}; then:")
    click.echo(f"  effnet shard {config}    writes the dataset")
    click.echo(f"  effnet plan {config}     says what it will cost")


def _contents(name: str) -> tuple[str, list[str]]:
    """Return the config's text, and the paths of the architecture files that it names."""
    import yaml

    from effnet.config import FamilyConfig

    if name in shipped_configs():
        text = shipped_config(name).read_text("utf-8")
        return text, _files(FamilyConfig.parse(yaml.safe_load(text), name))
    text = shipped_config(OWN).read_text("utf-8")
    config = FamilyConfig.parse({**yaml.safe_load(text), "family": name}, "init")
    written = name if yaml.safe_load(name) == name else f'"{name}"'  # `no` and `12` are no words in YAML
    return text.replace(f"\nfamily: {OWN}\n", f"\nfamily: {written}\n"), _files(config)


def _files(config: FamilyConfig) -> list[str]:
    from effnet.config import SearchedBaseline

    baseline = config.baseline
    first = baseline.search.reference if isinstance(baseline, SearchedBaseline) else baseline
    names = [first, *(config.study.baselines if config.study else ())]
    return sorted({name for name in names if (CONFIGS / name).is_file()})


COMMANDS = (init,)
