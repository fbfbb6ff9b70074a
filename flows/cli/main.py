"""The `effnet` command. Heavy imports happen inside the commands that need them.

Exit codes: 0 done; 2 an unusable configuration or argument; 65 broken data; 70 a training failed, or a bug in effnet;
73 another process is already doing this; 75 stopped with its state saved, or a server is away: the same command
resumes; 76 this machine is broken: run the command on another; 77 a stage costs more than the config lets begin
unasked, and nobody said yes; 141 nobody reads what is printed any more (`| head`).
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effnet.errors import ConfigError, DataError, StoppedError
from effnet.process import last_resort, no_tracebacks
from flows.cli import choose, datasets, export, init, networks, operations, options, predict, rate, runs, training
from flows.cli.find import CONFIG, ConfigFile, open_store
from flows.cli.sections import Sections
from tasks.compute import interrupt

if TYPE_CHECKING:
    from effnet.config import FamilyConfig
    from effnet.family import FamilyResult
    from effnet.store import Store

_FIELDS = 6  # changed ones that the end of a build names; the report names all


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="effnet")
def cli() -> None:
    """Train image classifiers of several sizes on labelled images of your own, and say which to use, and why.

    To begin: `effnet init` writes photos.yaml, a config for photos in one folder per class; `effnet train photos
    --member lite0` fine-tunes the smallest network, and `effnet predict lite0 IMAGES` says what it sees.

    CONFIG is a file, or a name: photos is photos.yaml here, or the config of that name that comes with effnet. RUN and
    MODEL are a name (b3), a key or its beginning, a folder, or models:/NAME@champion.
    """


@cli.command()
@CONFIG
@options.STORE
@options.APPROVE
@options.JSON
def family(config: Path, store: Path | None, approve: bool, as_json: bool) -> None:
    """Build the family of CONFIG: shard, fit α, β, γ, scale, train, evaluate. Run again to go on or to repeat."""
    from tasks import again

    settings = _settings(config)
    root = open_store(store or settings.store)
    with root.building(settings.family):
        pass  # fail early if the family is being built already; the flow itself holds it while it builds
    result = again.finished(settings, config.parent, root, lambda line: click.echo(line, err=True))
    if result is None:
        result = _run("flows.build_family", "build_family", settings, config.parent, root, approve)
    if as_json:
        click.echo(result.model_dump_json(indent=2))
    else:
        _show(result, root)


@cli.command()
@options.HOME
@click.option("--prefect-port", type=click.IntRange(1, 65535), help="Port that must be used.")
@click.option("--mlflow-port", type=click.IntRange(1, 65535), help="Port that must be used.")
@options.JSON
def up(store: Path, prefect_port: int | None, mlflow_port: int | None, as_json: bool) -> None:
    """Start a local Prefect server and the MLflow page over a store; `effnet family` then uses them."""
    from rich.console import Console

    from tasks.records.pages import family_links
    from tasks.servers import local as servers
    from tasks.servers.prefect_history import newest_run

    root = open_store(store)
    ports = {servers.PREFECT.name: prefect_port, servers.MLFLOW.name: mlflow_port}
    console = Console(stderr=True, highlight=False)
    with console.status("starting the servers"):
        found = servers.start(root.root, ports, lambda line: console.print(line, soft_wrap=True))
    if as_json:
        click.echo(json.dumps({server.name: server.url for server in found}, indent=2))
        return
    for server in found:
        click.echo(f"{server.name:8} {server.url}")
        if server.name == servers.PREFECT.name:
            page, login = servers.login_page(root.root), servers.login_path(root.root)
            click.echo(f"         asks for a login, once: open {page.as_uri()}, or paste what is in {login}")
            if newest := newest_run(servers.prefect_database(root.root)):
                click.echo(f"         newest flow run, {newest[0]}: {server.url}/runs/flow-run/{newest[1]}")
        else:
            for name, link in family_links(server.url).items():
                click.echo(f"         members of {name}: {link}")
    reports = sorted(root.families.glob("*/report.html"), key=lambda path: path.stat().st_mtime)
    if reports:
        click.echo(f"{'report':8} {reports[-1]} (of the newest build)")
    click.echo(f"Stop them with: effnet down{options.of_store(store)}")


@cli.command()
@options.HOME
def down(store: Path) -> None:
    """Stop the servers of a store."""
    from effnet.store import Store
    from tasks.servers import local as servers

    root = Store.at(store).root
    stopped = servers.stop(root) if root.is_dir() else []
    for server in stopped:
        click.echo(f"{server.name}: stopped")
    if not stopped:
        click.echo("no servers run here")


for command in (
    *init.COMMANDS,
    *training.COMMANDS,
    *rate.COMMANDS,
    *predict.COMMANDS,
    *choose.COMMANDS,
    *networks.COMMANDS,
    *export.COMMANDS,
    *datasets.COMMANDS,
    *runs.COMMANDS,
    *operations.COMMANDS,
):
    cli.add_command(command)


def main() -> None:
    """Run the command; errors are one line and an exit code."""
    interrupt.install()
    no_tracebacks()
    try:
        _check_names()
        cli(prog_name="effnet", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # the help, as it was asked for
        sys.exit(ConfigError.exit_code)
    except click.ClickException as error:
        click.echo(f"effnet: {_usage(error)}", err=True)
        sys.exit(ConfigError.exit_code)
    except (KeyboardInterrupt, click.Abort):
        interrupt.done()
        click.echo("effnet: stopped; what is done is saved, run the same command again to go on", err=True)
        sys.exit(StoppedError.exit_code)
    except SystemExit:  # by which click ends where a pipe is broken
        if _nobody_reads():
            sys.exit(128 + signal.SIGPIPE)
        raise
    except Exception as error:
        line, code = last_resort(error)
        click.echo(f"effnet: {line}", err=True)
        sys.exit(code)


def _nobody_reads() -> bool:
    """Say whether standard output is a pipe whose other end is closed, as behind `| head -1`."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _usage(error: click.ClickException) -> str:
    """Return one line that says what is wrong with the command line."""
    told = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    named = [name for name in sys.argv[1:2] if name in cli.commands]  # the parser's own errors have no context
    command = context.command_path if context else " ".join(["effnet", *named])
    link = "" if told.endswith("?") else ";"
    return f"{told[:1].lower()}{told[1:]}{link} `{command} --help` says what can be written"


