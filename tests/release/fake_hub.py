"""A Hugging Face Hub on the loopback: repositories are made and commits taken, over the real client."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeHub:
    """What the hub was told: `files` of the last commit, its message, the repositories and tokens."""

    url: str = ""
    token: str = "right"
    repositories: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    message: str = ""


@contextmanager
def hub() -> Iterator[FakeHub]:
    """Serve on a free port."""
    state = FakeHub()

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
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


class _Handler(http.server.BaseHTTPRequestHandler):
    state: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(404, {"error": "Repository not found"})

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {self.state.token}":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self.state.repositories.append(json.loads(body))
            self._answer(200, {"url": f"{self.state.url}/me/effdet", "name": "me/effdet", "id": "1"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif "/commit/" in self.path:
            self._take([json.loads(line) for line in body.splitlines()])
            url = f"{self.state.url}/me/effdet/commit/abc"
            self._answer(200, {"success": True, "commitOid": "abc", "commitUrl": url})
        else:
            self._answer(404, {"error": f"no {self.path}"})

    def _take(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["key"] == "header":
                self.state.message = line["value"]["summary"]
            elif line["key"] == "file":
                self.state.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
