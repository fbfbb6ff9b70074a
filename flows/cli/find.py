"""What a RUN, a MODEL or a CONFIG means, in every command.

A CONFIG is a file. Otherwise, if it is a bare word, it is NAME.yaml in the working folder or the config of that name
that comes with effnet; the command says which. `photos/`, as a shell completes it where there is such a folder, is the
word `photos`. A DATASET is a dataset's folder, or a CONFIG whose dataset was written.

A RUN or MODEL is a path, a key or its beginning, a name, or a registered model.

`models:/NAME@ALIAS` and `models:/NAME/VERSION` are looked up in MLflow's registry. Anything else is an existing file
or folder; the key of a run in the store, or its beginning; the name of a member (`b3`), which means its model in the
family that was built last; or the name of a run (`fit α1.2 β1.1 γ1.15`), of which a finished one is meant if there is
one. The command says which run a name was taken for. An ambiguous name is refused, with a list.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from effnet.errors import ConfigError, DataError
from effnet.files import one_line
from effnet.foreign import library_of, refuse_foreign, refuse_program
from effnet.process import report_to
from effnet.shipped import shipped_config, shipped_configs

if TYPE_CHECKING:
    from effnet.family import FamilyResult
    from effnet.models.build import Network
    from effnet.runs import RunFolder
    from effnet.store import Store

REGISTERED = "models:/"
SHOWN = 5  # of the runs that a name may mean
_MODEL_FILES = ("config.json", "architecture.json")  # of a run folder, of a model folder


class _Named(NamedTuple):
    """What a name means in a store."""

    path: Path  # folder of a run
    family: str | None = None  # whose run it is; None if the name is its key, which no other run has


class ConfigFile(click.ParamType[Path]):
    """A family's config: a file, or the name of one."""

    name = "config"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ARG002
        """Return the file that is meant; see `find_config`."""
        return find_config(str(value))


CONFIG = click.argument("config", type=ConfigFile())


def find_config(name: str) -> Path:
    """Return the config that a path or a name refers to; a path need not exist.

    Raises:
        ConfigError: if there is no such config; the message lists those that come with effnet.
    """
    name = name.rstrip("/") or name
    if Path(name).name != name or Path(name).suffix or os.path.isfile(name):
        return Path(name)
    for path in (Path(f"{name}.yaml"), shipped_config(name)):
        if os.path.isfile(path):
            click.echo(f"effnet: the config is {path}", err=True)
            return path
    raise ConfigError(
        f"'{name[:80]}' is no file, {name[:80]}.yaml is not here, and no config of that name comes with effnet; "
        f"there are {', '.join(shipped_configs())}"
    )


def find_dataset(name: str, store: Path | None) -> Path:
    """Return the folder of the dataset that a path means, or that was made of a config.

    Args:
        name: as a person wrote it.
        store: where a config's dataset is looked for; None: in the config's own store.

    Raises:
        ConfigError: if there is neither a folder nor a config of that name.
        DataError: if the config's dataset has not been written.
    """
    from effnet.config import DatasetSource, load_config
    from effnet.data.shards import write
    from effnet.data.shards.manifest import MANIFEST
    from effnet.store import Store

    path = Path(name)
    if os.path.isfile(path / MANIFEST):  # unlike Path.is_file it takes any text for a name
        return path
    of_config = os.path.isfile(f"{name.rstrip('/')}.yaml")  # photos.yaml beside the folder of photos
    if os.path.isdir(path) and not of_config:
        return path  # whoever reads it says what is wrong
    try:
        config = find_config(name)
    except ConfigError:
        raise ConfigError(
            f"'{name[:80]}': no folder of a dataset, and no config of that name here or among those of effnet"
        ) from None
    if not config.is_file():
        return path
    settings = load_config(config)
    datasets = Store.at(store or settings.store).datasets
    if isinstance(settings.data.source, DatasetSource):  # found, and no image is copied
        manifest, _ = write.write_shards(settings.data, datasets, base=config.parent)
        return datasets / manifest.digest
    if (found := write.find_dataset(settings.data, datasets, config.parent)) is None:
        raise DataError(f"{config}: its dataset is not in {datasets}; `effnet shard {name}` writes it")
    return datasets / found.digest


def open_store(path: str | Path) -> Store:
    """Return the store at a path, created if missing, with its addresses updated; tracebacks now go to its logs."""
    from effnet.store import Store
    from tasks.servers.relocation import settle

    root = Store.at(path)
    report_to(root.logs)
    root.prepare()
    settle(root, lambda line: click.echo(f"effnet: {line}", err=True))
    return root


