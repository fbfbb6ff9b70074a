"""MLflow servers that are worse than away: they accept and never answer, answer 500, or send a byte a second."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from effnet.errors import AwayError
from effnet.runs import About, RunFolder
from tasks.records import breaker
from tasks.records.breaker import Breaker
from tasks.records.tracking import Tracker
from tests.tiny import named

QUICK, PATIENCE = 0.3, 1.5  # for 5 and 40 s


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "QUICK_SECONDS", QUICK)
    monkeypatch.setattr(breaker, "PATIENCE_SECONDS", PATIENCE)
    monkeypatch.setattr(breaker, "RETRY_SECONDS", 0.4)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")  # between three tries: 6 s else


@pytest.fixture(params=["never answers", "answers 500", "sends a byte a second"])
def sick(request: pytest.FixtureRequest) -> Iterator[tuple[str, str, list[float]]]:
    """A server that is not well: its address, its complaint, and when it was asked."""
    asked: list[float] = []
    over = threading.Event()

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(65536)
            asked.append(time.monotonic())
            if request.param == "answers 500":
                client.sendall(b"HTTP/1.1 500 Sick\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            while not over.wait(1):
                if request.param == "sends a byte a second":
                    client.sendall(b"H")

    def accept() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", request.param, asked
        over.set()


def test_no_sick_server_holds_a_family(
    sick: tuple[str, str, list[float]], run_folder: RunFolder, tmp_path: Path
) -> None:
    url, complaint, asked = sick
    told: list[str] = []
    run_folder.describe(About(experiment="tiny", name="B0", kind="member", labels={}, family="f" * 16))
    tracker = Tracker(url, "tiny", None, told.append)
    tracker.attempt(lambda: None)  # imports
    started = time.monotonic()
    assert tracker.open_family("f" * 16, "tiny", {}, {}, tmp_path / "d1") is None
    for _ in range(100):  # as many calls as a family makes
        tracker.open_training(run_folder, named("B0"))
        tracker.forward(run_folder)
        tracker.close_family("f" * 16, {}, "", [])
    assert time.monotonic() - started < 2 * (QUICK + PATIENCE) + 3  # 3 s: a loaded machine
    assert len([line for line in told if "failed" in line]) == 1
    waited = [line for line in told if "waiting up to" in line]
    if complaint != "answers 500":
        assert len(waited) == 1
    time.sleep(0.5)
    before = len(asked)
    tracker.forward(run_folder)  # looks whether it is back, without waiting
    deadline = time.monotonic() + 5
    while len(asked) == before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(asked) > before


def test_patience_is_for_all_calls_together() -> None:
    told: list[str] = []
    breaker_ = Breaker("it", lambda: None, told.append)
    started = time.monotonic()
    for _ in range(2):
        breaker_.call(lambda: time.sleep(QUICK + 0.5), 0)
    with pytest.raises(AwayError):
        breaker_.call(lambda: time.sleep(QUICK + PATIENCE), 0)
    assert time.monotonic() - started < 3 * QUICK + PATIENCE + 2


def test_allowance_is_not_held_against_a_call() -> None:
    told: list[str] = []
    assert Breaker("it", lambda: None, told.append).call(lambda: time.sleep(QUICK + 0.5) or 7, 5) == 7
    assert told == []


def test_back_is_told_and_errors_are_raised() -> None:
    told: list[str] = []
    breaker_ = Breaker("it", lambda: None, told.append)
    with pytest.raises(ZeroDivisionError):
        breaker_.call(lambda: 1 // 0, 0)
    assert not breaker_.closed()
    deadline = time.monotonic() + 10
    while not breaker_.closed() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert told == ["it: back; sending what it missed"]
    assert breaker_.call(lambda: breaker_.call(lambda: 7, 0), 0) == 7


def test_a_server_that_was_away_often_is_noticed_when_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(breaker, "LONGEST_SECONDS", 0.2)
    breaker_ = Breaker("it", lambda: None, lambda _line: None)
    for _ in range(9):
        with pytest.raises(ZeroDivisionError):
            breaker_.call(lambda: 1 // 0, 0)
        deadline = time.monotonic() + 3
        while not breaker_.closed():
            assert time.monotonic() < deadline
            time.sleep(0.01)
