"""HTTP/1.1 on one connection: uvicorn's protocol on llhttp, one request at a time, and strict where llhttp is not.

Nobody holds a connection by silence, nothing grows without end, and what is no HTTP is answered in our shape.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from datetime import timedelta
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.http import MAX_HEADER_BYTES
from gateway.joined_writes import JoinedWrites
from gateway.status import error_body, malformed
from service_kit.ids import new_id

_HEADER_TIMEOUT_S = 30.0
_TARGET = re.compile(rb"[\x21-\x7e]+")
_OPTIONAL_SPACE = b" \t"
_NONE_WAITS: deque[Any] = deque(maxlen=0)


class HttpConnection(HttpToolsProtocol):
    """One connection of a client.

    A request is read when the one before it is answered. What comes sooner is not read: the connection is closed after
    the answer, and a client that sends requests ahead repeats them, as RFC 9112, section 9.3.2, has it.
    """

    # Each watcher is a connection. An object with more than thirty names in its dictionary cannot share their table
    # with others: 1.3 kB.
    __slots__ = ("_header_timer", "_in_head", "_unread_bytes", "_write_timeout_s")

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        write_timeout: timedelta,
    ) -> None:
        """Take a connection over, as uvicorn asks for it. Whoever writes waits `write_timeout` for a slow reader."""
        super().__init__(config, server_state, app_state, _loop)
        # Not uvicorn's, which reads on after a request that said `connection: close`.
        self.parser = httptools.HttpRequestParser(self)
        # One for all: no request waits behind another, and an empty deque takes 760 bytes.
        self.pipeline = _NONE_WAITS
        self._header_timer: asyncio.TimerHandle | None = None
        self._write_timeout_s = write_timeout.total_seconds()
        self._in_head = True
        self._unread_bytes = 0
        """What came and was neither a whole head nor any body: what the parser has to keep."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; the time for the first head runs."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self._write_timeout_s)
        self.transport = cast(asyncio.Transport, JoinedWrites(transport, self.loop, self._write_timeout_s))
        self._watch_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handler that its client is gone."""
        self._unwatch_headers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless a whole request is being answered."""
        if self._is_answering and not self.cycle.more_body:
            self.cycle.keep_alive = False
            return
        self._unset_keepalive_if_required()
        self._unread_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._decline_upgrade(data[stopped.args[0] :])
        except httptools.HttpParserError:
            self._refuse()
        else:
            if self._unread_bytes > MAX_HEADER_BYTES:
                self._refuse()
        self._watch_headers()

    def on_message_begin(self) -> None:
        """Begin with a head. Raises ValueError when the request before is not answered."""
        if self._is_answering:
            raise ValueError("a request ahead of an answer")
        self.url = b""
        self.headers = []
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header. Trailers are not: they would look like headers that nobody has checked."""
        if self._in_head:
            self.headers.append((name.lower(), value.strip(_OPTIONAL_SPACE)))

    def on_headers_complete(self) -> None:
        """Begin to answer. Raises ValueError for a head that is no HTTP/1.1, though llhttp takes it."""
        self._in_head, self._unread_bytes = False, 0
        method, version = self.parser.get_method().decode("ascii"), self.parser.get_http_version()
        _check_head(method, version, self.url, self.headers)
        if self.parser.should_upgrade():
            return
        raw_path, _, query_string = self.url.partition(b"?")
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "method": method,
            "root_path": "",
            "path": unquote(raw_path.decode("ascii")),
            "raw_path": raw_path,
            "query_string": query_string,
            "headers": self.headers,
            "state": {},
        }
        asks_first = version != "1.0" and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self.headers
        )
        kind = _OldCycle if version == "1.0" else _AskedCycle if asks_first else RequestResponseCycle
        self.cycle = kind(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=asks_first,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        task = self.loop.create_task(self.cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        """Hand a piece of the body on; it is dropped when the request is answered already."""
        self._unread_bytes = 0
        if self._is_answering:
            self.cycle.waiting_for_100_continue = False
            self.cycle.body += body
            if len(self.cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        """End the body."""
        self._unread_bytes = 0
        if self.parser.should_upgrade():
            return
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read a head again without its wish for another protocol: llhttp takes all that follows for that protocol's.

        Clients that would rather speak HTTP/2 ask with their first request, whatever its body.
        """
        line = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([line, *kept, b"", rest]))

    @property
    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _watch_headers(self) -> None:
        """Keep a timer while there is no request to answer, so that one byte now and then holds nothing open."""
        if self._is_answering:
            self._unwatch_headers()
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(_HEADER_TIMEOUT_S, self.transport.abort)

    def _unwatch_headers(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _refuse(self) -> None:
        """End a connection on which something else than HTTP came, or too much of it."""
        if self._is_answering:
            if not self.cycle.more_body:
                # The request itself was whole.
                self.cycle.keep_alive = False
                return
            # Its handler reads a body that will not come.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not self._is_answering or not self.cycle.response_started:
            self.transport.write(_refusal())
        self.transport.close()


class _OldCycle(RequestResponseCycle):
    """Answers HTTP/1.0, which knows no chunks: a body whose length is not said ends with the connection."""

    async def send(self, message: ASGISendEvent) -> None:
        """Write a part of the response."""
        if message["type"] == "http.response.start":
            self._is_framed = any(name.lower() == b"content-length" for name, _ in message["headers"])
            self.chunked_encoding = None if self._is_framed else False
        elif message["type"] == "http.response.body" and not self._is_framed:
            self.expected_content_length = len(message["body"])
        await super().send(message)


class _AskedCycle(RequestResponseCycle):
    """Answers who asks whether its body may come: after a refusal nobody knows whether what follows is that body."""

    async def send(self, message: ASGISendEvent) -> None:
        """Write a part of the response."""
        if self.waiting_for_100_continue:
            self.keep_alive = False
        await super().send(message)


class _Flow(FlowControl):
    """Lets who writes wait for a client that reads slowly, for a while."""

    def __init__(self, transport: asyncio.Transport, limit_s: float) -> None:
        super().__init__(transport)
        self._limit_s = limit_s

    async def drain(self) -> None:
        """Wait until something more can be written. Raises TimeoutError when the client does not read."""
        async with asyncio.timeout(self._limit_s):
            await super().drain()


def _check_head(method: str, version: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Refuse what another server before us may read in another way (RFC 9112, sections 3.2, 6.1 and 11.2).

    Raises:
        ValueError: the head is no HTTP/1.1.
    """
    hosts = sum(name == b"host" for name, _ in headers)
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if version not in ("1.0", "1.1") or hosts > 1 or (version == "1.1" and not hosts):
        raise ValueError("a version, or hosts, that HTTP/1.1 has not")
    if method == "CONNECT":
        raise ValueError("a request to a proxy")
    if codings and (version == "1.0" or codings != [b"chunked"]):
        raise ValueError("a transfer coding that is not taken")
    if not _TARGET.fullmatch(target):
        raise ValueError("a target that is no visible ASCII")


def _refusal() -> bytes:
    """Return the whole answer to what is no HTTP."""
    request_id = new_id()
    limit = f"or its headers are longer than {MAX_HEADER_BYTES} bytes"
    body = json.dumps(error_body(malformed(f"The request is not valid HTTP/1.1, {limit}."), request_id))
    head = (
        f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"x-request-id: {request_id}\r\nconnection: close\r\n\r\n"
    )
    return (head + body).encode()
