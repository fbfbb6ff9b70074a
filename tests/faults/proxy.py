"""A proxy before an S3 server that misbehaves on purpose, now and then, and counts how often."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = ("500", "503", "reset", "reset in the body", "cut body", "stall", "flipped bit", "error in a 200")
STALL_SECONDS = 2.5


class FaultProxy:
    """Passes requests on; with probability `share` one is spoiled by one of FAULTS. `fired` counts them."""

    def __init__(self, upstream: str, seed: int, share: float) -> None:
        self.fired: Counter[str] = Counter()
        self.passed = 0
        self.share = share
        self._random, self._lock = random.Random(seed), threading.Lock()
        target, proxy = urlsplit(upstream), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                fault = proxy._draw()
                body = self._body()
                if fault == "stall":
                    time.sleep(STALL_SECONDS)
                if fault in ("reset", "stall"):
                    return self._reset()
                if fault in ("500", "503"):
                    code = "InternalError" if fault == "500" else "SlowDown"
                    return self._answer(int(fault), [], f"<Error><Code>{code}</Code></Error>".encode())
                upstream = http.client.HTTPConnection(target.hostname or "", target.port, timeout=30)
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("transfer-encoding", "expect", "connection"):
                        upstream.putheader(name, value)
                upstream.endheaders(body)
                answer = upstream.getresponse()
                data = answer.read()
                headers = [
                    (k, v) for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")
                ]
                upstream.close()
                if fault == "error in a 200":
                    return self._answer(200, [], b"<Error><Code>InternalError</Code></Error>")
                if fault == "flipped bit" and self.command == "GET" and data and answer.status < 300:
                    spoiled = bytearray(data)
                    spoiled[proxy._pick(len(data))] ^= 1
                    data = bytes(spoiled)
                if fault in ("reset in the body", "cut body") and self.command == "GET" and len(data) > 1:
                    self._answer(answer.status, headers, data, cut=proxy._pick(len(data)))
                    return self._reset() if fault == "reset in the body" else self._close()
                return self._answer(answer.status, headers, data)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

            def _body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: int | None = None) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() != "content-length" or self.command == "HEAD":
                        self.send_header(name, value)
                if self.command != "HEAD":
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[:cut])
                self.wfile.flush()

            def _reset(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._close()

            def _close(self) -> None:
                self.close_connection = True
                self.connection.close()

            def handle(self) -> None:
                try:
                    super().handle()
                except (OSError, ValueError):  # we closed it ourselves, or the client did
                    self.close_connection = True

            def finish(self) -> None:
                try:
                    super().finish()
                except (OSError, ValueError):
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _draw(self) -> str | None:
        with self._lock:
            if self._random.random() >= self.share:
                self.passed += 1
                return None
            fault = self._random.choice(FAULTS)
            self.fired[fault] += 1
            return fault

    def _pick(self, number: int) -> int:
        with self._lock:
            return self._random.randrange(number)


class Link:
    """A line to a server that can be cut: at the server's end, in one direction, or so that nothing ever answers.

    Ways of cutting it: `refused`, nobody listens; `silent`, connections are made and never answered; `up`, what the
    client sends is lost; `down`, what the server answers is.
    """

    WAYS = ("refused", "silent", "up", "down")

    def __init__(self, upstream: str) -> None:
        target = urlsplit(upstream)
        self._target = (target.hostname or "", target.port or 80)
        self._cut: str | None = None
        self._sockets: set[socket.socket] = set()
        self.lost = 0  # connections and pieces that did not get through
        self._listener = self._listen(0)
        self.port = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self, way: str) -> None:
        """Cut the line, and what goes over it at the moment."""
        self._cut = way
        if way == "refused":
            with contextlib.suppress(OSError):  # it was cut before
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self.lost += 1
            for each in list(self._sockets):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Have the line as it was; connections that were made meanwhile stay dead."""
        refused, self._cut = self._cut == "refused", None
        if refused:
            self._listener = self._listen(self.port)

    def stop(self) -> None:
        self.cut("refused")

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port), backlog=128)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._sockets.add(client)
        if self._cut == "silent":
            self.lost += 1
            return
        with contextlib.suppress(OSError):
            server = socket.create_connection(self._target)
            self._sockets.add(server)
            threading.Thread(target=self._pump, args=(server, client, "down"), daemon=True).start()
            self._pump(client, server, "up")

    def _pump(self, source: socket.socket, target: socket.socket, way: str) -> None:
        dead = False
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                dead = dead or self._cut in (way, "silent")
                if dead:  # as TCP has it: what was lost does not come later
                    self.lost += 1
                    continue
                target.sendall(data)
            if not dead:
                target.shutdown(socket.SHUT_WR)
