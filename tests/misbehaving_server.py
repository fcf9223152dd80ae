"""An HTTP server on the loopback that keeps to the protocol or breaks it in one way, and counts its bytes."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Request:
    """One answered request: the path, the headers asked with, the status and body bytes sent."""

    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0


@dataclass
class Behaviour:
    """What the server does. `cuts`, `stalls` and `statuses` are used up, one per request."""

    files: dict[str, bytes] = field(default_factory=dict)
    etag: str | None = '"v1"'
    last_modified: str | None = None
    ranges: bool = True
    honours_if_range: bool = True
    sends_length: bool = True
    content_type: str = "application/octet-stream"
    extra_headers: dict[str, str] = field(default_factory=dict)
    wrong_range: bool = False
    cuts: list[int | None] = field(default_factory=list)
    stalls: list[bool] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    location: str = ""
    stalled: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    @property
    def sent(self) -> int:
        """Body bytes sent in all requests."""
        return sum(request.sent for request in self.requests)


@contextmanager
def serving(**behaviour: object) -> Iterator[Behaviour]:
    """Serve `files` (path to content) on a free port; the behaviour may be changed while serving."""
    state = Behaviour(**behaviour)  # type: ignore[arg-type]

    class Handler(_Handler):
        pass

    Handler.state = state
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


class _Handler(http.server.BaseHTTPRequestHandler):
    state: Behaviour

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def do_HEAD(self) -> None:
        status = self.state.statuses.pop(0) if self.state.statuses else 200
        self.send_response(status if status != 200 or self.path in self.state.files else 404)
        self.end_headers()

    def do_GET(self) -> None:
        state = self.state
        request = Request(self.path, dict(self.headers))
        state.requests.append(request)
        self.close_connection = True
        status = state.statuses.pop(0) if state.statuses else 200
        body = state.files.get(re.sub(r"^http://[^/]*", "", self.path))
        if status == 200 and body is None:
            status = 404
        if status != 200 or body is None:
            request.status = status
            self.send_response(status)
            self.send_header("Content-Length", "0")
            if status == 302:
                self.send_header("Location", state.location)
            self.end_headers()
            return
        self._send(request, body)

    def _send(self, request: Request, body: bytes) -> None:
        state = self.state
        start = self._range_start()
        if start >= len(body) and start > 0:
            request.status = 416
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        request.status = 206 if start else 200
        self.send_response(request.status)
        if start:
            shown = start + 7 if state.wrong_range else start
            self.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Type", state.content_type)
        if state.etag:
            self.send_header("ETag", state.etag)
        if state.last_modified:
            self.send_header("Last-Modified", state.last_modified)
        for name, value in state.extra_headers.items():
            self.send_header(name, value)
        rest = body[start:]
        if state.sends_length:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        cut = state.cuts.pop(0) if state.cuts else None
        rest = rest if cut is None else rest[:cut]
        request.sent = len(rest)
        self.wfile.write(rest)
        self.wfile.flush()
        if state.stalls and state.stalls.pop(0):
            state.stalled.set()
            state.go_on.wait(timeout=30)

    def _range_start(self) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if match is None or not self.state.ranges:
            return 0
        same = condition in (None, self.state.etag, self.state.last_modified)
        return int(match[1]) if same or not self.state.honours_if_range else 0
