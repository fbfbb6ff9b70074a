"""`python -m tasks.servers.prefect_server PORT`: Prefect's server, for this machine alone.

What Prefect's own command lacks: a request whose Host header names another machine is refused, so that a web page
cannot reach the server under a name of its own (DNS rebinding). And the server of a single flow ends with the process
that started it, when its standard input is closed; Prefect's own server outlives a flow that is killed.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from effnet.process import PARENT_PIPE, child_main, keep_nice, stop_on_signals

LOGIN_PAGE = "/effnet-login"  # logs in a browser that brings the login after a #, which is never sent to the server
_LOGIN_HTML = """<!doctype html><meta charset="utf-8"><title>Prefect</title><script>
localStorage.setItem("prefect-password", btoa(location.hash.slice(1))); location.replace("/");
</script>"""
HOSTS = ("127.0.0.1", "localhost")


def main() -> None:
    """Serve until asked to stop; for a single flow without pages and schedules."""
    keep_nice()
    temporary = bool(os.environ.get(PARENT_PIPE))
    os.environ["PREFECT__SERVER_FINAL"] = "1"
    if temporary:
        os.environ |= {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT_UI_ENABLED": "0"}
    import uvicorn

    config = uvicorn.Config(
        guarded,
        factory=True,
        host=HOSTS[0],
        port=int(sys.argv[1]),
        log_level="error" if temporary else "warning",
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)

    def stop(reason: str) -> None:
        if reason != "asked to stop":  # nobody is left to talk to, and the database takes no harm
            os._exit(0)
        server.should_exit = True

    stop_on_signals(stop)
    server.run()


def guarded() -> Any:
    """Return Prefect's application behind a check of the Host header, with a page that logs browsers in."""
    from prefect.server.api.server import create_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    app = create_app()
    app.router.routes.insert(0, Route(LOGIN_PAGE, lambda _request: HTMLResponse(_LOGIN_HTML)))
    return TrustedHostMiddleware(app, allowed_hosts=HOSTS, www_redirect=False)


if __name__ == "__main__":
    child_main(main)
