"""The documentation's commands, files and Python are what they say: run as they are printed, in a copy of the clone."""

from __future__ import annotations

from tests.docs.printed import Block


def test_commands_of_a_block_are_those_that_a_shell_would_run() -> None:
    text = "# a comment\neffnet up   # says where\n\neffnet deploy --set a='#1' \\\n  --set b=c#d  # e\n"
    assert Block("x.md", 1, "sh", text).commands == ["effnet up", "effnet deploy --set a='#1' --set b=c#d"]
