"""The commands about where things run: deploy, doctor."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

import click

from effnet.errors import ConfigError, RunFailedError
from effnet.shipped import PROJECT
from flows.cli import options
from flows.cli.find import ConfigFile

_MARKS = {"ok": "ok", "warning": "!", "error": "x"}


@click.command()
@click.option(
    "--type",
    "pool_type",
    type=click.Choice(["process", "docker", "kubernetes", "ecs"]),
    default="process",
    show_default=True,
    help="Where the work pools run jobs.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Default of a job variable, e.g. gpus=2.")
@click.option("--store", default=".effnet", show_default=True, help="Store of the deployed flows.")
@click.option(
    "--crashed-after",
    type=click.IntRange(31),
    envvar="EFFNET_CRASHED_AFTER",
    help="Seconds without a heartbeat after which a run counts as crashed.  [default: 1800 and three beats]",
)
@click.option(
    "--home", help="Folder that flows start in, on the machine that runs them.  [default: --project, else here]"
)
@click.option(
    "--project",
    type=click.Path(path_type=Path),
    help="Folder with prefect.yaml and infra/prefect.  [default: this one if it has them, else those of effnet]",
)
@options.JSON
def deploy(
    pool_type: str,
    settings: tuple[str, ...],
    store: str,
    crashed_after: int | None,
    home: str | None,
    project: Path | None,
    as_json: bool,
) -> None:
    """Register the flows of prefect.yaml, their schedules and work pools on a Prefect server."""
    from effnet.store import Store
    from tasks.servers.deployment import FLOWS_POOL, TRAININGS_POOL
    from tasks.servers.deployment import deploy as register
    from tasks.servers.local import PrefectApi, login_path, running
    from tasks.servers.prefect_setup import configured_api, connected

    pairs = dict(_pair(text) for text in settings)
    folder = Store.at(store).root
    servers = {server.name: server.url for server in running(folder)}
    if not configured_api() and "prefect" not in servers:
        raise ConfigError("no Prefect server to deploy to; start one with `effnet up`, or set PREFECT_API_URL")
    with PrefectApi(folder, configured_api()) as api:
        url, login = api.url(), api.login
        with connected(url, login=login):
            there = home or str((project or Path()).absolute())
            found = register(project_folder(project), pool_type, pairs, str(folder), there, crashed_after)  # type: ignore[arg-type]
    if as_json:
        click.echo(json.dumps([each._asdict() for each in found], indent=2))
        return
    width = max(len(each.name) for each in found)
    for each in found:
        click.echo(f"{each.name:{width}}  {each.pool:{len(TRAININGS_POOL)}}  {each.schedule}".rstrip())
    # Read from its file, so that it is in no log and in no list of processes.
    auth = f'PREFECT_API_AUTH_STRING="$(cat {shlex.quote(str(login_path(folder)))})" ' if login else ""
    prefect = f"PREFECT_API_URL={url} {auth}{shutil.which('prefect') or Path(sys.executable).with_name('prefect')}"
    click.echo(f"\nStart workers, on any machine that reaches {url}:")
    for pool in (FLOWS_POOL, TRAININGS_POOL):
        click.echo(f"  {prefect} worker start --pool {pool}")
    click.echo(f"Run one now:\n  {prefect} deployment run build_family/digits")


@click.command()
@click.argument("config", type=ConfigFile(), required=False)
@click.option("--store", help="Folder or s3://bucket/prefix to look at.  [default: the config's, or .effnet]")
@click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="GPUs that are needed.")
@options.JSON
def doctor(config: Path | None, store: str | None, gpus: int, as_json: bool) -> None:
    """Check versions, disk, S3, servers, clock and GPUs; say what to do about each problem.

    With CONFIG, compare the disk that its family wants with what is free.
    """
    from effnet.config import load_config
    from tasks.servers.doctor import examine

    store = store or (load_config(config).store if config else str(options.DEFAULT_STORE))
    findings = []
    for finding in examine(store, gpus, config):
        findings.append(finding)
        if not as_json:
            advice = f"  → {finding.advice}" if finding.advice else ""
            click.echo(f"{_MARKS[finding.level]:2}  {finding.check:11} {finding.found}{advice}")
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    errors = sum(finding.level == "error" for finding in findings)
    if errors:
        raise RunFailedError(f"doctor: {errors} of {len(findings)} checks failed")


def project_folder(given: Path | None) -> Path:
    """Return the folder with prefect.yaml: the one that is given, this one, or what comes with effnet."""
    if given is None:
        here = Path("prefect.yaml").is_file() and Path("infra/prefect").is_dir()  # prefect.yaml alone may be another's
        given = Path() if here else PROJECT
    return given.absolute()


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise ConfigError(f"--set {text}: write NAME=VALUE")
    return name, value


COMMANDS = (deploy, doctor)
