"""How to use a member: what to type, and where to look."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from effnet.report.facts import Facts
from effnet.runs import SHOWN_KEY


class Code(NamedTuple):
    """Lines to copy."""

    title: str
    text: str


class Links(NamedTuple):
    """Addresses of pages, where they are known."""

    family: str | None = None  # the build, in MLflow
    run: str | None = None  # the training of the member to use, in MLflow
    model: str | None = None  # the member to use, in the registry
    flow_run: str | None = None  # in Prefect

    def named(self) -> Mapping[str, str]:
        """Return those that are known, by what they are called."""
        names = {
            "Model in the registry": self.model,
            "Its training in MLflow": self.run,
            "The build in MLflow": self.family,
            "Flow run in Prefect": self.flow_run,
        }
        return {name: address for name, address in names.items() if address}


def uses(facts: Facts, model: str | None = None, tracking: str | None = None) -> list[Code]:
    """Return how to use the member of the answer: on the command line, in Python, as a server.

    The run's key is used rather than the member's name, which the next family may have as well.

    Args:
        facts: of the build.
        model: its name and version in the registry, if it is there: digits-b3/2.
        tracking: MLflow's address, if it may be shown.
    """
    store, key = facts.store.root.absolute(), facts.chosen.result.run_key
    folder = str(Path(store) / "runs" / key)
    found = [
        Code("Command line", f"effnet predict {key[:SHOWN_KEY]} IMAGES --store {shlex.quote(str(store))}"),
        Code(
            "Python",
            "from effnet.evaluation.predictor import open_predictor\n\n"
            f"predictor = open_predictor({folder!r})  # an effnet.Predictor\n"
            'predictor.predict([open("image.jpg", "rb").read()])',
        ),
    ]
    if model:
        here = f"MLFLOW_TRACKING_URI={shlex.quote(tracking)} \\\n  " if tracking else ""
        serve = f"mlflow models serve --model-uri models:/{model} --env-manager local --port 5001"
        found.append(Code("Server", here + serve))
    return found
