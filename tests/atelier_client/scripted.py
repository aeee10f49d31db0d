"""An HTTP server that answers as a test says, also in ways in which a gateway answers only when something breaks."""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Seen:
    """One request as it came; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """One answer.

    `ending` is `whole`, `broken` (cut off after the body), `silent` (open, without another byte) or `pings` (open, with
    nothing but comments of a stream).
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    ending: str = "whole"


DROP = Reply(status=0)
"""The connection is closed without an answer, after the request was read."""


def reply_json(value: Any, status: int = 200, **headers: str) -> Reply:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Reply(status, json.dumps(value).encode(), {"content-type": "application/json", **named})


def refusal(http_status: int, status: str, reason: str = "", retry_after: float | None = None, **more: Any) -> Reply:
    error = {"status": status, "reason": reason, "message": f"{reason} was said", "request_id": "r-1", **more}
    headers = {} if retry_after is None else {"Retry_After": str(retry_after)}
    return reply_json({"error": error}, http_status, **headers)


def event(kind: str, body: Any, cursor: str = "") -> bytes:
    """One server-sent event in the gateway's shape."""
    id_line = f"id: {cursor}\n" if cursor else ""
    return f"event: {kind}\n{id_line}data: {json.dumps({'cursor': cursor, kind: body})}\n\n".encode()


def stream(*events: bytes, ending: str = "whole") -> Reply:
    return Reply(200, b": open\nretry: 1000\n\n" + b"".join(events), {"content-type": "text/event-stream"}, ending)


class ScriptedApi:
    """Answers requests in the order of the script and keeps what came. A request beyond the script gets 418."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: list[Seen] = []
        self.connections: set[object] = set()
        self._script: deque[Reply] = deque()
        self.closing = threading.Event()

    def script(self, *replies: Reply) -> None:
        self._script.extend(replies)

    def next(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        return self._script.popleft() if self._script else Reply(418, b"beyond the script")

    def paths(self) -> Sequence[str]:
        return [seen.path for seen in self.seen]


@contextmanager
def scripted_api() -> Iterator[ScriptedApi]:
    api: ScriptedApi

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            api.connections.add(self.client_address)
            reply = api.next(Seen(self.command, self.path, headers, body))
            self.close_connection = reply.ending != "whole" or reply.status == 0
            if reply.status:
                self._send(reply)
            if self.close_connection:
                if reply.ending == "silent":
                    api.closing.wait(30)
                while reply.ending == "pings" and not api.closing.wait(0.02) and self._ping():
                    pass
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

        def _ping(self) -> bool:
            """Send a comment; returns whether somebody still reads."""
            try:
                self.wfile.write(b": ping\n\n")
            except OSError:
                return False
            return True

        def _send(self, reply: Reply) -> None:
            self.send_response_only(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            more = 0 if reply.ending == "whole" else 1 << 20  # Bytes that never come.
            if reply.status != 204:
                self.send_header("content-length", str(len(reply.body) + more))
            self.end_headers()
            self.wfile.write(reply.body)
            self.wfile.flush()

        do_GET = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    api = ScriptedApi(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield api
    finally:
        api.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
