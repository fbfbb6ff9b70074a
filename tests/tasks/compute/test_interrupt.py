"""A request to stop, and more of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

SCRIPT = """
import os, signal
from flows.cli import main as cli

class Last:  # goes when the interpreter does, after it has put the signals back
    def __del__(self, kill=os.kill, pid=os.getpid(), number={number}):
        kill(pid, number)

last = Last()
cli.cli = lambda **_: os.kill(os.getpid(), {number})
cli.main()
"""


def test_asked_twice_a_command_ends_with_the_code_that_says_so() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        command = [sys.executable, "-c", SCRIPT.format(number=int(number))]
        done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 75, done
        assert "run the same command again" in done.stderr