def _check_names() -> None:
    """Refuse names of files and folders that are not UTF-8: records, configs and servers could not hold them."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise ConfigError("the folder that you are in was removed; go to another one") from None
    for name in (*sys.argv[1:], here):
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
            raise ConfigError(f"{shown}: a name that is not UTF-8; rename the file or the folder") from None


@cli.command()
@CONFIG
@options.STORE
@options.APPROVE
@options.SEVERAL_MULTIPLIERS
def study(config: Path, store: Path | None, approve: bool, multipliers: tuple[tuple[float, float, float], ...]) -> None:
    """Compare depth, width, resolution and compound scaling at equal cost, as `study` in CONFIG says.

    With --multipliers it compares the networks that these make; the last one with each of the others.
    """
    from effnet.config import StudyConfig

    settings = _settings(config)
    if multipliers:
        wanted = (settings.study or StudyConfig()).model_dump() | {"multipliers": multipliers}
        settings = settings.model_copy(update={"study": StudyConfig.parse(wanted, "--multipliers")})
    _explore("study_scaling", settings, config, store, approve)


@cli.command()
@CONFIG
@options.STORE
@options.APPROVE
def fit(config: Path, store: Path | None, approve: bool) -> None:
    """Find α, β, γ by the grid of CONFIG, without training the family."""
    _explore("fit_coefficients", _settings(config), config, store, approve)


@cli.command()
@click.argument("config", type=ConfigFile(), required=False)
@options.STORE
@options.APPROVE
@click.option("--history", is_flag=True, help="Show what was foretold in the store, and what was reached, instead.")
@options.JSON
def forecast(config: Path | None, store: Path | None, approve: bool, history: bool, as_json: bool) -> None:
    """Foretell what the members of CONFIG's family will reach, from small networks that are trained for it.

    These are as `forecast` in CONFIG says, or five of them from a quarter to four times the baseline's cost. Run it
    again to go on, or to repeat.
    """
    from effnet.forecast.findings import FORECAST, ForecastFindings
    from effnet.runs import read_value
    from effnet.store import Store
    from flows.cli.forecasts import show_forecast, show_history

    if history:
        show_history(Store.at(store or (_settings(config).store if config else options.DEFAULT_STORE)), as_json)
        return
    if config is None:
        raise ConfigError("forecast: give a CONFIG, or --history for what was foretold in a store before")
    settings = _settings(config)
    if refused := settings.no_forecast:
        raise ConfigError(f"{config}: {refused}")
    root = open_store(store or settings.store)
    folder = Path(_run("flows.explore", "forecast_members", settings, config.parent, root, approve))
    found = read_value(ForecastFindings, folder / FORECAST)
    if found is None:
        raise DataError(f"{folder / FORECAST}: has gone; run the command again")
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        show_forecast(found)


@cli.command()
@CONFIG
@options.STORE
@options.APPROVE
def search(config: Path, store: Path | None, approve: bool) -> None:
    """Search for the baseline, as `baseline: {search: ...}` in CONFIG says."""
    from effnet.config import SearchedBaseline

    settings = _settings(config)
    if not isinstance(settings.baseline, SearchedBaseline):
        raise ConfigError(f"{config}: baseline: names a network; give {{search: ...}} to search for one")
    _explore("search_baseline", settings, config, store, approve)


def _settings(config: Path) -> FamilyConfig:
    """Load a config and its baseline, so that mistakes in them are reported before anything starts."""
    from effnet.config import load_baseline, load_config

    settings = load_config(config)
    load_baseline(settings, config.parent)
    return settings


def _explore(stage: str, settings: FamilyConfig, config: Path, store: Path | None, approve: bool) -> None:
    root = open_store(store or settings.store)
    click.echo(_run("flows.explore", stage, settings, config.parent, root, approve))


def _run(module: str, name: str, settings: FamilyConfig, base: Path, root: Store, approve: bool) -> Any:
    """Run a flow with a Prefect server: the one that is configured, the store's, or one for this run."""
    import importlib

    from rich.console import Console

    from tasks.records.tracking import store_tracker
    from tasks.servers.local import PrefectApi
    from tasks.servers.prefect_setup import configured_api, connected, crash_stale_runs, started_here

    parameters = {"base": str(base.absolute()), "store": str(root.root), "approve": approve}
    # configured_api sets what keeps Prefect's own lines off the terminal: nothing may import Prefect before it.
    console = Console(stderr=True, highlight=False)
    with ExitStack() as stack:
        with console.status("starting Prefect"):
            api = stack.enter_context(PrefectApi(root.root, configured_api()))
            if api.pages and not console.is_terminal:  # a server of its own, and nothing shows the status
                console.print("effnet: starting Prefect")
            # Both take seconds, while a server of its own starts. If MLflow is away, the flow will say so.
            flow = getattr(importlib.import_module(module), name)
            store_tracker(root, settings.family, lambda _line: None).wake()
            url = api.url()
        with connected(url, api.pages, login=api.login, patient=not api.in_store):
            with root.building(settings.family):  # so none of its runs can be running
                crash_stale_runs(flow.name, settings.family, root.root, of_store=api.in_store)
            with started_here():
                return flow(config=settings, **parameters)


