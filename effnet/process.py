"""What every child process of a family does: stop when asked, stop when its parent is gone, fail in one line."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

import psutil

from effnet.errors import EffnetError

# Set by the parent that holds the other end of the child's standard input. Its end means that the parent is gone,
# however it ended: nobody is left to take the result, so the child saves its state and stops.
PARENT_PIPE = "EFFNET_PARENT_PIPE"

WARNING = "warning: "  # lines that begin so are shown to the person at the terminal


def child_main(main: Callable[[], None]) -> NoReturn:
    """Run `main` and leave with the exit code of what happened; errors are one line on standard error."""
    try:
        main()
    except EffnetError as error:
        _print(str(error))
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        sys.exit(EffnetError.exit_code)
    sys.exit(0)


def warn(line: str) -> None:
    """Say something that the person should know, and go on."""
    _print(WARNING + line)


def stop_on_signals(request: Callable[[str], None]) -> None:
    """Call `request` with a reason on SIGTERM, on SIGINT and when the parent is gone."""
    signal.signal(signal.SIGTERM, lambda *_: request("asked to stop"))
    signal.signal(signal.SIGINT, lambda *_: request("asked to stop"))
    if os.environ.get(PARENT_PIPE):
        threading.Thread(target=_watch_parent, args=(request,), daemon=True).start()


def process_started() -> float:
    """Return the Unix time in seconds at which this process began."""
    return float(psutil.Process().create_time())


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _watch_parent(request: Callable[[str], None]) -> None:
    # Unbuffered: the interpreter cannot shut down while a daemon thread holds the buffer's lock.
    while os.read(0, 1):
        pass
    request("the process that started it is gone")
