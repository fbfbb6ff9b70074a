"""Options that several commands have, each once."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

DEFAULT_STORE = Path(".effnet")


def of_store(store: Path) -> str:
    """Return the --store option for a command line; empty for the default store."""
    return "" if store.expanduser().absolute() == DEFAULT_STORE.absolute() else f" --store {shlex.quote(str(store))}"


def to_predict(run_key: str, store: Path) -> str:
    """Return the command that predicts with a run; a member's name may mean another family's by then."""
    from effnet.runs import SHOWN_KEY

    return f"effnet predict {run_key[:SHOWN_KEY]} IMAGES{of_store(store)}"


APPROVE = click.option(
    "--approve", is_flag=True, help="Begin every stage, whatever it costs, where CONFIG has `approve_above`."
)
FLIPS = click.option("--flips", is_flag=True, help="Average over each image and its mirror image; twice the work.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
MULTIPLIERS = click.option(
    "--multipliers",
    type=(float, float, float),
    metavar="DEPTH WIDTH RESOLUTION",
    help="Scale the baseline by these, e.g. 1.4 1.2 1.3 as in the paper's table 3.",
)
SEVERAL_MULTIPLIERS = click.option(
    "--multipliers",
    type=(float, float, float),
    metavar="DEPTH WIDTH RESOLUTION",
    multiple=True,
    help="Compare the network scaled by these with others, given likewise. Table 3: 1 2 1, 1 1 2 and 1.4 1.2 1.3.",
)
# Of commands that look into a store.
HOME = click.option(
    "--store", type=click.Path(path_type=Path), default=DEFAULT_STORE, show_default=True, help="The store's folder."
)
# Of commands whose config names the store.
STORE = click.option("--store", type=click.Path(path_type=Path), help="Folder to use instead of the config's.")
