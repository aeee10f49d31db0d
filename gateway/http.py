"""One HTTP exchange as the handlers see it: what was asked, how the body is read, how an answer is written.

Every wait has a limit: a client that sends nothing, or reads nothing, is let go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from service_kit.errors import DeadlineExceeded, ResourceExhausted

MAX_HEADER_BYTES = 32 << 10
# A body that comes, or is read, more slowly, after the time that any body may take, only holds a connection.
SLOWEST_BYTES_PER_S = 4096

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGone(Exception):
    """The client has closed the connection, or does not read: there is nobody to answer."""


@dataclass(slots=True)
class Reply:
    """A whole response."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: Callable[[], Awaitable[None]] | None = None
    """Writes the response in place of the other values, which then say nothing. It may take for ever, so it is
    called when everything that was needed to answer has been let go."""


class Handler(Protocol):
    """What serves a route: returns the reply, or None when it has written the response itself."""

    async def __call__(self, exchange: Exchange) -> Reply | None: ...


@dataclass(slots=True)
class Limits:
    """How long a client may take to send, and how the connection of one that does not read is ended."""

    read_timeout: timedelta = timedelta(seconds=30)
    abort: Callable[[Mapping[str, Any]], None] = lambda scope: None


class Exchange:
    """One request and its response."""

    __slots__ = (
        "_body_ended",
        "_headers",
        "_limits",
        "_receive",
        "_send",
        "common_headers",
        "counted",
        "method",
        "path_values",
        "query_string",
        "request_id",
        "schemes",
        "scope",
        "started",
    )

    def __init__(
        self, scope: Mapping[str, Any], receive: Receive, send: Send, *, request_id: str, limits: Limits
    ) -> None:
        """Wrap an ASGI call; `request_id` names it in answers and logs."""
        self.scope = scope
        self.method: str = scope["method"]
        self.request_id = request_id
        self.query_string: bytes = scope["query_string"]
        """What follows the question mark, undecoded."""
        self.path_values: dict[str, str] = {}
        self.common_headers: dict[str, str] = {}
        self.schemes: frozenset[str] = frozenset({"bearer"})
        """The schemes of `Authorization` that are read here."""
        self.started = False
        self.counted = False
        """Whether the request stands among those of its key and owner."""
        self._receive = receive
        self._send = send
        self._limits = limits
        self._headers: dict[str, str] | None = None
        self._body_ended = False

    @property
    def headers(self) -> dict[str, str]:
        """The request's headers in lower case; repeated ones joined by a comma."""
        if self._headers is None:
            found: dict[str, str] = {}
            for name, value in self.scope["headers"]:
                key, text = name.decode("latin-1").lower(), value.decode("latin-1")
                found[key] = f"{found[key]}, {text}" if key in found else text
            self._headers = found
        return self._headers

    @property
    def segments(self) -> list[str] | None:
        """The path's segments, percent-decoded one by one, so that `%2F` is no separator. None when it is not UTF-8."""
        raw: bytes = self.scope.get("raw_path") or self.scope["path"].encode()
        try:
            return [unquote_to_bytes(part).decode() for part in raw.split(b"?")[0].split(b"/")[1:]]
        except UnicodeDecodeError:
            return None

    def forget_request(self) -> None:
        """Keep nothing that only the beginning of a response needs."""
        self._headers = None
        self.common_headers = self.path_values = {}

    async def body_chunks(self) -> AsyncIterator[bytes]:
        """Give the body piece by piece.

        Raises:
            ClientGone: the connection broke before the body was whole.
            DeadlineExceeded: the client sent nothing for too long, or drop by drop.
        """
        clock, most_s = asyncio.get_running_loop().time, self._limits.read_timeout.total_seconds()
        waited_s, received = 0.0, 0
        while not self._body_ended:
            # Only what the client lets us wait counts: a service may take what it gets as slowly as it likes.
            left_s = most_s + received / SLOWEST_BYTES_PER_S - waited_s
            began = clock()
            try:
                async with asyncio.timeout(min(most_s, left_s)):
                    message = await self._receive()
            except TimeoutError:
                raise DeadlineExceeded("The body of the request did not arrive in time.") from None
            waited_s += clock() - began
            if message["type"] == "http.disconnect":
                raise ClientGone
            self._body_ended = not message.get("more_body", False)
            content = message.get("body")
            if content:
                received += len(content)
                yield content

    async def body(self, limit_bytes: int, too_large: Callable[[int], ResourceExhausted]) -> bytes:
        """Return the whole body. Raises what `too_large` makes as soon as it is known to be over the limit."""
        announced = self.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > limit_bytes:
            raise too_large(limit_bytes)
        content = bytearray()
        async for chunk in self.body_chunks():
            content += chunk
            if len(content) > limit_bytes:
                raise too_large(limit_bytes)
        return bytes(content)

    async def drain(self, limit_bytes: int = 8 << 20, seconds: float = 2.0) -> None:
        """Read what the client still sends, within limits: a connection closed too early loses the answer."""
        left = limit_bytes
        try:
            async with asyncio.timeout(seconds):
                async for chunk in self.body_chunks():
                    left -= len(chunk)
                    if left < 0:
                        return
        except (TimeoutError, DeadlineExceeded, ClientGone):
            return

    @property
    def body_pending(self) -> bool:
        """Whether the request has a body that was not read to its end."""
        has_body = "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"
        waits_for_leave = "expect" in self.headers
        return has_body and not self._body_ended and not waits_for_leave

    async def disconnected(self) -> None:
        """Return when the client has gone. Only for requests whose body has been read."""
        while (await self._receive())["type"] != "http.disconnect":
            self._body_ended = True

    async def wait_gone(self, seconds: float = 1.0) -> None:
        """Wait a moment for the end of a connection that was cut: only then may the server forget the request."""
        try:
            async with asyncio.timeout(seconds):
                await self.disconnected()
        except TimeoutError:
            return

    def has_gone(self) -> bool:
        """Tell whether the server knows that the client has gone. Only for requests whose body has been read."""
        # One step of it: a task that is begun, waited for and ended costs ten times as much.
        looking = self.disconnected()
        try:
            looking.send(None)
        except StopIteration:
            return True
        looking.close()
        return False

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send status and headers, the common ones too."""
        self.started = True
        merged = {**self.common_headers, **headers}
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in merged.items()]
        await self._write({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Send a piece of the body.

        Raises:
            ClientGone: the client has not read for too long; its connection is cut.
        """
        await self._write({"type": "http.response.body", "body": body, "more_body": more})

    async def reply(self, reply: Reply) -> None:
        """Send a whole response."""
        headers = dict(reply.headers)
        if reply.status not in (204, 304):
            headers.setdefault("content-length", str(len(reply.body)))
        await self.start(reply.status, headers)
        await self.write(reply.body, more=False)

    async def _write(self, message: Message) -> None:
        try:
            # The server limits the wait for a client that does not read, where there is one: most writes need no timer.
            await self._send(message)
        except TimeoutError:
            self._limits.abort(self.scope)
            raise ClientGone from None
