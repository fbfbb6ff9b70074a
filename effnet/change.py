"""What a person changes of a config without writing one: the short form of a deployment on Prefect's page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import Field

from effnet.arch import zoo
from effnet.config import FamilyConfig
from effnet.errors import ConfigError
from effnet.recipes import RecipeName
from effnet.shipped import shipped_config, shipped_configs
from effnet.values import Value, read_mapping

KEEP: Literal["as in the config"] = "as in the config"
HERE: Literal["this machine"] = "this machine"
POOL: Literal["work pool effnet-gpu"] = "work pool effnet-gpu"

# A config in a form: the name of one that comes with effnet, its text, or all its fields.
ConfigName: TypeAlias = Annotated[str, Field(title="By name", json_schema_extra={"enum": [*shipped_configs()]})]
ConfigText: TypeAlias = Annotated[dict[str, Any], Field(title="As text")]
AnyConfig: TypeAlias = ConfigName | ConfigText | FamilyConfig

_NetworkName = Annotated[str, Field(json_schema_extra={"enum": [*zoo.names()]})]


class Change(Value):
    """What is left empty stays as the config has it."""

    family: Annotated[
        str, Field(title="Name of the family", max_length=40, description="small letters, digits, - and _")
    ] = ""
    images: Annotated[
        str,
        Field(
            title="Images",
            description="folder with one folder per class, on the machine that runs the flow, or s3://bucket/prefix; "
            "for a config that reads Parquet, WebDataset or IDX files, theirs",
        ),
    ] = ""
    phi: Annotated[
        tuple[Annotated[float, Field(ge=0, le=16)], ...],
        Field(title="Members by φ", max_length=32, description="the baseline scaled by these: 0, 1, 2 …"),
    ] = ()
    networks: Annotated[
        tuple[_NetworkName, ...],
        Field(title="Members by network", max_length=32, description="in place of φ: published ones, the small first"),
    ] = ()
    recipe: Annotated[
        Literal["as in the config", RecipeName],
        Field(title="Recipe", description="how networks are trained; finetune is for members that start from weights"),
    ] = KEEP
    compute: Annotated[
        Literal["as in the config", "this machine", "work pool effnet-gpu"],
        Field(title="Compute", description="where networks are trained"),
    ] = KEEP


def settle_config(config: AnyConfig, change: Change, base: Path) -> tuple[FamilyConfig, Path]:
    """Return the config with the changes in it, and the folder that its relative paths begin at.

    Args:
        config: the name of one that comes with effnet, plain data, or a config.
        change: of it.
        base: folder that relative paths begin at; those of a config by name begin at its own folder.

    Raises:
        ConfigError: if there is no such config, or the changed one cannot be used.
    """
    if isinstance(config, FamilyConfig) and change == Change():
        return config, base
    if isinstance(config, str):
        found = shipped_config(config)
        if not found.is_file():
            raise ConfigError(f"config: none is called '{config:.80}'; there are {', '.join(shipped_configs())}")
        if change.images and not _is_whole(change.images):
            change = change.model_copy(update={"images": str(base.absolute() / change.images)})
        return FamilyConfig.parse(changed(read_mapping(found), change), f"config {config}"), found.parent
    data = config.model_dump(mode="json") if isinstance(config, FamilyConfig) else config
    return FamilyConfig.parse(changed(data, change), "config"), base


def family_of(config: Any, change: Any) -> str:
    """Return the family that a flow run's parameters name, before they are checked; empty if they name none."""
    if isinstance(config, FamilyConfig):
        config = {"family": config.family}
    if isinstance(change, Change):
        change = {"family": change.family}
    if isinstance(config, str):
        path = shipped_config(config)
        config = read_mapping(path) if path.is_file() else {}
    named = [each.get("family") for each in (change, config) if isinstance(each, Mapping)]
    return next((str(name) for name in named if name), "")


def changed(data: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """Return a config's plain data with the changes in it."""
    data = dict(data)
    if change.family:
        data["family"] = change.family
    if change.images:
        images = _mapping(data.get("data"))
        data["data"] = images | {"source": _source(_mapping(images.get("source")), change.images)}
    if change.networks:
        data |= {"baseline": change.networks[0], "coefficients": None}
        data["members"] = _members(data, "phi") | {"published": list(change.networks)}
    elif change.phi:
        published = _members(data, "phi").get("published")
        if isinstance(published, list | tuple) and published:
            data.setdefault("baseline", published[0])
        data["members"] = _members(data, "published") | {"phi": list(change.phi)}
        if not data.get("grow"):  # the weights were the published networks' own
            data.pop("weights", None)
    if change.recipe != KEEP:
        data["recipe"] = {"base": change.recipe}
    if change.compute == HERE:
        data["compute"] = {"kind": "local"}
    elif change.compute == POOL:
        data["compute"] = {"work_pool": POOL.rpartition(" ")[2]}
    return data


def _members(data: Mapping[str, Any], without: str) -> dict[str, Any]:
    return {name: value for name, value in _mapping(data.get("members")).items() if name != without}


def _mapping(value: object) -> dict[str, Any]:
    """Return a part of a config; empty for what is none, which the change replaces."""
    return dict(value) if isinstance(value, Mapping) else {}


def _source(source: Mapping[str, Any], images: str) -> dict[str, Any]:
    """Return a source of the same kind with other images; a folder, where its kind has none."""
    kind = cast(str, source.get("kind"))
    if kind in ("parquet", "webdataset"):  # held-out files belong to those that are replaced
        return {**source, "train": images, "val": None}
    if kind in ("dataset", "idx"):
        return {**source, {"dataset": "location", "idx": "folder"}[kind]: images}
    return {"kind": "folder", "train": images}


def _is_whole(location: str) -> bool:
    return "://" in location or os.path.isabs(location)
