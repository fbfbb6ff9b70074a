"""Who is told while orders are carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock


@dataclass(frozen=True)
class Watch:
    """What is called while orders are carried out.

    Args:
        warn: told what a person should know.
        tick: called now and then, about once a second or more often.
        done: called with the name of every order that was carried out.
        say: told where the orders are carried out, where that is a GPU of this machine.
    """

    warn: Callable[[str], None]
    tick: Callable[[], None] = lambda: None
    done: Callable[[str], None] = lambda _name: None
    say: Callable[[str], None] = lambda _line: None

    def one_at_a_time(self) -> Watch:
        """Return a version for use from several threads: its calls never overlap."""
        lock = Lock()

        def warn(line: str) -> None:
            with lock:
                self.warn(line)

        def tick() -> None:
            with lock:
                self.tick()

        def done(name: str) -> None:
            with lock:
                self.done(name)

        def say(line: str) -> None:
            with lock:
                self.say(line)

        return Watch(warn, tick, done, say)
