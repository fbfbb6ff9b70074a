"""The `effnet` command. Heavy imports happen inside the commands that need them.

Exit codes: 0 done; 2 a configuration or argument that cannot be used; 65 broken data; 70 a training failed, or a bug of
ours; 73 another process does this already; 75 stopped with its state saved: the same command goes on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from effnet.errors import EffnetError, StoppedError

_CONFIG = click.argument("config", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_STORE = click.option("--store", type=click.Path(path_type=Path), help="Folder to use instead of the config's.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="effnet")
def cli() -> None:
    """Build compound-scaled families of image models."""


@cli.command()
@_CONFIG
@_STORE
@_JSON
def family(config: Path, store: Path | None, as_json: bool) -> None:
    """Build the family of CONFIG: shard, fit α, β, γ, scale, train, evaluate. Run again to go on or to repeat."""
    from effnet.config import load_baseline, load_config
    from effnet.store import Store

    settings = load_config(config)
    load_baseline(settings, config)
    root = Store(Path(store or settings.store).absolute())
    root.prepare()
    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    _configure_prefect(root.root)
    from flows.build_family import build_family

    result = build_family(str(config), str(root.root))
    if as_json:
        click.echo(result.model_dump_json(indent=2))
        return
    from tasks.screen import Screen, duration, short

    screen = Screen()
    screen.table(
        ("", "φ", "pixels", "params", "MACs", "top-1", "top-5", "latency", "training"),
        [
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
        ],
    )
    screen.console.print(
        f"\nBrowse it: mlflow ui --backend-store-uri sqlite:///{root.root / 'mlflow.db'}", soft_wrap=True
    )


@cli.command()
@_CONFIG
@_STORE
@_JSON
def plan(config: Path, store: Path | None, as_json: bool) -> None:
    """Price the family of CONFIG without training anything."""
    from effnet.arch.scaling import PAPER
    from effnet.config import given_coefficients, load_baseline, load_config
    from effnet.family import plan_members

    settings = load_config(config)
    baseline = load_baseline(settings, config)
    fitted = _fitted(Path(store or settings.store), settings.family)
    coefficients = given_coefficients(settings) or fitted or PAPER
    origin = "the config" if settings.coefficients else "the family built last" if fitted else "the paper, for now"
    members = plan_members(baseline, settings, coefficients, 10)
    if as_json:
        rows = [
            {
                "name": member.name,
                "phi": member.phi,
                "resolution": member.architecture.resolution,
                "params": member.params,
                "macs": member.macs,
            }
            for member in members
        ]
        data: dict[str, Any] = {
            "family": settings.family,
            "coefficients": coefficients._asdict(),
            "coefficients_from": origin,
            "members": rows,
        }
        click.echo(json.dumps(data, indent=2))
        return
    click.echo(f"α {coefficients.alpha:g}, β {coefficients.beta:g}, γ {coefficients.gamma:g} (from {origin})")
    click.echo(f"{'':4}{'φ':>5}{'pixels':>8}{'params':>14}{'MACs':>16}")
    for member in members:
        arch = member.architecture
        click.echo(f"{member.name:4}{member.phi:5g}{arch.resolution:8d}{member.params:14,}{member.macs:16,}")


@cli.command()
@click.argument("dataset", type=click.Path(path_type=Path))
def verify(dataset: Path) -> None:
    """Check every byte of the DATASET folder against its manifest."""
    from effnet.data.shards import verify as check
    from effnet.errors import DataError

    if problems := check(dataset):
        raise DataError("\n".join(problems))
    click.echo(f"{dataset}: sound")


def main() -> None:
    """Run the command; errors are one line and an exit code."""
    try:
        cli(standalone_mode=False)
    except EffnetError as error:
        click.echo(f"effnet: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("effnet: stopped; what is done is saved, run the same command again to go on", err=True)
        sys.exit(StoppedError.exit_code)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _fitted(store: Path, family: str) -> Any:
    from effnet.arch.scaling import Coefficients

    found = []
    for path in (store / "families").glob("*/family.json"):
        data = json.loads(path.read_bytes())
        if data["family"] == family:
            found.append((path.stat().st_mtime, Coefficients(**data["coefficients"])))
    return max(found)[1] if found else None


def _configure_prefect(root: Path) -> None:
    """Set what Prefect reads when it is imported; what the user set already stays."""
    for name, value in {
        "PREFECT_HOME": str(root / "prefect"),
        "DO_NOT_TRACK": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    }.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    main()