def find(name: str, store: Path) -> Path:
    """Return the run folder, model folder or weights file that a name means.

    Args:
        name: as a person wrote it.
        store: the store's folder; it need not be there if a path is meant.

    Raises:
        ConfigError: if nothing has that name, or several things do, which the message lists; or if it is a file or a
            folder that effnet does not read, as exported programs.
    """
    from effnet.runs import SHOWN_KEY
    from effnet.store import Store

    root = Store.at(store)
    if name.startswith(REGISTERED):
        from tasks.records.registry import fetch_registered

        return fetch_registered(name, root)
    path = Path(name)
    try:
        there = path.exists()
    except (OSError, ValueError) as error:  # a name that no file can have
        raise ConfigError(f"{name[:80]!r} is no name of a run, a file or a folder") from error
    found = _in_store(name, root) if path.name == name else None
    if found and there and found.path.resolve() != path.resolve():
        raise ConfigError(f"'{name}' is a run of {root.root}, and is here: write ./{name} or {found.path.name}")
    if not found and not there:
        raise ConfigError(
            f"no run '{name}' in {root.root}, and no file or folder of that name; `effnet runs` lists the runs"
        )
    if found:
        if found.family is not None:
            key = found.path.name[:SHOWN_KEY]
            click.echo(f"effnet: {one_line(name)} is run {key}, of family {found.family}", err=True)
        return found.path
    if path.is_file():
        refuse_program(path)
        return path.parent if _is_model(path.parent) else path
    refuse_foreign(path)
    return path


def find_run(name: str, store: Path) -> RunFolder:
    """Return the run that a name means; see `find`.

    Raises:
        ConfigError: also if it means a model folder or a weights file, which are no runs.
    """
    from effnet.runs import RunFolder

    path = find(name, store)
    if not (path / "config.json").is_file():
        raise ConfigError(f"{path}: not a run: a run's folder has a config.json; `effnet runs` lists the runs")
    return RunFolder(path)


def load_named(path: Path, network: str | None) -> Network:
    """Return the network of what `find` found; a bare weights file needs its network's name or file."""
    from effnet.models.weights import load, load_model

    if path.is_dir():
        if (path / "config.json").is_file():
            from effnet.evaluation.run import load_network
            from effnet.runs import RunFolder

            return load_network(RunFolder(path))
        return load_model(path)
    if network is None:
        raise ConfigError(f"{path}: a bare weights file; name its network with --network")
    from effnet.arch import zoo

    return load(path, zoo.find(network))


def _is_model(folder: Path) -> bool:
    return not library_of(folder) and any((folder / name).is_file() for name in _MODEL_FILES)


def _in_store(name: str, store: Store) -> _Named | None:
    from effnet.runs import MIN_KEY, RunFolder

    folders = [RunFolder(path.parent) for path in sorted(store.runs.glob("*/config.json"))]
    keys = [folder for folder in folders if folder.key.startswith(name)] if len(name) >= MIN_KEY else []
    if len(keys) > 1:
        raise ConfigError(f"'{name}' may be any of {len(keys)} runs ({_listed(keys)}); give more of the key")
    if keys:
        return _Named(keys[0].path)
    if member := _member(name, store, folders):
        return member
    named = [
        folder
        for folder in folders
        if (about := folder.about()) and name.lower() in (about.name.lower(), about.plain.lower())
    ]
    named = [folder for folder in named if folder.result_path.is_file()] or named
    if len(named) > 1:
        raise ConfigError(f"'{name}' may be any of {len(named)} runs ({_listed(named)}); give the key")
    return _Named(named[0].path, about.experiment) if named and (about := named[0].about()) else None


def newest_family(store: Store, name: str | None) -> FamilyResult:
    """Return the family of a name that was built last, or the one that was built last of all.

    Raises:
        ConfigError: if there is none.
    """
    from effnet.family import families_of

    if (found := next((each for each in families_of(store) if name in (None, each.family)), None)) is None:
        built = ", ".join(dict.fromkeys(each.family for each in families_of(store))) or "none"
        raise ConfigError(f"no family{f' {name!r}' if name else ''} was built in {store.root}; built: {built}")
    return found


def _member(name: str, store: Store, folders: Sequence[RunFolder]) -> _Named | None:
    """Return the run whose model is the member of this name, of the family that was built last and has one."""
    from effnet.family import families_of

    there = {folder.key: folder for folder in folders}
    for family in families_of(store):
        for member in family.members:
            if member.name.lower() == name.lower() and member.run_key in there:
                return _Named(there[member.run_key].path, family.family)
    return None


def _listed(folders: Sequence[RunFolder]) -> str:
    from effnet.runs import SHOWN_KEY

    rows = []
    for folder in folders[:SHOWN]:
        about = folder.about()
        called = f" {about.name} of {about.experiment}" if about else ""
        rows.append(f"{folder.key[:SHOWN_KEY]}{called}, {folder.state}")
    return "; ".join(rows) + ("; …" if len(folders) > SHOWN else "")
