"""`python -m tasks.records.server PORT DATABASE FILES`: MLflow's server of a store, for this machine alone.

What `mlflow server` lacks: a browser that comes for the first time sees trainings, where MLflow would show its pages
for language models beside an assistant and a notice, and the bare address leads to the newest family. One process
serves, where MLflow starts three.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from effnet.process import child_main, keep_nice
from tasks.records.tracking import opening
from tasks.records.views import MEMBERS, family_page, tag_of
from tasks.servers.local import HOST

# What MLflow's page remembers in a browser. What is there already was chosen by a person, and stays.
REMEMBERED = {
    "mlflow.workflowType_v1": "machine_learning",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": True,
    "mlflow.telemetry.info.alert.dismissed_v1": True,
}
_SCRIPT = """<script>
for (const [name, value] of Object.entries(%s))
  if (localStorage.getItem(name) === null) localStorage.setItem(name, JSON.stringify(value));
const family = %s;
if (family && location.hash.length < 2) location.replace(family);
</script>"""


def main() -> None:
    """Serve until asked to stop."""
    keep_nice()
    import uvicorn
    from mlflow.server import (
        ARTIFACT_ROOT_ENV_VAR,
        ARTIFACTS_DESTINATION_ENV_VAR,
        BACKEND_STORE_URI_ENV_VAR,
        SERVE_ARTIFACTS_ENV_VAR,
    )
    from mlflow.server.handlers import initialize_backend_stores

    port, database, files = sys.argv[1:]
    os.environ |= {
        BACKEND_STORE_URI_ENV_VAR: database,
        ARTIFACT_ROOT_ENV_VAR: files,
        ARTIFACTS_DESTINATION_ENV_VAR: files,
        SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    with opening(database):
        initialize_backend_stores(database, database, files)
    uvicorn.run(application(), host=HOST, port=int(port), log_level="warning", timeout_graceful_shutdown=2)


def application() -> Any:
    """Return MLflow's application with a first page of ours."""
    import mlflow.server
    from mlflow.server.fastapi_app import app
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    page = Path(str(mlflow.server.app.static_folder)) / "index.html"

    def first(_request: Any) -> Any:
        return HTMLResponse(with_script(page.read_text(), _newest()), headers={"Cache-Control": "no-cache"})

    app.router.routes.insert(0, Route("/", first))
    return app


def with_script(page: str, target: str | None) -> str:
    """Return MLflow's page with a script that runs before its own.

    Args:
        page: index.html.
        target: where the bare address leads, if anywhere.
    """
    script = _SCRIPT % (json.dumps(REMEMBERED), json.dumps(target))
    return page.replace("<head>", f"<head>{script}", 1)


def _newest() -> str | None:
    """Return the page of the experiment that was changed last among those of families."""
    from mlflow.server.handlers import _get_tracking_store

    has = f"tags.`{tag_of(MEMBERS)}` LIKE '%'"
    try:
        found = _get_tracking_store().search_experiments(
            max_results=1, filter_string=has, order_by=["last_update_time DESC"]
        )
    except Exception:  # a database that is busy: MLflow's own first page is better than none
        return None
    return family_page("", found[0].experiment_id) if found else None


if __name__ == "__main__":
    child_main(main)
