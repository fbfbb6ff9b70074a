"""A server that speaks the Hugging Face hub's API as far as effnet uses it: HEAD and GET of a repository's files."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + "0" * 34


class Hub:
    """Repositories, each with one commit, `main`, and files."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}  # by repository
        self.commit, self.gated, self.damage = COMMIT, set[str](), False
        self.requests: list[str] = []  # "GET /timm/…"
        self.url = ""

    def asked(self, method: str) -> int:
        """Return how many times a file was asked for by a method."""
        return sum(each.startswith(f"{method} ") and "/resolve/" in each for each in self.requests)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers and the body for a path, as the hub's."""
        repository, _, rest = path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if repository in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if repository not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in ("main", self.commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if (data := self.files[repository].get(name)) is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.commit}, b""
        headers = {"X-Repo-Commit": self.commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        return 200, headers, bytes([data[0] ^ 1]) + data[1:] if self.damage else data


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve a hub at its `url`."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(body=True)

        def do_HEAD(self) -> None:
            self._send(body=False)

        def _send(self, *, body: bool) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            status, headers, data = hub.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()