def _show(result: FamilyResult, root: Store) -> None:
    from rich.console import Console

    from effnet.family import (
        floor_story,
        folds_scores,
        folds_story,
        foretold_story,
        growth_story,
        latency_story,
        left_out_story,
        teacher_story,
    )
    from effnet.history import told
    from effnet.report.costs import read_costs, told_total
    from tasks.records.pages import family_link
    from tasks.servers.local import running
    from tasks.terminal.screen import duration, make_table, short

    columns = ("", "φ", "pixels", "params", "MACs", "top-1", "top-5", "latency", "training")
    rows = [
        (
            member.name,
            f"{member.phi:g}",
            str(member.resolution),
            short(member.params),
            short(member.macs),
            f"{member.top1:.1%}",
            f"{member.top5:.1%}",
            f"{member.latency_ms:.1f} ms",
            "reused" if member.reused else duration(member.seconds),
        )
        for member in result.members
    ]
    console = Console(highlight=False)
    console.print()
    console.print(make_table(columns, rows))
    console.print(latency_story(result.members), soft_wrap=True)
    stories = (folds_scores, folds_story, floor_story, growth_story, teacher_story, foretold_story)
    for story in filter(None, (tell(result.members) for tell in stories)):
        console.print(story, soft_wrap=True)
    if left := left_out_story(result.left_out):
        console.print(left, soft_wrap=True)
    console.print()
    if result.growth:
        console.print(f"{result.growth.told}.", soft_wrap=True)
    if result.answer:
        console.print(f"Use {result.answer.member}: {result.answer.because}.", soft_wrap=True)
    console.print(f"Cost: {told_total(read_costs(root, result))}.", soft_wrap=True)
    if changes := result.changes:
        console.print(f"\nSince {changes.when}:", soft_wrap=True)
        for what, words in told(changes, _FIELDS):
            console.print(f"  {what:10}{words}", soft_wrap=True)
    folder = root.families / result.key
    servers = {server.name: server.url for server in running(root.root)}
    pages = [f"{name:9}{url}" for name, url in servers.items()] or [f"pages    effnet up{options.of_store(root.root)}"]
    if link := family_link(root.root, result.family):
        pages = [f"{name:9}{url}" for name, url in servers.items()] + [f"members  {link}"]
    chosen = next((each for each in result.members if result.answer and each.name == result.answer.member), None)
    key = chosen.run_key if chosen else "RUN"
    files = [
        f"report   {folder / 'report.html'}",
        f"predict  {options.to_predict(key, root.root)}",
        f"weights  {root.runs / key / 'model.safetensors'}",
    ]
    for line in ("", *pages, *files):
        console.print(line, soft_wrap=True)
