"""Links for people: where a family is seen in MLflow, if a server shows it. MLflow itself is not imported."""

from __future__ import annotations

import base64
import json
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from effnet.files import without_password
from tasks.records.views import MEMBERS, family_page, tag_of
from tasks.servers.local import MLFLOW, running

SECONDS = 5.0  # for an answer; without one there is no link
FAMILIES = 5  # newest, that `effnet up` names


def family_link(root: Path, family: str) -> str | None:
    """Return the address of a family's members in MLflow; None where no server that answers has it.

    Args:
        root: the store's folder, whose server is taken if MLFLOW_TRACKING_URI names none.
        family: its name.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI")
    here = (server.url for server in running(root) if server.name == MLFLOW.name)
    server = named or next(here, None)
    if server is None or not server.startswith(("http://", "https://")):
        return None
    return _families(server).get(family)


def family_links(server: str) -> dict[str, str]:
    """Return the addresses of the members of the newest families that a server has, by family."""
    return dict(list(_families(server).items())[:FAMILIES])


def _families(server: str) -> dict[str, str]:
    """Return the address of each family's page, those first that were changed last."""
    asked = {
        "filter": f"tags.`{tag_of(MEMBERS)}` LIKE '%'",
        "order_by": ["last_update_time DESC"],
        "max_results": 1000,
    }
    base = without_password(server).rstrip("/")
    try:
        found = _post(f"{base}/api/2.0/mlflow/experiments/search", asked, _credentials(server))
        return {each["name"]: family_page(base, each["experiment_id"]) for each in found.get("experiments", ())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # away, refused, or no MLflow: no link
        return {}


def _post(url: str, body: Mapping[str, Any], credentials: Mapping[str, str]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    for name, value in credentials.items():
        request.add_unredirected_header(name, value)
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310 - an http address
        return json.load(answer)


def _credentials(server: str) -> dict[str, str]:
    """Return the header by which MLflow's client would log in to a server."""
    parts = urlsplit(server)
    name, password = (os.environ.get(f"MLFLOW_TRACKING_{what}") for what in ("USERNAME", "PASSWORD"))
    if parts.username:
        name, password = unquote(parts.username), unquote(parts.password or "")
    if name and password:
        return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}
