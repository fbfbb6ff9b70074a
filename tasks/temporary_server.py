"""`python -m tasks.temporary_server PORT`: a Prefect server that ends with the process that started it.

Prefect's own temporary server outlives a flow that is killed; this one notices that its standard input has ended.
"""

from __future__ import annotations

import os
import sys

from effnet.process import child_main, stop_on_signals


def main() -> None:
    """Serve the API, without pages and schedules, until asked to stop."""
    os.environ |= {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": "0"}
    import uvicorn

    config = uvicorn.Config(
        "prefect.server.api.server:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
        lifespan="on",
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    stop_on_signals(lambda _reason: setattr(server, "should_exit", True))
    server.run()


if __name__ == "__main__":
    child_main(main)
